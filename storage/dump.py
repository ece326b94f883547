"""Reading a partition's directory without a broker: every batch, every index entry, and what is wrong with them.

Owns the verdicts that `penstock log dump` and `penstock log verify` print. Changes nothing, opens nothing for writing, and goes on
after what is wrong where it can. Safe beside a running broker, except that the active segment's tail and its indexes may look unfinished:
an active segment's index entries are in the broker's memory until it is closed.

Source: Kafka's `DumpLogSegments`.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from penstock.protocol.errors import DecodeError
from penstock.protocol.record_batch import HEADER_SIZE_BYTES, BatchHeader, read_batch_header, verify_crc
from penstock.protocol.records import Record, iterate_records
from penstock.runtime.files import File, FileSystem, read_file
from penstock.storage.batch_walk import ChainRules, chain_fault
from penstock.storage.checkpoint import read_epoch_checkpoint, read_partition_metadata
from penstock.storage.damage import find_valid_batch
from penstock.storage.epoch_cache import EpochCache
from penstock.storage.errors import CorruptFile
from penstock.storage.index import OffsetIndex, TimeIndex
from penstock.storage.layout import (
    INDEX_ENTRY_SIZE_BYTES,
    INDEX_SUFFIX,
    LEADER_EPOCH_CHECKPOINT,
    LOG_SUFFIX,
    PARTITION_METADATA,
    SNAPSHOT_SUFFIX,
    TIME_INDEX_ENTRY_SIZE_BYTES,
    TIME_INDEX_SUFFIX,
    parse_segment_file_name,
    segment_file_name,
)
from penstock.storage.producer_state import ProducerEntry, decode_snapshot

DECOMPRESSED_BYTES_MAX = 1 << 30


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing that is wrong."""

    path: str
    position: int
    reason: str


@dataclass(frozen=True, slots=True)
class DumpedBatch:
    """One batch as found."""

    path: str
    position: int
    header: BatchHeader
    raw: memoryview
    is_crc_right: bool
    faults: tuple[Fault, ...]
    """What is wrong with it, the checksum included."""

    def records(self) -> Iterator[Record]:
        """Its records, decompressed. Raises DecodeError, DecompressionTooLarge."""
        return iterate_records(self.raw, output_max_bytes=DECOMPRESSED_BYTES_MAX)


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
    """Wrong index entries and snapshots: harmless, a broker rebuilds them from the log."""

    @property
    def is_good(self) -> bool:
        """No damage. A torn tail and wrong indexes are none: opening mends them."""
        return not self.faults


def list_segments(files: FileSystem, directory: str) -> list[int]:
    """Base offsets of the segments in a partition's directory. Raises FileNotFoundError, StorageError."""
    parsed = (parse_segment_file_name(name) for name in files.list_directory(directory))
    return [entry[0] for entry in parsed if entry is not None and entry[1] == LOG_SUFFIX]


def dump_segment(
    files: FileSystem, directory: str, base_offset: int, *, rules: ChainRules | None = None
) -> Iterator[DumpedBatch | Fault]:
    """Every batch of a segment, in order. Where no batch can be read, a Fault, and on from the next good batch, if there is one.

    `rules` also checks the chain from batch to batch. Raises StorageError.
    """
    path = f"{directory}/{segment_file_name(base_offset, LOG_SUFFIX)}"
    file = files.open(path)
    try:
        size_bytes = file.size()
        position = 0
        expected = base_offset if rules is not None and rules.contiguous else -1
        while position < size_bytes:
            found = _read_batch(file, position, size_bytes, expected, rules)
            yield found
            if isinstance(found, DumpedBatch) and found.is_crc_right:
                expected = found.header.next_offset
                position += found.header.size_bytes
                continue
            following = find_valid_batch(files, path, position + 1, size_bytes, max(0, expected))
            if following is None:
                return
            position, expected = following, -1
    finally:
        file.close()


def _read_batch(
    file: File, position: int, size_bytes: int, expected_offset: int, rules: ChainRules | None
) -> DumpedBatch | Fault:
    try:
        header = read_batch_header(file.pread(HEADER_SIZE_BYTES, position))
    except DecodeError as error:
        return Fault(file.path, position, f"no batch header: {error}")
    if position + header.size_bytes > size_bytes:
        return Fault(file.path, position, f"a batch of {header.size_bytes} bytes reaches past the end")
    raw = memoryview(file.pread(header.size_bytes, position))
    is_crc_right = verify_crc(raw)
    faults: list[Fault] = []
    if not is_crc_right:
        faults.append(Fault(file.path, position, "the CRC-32C is wrong"))
    reason = chain_fault(header, expected_offset, rules) if rules is not None else None
    if reason is not None:
        faults.append(Fault(file.path, position, reason))
    return DumpedBatch(file.path, position, header, raw, is_crc_right, tuple(faults))


def dump_offset_index(files: FileSystem, directory: str, base_offset: int) -> list[tuple[int, int]]:
    """(last offset of a batch, its position) of each entry; empty if the file is missing. Raises StorageError."""
    try:
        raw = read_file(files, f"{directory}/{segment_file_name(base_offset, INDEX_SUFFIX)}")
    except FileNotFoundError:
        return []
    index = OffsetIndex.decode(raw)
    return [
        (base_offset + relative, position)
        for relative, position in zip(index.relative_offsets, index.positions, strict=True)
    ]


def dump_time_index(files: FileSystem, directory: str, base_offset: int) -> list[tuple[int, int]]:
    """(largest timestamp so far, last offset of its batch) of each entry; empty if the file is missing. Raises StorageError."""
    try:
        raw = read_file(files, f"{directory}/{segment_file_name(base_offset, TIME_INDEX_SUFFIX)}")
    except FileNotFoundError:
        return []
    index = TimeIndex.decode(raw)
    return [
        (timestamp, base_offset + relative)
        for timestamp, relative in zip(index.timestamps, index.relative_offsets, strict=True)
    ]


def dump_snapshot(files: FileSystem, directory: str, offset: int) -> list[ProducerEntry]:
    """The producers in the snapshot at that offset. Raises FileNotFoundError, CorruptFile, StorageError."""
    path = f"{directory}/{segment_file_name(offset, SNAPSHOT_SUFFIX)}"
    return decode_snapshot(read_file(files, path), path=path)


def verify_partition(files: FileSystem, directory: str, *, compacted: bool = False) -> PartitionVerdict:
    """Read everything in a partition's directory and say what is wrong.

    `compacted` allows gaps between batches. Raises FileNotFoundError where there is no such directory, StorageError.
    """
    verdict = PartitionVerdict(directory)
    bases = list_segments(files, directory)
    rules = ChainRules(not compacted, _read_metadata(files, verdict), 0)
    expected = -1
    for base_offset in bases:
        path = f"{directory}/{segment_file_name(base_offset, LOG_SUFFIX)}"
        if expected >= 0 and (base_offset != expected if rules.contiguous else base_offset < expected):
            verdict.faults.append(
                Fault(path, 0, f"segment begins at {base_offset} where {expected} comes next")
            )
        is_last = base_offset == bases[-1]
        expected = _verify_segment(files, verdict, base_offset, rules, is_last=is_last)
    verdict.segment_count = len(bases)
    verdict.log_start_offset = bases[0] if bases else 0
    verdict.log_end_offset = max(expected, 0)
    _verify_snapshots(files, verdict)
    return verdict


def _read_metadata(files: FileSystem, verdict: PartitionVerdict) -> Callable[[int], int] | None:
    """Note the topic id; returns what the leader-epoch checkpoint says about offsets, None if there is nothing to go by."""
    path = f"{verdict.directory}/{PARTITION_METADATA}"
    try:
        verdict.topic_id = read_partition_metadata(files, path)
        path = f"{verdict.directory}/{LEADER_EPOCH_CHECKPOINT}"
        entries = read_epoch_checkpoint(files, path)
    except CorruptFile as error:
        verdict.faults.append(Fault(path, 0, str(error)))
        return None
    if entries is None:
        return None
    epochs = EpochCache(entries)
    if not epochs.is_consistent():
        verdict.faults.append(Fault(path, 0, "epochs or start offsets do not rise"))
        return None
    return epochs.epoch_at


def _verify_segment(
    files: FileSystem, verdict: PartitionVerdict, base_offset: int, rules: ChainRules, *, is_last: bool
) -> int:
    """Add one segment to the verdict; returns the offset that comes next."""
    expected = base_offset
    end_position = 0
    pending: list[Fault] = []
    indexes = _IndexCheck(files, verdict.directory, base_offset)
    path = f"{verdict.directory}/{segment_file_name(base_offset, LOG_SUFFIX)}"
    for found in dump_segment(files, verdict.directory, base_offset, rules=rules):
        if isinstance(found, Fault):
            pending.append(found)
            continue
        if not found.is_crc_right:
            pending += found.faults
            continue
        # a good batch behind them: they are no torn tail
        verdict.faults += pending
        pending = []
        verdict.faults += found.faults
        header = found.header
        verdict.batch_count += 1
        verdict.record_count += header.record_count
        indexes.note(found.position, header)
        end_position = found.position + header.size_bytes
        expected = header.next_offset
    size_bytes = _size(files, path)
    verdict.size_bytes += end_position
    if is_last:
        verdict.torn_tail_bytes = size_bytes - end_position
    else:
        verdict.faults += pending
    verdict.index_faults += indexes.faults()
    return expected


class _IndexCheck:
    """Both indexes of a segment, ticked off batch by batch."""

    def __init__(self, files: FileSystem, directory: str, base_offset: int) -> None:
        self._path = f"{directory}/{segment_file_name(base_offset, INDEX_SUFFIX)}"
        self._time_path = f"{directory}/{segment_file_name(base_offset, TIME_INDEX_SUFFIX)}"
        offsets = dump_offset_index(files, directory, base_offset)
        times = dump_time_index(files, directory, base_offset)
        self._open_offsets = {entry: number for number, entry in enumerate(offsets)}
        self._open_times = {entry: number for number, entry in enumerate(times)}

    def note(self, position: int, header: BatchHeader) -> None:
        """A good batch."""
        self._open_offsets.pop((header.last_offset, position), None)
        self._open_times.pop((header.max_timestamp, header.last_offset), None)

    def faults(self) -> list[Fault]:
        """The entries that no batch bears out."""
        found = [
            Fault(
                self._path,
                number * INDEX_ENTRY_SIZE_BYTES,
                f"no batch that ends with {offset} at {position}",
            )
            for (offset, position), number in self._open_offsets.items()
        ]
        found += [
            Fault(
                self._time_path,
                number * TIME_INDEX_ENTRY_SIZE_BYTES,
                f"no batch that ends with {offset} has the largest timestamp {timestamp}",
            )
            for (timestamp, offset), number in self._open_times.items()
        ]
        return found


def _verify_snapshots(files: FileSystem, verdict: PartitionVerdict) -> None:
    for name in files.list_directory(verdict.directory):
        parsed = parse_segment_file_name(name)
        if parsed is None or parsed[1] != SNAPSHOT_SUFFIX:
            continue
        try:
            dump_snapshot(files, verdict.directory, parsed[0])
        except CorruptFile as error:
            verdict.index_faults.append(Fault(f"{verdict.directory}/{name}", 0, str(error)))


def _size(files: FileSystem, path: str) -> int:
    file = files.open(path)
    try:
        return file.size()
    finally:
        file.close()
