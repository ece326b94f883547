"""The work of `penstock consume`: takes batches, writes them out, and commits what was written.

Owns what counts as written, and the three ways to read: a bounded read, following, and in a group. Knows no flags.

Invariants: an offset is committed only when every byte of the record before it was taken by the system; a partition is given up in a rebalance
only after what was written of it is committed; a closed pipe ends the work without an error.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import trio

from penstock.cli.bounds import Bound, Kind, partitions_of, reading_bound, resolve
from penstock.cli.failure import complain
from penstock.cli.interruption import Interruption
from penstock.cli.record_format import Format
from penstock.client.admin import Admin
from penstock.client.errors import CommitFailed
from penstock.client.metadata import TopicPartition
from penstock.consumer.batch import ConsumerBatch
from penstock.consumer.consumer import Consumer
from penstock.consumer.reading import Reading
from penstock.consumer.record import ConsumerRecord
from penstock.errors import PenstockError
from penstock.runtime.standard_streams import Output, ReaderGone

_COMMIT_EVERY_S = 1.0
_END_CHECK_S = 0.2
_ASSIGNMENT_LIMIT_S = 30.0
_LAST_COMMIT_LIMIT_S = 10.0
_GROUP_BATCH_RECORDS = 500  # a slow reader of the output shall see commits in between


class Enough(Exception):
    """All that was asked for is written."""


class Writer:
    """Writes records in their order, and knows of each partition how far."""

    def __init__(self, output: Output, format_: Format, count_max: int | None) -> None:
        self.written: dict[TopicPartition, int] = {}
        """By partition the offset behind the last record that was written out."""
        self._output = output
        self._format = format_
        self._left_count = count_max

    async def write(self, batch: ConsumerBatch) -> None:
        """Write a batch.

        Raises Enough when no more records are wanted, ReaderGone, StorageError. Whatever ends it, `written` is right.
        """
        pieces = self._format(batch)
        if self._left_count is not None and len(pieces) >= self._left_count:
            batch = batch.below(batch_end(batch, self._left_count))
            del pieces[self._left_count :]
        data = memoryview(b"".join(pieces))
        position = 0
        try:
            while position < len(data):
                position += await self._output.write_some(data[position:])
        except BaseException:
            whole_count = _whole_count(pieces, position)
            if whole_count:
                self.written[batch.topic_partition] = batch_end(batch, whole_count)
            raise
        self.written[batch.topic_partition] = batch.next_offset
        self._count(len(pieces))

    async def write_records(self, records: Sequence[ConsumerRecord]) -> None:
        """Write records of several partitions; for reads without a group, so nothing is noted in `written`. Raises as `write`."""
        pieces = self._format(records)[: self._left_count]
        data = memoryview(b"".join(pieces))
        while len(data):
            data = data[await self._output.write_some(data) :]
        self._count(len(pieces))

    def _count(self, count: int) -> None:
        if self._left_count is not None:
            self._left_count -= count
            if not self._left_count:
                raise Enough


def _whole_count(pieces: Iterable[bytes], size_bytes: int) -> int:
    """How many pieces the first bytes hold as a whole."""
    count = 0
    for piece in pieces:
        size_bytes -= len(piece)
        if size_bytes < 0:
            break
        count += 1
    return count


def batch_end(batch: ConsumerBatch, count: int) -> int:
    """The offset behind the first `count` records of a batch."""
    return batch.records()[count - 1].offset + 1


@dataclass(frozen=True, slots=True)
class Plan:
    """What to read. `end` None: follow."""

    topics: Sequence[str]
    partitions: Sequence[int] | None
    start: Bound
    end: Bound | None
    read_committed: bool
    by_time: bool = False
    """All partitions in one order, that of their timestamps (bounded reads)."""


async def read_bounded(admin: Admin, consumer: Consumer, plan: Plan, writer: Writer) -> None:
    """Write what is between the bounds, topic by topic; the end of all is fixed before the first record."""
    assert plan.end is not None
    partitions = await partitions_of(admin, plan.topics, plan.partitions)
    start = await reading_bound(admin, partitions, plan.start, read_committed=plan.read_committed)
    end = await reading_bound(admin, partitions, plan.end, read_committed=plan.read_committed)
    readings: list[Reading] = []
    for topic in plan.topics:
        indexes = [key.partition for key in partitions if key.topic == topic]
        reading = consumer.read(
            topic, start=start(topic), end=end(topic), partitions=indexes, merge_by_time=plan.by_time
        )
        await reading.bounds()
        readings.append(reading)
    for reading in readings:
        if plan.by_time:
            await _write_merged(reading, writer)
            continue
        async for batch in reading.batches():
            await writer.write(batch)


async def _write_merged(reading: Reading, writer: Writer) -> None:
    while True:
        try:
            records = await reading.next_merged()
        except StopAsyncIteration:
            return
        await writer.write_records(records)


async def follow(admin: Admin, consumer: Consumer, plan: Plan, writer: Writer) -> None:
    """Write what is there from the start on, and what comes, without end."""
    partitions = await partitions_of(admin, plan.topics, plan.partitions)
    if plan.partitions is None and plan.start.kind in (Kind.BEGINNING, Kind.END):
        consumer.subscribe(*plan.topics)  # partitions that are added later are seen, too
    else:
        starts = await resolve(admin, partitions, plan.start, read_committed=plan.read_committed)
        consumer.assign(partitions)
        for key, offset in starts.items():
            consumer.seek(key, offset)
    while True:
        await writer.write(await consumer.next_batch())


class GroupWork:
    """Reads as a member of a group, and commits what was written: every second, before a partition is given up, and at the end."""

    def __init__(self, admin: Admin, plan: Plan, writer: Writer) -> None:
        self._admin = admin
        self._plan = plan
        self._writer = writer
        self._consumer: Consumer | None = None
        self._committed: dict[TopicPartition, int] = {}
        self._ends: dict[TopicPartition, int] = {}
        self._was_assigned = False

    async def assigned(self, partitions: frozenset[TopicPartition]) -> None:
        """Partitions are ours now."""
        for key in partitions:
            self._writer.written.pop(key, None)
        if self._plan.end is not None:
            read_committed = self._plan.read_committed
            self._ends |= await resolve(
                self._admin, sorted(partitions), self._plan.end, read_committed=read_committed
            )
        self._was_assigned = True

    async def revoked(self, partitions: frozenset[TopicPartition]) -> None:
        """Partitions are about to be given up."""
        await self._commit(partitions)
        await self.lost(partitions)

    async def lost(self, partitions: frozenset[TopicPartition]) -> None:
        """Partitions are somebody else's already."""
        for key in partitions:
            self._writer.written.pop(key, None)
            self._ends.pop(key, None)

    async def run(self, consumer: Consumer, interruption: Interruption) -> None:
        """Read until something ends it, then commit what was written.

        Raises Enough, ReaderGone, PenstockError; what was written is committed then as well, if that can be.
        """
        self._consumer = consumer
        failure: PenstockError | Enough | None = None
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._commit_now_and_then)
            try:
                with interruption.work():
                    await self._read(consumer)
            except (PenstockError, Enough) as error:
                failure = error
            nursery.cancel_scope.cancel()
        with trio.move_on_after(_LAST_COMMIT_LIMIT_S):
            await self._commit(self._writer.written)
        if failure is not None:
            raise failure

    async def _read(self, consumer: Consumer) -> None:
        if self._plan.partitions is None:
            await partitions_of(
                self._admin, self._plan.topics, None
            )  # a topic that is not there is told at once
            consumer.subscribe(*self._plan.topics)
        else:
            partitions = await partitions_of(self._admin, self._plan.topics, self._plan.partitions)
            consumer.assign(partitions)
            await self.assigned(frozenset(partitions))
        begin_s = trio.current_time()
        while True:
            batch: ConsumerBatch | None = None
            with trio.move_on_after(float("inf") if self._plan.end is None else _END_CHECK_S):
                batch = await consumer.next_batch(max_records=_GROUP_BATCH_RECORDS)
            if batch is not None:
                await self._write(batch)
            elif await self._is_at_end(consumer):
                return
            elif not self._was_assigned and trio.current_time() - begin_s > _ASSIGNMENT_LIMIT_S:
                complain("the group has given this member no partition; its other members have them all")
                return

    async def _write(self, batch: ConsumerBatch) -> None:
        end = self._ends.get(batch.topic_partition)
        if end is not None and batch.next_offset > end:
            if batch.start_offset >= end:
                return
            batch = batch.below(end)
        await self._writer.write(batch)

    async def _is_at_end(self, consumer: Consumer) -> bool:
        if not self._was_assigned:
            return False
        for key in consumer.assignment:
            if await consumer.position(key) < self._ends.get(key, 0):
                return False
        return True

    async def _commit_now_and_then(self) -> None:
        while True:
            await trio.sleep(_COMMIT_EVERY_S)
            await self._commit(self._writer.written)

    async def _commit(self, partitions: Iterable[TopicPartition]) -> None:
        changed = self._changed(partitions)
        if not changed or self._consumer is None:
            return
        try:
            await self._consumer.commit(changed)
        except CommitFailed as error:
            complain(f"not committed, so it will be consumed again: {error}")
        except PenstockError as error:
            complain(f"not committed: {error}")
        else:
            self._committed |= changed

    def _changed(self, partitions: Iterable[TopicPartition]) -> Mapping[TopicPartition, int]:
        written = self._writer.written
        return {
            key: written[key]
            for key in partitions
            if key in written and self._committed.get(key) != written[key]
        }


__all__ = ["Enough", "GroupWork", "Plan", "ReaderGone", "Writer", "follow", "read_bounded"]
