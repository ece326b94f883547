"""The log of one partition: a row of segments, of which the last is appended to.

Owns what may be read and what is cut off, at either end; `log_writer` owns appending, `log_follower` a follower's. Knows neither leaders nor replicas nor high
watermarks: what may be read ends where the caller says. Opening is in `recovery`, lookups are in `log_reader` and `time_lookup`.

Who may call what (DESIGN section 5). The event loop: properties, `needs_roll`, `must_recall`, `append_*`, `read(resident_only=True)`,
`start_leader_epoch`, `advance_log_start_offset`, and between two appends `expire_producers`. Workers: everything else; those take turns by a lock of the log. `sync`,
`put_oldest_segment_away`,
`replace_segments` and reads run beside appends; during `roll`, `truncate_*`, `prepare_append`, `recall_producer`, `write_producer_snapshot` and `close` the
caller holds appends back.

Invariants, besides those of `log_writer`:
    - A slice stays whole: the bytes it holds are never cut or overwritten. Segments that go keep their file until the last slice is
      released, and a segment that is cut while a slice holds it goes on in a copy.
    - The log start offset never falls, but in `truncate_fully_and_start_at`.
    - Segments that were compacted into one are the log until that one is, durably, and gone when it is (`segment_swap`).
    - Segments go from the oldest on when deleted and from the newest on when truncated, one directory sync each: no crash leaves a hole.

Source: Kafka's `UnifiedLog`, `LocalLog`.
"""

from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import NamedTuple

from penstock.runtime.files import DiskError, DiskFull, FileSystem, StorageError, TooManyOpenFiles, write_all
from penstock.storage import recovery, time_lookup
from penstock.storage.batch_walk import walk_batches
from penstock.storage.errors import CorruptBatch, OffsetOutOfRange, missing_is_disk_error
from penstock.storage.layout import (
    DELETED_SUFFIX,
    LOG_SUFFIX,
    SAVED_SUFFIX,
    SEGMENT_SUFFIXES,
    TEMPORARY_SUFFIX,
    segment_file_name,
)
from penstock.storage.log_config import LogConfig
from penstock.storage.log_reader import ReadRequest, Segments, floor_segment, is_far, locate_end, read_slice
from penstock.storage.log_slice import LogSlice, empty_slice
from penstock.storage.log_state import OpenReport
from penstock.storage.log_writer import AppendInfo
from penstock.storage.producer_recovery import load_producers
from penstock.storage.segment import HotTail, Segment, write_durably
from penstock.storage.segment_files import SegmentFiles
from penstock.storage.segment_indexes import book_to_end, ensure_indexes, resume_indexes
from penstock.storage.segment_swap import SegmentSwapper
from penstock.storage.time_lookup import TimestampOffset


class RemovedSegment(NamedTuple):
    """A segment that has left its log, and its files as they are called now."""

    base_offset: int
    size_bytes: int
    paths: tuple[str, ...]


class Log(SegmentSwapper):
    """See the module. Made by `create_log` and `open_log`."""

    _half_put_away: tuple[Segment, ...] = ()
    """Segments that are out of the log, and whose files an error has left under their names."""

    # Reading

    def read(self, offset: int, max_bytes: int, end_offset: int, *, resident_only: bool) -> LogSlice:
        """The bytes from the batch that contains `offset` on: at most `max_bytes`, at least one whole batch, from one segment.

        `end_offset` (exclusive) is at a batch boundary, and nothing at or past it is returned; the slice is empty if `offset` is not below
        it. The last batch may be cut by `max_bytes`. The caller must release the slice.

        `resident_only=True` is for the event loop and never waits for the disk; near the end it makes no system call. With False (on a
        worker) the range is read and verified.

        Raises:
            OffsetOutOfRange: `offset` is below the log start offset or above the log end offset.
            NotResident: only if asked to: the answer needs the disk, or the range has not been verified since opening.
            CorruptBatch: the range is damaged.
            LogFailed, StorageError
        """
        while True:
            if self._failure is not None:
                self._raise_failure()
            segments = self._segments
            size_bytes = segments[-1].size_bytes
            log_end_offset = self._log_end_offset
            if offset < self._log_start_offset or offset > log_end_offset:
                raise OffsetOutOfRange(offset, self._log_start_offset, log_end_offset)
            if offset >= end_offset:
                return empty_slice()
            truncation_count = self._truncation_count
            ends_at_size = size_bytes if end_offset >= log_end_offset else -1
            request = ReadRequest(offset, max_bytes, end_offset, ends_at_size, resident_only, self._rules)
            try:
                found = read_slice(segments, request)
            except (FileNotFoundError, CorruptBatch) as error:
                self._require_change(segments, truncation_count, error)
                continue
            if self._truncation_count == truncation_count:
                return found
            found.release()

    def is_far(self, offset: int) -> bool:
        """Whether `offset`, which is in the log, is so far from its end that hardly two readers are there at once. No system call."""
        if is_far(self._segments, offset, self._pool.far_bytes):
            return True
        self.near_records = max(self.near_records, self._log_end_offset - offset)
        return False

    def _require_change(self, segments: Segments, truncation_count: int, error: Exception) -> None:
        """Return if the segments have changed under a reader, who then begins anew; raise `error` if they have not."""
        if self._segments is not segments or self._truncation_count != truncation_count:
            return
        if isinstance(error, FileNotFoundError):
            with self._worker_lock:  # a compaction may be putting another segment in the place of this one
                if self._segments is not segments:
                    return
            raise DiskError(f"a segment's file is missing: {error}", path=self.directory) from error
        raise error

    def find_by_timestamp(self, timestamp_ms: int, end_offset: int) -> TimestampOffset | None:
        """The first record at or above the log start offset and below `end_offset` with a timestamp of at least `timestamp_ms`.

        None if there is none. Worker. Raises CorruptBatch, LogFailed, StorageError.
        """
        return self._look_up(
            lambda segments: time_lookup.find_by_timestamp(
                segments, timestamp_ms, self._log_start_offset, end_offset, self._rules
            )
        )

    def max_timestamp(self, end_offset: int) -> TimestampOffset | None:
        """The first of the records with the largest timestamp below `end_offset`; None if there is none. Worker; raises alike."""
        return self._look_up(
            lambda segments: time_lookup.max_timestamp(
                segments, self._log_start_offset, end_offset, self._rules
            )
        )

    def _look_up(self, search: Callable[[Segments], TimestampOffset | None]) -> TimestampOffset | None:
        while True:
            self._check_usable()
            segments = self._segments
            truncation_count = self._truncation_count
            try:
                return search(segments)
            except (FileNotFoundError, CorruptBatch) as error:
                self._require_change(segments, truncation_count, error)

    def end_offset_for_epoch(self, epoch: int) -> tuple[int, int]:
        """The largest leader epoch at or below `epoch`, and its end offset (exclusive); (-1, -1) if unknown (KIP-101, KIP-279)."""
        return self._epochs.end_offset_for(epoch, self._log_end_offset)

    # Saving: workers

    def release_active_file(self) -> None:
        """Sync, and let the active segment's file be closed until the next append, or `prepare_append`, opens it again.

        The caller holds appends back. The file counts as one of the closed segments from then on. Raises LogFailed, with the file let go, too.
        """
        with self._worker_lock:
            try:
                if self._failure is None:
                    self._sync()
            finally:
                self._active.file = None
                self._pool.unpin(self._active)

    @property
    def unsaved_bytes(self) -> int:
        """How much of the active segment an unclean open would have to walk through; 0 if nothing was appended since opening."""
        return self._active.size_bytes - self._active.saved_bytes if self._changed else 0

    def encode_producers(self) -> tuple[int, bytes]:
        """The log end offset, and the content of a producer snapshot as of there. Appends are held back."""
        return self._log_end_offset, self._producers.encode_snapshot()

    @missing_is_disk_error()
    def save_indexes(self, snapshot_offset: int, snapshot: bytes) -> None:
        """Write the active segment's indexes as they are now, and what `encode_producers` gave.

        An unclean open then begins near the recovery point instead of at the segment's start. Runs beside appends, and syncs of this log wait
        for the renames only. If the segment is closed or cut meanwhile nothing is changed. Raises StorageError.
        """
        segment = self._active
        size_bytes = segment.size_bytes
        moves = segment.write_index_copies(SAVED_SUFFIX)
        path = self._snapshots.path(snapshot_offset)
        write_durably(self._files, path + SAVED_SUFFIX, snapshot)
        moves.append((path + SAVED_SUFFIX, path))
        with self._worker_lock:
            if self._active is segment and self._failure is None:
                for source, target in moves:
                    self._files.rename(source, target)
                segment.saved_bytes = size_bytes
                self._snapshots.offsets.add(snapshot_offset)
                self._snapshots.keep(each.base_offset for each in self._segments)
                return
        self.remove_files(source for source, _ in moves)

    # Cutting: workers

    def delete_old_segments(self) -> int:
        """Delete the segments that lie wholly below the log start offset, and their files at once; returns how many. Raises alike."""
        count = 0
        while (removed := self.put_oldest_segment_away()) is not None:
            self.remove_files(removed.paths)
            count += 1
        return count

    @missing_is_disk_error()
    def put_oldest_segment_away(self) -> RemovedSegment | None:
        """Take the oldest segment out of the log and rename its files to `*.deleted`, durably; None if there is none to go.

        One goes if it lies wholly below the log start offset, and never the active one. Runs beside appends; one for each call, so that a
        sync has not to wait for many. The log start offset is to be durable in its checkpoint before; where no checkpoint can be written the
        first segment that is left says where the log begins. Files with the new names are removed when the log is opened the next time.
        Raises StorageError, LogFailed.
        """
        with self._worker_lock:
            self._check_usable()
            self._finish_putting_away()
            segments = self._segments
            if len(segments) < 2 or segments[1].base_offset > self._log_start_offset:
                return None
            self._segments = segments[1:]
            paths = self._put_away(segments[0])
            self._snapshots.forget(below_offset=segments[1].base_offset)
            is_last = len(segments) == 2 or segments[2].base_offset > self._log_start_offset
            if is_last and self._epochs.truncate_from_start(segments[1].base_offset):
                # else the file names epochs of what has gone, which does no harm: to go is what a full disk needs
                with suppress(DiskFull, TooManyOpenFiles):
                    self._write_epochs()
            return RemovedSegment(segments[0].base_offset, segments[0].size_bytes, tuple(paths))

    def remove_files(self, paths: Iterable[str]) -> None:
        """Remove files that were put away; no error for those that are missing. Worker. Raises StorageError."""
        for path in paths:
            self._files.unlink(path)

    def truncate_to(self, offset: int) -> None:
        """Cut off everything at `offset` and above: the log end offset becomes `offset`, or the start of the batch that contains it, but never below the log start offset.

        The caller holds appends back, and has lowered the recovery-point checkpoint if it was above. Durable on return. At or above the log end
        offset no record goes, but an epoch that began there does: it has no batch, and another replica may know better what is there.

        Raises:
            OffsetOutOfRange: `offset` is below the log start offset.
            LogFailed: the disk failed in between, or the log was offline.
        """
        with self._worker_lock:
            self._check_usable()
            if offset >= self._log_end_offset:
                self._forget_empty_epochs()
                return
            if offset < self._log_start_offset:
                raise OffsetOutOfRange(offset, self._log_start_offset, self._log_end_offset)
            try:
                with missing_is_disk_error():
                    self._forget_failed_roll()
                    self._truncate(offset)
            except StorageError as error:
                self._fail(error)

    def _forget_empty_epochs(self) -> None:
        if self._epochs.truncate_from_end(self._log_end_offset):
            self._write_epochs()

    def _forget_failed_roll(self) -> None:
        """Remove the file that a roll which failed half-way may have left at the log end offset: after a cut nothing leads up to it."""
        if self._roll_above_bytes < 0:
            self._files.unlink(f"{self.directory}/{segment_file_name(self._log_end_offset, LOG_SUFFIX)}")
            self._files.sync_directory(self.directory)
            self._roll_above_bytes = self._config.segment_bytes

    def _truncate(self, offset: int) -> None:
        number = floor_segment(self._segments, offset)
        old = self._segments[number]
        end_offset, end_position = locate_end(old, offset, self._rules)
        if end_offset < self._log_start_offset:
            # The batch that goes reaches below the log start; nothing that may be read is left.
            self._epochs.truncate_from_end(self._log_start_offset)
            self._start_over_at(self._log_start_offset, self._log_start_offset)
            return
        cut = self._cut_segment(old, end_offset, end_position)
        gone = self._segments[number + 1 :]
        self._truncation_count += 1
        self._log_end_offset = end_offset
        self._durable_end_offset = min(self._durable_end_offset, end_offset)
        self._publish((*self._segments[:number], cut))
        self._changed = True
        for segment in reversed(gone):
            self._remove_segment(segment)
        self._cut_file(old, end_position)
        # A reader may have opened the path as the cut segment's while the longer file was still there.
        self._pool.retire(cut)
        self._durable_end_offset = end_offset
        cut.write_indexes()
        self._forget_empty_epochs()
        self._forbid_gaps_above(end_offset)
        self._reload_producers()

    def _cut_segment(self, old: Segment, end_offset: int, end_position: int) -> Segment:
        """The shorter, active segment in place of `old`, in memory."""
        indexes = ensure_indexes(old, self._rules) if old.indexes is None else old.indexes
        cut = Segment(self._pool, self.directory, old.base_offset, end_position)
        cut.trusted_from = min(old.trusted_from, end_position)
        cut.tail = HotTail(end_offset)
        shared = self._pool.acquire(old)
        try:
            position, _ = resume_indexes(cut, shared.file, indexes, end_position, end_offset)
            book_to_end(cut, shared.file, position, end_position, self._rules)
        finally:
            self._pool.release(shared)
        return cut

    def _cut_file(self, old: Segment, size_bytes: int) -> None:
        """Shorten a segment's file, or replace it by a shorter copy where a slice still reads it. Durable on return."""
        old.is_gone = True
        old.file = None
        self._pool.forget_indexes(old)
        held = self._pool.retire(old)
        file = self._files.open(old.path, write=True)
        try:
            if not held:
                file.truncate(size_bytes)
                file.datasync()
                return
            temporary = old.path + TEMPORARY_SUFFIX
            copy = self._files.open(temporary, write=True, create=True)
            try:
                copy.truncate(0)
                for position, _, batch in walk_batches(file, 0, size_bytes):
                    write_all(copy, batch, position)
                copy.datasync()
            finally:
                copy.close()
        finally:
            file.close()
        self._files.rename(temporary, old.path)
        self._files.sync_directory(self.directory)

    def truncate_fully_and_start_at(self, offset: int, *, log_start_offset: int = -1) -> None:
        """Drop everything and go on, empty, at `offset`, which is the log start offset then too. Durable on return.

        A `log_start_offset` above is kept for a log that is about to get the batch in whose middle it begins. The caller holds appends back
        and has lowered the checkpoints to 0 (that of log starts to the new one): what a kill leaves may end at any segment's beginning. Raises LogFailed.
        """
        with self._worker_lock:
            self._check_usable()
            self._epochs.clear()
            try:
                with missing_is_disk_error():
                    self._forget_failed_roll()
                    self._start_over_at(offset, max(offset, log_start_offset))
                    self._forbid_gaps_above(offset)
            except StorageError as error:
                self._fail(error)

    def _start_over_at(self, offset: int, log_start_offset: int) -> None:
        self._finish_putting_away()
        gone = self._segments
        new = self._new_segment(offset)
        self._truncation_count += 1
        self._log_start_offset = log_start_offset
        self._log_end_offset = offset
        self._durable_end_offset = 0  # nothing is sure to be there before the new file is
        self._publish((new,))
        for segment in reversed(gone):
            self._remove_segment(segment)
        self._create_file(new)
        self._durable_end_offset = offset
        self._write_epochs()
        self._reload_producers()

    def _reload_producers(self) -> None:
        """Make the producer state that of the log as it is now."""
        now_ms = max((entry.last_timestamp_ms for entry in self._producers.entries()), default=0)
        load_producers(
            self._producers,
            self._segments,
            self._snapshots.offsets,
            log_end_offset=self._log_end_offset,
            now_ms=now_ms,
            rules=self._rules,
        )

    def _remove_segment(self, segment: Segment) -> None:
        """Delete a segment's files; they are out of the way by rename, durably, before any is removed."""
        self.remove_files(self._put_away(segment))

    def _put_away(self, segment: Segment) -> list[str]:
        """Rename a segment's files, durably; returns their new paths. After an error it is done again before any other segment goes."""
        segment.is_gone = True
        segment.file = None
        self._pool.retire(segment)
        self._pool.forget_indexes(segment)
        self._half_put_away = (segment, *self._half_put_away)
        paths = [segment.file_path(suffix) for suffix in SEGMENT_SUFFIXES]
        existing = [path for path in paths if self._files.exists(path)]
        for path in existing:
            self._files.rename(path, path + DELETED_SUFFIX)
        self._files.sync_directory(self.directory)
        self._half_put_away = self._half_put_away[1:]
        return [path + DELETED_SUFFIX for path in existing]

    def _finish_putting_away(self) -> None:
        """Take what an error has left of a segment out of the way: else it would lie before a gap once those behind it have gone."""
        while self._half_put_away:
            segment, *rest = self._half_put_away
            self._half_put_away = tuple(rest)
            self._remove_segment(segment)


def create_log(
    files: FileSystem,
    directory: str,
    topic_id: bytes,
    config: LogConfig,
    *,
    pool: SegmentFiles | None = None,
    log_start_offset: int = 0,
) -> Log:
    """Make a new, empty log in a directory that holds none; durable on return. Worker.

    `pool` bounds the open files of all logs of a process; without one the log gets its own. Raises StorageError.
    """
    recovery.make_directory(files, directory, topic_id, log_start_offset)
    return open_log(
        files,
        directory,
        config=config,
        topic_id=topic_id,
        recovery_point=log_start_offset,
        log_start_offset=log_start_offset,
        clean=True,
        now_ms=0,
        pool=pool,
    )


@missing_is_disk_error()
def open_log(
    files: FileSystem,
    directory: str,
    *,
    config: LogConfig,
    topic_id: bytes | None,
    recovery_point: int,
    log_start_offset: int,
    clean: bool,
    now_ms: int,
    pool: SegmentFiles | None = None,
) -> Log:
    """Open the log in `directory`. Worker.

    `recovery_point`: all below it was durable once; only what lies above is verified. `log_start_offset` as last checkpointed; 0 if
    unknown. `clean`: the log was closed and nothing has touched it since. `topic_id` None takes what the directory says. On return all of
    the log is durable; `log.report` tells what was cut or rebuilt.

    Raises:
        CorruptBatch: damage that must not be cut; nothing was changed.
        CorruptFile: the leader-epoch checkpoint or partition.metadata is damaged.
        TopicIdMismatch: the directory belongs to another topic id.
        StorageError
    """
    state = recovery.read_directory(
        pool or SegmentFiles(files),
        directory,
        config=config,
        topic_id=topic_id,
        recovery_point=recovery_point,
        log_start_offset=log_start_offset,
        clean=clean,
        now_ms=now_ms,
    )
    return Log(state)


__all__ = [
    "AppendInfo",
    "Log",
    "LogSlice",
    "OpenReport",
    "RemovedSegment",
    "TimestampOffset",
    "create_log",
    "open_log",
]
