"""Whatever is done to the files of a log, a repair keeps every batch that nobody touched, and the log that it leaves is whole."""

import os

import hypothesis.strategies as st
from hypothesis import assume, given, settings
from tests.support.logs import NOW_MS, PARENT, TOPIC_ID, append, batch, read_values
from tests.support.memory_files import MemoryFiles

from penstock.storage.data_directory import DataDirectory
from penstock.storage.log_config import LogConfig
from penstock.storage.repair import Repair
from penstock.storage.repair_plan import Way, plan_repair
from penstock.storage.verify_folder import look_into, verify_in_folder

KEY = ("orders", 0)
EXAMPLES = int(os.environ.get("REPAIR_EXAMPLES", "40"))
SMALL = LogConfig(segment_bytes=600, index_interval_bytes=150)
Batches = dict[int, tuple[str, int, int, list[tuple[int, bytes | None]]]]
"""By base offset: file, position, end position, records."""


def made(sizes: list[int]) -> tuple[MemoryFiles, Batches, int]:
    """A cleanly closed log of batches with so many records."""
    files = MemoryFiles()
    directory = DataDirectory.open(files, PARENT, 1)
    log = directory.open_log(*KEY, TOPIC_ID, SMALL, NOW_MS)
    found: Batches = {}
    for number, size in enumerate(sizes):
        values = [b"%d-%d" % (number, each) for each in range(size)]
        info = append(log, batch(values, timestamps_ms=1000 + number), epoch=number // 4)
        active = log.segments[-1]
        records: list[tuple[int, bytes | None]] = [(info.base_offset + i, v) for i, v in enumerate(values)]
        begin = max((end for path, _, end, _ in found.values() if path == active.path), default=0)
        found[info.base_offset] = (active.path, begin, active.size_bytes, records)
    end_offset = log.log_end_offset
    log.close()
    directory.write_recovery_points({KEY: end_offset})
    directory.write_log_starts({KEY: 0})
    directory.close()
    return files, found, end_offset


@st.composite
def damages(draw: st.DrawFn) -> tuple[list[int], list[tuple[int, int, bytes]]]:
    """Sizes of batches, and what is written where: file number, position, bytes."""
    sizes = draw(st.lists(st.integers(1, 6), min_size=2, max_size=16))
    writes = st.tuples(
        st.integers(0, 20), st.integers(0, 700), st.binary(min_size=1, max_size=90) | st.just(bytes(120))
    )
    return sizes, draw(st.lists(writes, min_size=1, max_size=2))


@given(damages(), st.sampled_from([Way.SKIP, Way.CUT]))
@settings(max_examples=EXAMPLES, deadline=None)
def test_an_untouched_batch_is_lost_or_the_log_is_not_whole(
    case: tuple[list[int], list[tuple[int, int, bytes]]], way: Way
) -> None:
    sizes, writes = case
    files, batches, end_offset = made(sizes)
    paths = sorted({path for path, *_ in batches.values()})
    before = {path: files.content(path) for path in paths}
    for number, position, data in writes:
        path = paths[number % len(paths)]
        at = position % len(before[path])
        files.change(path, at, data[: len(before[path]) - at])
    # Of the last batch's offset nobody else knows; with all else of it whole, any likely one is believed.
    path, begin, end, _ = batches[max(batches)]
    assume(
        files.content(path)[begin + 8 : end] != before[path][begin + 8 : end]
        or files.content(path)[begin:end] == before[path][begin:end]
    )
    plan = plan_repair(files, look_into(files, PARENT), KEY)
    if plan.is_needed:
        Repair(files, plan, way, now_ms=NOW_MS, time_name="then").carry_out(version="test")
    else:
        assert all(files.content(path) == content for path, content in before.items())
    assert verify_in_folder(files, look_into(files, PARENT), KEY).is_good
    log = DataDirectory.open(files, PARENT, 1).open_log(*KEY, TOPIC_ID, SMALL, NOW_MS)
    found = read_values(log)
    wanted = [record for *_, records in batches.values() for record in records]
    assert [record for record in found if record not in wanted] == [], "nothing is made up"
    touched_from = end_offset
    for base_offset, (path, begin, end, records) in batches.items():
        was_spared = is_untouched(before, path, begin, end, writes, paths)
        if not was_spared:
            touched_from = min(touched_from, base_offset)
        elif way is Way.SKIP or touched_from == end_offset:
            assert [record for record in records if record not in found] == []
    assert log.log_end_offset == (
        end_offset if way is Way.SKIP or not plan.damages else plan.damages[0].offset
    )


def is_untouched(
    before: dict[str, bytes],
    path: str,
    begin: int,
    end: int,
    writes: list[tuple[int, int, bytes]],
    paths: list[str],
) -> bool:
    """Whether no write reached into a batch, changing anything."""
    content = bytearray(before[path])
    for number, position, data in writes:
        if paths[number % len(paths)] == path:
            at = position % len(content)
            piece = data[: len(content) - at]
            content[at : at + len(piece)] = piece
    return bytes(content[begin:end]) == before[path][begin:end]
