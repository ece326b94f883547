"""Reading everything in a partition's directory, and a verdict on it.

Owns the verdicts of `penstock log verify`. Changes nothing and opens nothing for writing. Reads each segment once, in chunks, and keeps
nothing but what is wrong, of which only so much is told for each file. Safe beside a running broker, except that the active segment's tail
and its indexes may look unfinished: an active segment's index entries are in the broker's memory until it is closed.

Source: Kafka's `DumpLogSegments`.
"""

from array import array
from collections.abc import Callable
from dataclasses import dataclass, field

from penstock.protocol.record_batch import BatchHeader
from penstock.runtime.files import FileSystem, read_file
from penstock.storage.batch_walk import ChainRules
from penstock.storage.checkpoint import gaps_allowed_below, read_epoch_checkpoint, read_partition_metadata
from penstock.storage.dump import Fault, dump_snapshot, list_segments
from penstock.storage.epoch_cache import EpochCache
from penstock.storage.errors import CorruptFile
from penstock.storage.index import OffsetIndex, TimeIndex
from penstock.storage.layout import (
    INDEX_ENTRY_SIZE_BYTES,
    INDEX_SUFFIX,
    LEADER_EPOCH_CHECKPOINT,
    LOG_SUFFIX,
    OFFSET_MAX,
    PARTITION_METADATA,
    SNAPSHOT_SUFFIX,
    SWAP_SUFFIX,
    TIME_INDEX_ENTRY_SIZE_BYTES,
    TIME_INDEX_SUFFIX,
    parse_segment_file_name,
    segment_file_name,
)
from penstock.storage.survey import NOTHING_FOLLOWS, Damage, Progress, Survey, hole_before, told_of

FAULTS_TOLD_MAX = 20
"""For each file; the rest is counted."""


@dataclass(slots=True)
class PartitionVerdict:
    """What `verify_partition` found."""

    directory: str
    topic_id: bytes | None = None
    segment_count: int = 0
    batch_count: int = 0
    record_count: int = 0
    size_bytes: int = 0
    log_start_offset: int = 0
    """Of the files; DeleteRecords may have moved it up since."""
    log_end_offset: int = 0
    torn_tail_bytes: int = 0
    """At the end of the last segment, with no good batch behind: what recovery cuts."""
    faults: list[Fault] = field(default_factory=list[Fault])
    index_faults: list[Fault] = field(default_factory=list[Fault])
    """Wrong index entries and snapshots, and a log start that is behind the files: a broker puts them right from the log."""
    is_in_use: bool = False
    """A broker works in the folder: it may still be writing what looks torn, and write the active segment's indexes later."""

    @property
    def is_good(self) -> bool:
        """No damage. A torn tail and wrong indexes are none: opening mends them."""
        return not self.faults

    @property
    def is_whole(self) -> bool:
        """Good, and nothing to mend either; what a running broker may be at work on is left out of account."""
        return self.is_good and (self.is_in_use or not (self.torn_tail_bytes or self.index_faults))


def verify_partition(
    files: FileSystem,
    directory: str,
    *,
    compacted: bool = False,
    is_in_use: bool = False,
    recovery_point: int = OFFSET_MAX,
    progress: Progress | None = None,
) -> PartitionVerdict:
    """Read everything in a partition's directory and say what is wrong.

    Gaps between batches are allowed below the offset in the partition's `compaction-checkpoint`, and everywhere if `compacted`. From `recovery_point` on a power cut may have torn what was written. `is_in_use`: a broker works on it, so a segment may go while this looks.

    Raises FileNotFoundError where there is no such directory, StorageError.
    """
    verdict = PartitionVerdict(directory, is_in_use=is_in_use)
    bases = list_segments(files, directory)
    gaps_below = gaps_allowed_below(files, directory, compacted=compacted)
    if has_swap(files, directory):
        gaps_below = OFFSET_MAX  # the new segment may be there under that name alone
        reason = "a compaction that was cut short; the next start finishes it"
        verdict.index_faults.append(Fault(directory, 0, reason))
    rules = ChainRules(gaps_below, _read_metadata(files, verdict), 0)
    look = _Look(files, verdict, rules, recovery_point, progress)
    expected = -1
    for number, base_offset in enumerate(bases):
        follower = bases[number + 1] if number + 1 < len(bases) else -1
        try:
            expected = look.at_segment(base_offset, follower, expected)
        except FileNotFoundError:
            if not is_in_use:
                raise
            # Retention or compaction took it; whether the next one follows on it nobody can tell.
            expected = -1
    verdict.log_start_offset = bases[0] if bases else 0
    verdict.log_end_offset = max(expected, 0)
    _verify_snapshots(files, verdict)
    return verdict


def verify_segment(
    files: FileSystem,
    directory: str,
    base_offset: int,
    *,
    compacted: bool = False,
    progress: Progress | None = None,
) -> PartitionVerdict:
    """Read one segment by itself, without what stands beside it. Raises FileNotFoundError, StorageError."""
    path = f"{directory}/{segment_file_name(base_offset, LOG_SUFFIX)}"
    verdict = PartitionVerdict(path, segment_count=1, log_start_offset=base_offset)
    rules = ChainRules(gaps_allowed_below(files, directory, compacted=compacted), None, 0)
    look = _Look(files, verdict, rules, OFFSET_MAX, progress)
    verdict.log_end_offset = look.walk(path, base_offset, -1, None)
    return verdict


def _read_metadata(files: FileSystem, verdict: PartitionVerdict) -> Callable[[int], int] | None:
    """Note the topic id; returns what the leader-epoch checkpoint says about offsets, None if there is nothing to go by."""
    path = f"{verdict.directory}/{PARTITION_METADATA}"
    try:
        verdict.topic_id = read_partition_metadata(files, path)
    except CorruptFile as error:
        verdict.faults.append(Fault(path, 0, error.reason))
    path = f"{verdict.directory}/{LEADER_EPOCH_CHECKPOINT}"
    try:
        epochs = read_epochs(files, verdict.directory)
    except CorruptFile as error:
        verdict.faults.append(Fault(path, 0, error.reason))
        return None
    return None if epochs is None else epochs.epoch_at


def has_swap(files: FileSystem, directory: str) -> bool:
    """Whether compaction was cut short while it put a new segment in the place of old ones (`segment_swap`)."""
    return any(name.endswith(LOG_SUFFIX + SWAP_SUFFIX) for name in files.list_directory(directory))


def read_epochs(files: FileSystem, directory: str) -> EpochCache | None:
    """The leader epochs as the checkpoint has them; None where there is no such file. Raises CorruptFile."""
    path = f"{directory}/{LEADER_EPOCH_CHECKPOINT}"
    entries = read_epoch_checkpoint(files, path)
    if entries is None:
        return None
    epochs = EpochCache(entries)
    if not epochs.is_consistent():
        raise CorruptFile("epochs or start offsets do not rise", path=path)
    return epochs


@dataclass(frozen=True, slots=True)
class _Look:
    """The walk through one partition's segments, which adds to the verdict."""

    files: FileSystem
    verdict: PartitionVerdict
    rules: ChainRules
    recovery_point: int
    progress: Progress | None

    def at_segment(self, base_offset: int, follower_offset: int, expected: int) -> int:
        """Add one segment with its indexes; returns the offset that comes next."""
        directory = self.verdict.directory
        path = f"{directory}/{segment_file_name(base_offset, LOG_SUFFIX)}"
        hole = hole_before(path, base_offset, expected, self.rules)
        if hole is not None:
            self.verdict.faults.append(Fault(path, 0, hole.reason))
        indexes = _IndexCheck(self.files, directory, base_offset)
        next_offset = self.walk(path, base_offset, follower_offset, indexes)
        self.verdict.segment_count += 1
        self.verdict.index_faults += indexes.faults()
        return next_offset

    def walk(self, path: str, base_offset: int, follower_offset: int, indexes: "_IndexCheck | None") -> int:
        """Add the batches of one file; returns the offset that comes next."""
        verdict = self.verdict
        faults: list[Fault] = []
        fault_count = 0
        file = self.files.open(path)
        try:
            survey = Survey(
                self.files, file, base_offset, follower_offset, self.rules, recovery_point=self.recovery_point
            )
            for found in told_of(survey.found(), file, self.progress):
                if isinstance(found, Damage):
                    if follower_offset < 0 and found.next_offset == NOTHING_FOLLOWS:
                        verdict.torn_tail_bytes = found.size_bytes
                    elif (fault_count := fault_count + 1) <= FAULTS_TOLD_MAX:
                        faults.append(Fault(path, found.position, found.reason))
                    continue
                position, header = found
                verdict.batch_count += 1
                verdict.record_count += header.record_count
                verdict.size_bytes += header.size_bytes
                if indexes is not None:
                    indexes.note(position, header)
        finally:
            file.close()
        verdict.faults += faults
        if fault_count > FAULTS_TOLD_MAX:
            verdict.faults.append(Fault(path, faults[-1].position, f"and {fault_count - len(faults)} more"))
        return survey.next_offset


class _IndexCheck:
    """Both indexes of a segment, ticked off batch by batch: entries and batches come in the same order."""

    def __init__(self, files: FileSystem, directory: str, base_offset: int) -> None:
        self._path = f"{directory}/{segment_file_name(base_offset, INDEX_SUFFIX)}"
        self._time_path = f"{directory}/{segment_file_name(base_offset, TIME_INDEX_SUFFIX)}"
        self._base_offset = base_offset
        by_offset = OffsetIndex.decode(_content(files, self._path))
        by_time = TimeIndex.decode(_content(files, self._time_path))
        self._offsets = _Entries(by_offset.positions, by_offset.relative_offsets)
        self._times = _Entries(by_time.relative_offsets, by_time.timestamps)

    def note(self, position: int, header: BatchHeader) -> None:
        """A good batch."""
        relative_offset = header.last_offset - self._base_offset
        offsets, times = self._offsets, self._times
        if position >= offsets.next_key:
            offsets.tick(position, relative_offset)
        if relative_offset >= times.next_key:
            times.tick(relative_offset, header.max_timestamp)

    def faults(self) -> list[Fault]:
        """The entries that no batch bears out."""
        return [
            *self._told(self._offsets, self._path, INDEX_ENTRY_SIZE_BYTES, self._offset_reason),
            *self._told(self._times, self._time_path, TIME_INDEX_ENTRY_SIZE_BYTES, self._time_reason),
        ]

    def _told(
        self, entries: "_Entries", path: str, entry_size_bytes: int, reason: Callable[[int, int], str]
    ) -> list[Fault]:
        wrong = entries.wrong()
        told = [
            Fault(path, number * entry_size_bytes, reason(entries.keys[number], entries.values[number]))
            for number in wrong[:FAULTS_TOLD_MAX]
        ]
        if len(wrong) > len(told):
            told.append(
                Fault(
                    path, wrong[len(told)] * entry_size_bytes, f"and {len(wrong) - len(told)} more like this"
                )
            )
        return told

    def _offset_reason(self, position: int, relative_offset: int) -> str:
        return f"no batch that ends with {self._base_offset + relative_offset} at {position}"

    def _time_reason(self, relative_offset: int, timestamp: int) -> str:
        return f"no batch that ends with {self._base_offset + relative_offset} has the largest timestamp {timestamp}"


class _Entries:
    """The entries of one index: `keys` rise along the segment (positions, or offsets), each with what must be found there."""

    def __init__(self, keys: "array[int]", values: "array[int]") -> None:
        self.keys = keys
        self.values = values
        self.next_key = keys[0] if keys else 1 << 63
        self._count = 0
        self._wrong = array("l")

    def tick(self, key: int, value: int) -> None:
        """Pass the entries up to the batch that has `key`."""
        keys, values = self.keys, self.values
        number = self._count
        while number < len(keys) and keys[number] <= key:
            if keys[number] < key or values[number] != value:
                self._wrong.append(number)
            number += 1
        self._count = number
        self.next_key = keys[number] if number < len(keys) else 1 << 63

    def wrong(self) -> "array[int]":
        """The numbers of the entries that nothing bore out."""
        return self._wrong + array("l", range(self._count, len(self.keys)))


def _content(files: FileSystem, path: str) -> bytes:
    try:
        return read_file(files, path)
    except FileNotFoundError:
        return b""


def _verify_snapshots(files: FileSystem, verdict: PartitionVerdict) -> None:
    for name in files.list_directory(verdict.directory):
        parsed = parse_segment_file_name(name)
        if parsed is None or parsed[1] != SNAPSHOT_SUFFIX:
            continue
        try:
            dump_snapshot(files, verdict.directory, parsed[0])
        except CorruptFile as error:
            verdict.index_faults.append(Fault(f"{verdict.directory}/{name}", 0, error.reason))
        except FileNotFoundError:
            if not verdict.is_in_use:
                raise


__all__ = ["PartitionVerdict", "has_swap", "read_epochs", "verify_partition", "verify_segment"]
