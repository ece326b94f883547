"""From a directory to a log: making a new one, and opening one that was closed cleanly or not.

Owns the decision what of a found directory is the log. Knows neither checkpoints of the data directory (recovery point and log start
offset are handed in) nor what the broker does with a damaged partition.

Clean (the shutdown marker was there): nothing is verified; the last index entry and the headers behind it give the end.

Unclean: every batch from the recovery point on is read and verified. What is whole is *written again* and synced: after a sync that
failed unseen, pages are clean in memory and absent on disk, and a second sync says yes over zeros. A torn tail, bytes after the
last good batch with no good batch behind them, is cut. Anything else that is wrong raises CorruptBatch and changes nothing: damage
below the recovery point, damage with a good batch behind it, and a log that ends below its recovery point (PROPERTIES D9, D10).

Invariants:
    - Nothing is changed on disk before all segments from the recovery point on have been verified, but for files that belong to no log
      (temporary and `.deleted` ones).
    - Recovering twice, also when the first time was killed anywhere, gives what recovering once gives.

Source: Kafka's `LogLoader`; ALICE (Pillai et al., OSDI 2014) and "Can Applications Recover from fsync Failures?" (Rebello et al., ATC 2020).
"""

from typing import NamedTuple

from penstock.protocol.record_batch import BatchHeader
from penstock.runtime.files import FileSystem, read_file, write_all
from penstock.storage.batch_walk import ChainRules, check_batch, walk_batches, walk_headers
from penstock.storage.checkpoint import (
    read_epoch_checkpoint,
    read_partition_metadata,
    write_epoch_checkpoint,
    write_partition_metadata,
)
from penstock.storage.damage import find_valid_batch
from penstock.storage.epoch_cache import EpochCache
from penstock.storage.errors import CorruptBatch, CorruptFile, TopicIdMismatch
from penstock.storage.layout import (
    DELETED_SUFFIX,
    LEADER_EPOCH_CHECKPOINT,
    LOG_SUFFIX,
    PARTITION_METADATA,
    SEGMENT_SUFFIXES,
    SNAPSHOT_SUFFIX,
    TEMPORARY_SUFFIX,
    parse_segment_file_name,
    segment_file_name,
)
from penstock.storage.log_config import LogConfig
from penstock.storage.log_state import OpenedState, OpenReport
from penstock.storage.producer_state import ProducerState
from penstock.storage.segment import Indexes, Segment, ensure_indexes
from penstock.storage.segment_files import SegmentFiles


def make_directory(files: FileSystem, directory: str, topic_id: bytes, log_start_offset: int) -> None:
    """Make the directory of a new, empty log; durable on return. Raises StorageError."""
    files.make_directories(directory)
    write_partition_metadata(files, f"{directory}/{PARTITION_METADATA}", topic_id)
    path = f"{directory}/{segment_file_name(log_start_offset, LOG_SUFFIX)}"
    files.open(path, write=True, create=True).close()
    files.sync_directory(directory)
    files.sync_directory(directory.rpartition("/")[0] or ".")


def read_directory(
    pool: SegmentFiles,
    directory: str,
    *,
    config: LogConfig,
    topic_id: bytes | None,
    recovery_point: int,
    log_start_offset: int,
    clean: bool,
    now_ms: int,
) -> OpenedState:
    """All that a `Log` consists of; see `penstock.storage.log.open_log` for arguments and errors."""
    opening = _Opening(pool, directory, config, now_ms)
    found_id = opening.check_topic_id(topic_id)
    opening.list_directory()
    opening.load_epochs()
    if clean:
        opening.finish_clean()
    else:
        opening.recover(recovery_point, log_start_offset)
    opening.load_producers(log_start_offset)
    return opening.state(found_id, log_start_offset)


class _Verified(NamedTuple):
    """What verifying one segment found."""

    segment: Segment
    start_position: int
    end_position: int
    """Of the last good batch."""
    file_size_bytes: int
    next_offset: int
    fault: CorruptBatch | None


class _Opening:
    """The steps of opening one directory."""

    def __init__(self, pool: SegmentFiles, directory: str, config: LogConfig, now_ms: int) -> None:
        self._files = pool.files
        self._directory = directory
        self._config = config
        self._pool = pool
        self._now_ms = now_ms
        self._segments: list[Segment] = []
        self._snapshot_offsets: list[int] = []
        self._names: set[str] = set()
        self._epochs = EpochCache()
        self._has_epochs = False
        self._epoch_on_disk = -1
        self._log_end_offset = 0
        self._report = OpenReport()
        self._producers = ProducerState(
            expiration_ms=config.producer_id_expiration_ms, count_max=config.producer_id_count_max
        )

    @property
    def _rules(self) -> ChainRules:
        return ChainRules(
            not self._config.compact,
            self._epochs.epoch_at if self._has_epochs else None,
            self._config.index_interval_bytes,
        )

    def check_topic_id(self, topic_id: bytes | None) -> bytes:
        path = f"{self._directory}/{PARTITION_METADATA}"
        found = read_partition_metadata(self._files, path)
        if found is None:
            if topic_id is None:
                raise CorruptFile("partition.metadata is missing", path=path)
            write_partition_metadata(self._files, path, topic_id)
            self._report.notes.append("partition.metadata was missing")
            return topic_id
        if topic_id is not None and found != topic_id:
            raise TopicIdMismatch(
                f"topic id {found.hex()}, where {topic_id.hex()} was expected", path=self._directory
            )
        return found

    def list_directory(self) -> None:
        """Find segments and snapshots, remove leftovers of interrupted work, and make sure that there is a segment."""
        bases: list[int] = []
        names = self._files.list_directory(self._directory)
        for name in names:
            if name.endswith((TEMPORARY_SUFFIX, DELETED_SUFFIX)):
                self._files.unlink(f"{self._directory}/{name}")
                continue
            parsed = parse_segment_file_name(name)
            if parsed is not None and parsed[1] == LOG_SUFFIX:
                bases.append(parsed[0])
            elif parsed is not None and parsed[1] == SNAPSHOT_SUFFIX:
                self._snapshot_offsets.append(parsed[0])
        self._names = set(names)
        for base in bases:
            segment = Segment(self._pool, self._directory, base)
            file = self._files.open(segment.path)
            try:
                segment.size_bytes = segment.trusted_from = file.size()
            finally:
                file.close()
            self._segments.append(segment)

    def load_epochs(self) -> None:
        path = f"{self._directory}/{LEADER_EPOCH_CHECKPOINT}"
        entries = read_epoch_checkpoint(self._files, path) if LEADER_EPOCH_CHECKPOINT in self._names else None
        self._has_epochs = entries is not None
        self._epochs = EpochCache(entries or ())
        if not self._epochs.is_consistent():
            raise CorruptFile("epochs or start offsets do not rise", path=path)
        self._epoch_on_disk = self._epochs.latest

    # Clean

    def finish_clean(self) -> None:
        """Find the end from the last index entry; walk the headers behind it."""
        self._ensure_segment(0)
        active = self._segments[-1]
        self._log_end_offset = active.base_offset
        if active.size_bytes == 0:
            active.indexes = Indexes()
            return
        start = self._resume(active, active.size_bytes, 2**63 - 1)
        file = self._files.open(active.path)
        try:
            for position, header in walk_headers(file, start, active.size_bytes):
                self._book(active, position, header)
        finally:
            file.close()

    def _resume(self, segment: Segment, size_bytes: int, below_offset: int) -> int:
        """Take over what the index files say about batches below an offset, if the log bears them out; the position to go on from."""
        indexes = segment.read_indexes()
        count = 0
        if indexes is not None:
            relative = below_offset - segment.base_offset - 1
            count = indexes.by_offset.floor(min(relative, 2**31 - 1)) + 1
        if indexes is not None and count > 0:
            position = indexes.by_offset.positions[count - 1]
            last_offset = segment.base_offset + indexes.by_offset.relative_offsets[count - 1]
            if self._batch_ends_with(segment, position, size_bytes, last_offset):
                return segment.resume_bookkeeping(indexes, count)
            self._report.rebuilt_indexes.append(segment.path)
        segment.reset_bookkeeping()
        return 0

    def _batch_ends_with(self, segment: Segment, position: int, size_bytes: int, last_offset: int) -> bool:
        file = self._files.open(segment.path)
        try:
            _, header = next(walk_headers(file, position, size_bytes))
        except CorruptBatch:
            return False
        finally:
            file.close()
        return header.last_offset == last_offset

    def _book(self, segment: Segment, position: int, header: BatchHeader) -> None:
        segment.book_header(position, header, self._config.index_interval_bytes)
        self._log_end_offset = header.next_offset

    def _ensure_segment(self, base_offset: int) -> None:
        if self._segments:
            return
        segment = Segment(self._pool, self._directory, base_offset)
        self._files.open(segment.path, write=True, create=True).close()
        self._files.sync_directory(self._directory)
        self._segments.append(segment)

    # Unclean

    def recover(self, recovery_point: int, log_start_offset: int) -> None:
        """Verify from the recovery point on, then cut, rewrite and sync what was found good."""
        self._ensure_segment(log_start_offset)
        verified = self._verify_all(recovery_point)
        self._judge(verified, recovery_point)
        self._repair(verified)
        self._repair_epochs()

    def _verify_all(self, recovery_point: int) -> list[_Verified]:
        """Verify the segments from the recovery point on, in order, up to the first fault."""
        verified: list[_Verified] = []
        first = max(
            (
                number
                for number, segment in enumerate(self._segments)
                if segment.base_offset <= recovery_point
            ),
            default=0,
        )
        for number in range(first, len(self._segments)):
            segment = self._segments[number]
            if verified:
                fault = self._gap_fault(segment, verified[-1].next_offset)
                if fault is not None:
                    verified.append(_Verified(segment, 0, 0, segment.size_bytes, segment.base_offset, fault))
                    break
            found = self._verify_segment(segment, recovery_point)
            verified.append(found)
            if found.fault is not None:
                break
        return verified

    def _gap_fault(self, segment: Segment, expected_offset: int) -> CorruptBatch | None:
        is_wrong = (
            segment.base_offset != expected_offset
            if self._rules.contiguous
            else segment.base_offset < expected_offset
        )
        if not is_wrong:
            return None
        return CorruptBatch(
            segment.path, 0, f"segment begins at {segment.base_offset} where {expected_offset} comes next"
        )

    def _verify_segment(self, segment: Segment, recovery_point: int) -> _Verified:
        size_bytes = segment.size_bytes
        position = self._resume(segment, size_bytes, recovery_point)
        expected = segment.base_offset if position == 0 else -1
        start = position
        file = self._files.open(segment.path)
        fault: CorruptBatch | None = None
        try:
            for position, header in walk_headers(file, start, size_bytes):
                if header.next_offset > recovery_point:
                    break
                self._book(segment, position, header)
                expected = header.next_offset
                start = position + header.size_bytes
            position = start
            for position, header, batch in walk_batches(file, start, size_bytes):
                check_batch(segment.path, position, header, batch, expected, self._rules)
                self._check_epoch_order(segment, position, header)
                self._book(segment, position, header)
                expected = header.next_offset
                position += header.size_bytes
        except CorruptBatch as error:
            fault = error
            position = error.position
            start = min(start, position)
        finally:
            file.close()
        end_offset = max(expected, segment.base_offset)
        return _Verified(segment, start, position, size_bytes, end_offset, fault)

    def _check_epoch_order(self, segment: Segment, position: int, header: BatchHeader) -> None:
        """Without a checkpoint to compare with, the batches themselves make the epochs, which never fall."""
        if self._has_epochs:
            return
        epoch = header.partition_leader_epoch
        if epoch < self._epochs.latest:
            raise CorruptBatch(segment.path, position, f"leader epoch {epoch} after {self._epochs.latest}")
        self._epochs.assign(epoch, header.base_offset)

    def _judge(self, verified: list[_Verified], recovery_point: int) -> None:
        """Raise unless the one fault, if there is any, is a torn tail."""
        last = verified[-1]
        if last.fault is None:
            if last.next_offset < recovery_point:
                raise CorruptBatch(
                    last.segment.path,
                    last.end_position,
                    f"the log ends at offset {last.next_offset}, below its recovery point {recovery_point}",
                )
            return
        if last.next_offset < recovery_point:
            raise last.fault
        number = self._segments.index(last.segment)
        for segment in self._segments[number:]:
            start = last.end_position if segment is last.segment else 0
            position = find_valid_batch(
                self._files, segment.path, start, segment.size_bytes, last.next_offset
            )
            if position is not None:
                raise CorruptBatch(
                    last.fault.path,
                    last.fault.position,
                    f"{last.fault.reason}; a good batch follows at {segment.path}:{position}",
                )

    def _repair(self, verified: list[_Verified]) -> None:
        last = verified[-1]
        number = self._segments.index(last.segment)
        for gone in reversed(self._segments[number + 1 :]):
            self._remove_segment(gone)
        del self._segments[number + 1 :]
        for found in verified:
            self._rewrite(found)
        self._log_end_offset = last.next_offset
        for segment in self._segments[:-1]:
            if segment.indexes is not None:
                segment.write_indexes()
                self._pool.note_indexes(segment, segment.indexes.size_bytes)
        if last.fault is not None:
            self._report.cut_path = last.segment.path
            self._report.cut_position = last.end_position
            self._report.cut_bytes = last.file_size_bytes - last.end_position
            self._report.notes.append(f"torn tail: {last.fault.reason}")

    def _rewrite(self, found: _Verified) -> None:
        """Write the good bytes once more and sync; cut what lies behind them."""
        segment = found.segment
        segment.size_bytes = found.end_position
        segment.trusted_from = found.start_position
        file = self._files.open(segment.path, write=True)
        try:
            if found.end_position < found.file_size_bytes:
                file.truncate(found.end_position)
            for position, _, batch in walk_batches(file, found.start_position, found.end_position):
                write_all(file, batch, position)
            file.datasync()
        finally:
            file.close()
        self._report.verified_bytes += found.end_position - found.start_position

    def _remove_segment(self, segment: Segment) -> None:
        for suffix in SEGMENT_SUFFIXES:
            self._files.unlink(segment.file_path(suffix))
        self._files.sync_directory(self._directory)
        self._report.removed_segments.append(segment.path)

    def _repair_epochs(self) -> None:
        path = f"{self._directory}/{LEADER_EPOCH_CHECKPOINT}"
        changed = self._epochs.truncate_from_end(self._log_end_offset)
        if changed or (not self._has_epochs and self._epochs.entries):
            write_epoch_checkpoint(self._files, path, self._epochs.entries)
        self._epoch_on_disk = self._epochs.latest

    # Producers

    def load_producers(self, log_start_offset: int) -> None:
        """The newest usable snapshot, and the headers of the batches after it."""
        start = max(log_start_offset, self._segments[0].base_offset)
        for offset in sorted(self._snapshot_offsets, reverse=True):
            path = f"{self._directory}/{segment_file_name(offset, SNAPSHOT_SUFFIX)}"
            if offset > self._log_end_offset:
                self._files.unlink(path)
                self._snapshot_offsets.remove(offset)
                continue
            try:
                self._producers.load_snapshot(read_file(self._files, path), now_ms=self._now_ms, path=path)
            except CorruptFile as error:
                self._report.notes.append(str(error))
                self._files.unlink(path)
                self._snapshot_offsets.remove(offset)
                continue
            start = max(start, offset)
            break
        self._replay_producers(start)

    def _replay_producers(self, start_offset: int) -> None:
        for number, segment in enumerate(self._segments):
            following = self._segments[number + 1 : number + 2]
            end_offset = following[0].base_offset if following else self._log_end_offset
            if end_offset <= start_offset or segment.size_bytes == 0:
                continue
            position = self._position_for(segment, start_offset, is_active=not following)
            file = self._files.open(segment.path)
            try:
                for _, header in walk_headers(file, position, segment.size_bytes):
                    if header.producer_id >= 0 and header.base_offset >= start_offset:
                        self._producers.update(header, header.base_offset, self._now_ms)
            finally:
                file.close()

    def _position_for(self, segment: Segment, offset: int, *, is_active: bool) -> int:
        indexes = segment.indexes
        if indexes is None and not is_active:
            indexes = ensure_indexes(segment, self._rules)
        if indexes is None or offset <= segment.base_offset:
            return 0
        entry = indexes.by_offset.floor(offset - segment.base_offset)
        return indexes.by_offset.positions[entry] if entry >= 0 else 0

    def state(self, topic_id: bytes, log_start_offset: int) -> OpenedState:
        active = self._segments[-1]
        if active.indexes is None:
            active.indexes = Indexes()
        return OpenedState(
            pool=self._pool,
            directory=self._directory,
            topic_id=topic_id,
            config=self._config,
            segments=tuple(self._segments),
            log_start_offset=max(log_start_offset, self._segments[0].base_offset),
            log_end_offset=self._log_end_offset,
            epochs=self._epochs,
            epochs_on_disk=self._epoch_on_disk,
            producers=self._producers,
            snapshot_offset=max(self._snapshot_offsets, default=-1),
            report=self._report,
        )
