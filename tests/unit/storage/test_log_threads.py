"""One log under several threads, as the event loop and its workers use it: no reader ever sees a half-made change."""

import sys
import threading
from collections.abc import Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
from tests.support.compaction import begin as begin_compaction
from tests.support.logs import TOPIC_ID, append, batch, fill, new_log
from tests.support.memory_files import MemoryFiles

from penstock.protocol.record_batch import iterate_batches, verify_crc
from penstock.runtime.posix_files import PosixFileSystem
from penstock.storage.errors import LogChanged, NotResident, OffsetOutOfRange
from penstock.storage.log import Log, create_log
from penstock.storage.log_config import LogConfig
from penstock.storage.segment import TAIL_BATCHES_MIN
from penstock.storage.segment_files import SegmentFiles
from penstock.storage.verify import verify_partition

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

    def __init__(self, log: Log, append_count: int = 6000) -> None:
        self.log = log
        self.append_count = append_count
        self.lane = threading.Lock()
        """Appends are held back while it is held."""
        self.done = threading.Event()
        self.visible = 0
        self.may_have_gaps = False

    def run(self, *others: Callable[[], None]) -> None:
        with ThreadPoolExecutor(len(others)) as threads:
            running = [threads.submit(self._repeat, other) for other in others]
            try:
                for number in range(self.append_count):
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
                assert header.base_offset <= offset or self.may_have_gaps
                assert offset < header.next_offset
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
            log.roll()
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
    bustle = Bustle(log := make_log(tmp_path), append_count=2000)

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


# Threads meet by chance; a trace function makes them meet at every line.


def at_each_line(names: frozenset[str], action: Callable[[], None]) -> Callable[[FrameType, str, Any], Any]:
    """A trace function that calls `action` before each line of the functions of these names."""

    def trace(frame: FrameType, event: str, _: Any) -> Any:
        if frame.f_code.co_name not in names:
            return trace if event == "call" else None
        if event == "line":
            action()
        return trace

    return trace


def last_batch_before(log: Log, end: int) -> tuple[int, int]:
    with log.read(end - 1, 1 << 20, end, resident_only=True) as part:
        headers = [header for header, _ in iterate_batches(part.read())]
    return headers[0].base_offset, headers[-1].next_offset


@pytest.mark.parametrize("before", [5, 2 * TAIL_BATCHES_MIN - 1, 3 * TAIL_BATCHES_MIN])
def test_a_read_at_any_line_of_an_append_sees_what_was_visible(before: int) -> None:
    log = new_log(MemoryFiles())
    fill(log, before)
    read_count = 0

    def read() -> None:
        nonlocal read_count
        read_count += 1
        for end in (before, before - 1):
            assert last_batch_before(log, end) == (end - 1, end)

    sys.settrace(at_each_line(frozenset({"append_as_leader", "_write", "note_appended", "trimmed"}), read))
    try:
        fill(log, 1)
    finally:
        sys.settrace(None)
    assert read_count > 15
    assert last_batch_before(log, before + 1) == (before, before + 1)


@pytest.mark.parametrize(
    ("before", "start", "end"),
    [
        (5, 4, 5),
        (2 * TAIL_BATCHES_MIN - 1, 2 * TAIL_BATCHES_MIN - 2, 2 * TAIL_BATCHES_MIN - 1),
        (2 * TAIL_BATCHES_MIN - 1, 90, 100),  # in a tail that the append trims to what lies above
        (3 * TAIL_BATCHES_MIN - 1, TAIL_BATCHES_MIN - 1, TAIL_BATCHES_MIN + 1),  # from below such a tail
    ],
)
def test_an_append_at_any_line_of_a_read_changes_nothing_for_it(before: int, start: int, end: int) -> None:
    names = frozenset(
        {
            "read",
            "read_slice",
            "_slice_of_segment",
            "_cold_slice",
            "_end_position",
            "_end_in_tail",
            "_make_slice",
            "find",
        }
    )
    for line in range(1, 200):
        log = new_log(MemoryFiles())
        fill(log, before)
        passed = 0

        def write() -> None:
            nonlocal passed
            passed += 1
            if passed == line:  # noqa: B023
                fill(log, 1)  # noqa: B023

        sys.settrace(at_each_line(names, write))
        try:
            with log.read(start, 1 << 20, end, resident_only=True) as part:
                sys.settrace(None)
                headers = [header for header, _ in iterate_batches(part.read())]
        finally:
            sys.settrace(None)
        assert [header.base_offset for header in headers] == list(range(start, end))
        if passed < line:
            assert line > 20
            return
    raise AssertionError("the read never came to its end")


def test_readers_beside_appends_rolls_and_compactions(tmp_path: Path) -> None:
    bustle = Bustle(log := make_log(tmp_path), append_count=4000)
    bustle.may_have_gaps = True
    log.config = replace(CONFIG, compact=True)
    compactions = 0

    def compact_all() -> None:
        nonlocal compactions
        with bustle.lane:
            log.roll()
        compaction = begin_compaction(log)
        try:
            while compaction.step() is not None:
                pass
            compactions += 1
        except LogChanged:
            pass  # segments were deleted meanwhile
        finally:
            compaction.close()

    def delete_some() -> None:
        log.advance_log_start_offset(max(log.log_start_offset, bustle.visible - 2000))
        log.delete_old_segments()

    def look_up() -> None:
        found = log.find_by_timestamp(1000 + bustle.append_count // 2, bustle.visible)
        assert found is None or found.timestamp_ms >= 1000 + bustle.append_count // 2

    bustle.run(
        lambda: bustle.read_all(resident_only=False),
        lambda: bustle.read_all(resident_only=True),
        look_up,
        lambda: assert_synced(log),
        compact_all,
        delete_some,
    )
    assert compactions
    assert log.failure is None
    assert verify_partition(PosixFileSystem(), log.directory).is_good


def assert_synced(log: Log) -> None:
    before = log.log_end_offset
    assert log.sync() >= before
