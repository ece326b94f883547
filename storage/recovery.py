"""From a directory to a log: making a new one, and opening one that was closed cleanly or not.

Owns the decision what of a found directory is the log. Knows neither checkpoints of the data directory (recovery point and log start
offset are handed in) nor what the broker does with a damaged partition.

Clean (the shutdown marker was there): the last index entry and the headers behind it give the end; only the last batch is verified.

Unclean: every batch from the recovery point on is read and verified. What is whole is *written again* and synced: after a sync that
failed unseen, pages are clean in memory and absent on disk, and a second sync says yes over zeros. A torn tail, bytes after the
last good batch with no good batch behind them, is cut; so is what follows on a sector that was never written, for it was not synced
either. Anything else that is wrong raises CorruptBatch and changes nothing: damage below the recovery point, damage with a good batch
behind it, and a log that ends below its recovery point (PROPERTIES D9, D10).

Invariants:
    - Nothing is changed on disk before all segments from the recovery point on have been verified, but for files that belong to no log
      (temporary and `.deleted` ones) and a compaction that was cut short, which is undone or finished first (`segment_swap`).
    - Recovering twice, also when the first time was killed anywhere, gives what recovering once gives.

Source: Kafka's `LogLoader`; ALICE (Pillai et al., OSDI 2014) and "Can Applications Recover from fsync Failures?" (Rebello et al., ATC 2020).
"""

from contextlib import suppress
from typing import NamedTuple

from penstock.protocol.record_batch import BatchHeader
from penstock.runtime.files import File, FileSystem, write_all
from penstock.storage.batch_walk import (
    ChainRules,
    chain_fault,
    check_batch,
    follows_on,
    walk_batches,
    walk_headers,
)
from penstock.storage.checkpoint import (
    is_nearly,
    read_epoch_checkpoint,
    read_gaps_below,
    read_partition_metadata,
    uuid_text,
    write_epoch_checkpoint,
    write_partition_metadata,
)
from penstock.storage.damage import find_valid_batch, was_never_written
from penstock.storage.epoch_cache import EpochCache
from penstock.storage.errors import CorruptBatch, CorruptFile, TopicIdMismatch
from penstock.storage.layout import (
    COMPACTION_CHECKPOINT,
    DELETED_SUFFIX,
    LEADER_EPOCH_CHECKPOINT,
    LOG_SUFFIX,
    OFFSET_MAX,
    PARTITION_METADATA,
    SEGMENT_SUFFIXES,
    SNAPSHOT_SUFFIX,
    TEMPORARY_SUFFIX,
    parent_directory,
    parse_segment_file_name,
    segment_file_name,
)
from penstock.storage.log_config import LogConfig
from penstock.storage.log_state import OpenedState, OpenReport
from penstock.storage.producer_recovery import load_producers
from penstock.storage.producer_state import ProducerState
from penstock.storage.segment import Segment
from penstock.storage.segment_files import SegmentFiles
from penstock.storage.segment_indexes import book_to_end, resume_indexes
from penstock.storage.segment_swap import finish_swaps


def make_directory(files: FileSystem, directory: str, topic_id: bytes, log_start_offset: int) -> None:
    """Make the directory of a new, empty log; durable on return. Raises StorageError: if there is any file in it by then, its name is durable."""
    files.make_directories(directory)
    files.sync_directory(parent_directory(directory))
    write_partition_metadata(files, f"{directory}/{PARTITION_METADATA}", topic_id)
    path = f"{directory}/{segment_file_name(log_start_offset, LOG_SUFFIX)}"
    files.open(path, write=True, create=True).close()
    files.sync_directory(directory)


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
    opening.finish(log_start_offset)
    opening.load_producers()
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
        self._was_clean = True
        self._segments: list[Segment] = []
        self._snapshot_offsets: set[int] = set()
        self._names: set[str] = set()
        self._epochs = EpochCache()
        self._epochs_path = f"{directory}/{LEADER_EPOCH_CHECKPOINT}"
        self._epoch_on_disk = -1
        self._log_end_offset = 0
        self._gaps_below = 0
        self._report = OpenReport()
        self._producers = ProducerState(
            expiration_ms=config.producer_id_expiration_ms, count_max=config.producer_id_count_max
        )

    @property
    def _rules(self) -> ChainRules:
        return ChainRules(self._gaps_below, self._epochs.epoch_at, self._config.index_interval_bytes)

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
            if is_nearly(found, topic_id):
                raise CorruptFile(
                    f"the topic id differs in one character from {uuid_text(topic_id)}: damage, no other topic",
                    path=path,
                )
            raise TopicIdMismatch(
                f"topic id {found.hex()}, where {topic_id.hex()} was expected", path=self._directory
            )
        return found

    def list_directory(self) -> None:
        """Find segments and snapshots, remove leftovers of interrupted work, and make sure that there is a segment."""
        bases: list[int] = []
        names = self._files.list_directory(self._directory)
        finished = finish_swaps(self._files, self._directory, names)
        if finished:
            self._report.notes += finished
            names = self._files.list_directory(self._directory)
        for name in names:
            if name.endswith((TEMPORARY_SUFFIX, DELETED_SUFFIX)):
                self._files.unlink(f"{self._directory}/{name}")
                continue
            parsed = parse_segment_file_name(name)
            if parsed is not None and parsed[1] == LOG_SUFFIX:
                bases.append(parsed[0])
            elif parsed is not None and parsed[1] == SNAPSHOT_SUFFIX:
                self._snapshot_offsets.add(parsed[0])
        self._names = set(names)
        self._load_gaps_below()
        self._remove_orphans(names, set(bases))
        for base in bases:
            segment = Segment(self._pool, self._directory, base)
            file = self._files.open(segment.path)
            try:
                segment.size_bytes = segment.trusted_from = file.size()
            finally:
                file.close()
            self._segments.append(segment)

    def _remove_orphans(self, names: list[str], bases: set[int]) -> None:
        """Remove index files whose log is gone: a later segment of that base offset must not take them for its own."""
        for name in names:
            parsed = parse_segment_file_name(name)
            if parsed is not None and parsed[1] in SEGMENT_SUFFIXES and parsed[0] not in bases:
                self._files.unlink(f"{self._directory}/{name}")

    def _load_gaps_below(self) -> None:
        """Damaged, the file allows gaps everywhere: too strict a rule would refuse a good log."""
        if COMPACTION_CHECKPOINT not in self._names:
            return
        try:
            self._gaps_below = read_gaps_below(self._files, f"{self._directory}/{COMPACTION_CHECKPOINT}")
        except CorruptFile as error:
            self._gaps_below = OFFSET_MAX
            self._report.notes.append(str(error))

    def load_epochs(self) -> None:
        """Read the leader-epoch checkpoint; where it is missing, the batches themselves say it."""
        if LEADER_EPOCH_CHECKPOINT in self._names:
            self._epochs = EpochCache(read_epoch_checkpoint(self._files, self._epochs_path) or ())
            if not self._epochs.is_consistent():
                raise CorruptFile("epochs or start offsets do not rise", path=self._epochs_path)
            self._epoch_on_disk = self._epochs.latest
            return
        for segment in self._segments:
            file = self._files.open(segment.path)
            try:
                for _, header in walk_headers(file, 0, segment.size_bytes):
                    self._epochs.assign(header.partition_leader_epoch, header.base_offset)
            except CorruptBatch:
                break  # whether that is a torn tail is found out later
            finally:
                file.close()
        if self._epochs.entries:
            self._report.notes.append("leader-epoch-checkpoint was missing")

    # Clean

    def finish_clean(self) -> None:
        """Find the end from the last index entry; walk the headers behind it."""
        self._ensure_segment(0)
        active = self._segments[-1]
        self._log_end_offset = active.base_offset
        if active.size_bytes == 0:
            active.reset_bookkeeping()
            return
        file = self._files.open(active.path)
        try:
            position = self._resume(active, file, OFFSET_MAX)
            self._log_end_offset, last = book_to_end(active, file, position, active.size_bytes, self._rules)
            self._check_whole(active, file, last)
            active.saved_bytes = position
        finally:
            file.close()

    def _check_whole(self, segment: Segment, file: File, position: int) -> None:
        """Raise CorruptBatch unless the checksum of a batch is right whose header alone has said where the log goes on."""
        _, header, batch = next(walk_batches(file, position, segment.size_bytes))
        check_batch(segment.path, position, header, batch, -1, self._rules)

    def _resume(self, segment: Segment, file: File, below_offset: int) -> int:
        """Take over what the index files say about batches below an offset; returns the position to go on from."""
        indexes = segment.read_indexes()
        position, taken = resume_indexes(segment, file, indexes, segment.size_bytes, below_offset)
        if not taken and (indexes is None or len(indexes.by_offset)) and below_offset > segment.base_offset:
            self._report.rebuilt_indexes.append(segment.path)
        return position

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
        self._was_clean = False
        # What a killed process renamed or removed is seen here, but a power cut could still undo it.
        self._files.sync_directory(self._directory)
        self._ensure_segment(log_start_offset)
        verified = self._verify_all(recovery_point)
        self._judge(verified, recovery_point)
        self._repair(verified)

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
                self._check_base_offset(segment, verified[-1].next_offset)
            found = self._verify_segment(segment, recovery_point)
            verified.append(found)
            if found.fault is not None:
                break
        return verified

    def _check_base_offset(self, segment: Segment, expected_offset: int) -> None:
        """Raise CorruptBatch unless a segment begins where the one before it ends: no crash leaves it otherwise, however empty it is."""
        if not follows_on(segment.base_offset, expected_offset, self._rules):
            raise CorruptBatch(
                segment.path, 0, f"segment begins at {segment.base_offset} where {expected_offset} comes next"
            )

    def _verify_segment(self, segment: Segment, recovery_point: int) -> _Verified:
        size_bytes = segment.size_bytes
        expected = below = -1
        start = position = 0
        fault: CorruptBatch | None = None
        file = self._files.open(segment.path)
        try:
            start = self._resume(segment, file, recovery_point)
            if start == 0:
                expected = segment.base_offset
            with suppress(CorruptBatch):  # the walk over whole batches comes upon it, too
                for position, header in walk_headers(file, start, size_bytes):
                    if header.next_offset > recovery_point or chain_fault(header, expected, self._rules):
                        break
                    self._book(segment, position, header)
                    expected = header.next_offset
                    start = position + header.size_bytes
                    below = position
            if below >= 0:
                # It was durable, so it is no torn tail whatever is wrong with it; and by its length the walk goes on.
                expected, next_offset = -1, expected
                self._check_whole(segment, file, below)
                expected = next_offset
            position = start
            for position, header, batch in walk_batches(file, start, size_bytes):
                check_batch(segment.path, position, header, batch, expected, self._rules)
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
            start = last.end_position + 1 if segment is last.segment else 0
            position = find_valid_batch(
                self._files, segment.path, start, segment.size_bytes, last.next_offset
            )
            if position is not None and not self._was_never_written(last, position):
                raise CorruptBatch(
                    last.fault.path,
                    last.fault.position,
                    f"{last.fault.reason}; a good batch follows at {segment.path}:{position}",
                )

    def _was_never_written(self, last: _Verified, good_position: int) -> bool:
        """Whether the fault before a good batch is a sector that the disk had not taken when the power went: then nothing from there on was synced."""
        if last.segment is not self._segments[-1]:
            return False  # it was durable before the next segment was made
        return was_never_written(
            self._files,
            last.segment.path,
            last.end_position,
            good_position,
            last.next_offset,
            may_have_gaps=last.next_offset < self._gaps_below,
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

    def finish(self, log_start_offset: int) -> None:
        """What is left to do once the end of the log is known."""
        if self._log_end_offset < log_start_offset:
            self._start_over(log_start_offset)
        self._epochs.truncate_from_end(self._log_end_offset)
        if self._epochs.latest != self._epoch_on_disk:
            write_epoch_checkpoint(self._files, self._epochs_path, self._epochs.entries)
            self._epoch_on_disk = self._epochs.latest

    def _start_over(self, log_start_offset: int) -> None:
        """All that is left was deleted once: go on at the log start offset, or offsets that were seen would be given again."""
        self._report.notes.append(
            f"the log ended at {self._log_end_offset}, below its start; it begins anew at {log_start_offset}"
        )
        for segment in (
            self._segments
        ):  # the oldest first: what a kill leaves ends where it did, not below its recovery point
            self._remove_segment(segment)
        self._segments.clear()
        self._ensure_segment(log_start_offset)
        self._segments[0].reset_bookkeeping()
        self._log_end_offset = log_start_offset

    def load_producers(self) -> None:
        """The state of the idempotent producers."""
        self._report.notes += load_producers(
            self._producers,
            tuple(self._segments),
            self._snapshot_offsets,
            log_end_offset=self._log_end_offset,
            now_ms=self._now_ms,
            rules=self._rules,
        )

    def state(self, topic_id: bytes, log_start_offset: int) -> OpenedState:
        active = self._segments[-1]
        if active.indexes is None:
            active.reset_bookkeeping()
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
            gaps_below=self._gaps_below,
            snapshot_offsets=self._snapshot_offsets,
            needs_writing=not self._was_clean or bool(self._report),
            report=self._report,
        )
