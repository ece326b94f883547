"""Record batches as columns: where each record's fields lie in the bytes, found without a Python object for each record.

Owns the decoding by columns (numpy), with the checks of `penstock.consumer.decoding`: the records tile the bytes, every field lies within
its record, offsets rise. Knows neither files nor formats.

Invariants: nothing is believed that was not compared; what is found here is what `decoding` finds. Source: KIP-98, KIP-82.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from penstock.client.metadata import TopicPartition
from penstock.consumer.batch import ConsumerBatch, RawBatch, TimeWindow
from penstock.consumer.decoding import record_starts
from penstock.consumer.errors import CorruptRecords
from penstock.protocol.errors import DecodeError

Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]
DATA_MAX_BYTES = 64 * 1024 * 1024
"""Batches are taken together up to so many bytes; one alone may be larger."""
_SHIFT_MAX = 63


@dataclass(frozen=True, slots=True)
class Field:
    """Of each record where a field begins and ends in the data; both the same where it is null."""

    starts: Ints
    ends: Ints
    nulls: Bools

    def select(self, chosen: Bools | slice) -> "Field":
        """Of some records."""
        return Field(self.starts[chosen], self.ends[chosen], self.nulls[chosen])


@dataclass(frozen=True, slots=True)
class Columns:
    """Records of one partition, in order."""

    partition: TopicPartition
    data: bytes
    offsets: Ints
    timestamps_ms: Ints
    keys: Field
    values: Field
    headers_at: Ints
    """Where the count of headers stands."""
    record_ends: Ints
    has_headers: bool

    def __len__(self) -> int:
        return len(self.offsets)

    def select(self, chosen: Bools | slice) -> "Columns":
        """Some of the records."""
        return replace(
            self,
            offsets=self.offsets[chosen],
            timestamps_ms=self.timestamps_ms[chosen],
            keys=self.keys.select(chosen),
            values=self.values.select(chosen),
            headers_at=self.headers_at[chosen],
            record_ends=self.record_ends[chosen],
        )


def decode_columns(batch: ConsumerBatch) -> Iterator[Columns]:
    """The records of a batch that lie in its offsets and its window, in pieces of about DATA_MAX_BYTES. Raises CorruptRecords."""
    for raws in _grouped(batch.raws):
        try:
            columns = _decode(batch.topic_partition, raws)
        except DecodeError as error:
            first, last = raws[0], raws[-1]
            raise CorruptRecords(
                batch.topic_partition, first.base_offset, str(error), last.next_offset
            ) from error
        columns = _within(columns, batch.start_offset, batch.next_offset, batch.window)
        if len(columns):
            yield columns


def _grouped(raws: Sequence[RawBatch]) -> Iterator[Sequence[RawBatch]]:
    group: list[RawBatch] = []
    size_bytes = 0
    for raw in raws:
        assert raw.records is not None
        if group and size_bytes + len(raw.records) > DATA_MAX_BYTES:
            yield group
            group, size_bytes = [], 0
        group.append(raw)
        size_bytes += len(raw.records)
    if group:
        yield group


def _within(columns: Columns, start: int, end: int, window: TimeWindow | None) -> Columns:
    chosen = (columns.offsets >= start) & (columns.offsets < end)
    if window is not None:
        times = columns.timestamps_ms
        lowest, highest = max(window.start_ms, -(1 << 63)), min(window.end_ms, (1 << 63) - 1)
        chosen &= (times >= lowest) & (times < highest)
    return columns if bool(chosen.all()) else columns.select(chosen)


def _decode(partition: TopicPartition, raws: Sequence[RawBatch]) -> Columns:
    data = raws[0].records if len(raws) == 1 else b"".join([raw.records or b"" for raw in raws])
    assert data is not None
    view = np.frombuffer(data, np.uint8)
    counts = [raw.header.record_count for raw in raws]
    starts, ends = _bounds(raws, counts, len(data))
    try:
        length, at = _varints(view, starts)
        _require(at + length == ends)
        at += 1  # past the record's attributes, none of which is in use
        time_delta, at = _varints(view, at)
        offset_delta, at = _varints(view, at)
        keys, at = _field(view, at, ends)
        values, at = _field(view, at, ends)
        headers_at = at
        _require(at < ends)
        has_headers = bool((view[at] != 0).any())
        if not has_headers:
            _require(at + 1 == ends)
    except IndexError:
        raise DecodeError("a record ends behind the others") from None
    last_delta, base_offset, base_time, append_time = (
        np.repeat(np.array(column, np.int64), counts)
        for column in zip(*[_per_batch(raw) for raw in raws], strict=True)
    )
    _require_rising(offset_delta, last_delta, counts)
    stamped = append_time >= 0
    times = base_time + time_delta
    if stamped.any():
        times = np.where(stamped, append_time, times)
    offsets = base_offset + offset_delta
    return Columns(partition, data, offsets, times, keys, values, headers_at, ends, has_headers)


def _per_batch(raw: RawBatch) -> tuple[int, int, int, int]:
    header = raw.header
    append_time = header.max_timestamp if raw.is_stamped_by_broker else -1
    return header.last_offset_delta, header.base_offset, header.base_timestamp, append_time


def _bounds(raws: Sequence[RawBatch], counts: Sequence[int], size_bytes: int) -> tuple[Ints, Ints]:
    """Where each record begins and ends."""
    parts: list[Ints] = []
    position = 0
    for raw, count in zip(raws, counts, strict=True):
        records = raw.records or b""
        parts.append(_starts(records, count) + position)
        position += len(records)
    starts = np.concatenate(parts) if len(parts) > 1 else parts[0]
    return starts, np.append(starts[1:], size_bytes)


def _starts(records: bytes, count: int) -> Ints:
    size_bytes = len(records)
    stride = size_bytes // count if count else 0
    if stride > 10 and stride * count == size_bytes:  # all of one length? Then their length varints are alike
        columns = np.frombuffer(records, np.uint8).reshape(count, stride)
        width = 1
        while width < 10 and columns[0, width - 1] > 127:
            width += 1
        length, at = _varints(columns[0], np.zeros(1, np.int64))
        if length[0] + at[0] == stride and bool((columns[:, :width] == columns[0, :width]).all()):
            return np.arange(0, size_bytes, stride, dtype=np.int64)
    return np.array(record_starts(records, count), np.int64)


def _varints(view: NDArray[np.uint8], at: Ints) -> tuple[Ints, Ints]:
    """The zigzag varints at these places, and the places behind them. IndexError where one runs over the end."""
    byte = view[at].astype(np.uint64)
    at = at + 1
    more = np.flatnonzero(byte > 127)
    number = byte & np.uint64(127)
    shift = 7
    while more.size:
        if shift > _SHIFT_MAX:
            raise DecodeError("a varint of more than ten bytes")
        byte = view[at[more]].astype(np.uint64)
        number[more] |= (byte & np.uint64(127)) << np.uint64(shift)
        at[more] += 1
        more = more[byte > 127]
        shift += 7
    signs = (number & np.uint64(1)).astype(np.int64)
    return (number >> np.uint64(1)).astype(np.int64) ^ -signs, at


def _field(view: NDArray[np.uint8], at: Ints, ends: Ints) -> tuple[Field, Ints]:
    """The field at these places, its length first; a negative one is null."""
    length, starts = _varints(view, at)
    nulls = length < 0
    length = np.where(nulls, 0, length)
    _require(length <= len(view))  # else the sum may overflow
    behind = starts + length
    _require(behind <= ends)
    return Field(starts, behind, nulls), behind


def _require(holds: Bools) -> None:
    if not bool(holds.all()):
        raise DecodeError("a field reaches out of its record, or the record is longer than its fields")


def _require_rising(deltas: Ints, last_delta: Ints, counts: Sequence[int]) -> None:
    first = np.zeros(len(deltas), np.bool_)
    first[np.cumsum([0, *counts[:-1]])] = True
    before = np.empty_like(deltas)
    before[1:] = deltas[:-1]
    before[first] = -1
    if not bool(((deltas > before) & (deltas <= last_delta)).all()):
        raise DecodeError("the offset of a record does not fit")


__all__ = ["Columns", "Field", "decode_columns"]
