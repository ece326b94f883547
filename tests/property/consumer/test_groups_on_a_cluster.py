"""Clients of three whole brokers that die and come back, in virtual time: records and committed offsets survive leaders and coordinators.

A producer writes to all partitions, a group of two consumers reads and commits, and somebody asks for the group's offsets all the time; meanwhile
leaders of the topic and of `__consumer_offsets` are stopped, killed or lose power. Checked: an acked commit is what is answered from then on, until a later
one replaces it (PROPERTIES G2); nobody gets a partition that another member holds (G1); every acked record comes to the group; and the
group goes on within its time (G3). `CLUSTER_GROUP_RUNS` says how many runs are tried (`make long` tries many); the n-th run is the same everywhere.
"""

import logging
import os
from collections.abc import Iterator
from random import Random
from typing import Any, Literal

import pytest
import trio
from tests.support.crashes.deterministic import run_in_virtual_time
from tests.support.machine_cluster import MemoryCluster, machine_cluster

from penstock import Consumer, Producer
from penstock.client.admin import Admin
from penstock.client.admin_values import NewTopic
from penstock.client.group_values import OffsetAndMetadata
from penstock.client.metadata import TopicPartition
from penstock.errors import PenstockError

RUNS = int(os.environ.get("CLUSTER_GROUP_RUNS", "2"))
FIRST_RUN = int(os.environ.get("CLUSTER_GROUP_FIRST_RUN", "0"))
ROUNDS = 3
TOPIC, GROUP, OFFSETS = "orders", "billing", "__consumer_offsets"
PARTITIONS = 2
HEAL_LIMIT_S = 120.0
Protocol = Literal["classic", "consumer"]


@pytest.fixture(autouse=True)
def _silence() -> Iterator[None]:
    """Brokers that die have much to say."""
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)


class History:
    """What clients were told, checked as it comes."""

    def __init__(self) -> None:
        self.holder: dict[int, str] = {}
        self.sent_count = 0
        self.acked: list[dict[int, int]] = [{} for _ in range(PARTITIONS)]
        """Offset to number, of each partition."""
        self.consumed: set[int] = set()
        """Numbers."""
        self.committed = [0] * PARTITIONS
        """What a member was told is committed."""
        self.told = [0] * PARTITIONS
        """What was answered last to who asked."""
        self.look_count = 0
        self.failures: list[str] = []

    def assign(self, name: str, partitions: frozenset[TopicPartition]) -> None:
        for place in partitions:
            before = self.holder.get(place.partition)
            if before is not None:
                self.failures.append(f"{place} was given to {name}, but {before} holds it")
            self.holder[place.partition] = name

    def give_up(self, name: str, partitions: frozenset[TopicPartition]) -> None:
        for place in partitions:
            if self.holder.pop(place.partition, None) != name:
                self.failures.append(f"{name} gives up {place}, which it does not hold")

    def look(self, partition: int, at_least: int, found: int) -> None:
        """An answer to who asked for an offset; `at_least` was committed when it was asked for."""
        self.look_count += 1
        if found < max(at_least, self.told[partition]):
            self.failures.append(
                f"offset {found} of partition {partition} after {at_least} was acked and {self.told[partition]} was told"
            )
        self.told[partition] = found


class Run:
    """The clients of one run."""

    def __init__(self, cluster: MemoryCluster, protocol: Protocol) -> None:
        self.cluster = cluster
        self.protocol: Protocol = protocol
        self.history = History()

    async def make_topics(self) -> None:
        topic = NewTopic(
            name=TOPIC,
            partition_count=PARTITIONS,
            replication_factor=3,
            configs={"min.insync.replicas": "2"},
        )
        async with Admin(self.cluster.bootstrap, environment=self.cluster.client("maker")) as admin:
            outcomes = await admin.create_topics([topic])
            assert not isinstance(outcomes[TOPIC], PenstockError), outcomes

    async def produce(self) -> None:
        """One record after the other, until cancelled."""
        environment, history = self.cluster.client("producer"), self.history
        async with Producer(self.cluster.bootstrap, environment=environment) as producer:
            while True:
                number = history.sent_count
                history.sent_count += 1
                partition = number % PARTITIONS
                record = await producer.send(TOPIC, b"%d" % number, partition=partition)
                history.acked[partition][record.offset] = number
                await trio.sleep(self.cluster.random.random() / 10)

    async def consume(self, name: str) -> None:
        """A member, until cancelled; one that can't go on joins anew."""
        environment, history = self.cluster.client(name), self.history

        async def on_assigned(partitions: frozenset[TopicPartition]) -> None:
            history.assign(name, partitions)

        async def on_gone(partitions: frozenset[TopicPartition]) -> None:
            history.give_up(name, partitions)

        more: dict[str, Any] = {"assignors": ("range",)} if self.protocol == "classic" else {}
        async with Consumer(
            self.cluster.bootstrap,
            TOPIC,
            environment=environment,
            group=GROUP,
            group_protocol=self.protocol,
            auto_offset_reset="earliest",
            auto_commit=False,
            session_timeout_ms=10_000,
            heartbeat_interval_ms=1_000,
            on_assigned=on_assigned,
            on_revoked=on_gone,
            on_lost=on_gone,
            **more,
        ) as consumer:
            async for batch in consumer.batches(max_records=20):
                records = list(batch)
                history.consumed.update(int(record.value or b"-1") for record in records)
                next_offset = records[-1].offset + 1
                try:
                    await consumer.commit({TopicPartition(TOPIC, batch.partition): next_offset})
                except PenstockError:
                    continue  # whoever has the partition next reads it again
                committed = history.committed
                committed[batch.partition] = max(committed[batch.partition], next_offset)

    async def look(self) -> None:
        """Ask for the group's offsets, until cancelled."""
        history = self.history
        wanted = [TopicPartition(TOPIC, index) for index in range(PARTITIONS)]
        async with Admin(self.cluster.bootstrap, environment=self.cluster.client("looker")) as admin:
            while True:
                at_least = list(history.committed)
                try:
                    found = await admin.list_group_offsets(GROUP, wanted)
                except PenstockError:
                    found = {}
                for place, outcome in found.items():
                    if outcome is None:
                        history.look(place.partition, at_least[place.partition], 0)
                    elif isinstance(outcome, OffsetAndMetadata):
                        history.look(place.partition, at_least[place.partition], outcome.offset)
                await trio.sleep(self.cluster.random.random() / 5)

    async def one_round(self) -> None:
        """A broker ends, mostly one that leads something, and comes back."""
        cluster = self.cluster
        await trio.sleep(1 + cluster.random.random() * 2)
        known = cluster.image().topic(OFFSETS) is not None
        leader = cluster.leader(
            *cluster.random.choice([(TOPIC, 0), (TOPIC, 1), (OFFSETS if known else TOPIC, 0)])
        )
        victim = leader if leader > 0 and cluster.random.random() < 0.8 else cluster.random.choice((1, 2, 3))
        match cluster.random.randrange(3):
            case 0:
                await cluster.stop(victim)
            case 1:
                await cluster.kill(victim)
            case _:
                await cluster.cut_power(victim)
        await trio.sleep(cluster.random.choice((0.0, 0.5, 6.0)))
        await cluster.start(victim)
        await cluster.until(lambda: len(cluster.state(TOPIC).isr) == 3, "all are in sync again")

    def is_caught_up(self) -> bool:
        ends = [max(acked, default=-1) + 1 for acked in self.history.acked]
        return all(committed >= end for committed, end in zip(self.history.committed, ends, strict=True))


async def survive(seed: int) -> None:
    """Rounds of death with all clients, then healing."""
    random = Random(seed)
    protocol: Protocol = "classic" if seed % 2 else "consumer"
    async with machine_cluster(3, random) as cluster:
        run = Run(cluster, protocol)
        await run.make_topics()
        async with trio.open_nursery() as nursery:
            writing = trio.CancelScope()

            async def write() -> None:
                with writing:
                    await run.produce()

            nursery.start_soon(write)
            for name in ("one", "two"):
                nursery.start_soon(run.consume, name)
            nursery.start_soon(run.look)
            for _ in range(ROUNDS):
                await run.one_round()
            writing.cancel()
            await cluster.until(run.is_caught_up, "the group has all that was acked", within_s=HEAL_LIMIT_S)
            await trio.sleep(1)
            nursery.cancel_scope.cancel()
        history = run.history
        assert not history.failures, history.failures[0]
        acked = {number for partition in history.acked for number in partition.values()}
        assert acked <= history.consumed, f"never consumed: {sorted(acked - history.consumed)[:5]}"
        assert len(acked) > 20
        assert history.look_count > 20
        assert history.told == history.committed


@pytest.mark.parametrize("seed", range(FIRST_RUN, FIRST_RUN + RUNS))
def test_records_and_commits_survive_leaders_and_coordinators(seed: int) -> None:
    run_in_virtual_time(survive, seed)
