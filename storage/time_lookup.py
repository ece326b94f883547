"""From a time to an offset: the first record at or after it, and the record with the largest one.

Owns the search through the time indexes and inside of a batch. Changes nothing. Waits for the disk, so it is for workers.

Invariant: an entry of a time index is only a hint where to start. The search starts at a batch that is checked to be the one that the
entry names, so a wrong entry costs a rebuild of the index and never a wrong answer.

Source: Kafka's `UnifiedLog.fetchOffsetByTimestamp`, `LogSegment.findOffsetByTimestamp`; KIP-79, KIP-734.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from penstock.protocol.compression import DecompressionTooLarge
from penstock.protocol.errors import DecodeError
from penstock.protocol.record_batch import LOG_APPEND_TIME_FLAG, NO_TIMESTAMP, BatchHeader
from penstock.protocol.records import iterate_timestamps
from penstock.runtime.files import File
from penstock.storage.batch_walk import (
    ChainRules,
    chain_fault,
    check_batch,
    unpack_in_turn,
    walk_headers,
)
from penstock.storage.errors import CorruptBatch
from penstock.storage.log_reader import ReadRequest, Segments, locate
from penstock.storage.segment import Indexes, Segment
from penstock.storage.segment_indexes import ensure_indexes, rebuild_indexes

UNPACKED_BYTES_MAX = 64 << 20
"""Of one batch that is looked into; a larger one is the answer as a whole."""


@dataclass(frozen=True, slots=True)
class TimestampOffset:
    """A record, by its time and place."""

    timestamp_ms: int
    offset: int
    leader_epoch: int


def find_by_timestamp(
    segments: Segments, timestamp_ms: int, start_offset: int, end_offset: int, rules: ChainRules
) -> TimestampOffset | None:
    """The first record within [start_offset, end_offset) whose timestamp is at least `timestamp_ms`; None if there is none."""
    for segment in _segments_within(segments, start_offset, end_offset):
        if _largest_timestamp_ms(segment, rules) < timestamp_ms:
            continue
        indexes = _indexes(segment, rules)
        shared = segment.pool.acquire(segment)
        try:
            found = _find_in_segment(
                segment, shared.file, indexes, timestamp_ms, start_offset, end_offset, rules
            )
        finally:
            segment.pool.release(shared)
        if found is not None:
            return found
    return None


def max_timestamp(
    segments: Segments, start_offset: int, end_offset: int, rules: ChainRules
) -> TimestampOffset | None:
    """The first of the records with the largest timestamp within [start_offset, end_offset); None if there are no records."""
    best: tuple[int, Segment, int] | None = None
    first: TimestampOffset | None = None
    for segment in _segments_within(segments, start_offset, end_offset):
        if best is not None and _largest_timestamp_ms(segment, rules) <= best[0]:
            continue
        indexes = _indexes(segment, rules)
        shared = segment.pool.acquire(segment)
        try:
            position = _start_for_max(segment, shared.file, indexes, end_offset, rules)
            for batch_position, header in _headers(
                segment, shared.file, position, start_offset, end_offset, rules
            ):
                if header.base_offset < start_offset:
                    # the record with its largest timestamp may lie below the start
                    first = _largest_in_batch(shared.file, batch_position, header, start_offset, rules)
                elif header.record_count and header.max_timestamp > (
                    NO_TIMESTAMP if best is None else best[0]
                ):
                    best = (header.max_timestamp, segment, batch_position)
        finally:
            segment.pool.release(shared)
    if best is None or (first is not None and first.timestamp_ms >= best[0]):
        return first
    _, segment, position = best
    shared = segment.pool.acquire(segment)
    try:
        _, header = next(walk_headers(shared.file, position, segment.size_bytes))
        return _largest_in_batch(shared.file, position, header, start_offset, rules)
    finally:
        segment.pool.release(shared)


def _segments_within(segments: Segments, start_offset: int, end_offset: int) -> Iterator[Segment]:
    for number, segment in enumerate(segments):
        is_below = number + 1 < len(segments) and segments[number + 1].base_offset <= start_offset
        if segment.base_offset < end_offset and not is_below and segment.size_bytes > 0:
            yield segment


def _largest_timestamp_ms(segment: Segment, rules: ChainRules) -> int:
    """Stays known once the indexes have been loaded, also when they were dropped since."""
    if segment.largest_timestamp_ms == NO_TIMESTAMP and segment.indexes is None:
        ensure_indexes(segment, rules)
    return segment.largest_timestamp_ms


def checked_largest_timestamp_ms(segment: Segment, rules: ChainRules) -> int:
    """The largest timestamp of a closed segment, -1 without one, held against the batch that the time index names for it.

    For who deletes by it. Where they differ the indexes are made anew from the headers. Worker. Raises CorruptBatch, StorageError,
    FileNotFoundError when the segment went meanwhile.
    """
    if segment.size_bytes == 0:
        return NO_TIMESTAMP
    indexes = ensure_indexes(segment, rules)
    if not indexes.by_time.timestamps:
        return NO_TIMESTAMP  # made from the headers, for what is read from a file is never empty
    if _is_borne_out(segment, indexes, rules):
        return indexes.by_time.timestamps[-1]
    rebuild_indexes(segment, rules)
    return segment.largest_timestamp_ms


def _is_borne_out(segment: Segment, indexes: Indexes, rules: ChainRules) -> bool:
    """Whether the last entry of the time index is true of the batch that it names."""
    last_offset = segment.base_offset + indexes.by_time.relative_offsets[-1]
    request = ReadRequest(last_offset, 0, last_offset, -1, False, rules)
    shared = segment.pool.acquire(segment)
    try:
        found = locate(segment, shared.file, last_offset, request)
        if found is None:
            return False
        _, header = next(walk_headers(shared.file, found.position, segment.size_bytes))
    finally:
        segment.pool.release(shared)
    return (header.last_offset, header.max_timestamp) == (last_offset, indexes.by_time.timestamps[-1])


def _indexes(segment: Segment, rules: ChainRules) -> Indexes:
    return segment.indexes if segment.indexes is not None else ensure_indexes(segment, rules)


def _find_in_segment(
    segment: Segment,
    file: File,
    indexes: Indexes,
    timestamp_ms: int,
    start_offset: int,
    end_offset: int,
    rules: ChainRules,
) -> TimestampOffset | None:
    position = _start_for_time(segment, file, indexes, timestamp_ms, rules)
    for batch_position, header in _headers(segment, file, position, start_offset, end_offset, rules):
        if header.max_timestamp >= timestamp_ms:
            found = _find_in_batch(file, batch_position, header, timestamp_ms, start_offset, rules)
            if found is not None:
                return found
    return None


def _headers(
    segment: Segment, file: File, position: int, start_offset: int, end_offset: int, rules: ChainRules
) -> Iterator[tuple[int, BatchHeader]]:
    """The headers from `position` on of batches that touch [start_offset, end_offset).

    By its largest timestamp alone a batch may be passed over, so one that this process has neither written nor verified is read whole: few
    are, for an index entry lies close before what is looked for. Raises CorruptBatch.
    """
    expected = segment.base_offset if position == 0 else -1
    for batch_position, header in walk_headers(file, position, segment.size_bytes):
        fault = chain_fault(header, expected, rules)
        if fault is not None:
            raise CorruptBatch(file.path, batch_position, fault)
        expected = header.next_offset
        if header.base_offset >= end_offset:
            return
        if header.last_offset >= start_offset:
            if not segment.is_verified(batch_position, header.size_bytes):
                batch = memoryview(file.pread(header.size_bytes, batch_position))
                check_batch(file.path, batch_position, header, batch, -1, rules)
            yield batch_position, header


def _start_for_time(
    segment: Segment, file: File, indexes: Indexes, timestamp_ms: int, rules: ChainRules
) -> int:
    """The position of a batch before which all timestamps are below `timestamp_ms`."""
    entry = indexes.by_time.count_below_timestamp(timestamp_ms) - 1
    while entry >= 0:
        relative_offset = indexes.by_time.relative_offsets[entry]
        position = _position_of(segment, file, indexes, relative_offset, indexes.by_time.timestamps[entry])
        if position is not None:
            return position
        rebuilt = _rebuilt(segment, indexes, rules)
        if rebuilt is None:
            return 0
        indexes = rebuilt
        entry = indexes.by_time.count_below_timestamp(timestamp_ms) - 1
    return 0


def _start_for_max(segment: Segment, file: File, indexes: Indexes, end_offset: int, rules: ChainRules) -> int:
    """The position of a batch before which no timestamp is larger than at it or after it, below `end_offset`."""
    entry = indexes.by_time.count_below_offset(end_offset - segment.base_offset) - 1
    if entry < 0:
        return 0
    relative_offset = indexes.by_time.relative_offsets[entry]
    position = _position_of(segment, file, indexes, relative_offset, indexes.by_time.timestamps[entry])
    if position is not None:
        return position
    rebuilt = _rebuilt(segment, indexes, rules)
    return 0 if rebuilt is None else _start_for_max(segment, file, rebuilt, end_offset, rules)


def _rebuilt(segment: Segment, indexes: Indexes, rules: ChainRules) -> Indexes | None:
    """New indexes in place of wrong ones; None where that can't help: the active segment's, or just rebuilt ones."""
    if segment.file is not None or segment.tail is not None:
        return None
    rebuilt = rebuild_indexes(segment, rules)
    same = rebuilt.by_time.timestamps == indexes.by_time.timestamps and (
        rebuilt.by_time.relative_offsets == indexes.by_time.relative_offsets
    )
    return None if same else rebuilt


def _position_of(
    segment: Segment, file: File, indexes: Indexes, relative_offset: int, timestamp_ms: int
) -> int | None:
    """The position of the batch that ends with the offset and has that largest timestamp; None if there is no such batch."""
    entry = indexes.by_offset.floor(relative_offset)
    position = indexes.by_offset.positions[entry] if entry >= 0 else 0
    last_offset = segment.base_offset + relative_offset
    try:
        for batch_position, header in walk_headers(file, position, segment.size_bytes):
            if header.last_offset >= last_offset:
                is_named = header.last_offset == last_offset and header.max_timestamp == timestamp_ms
                return batch_position if is_named else None
    except CorruptBatch:
        return None
    return None


def _find_in_batch(
    file: File, position: int, header: BatchHeader, timestamp_ms: int, start_offset: int, rules: ChainRules
) -> TimestampOffset | None:
    """The first record at or above both bounds; None if there is none."""

    def find(bytes_max: int) -> TimestampOffset | None:
        for found in _times_in_batch(file, position, header, start_offset, rules, bytes_max):
            if found.timestamp_ms >= timestamp_ms:
                return found
        return None

    return unpack_in_turn(find, UNPACKED_BYTES_MAX)


def _largest_in_batch(
    file: File, position: int, header: BatchHeader, start_offset: int, rules: ChainRules
) -> TimestampOffset | None:
    """The first of the records with the largest timestamp at or above `start_offset`; None if there is none."""

    def find(bytes_max: int) -> TimestampOffset | None:
        times = _times_in_batch(file, position, header, start_offset, rules, bytes_max)
        return max(times, key=lambda found: found.timestamp_ms, default=None)

    return unpack_in_turn(find, UNPACKED_BYTES_MAX)


def _times_in_batch(
    file: File, position: int, header: BatchHeader, start_offset: int, rules: ChainRules, bytes_max: int
) -> Iterator[TimestampOffset]:
    """Each record from `start_offset` on; only the first one where all have the batch's time, or nobody can read them.

    Raises DecompressionTooLarge where it would have to unpack more than `bytes_max`, and may have more in its turn.
    """
    epoch = header.partition_leader_epoch
    whole = TimestampOffset(header.max_timestamp, max(header.base_offset, start_offset), epoch)
    if not header.record_count:
        return
    if header.attributes & LOG_APPEND_TIME_FLAG and header.record_count == header.last_offset_delta + 1:
        yield whole
        return
    batch = memoryview(file.pread(header.size_bytes, position))
    check_batch(file.path, position, header, batch, -1, rules)
    try:
        for offset, timestamp_ms in iterate_timestamps(batch, output_max_bytes=bytes_max):
            if offset >= start_offset:
                yield TimestampOffset(timestamp_ms, offset, epoch)
    except DecodeError as error:
        if isinstance(error, DecompressionTooLarge) and bytes_max < UNPACKED_BYTES_MAX:
            raise
        # The checksum is right, so the disk is: its producer wrote what nobody can read, or nobody should. The batch as a whole is the answer.
        yield whole
