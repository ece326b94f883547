"""One compaction of one log: the latest record of each key stays, the others go.

Owns what stays and what goes, and the way there, in steps of a fraction of a millisecond. Does not know when a log is compacted or how fast: whoever
calls `step` paces it. `compaction_plan` says which offsets, `segment_swap` puts the result in place.

Three passes over what `plan` names. 1. Headers of the dirty part: which transactions were aborted, and where the first open one begins.
2. Records of the dirty part: the latest offset of each key, in a `KeyMap`; where it is full this compaction ends, and the next goes on there.
3. Everything from the log's start up to that end, in portions of segments that fit one: what stays is written to a new segment.

What stays: a record whose key has no later one below the end; but a tombstone only until the delete horizon of its batch, which the first
compaction that meets it sets `delete.retention.ms` ahead. Records of aborted transactions and records without a key go. A marker goes once no batch
of its transaction is left, and the horizon that it gets then has passed. What lies at or above the end is copied. So is a batch whose records
can't be read though its checksum is right: its producer wrote that, and it is no damage. The keys before the fault count like any others.

Invariants:
    - Offsets stay: a batch keeps base offset, last offset delta, sequence, epochs. One that loses nothing is copied byte for byte, one that loses
      all is gone, but for some: the last five of each known producer, by which its sequence goes on and a repetition is recognised, and the last of a
      new segment, so that segments follow on each other without a gap. These stay without records.
    - Every batch's checksum is verified before it is looked into: damage never gets a new, right checksum.
    - The active segment, and what is not committed and durable, is never touched.
    - Memory: the map, one batch unpacked, and a megabyte or two.

Source: Kafka's `Cleaner`, `LogCleaner`; KIP-58, KIP-354, KIP-534.
"""

import contextlib
import itertools
from collections import deque
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from typing import NoReturn

from penstock.protocol.errors import DecodeError
from penstock.protocol.record_batch import BatchHeader, read_batch_header
from penstock.protocol.record_filter import (
    KeptRecords,
    control_type,
    empty_batch,
    keep_records,
    keep_records_until,
)
from penstock.protocol.records import iterate_entries, unpack_batch
from penstock.runtime.files import DiskFull, StorageError, write_all
from penstock.storage.batch_walk import ChainRules, check_batch, walk_batches, walk_headers
from penstock.storage.cleaned_transactions import TransactionFilter, TransactionScan
from penstock.storage.compaction_plan import (
    SEGMENTS_PER_SWAP_MAX,
    CompactionPlan,
    SegmentGroup,
    group_segments,
)
from penstock.storage.errors import CorruptBatch, LogChanged, SegmentFull, UnreadableRecords
from penstock.storage.key_map import KeyMap
from penstock.storage.layout import CLEANED_SUFFIX, RELATIVE_OFFSET_MAX, SEGMENT_SIZE_BYTES_MAX
from penstock.storage.log import Log
from penstock.storage.segment import Segment
from penstock.storage.segment_swap import remove_cleaned

STEP_S = 0.0003
"""How long a step works, in CPU time: as long may the event loop wait for the interpreter."""
RECORDS_PER_LOOK = 32
"""Records between two looks at the clock."""
UNPACKED_BYTES_MAX = 256 << 20
"""Of one batch; what came in on a compacted topic is bounded by the same."""
WRITE_BYTES = 256 << 10
SYNC_BYTES = 8 << 20
"""Synced at the latest after so many bytes, so that no sync of the log itself waits behind a large one."""
INT64_MAX = 2**63 - 1
FREE_BYTES_MIN = 1 << 20
"""What a compaction leaves free besides the size of what it rewrites."""

Steps = Generator[None, None, None]
_FINISHED = object()


@dataclass(frozen=True, slots=True)
class CompactionLimits:
    """What a compaction may take."""

    map_bytes_max: int
    map_load_factor: float = 0.9
    step_s: float = STEP_S


@dataclass(slots=True)
class CompactionResult:
    """What a compaction has done so far."""

    first_dirty_offset: int
    """Cleaned up to here, once the compaction is finished; where it began before."""
    key_count: int = 0
    map_bytes: int = 0
    read_bytes: int = 0
    """Of the segments that were rewritten."""
    written_bytes: int = 0
    """Of those that took their place."""
    unreadable_count: int = 0
    """Batches that were copied because their records can't be read."""
    first_unreadable_offset: int = -1
    """The base offset of the first of them; -1 without one."""


class Compaction:
    """See the module. Its methods are for workers, one at a time."""

    def __init__(
        self,
        log: Log,
        plan: CompactionPlan,
        limits: CompactionLimits,
        *,
        now_ms: int,
        thread_time: Callable[[], float],
    ) -> None:
        """`now_ms` is the wall time that delete horizons count from; `thread_time` measures steps, in CPU seconds of the worker."""
        self.result = CompactionResult(plan.first_dirty_offset)
        self._log = log
        self._plan = plan
        self._limits = limits
        self._now_ms = now_ms
        self._thread_time = thread_time
        self._deadline = 0.0
        self._step_bytes = 0
        self._end_offset = plan.first_dirty_offset
        self._gaps_below_offset = 0
        self._keys = KeyMap(0, bytes_max=0, load_factor=1.0)
        self._known_batches = log.known_producer_batches()
        self._transactions = TransactionFilter([])
        self._steps = self._run()

    def step(self) -> int | None:
        """Work for about `step_s`; returns the bytes read and written in it, None when all is done.

        What it has put in place is durable on return. After an error the compaction is over, and nothing of it is left but what is in place.

        Raises:
            LogChanged, LogClosed: the log was truncated, deleted from, closed or is not to be compacted any more; no fault.
            CorruptBatch: damage; the log is as before.
            UnreadableRecords: nobody can tell what a control batch says, though it is not damaged; the log is as before.
            DiskFull: no room for the new segment; the log is as before.
            LogFailed, StorageError
        """
        self._step_bytes = 0
        self._deadline = self._thread_time() + self._limits.step_s
        try:
            return self._step_bytes if next(self._steps, _FINISHED) is not _FINISHED else None
        except FileNotFoundError as error:
            raise LogChanged(f"a segment has gone meanwhile: {error}", path=self._log.directory) from error

    def close(self) -> None:
        """Give up what is not in place yet, and remove it. Twice is allowed."""
        self._steps.close()

    def _is_due(self) -> bool:
        return self._thread_time() >= self._deadline

    def _run(self) -> Steps:
        scan = TransactionScan()
        record_count, limit = 0, self._plan.limit_offset
        for segment, position, header in self._dirty_headers():
            marker = self._read_marker(segment, position, header) if header.is_control else None
            scan.note(header, marker)
            record_count += header.record_count
            if scan.is_full:
                limit = header.next_offset
                break
            if self._is_due():
                yield
        stable_end = scan.first_unstable_offset(limit)
        if stable_end <= self._plan.first_dirty_offset:
            return
        self._keys = KeyMap(
            record_count, bytes_max=self._limits.map_bytes_max, load_factor=self._limits.map_load_factor
        )
        self._transactions = TransactionFilter(scan.aborted)
        yield from self._fill_map(stable_end)
        self.result.key_count = self._keys.count
        self.result.map_bytes = self._keys.size_bytes
        self._transactions = TransactionFilter(scan.aborted)
        groups = deque(group_segments(self._log, self._end_offset))
        if not groups:
            raise LogChanged("its segments were deleted meanwhile", path=self._log.directory)
        self._gaps_below_offset = groups[-1].end_offset
        while groups:
            yield from self._clean(groups)
        self.result.first_dirty_offset = self._end_offset

    # Reading

    def _dirty_segments(self) -> Iterator[Segment]:
        segments = self._log.segments
        for segment, following in itertools.pairwise(segments):
            if segment.base_offset >= self._plan.limit_offset:
                return
            if following.base_offset > self._plan.first_dirty_offset:
                yield segment

    def _dirty_headers(self) -> Iterator[tuple[Segment, int, BatchHeader]]:
        for segment in self._dirty_segments():
            shared = segment.pool.acquire(segment)
            try:
                for position, header in walk_headers(shared.file, 0, segment.size_bytes):
                    if header.base_offset >= self._plan.limit_offset:
                        return
                    if header.next_offset > self._plan.first_dirty_offset:
                        yield segment, position, header
            except CorruptBatch as error:
                _raise_unless_gone(segment, error)
            finally:
                segment.pool.release(shared)

    def _batches(self, segment: Segment) -> Iterator[tuple[int, BatchHeader, memoryview]]:
        """Every batch of a segment, verified."""
        rules = ChainRules(self._log.gaps_below, self._log.epoch_at, 0)
        expected = segment.base_offset
        shared = segment.pool.acquire(segment)
        try:
            for position, header, batch in walk_batches(shared.file, 0, segment.size_bytes):
                check_batch(segment.path, position, header, batch, expected, rules)
                expected = header.next_offset
                self._step_bytes += header.size_bytes
                yield position, header, batch
        except CorruptBatch as error:
            _raise_unless_gone(segment, error)
        finally:
            segment.pool.release(shared)

    def _read_marker(self, segment: Segment, position: int, header: BatchHeader) -> int | None:
        shared = segment.pool.acquire(segment)
        try:
            batch = memoryview(shared.file.pread(header.size_bytes, position))
            check_batch(segment.path, position, header, batch, -1, ChainRules(0, None, 0))
        except CorruptBatch as error:
            _raise_unless_gone(segment, error)
        finally:
            segment.pool.release(shared)
        return _marker(segment, position, batch)

    # The map

    def _fill_map(self, stable_end: int) -> Steps:
        for segment in self._dirty_segments():
            if segment.base_offset >= stable_end:
                break
            for position, header, batch in self._batches(segment):
                if header.base_offset >= stable_end:
                    break
                if header.next_offset > self._plan.first_dirty_offset:
                    is_full = yield from self._put_keys(segment, position, header, batch)
                    if is_full:
                        return
                if self._is_due():
                    yield
        self._end_offset = stable_end  # also where the last offsets below it are missing

    def _put_keys(
        self, segment: Segment, position: int, header: BatchHeader, batch: memoryview
    ) -> Generator[None, None, bool]:
        """Put the keys of a batch into the map. True if they did not fit; the end is before the first that did not, then."""
        if header.is_control:
            self._transactions.ends_nothing(header, _marker(segment, position, batch))
            return False
        if self._transactions.is_aborted(header) or not header.record_count:
            return False
        first_offset = self._plan.first_dirty_offset
        put = self._keys.put
        with contextlib.suppress(DecodeError):  # copied later on
            entries = iterate_entries(*unpack_batch(batch, UNPACKED_BYTES_MAX))
            for count, (offset, _, key, _, _, _, _) in enumerate(entries):
                if offset >= first_offset and key is not None and not put(key, offset):
                    self._end_offset = offset
                    return True
                if count % RECORDS_PER_LOOK == 0 and self._is_due():
                    yield
        return False

    # The new segments

    def _clean(self, groups: deque[SegmentGroup]) -> Steps:
        """Write what stays of the next segments to a new one, and put that in their place.

        Where no record stays it takes in the next ones as well: librdkafka takes ten answers without a record for one that is too large.
        """
        group = groups.popleft()
        old = group.segments
        output = _Output(Segment(old[0].pool, self._log.directory, old[0].base_offset), self._log)
        try:
            is_changed = len(old) > 1
            while True:
                self._check_room(group)
                has_changed, tail = yield from self._copy(group.segments, output)
                is_changed = is_changed or has_changed
                if output.record_count or not groups or not _fits(output, len(old), groups[0]):
                    break
                group = groups.popleft()
                old = [*old, *group.segments]
                is_changed = True
            if is_changed:
                if tail is not None:
                    output.add(tail)
                output.finish()
                yield
                if not self._log.config.compact:
                    raise LogChanged("cleanup.policy has changed", path=self._log.directory)
                self._log.replace_segments(old, output.segment, gaps_below_offset=self._gaps_below_offset)
                self.result.read_bytes += sum(segment.size_bytes for segment in old)
                self.result.written_bytes += output.segment.size_bytes
        finally:
            output.discard()

    def _check_room(self, group: SegmentGroup) -> None:
        files = group.segments[0].pool.files
        if files.free_bytes(self._log.directory) < group.size_bytes + FREE_BYTES_MIN:
            raise DiskFull("no room to compact", path=self._log.directory)

    def _copy(
        self, segments: list[Segment], output: "_Output"
    ) -> Generator[None, None, tuple[bool, memoryview | bytearray | None]]:
        """Write what stays of segments. Returns whether that is not all, and what holds the last offset's place if the last batch went."""
        is_changed = False
        tail: memoryview | bytearray | None = None
        for segment in segments:
            for position, header, batch in self._batches(segment):
                left = yield from self._what_stays(segment, position, header, batch)
                if left is not None:
                    output.add(left)
                    self._step_bytes += len(left)
                elif segment is segments[-1] and position + len(batch) == segment.size_bytes:
                    left = tail = _emptied(header, batch)
                is_changed = is_changed or left is not batch
                if self._is_due():
                    yield
        return is_changed, tail

    def _what_stays(
        self, segment: Segment, position: int, header: BatchHeader, batch: memoryview
    ) -> Generator[None, None, memoryview | bytearray | None]:
        """The batch itself where nothing goes, one with fewer records, or None where all go."""
        if header.base_offset >= self._end_offset:
            return batch
        if header.is_control:
            marker = _marker(segment, position, batch)
            if not self._transactions.ends_nothing(header, marker):
                return batch
            horizon_ms = header.delete_horizon_ms
            if marker is None or (horizon_ms is not None and horizon_ms <= self._now_ms):
                return self._if_known(header, batch)
            if horizon_ms is not None:
                return batch
        elif self._transactions.is_aborted(header) or not header.record_count:
            return self._if_known(header, batch)
        kept = KeptRecords()
        try:
            data, _ = unpack_batch(batch, UNPACKED_BYTES_MAX)
            yield from self._select(data, header, kept)
        except DecodeError:
            self._note_unreadable(header)
            return batch
        if not kept.count:
            return self._if_known(header, batch)
        if (kept.has_tombstone or header.is_control) and header.delete_horizon_ms is None:
            horizon_ms = min(self._now_ms + self._log.config.delete_retention_ms, INT64_MAX)
            return keep_records_until(data, header, kept, horizon_ms)
        return batch if kept.count == header.record_count else keep_records(data, header, kept)

    def _note_unreadable(self, header: BatchHeader) -> None:
        if not self.result.unreadable_count:
            self.result.first_unreadable_offset = header.base_offset
        self.result.unreadable_count += 1

    def _select(self, data: bytes, header: BatchHeader, kept: KeptRecords) -> Steps:
        """Note in `kept` which records of an unpacked batch stay."""
        end_offset = self._end_offset
        horizon_ms = header.delete_horizon_ms
        drops_tombstones = horizon_ms is not None and horizon_ms <= self._now_ms
        latest = self._keys.get
        for count, entry in enumerate(iterate_entries(data, header)):
            offset, timestamp, key, has_value, start, _, end = entry
            if (
                offset >= end_offset
                or header.is_control
                or (key is not None and (has_value or not drops_tombstones) and offset >= latest(key))
            ):
                kept.keep(timestamp, has_value, start, end)
            if count % RECORDS_PER_LOOK == 0 and self._is_due():
                yield

    def _if_known(self, header: BatchHeader, batch: memoryview) -> memoryview | bytearray | None:
        """The batch without records if it is one by which its producer is known, else None."""
        known = self._known_batches.get(header.producer_id) if header.producer_id >= 0 else None
        if known is None:
            return None
        epoch, last_offsets = known
        is_known = (
            header.last_offset in last_offsets
            if last_offsets
            else header.is_control and header.producer_epoch == epoch
        )
        return _emptied(header, batch) if is_known else None


def _raise_unless_gone(segment: Segment, error: CorruptBatch) -> NoReturn:
    """With a segment that was deleted its epochs were forgotten, so its batches look wrong."""
    if segment.is_gone:
        raise LogChanged("a segment was deleted meanwhile", path=segment.directory) from error
    raise error


class _Output:
    """The new segment while it is written."""

    def __init__(self, segment: Segment, log: Log) -> None:
        self.segment = segment
        self.record_count = 0
        segment.reset_bookkeeping()
        self._interval_bytes = log.config.index_interval_bytes
        self._files = segment.pool.files
        self._pending = bytearray()
        self._written_bytes = self._synced_bytes = 0
        self._is_open = True
        self._file = self._files.open(segment.path + CLEANED_SUFFIX, write=True, create=True)

    def add(self, batch: memoryview | bytearray) -> None:
        """Append a batch. Raises DiskFull, StorageError."""
        header = read_batch_header(batch)
        position = self.size_bytes
        if position + header.size_bytes > SEGMENT_SIZE_BYTES_MAX:
            raise SegmentFull("no int32 holds a position", path=self.segment.path)
        self.segment.book_header(position, header, self._interval_bytes)
        self.record_count += header.record_count
        self._pending += batch
        if len(self._pending) >= WRITE_BYTES:
            self._write()

    @property
    def size_bytes(self) -> int:
        """What was added."""
        return self._written_bytes + len(self._pending)

    def _write(self) -> None:
        if not self._written_bytes:
            self._file.truncate(0)
        write_all(self._file, self._pending, self._written_bytes)
        self._written_bytes += len(self._pending)
        self._pending = bytearray()
        if self._written_bytes - self._synced_bytes >= SYNC_BYTES:
            self._file.datasync()
            self._synced_bytes = self._written_bytes

    def finish(self) -> None:
        """Write what is left, and the indexes; all of it synced on return."""
        self._write()
        self._file.datasync()
        self._close()
        self.segment.size_bytes = self._written_bytes
        self.segment.write_indexes(name_suffix=CLEANED_SUFFIX)

    def discard(self) -> None:
        """Close, and remove what was not put in place."""
        self._close()
        with contextlib.suppress(StorageError):  # opening removes it
            remove_cleaned(self._files, self.segment)

    def _close(self) -> None:
        if self._is_open:
            self._is_open = False
            self._file.close()


def _fits(output: _Output, segment_count: int, group: SegmentGroup) -> bool:
    """Whether a group can go to an output that holds no records yet, if need be all of it."""
    return (
        segment_count + len(group.segments) <= SEGMENTS_PER_SWAP_MAX
        and output.size_bytes + group.size_bytes <= SEGMENT_SIZE_BYTES_MAX
        and group.end_offset - output.segment.base_offset <= RELATIVE_OFFSET_MAX
    )


def _marker(segment: Segment, position: int, batch: memoryview) -> int | None:
    try:
        return control_type(batch)
    except DecodeError as error:
        raise UnreadableRecords(segment.path, position, str(error)) from error


def _emptied(header: BatchHeader, batch: memoryview) -> memoryview | bytearray:
    """The batch without records; itself if it has none."""
    return empty_batch(header) if header.record_count else batch


__all__ = ["Compaction", "CompactionLimits", "CompactionResult"]
