"""What a broker owes to those who wrote to it and read from it, and whether it is there. No I/O.

A value tells who wrote it and its number, and follows from both: so a torn, mixed or changed record shows in the value alone.
"""

import itertools
import zlib
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

_POOL = b"".join(zlib.crc32(b"%d" % number).to_bytes(4, "big") for number in range(1024))
_SIZE_MAX = 400
KEY_COUNT = 25


def value_of(writer: str, number: int) -> bytes:
    """The value with that number by that writer: its name and number, then 0 to 400 bytes that follow from the number."""
    start = number * 131 % (len(_POOL) - _SIZE_MAX)
    return b"%s:%d:" % (writer.encode(), number) + _POOL[start : start + number * 37 % _SIZE_MAX]


def origin_of(value: bytes) -> tuple[str, int]:
    """Writer and number; AssertionError for bytes that no writer wrote."""
    writer, number, _ = value.split(b":", 2)
    origin = writer.decode(), int(number)
    assert value_of(*origin) == value, f"a record that nobody wrote: {value[:80]!r}"
    return origin


def key_of(value: bytes) -> bytes:
    """The key that a value has on a compacted topic: one of 25, by its number."""
    return b"%d" % (origin_of(value)[1] % KEY_COUNT)


@dataclass
class PartitionLedger:
    """What one partition owes. `acked` and `seen` are offset to value and to checksum; actors in threads add to them."""

    topic: str
    index: int
    may_compact: bool = False
    """Offsets may be missing, and an acked record, once a newer one of its key was acked."""
    acked: dict[int, bytes] = field(default_factory=dict[int, bytes])
    seen: dict[int, int] = field(default_factory=dict[int, int])
    may_expire: bool = False
    """Retention deletes here when it likes."""
    start_asked: int = 0
    """Up to where somebody wished to delete; above it, everything must be there."""
    start_acked: int = 0
    """Up to where the broker said that it is deleted: nothing below may come back."""
    sent_counts: dict[str, int] = field(default_factory=dict[str, int])
    """Numbers given out, by writer."""
    acked_counts: dict[str, int] = field(default_factory=lambda: defaultdict[str, int](int))
    """One more than the highest number acked, by writer."""

    def next_number(self, writer: str) -> int:
        """The number of the writer's next value."""
        number = self.sent_counts.get(writer, 0)
        self.sent_counts[writer] = number + 1
        return number

    def ack(self, offset: int, value: bytes) -> None:
        """The broker said that `value` is kept at `offset`."""
        before = self.acked.setdefault(offset, value)
        assert before == value, f"{self}: two values were acked at {offset}"
        writer, number = origin_of(value)
        self.acked_counts[writer] = max(self.acked_counts[writer], number + 1)

    def see(self, offset: int, value: bytes) -> None:
        """A consumer was given `value` at `offset`."""
        checksum = zlib.crc32(value)
        assert self.seen.setdefault(offset, checksum) == checksum, f"{self}: {offset} has changed"

    def owed(self) -> "Owed":
        """What is owed at this moment; actors may go on meanwhile."""
        return Owed(dict(self.acked), dict(self.seen))

    def forget_from(self, end: int) -> None:
        """What was not promised to survive is gone from `end` on."""
        for known in (self.acked, self.seen):
            for offset in [offset for offset in known if offset >= end]:
                del known[offset]

    def __str__(self) -> str:
        return f"{self.topic}-{self.index}"


@dataclass(frozen=True, slots=True)
class Owed:
    """Offset to acked value, and to the checksum of what was seen."""

    acked: Mapping[int, bytes]
    seen: Mapping[int, int]

    @property
    def end(self) -> int:
        """The log may not end below this offset."""
        return max(max(self.acked, default=-1), max(self.seen, default=-1)) + 1


def check_bounds(ledger: PartitionLedger, owed: Owed, start: int, end: int) -> None:
    """The log begins and ends where it may."""
    assert ledger.start_acked <= start, (
        f"{ledger}: what was deleted below {ledger.start_acked} is back ({start})"
    )
    start_max = end if ledger.may_expire else ledger.start_asked
    assert start <= start_max, f"{ledger}: begins at {start}, nobody deleted above {start_max}"
    ledger.start_acked = max(ledger.start_acked, start)
    assert end >= owed.end, f"{ledger}: ends at {end}, owes up to {owed.end}"


def check_records(ledger: PartitionLedger, owed: Owed, found: Mapping[int, bytes], since: int) -> int:
    """All that was acked and seen from `since` on is in `found`, unchanged and without gaps; returns how many were compared."""
    offsets = list(found)
    if not ledger.may_compact:
        assert offsets == list(range(since, since + len(found))), f"{ledger}: a gap in the offsets"
    for value in found.values():
        origin_of(value)
    compared = 0
    for offset, value in owed.acked.items():
        if offset >= since and (offset in found or not ledger.may_compact):
            compared += 1
            there = found.get(offset)
            assert there == value, (
                f"{ledger}: {offset} was acked as {value[:60]!r} and is {there and there[:60]!r}"
            )
    for offset, checksum in owed.seen.items():
        if offset >= since and (offset in found or not ledger.may_compact):
            there = found.get(offset)
            assert there is not None, f"{ledger}: {offset} was seen and is gone"
            assert zlib.crc32(there) == checksum, f"{ledger}: {offset} was seen otherwise: {there[:60]!r}"
    return compared


def check_compacted(ledger: PartitionLedger, owed: Owed, found: Mapping[int, bytes]) -> None:
    """Of each key the latest acked record is there, or a later one; offsets and each writer's numbers still rise."""
    assert list(found) == sorted(set(found)), f"{ledger}: out of order"
    latest = {key_of(value): offset for offset, value in found.items()}
    for offset, value in owed.acked.items():
        assert latest.get(key_of(value), -1) >= offset, f"{ledger}: key {key_of(value)!r} has lost {offset}"
    by_writer: dict[str, list[int]] = {}
    for value in found.values():
        writer, number = origin_of(value)
        by_writer.setdefault(writer, []).append(number)
    for writer, numbers in by_writer.items():
        assert numbers == sorted(set(numbers)), f"{ledger}: {writer} is out of order or there twice"


def check_writer(
    numbers: Iterable[int], ledger: PartitionLedger, writer: str, *, may_have_lost: bool
) -> None:
    """One writer's numbers in the order of the log: each once, ascending, and none left out between the first and the last acked."""
    in_order = list(numbers)
    may_have_deleted = ledger.may_expire or ledger.start_asked > 0
    if may_have_lost:
        assert in_order == sorted(set(in_order)), f"{ledger}: {writer} is out of order or there twice"
        return
    if not in_order:
        assert may_have_deleted or not ledger.acked_counts[writer], f"{ledger}: nothing of {writer} is there"
        return
    assert in_order == list(range(in_order[0], in_order[0] + len(in_order))), (
        f"{ledger}: {writer} has gaps, repetitions or is out of order: {_disorder(in_order)}"
    )
    assert may_have_deleted or in_order[0] == 0, f"{ledger}: {writer} begins at {in_order[0]}"
    assert ledger.acked_counts[writer] <= in_order[-1] + 1 <= ledger.sent_counts[writer]


def _disorder(numbers: list[int]) -> list[tuple[int, int]]:
    return [pair for pair in itertools.pairwise(numbers) if pair[1] != pair[0] + 1][:5]
