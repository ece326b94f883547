"""What writers were promised, and whether a log keeps it: every acked record once, where it was told, each key in order. No I/O.

A record's value tells who wrote it and its number, and follows from both; so does its key, one of 20 for each writer. Java's verifiable
producer writes values of its own (`7.123`), which say the same.
"""

import itertools
import zlib
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

KEY_COUNT = 20
_SIZE_MAX = 60


def value_of(writer: str, number: int) -> bytes:
    """The value with that number by that writer, printable and without a line end."""
    filling = b"%08x" % zlib.crc32(b"%s %d" % (writer.encode(), number)) * (number % (_SIZE_MAX // 8))
    return b"%s:%d:" % (writer.encode(), number) + filling


def key_of(writer: str, number: int) -> bytes:
    """The key of that record."""
    return b"%s-%d" % (writer.encode(), number % KEY_COUNT)


def origin_of(value: bytes) -> tuple[str, int]:
    """Writer and number; AssertionError for bytes that no writer wrote."""
    prefix, dot, tail = value.partition(b".")
    if dot and prefix.isdigit() and tail.isdigit():
        return prefix.decode(), int(tail)
    writer, number, _ = value.split(b":", 2)
    origin = writer.decode(), int(number)
    assert value_of(*origin) == value, f"a record that nobody wrote: {value[:80]!r}"
    return origin


@dataclass(frozen=True, slots=True)
class Stored:
    """A record as a consumer was given it."""

    offset: int
    key: bytes | None
    value: bytes


@dataclass
class WriterLedger:
    """What one writer handed over, and where the cluster said that it is."""

    name: str
    sent_count: int = 0
    """The numbers below were handed to the client."""
    acked: dict[int, tuple[int, int] | None] = field(default_factory=dict[int, tuple[int, int] | None])
    """Number to (partition, offset); None where the client does not tell."""

    def next_number(self) -> int:
        """The number of the next record."""
        self.sent_count += 1
        return self.sent_count - 1

    def ack(self, number: int, place: tuple[int, int] | None) -> None:
        """The client said that the record is kept."""
        assert number not in self.acked, f"{self.name}: {number} was acked twice"
        self.acked[number] = place


def check_once_and_in_order(ledgers: Sequence[WriterLedger], found: Mapping[int, Sequence[Stored]]) -> int:
    """Hold all partitions of a topic, read from the start, against what idempotent writers were told; returns how many acks were compared.

    PROPERTIES D1 and T1: each acked record is there once, at the offset that was told; nothing is there twice; the records of a key are in one
    partition, in the order of their numbers.
    """
    places: dict[tuple[str, int], tuple[int, int]] = {}
    order: dict[tuple[str, bytes], list[tuple[int, int]]] = defaultdict(list)
    for partition, records in found.items():
        for record in records:
            origin = origin_of(record.value)
            assert record.key is not None, f"{origin} has lost its key"
            before = places.setdefault(origin, (partition, record.offset))
            assert before == (partition, record.offset), (
                f"{origin} is at {before} and at {partition, record.offset}"
            )
            order[origin[0], record.key].append((partition, origin[1]))
    for (writer, key), seen in order.items():
        check_key(f"{writer}, key {key!r}", seen)
    known = {ledger.name: ledger for ledger in ledgers}
    strangers = {writer for writer, _ in places} - set(known)
    assert not strangers, f"records of {strangers}"
    return sum(_check_acks(ledger, places) for ledger in ledgers)


def check_key(name: str, seen: Sequence[tuple[int, int]]) -> None:
    """One key's (partition, number) in the order of the log."""
    partitions = {partition for partition, _ in seen}
    assert len(partitions) == 1, f"{name} is in the partitions {partitions}"
    wrong = [(before, after) for (_, before), (_, after) in itertools.pairwise(seen) if after <= before]
    assert not wrong, f"{name} is out of order: {wrong[:5]}"


def _check_acks(ledger: WriterLedger, places: Mapping[tuple[str, int], tuple[int, int]]) -> int:
    for number, told in ledger.acked.items():
        there = places.get((ledger.name, number))
        assert there is not None, f"{ledger.name}: {number} was acked (at {told}) and is not there"
        assert told is None or told == there, f"{ledger.name}: {number} was acked at {told} and is at {there}"
    return len(ledger.acked)


def check_seen(partition: int, seen: Mapping[int, int], found: Iterable[Stored]) -> int:
    """What a consumer saw (offset to CRC-32 of the value) is what is there (PROPERTIES D2); returns how many were compared."""
    there = {record.offset: zlib.crc32(record.value) for record in found}
    for offset, checksum in seen.items():
        assert offset in there, f"partition {partition}: {offset} was seen and is gone"
        assert there[offset] == checksum, f"partition {partition}: {offset} was seen otherwise"
    return len(seen)
