"""Appending: what goes wrong on the way to the disk must leave a log that goes on contiguously, or one that is offline."""

import pytest
from tests.support.disk_state import SECTOR_BYTES, Survival, Write
from tests.support.logs import (
    DIRECTORY,
    NOW_MS,
    append,
    batch,
    fill,
    new_log,
    read_batches,
    read_values,
    reopen,
    stored,
)
from tests.support.memory_files import MemoryFiles
from tests.support.simulated_disk import UNBOUNDED_BYTES

from penstock.protocol.record_batch import (
    TimestampType,
    check_produced_batch,
    read_batch_header,
    set_log_append_time,
    verify_crc,
)
from penstock.runtime.files import DiskError, DiskFull, StorageError, TooManyOpenFiles
from penstock.storage.errors import LogClosed, LogFailed, StaleLeaderEpoch
from penstock.storage.log_config import LogConfig


@pytest.fixture
def files() -> MemoryFiles:
    return MemoryFiles()


def test_offsets_follow_on_each_other_and_the_bytes_are_the_producers(files: MemoryFiles) -> None:
    log = new_log(files)
    sent = [batch(3), batch(1), batch(2)]
    infos = [append(log, bytearray(raw), epoch=4) for raw in sent]
    assert [(info.base_offset, info.last_offset) for info in infos] == [(0, 2), (3, 3), (4, 5)]
    assert log.log_end_offset == 6
    assert read_batches(log) == [stored(raw, base, 4) for raw, base in zip(sent, (0, 3, 4), strict=True)]
    assert not any(info.is_duplicate for info in infos)
    assert infos[0].log_append_time_ms == -1


def test_nothing_is_durable_before_a_sync(files: MemoryFiles) -> None:
    log = new_log(files)
    fill(log, 3)
    assert (log.durable_end_offset, log.log_end_offset) == (0, 3)
    files.power_cut()
    assert reopen(files).log_end_offset == 0


def test_what_a_sync_covered_survives_a_power_cut(files: MemoryFiles) -> None:
    log = new_log(files)
    fill(log, 3)
    assert log.sync() == log.durable_end_offset == 3
    fill(log, 2)
    files.power_cut()
    log = reopen(files, recovery_point=3)
    assert read_values(log) == [(i, b"v%d" % i) for i in range(3)]
    assert log.durable_end_offset == 3


def test_a_sync_without_news_does_no_sync(files: MemoryFiles) -> None:
    log = new_log(files)
    fill(log, 1)
    log.sync()
    before = files.calls["datasync"]
    assert log.sync() == 1
    assert files.calls["datasync"] == before


def test_log_append_time_replaces_the_producers_time_and_keeps_the_checksum_right(files: MemoryFiles) -> None:
    log = new_log(files, LogConfig(log_append_time=True))
    info = append(log, batch(2, timestamps_ms=5), now_ms=NOW_MS)
    assert info.log_append_time_ms == NOW_MS
    (raw,) = read_batches(log)
    header = read_batch_header(raw)
    assert header.timestamp_type is TimestampType.LOG_APPEND_TIME
    assert header.max_timestamp == NOW_MS == log.largest_timestamp_ms
    assert verify_crc(memoryview(raw))


def test_a_batch_stamped_with_append_time_before_keeps_that_time(files: MemoryFiles) -> None:
    log = new_log(files, LogConfig(log_append_time=True))
    raw = batch(1)
    header = check_produced_batch(memoryview(raw))
    set_log_append_time(memoryview(raw), NOW_MS - 7)
    header = read_batch_header(raw)
    info = log.append_as_leader(memoryview(raw), header, leader_epoch=0, now_ms=NOW_MS)
    assert info.log_append_time_ms == NOW_MS - 7


@pytest.mark.parametrize("room", [0, 1, 60, 61, 100])
def test_a_full_disk_refuses_the_batch_and_later_appends_are_contiguous(
    files: MemoryFiles, room: int
) -> None:
    log = new_log(files)
    fill(log, 2)
    size_before = log.size_bytes
    files.capacity_bytes = files.used_bytes() + room
    with pytest.raises(DiskFull):
        append(log, batch([b"x" * 200]))
    assert log.failure is None
    assert (log.log_end_offset, log.size_bytes) == (2, size_before)
    assert len(files.content(f"{DIRECTORY}/00000000000000000000.log")) == size_before
    assert len(read_values(log)) == 2
    files.capacity_bytes = 1 << 30
    fill(log, 2)
    assert read_values(log) == [(i, b"v%d" % i) for i in range(4)]
    files.power_cut()
    files_after = reopen(files)
    assert files_after.log_end_offset == 2, "what was there before the cut was synced with it"


@pytest.mark.parametrize("sector", range(3))
@pytest.mark.parametrize("follows", [False, True])
def test_a_sector_of_what_was_cut_off_among_those_of_what_came_in_its_place_is_taken_for_damage(
    files: MemoryFiles, sector: int, *, follows: bool
) -> None:
    """Seed 480258: the disk has taken a sector as it was before a full disk's batch was cut off, and those around it as they were after."""

    def write(value: bytes) -> None:
        raw = batch([value * 3 * SECTOR_BYTES])
        if follows:
            log.append_as_follower(memoryview(stored(raw, log.log_end_offset)), now_ms=NOW_MS)
        else:
            append(log, raw)

    log = new_log(files)
    fill(log, 1)
    log.sync()
    files.capacity_bytes = files.used_bytes() + 3 * SECTOR_BYTES
    with pytest.raises(DiskFull):
        write(b"x")
    cut_off = {change.number for change in files.unsynced().changes if isinstance(change, Write)}
    files.capacity_bytes = UNBOUNDED_BYTES
    write(b"y")
    fill(log, 1)
    mixed = {
        change.number
        for change in files.unsynced().changes
        if isinstance(change, Write)
        and (change.number in cut_off) == (change.position // SECTOR_BYTES == sector)
    }
    files.power_cut(Survival(frozenset(mixed)))
    assert read_values(reopen(files))[0] == (0, b"v0")


@pytest.mark.parametrize("short_bytes", [100, 600, SECTOR_BYTES])
@pytest.mark.parametrize("lost", range(6))
@pytest.mark.parametrize("follows", [False, True])
def test_what_a_short_write_has_left_of_a_sector_is_taken_for_damage_behind_a_power_cut(
    files: MemoryFiles, short_bytes: int, lost: int, *, follows: bool
) -> None:
    """Seed 480258: the disk has taken a sector as a short write had left it, and those behind it as what completed the write had."""
    log = new_log(files)
    fill(log, 1)
    log.sync()
    files.short_write_bytes = short_bytes
    raw = batch([b"x" * 2 * SECTOR_BYTES])
    if follows:
        log.append_as_follower(memoryview(stored(raw, 1)), now_ms=NOW_MS)
    else:
        append(log, raw)
    files.short_write_bytes = 0
    fill(log, 1)
    writes = [change.number for change in files.unsynced().changes if isinstance(change, Write)]
    files.power_cut(Survival(frozenset(writes) - set(writes[lost : lost + 1])))
    assert read_values(reopen(files))[0] == (0, b"v0")


@pytest.mark.parametrize("lost", range(7))
@pytest.mark.parametrize("follows", [False, True])
def test_a_short_write_whose_rest_ends_in_the_same_sector_is_taken_for_damage_behind_a_power_cut(
    files: MemoryFiles, lost: int, *, follows: bool
) -> None:
    """The disk has that sector as it was before one of the writes, and the sectors behind it with all that was appended later."""
    log = new_log(files)
    fill(log, 1)
    log.sync()
    files.short_write_bytes = 100
    raw = batch([b"x" * 100])
    if follows:
        log.append_as_follower(memoryview(stored(raw, 1)), now_ms=NOW_MS)
    else:
        append(log, raw)
    files.short_write_bytes = 0
    for _ in range(2):
        append(log, batch([b"y" * 700]))
    writes = [change for change in files.unsynced().changes if isinstance(change, Write)]
    absent = {
        change.number
        for first in writes[lost : lost + 1]
        for change in writes
        if change.number >= first.number and change.position // SECTOR_BYTES == first.position // SECTOR_BYTES
    }
    files.power_cut(Survival(frozenset(change.number for change in writes) - absent))
    assert read_values(reopen(files))[0] == (0, b"v0")


def test_a_sync_that_fails_for_want_of_room_within_a_write_is_no_full_disk(files: MemoryFiles) -> None:
    log = new_log(files)
    fill(log, 1)
    files.short_write_bytes = 100
    files.fail("datasync", DiskFull)
    with pytest.raises(LogFailed):
        append(log, batch([b"x" * 2 * SECTOR_BYTES]))
    assert log.failure is not None


def test_a_worker_makes_a_cut_durable_before_the_event_loop_appends(files: MemoryFiles) -> None:
    log = new_log(files)
    fill(log, 1)
    files.capacity_bytes = files.used_bytes() + 16
    with pytest.raises(DiskFull):
        append(log, batch())
    files.capacity_bytes = UNBOUNDED_BYTES
    fetched = memoryview(stored(batch(), 1))
    assert log.append_as_follower(fetched, now_ms=NOW_MS, may_wait=False).size_bytes == 0
    log.prepare_append(0)
    synced = files.calls["datasync"]
    assert log.append_as_follower(fetched, now_ms=NOW_MS, may_wait=False).is_whole
    fill(log, 1)
    assert files.calls["datasync"] == synced


def test_a_full_disk_while_the_epoch_is_written_refuses_the_batch_only(files: MemoryFiles) -> None:
    log = new_log(files)
    fill(log, 1, epoch=1)
    files.fail("pwrite", DiskFull)
    with pytest.raises(DiskFull):
        append(log, batch(), epoch=2)
    assert log.failure is None
    fill(log, 1, epoch=2)
    log.sync()
    files.kill()
    assert reopen(files).epoch_entries == ((1, 0), (2, 1))


def test_if_the_partial_batch_cannot_be_cut_off_the_log_is_offline(files: MemoryFiles) -> None:
    log = new_log(files)
    fill(log, 1)
    files.capacity_bytes = files.used_bytes() + 30
    files.fail("truncate", DiskError)
    with pytest.raises(LogFailed):
        append(log, batch())
    assert isinstance(log.failure, DiskError)


@pytest.mark.parametrize("most", [1, 7, 61, 80])
def test_short_writes_are_completed(files: MemoryFiles, most: int) -> None:
    log = new_log(files)
    append(log, batch())
    files.short_write_bytes = most
    fill(log, 3)
    log.close()
    files.power_cut()
    assert len(read_values(reopen(files))) == 4


def test_any_other_write_error_takes_the_log_offline(files: MemoryFiles) -> None:
    log = new_log(files)
    fill(log, 1)
    files.fail("pwrite", DiskError)
    with pytest.raises(LogFailed):
        append(log, batch())
    for use in (
        lambda: append(log, batch()),
        lambda: log.sync(),
        lambda: log.roll(),
        lambda: log.read(0, 100, 1, resident_only=True),
        lambda: log.find_by_timestamp(0, 1),
        lambda: log.truncate_to(0),
        log.delete_old_segments,
        log.close,
    ):
        with pytest.raises(LogFailed):
            use()


def test_a_failed_sync_is_final_and_never_tried_again(files: MemoryFiles) -> None:
    log = new_log(files)
    fill(log, 2)
    log.sync()
    fill(log, 1)
    files.fail("datasync", DiskError)
    with pytest.raises(LogFailed):
        log.sync()
    syncs = files.calls["datasync"]
    for _ in range(2):
        with pytest.raises(LogFailed):
            log.sync()
    with pytest.raises(LogFailed):
        log.close()
    assert files.calls["datasync"] == syncs
    assert log.durable_end_offset == 2
    assert files.open_count == 0


def test_too_many_open_files_refuses_the_append_and_nothing_else(files: MemoryFiles) -> None:
    log = new_log(files)
    log.close()
    log = reopen(files, clean=True)
    append_epoch = 0
    log.prepare_append(append_epoch)
    log.close()
    log = reopen(files, clean=True)
    files.fail("open", TooManyOpenFiles)
    with pytest.raises(TooManyOpenFiles):
        append(log, batch())
    assert log.failure is None
    fill(log, 1)
    assert log.log_end_offset == 1


def test_an_epoch_is_durable_before_its_first_batch_is_written(files: MemoryFiles) -> None:
    log = new_log(files)
    fill(log, 1, epoch=3)
    log.sync()
    files.power_cut()
    assert reopen(files).epoch_entries == ((3, 0),)
    assert files.content(f"{DIRECTORY}/leader-epoch-checkpoint") == b"0\n1\n3 0\n"


def test_an_epoch_without_batches_leaves_no_trace(files: MemoryFiles) -> None:
    log = new_log(files)
    fill(log, 1, epoch=1)
    writes = files.calls["any"]
    log.start_leader_epoch(2)
    log.start_leader_epoch(3)
    assert files.calls["any"] == writes, "becoming leader does no I/O"
    assert log.end_offset_for_epoch(1) == (1, 1)
    fill(log, 1, epoch=3)
    assert log.epoch_entries == ((1, 0), (3, 1))


def test_epochs_never_fall(files: MemoryFiles) -> None:
    log = new_log(files)
    fill(log, 1, epoch=5)
    with pytest.raises(StaleLeaderEpoch):
        append(log, batch(), epoch=4)
    assert log.log_end_offset == 1


def test_preparing_leaves_nothing_but_the_write_to_the_append(files: MemoryFiles) -> None:
    log = new_log(files)
    log.start_leader_epoch(7)
    log.prepare_append(7)
    before = files.calls.copy()
    append(log, batch(), epoch=7)
    assert files.calls - before == {"pwrite": 1, "any": 1}


def test_a_directory_that_somebody_removed_is_an_error_of_the_disk(files: MemoryFiles) -> None:
    log = new_log(files)
    files.remove_tree(DIRECTORY)
    with pytest.raises(StorageError, match="missing"):
        append(log, batch())
    log = new_log(files)
    fill(log, 1)
    files.remove_tree(DIRECTORY)
    for use in (lambda: log.roll(), lambda: append(log, batch(), epoch=1), log.close):
        with pytest.raises(StorageError):
            use()
    with pytest.raises(StorageError, match="missing"):
        reopen(files)


def test_closing_makes_everything_durable_and_closes_every_file(files: MemoryFiles) -> None:
    log = new_log(files, LogConfig(segment_bytes=300, index_interval_bytes=100))
    fill(log, 10)
    log.close()
    log.close()
    assert files.open_count == 0
    files.power_cut()
    log = reopen(files, clean=True)
    assert not log.report
    assert len(read_values(log)) == 10
    log.close()
    with pytest.raises(LogClosed):
        append(log, batch())


def test_closing_an_idle_log_writes_nothing(files: MemoryFiles) -> None:
    log = new_log(files)
    fill(log, 3)
    log.close()
    log = reopen(files, clean=True)
    log.start_leader_epoch(9)
    before = files.calls["any"]
    log.close()
    assert files.calls["any"] == before


def test_a_deleted_log_frees_its_name_at_once_and_its_slices_stay_whole(files: MemoryFiles) -> None:
    log = new_log(files)
    fill(log, 3)
    part = log.read(0, 1 << 20, 3, resident_only=True)
    content = part.read()
    remove = log.delete()
    assert not files.exists(DIRECTORY)
    again = new_log(files)
    assert again.log_end_offset == 0
    remove()
    assert part.read() == content
    part.release()
    assert files.list_directory("/data") == ["orders-0"]
    with pytest.raises(LogClosed):
        append(log, batch())
