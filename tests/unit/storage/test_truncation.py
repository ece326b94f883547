"""Cutting a log at either end: crash-safe, and never under a slice that is on its way."""

import pytest
from tests.support.logs import (
    DIRECTORY,
    append,
    batch,
    fill,
    new_log,
    read_batches,
    read_values,
    reopen,
)
from tests.support.memory_files import MemoryFiles

from penstock.runtime.files import DiskError, DiskFull, StorageError, TooManyOpenFiles
from penstock.storage.errors import LogFailed, OffsetOutOfRange
from penstock.storage.log import Log
from penstock.storage.log_config import LogConfig

SMALL = LogConfig(segment_bytes=300, index_interval_bytes=70)


@pytest.fixture
def files() -> MemoryFiles:
    return MemoryFiles()


def expected(count: int, *, start: int = 0) -> list[tuple[int, bytes | None]]:
    return [(offset, b"v%d" % offset) for offset in range(start, count)]


def check_after_cut(files: MemoryFiles, log: Log, end: int) -> None:
    """The log ends at `end`, now and after a power cut, and goes on from there."""
    assert (log.log_end_offset, log.durable_end_offset) == (end, end)
    assert read_values(log) == expected(end)
    copy = files.copy()
    files.power_cut()
    assert read_values(reopen(files, SMALL, recovery_point=end)) == expected(end)
    log = reopen(copy, SMALL, recovery_point=end)
    fill(log, 3)
    log.close()
    assert read_values(reopen(copy, SMALL, clean=True)) == expected(end + 3)


@pytest.mark.parametrize("offset", range(14))
@pytest.mark.parametrize("synced", [True, False])
def test_a_log_can_be_cut_at_every_offset(files: MemoryFiles, offset: int, synced: bool) -> None:
    log = new_log(files, SMALL)
    fill(log, 13)
    if synced:
        log.sync()
    log.truncate_to(offset)
    if offset < 13:
        check_after_cut(files, log, offset)


def test_a_batch_that_contains_the_offset_goes_as_a_whole(files: MemoryFiles) -> None:
    log = new_log(files)
    append(log, batch(5))
    append(log, batch(5))
    log.truncate_to(7)
    assert log.log_end_offset == 5
    assert log.size_bytes == len(batch(5))


def test_at_or_above_the_end_nothing_is_cut(files: MemoryFiles) -> None:
    log = new_log(files)
    fill(log, 2)
    before = files.calls["any"]
    log.truncate_to(2)
    log.truncate_to(5)
    assert files.calls["any"] == before
    assert log.log_end_offset == 2


def test_below_the_log_start_nothing_can_be_cut(files: MemoryFiles) -> None:
    log = new_log(files)
    fill(log, 5)
    log.advance_log_start_offset(3)
    with pytest.raises(OffsetOutOfRange):
        log.truncate_to(2)
    log.truncate_to(3)
    assert (log.log_start_offset, log.log_end_offset) == (3, 3)


def test_epochs_and_producers_go_back_with_the_log(files: MemoryFiles) -> None:
    log = new_log(files, SMALL)
    for number in range(8):
        append(log, batch(producer_id=5, sequence=number), epoch=number // 3)
    log.truncate_to(4)
    assert list(log.epoch_entries) == [(0, 0), (1, 3)]
    assert append(log, batch(producer_id=5, sequence=3), epoch=1).is_duplicate
    assert append(log, batch(producer_id=5, sequence=4), epoch=5).base_offset == 4
    log.truncate_to(3)
    assert list(log.epoch_entries) == [(0, 0)]
    fill(log, 1, epoch=1)
    assert list(log.epoch_entries) == [(0, 0), (1, 3)]


def test_a_producer_snapshot_that_went_with_a_cut_does_not_come_back_with_a_power_cut() -> None:
    """It would be taken for the state of the log that has grown past it: who sends what is in no log would be told that it is there."""
    config = LogConfig(segment_bytes=800)
    for call in range(1, 60):
        files = MemoryFiles()
        log = new_log(files, config)
        for sequence in range(3):
            append(log, batch(producer_id=7, sequence=sequence))
        for sequence in range(10):
            append(log, batch([b"x" * 100], producer_id=8, sequence=sequence), epoch=1)
        log.sync()
        assert len(log.segments) > 2
        files.fail("any", DiskError, call=call)
        done = True
        try:
            log.truncate_to(3)
        except LogFailed:
            done = False
            files.kill()
            log = reopen(files, config, recovery_point=3)
            log.truncate_to(3)
        files.heal()
        for sequence in range(3, 8):
            append(log, batch(producer_id=7, sequence=sequence))  # a new epoch would sync the directory
        log.sync()
        files.power_cut()
        log = reopen(files, config, recovery_point=3)
        assert log.log_end_offset == 8
        again = append(log, batch(producer_id=7, sequence=3))
        assert (again.is_duplicate, again.base_offset) == (True, 3)
        assert not append(log, batch([b"x" * 100], producer_id=8, sequence=2)).is_duplicate
        if done:
            assert call > 15
            return
    raise AssertionError("truncation never came to its end")


@pytest.mark.parametrize("cut_at", [0, 2, 5])
def test_a_slice_on_its_way_keeps_its_bytes_through_a_truncation(files: MemoryFiles, cut_at: int) -> None:
    log = new_log(files, SMALL)
    fill(log, 9)
    parts = [log.read(offset, 1 << 20, 9, resident_only=True) for offset in range(9)]
    contents = [part.read() for part in parts]
    log.truncate_to(cut_at)
    fill(log, 9, prefix=b"other")
    assert [part.read() for part in parts] == contents
    for part in parts:
        part.release()
    log.close()
    assert files.open_count == 0
    assert [value for _, value in read_values(reopen(files, SMALL))][cut_at] == b"other%d" % cut_at


@pytest.mark.parametrize("held", [False, True])
@pytest.mark.parametrize("ending", ["kill", "power cut"])
def test_a_truncation_that_is_stopped_anywhere_leaves_a_log_to_truncate_again(
    held: bool, ending: str
) -> None:
    for call in range(1, 60):
        files = MemoryFiles()
        log = new_log(files, SMALL)
        fill(log, 10)
        log.sync()
        part = log.read(2, 1 << 20, 10, resident_only=True) if held else None
        files.fail("any", DiskError, call=call)
        done = True
        try:
            log.truncate_to(1)
        except LogFailed:
            done = False
        assert part is None or part.count == len(part.read())
        if ending == "kill":
            files.kill()
        else:
            files.power_cut()
        log = reopen(files, SMALL, recovery_point=1)
        values = read_values(log)
        assert values == expected(len(values))
        assert len(values) >= 1
        log.truncate_to(1)
        check_after_cut(files, log, 1)
        if done:
            assert call > 5
            return
    raise AssertionError("truncation never came to its end")


def test_starting_over_drops_everything(files: MemoryFiles) -> None:
    log = new_log(files, SMALL)
    fill(log, 10, epoch=3)
    part = log.read(0, 1 << 20, 10, resident_only=True)
    content = part.read()
    log.truncate_fully_and_start_at(100)
    assert (log.log_start_offset, log.log_end_offset, log.durable_end_offset) == (100, 100, 100)
    assert log.epoch_entries == ()
    assert log.size_bytes == 0
    assert part.read() == content
    part.release()
    fill(log, 2, epoch=5)
    log.sync()
    files.power_cut()
    log = reopen(files, SMALL, recovery_point=102, log_start_offset=100)
    assert [offset for offset, _ in read_values(log)] == [100, 101]
    assert [n for n in files.list_directory(DIRECTORY) if n.endswith(".log")] == ["00000000000000000100.log"]


def test_starting_over_at_the_base_of_a_segment_leaves_nothing_of_it(files: MemoryFiles) -> None:
    log = new_log(files, SMALL)
    fill(log, 10)
    log.truncate_fully_and_start_at(0)
    fill(log, 1, prefix=b"new")
    log.close()
    assert read_values(reopen(files, SMALL)) == [(0, b"new0")]


# The old end


def segment_files(files: MemoryFiles) -> list[int]:
    return [int(n[:20]) for n in files.list_directory(DIRECTORY) if n.endswith(".log")]


def test_only_segments_wholly_below_the_log_start_go_and_never_the_active_one(files: MemoryFiles) -> None:
    log = new_log(files, SMALL)
    fill(log, 12)
    bases = [segment.base_offset for segment in log.segments]
    log.advance_log_start_offset(bases[2] - 1)
    assert log.delete_old_segments() == 1
    assert segment_files(files) == bases[1:]
    log.advance_log_start_offset(bases[2])
    assert log.delete_old_segments() == 1
    log.advance_log_start_offset(12)
    assert log.delete_old_segments() == len(bases) - 3
    assert segment_files(files) == bases[-1:]
    assert log.delete_old_segments() == 0
    fill(log, 2)
    assert read_values(log) == expected(14, start=12)


def test_everything_that_belongs_to_a_segment_goes_with_it(files: MemoryFiles) -> None:
    log = new_log(files, SMALL)
    fill(log, 12)
    last = log.segments[-1].base_offset
    log.advance_log_start_offset(last)
    log.delete_old_segments()
    log.close()
    numbered = [int(name[:20]) for name in files.list_directory(DIRECTORY) if name[0] == "0"]
    assert min(numbered) == last


def test_the_log_start_never_falls(files: MemoryFiles) -> None:
    log = new_log(files)
    fill(log, 5)
    log.advance_log_start_offset(3)
    log.advance_log_start_offset(1)
    assert log.log_start_offset == 3
    with pytest.raises(OffsetOutOfRange):
        log.advance_log_start_offset(6)


def test_a_slice_on_its_way_keeps_its_bytes_when_its_segment_is_deleted(files: MemoryFiles) -> None:
    log = new_log(files, SMALL)
    fill(log, 12)
    with log.read(0, 1 << 20, 12, resident_only=False) as part:
        content = part.read()
        open_before = files.open_count
        log.advance_log_start_offset(12)
        log.delete_old_segments()
        assert part.read() == content
        assert files.open_count < open_before
        held = files.open_count
    assert files.open_count == held - 1


def test_epochs_of_deleted_segments_are_forgotten(files: MemoryFiles) -> None:
    log = new_log(files, SMALL)
    for epoch in range(4):
        fill(log, 3, epoch=epoch)
    log.sync()
    log.advance_log_start_offset(10)
    log.delete_old_segments()
    assert log.epoch_entries == ((2, 8), (3, 9))
    files.power_cut()
    log = reopen(files, SMALL, recovery_point=9, log_start_offset=10)
    assert log.epoch_entries == ((2, 8), (3, 9))


def test_a_deletion_that_is_stopped_anywhere_leaves_no_hole() -> None:
    for call in range(1, 60):
        files = MemoryFiles()
        log = new_log(files, SMALL)
        fill(log, 12)
        log.sync()
        log.advance_log_start_offset(10)
        files.fail("any", DiskError, call=call)
        try:
            log.delete_old_segments()
            done = True
        except StorageError:
            done = False
        copy = files.copy()
        files.power_cut()
        for disk in (copy, files):
            log = reopen(disk, SMALL, recovery_point=12, log_start_offset=10)
            assert read_values(log) == expected(12, start=10)
            bases = [segment.base_offset for segment in log.segments]
            assert bases == sorted(bases)
            assert len(read_batches(log)) == 2
            log.delete_old_segments()
            assert read_values(log) == expected(12, start=10)
        if done:
            assert call > 5
            return
    raise AssertionError("deletion never came to its end")


def test_a_reader_that_was_overtaken_by_a_deletion_is_out_of_range(files: MemoryFiles) -> None:
    log = new_log(files, SMALL)
    fill(log, 12)
    log.advance_log_start_offset(10)
    log.delete_old_segments()
    with pytest.raises(OffsetOutOfRange):
        log.read(3, 100, 12, resident_only=False)
    assert log.find_by_timestamp(0, 12) is not None
    log.roll()
    assert read_values(log) == expected(12, start=10)


@pytest.mark.parametrize("start_over", [True, False])
def test_the_file_that_a_failed_roll_has_left_lies_behind_a_gap_after_a_cut(start_over: bool) -> None:
    files = MemoryFiles()
    log = new_log(files)
    fill(log, 3)
    log.sync()
    files.fail("open", TooManyOpenFiles, call=5)
    with pytest.raises(TooManyOpenFiles):
        log.roll()
    files.heal()
    assert files.exists(f"{DIRECTORY}/{3:020d}.log")
    if start_over:
        log.truncate_fully_and_start_at(7)
    else:
        log.truncate_to(2)
    files.power_cut()
    log = reopen(files)
    assert (log.log_start_offset, log.log_end_offset) == ((7, 7) if start_over else (0, 2))
    fill(log, 1)
    log.close()
    assert len(read_values(reopen(files, clean=True))) == (1 if start_over else 3)


@pytest.mark.parametrize("start_over", [True, False])
def test_a_segment_that_could_not_be_deleted_lies_before_a_gap_when_those_behind_it_are(
    start_over: bool,
) -> None:
    failed_count = 0
    for call in range(1, 8):
        files = MemoryFiles()
        log = new_log(files, SMALL)
        fill(log, 4)
        fill(log, 16, epoch=1)
        log.sync()
        log.advance_log_start_offset(log.segments[1].base_offset)
        files.fail("any", DiskFull, call=call)
        try:
            log.delete_old_segments()
        except DiskFull:
            failed_count += 1
        files.heal()
        if start_over:
            log.truncate_fully_and_start_at(50)
        else:
            log.advance_log_start_offset(log.segments[-1].base_offset)
            log.delete_old_segments()
        files.power_cut()
        log = reopen(files, SMALL, log_start_offset=log.log_start_offset)
        assert len(log.segments) == 1
        assert read_values(log) == ([] if start_over else expected(20, start=log.log_start_offset))
    assert failed_count > 2
