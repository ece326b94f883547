"""What `send_many` waits for, and what came of it. Holds batches, not records, and those no longer than until they are acked."""

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass

from penstock.errors import PenstockError
from penstock.producer.batch import UNKNOWN_OFFSET, Batch, copy_of


@dataclass(frozen=True, slots=True)
class OffsetRange:
    """Records of one partition that follow each other in the log; `last_offset` is inclusive. Offsets are -1 where nobody told them."""

    partition: int
    first_offset: int
    last_offset: int
    record_count: int


@dataclass(frozen=True, slots=True)
class SendManyResult:
    """All records of a `send_many` are acked: how many, and where. In each partition they are in the order in which they were given."""

    topic: str
    record_count: int
    ranges: tuple[OffsetRange, ...]


class ManyDeliveries:
    """The batches of one `send_many`, with the part of each that is its own."""

    def __init__(self, topic: str) -> None:
        self.failure: PenstockError | None = None
        self._topic = topic
        self._waiting: deque[tuple[Batch, int, int]] = deque()
        self._record_count = 0
        self._failed_count = 0
        self._ranges: list[OffsetRange] = []
        self._last_of_partition: dict[int, int] = {}

    def add(self, batch: Batch, first: int, count: int) -> None:
        """Records `first` to `first + count - 1` of a batch are ours."""
        batch.claimed_count += count
        if self._waiting:
            last, last_first, last_count = self._waiting[-1]
            if last is batch and last_first + last_count == first:
                self._waiting[-1] = (batch, last_first, last_count + count)
                return
        self._waiting.append((batch, first, count))

    def fold(self) -> None:
        """Count what is finished, from the oldest on."""
        while self._waiting and _is_settled(self._waiting[0][0]):
            self._count(*self._waiting.popleft())

    async def settle(self) -> None:
        """Wait until all has an outcome. Cancellation: only the waiting ends."""
        while self._waiting:
            await self._waiting[0][0].wait_finished()
            self._count(*self._waiting.popleft())

    def give_up(self) -> None:
        """Nobody looks at what has no outcome yet."""
        for batch, first, count in self._waiting:
            for leaf, _, size in _leaves(batch, first, count):
                leaf.claimed_count -= size
        self._waiting.clear()

    def result(self) -> SendManyResult:
        """Where everything is."""
        return SendManyResult(self._topic, self._record_count, tuple(self._ranges))

    def raise_failure(self) -> None:
        """Raise the first failure, if there was one."""
        if self.failure is not None:
            error = copy_of(self.failure)
            error.add_note(self.note())
            raise error

    def note(self) -> str:
        """How much was acked, for people."""
        return f"{self._record_count} records of this send_many were acked, {self._failed_count} were taken and not acked"

    def _count(self, batch: Batch, first: int, count: int) -> None:
        for leaf, start, size in _leaves(batch, first, count):
            outcome = leaf.outcome
            assert outcome is not None
            if outcome.error is not None:
                self.failure = self.failure or outcome.error
                self._failed_count += size
                continue
            self._record_count += size
            self._add_range(leaf.partition, outcome.base_offset, start, size)

    def _add_range(self, partition: int, base_offset: int, start: int, size: int) -> None:
        first = UNKNOWN_OFFSET if base_offset < 0 else base_offset + start
        last = UNKNOWN_OFFSET if base_offset < 0 else first + size - 1
        place = self._last_of_partition.get(partition)
        if place is not None:
            before = self._ranges[place]
            follows = before.last_offset + 1 == first if first >= 0 else before.last_offset < 0
            if follows:
                count = before.record_count + size
                self._ranges[place] = OffsetRange(partition, before.first_offset, last, count)
                return
        self._last_of_partition[partition] = len(self._ranges)
        self._ranges.append(OffsetRange(partition, first, last, size))


def _is_settled(batch: Batch) -> bool:
    if batch.parts:
        return all(_is_settled(part) for part in batch.parts)
    return batch.outcome is not None


def _leaves(batch: Batch, first: int, count: int) -> Iterator[tuple[Batch, int, int]]:
    """The batches that hold records `first` on after all splits, with the place and number of those records in each."""
    if not batch.parts:
        yield batch, first, count
        return
    for part in batch.parts:
        if first < part.record_count and count > 0:
            size = min(count, part.record_count - first)
            yield from _leaves(part, first, size)
            first, count = 0, count - size
        else:
            first -= part.record_count


__all__ = ["ManyDeliveries", "OffsetRange", "SendManyResult"]
