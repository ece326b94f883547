"""Compaction: the latest record of each key stays with its offset, and what must not be touched is not (PROPERTIES K2)."""

import pytest
from tests.support.compaction import append_raw, begin, compact, kept_records, keyed, marker
from tests.support.logs import DIRECTORY, NOW_MS, append, new_log, read_batches, reopen
from tests.support.memory_files import MemoryFiles

from penstock.protocol.compression import Codec
from penstock.protocol.record_batch import LOG_APPEND_TIME_FLAG, iterate_batches, read_batch_header
from penstock.protocol.record_filter import ControlType
from penstock.protocol.records import decode_records
from penstock.runtime.files import DiskFull
from penstock.storage.compaction import Compaction
from penstock.storage.errors import CorruptBatch, LogChanged, LogClosed
from penstock.storage.log import Log
from penstock.storage.log_config import LogConfig
from penstock.storage.verify import verify_partition

DAY_MS = 24 * 60 * 60 * 1000
COMPACT = LogConfig(compact=True, delete=False, index_interval_bytes=100)


@pytest.fixture
def files() -> MemoryFiles:
    return MemoryFiles()


@pytest.fixture
def log(files: MemoryFiles) -> Log:
    return new_log(files, COMPACT)


def write(log: Log, *pairs: tuple[bytes | None, bytes | None], timestamps_ms: int = 1000) -> int:
    """Append one batch; returns its base offset."""
    return append(log, keyed(pairs, timestamps_ms=timestamps_ms)).base_offset


def values(log: Log) -> list[tuple[int, bytes | None, bytes | None]]:
    return [(record.offset, record.key, record.value) for record in kept_records(log)]


def finish(compaction: Compaction) -> None:
    while compaction.step() is not None:
        pass


def roll(log: Log) -> None:
    log.roll()


def test_the_latest_record_of_each_key_stays_at_its_offset(log: Log) -> None:
    write(log, (b"a", b"1"), (b"b", b"1"))
    write(log, (b"a", b"2"))
    write(log, (b"c", b"1"), (b"a", b"3"))
    roll(log)
    result = compact(log)
    assert values(log) == [(1, b"b", b"1"), (3, b"c", b"1"), (4, b"a", b"3")]
    assert result.first_dirty_offset == log.log_end_offset == 5
    assert result.key_count == 3


def test_an_older_record_goes_though_it_was_cleaned_before(log: Log) -> None:
    write(log, (b"a", b"1"), (b"b", b"1"))
    roll(log)
    first = compact(log).first_dirty_offset
    write(log, (b"a", b"2"))
    roll(log)
    assert compact(log, first_dirty=first).first_dirty_offset == 3
    assert values(log) == [(1, b"b", b"1"), (2, b"a", b"2")]


def test_the_active_segment_is_never_touched(log: Log) -> None:
    write(log, (b"a", b"1"))
    roll(log)
    write(log, (b"a", b"2"))
    write(log, (b"a", b"3"))
    compact(log)
    assert values(log) == [(0, b"a", b"1"), (1, b"a", b"2"), (2, b"a", b"3")]


def test_nothing_above_the_high_watermark_is_touched_or_counts(log: Log) -> None:
    for value in (b"1", b"2", b"3"):
        write(log, (b"a", value))
    roll(log)
    compact(log, committed=2)
    assert values(log) == [(1, b"a", b"2"), (2, b"a", b"3")]


def test_a_batch_keeps_its_place_its_producer_and_its_epoch_when_it_loses_records(log: Log) -> None:
    append(log, keyed([(b"a", b"1"), (b"b", b"1"), (b"a", b"2")], producer_id=9, sequence=4), epoch=6)
    append(log, keyed([(b"c", b"1")], producer_id=9, sequence=7), epoch=6)
    roll(log)
    before = read_batch_header(read_batches(log)[0])
    compact(log)
    after = read_batch_header(read_batches(log)[0])
    assert (after.record_count, after.last_offset_delta) == (2, 2)
    assert (after.base_offset, after.partition_leader_epoch) == (0, 6)
    assert (after.producer_id, after.producer_epoch, after.base_sequence) == (9, 0, 4)
    assert after.base_timestamp == before.base_timestamp


def test_a_batch_that_loses_nothing_is_copied_byte_for_byte(log: Log) -> None:
    write(log, (b"a", b"1"))
    write(log, (b"b", b"1"), (b"c", b"2"))
    write(log, (b"a", b"2"))
    roll(log)
    before = read_batches(log)
    compact(log)
    assert read_batches(log) == before[1:]


@pytest.mark.parametrize("codec", list(Codec))
def test_what_is_left_of_a_compressed_batch_is_compressed_in_its_codec(log: Log, codec: Codec) -> None:
    append(log, keyed([(b"a", b"1" * 500), (b"b", b"2" * 500), (b"a", b"3" * 500)], codec=codec))
    roll(log)
    compact(log)
    raw = read_batches(log)[0]
    assert read_batch_header(raw).codec is codec
    assert values(log) == [(1, b"b", b"2" * 500), (2, b"a", b"3" * 500)]
    assert verify_partition(log.segments[0].pool.files, DIRECTORY).is_good


def test_the_largest_timestamp_is_that_of_what_is_left(log: Log) -> None:
    append(log, keyed([(b"a", b"1"), (b"b", b"1"), (b"a", b"2")], timestamps_ms=[9000, 5000, 7000]))
    roll(log)
    compact(log)
    assert read_batch_header(read_batches(log)[0]).max_timestamp == 7000
    found = log.max_timestamp(3)
    assert found is not None
    assert (found.timestamp_ms, found.offset) == (7000, 2)
    assert log.find_by_timestamp(8000, 3) is None


def test_records_without_a_key_go(log: Log) -> None:
    write(log, (None, b"1"), (b"a", b"1"))
    write(log, (None, b"2"))
    write(log, (b"b", b"1"))
    roll(log)
    compact(log)
    assert values(log) == [(1, b"a", b"1"), (3, b"b", b"1")]


# Tombstones


def test_a_tombstone_lives_delete_retention_ms_from_the_first_compaction_on(log: Log) -> None:
    write(log, (b"a", b"1"))
    write(log, (b"a", None), (b"b", b"1"))
    roll(log)
    compact(log, now_ms=NOW_MS)
    assert values(log) == [(1, b"a", None), (2, b"b", b"1")]
    raw = memoryview(read_batches(log)[0])
    assert read_batch_header(raw).delete_horizon_ms == NOW_MS + DAY_MS
    times = [record.timestamp for record in decode_records(raw, output_max_bytes=1000)]
    assert times == [1000, 1000], "what counts from the horizon now is told as before"
    compact(log, now_ms=NOW_MS + DAY_MS - 1)
    assert values(log) == [(1, b"a", None), (2, b"b", b"1")]
    assert read_batch_header(read_batches(log)[0]).delete_horizon_ms == NOW_MS + DAY_MS, "set once"
    compact(log, now_ms=NOW_MS + DAY_MS)
    assert values(log) == [(2, b"b", b"1")]


def test_a_tombstone_that_is_not_the_latest_goes_at_once(log: Log) -> None:
    write(log, (b"a", None))
    write(log, (b"a", b"1"))
    roll(log)
    compact(log)
    assert values(log) == [(1, b"a", b"1")]


def test_a_delete_horizon_keeps_the_append_times_of_a_log_with_append_times(files: MemoryFiles) -> None:
    log = new_log(files, LogConfig(compact=True, log_append_time=True))
    append(log, keyed([(b"a", None), (b"b", b"1"), (b"b", b"2")]), now_ms=NOW_MS)
    roll(log)
    compact(log)
    raw = memoryview(read_batches(log)[0])
    header = read_batch_header(raw)
    assert header.attributes & LOG_APPEND_TIME_FLAG
    assert header.max_timestamp == NOW_MS
    records = decode_records(raw, output_max_bytes=1000)
    assert [(record.offset, record.timestamp) for record in records] == [(0, NOW_MS), (2, NOW_MS)]


# Producers


def test_the_last_batches_of_a_producer_stay_empty_so_that_its_sequence_goes_on(files: MemoryFiles) -> None:
    log = new_log(files, COMPACT)
    for number in range(7):
        append(log, keyed([(b"a", b"%d" % number)], producer_id=7, sequence=number))
    write(log, (b"a", b"later"))
    roll(log)
    compact(log)
    headers = [read_batch_header(raw) for raw in read_batches(log)]
    left = [(header.base_offset, header.record_count, header.base_sequence) for header in headers]
    assert left == [*((number, 0, number) for number in range(2, 7)), (7, 1, -1)]
    for offset in tuple(log._snapshots.offsets):  # pyright: ignore[reportPrivateUsage]
        files.unlink(f"{DIRECTORY}/{offset:020d}.snapshot")
    files.kill()
    log = reopen(files, COMPACT)
    for number in range(2, 7):
        info = append(log, keyed([(b"a", b"%d" % number)], producer_id=7, sequence=number))
        assert (info.is_duplicate, info.base_offset) == (True, number)
    assert append(log, keyed([(b"a", b"7")], producer_id=7, sequence=7)).base_offset == 8


def test_the_batch_of_a_producer_that_has_expired_goes(log: Log) -> None:
    append(log, keyed([(b"a", b"1")], producer_id=7))
    write(log, (b"a", b"2"))
    roll(log)
    log.expire_producers(NOW_MS + DAY_MS)
    compact(log)
    assert [read_batch_header(raw).base_offset for raw in read_batches(log)] == [1]


# Segments


def test_segments_are_joined_up_to_segment_bytes_under_the_first_ones_name(files: MemoryFiles) -> None:
    config = LogConfig(compact=True, segment_bytes=400, index_interval_bytes=100)
    log = new_log(files, config)
    for number in range(40):
        write(log, (b"%d" % (number % 3), b"x" * 20))
    bases = [segment.base_offset for segment in log.segments]
    for _ in range(3):
        compact(log)
        assert all(segment.size_bytes <= 400 for segment in log.segments)
    active = log.segments[-1].base_offset
    assert [segment.base_offset for segment in log.segments] == [0, active]
    assert active == bases[-1]
    assert len(files.list_directory(DIRECTORY)) < 12
    assert verify_partition(files, DIRECTORY).is_good


def test_segments_of_which_no_record_stays_become_one_whatever_their_number(files: MemoryFiles) -> None:
    """librdkafka counts answers without a record, and gives up after ten."""
    log = new_log(files, LogConfig(compact=True, segment_bytes=300))
    for number in range(100):
        write(log, (b"a", b"%d" % number), (b"b", b"x" * 20))
    roll(log)
    assert len(log.segments) > 30
    compact(log, first_dirty=0)
    without = 0
    offset = 0
    while offset < log.log_end_offset:
        with log.read(offset, 1 << 20, log.log_end_offset, resident_only=False) as part:
            headers = [header for header, _ in iterate_batches(part.read())]
        without += not any(header.record_count for header in headers)
        offset = headers[-1].next_offset
    assert without <= 1
    assert values(log)[-1] == (199, b"b", b"x" * 20)
    assert verify_partition(files, DIRECTORY).is_good


def test_a_segment_ends_where_the_next_one_begins_though_its_last_records_went(files: MemoryFiles) -> None:
    config = LogConfig(compact=True, segment_bytes=300)
    log = new_log(files, config)
    for _ in range(9):
        write(log, (b"a", b"x" * 40))
    roll(log)
    compact(log)
    ends = [read_batch_header(raw).next_offset for raw in read_batches(log)]
    for segment in log.segments[1:]:
        assert segment.base_offset in ends


def test_an_offset_in_a_gap_reads_what_comes_behind_it(files: MemoryFiles) -> None:
    log = new_log(files, LogConfig(compact=True, segment_bytes=300, index_interval_bytes=0))
    for number in range(30):
        write(log, (b"k" if number % 7 else b"k%d" % number, b"%d" % number), timestamps_ms=1000 + number)
    roll(log)
    compact(log)
    kept = [record.offset for record in kept_records(log)]
    for opened in (log, reopen(files.copy(), LogConfig())):
        for offset in range(log.log_end_offset):
            behind = min(found for found in kept if found >= offset)
            with opened.read(offset, 1 << 20, log.log_end_offset, resident_only=False) as part:
                assert read_batch_header(part.read()).next_offset > offset
                assert read_batch_header(part.read()).base_offset <= behind
            found = opened.find_by_timestamp(1000 + offset, log.log_end_offset)
            assert found is not None
            assert found.offset == behind


def test_a_log_is_opened_again_though_it_is_no_longer_to_be_compacted(files: MemoryFiles) -> None:
    log = new_log(files, COMPACT)
    for number in range(10):
        write(log, (b"a", b"%d" % number))
    roll(log)
    write(log, (b"b", b"1"))
    compact(log)
    files.kill()
    log = reopen(files, LogConfig())
    assert values(log) == [(9, b"a", b"9"), (10, b"b", b"1")]
    files.unlink(f"{DIRECTORY}/compaction-checkpoint")
    files.kill()
    with pytest.raises(CorruptBatch):
        reopen(files, LogConfig())


def test_a_compacted_log_is_as_strict_as_others_where_it_was_not_compacted(files: MemoryFiles) -> None:
    log = new_log(files, COMPACT)
    for number in range(4):
        write(log, (b"a", b"%d" % number))
    roll(log)
    compact(log)
    for number in range(4):
        write(log, (b"a", b"%d" % number))
    files.kill()
    segment = log.segments[-1]
    content = files.content(segment.path)
    size = len(content) // 4
    files.replace(segment.path, content[:size] + content[2 * size :])
    with pytest.raises(CorruptBatch, match="comes next"):
        reopen(files, COMPACT)


def test_compacting_twice_changes_nothing_more(files: MemoryFiles) -> None:
    log = new_log(files, LogConfig(compact=True, segment_bytes=500))
    for number in range(40):
        write(log, (b"%d" % (number % 5), b"x" * 9 if number % 4 else None))
    roll(log)
    compact(log)
    while len(log.segments) > 2:
        compact(log)
    before = read_batches(log)
    renames = files.calls["rename"]
    compact(log)
    assert read_batches(log) == before
    assert files.calls["rename"] == renames, "a segment that stays as it is is not put in place"


# Bounds


def test_a_full_map_ends_the_compaction_there_and_the_next_goes_on(log: Log) -> None:
    for number in range(60):
        write(log, (b"%d" % (number % 30), b"%d" % number))
    roll(log)
    first_dirty, rounds = 0, 0
    while first_dirty < log.log_end_offset:
        result = compact(log, first_dirty=first_dirty, map_bytes_max=300)
        assert result.first_dirty_offset > first_dirty
        assert result.map_bytes <= 300
        first_dirty = result.first_dirty_offset
        rounds += 1
    assert rounds > 3
    assert values(log) == [(n, b"%d" % (n % 30), b"%d" % n) for n in range(30, 60)]


def test_a_map_that_is_full_inside_a_batch_takes_the_records_up_to_there(log: Log) -> None:
    write(log, *[(b"%d" % (number % 20), b"%d" % number) for number in range(40)])
    roll(log)
    first_dirty = 0
    while first_dirty < log.log_end_offset:
        first_dirty = compact(log, first_dirty=first_dirty, map_bytes_max=1).first_dirty_offset
    assert values(log) == [(n, b"%d" % (n % 20), b"%d" % n) for n in range(20, 40)]


def test_a_step_ends_when_its_time_is_over(log: Log) -> None:
    write(log, *[(b"%d" % number, b"x") for number in range(2000)])
    for _ in range(100):
        write(log, (b"a", b"x"))
    roll(log)
    compaction = begin(log, looks=1)
    steps = 0
    while compaction.step() is not None:
        steps += 1
    assert steps > 2 * (2000 / 32 + 100)


# What happens meanwhile


def test_a_slice_that_is_held_stays_readable(log: Log) -> None:
    for number in range(5):
        write(log, (b"a", b"%d" % number))
    roll(log)
    with log.read(0, 1 << 20, 5, resident_only=False) as part:
        before = part.read()
        compact(log)
        assert part.read() == before
    assert values(log) == [(4, b"a", b"4")]


@pytest.mark.parametrize("how", ["truncated", "deleted", "closed", "policy"])
def test_a_log_that_changes_meanwhile_is_left_as_it_is(files: MemoryFiles, how: str) -> None:
    log = new_log(files, LogConfig(compact=True, segment_bytes=300))
    for number in range(12):
        write(log, (b"a", b"%d" % number))
    compaction = begin(log, looks=4)
    for _ in range(8):
        assert compaction.step() is not None
    segments = log.segments
    if how == "truncated":
        log.truncate_to(1)
    elif how == "deleted":
        log.advance_log_start_offset(log.log_end_offset)
        log.delete_old_segments()
    elif how == "closed":
        log.close()
    else:
        log.config = LogConfig(segment_bytes=300)
    assert len(segments) > 2
    with pytest.raises((LogChanged, LogClosed)):
        finish(compaction)
    compaction.close()
    assert not [name for name in files.list_directory(DIRECTORY) if name.endswith((".cleaned", ".swap"))]
    if how != "closed":
        assert verify_partition(files, DIRECTORY, compacted=True).is_good


@pytest.mark.parametrize("step_count", [1, 50, 150, 199])
def test_segments_that_are_all_deleted_meanwhile_are_no_damage(log: Log, step_count: int) -> None:
    """Once while headers are scanned, then while keys are read: with the segments their epochs are forgotten."""
    for number in range(100):
        write(log, (b"%d" % number, b"x"))
    roll(log)
    compaction = begin(log, looks=1)
    for _ in range(step_count):
        assert compaction.step() is not None
    assert compaction.result.key_count == 0
    log.advance_log_start_offset(log.log_end_offset)
    assert log.delete_old_segments() == 1
    with pytest.raises(LogChanged):
        finish(compaction)


def test_a_gap_before_what_is_decided_is_no_hindrance(log: Log) -> None:
    for number in range(4):
        write(log, (b"a", b"%d" % number))
    roll(log)
    compact(log)
    write(log, (b"a", b"last"))
    roll(log)
    assert compact(log, committed=3).first_dirty_offset == 3, "nothing is left below it"
    assert values(log) == [(3, b"a", b"3"), (4, b"a", b"last")]


def test_giving_up_leaves_nothing_behind(files: MemoryFiles, log: Log) -> None:
    for number in range(100):
        write(log, (b"a", b"%d" % number))
    roll(log)
    names = files.list_directory(DIRECTORY)
    compaction = begin(log, looks=1)
    while not any(name.endswith(".cleaned") for name in files.list_directory(DIRECTORY)):
        assert compaction.step() is not None
    compaction.close()
    assert files.list_directory(DIRECTORY) == names
    assert len(values(log)) == 100
    assert files.open_count <= 3


def test_a_disk_without_room_refuses_before_anything_is_written(files: MemoryFiles, log: Log) -> None:
    for number in range(10):
        write(log, (b"a", b"%d" % number))
    roll(log)
    files.capacity_bytes = files.used_bytes() + 1000
    names = files.list_directory(DIRECTORY)
    with pytest.raises(DiskFull):
        compact(log)
    assert files.list_directory(DIRECTORY) == names
    files.capacity_bytes = 1 << 40
    compact(log)
    assert values(log) == [(9, b"a", b"9")]


@pytest.mark.parametrize("operation", ["create", "pwrite"])
def test_a_disk_that_is_full_at_any_call_leaves_no_leftovers_and_a_log_that_goes_on(operation: str) -> None:
    for call in range(1, 20):
        files = MemoryFiles()
        log = new_log(files, COMPACT)
        for number in range(10):
            write(log, (b"a", b"%d" % number))
        roll(log)
        names = files.list_directory(DIRECTORY)
        files.fail(operation, DiskFull, call=call)
        try:
            compact(log)
        except DiskFull:
            left = [name for name in files.list_directory(DIRECTORY) if name not in names]
            assert set(left) <= {"compaction-checkpoint", "compaction-checkpoint.tmp"}
            assert len(values(log)) == 10
        else:
            break
        assert log.failure is None
        write(log, (b"b", b"1"))
        files.heal()
        compact(log)
        assert values(log)[0] == (9, b"a", b"9")
    else:
        raise AssertionError("every call failed")
    assert call > 4


def test_damage_ends_the_compaction_and_gets_no_right_checksum(files: MemoryFiles, log: Log) -> None:
    for number in range(10):
        write(log, (b"a", b"%d" % number))
    roll(log)
    content = files.content(log.segments[0].path)
    files.change(log.segments[0].path, len(content) - 3, b"?")
    for _ in range(2):
        with pytest.raises(CorruptBatch, match="CRC"):
            compact(log)
    assert not [name for name in files.list_directory(DIRECTORY) if name.endswith(".cleaned")]
    assert log.failure is None


# Transactions


def test_records_of_an_aborted_transaction_go_and_its_marker_later(files: MemoryFiles) -> None:
    log = new_log(files, COMPACT)
    write(log, (b"a", b"old"))
    append_raw(log, keyed([(b"a", b"aborted")], producer_id=5, is_transactional=True))
    append_raw(log, marker(ControlType.ABORT, producer_id=5))
    append_raw(log, keyed([(b"b", b"committed")], producer_id=5, sequence=1, is_transactional=True))
    append_raw(log, marker(ControlType.COMMIT, producer_id=5))
    write(log, (b"c", b"1"))
    roll(log)
    log.expire_producers(
        NOW_MS + DAY_MS
    )  # else the producer's last batches would stay, and the markers with them
    compact(log)
    assert values(log) == [(0, b"a", b"old"), (3, b"b", b"committed"), (5, b"c", b"1")]

    def markers() -> list[int]:
        headers = [read_batch_header(raw) for raw in read_batches(log)]
        return [header.base_offset for header in headers if header.is_control]

    assert markers() == [2, 4], "there was a batch of the transaction in this pass"
    compact(log)
    assert markers() == [2, 4], "now it has a horizon"
    compact(log, now_ms=NOW_MS + DAY_MS)
    assert markers() == [4]
    write(log, (b"b", b"later"))
    append_raw(log, keyed([(b"d", b"1")], producer_id=5, sequence=2))
    roll(log)
    compact(log)
    compact(log)
    compact(log, now_ms=NOW_MS + DAY_MS)
    assert markers() == []


def test_nothing_is_cleaned_past_the_first_open_transaction(log: Log) -> None:
    write(log, (b"a", b"1"))
    write(log, (b"a", b"2"))
    append_raw(log, keyed([(b"a", b"3")], producer_id=5, is_transactional=True))
    write(log, (b"a", b"4"))
    roll(log)
    assert compact(log).first_dirty_offset == 2
    assert [record.value for record in kept_records(log)] == [b"2", b"3", b"4"]
    assert compact(log, first_dirty=2).first_dirty_offset == 2
    append_raw(log, marker(ControlType.COMMIT, producer_id=5))
    write(log, (b"b", b"1"))
    roll(log)
    assert compact(log, first_dirty=2).first_dirty_offset == log.log_end_offset
    assert [record.value for record in kept_records(log)] == [b"4", b"1"]


def test_an_aborted_transaction_that_a_wrong_checkpoint_hides_stays_aborted(log: Log) -> None:
    append_raw(log, keyed([(b"a", b"aborted")], producer_id=5, is_transactional=True))
    append_raw(log, marker(ControlType.ABORT, producer_id=5))
    roll(log)
    write(log, (b"b", b"1"))
    roll(log)
    for now_ms in (NOW_MS, NOW_MS + DAY_MS, NOW_MS + 2 * DAY_MS):
        compact(log, first_dirty=2, now_ms=now_ms)
    headers = [read_batch_header(raw) for raw in read_batches(log)]
    assert [header.base_offset for header in headers] == [0, 1, 2], "data and marker, both or none"
