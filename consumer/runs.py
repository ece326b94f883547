"""Runs: stretches of a record batch whose records all have the same shape, found and cut up by C code alone.

Two records have the same shape where all their varints are of the same width and all their lengths are equal, they have no headers, and their
offsets count up by one. What a producer sends is mostly that, or made of long stretches of it. Then every field lies at the same place of each
record: a column of bytes is one slice with a step, checking it is one comparison, and the values come out of one `struct`. No Python code
runs for a record.

Owns finding runs, with every byte checked that `decoding` would look at, and their columns. Does not know what a record becomes.

Invariants: what is found here, and only that, is what `decoding` would read there; nothing is believed that was not compared. Source: KIP-98.
"""

from collections.abc import Iterable
from itertools import chain, repeat
from struct import Struct

from penstock.protocol.errors import DecodeError

RUN_MIN = 16
"""Shorter ones are not worth it."""
WINDOW_MIN = 64
"""How far is looked for the first run, and again wherever one ends."""
WINDOW_MAX = 16_384

_HIGH_BIT = bytes(128) + b"\x01" * 128
_LOW_7 = bytes(number << 1 & 127 | 128 for number in range(64))
_ONE_BYTE = bytes(range(0, 128, 2))
_TWO_BYTES = (_LOW_7 * 128, b"".join(bytes((number,)) * 64 for number in range(128)))
_MIDDLE_7 = b"".join(bytes((number | 128,)) * 64 for number in range(128))
_THREE_BYTES = (_LOW_7 * 512, _MIDDLE_7 * 4, b"".join(bytes((number,)) * 8192 for number in range(4)))
_DELTAS = ((_ONE_BYTE,), _TWO_BYTES, _THREE_BYTES)
"""By their width, less one: the varints of all offset deltas, column by column, each at the index of its delta."""
_DELTA_ENDS = (64, 8192, 32_768)


class _Times(dict[tuple[bytes], int]):
    """By a timestamp's varint (as `struct` gives it): the timestamp. Records of one run have few different ones."""

    def __init__(self, base_timestamp: int) -> None:
        super().__init__()
        self._base_timestamp = base_timestamp

    def __missing__(self, encoded: tuple[bytes]) -> int:
        found = self[encoded] = self._base_timestamp + signed_varint(encoded[0], 0)[0]
        return found


class Run:
    """`count` records of one shape from `position` on, each `stride` bytes; places of fields are counted from a record's begin."""

    __slots__ = (
        "count",
        "data",
        "first_delta",
        "key_at",
        "key_size",
        "position",
        "stride",
        "time_at",
        "time_width",
        "value_at",
        "value_size",
    )

    def __init__(self, data: bytes, position: int, first_delta: int) -> None:
        self.data = data
        self.position = position
        self.first_delta = first_delta
        self.count = self.stride = self.time_at = self.time_width = 0
        self.key_at = self.key_size = self.value_at = self.value_size = 0

    def trim(self, first_delta: int, end_delta: int) -> bool:
        """Keep only what lies in these offset deltas; returns whether that is anything."""
        skipped = max(0, first_delta - self.first_delta)
        self.count = min(self.count, end_delta - self.first_delta) - skipped
        self.position += skipped * self.stride
        self.first_delta += skipped
        return self.count > 0

    def keys(self) -> Iterable[bytes | None]:
        """The keys, one for each record."""
        return self._cut(self.key_at, self.key_size)

    def values(self) -> Iterable[bytes | None]:
        """The values."""
        return self._cut(self.value_at, self.value_size)

    def times(self, base_timestamp: int) -> Iterable[int]:
        """The timestamps."""
        at, width = self.time_at, self.time_width
        first = self.data[self.position + at : self.position + at + width]
        if all(self._column(at + index).count(byte) == self.count for index, byte in enumerate(first)):
            return repeat(base_timestamp + signed_varint(first, 0)[0], self.count)
        cutter = Struct(f"{at}x{width}s{self.stride - at - width}x")
        return map(_Times(base_timestamp).__getitem__, cutter.iter_unpack(self._view()))

    def _cut(self, at: int, size: int) -> Iterable[bytes | None]:
        if size < 0:
            return repeat(None, self.count)
        cutter = Struct(f"{at}x{size}s{self.stride - at - size}x")
        return chain.from_iterable(cutter.iter_unpack(self._view()))

    def _view(self) -> memoryview:
        return memoryview(self.data)[self.position : self.position + self.count * self.stride]

    def _column(self, at: int) -> bytes:
        position, stride = self.position, self.stride
        return self.data[position + at : position + self.count * stride : stride]

    def shorten(self, fixed: Iterable[int], delta_at: int, delta_width: int) -> None:
        """Reduce `count` to the records that are like the first one: in the bytes at `fixed`, in widths, and in offsets that count up."""
        data, position, first = self.data, self.position, self.first_delta
        for at in fixed:
            column = self._column(at)
            if column.count(data[position + at]) != self.count:
                self.count -= len(column.lstrip(data[position + at : position + at + 1]))
        for index, expected in enumerate(_DELTAS[delta_width - 1]):
            column = self._column(delta_at + index)
            if column != expected[first : first + self.count]:
                self.count = _common(column, expected[first : first + self.count])
        for at in range(self.time_at, self.time_at + self.time_width):
            high_bits = self._column(at).translate(_HIGH_BIT)
            self.count -= len(high_bits.lstrip(high_bits[:1]))


def find_run(data: bytes, position: int, previous_delta: int, last_delta: int, count_max: int) -> Run | None:
    """The run that begins at `position`, of at least RUN_MIN and at most `count_max` records; None where there is none, or no record at all.

    Its offset deltas lie above `previous_delta` and reach to `last_delta` at most. Raises DecodeError or IndexError where the first is no record.
    """
    run = Run(data, position, 0)
    length, at = signed_varint(data, position)
    run.stride = at - position + length
    run.count = min(count_max, (len(data) - position) // max(1, run.stride))
    if run.count < RUN_MIN:
        return None
    fixed = list(range(at - position))
    run.time_at = at + 1 - position  # behind the record's attributes, none of which is in use
    _, at = signed_varint(data, at + 1)
    run.time_width = at - position - run.time_at
    delta_at = at - position
    delta, at = signed_varint(data, at)
    delta_width = at - position - delta_at
    if delta <= previous_delta or delta_width > len(_DELTAS) or delta >= _DELTA_ENDS[delta_width - 1]:
        return None
    run.first_delta = delta
    run.count = min(run.count, _DELTA_ENDS[delta_width - 1] - delta, last_delta + 1 - delta)
    if run.count < RUN_MIN:
        return None  # no slice takes a count below 0, which it is where the batch says that it ends before this record
    run.key_size, behind = signed_varint(data, at)
    fixed += range(at - position, behind - position)
    run.key_at = behind - position
    at = behind + max(0, run.key_size)
    run.value_size, behind = signed_varint(data, at)
    fixed += range(at - position, behind - position)
    run.value_at = behind - position
    at = behind + max(0, run.value_size)
    if at + 1 - position != run.stride or data[at] != 0:
        return None
    fixed.append(at - position)
    run.shorten(fixed, delta_at, delta_width)
    return run if run.count >= RUN_MIN else None


def signed_varint(data: bytes, position: int) -> tuple[int, int]:
    """The zigzag varint at `position` and the position behind it."""
    number, position = long_varint(data, position)
    return number >> 1 ^ -(number & 1), position


def long_varint(data: bytes, position: int) -> tuple[int, int]:
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


def _common(one: bytes, other: bytes) -> int:
    """How many bytes they begin with alike."""
    for index, (a, b) in enumerate(zip(one, other, strict=False)):
        if a != b:
            return index
    return min(len(one), len(other))


__all__ = ["RUN_MIN", "WINDOW_MAX", "WINDOW_MIN", "Run", "find_run", "long_varint", "signed_varint"]
