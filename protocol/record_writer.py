"""A record batch that grows: records are appended in their final form, so that sealing it only writes the header and the checksum.

Owns the producer's per-record work and nothing else: it is the one module worth compiling. Knows no partitions, sequences or time; checks no
types (the producer does) and no sizes but what the format needs.

Two ways in: `append` for one record with all that it may have, `append_values` for a run of values that share key and time. The run is woven
by iterators that are all C (map, zip, chain, join), with tables in which the bytes between two values are looked up by length: no Python
code runs for a record.

Invariants: after each call `data` holds 61 bytes for the header and then whole records, whose offsets count up from 0.
Source: KIP-98; Kafka's `DefaultRecord`. `records.encode_batch` writes the same bytes and is the oracle in tests.
"""

from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from typing import Final

from penstock.protocol.checksum import crc32c
from penstock.protocol.compression import Codec, compress
from penstock.protocol.record_batch import (
    ATTRIBUTES_POSITION,
    CRC_POSITION,
    HEADER,
    HEADER_SIZE_BYTES,
    LENGTH_PREFIX_SIZE_BYTES,
    MAGIC,
    NO_PRODUCER_ID,
    NO_SEQUENCE,
)

RECORD_COUNT_MAX: Final = 16_384
"""A batch has no more records than the table of offset deltas has entries; nobody gains from larger ones."""

RECORD_OVERHEAD_MAX_BYTES: Final = 34
"""What a record takes at most beside key, value and headers: all its varints at their longest."""

HEADER_OVERHEAD_MAX_BYTES: Final = 10
"""What a record header takes at most beside its key and value."""

_NULL_KEY: Final = b"\x01"
_KEY_ERRORS: Final = "surrogateescape"
_TABLE_LENGTH_MAX: Final = 4096
_TABLES_MAX: Final = 64
_JOINED_FACTOR: Final = 4
"""A run that is not much smaller than the batch is joined with it into a new buffer."""
_DELTA_RUNS: Final = ((0, 64, 1), (64, 8192, 2), (8192, RECORD_COUNT_MAX, 3))
"""Where offset deltas of one, two and three bytes begin and end."""


def encode_varint(value: int) -> bytes:
    """`value` (64 bits, signed) as a zigzag varint."""
    number = value << 1 if value >= 0 else ~(value << 1)
    encoded = bytearray()
    while number > 127:
        encoded.append(number & 127 | 128)
        number >>= 7
    encoded.append(number)
    return bytes(encoded)


_VARINTS: Final[list[bytes]] = [encode_varint(number) for number in range(64)]
_TIMED_DELTAS: Final[list[bytes]] = []


def _fill_tables() -> None:
    """Here and not at import, so that who never produces pays nothing."""
    _VARINTS.extend([bytes((n << 1 & 127 | 128, n >> 6)) for n in range(64, 8192)])
    _VARINTS.extend(
        [bytes((n << 1 & 127 | 128, n >> 6 & 127 | 128, n >> 13)) for n in range(8192, RECORD_COUNT_MAX)]
    )
    _TIMED_DELTAS.extend([b"\x00\x00" + delta for delta in _VARINTS])


class _BetweenValues(dict[int, bytes]):
    """By the length of a value: the end of the record before (no headers) and the length of this one."""

    def __init__(self, fixed_bytes: int) -> None:
        super().__init__()
        self._fixed_bytes = fixed_bytes

    def __missing__(self, length: int) -> bytes:
        body_bytes = self._fixed_bytes + length + len(_varint(length))
        found = b"\x00" + _varint(body_bytes)
        if length < _TABLE_LENGTH_MAX:
            self[length] = found
        return found


class _KeysAndLengths(dict[int, bytes]):
    """By the length of a value: the key, which all records of a run share, and that length."""

    def __init__(self, key: bytes) -> None:
        super().__init__()
        self._key = key

    def __missing__(self, length: int) -> bytes:
        found = self._key + _varint(length)
        if length < _TABLE_LENGTH_MAX:
            self[length] = found
        return found


_BETWEEN: Final[dict[int, _BetweenValues]] = {}
_KEYLESS: Final = _KeysAndLengths(_NULL_KEY)


class RunKey:
    """The key of a run of values, with the tables that go with it; make one for many runs."""

    __slots__ = ("lengths", "size_bytes")

    def __init__(self, key: bytes | None) -> None:
        encoded = _NULL_KEY if key is None else _varint(len(key)) + key
        self.size_bytes = len(encoded)
        self.lengths = _KEYLESS if key is None else _KeysAndLengths(encoded)


KEYLESS: Final = RunKey(None)


class RecordWriter:
    """The records of one batch."""

    __slots__ = ("base_timestamp_ms", "data", "max_timestamp_ms", "record_count")

    def __init__(self) -> None:
        if not _TIMED_DELTAS:
            _fill_tables()
        self.data = bytearray(HEADER_SIZE_BYTES)
        self.record_count = 0
        self.base_timestamp_ms = 0
        self.max_timestamp_ms = 0

    def append(
        self,
        timestamp_ms: int,
        key: bytes | None,
        value: bytes | None,
        headers: Sequence[tuple[str, bytes | None]],
    ) -> None:
        """Add one record; the batch must have fewer than RECORD_COUNT_MAX."""
        count = self.record_count
        if count == 0:
            self.base_timestamp_ms = self.max_timestamp_ms = timestamp_ms
            head = b"\x00\x00\x00"
        elif timestamp_ms == self.base_timestamp_ms:
            head = _TIMED_DELTAS[count]
        else:
            head = b"\x00" + encode_varint(timestamp_ms - self.base_timestamp_ms) + _VARINTS[count]
            self.max_timestamp_ms = max(self.max_timestamp_ms, timestamp_ms)
        head += _NULL_KEY if key is None else _varint(len(key)) + key
        head += _NULL_KEY if value is None else _varint(len(value))
        tail = encode_headers(headers) if headers else b"\x00"
        data = self.data
        data += _varint(len(head) + len(tail) + (0 if value is None else len(value)))
        data += head
        if value is not None:
            data += value
        data += tail
        self.record_count = count + 1

    def append_values(
        self, timestamp_ms: int, key: RunKey, values: Sequence[bytes], lengths: Sequence[int]
    ) -> None:
        """Add a record for each value; `lengths` are theirs. No more than RECORD_COUNT_MAX in the batch with them."""
        if self.record_count == 0:
            self.base_timestamp_ms = self.max_timestamp_ms = timestamp_ms
        elif timestamp_ms > self.max_timestamp_ms:
            self.max_timestamp_ms = timestamp_ms
        delta = timestamp_ms - self.base_timestamp_ms
        time = b"" if delta == 0 else b"\x00" + encode_varint(delta)
        taken = 0
        woven: list[Iterable[tuple[bytes, bytes, bytes, bytes]]] = []
        for begin, end, delta_bytes in _DELTA_RUNS:
            first = self.record_count
            stop = min(end, first + len(values) - taken)
            if first < begin or first >= stop:
                continue
            count = stop - first
            heads = map(time.__add__, _VARINTS[first:stop]) if time else _TIMED_DELTAS[first:stop]
            fixed_bytes = (len(time) or 2) + delta_bytes + key.size_bytes + 1
            if count == len(values):
                woven.append(_weave(fixed_bytes, heads, key, values, lengths))
            else:
                upto = taken + count
                woven.append(_weave(fixed_bytes, heads, key, values[taken:upto], lengths[taken:upto]))
            taken += count
            self.record_count = stop
        if woven:
            self._add(chain.from_iterable(chain.from_iterable(woven)), sum(lengths))

    def _add(self, pieces: Iterator[bytes], size_bytes: int) -> None:
        """Add what was woven of values of `size_bytes`. Its first byte ends the record before, which has its end."""
        data = self.data
        if size_bytes * _JOINED_FACTOR < len(data):
            data += memoryview(b"".join(pieces))[1:]
            data.append(0)
        else:
            # One new buffer of the right size. To grow the old one by a joined copy takes eight times as long where values are large.
            first = next(pieces)[1:]
            self.data = bytearray().join(chain((data, first), pieces, (b"\x00",)))


def _weave(
    fixed_bytes: int,
    heads: Iterable[bytes],
    key: RunKey,
    values: Sequence[bytes],
    lengths: Sequence[int],
) -> Iterable[tuple[bytes, bytes, bytes, bytes]]:
    between = _BETWEEN.get(fixed_bytes)
    if between is None:
        if len(_BETWEEN) >= _TABLES_MAX:
            _BETWEEN.clear()
        between = _BETWEEN[fixed_bytes] = _BetweenValues(fixed_bytes)
    return zip(
        map(between.__getitem__, lengths),
        heads,
        map(key.lengths.__getitem__, lengths),
        values,
        strict=True,
    )


def seal(
    data: bytearray,
    *,
    codec: Codec,
    record_count: int,
    base_timestamp_ms: int,
    max_timestamp_ms: int,
    producer_id: int = NO_PRODUCER_ID,
    producer_epoch: int = -1,
    base_sequence: int = NO_SEQUENCE,
    is_transactional: bool = False,
) -> None:
    """Write the header and the checksum into a batch: 61 free bytes and then the records, compressed as `codec` says.

    May be called again with other producer fields, which is what a new epoch needs.
    """
    HEADER.pack_into(
        data,
        0,
        0,
        len(data) - LENGTH_PREFIX_SIZE_BYTES,
        -1,
        MAGIC,
        0,
        codec | (0x10 if is_transactional else 0),
        record_count - 1,
        base_timestamp_ms,
        max_timestamp_ms,
        producer_id,
        producer_epoch,
        base_sequence,
        record_count,
    )
    with memoryview(data) as view, view[ATTRIBUTES_POSITION:] as covered:
        checksum = crc32c(covered)
    data[CRC_POSITION:ATTRIBUTES_POSITION] = checksum.to_bytes(4, "big")


def compressed(data: bytearray, codec: Codec, level: int | None) -> bytearray:
    """A batch as `seal` takes it, from one whose records are not compressed. For a worker where there is much."""
    with memoryview(data) as view, view[HEADER_SIZE_BYTES:] as records:
        packed = compress(codec, records, level)
    result = bytearray(HEADER_SIZE_BYTES)
    result += packed
    return result


def encode_headers(headers: Sequence[tuple[str, bytes | None]]) -> bytes:
    """The headers of a record, their count first."""
    parts = [_varint(len(headers))]
    for name, value in headers:
        encoded = name.encode("utf-8", _KEY_ERRORS)
        parts.append(_varint(len(encoded)))
        parts.append(encoded)
        parts.append(_NULL_KEY if value is None else _varint(len(value)))
        if value:
            parts.append(value)
    return b"".join(parts)


def _varint(length: int) -> bytes:
    return _VARINTS[length] if length < len(_VARINTS) else encode_varint(length)


__all__ = [
    "HEADER_OVERHEAD_MAX_BYTES",
    "KEYLESS",
    "RECORD_COUNT_MAX",
    "RECORD_OVERHEAD_MAX_BYTES",
    "RecordWriter",
    "RunKey",
    "compressed",
    "encode_headers",
    "encode_varint",
    "seal",
]
