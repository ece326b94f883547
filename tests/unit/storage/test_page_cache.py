"""A reader of what lies far back leaves the page cache as it was, on a real disk: mincore(2) tells what is resident."""

import ctypes
import mmap
import os
from collections.abc import Generator
from dataclasses import dataclass

import pytest
from tests.support.logs import TOPIC_ID, append, batch, fill, new_log
from tests.support.memory_files import MemoryFiles
from tests.support.requirements import need

from penstock.protocol.record_batch import iterate_batches
from penstock.runtime.posix_files import PosixFileSystem
from penstock.storage.errors import NotResident
from penstock.storage.log import Log, create_log
from penstock.storage.log_config import LogConfig
from penstock.storage.segment_files import SegmentFiles

MB = 1 << 20
SEGMENT_MB = 64
TOTAL_MB = 256
FAR_MB = 48
"""So the last segment is near the end, and three are far from it."""
HOT_MB = 16
"""Of the first segment: another reader has it in memory."""
FETCH_BYTES = MB
LEFT_BYTES_MAX = 4 * MB
"""Of nearly 150 MB: what is forgotten is whole folios only."""
TAKEN_BYTES_MAX = MB // 2
"""Of what is hot: some kernels take pages that nobody has touched for a while (DAMON)."""
GAP_MB = 16
RECORDS_PER_MB = 1000
"""A little less than there are."""
TOTAL_BYTES = TOTAL_MB * MB


def resident_bytes(path: str, start: int = 0, end: int | None = None) -> int:
    """How much of a range of a file is in the page cache, as mincore(2) says."""
    size_bytes = os.path.getsize(path)
    with open(path, "r+b") as file, mmap.mmap(file.fileno(), size_bytes) as mapped:
        found = (ctypes.c_ubyte * -(-size_bytes // mmap.PAGESIZE))()
        first = ctypes.c_char.from_buffer(mapped)
        libc = ctypes.CDLL(None)
        failed = libc.mincore(ctypes.c_void_p(ctypes.addressof(first)), ctypes.c_size_t(size_bytes), found)
        del first
    need(failed == 0, "mincore(2)")
    pages = found[start // mmap.PAGESIZE : None if end is None else end // mmap.PAGESIZE]
    return sum(page & 1 for page in pages) * mmap.PAGESIZE


def forget(path: str) -> None:
    """Put a file out of the page cache."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
    finally:
        os.close(descriptor)


@dataclass(slots=True)
class Day:
    """A log of several segments, of which a day was long ago."""

    log: Log
    pool: SegmentFiles

    @property
    def paths(self) -> list[str]:
        """Of the segments, the oldest first."""
        return [segment.path for segment in self.log.segments]

    def read(self, offset: int, end_offset: int) -> int:
        """Read as fetches do: on the event loop if it can be, else on a worker. How often it was a worker."""
        log, workers = self.log, 0
        while offset < end_offset:
            try:
                part = log.read(offset, FETCH_BYTES, log.log_end_offset, resident_only=True)
            except NotResident:
                workers += 1
                part = log.read(offset, FETCH_BYTES, log.log_end_offset, resident_only=False)
            with part:
                for header, _ in iterate_batches(part.read()):
                    offset = header.next_offset
        self.pool.close_retired()  # as the broker's sweep does
        return workers


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Generator[Day]:
    """Made once."""
    pool = SegmentFiles(PosixFileSystem())
    pool.far_bytes = FAR_MB * MB
    directory = str(tmp_path_factory.mktemp("day") / "orders-0")
    log = create_log(pool.files, directory, TOPIC_ID, LogConfig(segment_bytes=SEGMENT_MB * MB), pool=pool)
    raw = batch([b"x" * 1000] * 200)
    while len(log.segments) < TOTAL_MB // SEGMENT_MB or log.segments[-1].size_bytes < (SEGMENT_MB - 1) * MB:
        append(log, bytearray(raw))
    yield Day(log, pool)
    log.close()


@pytest.fixture
def day(written: Day) -> Day:
    """The page cache has the last segment and the beginning of the first."""
    for path in written.paths:
        forget(path)
    need(resident_bytes(written.paths[0]) == 0, "a file system whose pages can be forgotten")
    for path, size in ((written.paths[0], HOT_MB * MB), (written.paths[-1], SEGMENT_MB * MB)):
        with open(path, "rb", buffering=0) as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_RANDOM)  # nothing beyond
            file.read(size)
    return written


def assert_hot(day: Day) -> None:
    """What was read is in memory still."""
    first, last = day.paths[0], day.paths[-1]
    assert HOT_MB * MB - resident_bytes(first, 0, HOT_MB * MB) < TAKEN_BYTES_MAX
    assert os.path.getsize(last) - resident_bytes(last) < TAKEN_BYTES_MAX


def test_what_was_cold_is_cold_again_and_what_was_hot_is_hot_still(day: Day) -> None:
    first, *far = day.paths[:-1]
    assert_hot(day)
    looked_back_bytes = TOTAL_BYTES - (SEGMENT_MB + HOT_MB + GAP_MB) * MB
    assert (
        day.read((HOT_MB + GAP_MB) * RECORDS_PER_MB, day.log.log_end_offset)
        > looked_back_bytes // FETCH_BYTES
    )
    assert sum(resident_bytes(path) for path in far) < LEFT_BYTES_MAX
    assert resident_bytes(first, HOT_MB * MB) < LEFT_BYTES_MAX
    assert_hot(day)


def test_a_reader_of_what_another_has_in_memory_takes_it_from_nobody(day: Day) -> None:
    first = day.paths[0]
    day.read(0, HOT_MB // 2 * RECORDS_PER_MB)
    assert HOT_MB * MB - resident_bytes(first, 0, HOT_MB * MB) < TAKEN_BYTES_MAX
    day.read(0, HOT_MB // 2 * RECORDS_PER_MB)
    assert HOT_MB * MB - resident_bytes(first, 0, HOT_MB * MB) < TAKEN_BYTES_MAX


def test_what_is_near_the_end_stays_for_those_who_come_next(day: Day) -> None:
    last = day.paths[-1]
    forget(last)
    near_offset = day.log.log_end_offset - (FAR_MB - 1) * RECORDS_PER_MB
    day.read(near_offset, day.log.log_end_offset)
    assert resident_bytes(last) >= (FAR_MB - 3) * MB


# What is asked of the page cache


def small_log(files: MemoryFiles) -> Log:
    """20 batches in one segment, all but the last few far from the end, and nothing resident."""
    log = new_log(files)
    fill(log, 20)
    log.segments[0].pool.far_bytes = 200
    files.resident = False
    return log


def test_a_far_range_is_asked_for_as_one_piece_and_forgotten_only_when_it_was_sent() -> None:
    files = MemoryFiles()
    log = small_log(files)
    pool = log.segments[0].pool
    part = log.read(0, 300, 20, resident_only=False)
    assert [(what, position) for what, position, _ in files.advice] == [("will need", 0)]
    assert files.advice[0][2] >= 300
    pool.close_retired()
    assert len(files.advice) == 1, "it is on its way"
    part.release()
    assert pool.has_leftovers
    pool.close_retired()
    assert files.advice[1] == ("won't need", 0, 300)
    assert not pool.has_leftovers


def test_a_reader_that_goes_on_is_known_again_though_the_kernel_has_read_ahead() -> None:
    files = MemoryFiles()
    log = small_log(files)
    with log.read(0, 300, 20, resident_only=False) as part:
        offset = [header.next_offset for header, _ in iterate_batches(part.read())][-1]
    files.resident = True
    with pytest.raises(NotResident):
        log.read(offset, 300, 20, resident_only=True)
    with log.read(offset, 300, 20, resident_only=False) as part:
        pass
    log.segments[0].pool.drop_passed()
    assert files.advice[-1] == ("won't need", 0, part.position + part.count), "with the folio before"


def test_a_far_range_that_is_resident_is_read_at_once_and_stays() -> None:
    files = MemoryFiles()
    log = small_log(files)
    files.resident = True
    for resident_only in (True, False):
        log.read(0, 300, 20, resident_only=resident_only).release()
    log.segments[0].pool.close_retired()
    assert not files.advice


def test_to_know_where_a_far_batch_lies_is_not_to_know_that_it_is_resident() -> None:
    """The latest batches of a segment are known without the index; of large ones these are gigabytes, and some of them from yesterday."""
    files = MemoryFiles()
    log = small_log(files)
    with pytest.raises(NotResident):
        log.read(0, 300, 20, resident_only=True)
    log.read(19, 300, 20, resident_only=True).release()
    log.roll()
    append(log, batch(1))
    log.read(19, 300, 21, resident_only=True).release()
    fill(log, 10)
    with pytest.raises(NotResident):
        log.read(19, 300, 31, resident_only=True)


def test_a_segment_that_went_before_its_pages_were_forgotten_troubles_nobody() -> None:
    files = MemoryFiles()
    log = small_log(files)
    pool = log.segments[0].pool
    log.read(0, 300, 20, resident_only=False).release()
    log.truncate_fully_and_start_at(100)
    pool.close_retired()
    assert not pool.has_leftovers
    assert [what for what, _, _ in files.advice] == ["will need"]
