"""Reading a partition's directory without a broker: every batch, every index entry, every producer in a snapshot.

Owns what `penstock log dump` shows. Changes nothing, opens nothing for writing, and goes on after what is wrong where it can. Safe beside a
running broker, except that the active segment's tail and its indexes may look unfinished.

Source: Kafka's `DumpLogSegments`.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from penstock.protocol.errors import DecodeError
from penstock.protocol.record_batch import HEADER_SIZE_BYTES, BatchHeader, read_batch_header, verify_crc
from penstock.protocol.records import Record, iterate_records
from penstock.runtime.files import File, FileSystem, read_file
from penstock.storage.batch_walk import ChainRules, chain_fault
from penstock.storage.damage import find_valid_batch
from penstock.storage.index import OffsetIndex, TimeIndex
from penstock.storage.layout import (
    INDEX_SUFFIX,
    LOG_SUFFIX,
    SNAPSHOT_SUFFIX,
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
        expected = base_offset if rules is not None else -1
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
