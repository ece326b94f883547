"""Looks up in a log where its unconsumed part begins. For workers: reads the disk."""

from penstock.broker.backlog.places import NO_TIMESTAMP, Place
from penstock.protocol.errors import DecodeError
from penstock.protocol.record_batch import BatchHeader, TimestampType, read_batch_header
from penstock.protocol.records import iterate_timestamps
from penstock.storage.batch_walk import unpack_in_turn
from penstock.storage.log import Log
from penstock.storage.log_reader import floor_segment

UNPACKED_BYTES_MAX = 64 << 20
"""Of a batch that is looked into; a larger one counts by its largest timestamp."""


def find_place(log: Log, offset: int, with_timestamp: bool) -> Place:
    """Where `offset`, which lies within the log, is; nothing is appended meanwhile. The timestamp costs the unpacking of a batch.

    Raises OffsetOutOfRange, CorruptBatch, StorageError.
    """
    while True:
        segments = log.segments
        with log.read(offset, 1, log.log_end_offset, resident_only=False) as found:
            batch, position = memoryview(found.read()), found.position
        header = read_batch_header(batch)
        number = floor_segment(segments, header.last_offset)
        sealed_bytes = sum(segment.size_bytes for segment in segments[number:-1]) - position
        if log.segments is segments:
            break
    timestamp_ms = _timestamp_at(batch, header, offset) if with_timestamp else NO_TIMESTAMP
    return Place(offset, sealed_bytes, timestamp_ms, segments)


def _timestamp_at(batch: memoryview, header: BatchHeader, offset: int) -> int:
    """The timestamp of the first record of the batch at or above `offset`.

    The batch's largest where compaction took all of those, and where its producer wrote what nobody can read, or nobody should.
    """
    if header.timestamp_type is TimestampType.LOG_APPEND_TIME:
        return header.max_timestamp

    def find(bytes_max: int) -> int:
        for found, timestamp_ms in iterate_timestamps(batch, output_max_bytes=bytes_max):
            if found >= offset:
                return timestamp_ms
        return header.max_timestamp

    try:
        return unpack_in_turn(find, UNPACKED_BYTES_MAX)
    except DecodeError:
        return header.max_timestamp


__all__ = ["find_place"]
