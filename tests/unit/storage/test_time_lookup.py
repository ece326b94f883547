"""From times to offsets: the first record at or after a time, and the one with the largest."""

import random
import tracemalloc

import pytest
from tests.support.batches import with_right_crc
from tests.support.logs import NOW_MS, append, batch, new_log, reopen
from tests.support.memory_files import MemoryFiles

from penstock.protocol.compression import Codec, DecompressionTooLarge, decompress
from penstock.protocol.record_batch import check_produced_batch
from penstock.storage.batch_walk import LARGE_UNPACKING, UNPACKED_AT_ONCE_BYTES, unpack_in_turn
from penstock.storage.errors import CorruptBatch
from penstock.storage.log import Log
from penstock.storage.log_config import LogConfig
from penstock.storage.time_lookup import UNPACKED_BYTES_MAX, TimestampOffset

SMALL = LogConfig(segment_bytes=600, index_interval_bytes=150)


def shuffled_log(files: MemoryFiles, codec: Codec = Codec.NONE) -> tuple[Log, list[int]]:
    """A log whose timestamps go up and down, and the timestamp of each offset."""
    chance = random.Random(7)
    log = new_log(files, SMALL)
    times: list[int] = []
    for number in range(40):
        some = [1000 + 10 * number + chance.randrange(-60, 60) for _ in range(1 + number % 3)]
        append(log, batch([b"x"] * len(some), timestamps_ms=some, codec=codec), epoch=number // 15)
        times += some
    return log, times


def first_at(times: list[int], wanted: int, start: int, end: int) -> int | None:
    return next((offset for offset in range(start, end) if times[offset] >= wanted), None)


def check(log: Log, times: list[int]) -> None:
    for end in (log.log_end_offset, log.log_end_offset // 2, 1):
        if end <= log.log_start_offset:
            continue
        for wanted in range(900, 1500, 7):
            found = log.find_by_timestamp(wanted, end)
            # the batch that holds the answer may reach over an end inside of it: ends are at batches
            offset = first_at(times, wanted, log.log_start_offset, len(times))
            if offset is None:
                assert found is None
            elif offset < end:
                assert found is not None
                assert (found.offset, found.timestamp_ms) == (offset, times[offset])
                assert found.leader_epoch == log.epoch_at(offset)


@pytest.mark.parametrize("codec", list(Codec))
def test_the_first_record_at_or_after_a_time(codec: Codec) -> None:
    files = MemoryFiles()
    log, times = shuffled_log(files, codec)
    check(log, times)
    log.advance_log_start_offset(11)
    check(log, times)
    log.close()
    log = reopen(files, SMALL, clean=True)
    check(log, times)


def test_the_record_with_the_largest_time() -> None:
    files = MemoryFiles()
    log, times = shuffled_log(files)
    boundaries = [0]
    for number in range(40):
        boundaries.append(boundaries[-1] + 1 + number % 3)
    for reopened in (False, True):
        if reopened:
            log.close()
            log = reopen(files, SMALL, clean=True)
        for end in boundaries[1:]:
            found = log.max_timestamp(end)
            largest = max(times[:end])
            assert found is not None
            assert (found.offset, found.timestamp_ms) == (times.index(largest), largest)
    assert log.max_timestamp(0) is None


def test_an_empty_log_has_no_times() -> None:
    log = new_log(MemoryFiles())
    assert log.find_by_timestamp(0, 0) is None
    assert log.max_timestamp(0) is None


def test_with_append_time_every_record_has_its_batchs_time() -> None:
    log = new_log(MemoryFiles(), LogConfig(log_append_time=True))
    append(log, batch(3, timestamps_ms=[9, 1, 5]), now_ms=NOW_MS)
    append(log, batch(3, timestamps_ms=[9, 1, 5]), now_ms=NOW_MS + 5)
    assert log.find_by_timestamp(6, 6) == TimestampOffset(NOW_MS, 0, 0)
    assert log.find_by_timestamp(NOW_MS + 1, 6) == TimestampOffset(NOW_MS + 5, 3, 0)
    assert log.find_by_timestamp(NOW_MS + 6, 6) is None
    assert log.max_timestamp(6) == TimestampOffset(NOW_MS + 5, 3, 0)
    log.advance_log_start_offset(1)
    assert log.find_by_timestamp(6, 6) == TimestampOffset(NOW_MS, 1, 0)


def test_a_batch_that_nobody_can_read_answers_with_its_start() -> None:
    """The checksum is right and the compressed records are rubbish: that is the producer's doing, not the disk's."""
    log = new_log(MemoryFiles())
    raw = with_right_crc(batch([b"x" * 50], timestamps_ms=77, codec=Codec.GZIP)[:75] + bytearray(b"rubbish"))
    raw[8:12] = (len(raw) - 12).to_bytes(4, "big")
    raw = with_right_crc(raw)
    header = check_produced_batch(memoryview(raw))
    log.append_as_leader(memoryview(raw), header, leader_epoch=0, now_ms=NOW_MS)
    assert log.find_by_timestamp(5, 1) == TimestampOffset(77, 0, 0)


def test_a_batch_that_unpacks_to_too_much_answers_with_its_start() -> None:
    """A few KB that a producer has sent unpack to as much memory as it likes, for each worker that looks into them."""
    log = new_log(MemoryFiles())
    append(log, batch([b"x", bytes(UNPACKED_BYTES_MAX)], timestamps_ms=[50, 70], codec=Codec.ZSTD))
    assert log.find_by_timestamp(60, 2) == TimestampOffset(70, 0, 0)
    assert log.max_timestamp(2) == TimestampOffset(70, 0, 0)


def test_a_large_batch_is_unpacked_once_and_its_values_are_not_copied() -> None:
    log = new_log(MemoryFiles())
    size_bytes = 2 * UNPACKED_AT_ONCE_BYTES
    append(log, batch([b"x", bytes(size_bytes)], timestamps_ms=[50, 70], codec=Codec.ZSTD))
    tracemalloc.start()
    try:
        assert log.find_by_timestamp(60, 2) == TimestampOffset(70, 1, 0)
        assert log.max_timestamp(2) == TimestampOffset(70, 1, 0)
        assert tracemalloc.get_traced_memory()[1] < 1.2 * size_bytes
    finally:
        tracemalloc.stop()


def test_large_batches_are_unpacked_by_one_worker_at_a_time() -> None:
    bounds: list[tuple[int, bool]] = []

    def unpack(bytes_max: int) -> int:
        bounds.append((bytes_max, LARGE_UNPACKING.locked()))
        return len(decompress(Codec.NONE, bytes(UNPACKED_AT_ONCE_BYTES + 1), output_max_bytes=bytes_max))

    assert unpack_in_turn(unpack, 1 << 30) == UNPACKED_AT_ONCE_BYTES + 1
    assert bounds == [(UNPACKED_AT_ONCE_BYTES, False), (1 << 30, True)]
    with pytest.raises(DecompressionTooLarge):
        unpack_in_turn(unpack, UNPACKED_AT_ONCE_BYTES)
    assert not LARGE_UNPACKING.locked()


def test_records_without_a_time_are_never_found() -> None:
    log = new_log(MemoryFiles())
    append(log, batch(2, timestamps_ms=-1))
    assert log.find_by_timestamp(0, 2) is None
    assert log.max_timestamp(2) is None


def test_a_batch_that_reaches_below_the_log_start_counts_by_what_is_left_of_it() -> None:
    log = new_log(MemoryFiles())
    append(log, batch(3, timestamps_ms=[90, 50, 70]))
    log.advance_log_start_offset(1)
    assert log.max_timestamp(3) == TimestampOffset(70, 2, 0)
    assert log.find_by_timestamp(60, 3) == TimestampOffset(70, 2, 0)
    append(log, batch(1, timestamps_ms=70))
    assert log.max_timestamp(4) == TimestampOffset(70, 2, 0), "the first of equals"


def test_segments_that_end_before_a_time_are_not_looked_into_twice() -> None:
    files = MemoryFiles()
    log, _ = shuffled_log(files)
    log.close()
    log = reopen(files, SMALL, clean=True)
    assert log.find_by_timestamp(10**6, log.log_end_offset) is None
    for segment in log.segments[:-1]:
        segment.drop_indexes()
    before = files.calls.copy()
    assert log.find_by_timestamp(10**6, log.log_end_offset) is None
    assert files.calls == before


def test_a_batch_with_a_wrong_offset_hides_the_records_behind_it() -> None:
    """Its header is not verified where nobody has read it yet; but it must follow on the one before."""
    files = MemoryFiles()
    log = new_log(files)
    for number in range(4):
        append(log, batch([b"v"], timestamps_ms=1000 + number))
    log.close()
    path = log.segments[0].path
    size = len(files.content(path)) // 4
    for bit in range(1, 64):
        copy = files.copy()
        copy.flip(path, 8 * size + bit)
        with pytest.raises(CorruptBatch):
            reopen(copy, clean=True).find_by_timestamp(1002, 4)


def test_a_batch_with_a_wrong_time_is_passed_over_where_nobody_has_read_it() -> None:
    files = MemoryFiles()
    log = new_log(files)
    for number in range(4):
        append(log, batch([b"v"], timestamps_ms=1000 + number))
    log.close()
    path = log.segments[0].path
    size = len(files.content(path)) // 4
    for byte in range(size + 35, size + 43):  # its largest timestamp
        copy = files.copy()
        copy.flip(path, 8 * byte + 7)
        with pytest.raises(CorruptBatch):
            reopen(copy, clean=True).find_by_timestamp(1001, 4)
        with pytest.raises(CorruptBatch):
            reopen(copy, clean=True).find_by_timestamp(1002, 4)
