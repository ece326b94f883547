"""A slice that was cut in the middle of a batch ends before it where its reader pays for every byte."""

from types import SimpleNamespace
from typing import Any, cast

import pytest
from tests.support.batches import encode_batch
from tests.support.memory_files import MemoryFiles

from penstock.storage.log_slice import WALKED_MAX, LogSlice, empty_slice


def slice_of(data: bytes, position: int, count: int) -> LogSlice:
    files = MemoryFiles()
    files.make_directories("/d")
    file = files.open("/d/f", write=True, create=True)
    file.pwrite(data, 0)
    shared: Any = SimpleNamespace(file=file)
    return LogSlice(cast(Any, SimpleNamespace()), shared, position, count)


SIZES = (100, 2000, 1, 500)
BATCHES = [encode_batch([bytes(size)], timestamps_ms=[0]) for size in SIZES]
ENDS = [sum(map(len, BATCHES[: n + 1])) for n in range(len(BATCHES))]


@pytest.mark.parametrize(
    "count", [ENDS[0], ENDS[0] + 1, ENDS[0] + 11, ENDS[1] - 1, ENDS[1], ENDS[3] - 1, ENDS[3]]
)
def test_part_of_a_batch_is_kept_or_a_whole_one_goes(count: int) -> None:
    part = slice_of(b"xyz" + b"".join(BATCHES), 3, count)
    assert part.end_at_batch() == (count not in ENDS)
    assert part.count == max(end for end in ENDS if end <= count)


def test_first_batch_goes() -> None:
    part = slice_of(BATCHES[1], 0, len(BATCHES[1]))
    part.end_at_batch()
    assert part.count == len(BATCHES[1])
    nothing = empty_slice()
    nothing.end_at_batch()
    assert nothing.count == 0


def test_many_small_batches_are_walked_for_ever() -> None:
    data = BATCHES[2] * (2 * WALKED_MAX)
    part = slice_of(data, 0, len(data) - 1)
    part.end_at_batch()
    assert part.count == len(data) - 1
