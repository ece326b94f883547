"""When a segment is full, and what a roll leaves on disk."""

import contextlib

import pytest
from tests.support.disk_state import Survival, Write
from tests.support.logs import DIRECTORY, NOW_MS, TOPIC_ID, append, batch, fill, new_log, read_values, reopen
from tests.support.memory_files import MemoryFiles
from tests.support.simulated_disk import UNBOUNDED_BYTES

from penstock.runtime.files import DiskError, DiskFull, StorageError, TooManyOpenFiles
from penstock.storage.errors import LogFailed
from penstock.storage.log import Log, create_log
from penstock.storage.log_config import LogConfig
from penstock.storage.segment_files import SegmentFiles


@pytest.fixture
def files() -> MemoryFiles:
    return MemoryFiles()


def bases(log: Log) -> list[int]:
    return [segment.base_offset for segment in log.segments]


def test_a_segment_never_grows_over_segment_bytes(files: MemoryFiles) -> None:
    log = new_log(files, LogConfig(segment_bytes=250))
    fill(log, 10)
    assert len(log.segments) > 2
    assert all(segment.size_bytes <= 250 for segment in log.segments)
    assert read_values(log) == [(i, b"v%d" % i) for i in range(10)]


def test_a_batch_larger_than_a_segment_gets_one_of_its_own(files: MemoryFiles) -> None:
    log = new_log(files, LogConfig(segment_bytes=100))
    append(log, batch([b"x" * 500]))
    append(log, batch([b"x" * 500]))
    assert bases(log) == [0, 1]


def test_segment_ms_counts_by_record_timestamps_from_the_first_batch(files: MemoryFiles) -> None:
    log = new_log(files, LogConfig(segment_ms=1000))
    append(log, batch(timestamps_ms=5000))
    assert not log.needs_roll(80, 6000, NOW_MS)
    assert log.needs_roll(80, 6001, NOW_MS)
    assert not log.needs_roll(80, 4000, NOW_MS), "a batch from the past needs no new segment"
    log.close()
    log = reopen(files, LogConfig(segment_ms=1000), clean=True)
    assert not log.needs_roll(80, 6000, NOW_MS)
    assert log.needs_roll(80, 6001, NOW_MS)


def test_logs_with_a_jitter_roll_each_at_its_own_time(files: MemoryFiles) -> None:
    files.make_directories("/data")
    config = LogConfig(segment_ms=1000, segment_jitter_ms=100)
    rolled_after: set[int] = set()
    for number in range(20):
        log = create_log(files, f"/data/orders-{number}", TOPIC_ID, config)
        append(log, batch(timestamps_ms=5000))
        rolled_after.add(next(ms for ms in range(2000) if log.needs_roll(80, 5000 + ms, NOW_MS)))
    assert min(rolled_after) >= 1 + 1000 - 100
    assert max(rolled_after) <= 1 + 1000
    assert len(rolled_after) > 10


def test_a_full_index_rolls(files: MemoryFiles) -> None:
    log = new_log(files, LogConfig(index_interval_bytes=0, segment_index_bytes=64))
    fill(log, 40)
    assert len(log.segments) > 1
    log.close()
    for name in files.list_directory(DIRECTORY):
        if name.endswith("index"):
            assert len(files.content(f"{DIRECTORY}/{name}")) <= 64


def test_a_relative_offset_that_no_int32_holds_rolls(files: MemoryFiles) -> None:
    log = new_log(files, LogConfig(compact=True))
    fill(log, 1)
    assert not log.needs_roll(80, 1000, NOW_MS, last_offset_delta=2**31 - 2)
    assert log.needs_roll(80, 1000, NOW_MS, last_offset_delta=2**31 - 1)


def test_an_empty_segment_is_never_rolled(files: MemoryFiles) -> None:
    log = new_log(files, LogConfig(segment_bytes=10))
    assert not log.needs_roll(1000, 10**15, NOW_MS)
    log.roll()
    assert bases(log) == [0]


def test_a_roll_makes_all_before_it_durable(files: MemoryFiles) -> None:
    log = new_log(files)
    fill(log, 3)
    log.roll()
    assert log.durable_end_offset == 3
    fill(log, 1)
    files.power_cut()
    log = reopen(files, recovery_point=3)
    assert log.log_end_offset == 3
    assert bases(log) == [0, 3]


def test_a_roll_on_a_full_disk_changes_nothing(files: MemoryFiles) -> None:
    for call in range(1, 8):
        files = MemoryFiles()
        log = new_log(files, LogConfig(index_interval_bytes=50))
        fill(log, 3)
        files.fail("any", DiskFull, call=call)
        try:
            log.roll()
        except DiskFull:
            assert bases(log) == [0]
            assert log.failure is None
        except LogFailed:
            assert call == 1, "only the sync of the segment is final"
            continue
        files.heal()
        fill(log, 3)
        log.roll()
        fill(log, 1)
        log.close()
        files.power_cut()
        assert read_values(reopen(files, clean=True)) == [(i, b"v%d" % i) for i in range(7)]


@pytest.mark.parametrize("clean", [True, False])
@pytest.mark.parametrize("error", [DiskFull, TooManyOpenFiles, DiskError])
def test_a_roll_that_failed_half_way_leaves_an_empty_segment_inside_another(
    error: type[StorageError], clean: bool
) -> None:
    """Once its file is there the roll is due until it is done, however small the next batch is and whatever is configured meanwhile."""
    half_way_count = 0
    for call in range(1, 24):
        files = MemoryFiles()
        log = new_log(files)
        fill(log, 3)
        files.fail("any", error, call=call)
        with contextlib.suppress(StorageError):
            log.roll()
        files.heal()
        if log.failure is not None:
            continue
        if bases(log) == [0] and files.exists(f"{DIRECTORY}/{3:020}.log"):
            half_way_count += 1
            log.config = LogConfig()
            assert log.needs_roll(1, 1003, NOW_MS)
            log.roll()
        fill(log, 2)
        if clean:
            log.close()
        else:
            files.kill()
        reopened = reopen(files, clean=clean)
        assert read_values(reopened) == [(i, b"v%d" % i) for i in range(5)]
    assert half_way_count > 0


def test_a_directory_that_could_not_be_synced_is_synced_again_and_believed(files: MemoryFiles) -> None:
    """The name of the new segment may be lost in a power cut, whatever the next sync says (PROPERTIES D11)."""
    log = new_log(files)
    fill(log, 3)
    log.write_producer_snapshot()
    files.fail("sync_directory", DiskError)
    with pytest.raises(LogFailed):
        log.roll()
    assert log.failure is not None


def test_a_failed_sync_in_a_roll_is_final(files: MemoryFiles) -> None:
    log = new_log(files)
    fill(log, 3)
    files.fail("datasync", DiskError)
    with pytest.raises(LogFailed):
        log.roll()
    assert log.failure is not None


def test_snapshots_stay_one_for_each_segment_and_the_newest(files: MemoryFiles) -> None:
    log = new_log(files, LogConfig(segment_bytes=250))
    fill(log, 7)
    log.write_producer_snapshot()
    fill(log, 3)
    log.close()
    log = reopen(files, LogConfig(segment_bytes=250), clean=True)
    fill(log, 5)
    log.close()
    snapshots = [int(n[:20]) for n in files.list_directory(DIRECTORY) if n.endswith(".snapshot")]
    assert snapshots == [*bases(log)[1:], 15]


def test_only_the_active_segment_and_a_bounded_number_of_others_are_open(files: MemoryFiles) -> None:
    pool = SegmentFiles(files, open_files_max=2)
    log = new_log(files, LogConfig(segment_bytes=250), pool=pool)
    fill(log, 30)
    assert len(log.segments) > 5
    assert len(read_values(log)) == 30
    assert files.open_count == pool.open_count == 3


def test_what_was_cut_off_is_synced_again_and_again(files: MemoryFiles) -> None:
    log = new_log(files)
    fill(log, 1)
    files.capacity_bytes = files.used_bytes() + 16
    with pytest.raises(DiskFull):
        append(log, batch())
    log.sync()
    synced = files.calls["datasync"]
    log.sync()
    assert files.calls["datasync"] == synced


def test_a_part_of_a_batch_that_was_cut_off_is_back_in_a_closed_segment_after_a_power_cut(
    files: MemoryFiles,
) -> None:
    log = new_log(files)
    fill(log, 1)
    log.sync()
    files.capacity_bytes = files.used_bytes() + 16
    with pytest.raises(DiskFull):
        append(log, batch())
    part = frozenset(change.number for change in files.unsynced().changes if isinstance(change, Write))
    assert part
    files.capacity_bytes = UNBOUNDED_BYTES
    log.roll()
    fill(log, 1)
    log.sync()
    files.power_cut(Survival(part))
    assert read_values(reopen(files)) == [(0, b"v0"), (1, b"v1")]
