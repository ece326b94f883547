"""What was promised, kept by those to whom it was promised; and the comparison of it with what is there after a restart.

A `Ledger` is of one partition of one topic id. It knows of each batch that was sent, of each offset that an ack or a fetch has named, and up to
where a power cut must take nothing. `check_log` is asked after each start.

PROPERTIES checked here: D1 (acked is there), D2 (offset → value is write-once), D3 on one node (the high watermark never falls), T1 (each
batch is there once, in order), whole batches only, no gaps in the offsets, deleted stays deleted.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

KEY_COUNT = 7


@dataclass(slots=True)
class Batch:
    """One batch that a producer makes; its records' values tell where they are from."""

    producer: str
    number: int
    count: int

    @property
    def keys(self) -> list[bytes | None]:
        """Of each record."""
        return [None] * self.count

    @property
    def values(self) -> list[bytes]:
        """`producer/number/index/count` of each record."""
        return [
            b"%s/%d/%d/%d" % (self.producer.encode(), self.number, i, self.count) for i in range(self.count)
        ]


@dataclass(slots=True)
class Ledger:
    """See the module. `is_strict`: write.caching is false from the topic's making on."""

    topic: str
    index: int
    is_strict: bool
    has_retention: bool = False
    """The broker moves the log start by itself."""
    known: dict[int, bytes] = field(default_factory=dict[int, bytes])
    """Offset → value, as told by an ack or seen by a consumer."""
    sent: set[tuple[str, int]] = field(default_factory=set[tuple[str, int]])
    """(producer, number) of every batch that may be there."""
    floor: int = 0
    """What is below (exclusive) survives a power cut."""
    high_watermark: int = 0
    log_start: int = 0
    """As acked by DeleteRecords, or seen by a consumer."""
    log_start_tried: int = 0
    """As far as DeleteRecords was ever asked to go."""
    may_shrink: bool = False
    """The power was cut since the log was last compared."""
    acked_count: int = 0
    lost_allowed: int = 0

    @property
    def name(self) -> str:
        """For messages."""
        return f"{self.topic}-{self.index}"

    def send(self, batch: Batch) -> None:
        """A batch is on its way."""
        self.sent.add((batch.producer, batch.number))

    def ack(self, batch: Batch, base_offset: int, *, survives_power_cut: bool) -> None:
        """The batch was acked at these offsets."""
        self.acked_count += 1
        for offset, value in enumerate(batch.values, start=base_offset):
            self._learn(offset, value, "acked")
        if survives_power_cut:
            self.floor = max(self.floor, base_offset + batch.count)

    def see(
        self,
        records: Sequence[tuple[int, bytes]],
        log_start: int,
        high_watermark: int,
        *,
        log_start_before: int,
    ) -> None:
        """A consumer was given these; `log_start_before` was known when it asked."""
        assert log_start >= log_start_before, (
            f"{self.name}: the log start fell from {log_start_before} to {log_start}"
        )
        self.log_start = max(self.log_start, log_start)
        assert high_watermark >= self.high_watermark, (
            f"{self.name}: the high watermark fell from {self.high_watermark} to {high_watermark}"
        )
        self.high_watermark = high_watermark
        for offset, value in records:
            assert offset < high_watermark, f"{self.name}: {offset} was seen above the high watermark"
            self._learn(offset, value, "seen")
        if self.is_strict:
            self.floor = max(self.floor, high_watermark)

    def _learn(self, offset: int, value: bytes, how: str) -> None:
        before = self.known.setdefault(offset, value)
        assert before == value, f"{self.name}: {offset} was {before!r} and is {how} as {value!r}"

    def note_power_cut(self) -> None:
        """What no sync has covered may be gone."""
        self.may_shrink = True

    # After a start

    def check_log(self, records: Sequence[tuple[int, bytes]], log_start: int, end: int) -> None:
        """Compare with all that the log holds now: records from its start to its end (exclusive), which is its high watermark, too."""
        ceiling = end if self.has_retention else max(self.log_start, self.log_start_tried)
        assert self.log_start <= log_start <= ceiling, (
            f"{self.name}: the log start is lost: {log_start}, told {self.log_start}, {ceiling} at most"
        )
        assert end >= self.floor, f"{self.name}: acked is lost: the log ends at {end}, below {self.floor}"
        self._check_end(end)
        self._check_records(records, log_start, end)
        self.high_watermark = max(end, self.high_watermark)
        # it was read, and what is found at a start is made durable before it is served
        self.known.update(records)
        self.floor = max(self.floor, end)

    def _check_end(self, end: int) -> None:
        known_end = max(self.known, default=-1) + 1
        seen_end = max(known_end, self.high_watermark)
        if not self.may_shrink:
            assert end >= seen_end, f"{self.name}: seen is lost: the log ends at {end}, below {seen_end}"
        elif end < seen_end:
            self.lost_allowed += 1
            self.known = {offset: value for offset, value in self.known.items() if offset < end}
            self.high_watermark = min(self.high_watermark, end)
        self.may_shrink = False

    def _check_records(self, records: Sequence[tuple[int, bytes]], log_start: int, end: int) -> None:
        found = [offset for offset, _ in records if offset >= log_start]
        assert found == list(range(log_start, end)), f"{self.name}: gaps in {log_start} to {end}: {found}"
        self._check_known(dict(records), log_start)
        self._check_batches(records, log_start)

    def _check_known(self, there: dict[int, bytes], log_start: int) -> None:
        for offset, value in self.known.items():
            if offset >= log_start:
                assert there[offset] == value, f"{self.name}: {offset} was {value!r} and is {there[offset]!r}"

    def _check_batches(self, records: Sequence[tuple[int, bytes]], log_start: int) -> None:
        """Each batch is there whole, once, and those of one producer in order."""
        last: dict[str, int] = {}
        position = 0
        while position < len(records):
            offset, value = records[position]
            producer, number, index, count = value.decode().split("/")
            assert (producer, int(number)) in self.sent, f"{self.name}: {value!r} was never sent here"
            batch = Batch(producer, int(number), int(count))
            rest = batch.values[int(index) :]
            assert not int(index) or offset <= log_start, f"{self.name}: {offset} begins inside of a batch"
            there = [value for _, value in records[position : position + len(rest)]]
            assert there == rest, f"{self.name}: a batch is torn at {offset}: {there}"
            assert batch.number > last.get(producer, -1), (
                f"{self.name}: {producer}/{batch.number} comes again after {last.get(producer)}, at {offset}"
            )
            last[producer] = batch.number
            position += len(rest)


@dataclass(slots=True)
class KeyedBatch(Batch):
    """One whose records have keys, a few in turn."""

    @property
    def keys(self) -> list[bytes | None]:
        return [b"k%d" % ((self.number * 3 + i) % KEY_COUNT) for i in range(self.count)]

    @property
    def values(self) -> list[bytes]:
        """`key=producer/number/index` of each record."""
        origin = f"{self.producer}/{self.number}".encode()
        return [b"%s=%s/%d" % (key, origin, i) for i, key in enumerate(self.keys)]


class KeyLedger(Ledger):
    """Of a compacted topic: the latest record of each key is there, where it was; others may be gone (PROPERTIES K2)."""

    def _check_records(self, records: Sequence[tuple[int, bytes]], log_start: int, end: int) -> None:
        offsets = [offset for offset, _ in records]
        assert offsets == sorted(set(offsets)), f"{self.name}: offsets do not rise: {offsets}"
        for offset, value in records:
            assert self.known.get(offset, value) == value, f"{self.name}: {offset} was {self.known[offset]!r}"
            assert offset < end
        there, told = latest_offsets(records), latest_offsets(sorted(self.known.items()))
        for key, offset in told.items():
            assert there.get(key, -1) >= offset, f"{self.name}: the latest of {key!r} is lost: {offset}"


def latest_offsets(records: Iterable[tuple[int, bytes]]) -> dict[bytes, int]:
    """By key, of records in the order of their offsets."""
    return {value.partition(b"=")[0]: offset for offset, value in records}


__all__ = ["Batch", "KeyLedger", "KeyedBatch", "Ledger"]
