"""The work of `penstock redrive`: reads dead letters, sends them, and commits what was acked.

Owns where each goes, and how far the group is. Knows no flags.

Invariants: an offset is committed only when all dead letters before it were acked where they went; an interruption ends it between two batches.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import click

from penstock.cli.asking import CLIENT_ID, counted
from penstock.cli.bounds import Bound, Kind, partitions_of, resolve
from penstock.cli.failure import CommandFailed
from penstock.cli.interruption import Interruption, interruptible
from penstock.cli.offset_progress import offset_progress
from penstock.cli.output import Column, print_json, print_table
from penstock.client.admin import Admin
from penstock.client.metadata import TopicPartition
from penstock.consumer.batch import ConsumerBatch
from penstock.consumer.consumer import Consumer
from penstock.consumer.dead_letters import original_topic, read_failure, stripped
from penstock.consumer.reading import Reading
from penstock.consumer.record import ConsumerRecord
from penstock.errors import PenstockError
from penstock.producer.batch import Delivery
from penstock.producer.producer import Producer
from penstock.runtime.environment import Environment

BATCH_RECORDS = 500
"""Between two commits: what a killed run may leave to be moved twice."""


@dataclass(frozen=True, slots=True)
class RedriveRequest:
    """What is to be done."""

    topic: str
    target: str | None
    group: str
    count_max: int | None
    keep_headers: bool
    dry_run: bool
    as_json: bool


@dataclass(frozen=True, slots=True)
class _Plan:
    """The partitions of the dead letter topic that have something: from where to where."""

    starts: dict[TopicPartition, int]
    ends: dict[TopicPartition, int]

    @property
    def total(self) -> int:
        """How many records there are at most."""
        return sum(self.ends[tp] - self.starts[tp] for tp in self.starts)


async def run_redrive(bootstrap: str, ports: Environment, request: RedriveRequest) -> int:
    """Do it, and tell what was done. Returns the exit code."""
    async with (
        interruptible() as interruption,
        Admin(bootstrap, ports, client_id=CLIENT_ID) as admin,
        Consumer(
            bootstrap,
            environment=ports,
            group=request.group,
            auto_commit=False,
            isolation_level="read_committed",
            client_id=CLIENT_ID,
        ) as consumer,
        Producer(bootstrap, ports, linger_ms=5, client_id=CLIENT_ID) as producer,
    ):
        plan = await _plan(admin, consumer, request.topic)
        work = _Work(request, admin, consumer, producer)
        try:
            if plan.starts:
                with offset_progress(request.topic, plan.total, ports.clock) as advance:
                    reading = consumer.read(
                        request.topic,
                        start={tp.partition: offset for tp, offset in plan.starts.items()},
                        end={tp.partition: offset for tp, offset in plan.ends.items()},
                        partitions=[tp.partition for tp in plan.starts],
                    )
                    while (batch := await _next(reading, interruption, work.left_count)) is not None:
                        await work.move(batch)
                        advance(batch.next_offset - batch.start_offset)
        finally:
            work.tell(plan.total)
    return interruption.exit_code or 0


async def _plan(admin: Admin, consumer: Consumer, topic: str) -> _Plan:
    partitions = await partitions_of(admin, [topic], None)
    firsts = await resolve(admin, partitions, Bound(Kind.BEGINNING), read_committed=True)
    ends = await resolve(admin, partitions, Bound(Kind.END), read_committed=True)
    starts: dict[TopicPartition, int] = {}
    for tp, committed in (await consumer.committed(partitions)).items():
        start = firsts[tp] if committed is None else max(committed.offset, firsts[tp])
        if start < ends[tp]:
            starts[tp] = start
    return _Plan(starts, ends)


async def _next(reading: Reading, interruption: Interruption, left_count: int | None) -> ConsumerBatch | None:
    """The next batch; None: that was all, all that was wanted, or somebody has interrupted it."""
    if left_count == 0:
        return None
    with interruption.work():
        try:
            return await reading.next_batch(max_records=min(BATCH_RECORDS, left_count or BATCH_RECORDS))
        except StopAsyncIteration:
            return None
    return None


class _Work:
    """Moves batches, and counts."""

    def __init__(self, request: RedriveRequest, admin: Admin, consumer: Consumer, producer: Producer) -> None:
        self._request = request
        self._admin = admin
        self._consumer = consumer
        self._producer = producer
        self._partition_counts: dict[str, int] = {}
        self._moved: Counter[tuple[str, str]] = Counter()
        """By topic, and class of what went wrong."""
        self.left_count = request.count_max
        """How many may still be moved; None: any number."""

    async def move(self, batch: ConsumerBatch) -> None:
        """Send them, wait for the acks, commit. Raises what stopped it, when what was acked before that is committed."""
        sent: list[tuple[ConsumerRecord, str, Delivery | None]] = []
        failure: PenstockError | CommandFailed | None = None
        try:
            for record in batch:
                target = await self._target(record)
                delivery = None if self._request.dry_run else await self._send(record, target)
                sent.append((record, target, delivery))
        except (PenstockError, CommandFailed) as error:
            failure = error
        end = batch.next_offset if failure is None else -1
        for record, target, delivery in sent:
            try:
                if delivery is not None:
                    await delivery.wait()
            except PenstockError as error:
                failure, end = error, record.offset
                break
            known = read_failure(record.headers)
            self._moved[target, "" if known is None else known.exception_class] += 1
            if self.left_count is not None:
                self.left_count -= 1
            end = max(end, record.offset + 1)
        if end >= 0 and not self._request.dry_run:
            await self._consumer.commit({batch.topic_partition: end})
        if failure is not None:
            raise failure

    async def _target(self, record: ConsumerRecord) -> str:
        target = self._request.target or original_topic(record.headers)
        if target is None:
            raise CommandFailed(
                f"{record.topic}-{record.partition} at offset {record.offset}: its headers don't tell where it came from;"
                " say where to with --to"
            )
        if target not in self._partition_counts:
            self._partition_counts[target] = len(await partitions_of(self._admin, [target], None))
        return target

    async def _send(self, record: ConsumerRecord, target: str) -> Delivery:
        known = read_failure(record.headers)
        timestamp_ms = record.timestamp_ms if known is None else known.timestamp_ms
        is_home = known is not None and known.topic == target
        partition = known.partition if known is not None and is_home else None
        if partition is not None and not 0 <= partition < self._partition_counts[target]:
            partition = None
        return await self._producer.enqueue(
            target,
            record.value,
            key=record.key,
            partition=partition,
            timestamp_ms=timestamp_ms if timestamp_ms >= 0 else None,
            headers=record.headers if self._request.keep_headers else stripped(record.headers),
        )

    def tell(self, total: int) -> None:
        """What was done, as far as it went."""
        request, count = self._request, self._moved.total()
        by_target: Counter[str] = Counter()
        for (target, _), moved in self._moved.items():
            by_target[target] += moved
        if request.as_json:
            key = "would_move" if request.dry_run else "moved"
            reasons = [
                {"topic": target, "exception": reason or None, "count": moved}
                for (target, reason), moved in sorted(self._moved.items())
            ]
            print_json({"topic": request.topic, key: dict(sorted(by_target.items())), "reasons": reasons})
            return
        if request.dry_run and count:
            columns = (Column("TO"), Column("BECAUSE OF"), Column("COUNT", is_number=True))
            print_table(
                columns,
                [(target, reason, moved) for (target, reason), moved in sorted(self._moved.items())],
            )
        verb = "would be moved" if request.dry_run else "moved"
        where = _listed([f"{moved} to {target}" for target, moved in sorted(by_target.items())])
        limit = f"; --max {request.count_max} is reached" if self.left_count == 0 and count < total else ""
        click.echo(
            f"penstock: {counted(count, 'dead letter')} of {request.topic} {verb}{where}{limit}", err=True
        )


def _listed(parts: Sequence[str]) -> str:
    return f": {', '.join(parts)}" if parts else ""


__all__ = ["RedriveRequest", "run_redrive"]
