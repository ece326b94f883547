"""The writing half of a log: appends, epochs, syncs, rolls, snapshots, closing.

Owns the offsets, the order of writes and syncs, and what is published to readers when. `Log` adds reading and cutting. Knows neither
leaders nor replicas nor high watermarks.

Invariants:
    - Base offsets of appended batches are contiguous, but for what a leader's compaction took; leader epochs never fall.
    - Where offsets may be missing, `compaction-checkpoint` says so, durably, before they are.
    - A leader epoch is durable in `leader-epoch-checkpoint` before the first batch that bears it is written.
    - A segment is durable before the next one exists: whatever a power cut tears, it tears the last segment only.
    - What was cut off again is durably gone before anything is written in its place: else a power cut could leave sectors of the one among
      those of the other, which nothing tells from damage.
    - `segments` is replaced as a whole, and so are indexes and tails that shrink. An append publishes index and tail entries first, then
      the log end offset, then the segment's size; who reads both takes the size first, so that equal end offsets mean equal sizes.
    - After a failed sync or an unclear write, `failure` is set for good: nothing more is written, nothing is called durable.

Source: Kafka's `UnifiedLog`, `LocalLog`.
"""

import functools
from collections.abc import Callable
from contextlib import suppress
from threading import Lock
from typing import NoReturn

from penstock.protocol.checksum import crc32c
from penstock.protocol.record_batch import (
    LOG_APPEND_TIME_FLAG,
    BatchHeader,
    set_log_append_time,
    stamp,
)
from penstock.runtime.files import (
    DiskFull,
    FileSystem,
    StorageError,
    TooManyOpenFiles,
)
from penstock.storage.batch_walk import ChainRules
from penstock.storage.checkpoint import write_epoch_checkpoint, write_gaps_below
from penstock.storage.errors import (
    LogClosed,
    LogFailed,
    NotRecalled,
    OffsetOutOfRange,
    OutOfOrderSequence,
    ProducerStateError,
    SegmentFull,
    StaleLeaderEpoch,
    missing_is_disk_error,
)
from penstock.storage.layout import (
    DELETED_DIRECTORY_SUFFIX,
    LEADER_EPOCH_CHECKPOINT,
    RELATIVE_OFFSET_MAX,
    parent_directory,
    parse_partition_directory_name,
    put_aside_directory_name,
)
from penstock.storage.log_config import LogConfig
from penstock.storage.log_state import AppendInfo, OpenedState
from penstock.storage.producer_recovery import recall
from penstock.storage.producer_state import AppendedBatch
from penstock.storage.segment import TAIL_BATCHES_MIN, HotTail, Segment
from penstock.storage.short_writes import complete_write
from penstock.storage.snapshot_files import SnapshotFiles

NO_TIMESTAMP = -1


class LogWriter:
    """See the module. Used as `Log` only."""

    _roll_above_bytes = 0  # segment.bytes; -1 while a roll has begun and not succeeded

    def __init__(self, state: OpenedState) -> None:
        self.directory = state.directory
        self.topic_id = state.topic_id
        self.report = state.report
        self._pool = state.pool
        self._files: FileSystem = state.pool.files
        self._segments = state.segments
        self._active = state.segments[-1]
        self._log_start_offset = state.log_start_offset
        self._log_end_offset = state.log_end_offset
        self._durable_end_offset = state.log_end_offset
        self._epochs = state.epochs
        self._epoch_on_disk = state.epochs_on_disk
        self._producers = state.producers
        self._snapshots = SnapshotFiles(self._files, self.directory, state.snapshot_offsets)
        self._epochs_lock = Lock()
        self._gaps_below = state.gaps_below
        self._rules_lock = Lock()
        self._failure: StorageError | None = None
        self._largest_timestamp_ms = self._active.largest_timestamp_ms
        self._changed = state.needs_writing
        self._truncation_count: int = 0
        self._cut_count = self._durable_cut_count = 0
        """How often a part of a batch was cut off again, and how often of these durably: what lies behind a closed segment's last batch is damage.
        A segment that gets another file, or lets go of its own, is durable then (and is synced once more before the next append)."""
        self.near_records = 0
        """Who is no more records behind the end is not far (`Log.is_far`); as of the latest time when that was asked in this segment."""
        self._worker_lock = Lock()
        self.config = state.config
        if self._active.tail is None:
            self._active.tail = HotTail(self._log_end_offset)

    # Properties: no I/O

    @property
    def config(self) -> LogConfig:
        """The settings; setting them holds for what comes from now on."""
        return self._config

    @config.setter
    def config(self, config: LogConfig) -> None:
        self._config = config
        if self._roll_above_bytes >= 0:
            self._roll_above_bytes = config.segment_bytes
        jitter_ms = min(config.segment_jitter_ms, config.segment_ms)
        self._roll_after_ms = config.segment_ms - crc32c(self.directory.encode()) % (jitter_ms + 1)
        self._log_append_time = config.log_append_time
        self._index_interval_bytes = config.index_interval_bytes
        self._producers.configure(
            expiration_ms=config.producer_id_expiration_ms, count_max=config.producer_id_count_max
        )
        self._allow_gaps(0)

    @missing_is_disk_error()
    def _allow_gaps(self, below_offset: int) -> None:
        """Let offsets below this one be missing, too, from now on; durable on return. Raises StorageError."""
        if below_offset > self._gaps_below:
            write_gaps_below(self._files, self.directory, below_offset)
        with self._rules_lock:  # the config may be set meanwhile
            self._gaps_below = max(self._gaps_below, below_offset)
            self._rules = ChainRules(self._gaps_below, self._epochs.epoch_at, self._index_interval_bytes)

    def _forbid_gaps_above(self, offset: int) -> None:
        """From that offset on nothing is left in which compaction has been. A full disk may leave the rule as mild as it was."""
        if offset < self._gaps_below:
            with suppress(DiskFull, TooManyOpenFiles):
                write_gaps_below(self._files, self.directory, offset)
                with self._rules_lock:
                    self._gaps_below = offset
                self._allow_gaps(0)

    @property
    def rules(self) -> ChainRules:
        """What holds from batch to batch in this log."""
        return self._rules

    @property
    def log_start_offset(self) -> int:
        """The first offset that may be read. Never falls."""
        return self._log_start_offset

    @property
    def log_end_offset(self) -> int:
        """The offset that the next record gets."""
        return self._log_end_offset

    @property
    def durable_end_offset(self) -> int:
        """Everything below survives a power cut: it was covered by a completed sync."""
        return self._durable_end_offset

    @property
    def size_bytes(self) -> int:
        """Of all segments' batches, indexes not counted."""
        return sum(segment.size_bytes for segment in self._segments)

    @property
    def segments(self) -> tuple[Segment, ...]:
        """All segments, oldest first; the last is active."""
        return self._segments

    @property
    def latest_epoch(self) -> int:
        """The latest leader epoch; -1 before the first."""
        return self._epochs.latest

    @property
    def epoch_entries(self) -> tuple[tuple[int, int], ...]:
        """(leader epoch, start offset), oldest first."""
        return self._epochs.entries

    def epoch_at(self, offset: int) -> int:
        """The leader epoch that `offset` lies in; -1 below the first."""
        return self._epochs.epoch_at(offset)

    @property
    def largest_timestamp_ms(self) -> int:
        """The largest record timestamp of the active segment at opening and of all that was appended since; -1 if none."""
        return self._largest_timestamp_ms

    @property
    def producer_count(self) -> int:
        """How many idempotent producers are remembered."""
        return len(self._producers)

    @property
    def failure(self) -> StorageError | None:
        """Why the log is offline; None while it is not."""
        return self._failure

    # Appending: event loop

    def needs_roll(
        self, size_bytes: int, max_timestamp_ms: int, now_ms: int, *, last_offset_delta: int = 0
    ) -> bool:
        """Whether `roll` must come before a batch of that size, largest timestamp and offset span is appended.

        So when the batch would lift the segment over `segment.bytes`, the segment's first batch is more than `segment.ms` older (by
        record timestamps; by `now_ms` where the first batch has none), an index is full, or a relative offset would pass int32.
        """
        segment, config = self._active, self._config
        size = segment.size_bytes
        if size == 0:
            return False
        if size > self._roll_above_bytes - size_bytes:
            return True
        first = segment.rolling_timestamp_ms
        if first is None:
            first = segment.first_timestamp_ms()
        if first >= 0 and max_timestamp_ms - first > self._roll_after_ms:
            return True
        if self._log_end_offset + last_offset_delta - segment.base_offset > RELATIVE_OFFSET_MAX:
            return True
        indexes = segment.indexes
        assert indexes is not None
        # one entry is left for the last largest timestamp, which closing adds
        return (
            indexes.by_offset.size_bytes + 8 > config.segment_index_bytes
            or indexes.by_time.size_bytes + 24 > config.segment_index_bytes
        )

    def append_as_leader(
        self,
        batch: memoryview,
        header: BatchHeader,
        *,
        leader_epoch: int,
        now_ms: int,
        begins_at_zero: bool = False,
    ) -> AppendInfo:
        """Give a checked batch the next offsets and this epoch, in place, and write it.

        In the page cache on return; durable when `durable_end_offset` has passed it. `header` is the batch's own; after a LogAppendTime
        stamp its timestamps are stale. The first append in a new epoch also writes and syncs the epoch checkpoint; the one after DiskFull
        syncs the log first.

        `begins_at_zero`: a producer of which the log knows nothing is refused unless it begins with sequence 0.

        Raises:
            OutOfOrderSequence, InvalidProducerEpoch: the producer's fault, nothing appended.
            DiskFull, TooManyOpenFiles: nothing appended, the log is as before.
            NotRecalled: nothing appended; see `must_recall`.
            SegmentFull: nothing appended; `needs_roll` was not asked, or without the offset span.
            LogFailed: the log is offline, or has just gone offline by this write.
            StaleLeaderEpoch: `leader_epoch` is below the log's latest.
        """
        if self._failure is not None:
            self._raise_failure()
        has_producer = header.producer_id >= 0
        if has_producer:
            try:
                repeated = self._producers.check(header, begins_at_zero=begins_at_zero)
            except OutOfOrderSequence:
                if self._producers.must_recall(header):
                    raise NotRecalled("a snapshot does not hold the last five batches") from None
                raise
            if repeated is not None:
                return self._duplicate(repeated)
        if leader_epoch != self._epoch_on_disk:
            self._enter_epoch(leader_epoch, self._log_end_offset)
        log_append_time_ms = NO_TIMESTAMP
        max_timestamp_ms = header.max_timestamp
        if self._log_append_time:
            if not header.attributes & LOG_APPEND_TIME_FLAG:
                set_log_append_time(batch, now_ms)
                max_timestamp_ms = now_ms
            log_append_time_ms = max_timestamp_ms
        base_offset = self._log_end_offset
        last_offset = base_offset + header.last_offset_delta
        stamp(batch, base_offset, leader_epoch)
        position = self._write(batch, last_offset, max_timestamp_ms)
        if has_producer:
            self._producers.update(header, base_offset, now_ms)
        return AppendInfo(base_offset, last_offset, log_append_time_ms, False, position)

    def start_leader_epoch(self, epoch: int) -> None:
        """Let `epoch` begin at the log end offset. In memory: it reaches the disk before the first batch that bears it."""
        self._epochs.assign(epoch, self._log_end_offset)

    @missing_is_disk_error()
    def prepare_append(self, leader_epoch: int) -> None:
        """Do on a worker what the first append in an epoch would otherwise do itself: open the file, sync a cut, write the epoch checkpoint.

        The caller holds appends back. Raises what `append_as_leader` raises.
        """
        if self._failure is not None:
            self._raise_failure()
        if leader_epoch != self._epoch_on_disk:
            self._enter_epoch(leader_epoch, self._log_end_offset)
        self.open_active_file()

    @missing_is_disk_error()
    def open_active_file(self) -> None:
        """Open the active segment's file, to stay open, and sync a cut: what a follower's append would otherwise do itself. Worker; raises alike."""
        if self._active.file is None:
            self._active.open_for_append()
        self._active.first_timestamp_ms()
        if self._must_sync_cut:
            self.sync()

    def advance_log_start_offset(self, offset: int) -> None:
        """Let the log begin at `offset` from now on; below the present one it changes nothing. Raises OffsetOutOfRange past the end."""
        if offset > self._log_end_offset:
            raise OffsetOutOfRange(offset, self._log_start_offset, self._log_end_offset)
        self._log_start_offset = max(self._log_start_offset, offset)

    def _write(self, batch: memoryview, last_offset: int, max_timestamp_ms: int) -> int:
        segment = self._active
        file = segment.file
        if file is None:
            with missing_is_disk_error():
                file = segment.open_for_append()
        position = segment.size_bytes
        size_bytes = len(batch)
        if last_offset - segment.base_offset > RELATIVE_OFFSET_MAX:
            raise SegmentFull(
                "no int32 holds the offset's distance from the segment's base", path=segment.path
            )
        if self._must_sync_cut:
            self.sync()
        try:
            written = file.pwrite(batch, position)
            if written != size_bytes:
                complete_write(file, batch, position, written)
        except StorageError as error:
            self._write_failed(error, position)
        end_position = position + size_bytes
        segment.note_appended(
            end_position, size_bytes, last_offset, max_timestamp_ms, self._index_interval_bytes
        )
        tail = segment.tail
        assert tail is not None
        tail.positions.append(position)
        tail.end_offsets.append(last_offset + 1)
        if len(tail.end_offsets) >= 2 * TAIL_BATCHES_MIN:
            segment.tail = tail.trimmed()
        self._largest_timestamp_ms = max(self._largest_timestamp_ms, max_timestamp_ms)
        self._changed = True
        self._log_end_offset = last_offset + 1
        segment.size_bytes = end_position
        return position

    @property
    def _must_sync_cut(self) -> bool:
        """Whether a sync must come before the next write: a part of a batch was cut off, and a power cut could bring it back."""
        return self._cut_count != self._durable_cut_count

    def _write_failed(self, error: StorageError, position: int) -> NoReturn:
        """Cut a part of the batch off again, so that the next append is contiguous (PROPERTIES D12)."""
        file = self._active.file
        assert file is not None
        if isinstance(error, DiskFull):
            try:
                file.truncate(position)
            except StorageError as second:
                self._fail(second)
            self._cut_count += 1
            raise error
        self._fail(error)

    def must_recall(self, header: BatchHeader) -> bool:
        """Whether `recall_producer` must come first: the batch is out of order, by what is known without asking the disk. No I/O."""
        return self._producers.must_recall(header)

    def repeats(self, header: BatchHeader) -> bool:
        """Whether the log has the batch already, by what is known without asking the disk. No I/O."""
        if header.producer_id < 0:
            return False
        try:
            return self._producers.check(header) is not None
        except ProducerStateError:
            return False

    def recall_producer(self, header: BatchHeader) -> None:
        """Look in the log for the last batches of this producer, at most once after opening. Worker; appends are held back."""
        recall(self._producers, self._segments, header, self._rules)

    def _duplicate(self, first: AppendedBatch) -> AppendInfo:
        time_ms = first.timestamp_ms if self._log_append_time else NO_TIMESTAMP
        return AppendInfo(first.base_offset, first.last_offset, time_ms, True, -1)

    def _enter_epoch(self, epoch: int, start_offset: int) -> None:
        """Make sure that `epoch` is the latest in the checkpoint on disk."""
        if epoch < self._epochs.latest:
            raise StaleLeaderEpoch(f"leader epoch {epoch} after {self._epochs.latest}")
        self._epochs.assign(epoch, start_offset)
        self._write_epochs()

    def _write_epochs(self) -> None:
        # a segment deletion on a worker may write it at the same time as the first append of an epoch
        with self._epochs_lock:
            entries, path = self._epochs.entries, f"{self.directory}/{LEADER_EPOCH_CHECKPOINT}"
            try:
                with missing_is_disk_error():
                    write_epoch_checkpoint(self._files, path, entries)
            except (DiskFull, TooManyOpenFiles):
                raise
            except StorageError as error:
                self._fail(error)
            self._epoch_on_disk = entries[-1][0] if entries else -1

    def _fail(self, error: StorageError) -> NoReturn:
        if self._failure is None:
            self._failure = error
        raise LogFailed(f"the log is offline: {error}", path=self.directory) from error

    def _check_usable(self) -> None:
        if self._failure is not None:
            self._raise_failure()

    def _raise_failure(self) -> NoReturn:
        if isinstance(self._failure, LogClosed):
            raise self._failure
        raise LogFailed(f"the log is offline: {self._failure}", path=self.directory) from self._failure

    # Workers

    def sync(self) -> int:
        """Make everything appended before the call durable; returns the new `durable_end_offset`. Runs beside appends.

        Raises LogFailed: this sync or an earlier write failed. It is final (PROPERTIES D11).
        """
        with self._worker_lock:
            return self._sync()

    def _sync(self) -> int:
        if self._failure is not None:
            self._raise_failure()
        cut_count = self._cut_count
        target = self._log_end_offset
        file = self._active.file
        if target > self._durable_end_offset or (self._must_sync_cut and file is not None):
            assert file is not None, "appended to, so it is open"
            try:
                file.datasync()
            except StorageError as error:
                self._fail(error)
            self._durable_end_offset = target
            self._durable_cut_count = cut_count
        return self._durable_end_offset

    @missing_is_disk_error()
    def roll(self) -> None:
        """Close the active segment and begin a new one at the log end offset; does nothing to an empty segment.

        Everything appended before is durable on return. Raises DiskFull, TooManyOpenFiles or another StorageError with the log unchanged,
        and `needs_roll` says yes until a roll has succeeded; LogFailed if a sync failed.
        """
        with self._worker_lock:
            self._sync()
            old = self._active
            if old.size_bytes == 0:
                return
            old.write_indexes()
            self._write_snapshot()
            # Until this has succeeded, nothing may come behind it in the old segment: an empty one in the middle would look like damage.
            self._roll_above_bytes = -1
            new = self._new_segment(self._log_end_offset)
            self._create_file(new)
            if old.file is not None:
                new.open_for_append()
            self._publish((*self._segments, new))
            self._roll_above_bytes = self._config.segment_bytes
            self._retire_tail(old)
            self.near_records = 0

    def _new_segment(self, base_offset: int) -> Segment:
        """An empty segment to be appended to, without its file."""
        segment = Segment(self._pool, self.directory, base_offset)
        segment.reset_bookkeeping()
        segment.tail = HotTail(base_offset)
        return segment

    def _create_file(self, segment: Segment) -> None:
        """Make the file of a new segment, durable in the directory."""
        file = self._files.open(segment.path, write=True, create=True)
        try:
            file.truncate(0)
        finally:
            file.close()
        try:
            self._files.sync_directory(self.directory)
        except (DiskFull, TooManyOpenFiles):
            raise
        except StorageError as error:
            self._fail(error)

    def _publish(self, segments: tuple[Segment, ...]) -> None:
        self._segments = segments
        self._active = segments[-1]

    def _retire_tail(self, closed: Segment) -> None:
        """Let a segment that was active go the way of the closed ones; its tail serves the readers just behind until the next roll."""
        closed.file = None
        self._pool.unpin(closed)
        if closed.indexes is not None:
            self._pool.note_indexes(closed, closed.indexes.size_bytes)
        if len(self._segments) > 2:
            self._segments[-3].tail = None

    @missing_is_disk_error()
    def write_producer_snapshot(self) -> None:
        """Write `<log end offset>.snapshot`, durable on return. Appends are held back. Raises StorageError."""
        with self._worker_lock:
            self._write_snapshot()

    def _write_snapshot(self) -> bool:
        """Write the snapshot and sync the directory; False if the snapshot is there already."""
        bases = [segment.base_offset for segment in self._segments]
        return self._snapshots.write(self._log_end_offset, self._producers.encode_snapshot, bases)

    def expire_producers(self, now_ms: int) -> int:
        """Forget producers idle for `producer.id.expiration.ms`; returns how many. Event loop; not beside an append or what holds appends back."""
        return self._producers.expire(now_ms)

    @missing_is_disk_error()
    def close(self) -> None:
        """Sync, write indexes and the producer snapshot, close the files: after this a clean open finds everything.

        Slices stay readable until released. Closing twice is allowed.

        Raises LogFailed when the log had failed or the last sync does: then this log was not closed cleanly, but its files are closed.
        """
        with self._worker_lock:
            if isinstance(self._failure, LogClosed):
                return
            try:
                self._sync()
                if self._changed:
                    self._active.write_indexes()
                    if not self._write_snapshot():
                        self._files.sync_directory(self.directory)
            finally:
                self._close_files()

    def delete(self, *, is_durable: bool = True) -> Callable[[], None]:
        """Take the log out of use and rename its directory to `*-delete`, durably, so that a new log can take its name.

        With `is_durable=False` the caller syncs the data directory, for many logs at once. Returns the function that removes the files; they are removed at the next start if it is never called. Slices stay readable
        until released. Raises StorageError.
        """
        target = self.put_aside(DELETED_DIRECTORY_SUFFIX, is_durable=is_durable)
        return functools.partial(self._files.remove_tree, target)

    @missing_is_disk_error()
    def put_aside(self, suffix: str, *, is_durable: bool = True) -> str:
        """Take the log out of use and rename its directory, durably, to a name of that suffix that nobody has; returns its new path. As `delete`."""
        with self._worker_lock:
            for segment in self._segments:
                segment.is_gone = True
            self._close_files()
            name = self.directory.rpartition("/")[2]
            parent = parent_directory(self.directory)
            parsed = parse_partition_directory_name(name)
            topic, partition = parsed if parsed is not None else (name, 0)
            unique, number = self.topic_id.hex(), 0
            while self._files.exists(
                target := f"{parent}/{put_aside_directory_name(topic, partition, unique, suffix)}"
            ):
                number += 1  # it was here before, and was moved away and back within the deletion's delay
                unique = f"{self.topic_id.hex()}_{number}"
            self._files.rename(self.directory, target)
            if is_durable:
                self._files.sync_directory(parent)
        return target

    def _close_files(self) -> None:
        if self._failure is None:
            self._failure = LogClosed("the log is closed", path=self.directory)
        for segment in self._segments:
            segment.file = None
            self._pool.retire(segment)
            self._pool.forget_indexes(segment)


__all__ = ["AppendInfo", "LogWriter"]
