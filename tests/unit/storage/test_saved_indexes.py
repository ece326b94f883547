"""Indexes and a producer snapshot are written while a segment is active, so that an unclean open need not walk it from its start."""

from collections.abc import Callable

import pytest
from tests.support.logs import DIRECTORY, append, batch, fill, new_log, read_values, reopen
from tests.support.memory_files import MemoryFiles

from penstock.runtime.files import DiskError
from penstock.storage.log import Log
from penstock.storage.log_config import LogConfig

VALUE = b"v" * 5000
"""One batch is longer than what a walk along headers reads at a time, so each header is a read of its own."""
COUNT = 200
SAVED = 150


def grow(log: Log, count: int, *, producer_id: int = 7) -> None:
    for _ in range(count):
        number = log.log_end_offset
        append(log, batch([VALUE], timestamps_ms=1000 + number, producer_id=producer_id, sequence=number))


def save(log: Log) -> None:
    log.save_indexes(*log.encode_producers())


def reads_of_reopening(files: MemoryFiles, recovery_point: int) -> tuple[int, Log]:
    before = files.calls["pread"] + files.calls["pread_into"]
    log = reopen(files, recovery_point=recovery_point)
    return files.calls["pread"] + files.calls["pread_into"] - before, log


def test_an_unclean_open_reads_from_the_last_save_on_and_not_from_the_segments_start() -> None:
    files = MemoryFiles()
    log = new_log(files)
    grow(log, SAVED)
    save(log)
    assert log.unsaved_bytes == 0
    grow(log, COUNT - SAVED)
    assert log.unsaved_bytes > (COUNT - SAVED) * len(VALUE)
    log.sync()
    files.kill()
    count, again = reads_of_reopening(files, recovery_point=COUNT - 10)
    assert count < 2 * (COUNT - SAVED) + 40
    assert [offset for offset, _ in read_values(again)] == list(range(COUNT))
    found = again.find_by_timestamp(1000 + 42, COUNT)
    assert found is not None
    assert found.offset == 42
    largest = again.max_timestamp(COUNT)
    assert largest is not None
    assert largest.offset == COUNT - 1
    again_sent = batch([VALUE], timestamps_ms=1000, producer_id=7, sequence=COUNT - 1)
    assert append(again, again_sent).is_duplicate, (
        "the producer is known from the snapshot and what came after it"
    )
    grow(again, 1)


def test_saving_again_replaces_the_snapshot_before() -> None:
    files = MemoryFiles()
    log = new_log(files)
    for _ in range(3):
        grow(log, 10)
        save(log)
    assert [name for name in files.list_directory(DIRECTORY) if name.endswith(".snapshot")] == [
        f"{30:020}.snapshot"
    ]
    assert not [name for name in files.list_directory(DIRECTORY) if name.endswith(".tmp")]


def test_what_was_saved_is_never_trusted_over_the_log() -> None:
    """The power cut takes batches that the saved indexes name."""
    files = MemoryFiles()
    log = new_log(files)
    grow(log, 20)
    log.sync()
    grow(log, 20)
    save(log)
    files.sync_directory(DIRECTORY)
    files.power_cut()
    again = reopen(files, recovery_point=20)
    assert [offset for offset, _ in read_values(again)] == list(range(20))
    assert not append(again, batch([b"x"], producer_id=7, sequence=20)).is_duplicate
    assert again.find_by_timestamp(1000 + 30, 21) is None


@pytest.mark.parametrize("cut", [MemoryFiles.kill, MemoryFiles.power_cut], ids=["kill", "power cut"])
def test_a_save_that_ends_anywhere_harms_nothing(cut: Callable[[MemoryFiles], None]) -> None:
    for call in range(1, 30):
        files = MemoryFiles()
        log = new_log(files)
        grow(log, 20)
        save(log)
        log.sync()
        grow(log, 10)
        log.sync()
        before = files.calls["any"]
        files.fail("any", DiskError, call=call)
        try:
            save(log)
        except DiskError:
            grow(log, 1)
            log.sync()
        ended = files.calls["any"] - before < call
        end_offset = log.log_end_offset
        cut(files)
        again = reopen(files, recovery_point=25)
        assert [offset for offset, _ in read_values(again)] == list(range(end_offset))
        grow(again, 1)
        again.close()
        assert not [name for name in files.list_directory(DIRECTORY) if name.endswith(".tmp")]
        if ended:
            return
    pytest.fail("the save never came through")


class Interrupting(MemoryFiles):
    """Does something in the middle of a save."""

    def __init__(self) -> None:
        super().__init__()
        self.interruption: Callable[[], None] | None = None

    def note(self, operation: str, path: str, *, changes: bool = False) -> int:
        if operation == "datasync" and path.endswith(".snapshot.saved.tmp") and self.interruption is not None:
            interruption, self.interruption = self.interruption, None
            interruption()
        return super().note(operation, path, changes=changes)


@pytest.mark.parametrize("what", ["roll", "truncate", "close"])
def test_a_segment_that_is_closed_or_cut_during_a_save_keeps_its_own_indexes(what: str) -> None:
    files = Interrupting()
    log = new_log(files, LogConfig(index_interval_bytes=0))
    fill(log, 20)

    def interrupt() -> None:
        fill(log, 5)
        if what == "roll":
            log.roll()
        elif what == "truncate":
            log.truncate_to(12)
        else:
            log.close()

    files.interruption = interrupt
    save(log)
    end_offset = log.log_end_offset
    name = f"{DIRECTORY}/{0:020}.index"
    assert len(files.content(name)) == 8 * (end_offset - 1)
    assert not [name for name in files.list_directory(DIRECTORY) if name.endswith(".tmp")]
    if what != "close":
        log.close()
    again = reopen(files, LogConfig(index_interval_bytes=0), clean=True)
    assert [offset for offset, _ in read_values(again)] == list(range(end_offset))
    found = again.max_timestamp(end_offset)
    assert found is not None
    assert found.offset == end_offset - 1


def test_nothing_is_saved_of_a_log_that_nobody_wrote_to() -> None:
    files = MemoryFiles()
    log = new_log(files)
    grow(log, 20)
    log.close()
    again = reopen(files, clean=True)
    assert again.unsaved_bytes == 0
    grow(again, 1)
    assert 0 < again.unsaved_bytes < 5 * len(VALUE)
