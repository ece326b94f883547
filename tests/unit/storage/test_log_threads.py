"""One log under several threads, as the event loop and its workers use it: no reader ever sees a half-made change."""

import sys
import threading
from collections.abc import Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from tests.support.logs import NOW_MS, TOPIC_ID, append, batch

from penstock.protocol.record_batch import iterate_batches, verify_crc
from penstock.runtime.posix_files import PosixFileSystem
from penstock.storage.errors import NotResident, OffsetOutOfRange
from penstock.storage.log import Log, create_log
from penstock.storage.log_config import LogConfig
from penstock.storage.segment_files import SegmentFiles

APPEND_COUNT = 6000
CONFIG = LogConfig(segment_bytes=20_000, index_interval_bytes=300)


@pytest.fixture(autouse=True)
def hasty_threads() -> Generator[None, None, None]:
    """Let threads change places often."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    yield
    sys.setswitchinterval(before)


class Bustle:
    """An appender in this thread, others beside it until it is done; what goes wrong in any of them is raised."""

    def __init__(self, log: Log) -> None:
        self.log = log
        self.lane = threading.Lock()
        """Appends are held back while it is held."""
        self.done = threading.Event()
        self.visible = 0

    def run(self, *others: Callable[[], None]) -> None:
        with ThreadPoolExecutor(len(others)) as threads:
            running = [threads.submit(self._repeat, other) for other in others]
            try:
                for number in range(APPEND_COUNT):
                    with self.lane:
                        append(self.log, batch(1 + number % 3, timestamps_ms=1000 + number))
                    self.visible = self.log.log_end_offset
            finally:
                self.done.set()
        for one in running:
            one.result()

    def _repeat(self, other: Callable[[], None]) -> None:
        while not self.done.is_set():
            other()

    def read_all(self, *, resident_only: bool) -> None:
        """Read what is visible from the log start on: every slice is whole batches, in order, undamaged."""
        end = self.visible
        offset = self.log.log_start_offset
        while offset < end and not self.done.is_set():
            try:
                part = self.log.read(offset, 3000, end, resident_only=resident_only)
            except OffsetOutOfRange:
                offset = self.log.log_start_offset
                continue
            except NotResident:
                return
            with part:
                content = part.read()
            assert len(content) == part.count
            for header, raw in iterate_batches(content):
                assert header.base_offset <= offset < header.next_offset
                assert verify_crc(raw)
                offset = header.next_offset
            assert offset <= end

    def read_end(self) -> None:
        """The last batch, as a consumer that keeps up reads it."""
        end = self.visible
        if end:
            with self.log.read(end - 1, 1 << 20, end, resident_only=True) as part:
                (header,) = [header for header, _ in iterate_batches(part.read())]
            assert header.next_offset == end


def make_log(folder: Path) -> Log:
    files = PosixFileSystem()
    pool = SegmentFiles(files, open_files_max=3, index_bytes_max=2000)
    return create_log(files, f"{folder}/orders-0", TOPIC_ID, CONFIG, pool=pool)


def test_readers_beside_appends_syncs_rolls_and_deletions(tmp_path: Path) -> None:
    bustle = Bustle(log := make_log(tmp_path))
    durable: list[int] = []

    def sync() -> None:
        before = log.log_end_offset
        durable.append(log.sync())
        assert durable[-1] >= before

    def roll_and_delete() -> None:
        with bustle.lane:
            log.roll(NOW_MS)
        log.advance_log_start_offset(max(log.log_start_offset, log.log_end_offset - 2000))
        log.delete_old_segments()

    def look_up() -> None:
        end = bustle.visible
        found = log.find_by_timestamp(0, end)
        assert found is None or found.offset < end
        largest = log.max_timestamp(end)
        assert largest is None or largest.offset < end

    bustle.run(
        lambda: bustle.read_all(resident_only=False),
        lambda: bustle.read_all(resident_only=True),
        sync,
        roll_and_delete,
        look_up,
    )
    assert durable == sorted(durable)
    log.close()


def test_readers_of_the_end_beside_appends_and_rolls(tmp_path: Path) -> None:
    bustle = Bustle(log := make_log(tmp_path))
    bustle.run(bustle.read_end, bustle.read_end)
    assert len(log.segments) > 10
    log.close()


def test_readers_beside_truncations(tmp_path: Path) -> None:
    bustle = Bustle(log := make_log(tmp_path))

    def truncate() -> None:
        with bustle.lane:
            bustle.visible = min(bustle.visible, max(0, log.log_end_offset - 50))
            log.truncate_to(max(0, log.log_end_offset - 50))
            bustle.visible = min(bustle.visible, log.log_end_offset)

    def read() -> None:
        offset = max(0, bustle.visible - 100)
        try:
            with log.read(offset, 1 << 16, log.log_end_offset, resident_only=False) as part:
                content = part.read()
                assert len(content) == part.count
                for _, raw in iterate_batches(content):
                    assert verify_crc(raw)
        except OffsetOutOfRange:
            pass

    bustle.run(truncate, read, read)
    log.close()
