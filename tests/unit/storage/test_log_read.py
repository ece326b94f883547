"""Reading: nothing past the end offset, no wait on the event loop, no damaged bytes."""

import itertools

import pytest
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
)
from tests.support.memory_files import MemoryFiles

from penstock.protocol.record_batch import iterate_batches
from penstock.runtime.files import DiskError, TooManyOpenFiles
from penstock.storage.errors import CorruptBatch, NotResident, OffsetOutOfRange
from penstock.storage.log import Log
from penstock.storage.log_config import LogConfig
from penstock.storage.segment import TAIL_BATCHES_MIN
from penstock.storage.segment_files import SegmentFiles

SMALL = LogConfig(segment_bytes=1000, index_interval_bytes=150)


@pytest.fixture
def files() -> MemoryFiles:
    return MemoryFiles()


def first_last(
    log: Log, offset: int, max_bytes: int, end_offset: int, *, resident_only: bool
) -> tuple[int, int]:
    """Offsets of the first and the last whole batch of a slice."""
    with log.read(offset, max_bytes, end_offset, resident_only=resident_only) as part:
        headers = [header for header, _ in iterate_batches(part.read())]
    return headers[0].base_offset, headers[-1].last_offset


def mixed_log(files: MemoryFiles, config: LogConfig = SMALL) -> Log:
    """Batches of 1 to 4 records over several segments."""
    log = new_log(files, config)
    for number in range(60):
        append(log, batch(1 + number % 4, timestamps_ms=1000 + number))
    return log


@pytest.mark.parametrize("how", ["hot", "warm", "cold"])
def test_every_offset_is_found_in_its_batch(files: MemoryFiles, how: str) -> None:
    log = mixed_log(files)
    if how != "hot":
        log.close()
        log = reopen(files, SMALL, clean=True)
    if how == "warm":
        read_batches(log)
    starts = [next(iterate_batches(raw))[0] for raw in read_batches(log)]
    for header in starts:
        for offset in range(header.base_offset, header.next_offset):
            first, _ = first_last(log, offset, 1, log.log_end_offset, resident_only=False)
            assert first == header.base_offset


@pytest.mark.parametrize("reopened", [False, True])
def test_nothing_at_or_past_the_end_offset_is_returned(files: MemoryFiles, reopened: bool) -> None:
    log = mixed_log(files)
    if reopened:
        log.close()
        log = reopen(files, SMALL, clean=True)
    ends = [next(iterate_batches(raw))[0].next_offset for raw in read_batches(log)]
    for end in ends:
        for start in range(max(0, end - 30), end):
            _, last = first_last(log, start, 1 << 20, end, resident_only=False)
            assert last < end
        assert log.read(end, 1 << 20, end, resident_only=True).count == 0


@pytest.mark.parametrize("reopened", [False, True])
def test_max_bytes_bounds_a_slice_but_for_its_first_batch(files: MemoryFiles, reopened: bool) -> None:
    log = mixed_log(files)
    if reopened:
        log.close()
        log = reopen(files, SMALL, clean=True)
    sizes = {next(iterate_batches(raw))[0].base_offset: len(raw) for raw in read_batches(log)}
    for start, max_bytes in itertools.product(sizes, (0, 1, 100, 200, 500, 10_000)):
        with log.read(start, max_bytes, log.log_end_offset, resident_only=False) as part:
            assert part.count <= max(max_bytes, sizes[start])
            assert part.count >= sizes[start]


def test_offsets_outside_of_the_log_are_out_of_range(files: MemoryFiles) -> None:
    log = mixed_log(files)
    log.advance_log_start_offset(10)
    for offset in (-1, 0, 9, log.log_end_offset + 1):
        with pytest.raises(OffsetOutOfRange):
            log.read(offset, 100, log.log_end_offset, resident_only=True)
    assert log.read(10, 100, log.log_end_offset, resident_only=True).count > 0
    assert log.read(log.log_end_offset, 100, log.log_end_offset, resident_only=True).count == 0


def test_above_the_high_watermark_there_is_nothing_yet(files: MemoryFiles) -> None:
    log = mixed_log(files)
    assert log.read(log.log_end_offset - 2, 100, 5, resident_only=True).count == 0


def test_the_latest_batches_are_found_without_a_system_call(files: MemoryFiles) -> None:
    log = new_log(files)
    fill(log, 3 * TAIL_BATCHES_MIN)
    files.resident = False
    before = files.calls.copy()
    for offset in range(2 * TAIL_BATCHES_MIN, 3 * TAIL_BATCHES_MIN):
        for end in (offset + 1, log.log_end_offset):
            part = log.read(offset, 1 << 20, end, resident_only=True)
            assert part.count > 0
            part.release()
    assert files.calls == before


def test_a_reader_just_behind_a_roll_needs_no_system_call(files: MemoryFiles) -> None:
    log = new_log(files)
    fill(log, 5)
    log.roll()
    fill(log, 1)
    before = files.calls.copy()
    assert first_last(log, 3, 1 << 20, 6, resident_only=True) == (3, 4)
    assert files.calls - before == {"pread": 1}, "the test's own read"


def test_what_is_not_resident_is_not_waited_for(files: MemoryFiles) -> None:
    log = new_log(files)
    fill(log, 3 * TAIL_BATCHES_MIN)
    assert first_last(log, 5, 1, log.log_end_offset, resident_only=True) == (5, 5)
    files.resident = False
    with pytest.raises(NotResident):
        log.read(5, 1, log.log_end_offset, resident_only=True)
    assert first_last(log, 5, 1, log.log_end_offset, resident_only=False) == (5, 5)


def test_what_was_found_on_disk_is_verified_before_it_is_served(files: MemoryFiles) -> None:
    fill(log := new_log(files), 5)
    log.close()
    log = reopen(files, clean=True)
    with pytest.raises(NotResident):
        log.read(0, 1 << 20, 5, resident_only=True)
    assert first_last(log, 0, 1 << 20, 5, resident_only=False) == (0, 4)
    assert first_last(log, 0, 1 << 20, 5, resident_only=True) == (0, 4)


def test_a_long_read_in_pieces_is_verified_piece_by_piece(files: MemoryFiles) -> None:
    fill(log := new_log(files), 20)
    log.close()
    log = reopen(files, clean=True)
    first_last(log, 0, 300, 20, resident_only=False)
    with pytest.raises(NotResident):
        log.read(10, 300, 20, resident_only=True)
    for offset in range(0, 20, 2):
        first_last(log, offset, 300, 20, resident_only=False)
    assert first_last(log, 0, 1 << 20, 20, resident_only=True) == (0, 19)


def test_what_lies_between_two_verified_ranges_is_not_verified(files: MemoryFiles) -> None:
    fill(log := new_log(files), 30)
    log.close()
    log = reopen(files, clean=True)
    first_last(log, 0, 300, 30, resident_only=False)
    first_last(log, 25, 300, 30, resident_only=False)
    first_last(log, 26, 70, 30, resident_only=True)
    with pytest.raises(NotResident):
        log.read(10, 300, 30, resident_only=True)


def test_headers_in_the_cache_do_not_make_the_records_resident(files: MemoryFiles) -> None:
    log = new_log(files)
    append(log, batch([b"x" * 10_000]))
    fill(log, 3 * TAIL_BATCHES_MIN)
    files.resident_bytes_max = 5000
    with pytest.raises(NotResident):
        log.read(0, 1, log.log_end_offset, resident_only=True)
    assert first_last(log, 1, 1, log.log_end_offset, resident_only=True) == (1, 1)


def test_every_flipped_bit_is_found_on_the_first_read(files: MemoryFiles) -> None:
    """Below the recovery point nothing is looked at when opening: the read must find it (PROPERTIES D10)."""
    config = LogConfig(segment_bytes=200, index_interval_bytes=60)
    log = new_log(files, config)
    fill(log, 4, epoch=1)
    fill(log, 2, epoch=2)
    log.close()
    for name in [n for n in files.list_directory(DIRECTORY) if n.endswith(".log")]:
        path = f"{DIRECTORY}/{name}"
        content = files.content(path)
        for position, bit in itertools.product(range(len(content)), range(8)):
            copy = files.copy()
            copy.change(path, position, bytes([content[position] ^ (1 << bit)]))
            with pytest.raises(CorruptBatch):
                read_batches(reopen(copy, config, clean=True))


def test_damage_between_two_good_reads_is_found_once_the_range_left_the_cache(files: MemoryFiles) -> None:
    log = new_log(files)
    fill(log, 5)
    files.change(log.segments[0].path, 100, b"?")
    files.resident = False
    with pytest.raises(CorruptBatch) as caught:
        log.read(0, 1 << 20, 5, resident_only=False)
    assert caught.value.path == log.segments[0].path
    assert 0 < caught.value.position <= 100


@pytest.mark.parametrize("content", [None, b"", b"garbage", bytes(80), b"\0\0\0\5\0\0\0\1" * 9])
@pytest.mark.parametrize("suffix", [".index", ".timeindex"])
def test_lost_and_senseless_indexes_are_rebuilt(
    files: MemoryFiles, suffix: str, content: bytes | None
) -> None:
    log = mixed_log(files)
    log.close()
    path = f"{DIRECTORY}/{log.segments[1].base_offset:020d}{suffix}"
    right = files.content(path)
    if content is None:
        files.unlink(path)
    else:
        files.replace(path, content)
    expected = [offset for offset, _ in read_values(reopen(files.copy(), SMALL, recovery_point=0))]
    log = reopen(files, SMALL, clean=True)
    assert [offset for offset, _ in read_values(log)] == expected
    assert log.find_by_timestamp(1030, log.log_end_offset) is not None
    if content != b"":  # an empty index is right, only of little use
        assert files.content(path) == right


def test_an_index_that_rises_but_points_elsewhere_is_rebuilt(files: MemoryFiles) -> None:
    log = mixed_log(files)
    log.close()
    path = f"{DIRECTORY}/{log.segments[1].base_offset:020d}.index"
    right = files.content(path)
    files.change(path, 7, bytes([right[7] + 1]))
    log = reopen(files, SMALL, clean=True)
    for offset in range(log.log_end_offset):
        first, last = first_last(log, offset, 1, log.log_end_offset, resident_only=False)
        assert first <= offset <= last
    assert files.content(path) == right


def test_a_missing_segment_is_damage_and_not_skipped(files: MemoryFiles) -> None:
    log = mixed_log(files)
    log.close()
    gone = log.segments[1]
    files.unlink(gone.path)
    log = reopen(files, SMALL, clean=True)
    with pytest.raises(CorruptBatch, match="next begins at"):
        log.read(gone.base_offset, 100, log.log_end_offset, resident_only=False)


def test_a_file_that_goes_while_the_log_is_open_is_an_error_of_the_disk(files: MemoryFiles) -> None:
    log = mixed_log(files)
    log.close()
    log = reopen(files, SMALL, clean=True)
    files.unlink(log.segments[0].path)
    with pytest.raises(DiskError, match="missing"):
        log.read(0, 100, log.log_end_offset, resident_only=False)


def test_a_failed_read_holds_no_file(files: MemoryFiles) -> None:
    log = mixed_log(files)
    log.close()
    pool = SegmentFiles(files, open_files_max=1)
    from tests.support.logs import TOPIC_ID

    from penstock.storage.log import open_log

    log = open_log(
        files,
        DIRECTORY,
        config=SMALL,
        topic_id=TOPIC_ID,
        recovery_point=0,
        log_start_offset=0,
        clean=True,
        now_ms=0,
        pool=pool,
    )
    files.fail("open", TooManyOpenFiles)
    with pytest.raises(TooManyOpenFiles):
        log.read(0, 100, log.log_end_offset, resident_only=False)
    files.change(log.segments[0].path, 80, b"?")
    with pytest.raises(CorruptBatch):
        log.read(0, 100, log.log_end_offset, resident_only=False)
    first_last(log, log.segments[2].base_offset, 1, log.log_end_offset, resident_only=False)
    assert pool.open_count == files.open_count == 1


def test_gaps_of_compacted_logs_are_read_over(files: MemoryFiles) -> None:
    from tests.support.logs import stored

    config = LogConfig(compact=True, index_interval_bytes=60)
    log = new_log(files, config)
    for base in (3, 10, 11, 50):
        log.append_as_follower(memoryview(stored(batch(), base)), now_ms=NOW_MS)
    for _ in range(2):
        for offset, expected in ((0, 3), (3, 3), (4, 10), (11, 11), (12, 50), (50, 50)):
            first, _ = first_last(log, offset, 1, log.log_end_offset, resident_only=False)
            assert first == expected
        log.close()
        log = reopen(files, config, clean=True)


def test_released_slices_let_go_of_the_file_and_twice_is_allowed(files: MemoryFiles) -> None:
    pool = SegmentFiles(files, open_files_max=1)
    log = new_log(files, SMALL, pool=pool)
    for _ in range(60):
        append(log, batch(3))
    parts = [
        log.read(segment.base_offset, 10, log.log_end_offset, resident_only=False) for segment in log.segments
    ]
    assert pool.open_count == len(log.segments)
    contents = [part.read() for part in parts]
    for part, content in zip(parts, contents, strict=True):
        assert part.read() == content
        part.release()
        part.release()
    assert pool.open_count == files.open_count == 2


def test_far_is_what_has_more_than_so_many_bytes_behind_it_in_whatever_segment_it_lies() -> None:
    log = new_log(MemoryFiles(), SMALL)
    fill(log, 60)
    assert len(log.segments) > 3
    sizes = dict(_bytes_behind(log))
    for far_bytes in (0, 100, 700, 1000, 2500, 10_000):
        log.segments[0].pool.far_bytes = far_bytes
        for offset, behind_bytes in sizes.items():
            if abs(behind_bytes - far_bytes) > 2 * SMALL.index_interval_bytes:  # it is not looked up
                assert log.is_far(offset) == (behind_bytes > far_bytes), (offset, behind_bytes, far_bytes)


def test_who_is_no_further_behind_than_one_who_was_near_is_near_until_the_segment_ends() -> None:
    log = new_log(MemoryFiles())
    fill(log, 20)
    log.segments[0].pool.far_bytes = 1000
    assert log.near_records == 0
    assert not log.is_far(15)
    assert log.near_records == 5
    assert log.is_far(0)
    assert log.near_records == 5
    log.roll()
    assert log.near_records == 0, "records may be larger from now on"


def _bytes_behind(log: Log) -> list[tuple[int, int]]:
    """(offset, bytes of the log from its batch on) of each batch of one record."""
    found: list[tuple[int, int]] = []
    behind_bytes = sum(segment.size_bytes for segment in log.segments)
    for offset, raw in enumerate(read_batches(log)):
        found.append((offset, behind_bytes))
        behind_bytes -= len(raw)
    return found
