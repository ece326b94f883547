"""A topic with a bounded backlog: who fills it, who empties it slowly, goes back, or is deleted, and what they were promised.

Only runs with `Options.has_backlog` have it, and it draws from a generator of its own: without it, a seed's trace is what it always was.

Two groups may count: one of members that read and commit (and at times commit an earlier offset), and one that only a job of an administrator
commits for, goes back with, and deletes now and then. What each of them has begun and been acked goes to the checker of the bound.
"""

import math
from collections import Counter
from collections.abc import Awaitable, Callable
from random import Random

import trio
from tests.simulation.checkers.backlogs import (
    NO_OFFSET,
    Backlogs,
    CommittedOffsets,
    LeadersStarts,
    Operation,
    Refused,
)
from tests.simulation.checkers.clients import ProducedRecords
from tests.simulation.checkers.report import Report
from tests.simulation.cluster import Cluster
from tests.simulation.topics import (
    BURST_CHANCE,
    DELIVERY_TIMEOUT_MS,
    IN_FLIGHT_MAX,
    KEYS,
    REQUEST_TIMEOUT_MS,
    SESSION_TIMEOUT_MS,
    Topic,
    lasting,
    place_of,
)

from penstock.client.admin import Admin
from penstock.client.admin_values import LATEST, FoundOffset
from penstock.client.backoff import RetryPolicy
from penstock.client.errors import BacklogFull
from penstock.client.metadata import TopicPartition
from penstock.consumer.consumer import Consumer
from penstock.errors import PenstockError
from penstock.producer.batch import Delivery
from penstock.producer.producer import Producer
from penstock.runtime.environment import Environment

NAME = "bounded"
PARTITIONS = 2
READERS, JOB = "slow", "nightly"
LONGER_S = 6.0
"""Producers and commits backwards go on for so long when the others have ended, since nothing is wrong any more then."""
LATE_S = 2.5
"""How late a leader may know of a commit while nothing is wrong with the cluster: it asks once a second."""
BACK_MAX = 25


class Bounded:
    """See the module. `topic` is to be created, `programs` are what runs where."""

    def __init__(self, cluster: Cluster, report: Report, random: Random, is_quiet: trio.Event) -> None:
        self._cluster = cluster
        self._kernel = cluster.kernel
        self._is_quiet = is_quiet
        self.bound = random.choice((12, 25, 60))
        self.groups = random.choice(((READERS,), (JOB,), (READERS, JOB), (READERS, JOB), ("*",)))
        counted = (READERS, JOB) if "*" in self.groups else self.groups
        configs = {
            "backlog.max.records": str(self.bound),
            "backlog.groups": ",".join(self.groups),
            "backlog.policy": random.choice(("reject", "hold", "throttle")),
            "message.timestamp.after.max.ms": str(
                2**62
            ),  # brokers' clocks jump, and in the end all is to be admitted
        }
        if random.random() < 0.3:
            configs["backlog.max.bytes"] = random.choice(("3000", "20000"))
        if random.random() < 0.6:
            configs |= {
                "retention.bytes": "3000",
                "segment.bytes": "1500",
                "file.delete.delay.ms": "500",
                "retention.keep.unconsumed": "true",
            }
        self.topic = Topic(NAME, PARTITIONS, configs=configs)
        self._protocol = random.choice(("classic", "consumer"))
        self._think_s = random.choice((0.2, 0.5))
        self.calm_since_s = 0.0
        """Since when nothing is wrong with the cluster; infinite while something may be."""
        self.committed = CommittedOffsets()
        self.refused = Refused(report)
        self._report = report
        self._acked: dict[tuple[str, int], str] = {}
        self.produced = ProducedRecords(report)
        self._checker = Backlogs(report, self.committed, counted, self.bound)
        self._starts = LeadersStarts(report)
        self._numbers: Counter[str] = Counter()
        self._over_at_s = math.inf

    def programs(self) -> dict[str, Callable[[Environment], Awaitable[None]]]:
        """Client machines by name."""
        found = {f"pb{copy}": lasting(self.produce, f"pb{copy}") for copy in "ab"}
        found |= {f"{READERS}-{number}": lasting(self.consume, f"{READERS}-{number}") for number in range(2)}
        return found | {JOB: lasting(self.work)}

    @property
    def _is_over(self) -> bool:
        """Whether everybody is to come to an end, and nobody goes back any more."""
        if self._is_quiet.is_set() and self._over_at_s == math.inf:
            self._over_at_s = self._kernel.now + LONGER_S
        return self._kernel.now >= self._over_at_s

    # Told by the observer

    def appended(
        self, index: int, leader: str, leads_since_s: float, start_offset: int, end_offset: int
    ) -> None:
        """The leader of a partition has appended."""
        since_s = self._known_s(leads_since_s)
        self._checker.appended(place_of(NAME, index), leader, since_s, start_offset, end_offset)

    def leads(self, index: int, start_offset: int) -> None:
        """A replica leads now."""
        self._starts.leads(place_of(NAME, index), start_offset)

    def cut(
        self, index: int, replica: str, led_since_s: float | None, start_offset: int, *, leads: bool
    ) -> None:
        """A replica's log begins later than before. It leads, or has led, since then; None: it has only followed."""
        place = place_of(NAME, index)
        if led_since_s is None or (not leads and self._starts.has_begun(place, start_offset)):
            self._starts.follows(place, replica, start_offset)
        else:  # also what it decided to delete when it led still
            self._starts.leads(place, start_offset)
            self._checker.cut(place, replica, self._known_s(led_since_s), start_offset)

    def _known_s(self, leads_since_s: float) -> float:
        """What was acked before that is known to who leads since then."""
        long_ago_s = self._kernel.now - LATE_S
        return max(leads_since_s, long_ago_s) if long_ago_s >= self.calm_since_s else leads_since_s

    # Producers

    async def produce(self, environment: Environment, name: str) -> None:
        """Send records until all is over and one was acked since then: at the end there must be room."""
        random = self._kernel.random(f"producer/{name}")
        limit = trio.CapacityLimiter(IN_FLIGHT_MAX)
        self._numbers["lives " + name] += 1
        life = f"{name}#{self._numbers['lives ' + name]}"
        admitted = trio.Event()
        async with (
            Producer(
                self._cluster.bootstrap,
                environment,
                request_timeout_ms=REQUEST_TIMEOUT_MS,
                delivery_timeout_ms=DELIVERY_TIMEOUT_MS,
            ) as producer,
            trio.open_nursery() as nursery,
        ):
            while not admitted.is_set():
                if self._is_over or random.random() > BURST_CHANCE:
                    await trio.sleep(random.random() * 2 * self._think_s)
                key = f"{name}k{random.randrange(KEYS)}"
                number = self._numbers[name]
                self._numbers[name] += 1
                value = f"{name}:{number}:{'x' * random.randrange(0, 60)}"
                await limit.acquire_on_behalf_of(number)
                self.produced.send(value, key, life, number)
                try:
                    delivery = await producer.enqueue(NAME, value.encode(), key=key.encode())
                except PenstockError:
                    limit.release_on_behalf_of(number)
                    continue
                is_last = admitted if self._is_over else None
                nursery.start_soon(self._await_ack, delivery, value, number, limit, is_last)

    async def _await_ack(
        self,
        delivery: Delivery,
        value: str,
        number: int,
        limit: trio.CapacityLimiter,
        admitted: trio.Event | None,
    ) -> None:
        try:
            acked = await delivery.wait()
        except BacklogFull:
            self._kernel.note(f"refused {value[:12]}")
            self.refused.refuse(value)
            return
        except PenstockError as error:
            self._kernel.note(f"not acked {value[:12]} {type(error).__name__}: {error}")
            return
        finally:
            limit.release_on_behalf_of(number)
        place = place_of(NAME, acked.partition)
        self._kernel.note(f"acked {value[:12]} {place} {acked.offset}")
        self.produced.ack(value, place, acked.offset)
        first = self._acked.setdefault((place, acked.offset), value)
        self._report.check(
            "D1",
            first == value,
            f"{value} was acked at {acked.offset} of {place}, where {first} was acked before",
        )
        if admitted is not None:
            admitted.set()

    # Groups

    def _begin(self, group: str, index: int, offset: float) -> Operation:
        return self.committed.begin(group, place_of(NAME, index), offset, self._kernel.now)

    def _done(self, group: str, index: int, operation: Operation) -> None:
        operation.acked_s = self._kernel.now
        self._kernel.note(f"committed {group} {place_of(NAME, index)} {operation.offset:g}")

    async def consume(self, environment: Environment, name: str) -> None:
        """A member that is slow to commit. What it commits backwards it makes good a little later."""
        random = self._kernel.random(f"slow/{name}")
        async with Consumer(
            self._cluster.bootstrap,
            NAME,
            environment=environment,
            group=READERS,
            group_protocol=self._protocol,  # type: ignore[arg-type]
            auto_offset_reset="earliest",
            auto_commit=False,
            session_timeout_ms=SESSION_TIMEOUT_MS,
            heartbeat_interval_ms=1_000,
            max_poll_interval_ms=20_000,
        ) as consumer:
            async for batch in consumer.batches(max_records=10):
                await trio.sleep(random.random() * (0.2 if self._is_over else 1.5))
                partition, offset = batch.topic_partition, batch.next_offset
                if not self._is_over and random.random() < 0.15:
                    await self._commit(consumer, partition, max(0, offset - random.randrange(BACK_MAX)))
                    await trio.sleep(random.random() * 4)
                await self._commit(consumer, partition, offset)

    async def _commit(self, consumer: Consumer, partition: TopicPartition, offset: int) -> None:
        operation = self._begin(READERS, partition.partition, offset)
        await consumer.commit({partition: offset})  # who fails begins anew at what was committed
        self._done(READERS, partition.partition, operation)

    async def work(self, environment: Environment) -> None:
        """The job: it consumes by leaps."""
        random = self._kernel.random(f"job/{self._numbers['jobs']}")
        self._numbers["jobs"] += 1
        at: Counter[int] = Counter()
        # each call once: a second copy of a commit may come late
        async with Admin(
            self._cluster.bootstrap, environment, retry_policy=RetryPolicy(attempts_max=1)
        ) as admin:
            while True:
                await trio.sleep(0.3 if self._is_over else random.random() * 1.5)
                if not self._is_over and random.random() < 0.06:
                    await self._delete_job(admin)
                    continue
                index = random.randrange(PARTITIONS)
                partition = TopicPartition(NAME, index)
                found = (await admin.list_offsets({partition: LATEST}))[partition]
                if not isinstance(found, FoundOffset):
                    continue
                end = found.offset
                if self._is_over and self.committed.last_acked(JOB, place_of(NAME, index)) == end:
                    continue
                at[index] = end if self._is_over else min(at[index] + random.randrange(40), end)
                goes_back = not self._is_over and random.random() < 0.15
                if goes_back:
                    at[index] = max(0, at[index] - random.randrange(BACK_MAX))
                operation = self._begin(JOB, index, at[index])
                if (await admin.alter_group_offsets(JOB, {partition: at[index]}))[partition] is None:
                    self._done(JOB, index, operation)
                if goes_back:
                    await trio.sleep(random.random() * 7)

    async def _delete_job(self, admin: Admin) -> None:
        operations = [self._begin(JOB, index, NO_OFFSET) for index in range(PARTITIONS)]
        if (await admin.delete_groups([JOB]))[JOB] is None:
            for index, operation in enumerate(operations):
                self._done(JOB, index, operation)


__all__ = ["NAME", "Bounded"]
