"""Batches with fewer records: what compaction makes of a batch, byte for byte.

Owns how records are taken out of a batch, how one is emptied, and how the delete horizon is written into it. Does not know which records
are to go: compaction decides that.

Invariants:
    - Base offset, last offset delta, leader epoch and the producer's fields stay: offsets and sequences tell the same story as before.
    - A record that stays is copied as it lies, in its batch's codec; only the delete horizon, which takes the place of the base timestamp,
      has the timestamp deltas written anew.
    - What is written can be read again: a record whose time lies further below the horizon than 64 bits can say comes nearer.

Source: KIP-534; Kafka's `MemoryRecords.filterTo`, `DefaultRecordBatch.writeEmptyHeader`, `ControlRecordType`.
"""

import enum
import struct
from array import array
from dataclasses import replace

from penstock.protocol.compression import Codec, compress
from penstock.protocol.errors import DecodeError
from penstock.protocol.record_batch import (
    CODEC_MASK,
    DELETE_HORIZON_FLAG,
    LOG_APPEND_TIME_FLAG,
    NO_TIMESTAMP,
    BatchHeader,
)
from penstock.protocol.record_writer import encode_varint
from penstock.protocol.records import iterate_entries, seal_batch, unpack_batch

CONTROL_BYTES_MAX = 1 << 20
"""Of the records of a control batch: a marker has about a dozen."""
_CONTROL_KEY = struct.Struct(">hh")
_INT64_MIN = -(2**63)


class ControlType(enum.IntEnum):
    """What a control record says; others may come."""

    ABORT = 0
    COMMIT = 1


class KeptRecords:
    """Which records of an unpacked batch stay. Memory: 16 bytes for each run of them."""

    __slots__ = ("count", "has_tombstone", "max_timestamp", "runs")

    def __init__(self) -> None:
        self.count = 0
        self.max_timestamp = NO_TIMESTAMP
        self.has_tombstone = False
        """Whether one of them has no value."""
        self.runs: array[int] = array("q")
        """Start and end of each run in the unpacked batch."""

    def keep(self, timestamp: int, has_value: bool, start: int, end: int) -> None:
        """Let the next record stay."""
        self.count += 1
        self.max_timestamp = max(self.max_timestamp, timestamp)
        if not has_value:
            self.has_tombstone = True
        runs = self.runs
        if runs and runs[-1] == start:
            runs[-1] = end
        else:
            runs.append(start)
            runs.append(end)


def keep_records(data: bytes, header: BatchHeader, kept: KeptRecords) -> bytearray:
    """The batch with the records in `kept` alone, of which there is at least one. `data` is the unpacked batch."""
    runs = kept.runs
    view = memoryview(data)
    payload = b"".join(view[runs[i] : runs[i + 1]] for i in range(0, len(runs), 2))
    return seal_batch(_with_count(header, kept), compress(header.codec, payload))


def keep_records_until(data: bytes, header: BatchHeader, kept: KeptRecords, horizon_ms: int) -> bytearray:
    """The same, with a delete horizon: from then on compaction may drop the tombstones, or the marker, in it. `horizon_ms` is not negative."""
    left = bytearray()
    runs = kept.runs
    run = 0
    view = memoryview(data)
    for _, timestamp, _, _, start, rest, end in iterate_entries(data, header):
        while run < len(runs) and start >= runs[run + 1]:
            run += 2
        if run == len(runs):
            break
        if start < runs[run]:
            continue
        head = b"\0" + encode_varint(max(timestamp - horizon_ms, _INT64_MIN))
        left += encode_varint(len(head) + end - rest)
        left += head
        left += view[rest:end]
    changed = _with_count(header, kept)
    changed.attributes |= DELETE_HORIZON_FLAG
    changed.base_timestamp = horizon_ms
    return seal_batch(changed, compress(header.codec, left))


def _with_count(header: BatchHeader, kept: KeptRecords) -> BatchHeader:
    is_append_time = header.attributes & LOG_APPEND_TIME_FLAG
    max_timestamp = header.max_timestamp
    if not is_append_time:  # never above what was checked on the way in, whatever the records say
        max_timestamp = min(max_timestamp, kept.max_timestamp)
    return replace(header, record_count=kept.count, max_timestamp=max_timestamp)


def empty_batch(header: BatchHeader) -> bytearray:
    """The batch without a record: it holds its offsets' place and the producer's last sequence."""
    return seal_batch(
        replace(
            header,
            attributes=header.attributes & ~(CODEC_MASK | DELETE_HORIZON_FLAG) | Codec.NONE,
            base_timestamp=NO_TIMESTAMP,
            record_count=0,
        ),
        b"",
    )


def control_type(batch: memoryview) -> int | None:
    """The type (`ControlType`, or one that is not known here) of a control batch's record; None if it has none. Raises DecodeError."""
    data, header = unpack_batch(batch, CONTROL_BYTES_MAX)
    for _, _, key, _, _, _, _ in iterate_entries(data, header):
        if key is None or len(key) < _CONTROL_KEY.size:
            raise DecodeError("a control record without a type")
        kind: int = _CONTROL_KEY.unpack_from(key)[1]
        return kind
    return None
