"""Descriptors and indexes: bounded, shared, and never closed or cut under somebody who holds them."""

import pytest
from tests.support.logs import fill, new_log, read_batches
from tests.support.memory_files import MemoryFiles

from penstock.storage.log_config import LogConfig
from penstock.storage.segment import Segment
from penstock.storage.segment_files import SegmentFiles


@pytest.fixture
def files() -> MemoryFiles:
    files = MemoryFiles()
    files.make_directories("/data")
    return files


def segments(files: MemoryFiles, pool: SegmentFiles, count: int) -> list[Segment]:
    made = [Segment(pool, "/data", base) for base in range(count)]
    for segment in made:
        files.replace(segment.path, b"content")
    return made


def test_files_are_opened_on_first_use_and_closed_least_recently_used_first(files: MemoryFiles) -> None:
    pool = SegmentFiles(files, open_files_max=2)
    a, b, c = segments(files, pool, 3)
    assert pool.open_count == 0
    for segment in (a, b, a, c):
        pool.release(pool.acquire(segment))
    assert (a.shared is None, b.shared is None, c.shared is None) == (False, True, False)
    assert pool.open_count == files.open_count == 2
    assert pool.acquire_open(b) is None


def test_a_pinned_file_stays_open_and_does_not_count_as_idle(files: MemoryFiles) -> None:
    pool = SegmentFiles(files, open_files_max=1)
    a, b, c = segments(files, pool, 3)
    pinned = pool.pin(a)
    for segment in (b, c):
        pool.release(pool.acquire(segment))
    assert pinned.pread(7, 0) == b"content"
    assert files.open_count == 2
    pool.unpin(a)
    assert files.open_count == 1


def test_an_evicted_file_is_closed_when_the_last_user_lets_go(files: MemoryFiles) -> None:
    pool = SegmentFiles(files, open_files_max=1)
    a, b = segments(files, pool, 2)
    first, second = pool.acquire(a), pool.acquire(a)
    pool.release(pool.acquire(b))
    assert first.file.pread(7, 0) == b"content"
    pool.release(first)
    assert second.file.pread(7, 0) == b"content"
    pool.release(second)
    assert files.open_count == 1


def test_a_file_that_the_event_loop_lets_go_last_is_closed_by_a_worker(files: MemoryFiles) -> None:
    pool = SegmentFiles(files, open_files_max=1)
    pool.closes_later = True
    a, b = segments(files, pool, 2)
    held = pool.acquire(a)
    pool.retire(a)
    pool.release(held)
    assert (pool.retired_count, pool.open_count, files.open_count) == (1, 1, 1)
    pool.close_retired()
    assert (pool.retired_count, pool.open_count, files.open_count) == (0, 0, 0)
    held = pool.acquire(a)
    pool.retire(a)
    pool.release(held)
    pool.release(pool.acquire(b))
    assert files.open_count == 1, "who opens another closes it, too"


def test_who_holds_an_evicted_file_still_holds_the_segment(files: MemoryFiles) -> None:
    """A truncation that does not see them would cut the bytes under them."""
    pool = SegmentFiles(files, open_files_max=1)
    a, b = segments(files, pool, 2)
    held = pool.acquire(a)
    pool.release(pool.acquire(b))
    assert a.shared is None
    assert pool.retire(a)
    pool.release(held)
    assert not pool.retire(a)


def test_a_truncation_sees_slices_whose_file_was_evicted(files: MemoryFiles) -> None:
    pool = SegmentFiles(files, open_files_max=1)
    log = new_log(files, LogConfig(segment_bytes=300), pool=pool)
    fill(log, 12)
    part = log.read(0, 1 << 20, 12, resident_only=False)
    content = part.read()
    read_batches(log)
    log.truncate_to(1)
    assert part.read() == content
    part.release()


def test_two_truncations_in_a_row_spare_a_slice_from_between(files: MemoryFiles) -> None:
    log = new_log(files)
    fill(log, 12)
    log.truncate_to(9)
    with log.read(0, 1 << 20, 9, resident_only=False) as part:
        content = part.read()
        log.truncate_to(5)
        log.truncate_to(2)
        assert part.read() == content


def test_a_segment_that_is_gone_cannot_be_opened_again(files: MemoryFiles) -> None:
    pool = SegmentFiles(files)
    (a,) = segments(files, pool, 1)
    a.is_gone = True
    with pytest.raises(FileNotFoundError):
        pool.acquire(a)
    assert pool.open_count == files.open_count == 0


def test_loaded_indexes_are_bounded(files: MemoryFiles) -> None:
    pool = SegmentFiles(files, index_bytes_max=2000)
    log = new_log(files, LogConfig(segment_bytes=2000, index_interval_bytes=50), pool=pool)
    fill(log, 400)
    read_batches(log)
    loaded = [segment for segment in log.segments[:-1] if segment.indexes is not None]
    assert 0 < len(loaded) < 12
    assert sum(segment.indexes.size_bytes for segment in loaded if segment.indexes) <= 2000
    assert log.segments[-1].indexes is not None
    assert len(read_batches(log)) == 400
