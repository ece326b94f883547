"""Where in its log a record is, and where the newest batches are: kept in memory, so that of consumers that keep up the log is not asked.

Owns the begin of the last `KEPT` batches that were appended to the log as it is now; as soon as a segment has begun or gone they count no more. Knows
no bounds and no groups. Pure.
"""

from collections import deque
from collections.abc import Sequence
from typing import NamedTuple, Protocol

from penstock.protocol.compression import Codec
from penstock.protocol.record_batch import HEADER_SIZE_BYTES, BatchHeader

NO_TIMESTAMP = -1
KEPT = 16
"""Batches. Some 3.5 KB for each partition with a bound of bytes or age."""


class Sized(Protocol):
    """A segment of a log, as far as it matters here."""

    @property
    def size_bytes(self) -> int:
        """Of its batches."""
        ...


class Place(NamedTuple):
    """Where the unconsumed part begins, as looked up in the log."""

    offset: int
    """The first unconsumed offset that was looked for."""
    sealed_bytes: int
    """From the batch that holds it to where the active segment begins; negative where it lies in that one."""
    timestamp_ms: int
    """Of the first record from there on; -1 for none."""
    segments: Sequence[Sized]
    """The log's segments then: while they are the same, only the active one has grown."""

    @property
    def size_bytes(self) -> int:
        """From the batch that holds it to the end of the log, as that is now; while the segments are the same."""
        return self.sealed_bytes + self.segments[-1].size_bytes


def first_timestamp(batch: memoryview, header: BatchHeader) -> int | None:
    """The timestamp of a batch's first record, if it is seen without unpacking the batch.

    The base timestamp is that of the first record with most clients, and the least of all with some (KafkaJS).
    """
    base = header.base_timestamp
    if header.codec is not Codec.NONE:
        return base if base == header.max_timestamp else None
    position, end = HEADER_SIZE_BYTES, len(batch)
    while position < end and batch[position] & 0x80:  # the record's length
        position += 1
    # behind its attributes: what is to be added
    return base if position + 2 < end and batch[position + 2] == 0 else None


class RecentPlaces:
    """See the module."""

    __slots__ = ("_batches", "_segments")

    def __init__(self) -> None:
        self._batches: deque[tuple[int, int, int | None]] = deque(maxlen=KEPT)
        """Base offset, position in the active segment, timestamp of the first record (None: only a look tells)."""
        self._segments: Sequence[Sized] = ()

    def note(self, offset: int, position: int, timestamp_ms: int | None, segments: Sequence[Sized]) -> None:
        """A batch was appended that begins with that record, at that position of the last segment; None: of when is not known."""
        if segments is not self._segments:
            self._segments = segments
            self._batches.clear()
        self._batches.append((offset, position, timestamp_ms))

    def find(self, offset: int, segments: Sequence[Sized], *, with_timestamp: bool) -> Place | None:
        """Where that offset is, which lies below the log's end; None if it is not known any more. What lies below it is forgotten.

        Of a record within a batch the timestamp is not known.
        """
        if segments is not self._segments:
            return None
        batches = self._batches
        while len(batches) > 1 and batches[1][0] <= offset:
            batches.popleft()
        base_offset, position, timestamp_ms = batches[0]
        if base_offset > offset:
            return None
        if base_offset == offset and timestamp_ms is not None:
            return Place(offset, -position, timestamp_ms, segments)
        return None if with_timestamp else Place(offset, -position, NO_TIMESTAMP, segments)


__all__ = ["KEPT", "NO_TIMESTAMP", "Place", "RecentPlaces", "Sized", "first_timestamp"]
