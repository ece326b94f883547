"""The hot loop: bytes of one record batch to records.

Owns the decoding alone, without closures, generators or coroutines, so that it can be compiled (mypyc) as it stands. Does not know positions,
compression or checksums.

Invariants: no count and no length is believed: the records tile the bytes exactly, none has a negative length, and offsets rise within the
batch. What breaks that is a DecodeError, as Java's client has its InvalidRecordException. Source: KIP-98, KIP-82, Kafka's `DefaultRecord`.
"""

from collections.abc import Callable, Iterable, Iterator
from functools import partial
from itertools import chain, repeat
from typing import Any, NamedTuple, NoReturn, TypeVar, cast

from penstock.consumer.record import ConsumerRecord, Headers
from penstock.consumer.runs import (
    RUN_MIN,
    WINDOW_MAX,
    WINDOW_MIN,
    Run,
    find_run,
    long_varint,
    signed_varint,
)
from penstock.protocol.errors import DecodeError
from penstock.protocol.record_batch import TimestampType

_T = TypeVar("_T")
_RECORD_MIN_BYTES = 7
_HEADER_MIN_BYTES = 2
_STRETCH_MAX = 1024
"""So many records are decoded one by one before the next look for a run, where there was none for long."""
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


class Progress:
    """How far a batch is decoded: the byte position, the offset delta before it, and how many records are left."""

    __slots__ = ("left", "position", "previous")

    def __init__(self, position: int, previous: int, left: int) -> None:
        self.position = position
        self.previous = previous
        self.left = left


def decode_records(
    data: bytes, source: Source, start_offset: int, end_offset: int
) -> Iterator[ConsumerRecord]:
    """The records with start_offset <= offset < end_offset; most are made as they are asked for, all are checked before the first one.

    DecodeError, at the call, where `data` is not `record_count` records.
    """
    wanted = range(start_offset - source.base_offset, end_offset - source.base_offset)
    return chain.from_iterable(_parts(data, source, decode_some, partial(_run_records, source), wanted))


def decode_values(data: bytes, source: Source, start_offset: int, end_offset: int) -> list[bytes | None]:
    """The values of the same records. Headers and timestamps are skipped without a look."""
    wanted = range(start_offset - source.base_offset, end_offset - source.base_offset)
    return list(chain.from_iterable(_parts(data, source, decode_some_values, Run.values, wanted)))


def _parts(
    data: bytes,
    source: Source,
    decode_some: "Callable[[bytes, Source, Progress, int, range], Iterable[_T]]",
    cut: "Callable[[Run], Iterable[_T]]",
    wanted: range,
) -> "list[Iterable[_T]]":
    """All of the batch: runs where there are any, else records one by one, the more at once the fewer runs there are."""
    count, size_bytes = source.record_count, len(data)
    if not 0 <= count <= size_bytes // _RECORD_MIN_BYTES:
        raise DecodeError(f"{count} records claimed in {size_bytes} bytes")
    parts: list[Iterable[_T]] = []
    progress = Progress(0, -1, count)
    window, stretch = WINDOW_MIN, RUN_MIN
    try:
        while progress.left:
            run = find_run(
                data,
                progress.position,
                progress.previous,
                source.last_offset_delta,
                min(progress.left, window),
            )
            if run is None:
                taken = min(progress.left, stretch)
                parts.append(decode_some(data, source, progress, taken, wanted))
                window, stretch = WINDOW_MIN, min(stretch * 2, _STRETCH_MAX)
                continue
            stretch = RUN_MIN
            window = min(window * 4, WINDOW_MAX) if run.count == window else WINDOW_MIN
            progress.position += run.count * run.stride
            progress.previous = run.first_delta + run.count - 1
            progress.left -= run.count
            if run.trim(wanted.start, wanted.stop):
                parts.append(cut(run))
    except IndexError:
        raise DecodeError("the records end inside a record") from None
    if progress.position != size_bytes:
        raise DecodeError(f"{size_bytes - progress.position} bytes behind the last record")
    return parts


def _run_records(source: Source, run: Run) -> Iterator[ConsumerRecord]:
    topic, partition, kind, epoch, base_offset, _, base_timestamp, append_time, _ = source
    first = base_offset + run.first_delta
    fields = zip(
        repeat(topic, run.count),
        repeat(partition),
        range(first, first + run.count),
        run.times(base_timestamp) if append_time is None else repeat(append_time),
        repeat(kind),
        run.keys(),
        run.values(),
        repeat(()),
        repeat(epoch),
    )
    return map(_new_record, repeat(ConsumerRecord), fields)


def decode_some(
    data: bytes, source: Source, progress: Progress, count: int, wanted: range
) -> list[ConsumerRecord]:
    """The next `count` records, one by one, those of them whose offset deltas are wanted. IndexError where `data` ends before."""
    # One- and two-byte varints, which nearly all are, are read in line: a call for each takes twice the time. The low bit
    # is a zigzag varint's sign, and the only negative length is that of null. A record's own length is compared as it is encoded, twice what
    # was read: so a negative one, which is odd, fits nothing, and that costs no comparison of its own.
    topic, partition, kind, epoch, base_offset, last_delta, base_timestamp, append_time, _ = source
    first_delta, end_delta = wanted.start, wanted.stop
    new, cls = _new_record, ConsumerRecord
    out: list[ConsumerRecord] = []
    append = out.append
    position, previous = progress.position, progress.previous
    key: bytes | None
    value: bytes | None
    headers: Headers
    for _ in range(count):
        length, position = data[position], position + 1
        if length > 127:
            if (byte := data[position]) < 128:
                length, position = length + ((byte - 1) << 7), position + 1
            else:
                length, position = long_varint(data, position - 1)
        begin, position = position, position + 1  # past the record's attributes, none of which is in use
        number, position = data[position], position + 1
        if number > 127:
            if (byte := data[position]) < 128:
                number, position = number + ((byte - 1) << 7), position + 1
            else:
                number, position = long_varint(data, position - 1)
        timestamp = base_timestamp + (number >> 1 ^ -(number & 1))
        delta, position = data[position], position + 1
        if delta > 127:
            if (byte := data[position]) < 128:
                delta, position = delta + ((byte - 1) << 7), position + 1
            else:
                delta, position = long_varint(data, position - 1)
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
                number, position = long_varint(data, position - 1)
        if number & 1:
            value = None
        else:
            start, position = position, position + (number >> 1)
            value = data[start:position]
        headers, position = read_headers(data, position) if data[position] else ((), position + 1)
        if position - begin << 1 != length or not previous < delta <= last_delta:
            _bad_record(position, begin + (length >> 1 ^ -(length & 1)))
        previous = delta
        if first_delta <= delta < end_delta:
            when = timestamp if append_time is None else append_time
            append(new(cls, (topic, partition, base_offset + delta, when, kind, key, value, headers, epoch)))
    progress.position, progress.previous, progress.left = position, previous, progress.left - count
    return out


def _field(data: bytes, position: int) -> tuple[bytes | None, int]:
    """The key at `position`, its length first, and the position behind it."""
    number, position = long_varint(data, position)
    if number & 1:
        return None, position
    end = position + (number >> 1)
    return data[position:end], end


def decode_some_values(
    data: bytes, source: Source, progress: Progress, count: int, wanted: range
) -> list[bytes | None]:
    last_delta, size_bytes = source.last_offset_delta, len(data)
    first_delta, end_delta = wanted.start, wanted.stop
    out: list[bytes | None] = []
    append = out.append
    position, previous = progress.position, progress.previous
    for _ in range(count):
        length = data[position]
        position += 1
        if length > 127:
            byte = data[position]
            if byte < 128:
                length += (byte - 1) << 7
                position += 1
            else:
                length, position = long_varint(data, position - 1)
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
                delta, position = long_varint(data, position - 1)
        if (delta | length) & 1:  # one is negative
            _bad_record(position, end)
        delta >>= 1
        number = data[position]
        position += 1
        if number != 1:
            if number > 127:
                number, position = long_varint(data, position - 1)
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
                number, position = long_varint(data, position - 1)
        start = position
        if not number & 1:
            position += number >> 1
        if not start <= position < end <= size_bytes or not previous < delta <= last_delta:
            _bad_record(position, end)
        previous = delta
        if first_delta <= delta < end_delta:
            append(None if number & 1 else data[start:position])
        position = end
    progress.position, progress.previous, progress.left = position, previous, progress.left - count
    return out


def read_headers(data: bytes, position: int) -> tuple[Headers, int]:
    """The headers at `position`, their count first, and the position behind them."""
    count, position = signed_varint(data, position)
    if not 0 <= count <= (len(data) - position) // _HEADER_MIN_BYTES:
        raise DecodeError(f"a record claims {count} headers in {len(data) - position} bytes")
    headers: list[tuple[str, bytes | None]] = []
    for _ in range(count):
        size, start = signed_varint(data, position)
        if size < 0:
            raise DecodeError("a record header without a key")
        position = start + size
        key = data[start:position].decode("utf-8", _KEY_ERRORS)
        size, start = signed_varint(data, position)
        if size < 0:
            position = start
            headers.append((key, None))
        else:
            position = start + size
            headers.append((key, data[start:position]))
    return tuple(headers), position


def record_starts(data: bytes, count: int) -> list[int]:
    """Where each record begins, its length first. DecodeError where `data` is not `count` records by their lengths; no more of them is looked at."""
    size_bytes = len(data)
    if not 0 <= count <= size_bytes // _RECORD_MIN_BYTES:
        raise DecodeError(f"{count} records claimed in {size_bytes} bytes")
    starts: list[int] = []
    append = starts.append
    position = 0
    try:
        for _ in range(count):
            append(position)
            length = data[position]
            position += 1
            if length > 127:
                byte = data[position]
                if byte < 128:
                    length += (byte - 1) << 7
                    position += 1
                else:
                    length, position = long_varint(data, position - 1)
            if length & 1:
                raise DecodeError("a record of negative length")
            position += length >> 1
    except IndexError:
        raise DecodeError("the records end inside a record") from None
    if position != size_bytes:
        raise DecodeError(f"by their lengths {count} records end at byte {position} of {size_bytes}")
    return starts


def _bad_record(position: int, end: int) -> NoReturn:
    raise DecodeError(
        f"a record that by its length ends at byte {end} was read to {position}, or its length or its offset does not fit"
    )


__all__ = [
    "Progress",
    "Source",
    "decode_records",
    "decode_some",
    "decode_values",
    "read_headers",
    "record_starts",
]
