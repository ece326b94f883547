"""The hot loop: bytes of one record batch to records.

Owns the decoding alone, without closures, generators or coroutines, so that it can be compiled (mypyc) as it stands. Does not know positions,
compression or checksums.

Invariants: no count and no length is believed: the records tile the bytes exactly, and offsets rise within the batch. Source: KIP-98, KIP-82.
"""

from collections.abc import Callable
from typing import Any, NamedTuple, NoReturn, cast

from penstock.consumer.record import ConsumerRecord, Headers
from penstock.protocol.errors import DecodeError
from penstock.protocol.record_batch import TimestampType

_RECORD_MIN_BYTES = 7
_HEADER_MIN_BYTES = 2
_KEY_ERRORS = "surrogateescape"  # header keys are UTF-8, but no broker ever checked
_new_record: Callable[[type[ConsumerRecord], tuple[object, ...]], ConsumerRecord] = cast(Any, tuple).__new__
"""Without the detour over the class's own constructor, which takes half as long again."""


class Source(NamedTuple):
    """What is the same for all records of a batch."""

    topic: str
    partition: int
    timestamp_type: TimestampType
    leader_epoch: int
    base_offset: int
    last_offset_delta: int
    base_timestamp: int
    append_time: int | None
    record_count: int


def decode_records(data: bytes, source: Source, start_offset: int, end_offset: int) -> list[ConsumerRecord]:
    """The records with start_offset <= offset < end_offset. DecodeError where `data` is not `record_count` records."""
    _check_count(source.record_count, len(data))
    try:
        return _decode_all(data, source, start_offset - source.base_offset, end_offset - source.base_offset)
    except IndexError:
        raise DecodeError("the records end inside a record") from None


def _decode_all(data: bytes, source: Source, first_delta: int, end_delta: int) -> list[ConsumerRecord]:
    # One- and two-byte varints, which nearly all are, are read in line: a call for each takes twice the time. The low bit
    # is a zigzag varint's sign, and the only negative length is that of null.
    topic, partition, kind, epoch, base_offset, last_delta, base_timestamp, append_time, count = source
    new, cls = _new_record, ConsumerRecord
    out: list[ConsumerRecord] = []
    append = out.append
    position, previous = 0, -1
    key: bytes | None
    value: bytes | None
    headers: Headers
    for _ in range(count):
        length, position = data[position], position + 1
        if length > 127:
            if (byte := data[position]) < 128:
                length, position = length + ((byte - 1) << 7), position + 1
            else:
                length, position = _long_varint(data, position - 1)
        end = position + (length >> 1)
        position += 1  # past the record's attributes, none of which is in use
        number, position = data[position], position + 1
        if number > 127:
            if (byte := data[position]) < 128:
                number, position = number + ((byte - 1) << 7), position + 1
            else:
                number, position = _long_varint(data, position - 1)
        timestamp = base_timestamp + (number >> 1 ^ -(number & 1))
        delta, position = data[position], position + 1
        if delta > 127:
            if (byte := data[position]) < 128:
                delta, position = delta + ((byte - 1) << 7), position + 1
            else:
                delta, position = _long_varint(data, position - 1)
        delta = delta >> 1 ^ -(delta & 1)
        number, position = data[position], position + 1
        if number == 1:
            key = None
        else:
            key, position = _field(data, position - 1)
        number, position = data[position], position + 1
        if number > 127:
            if (byte := data[position]) < 128:
                number, position = number + ((byte - 1) << 7), position + 1
            else:
                number, position = _long_varint(data, position - 1)
        if number & 1:
            value = None
        else:
            start, position = position, position + (number >> 1)
            value = data[start:position]
        headers, position = _read_headers(data, position) if data[position] else ((), position + 1)
        if position != end or not previous < delta <= last_delta:
            _bad_record(position, end)
        previous = delta
        if first_delta <= delta < end_delta:
            when = timestamp if append_time is None else append_time
            append(new(cls, (topic, partition, base_offset + delta, when, kind, key, value, headers, epoch)))
    if position != len(data):
        raise DecodeError(f"{len(data) - position} bytes behind the last record")
    return out


def _field(data: bytes, position: int) -> tuple[bytes | None, int]:
    """The key at `position`, its length first, and the position behind it."""
    number, position = _long_varint(data, position)
    if number & 1:
        return None, position
    end = position + (number >> 1)
    return data[position:end], end


def decode_values(data: bytes, source: Source, start_offset: int, end_offset: int) -> list[bytes | None]:
    """The values of the same records. Headers and timestamps are skipped without a look."""
    base_offset, last_delta, count = source.base_offset, source.last_offset_delta, source.record_count
    _check_count(count, len(data))
    first_delta = start_offset - base_offset
    end_delta = end_offset - base_offset
    size_bytes = len(data)
    out: list[bytes | None] = []
    append = out.append
    position = 0
    previous = -1
    try:
        for _ in range(count):
            length = data[position]
            position += 1
            if length > 127:
                byte = data[position]
                if byte < 128:
                    length += (byte - 1) << 7
                    position += 1
                else:
                    length, position = _long_varint(data, position - 1)
            end = position + (length >> 1)
            position += 1
            while data[position] > 127:
                position += 1
            position += 1
            delta = data[position]
            position += 1
            if delta > 127:
                byte = data[position]
                if byte < 128:
                    delta += (byte - 1) << 7
                    position += 1
                else:
                    delta, position = _long_varint(data, position - 1)
            if delta & 1:
                _bad_record(position, end)
            delta >>= 1
            number = data[position]
            position += 1
            if number != 1:
                if number > 127:
                    number, position = _long_varint(data, position - 1)
                if not number & 1:
                    position += number >> 1
            number = data[position]
            position += 1
            if number > 127:
                byte = data[position]
                if byte < 128:
                    number += (byte - 1) << 7
                    position += 1
                else:
                    number, position = _long_varint(data, position - 1)
            start = position
            if not number & 1:
                position += number >> 1
            if not start <= position < end <= size_bytes or not previous < delta <= last_delta:
                _bad_record(position, end)
            previous = delta
            if first_delta <= delta < end_delta:
                append(None if number & 1 else data[start:position])
            position = end
    except IndexError:
        raise DecodeError("the records end inside a record") from None
    if position != size_bytes:
        raise DecodeError(f"{size_bytes - position} bytes behind the last record")
    return out


def _check_count(count: int, size_bytes: int) -> None:
    if not 0 <= count <= size_bytes // _RECORD_MIN_BYTES:
        raise DecodeError(f"{count} records claimed in {size_bytes} bytes")


def _read_headers(data: bytes, position: int) -> tuple[Headers, int]:
    """The headers at `position`, their count first, and the position behind them."""
    count, position = _varint(data, position)
    if not 0 <= count <= (len(data) - position) // _HEADER_MIN_BYTES:
        raise DecodeError(f"a record claims {count} headers in {len(data) - position} bytes")
    headers: list[tuple[str, bytes | None]] = []
    for _ in range(count):
        size, start = _varint(data, position)
        if size < 0:
            raise DecodeError("a record header without a key")
        position = start + size
        key = data[start:position].decode("utf-8", _KEY_ERRORS)
        size, start = _varint(data, position)
        if size < 0:
            position = start
            headers.append((key, None))
        else:
            position = start + size
            headers.append((key, data[start:position]))
    return tuple(headers), position


def _varint(data: bytes, position: int) -> tuple[int, int]:
    number, position = _long_varint(data, position)
    return number >> 1 ^ -(number & 1), position


def _long_varint(data: bytes, position: int) -> tuple[int, int]:
    """A varint of up to ten bytes, its sign still in the low bit, and the position behind it."""
    number = 0
    shift = 0
    while True:
        byte = data[position]
        position += 1
        number |= (byte & 127) << shift
        if byte < 128:
            return number, position
        shift += 7
        if shift > 63:
            raise DecodeError("a varint of more than ten bytes")


def _bad_record(position: int, end: int) -> NoReturn:
    raise DecodeError(
        f"a record that by its length ends at byte {end} was read to {position}, or its offset does not fit"
    )


__all__ = ["Source", "decode_records", "decode_values"]
