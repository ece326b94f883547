"""Clients of a simulated cluster: real producers, consumers and admin clients, each on a machine of its own, and what they were promised.

Every record's value is unique and names its producer and number, so that a log can be compared with what was sent, whatever happened between.
"""

from collections import Counter
from collections.abc import Awaitable, Callable
from random import Random

import trio
from tests.simulation.bounded import Bounded
from tests.simulation.checkers.clients import ConsumedRecords, LatestValues, ProducedRecords
from tests.simulation.checkers.groups import Assignments, Commits
from tests.simulation.checkers.report import Report
from tests.simulation.cluster import Cluster
from tests.simulation.topics import (
    BACKOFF_S,
    BURST_CHANCE,
    DELIVERY_TIMEOUT_MS,
    IN_FLIGHT_MAX,
    KEYS,
    REQUEST_TIMEOUT_MS,
    SESSION_TIMEOUT_MS,
    TOPICS,
    Topic,
    lasting,
    place_of,
)

from penstock.client.admin import Admin
from penstock.client.admin_values import ConfigChange, ConfigResource, NewTopic
from penstock.client.group_values import OffsetAndMetadata
from penstock.client.metadata import TopicPartition
from penstock.consumer.consumer import Consumer
from penstock.errors import PenstockError
from penstock.producer.batch import Delivery
from penstock.producer.producer import Producer
from penstock.runtime.environment import Environment

GROUPS = {"billing": "classic", "audit": "consumer"}
COMMON_CONFIGS = {"min.insync.replicas": "2"}


class History:
    """All that clients saw, and the checkers of it."""

    def __init__(self, report: Report) -> None:
        self.report = report
        self.produced = {
            topic.name: ProducedRecords(
                report, is_exactly_once=topic.acks == "all", is_kept=topic.acks == "all"
            )
            for topic in TOPICS
        }
        self.consumed = ConsumedRecords(report)
        self.latest = LatestValues(report)
        self.assignments = Assignments(report)
        self.commits = Commits(report)
        self.processed: dict[tuple[str, str], int] = {}
        """How far each group has come, by partition: what was acked to a member, or found to be committed."""
        self.admin_count = 0
        self.reader_positions: dict[str, int] = {}

    @property
    def acked_count(self) -> int:
        return sum(produced.acked_count for produced in self.produced.values())

    @property
    def kept(self) -> ProducedRecords:
        return self.produced["kept"]


class Workload:
    """See the module. `programs` are what runs where."""

    def __init__(self, cluster: Cluster, history: History, random: Random) -> None:
        self.cluster = cluster
        self.history = history
        self.random = random
        self.is_quiet = trio.Event()
        """Set when producers are to stop sending."""
        self.think_s = random.choice((0.2, 0.5, 1.0))
        self.bounded: Bounded | None = None
        self._numbers: Counter[str] = Counter()
        self._lives: dict[str, str] = {}

    def programs(self) -> dict[str, Callable[[Environment], Awaitable[None]]]:
        """Client machines by name."""
        found: dict[str, Callable[[Environment], Awaitable[None]]] = {"admin": self.administrate}
        for number, topic in enumerate(TOPICS):
            for copy in range(2 if topic.name == "kept" else 1):
                name = f"p{number}{'ab'[copy]}"
                found[name] = lasting(self.produce, name, topic)
        for group, protocol in GROUPS.items():
            for number in range(2):
                name = f"{group}-{number}"
                found[name] = lasting(self.consume_in_group, name, group, protocol)
        found["reader"] = lasting(self.read, "reader")
        if self.bounded is not None:
            found |= self.bounded.programs()
        return found

    @property
    def topics(self) -> tuple[Topic, ...]:
        """All that this run has."""
        return TOPICS if self.bounded is None else (*TOPICS, self.bounded.topic)

    def bound(self, random: Random) -> Bounded:
        """Have a topic with a bounded backlog, too."""
        bounded = self.bounded = Bounded(self.cluster, self.history.report, random, self.is_quiet)
        self.history.produced[bounded.topic.name] = bounded.produced
        return bounded

    def excuse(self, name: str) -> None:
        """That client has died or is frozen."""
        self.history.assignments.excuse(self._lives.get(name, ""))

    # Topics

    async def create_topics(self, environment: Environment) -> None:
        """Make the workload's topics, however long it takes."""
        replication = min(3, len(self.cluster.brokers))
        async with Admin(self.cluster.bootstrap, environment) as admin:
            wanted = {
                topic.name: NewTopic(
                    name=topic.name,
                    partition_count=topic.partition_count,
                    replication_factor=replication,
                    configs=COMMON_CONFIGS | topic.configs,
                )
                for topic in self.topics
            }
            while wanted:
                outcomes = await admin.create_topics(wanted.values())
                for name, outcome in outcomes.items():
                    if not isinstance(outcome, PenstockError):
                        del wanted[name]
                if wanted:
                    await trio.sleep(BACKOFF_S)

    # Producers

    async def produce(self, environment: Environment, name: str, topic: Topic) -> None:
        """Send records for as long as there is no quiet."""
        random = self.cluster.kernel.random(f"producer/{name}")
        limit = trio.CapacityLimiter(IN_FLIGHT_MAX)
        self._numbers["lives " + name] += 1
        life = f"{name}#{self._numbers['lives ' + name]}"
        async with (
            Producer(
                self.cluster.bootstrap,
                environment,
                acks=topic.acks,
                request_timeout_ms=REQUEST_TIMEOUT_MS,
                delivery_timeout_ms=DELIVERY_TIMEOUT_MS,
            ) as producer,
            trio.open_nursery() as nursery,
        ):
            while not self.is_quiet.is_set():
                if random.random() > BURST_CHANCE:
                    await trio.sleep(random.random() * 2 * self.think_s)
                key = f"{name}k{random.randrange(KEYS)}"
                number = self._numbers[name]
                self._numbers[name] += 1
                value = f"{name}:{number}:{'x' * random.randrange(0, 60)}"
                history = self.history.produced[topic.name]
                await limit.acquire_on_behalf_of(number)
                history.send(value, key, life, number)
                try:
                    delivery = await producer.enqueue(topic.name, value.encode(), key=key.encode())
                except PenstockError:
                    limit.release_on_behalf_of(number)
                    continue
                nursery.start_soon(self._await_ack, delivery, topic, value, key, number, limit)

    async def _await_ack(
        self, delivery: Delivery, topic: Topic, value: str, key: str, number: int, limit: trio.CapacityLimiter
    ) -> None:
        try:
            acked = await delivery.wait()
        except PenstockError:
            return
        finally:
            limit.release_on_behalf_of(number)
        place = place_of(topic.name, acked.partition)
        self.cluster.kernel.note(f"acked {value[:12]} {place} {acked.offset}")
        self.history.produced[topic.name].ack(value, place, acked.offset)
        if topic.is_compacted:
            self.history.latest.ack(place, key, number, acked.offset)

    # Consumers

    async def consume_in_group(self, environment: Environment, name: str, group: str, protocol: str) -> None:
        """A member that commits what it has processed."""
        history, kernel = self.history, self.cluster.kernel
        self._numbers["lives " + name] += 1
        life = f"{name}#{self._numbers['lives ' + name]}"

        async def assigned(partitions: frozenset[TopicPartition]) -> None:
            places = frozenset(place_of(p.topic, p.partition) for p in partitions)
            kernel.note(f"{name} is assigned {sorted(places)}")
            history.assignments.assign(group, life, places)
            for place in places:  # it begins at what was committed
                history.consumed.restart(life, place)

        async def given_up(partitions: frozenset[TopicPartition]) -> None:
            places = frozenset(place_of(p.topic, p.partition) for p in partitions)
            kernel.note(f"{name} gives up {sorted(places)}")
            history.assignments.give_up(group, life, places)

        self.excuse(name)  # the life before this one
        self._lives[name] = life
        async with Consumer(
            self.cluster.bootstrap,
            "kept",
            environment=environment,
            group=group,
            group_protocol=protocol,  # type: ignore[arg-type]
            auto_offset_reset="earliest",
            auto_commit=False,
            session_timeout_ms=SESSION_TIMEOUT_MS,
            heartbeat_interval_ms=1_000,
            max_poll_interval_ms=20_000,
            on_assigned=assigned,
            on_revoked=given_up,
            on_lost=given_up,
        ) as consumer:
            async for batch in consumer.batches(max_records=50):
                place = place_of(batch.topic, batch.partition)
                for record in batch:
                    value = (record.value or b"").decode()
                    history.consumed.read(life, place, record.offset, value)
                await self._commit(consumer, group, place, batch.topic_partition, batch.next_offset)

    async def _commit(
        self, consumer: Consumer, group: str, place: str, partition: TopicPartition, offset: int
    ) -> None:
        history = self.history
        at_least = history.commits.acked(group, place)
        if offset < at_least:
            offset_known = False
        else:
            offset_known = True
            history.commits.attempt(group, place, offset)
        try:
            await consumer.commit({partition: offset})
        except PenstockError:
            return
        history.report.check(
            "G2",
            offset_known,
            f"{group}: {place} was committed at {at_least}, and then its owner could commit {offset}",
        )
        self.cluster.kernel.note(f"committed {group} {place} {offset}")
        history.commits.ack(group, place, offset)
        history.processed[group, place] = max(offset, history.processed.get((group, place), 0))

    async def read(self, environment: Environment, name: str) -> None:
        """A reader without a group."""
        history = self.history
        stable = {topic.name: topic.acks == "all" and not topic.is_caching for topic in TOPICS}
        for topic in stable:
            for index in range(2):
                history.consumed.restart(name, place_of(topic, index))
        async with Consumer(
            self.cluster.bootstrap,
            "kept",
            "cached",
            "plain",
            environment=environment,
            auto_offset_reset="earliest",
        ) as consumer:
            async for batch in consumer.batches(max_records=100):
                place = place_of(batch.topic, batch.partition)
                is_stable = stable[batch.topic]
                for record in batch:
                    value = (record.value or b"").decode()
                    if is_stable:
                        history.consumed.read(name, place, record.offset, value)
                history.reader_positions[place] = batch.next_offset

    # Administration

    async def administrate(self, environment: Environment) -> None:
        """Topics that come and go, more partitions, other configs, questions."""
        random = self.cluster.kernel.random("admin")
        names: list[str] = []
        async with Admin(self.cluster.bootstrap, environment) as admin:
            while not self.is_quiet.is_set():
                await trio.sleep(random.random() * 3)
                try:
                    with trio.move_on_after(15):
                        await self._one_change(admin, random, names)
                        self.history.admin_count += 1
                except PenstockError:
                    continue

    async def _one_change(self, admin: Admin, random: Random, names: list[str]) -> None:
        choice = random.randrange(6)
        if choice == 0 or not names:
            name = f"passing-{len(names)}-{random.randrange(1000)}"
            replication = random.choice((1, min(3, len(self.cluster.brokers))))
            names.append(name)
            await admin.create_topics(
                [NewTopic(name=name, partition_count=random.randrange(1, 4), replication_factor=replication)]
            )
        elif choice == 1:
            await admin.delete_topics([names.pop(random.randrange(len(names)))])
        elif choice == 2:
            await admin.create_partitions({random.choice(names): random.randrange(2, 6)})
        elif choice == 3:
            value = random.choice(("4000", "6000", "9000"))
            await admin.alter_configs(
                {ConfigResource.topic("short"): [ConfigChange("retention.bytes", value)]}
            )
        else:
            await self.look_at_commits(admin)

    async def look_at_commits(self, admin: Admin) -> None:
        """G2: what is found is what was acked before the question."""
        history = self.history
        for group in GROUPS:
            partitions = [("kept", index) for index in range(2)]
            acked = {place_of(*p): history.commits.acked(group, place_of(*p)) for p in partitions}
            found = await admin.list_group_offsets(group)
            for partition in partitions:
                place = place_of(*partition)
                value = found.get(TopicPartition(*partition))
                if isinstance(value, PenstockError):
                    continue
                offset = value.offset if isinstance(value, OffsetAndMetadata) else 0
                history.commits.fetched(group, place, offset, acked[place])
                history.processed[group, place] = max(offset, history.processed.get((group, place), 0))

    def clerk(self) -> Callable[[Environment], Awaitable[None]]:
        """Looks once more at what is committed: a last commit's answer may have been lost, and who has all of a partition commits no more."""
        return lasting(self._look_again)

    async def _look_again(self, environment: Environment) -> None:
        async with Admin(self.cluster.bootstrap, environment) as admin:
            await self.look_at_commits(admin)


__all__ = ["GROUPS", "History", "Workload"]
