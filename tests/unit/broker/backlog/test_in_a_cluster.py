"""Bounded backlogs whose groups have their coordinator at another broker. Whole brokers in virtual time."""

import math
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio
from tests.support.backlog_clients import Client
from tests.support.machine_cluster import PORT, MemoryCluster, server_cluster
from trio.testing import MockClock

from penstock.broker import keys
from penstock.broker.backlog.asking import OffsetAsker
from penstock.broker.backlog.gate import BacklogGate
from penstock.broker.backlog.registry import BacklogRegistry
from penstock.broker.errors import ApiError
from penstock.broker.groups.offsets_topic import partition_for
from penstock.broker.keys import PartitionState, TopicRecord
from penstock.broker.partition import Partition
from penstock.client.connection import ConnectionSettings, open_connection
from penstock.protocol.api import ApiKey
from penstock.protocol.errors import ErrorCode
from penstock.protocol.message import Message
from penstock.runtime.metadata import Put

NONE, FULL, TIMED_OUT = ErrorCode.NONE, ErrorCode.POLICY_VIOLATION, ErrorCode.REQUEST_TIMED_OUT
BOUND = 10
LEADER, COORDINATOR, OTHER = 1, 2, 3


class Scene:
    """Three brokers: one leads "orders", another coordinates the groups."""

    def __init__(self, cluster: MemoryCluster, nursery: trio.Nursery) -> None:
        self.cluster = cluster
        self._nursery = nursery

    async def client(self, node_id: int) -> Client:
        """A client of one broker."""
        network, host = self.cluster.client("client").network, f"10.0.0.{node_id}"
        return Client(await open_connection(self._nursery, network, host, PORT, ConnectionSettings()))

    def partition(self, node_id: int = LEADER) -> Partition:
        """A replica."""
        found = self.cluster.partition(node_id, "orders")
        assert found is not None
        return found

    def end_offset(self, node_id: int = LEADER) -> int:
        """Of a replica."""
        return self.partition(node_id).log.log_end_offset

    def gate(self, node_id: int = LEADER) -> BacklogGate:
        """Of a replica."""
        gate = self.partition(node_id).gate
        assert gate is not None
        return gate


async def place_groups(cluster: MemoryCluster, replicas: tuple[tuple[int, ...], ...]) -> None:
    """Make __consumer_offsets right in the store, with these replicas, the first of each leading."""
    topic_id = bytes(15) + b"\x09"
    puts = [
        Put(keys.partition_key(topic_id, index), keys.encode_partition(PartitionState(r, r, r[0], 0)))
        for index, r in enumerate(replicas)
    ]
    record = keys.encode_topic(TopicRecord(topic_id, len(replicas)))
    result = await cluster.store.transact([], [*puts, Put(keys.topic_key("__consumer_offsets"), record)])
    for member in cluster.members.values():
        assert member.broker is not None
        await member.broker.watch.wait_for(result.revision)
        await member.broker.partitions.wait_ready(topic_id)


@asynccontextmanager
async def scene(
    *, offsets: tuple[tuple[int, ...], ...] = ((COORDINATOR, LEADER, OTHER),), **configs: Any
) -> AsyncGenerator[Scene]:
    """`offsets` are the replicas of the partitions of __consumer_offsets."""
    async with server_cluster(1, 2, 3) as cluster, trio.open_nursery() as nursery:
        await place_groups(cluster, offsets)
        given = {"backlog_max_records": str(BOUND), "backlog_groups": "g", **configs}
        await cluster.create("orders", (LEADER, COORDINATOR, OTHER), **given)
        yield Scene(cluster, nursery)
        nursery.cancel_scope.cancel()


async def test_what_is_committed_elsewhere_is_known_where_it_decides(autojump_clock: MockClock) -> None:
    async with scene() as made:
        producer, consumer = await made.client(LEADER), await made.client(COORDINATOR)
        assert await producer.produce(2 * BOUND) == (NONE, 0), "nobody has committed"
        assert await consumer.commit(2 * BOUND) == NONE
        await trio.sleep(1.5)
        assert await producer.produce(BOUND) == (NONE, 0)
        for step in range(1, 4):
            started = trio.current_time()
            assert await producer.produce(1) == (FULL, 0)
            assert await consumer.commit(2 * BOUND + step) == NONE
            await trio.sleep(0.06)
            assert await producer.produce(1) == (NONE, 0), "it is not refused by what was long ago"
            assert trio.current_time() - started < 0.2
        assert made.end_offset() == 3 * BOUND + 3


async def test_held_batches_go_out_soon_after_a_commit_elsewhere(autojump_clock: MockClock) -> None:
    async with scene(backlog_policy="hold") as made:
        producer, consumer = await made.client(LEADER), await made.client(COORDINATOR)
        assert await consumer.commit(0) == NONE
        await trio.sleep(1.5)
        assert await producer.produce(BOUND) == (NONE, 0)
        waiting = producer.begin(1)
        await trio.sleep(3.4)
        assert await consumer.commit(1) == NONE
        started = trio.current_time()
        assert await producer.end(waiting) == (NONE, 0)
        assert trio.current_time() - started < 0.1


async def test_who_may_be_deposed_refuses_nothing_for_good(autojump_clock: MockClock) -> None:
    """Its successor may have the batch: POLICY_VIOLATION would say that it is in no log."""
    async with scene() as made:
        producer, consumer = await made.client(LEADER), await made.client(COORDINATOR)
        assert await consumer.commit(0) == NONE
        await trio.sleep(1.5)
        assert await producer.produce(BOUND) == (NONE, 0)
        assert await producer.produce(1) == (FULL, 0)
        broker = made.cluster.members[LEADER].broker
        assert broker is not None
        assert made.gate().fresh_until > trio.current_time()
        broker.registration.deadline = trio.current_time()
        assert (await producer.produce(1))[0] == ErrorCode.NOT_LEADER_OR_FOLLOWER


@pytest.mark.parametrize("groups", ["g", "*"])
async def test_a_new_leader_admits_nothing_before_it_was_told(groups: str, autojump_clock: MockClock) -> None:
    async with scene(offsets=((COORDINATOR, OTHER),), backlog_groups=groups) as made:
        cluster = made.cluster
        producer, consumer = await made.client(LEADER), await made.client(COORDINATOR)
        assert await consumer.commit(0) == NONE
        await trio.sleep(1.5)
        assert await producer.produce(BOUND) == (NONE, 0)
        assert not made.gate(OTHER).rule.is_known
        await cluster.settled("orders")
        await cluster.stop(LEADER)
        await cluster.until(lambda: cluster.leader("orders") in (COORDINATOR, OTHER), "another leads")
        leader = cluster.leader("orders")
        await cluster.until(lambda: made.partition(leader).is_leader, "it knows that it leads")
        again = await made.client(leader)
        assert (await again.produce(1))[0] == FULL
        assert made.end_offset(leader) == BOUND


async def test_while_a_coordinator_is_away_its_last_offsets_hold(autojump_clock: MockClock) -> None:
    async with scene(offsets=((COORDINATOR,),)) as made:
        producer, consumer = await made.client(LEADER), await made.client(COORDINATOR)
        assert await consumer.commit(0) == NONE
        await trio.sleep(1.5)
        assert await producer.produce(BOUND - 1) == (NONE, 0)
        made.cluster.cut(COORDINATOR)
        await trio.sleep(5)
        assert await producer.produce(1) == (NONE, 0)
        started = trio.current_time()
        assert await producer.produce(1) == (FULL, 0), "refused early rather than late"
        assert trio.current_time() - started < 3


async def test_who_was_never_told_waits_and_appends_nothing(autojump_clock: MockClock) -> None:
    async with scene(offsets=((COORDINATOR,),)) as made:
        consumer = await made.client(COORDINATOR)
        assert await consumer.commit(0) == NONE
        await trio.sleep(1.5)
        made.cluster.cut(COORDINATOR)
        gate = made.gate()
        gate.forget()
        producer = await made.client(LEADER)
        assert await producer.produce(1, timeout_ms=4_000) == (TIMED_OUT, 0)
        assert made.end_offset() == 0
        made.cluster.mend(COORDINATOR)
        await made.cluster.until(lambda: gate.rule.is_known, "it was told")
        assert await producer.produce(1) == (NONE, 0)


async def test_all_groups_are_those_of_all_coordinators(autojump_clock: MockClock) -> None:
    offsets = ((LEADER,), (COORDINATOR,), (OTHER,))
    names = {partition_for(name, 3): name for name in ("a", "b", "c", "d", "e", "f")}
    assert len(names) == 3
    async with scene(offsets=offsets, backlog_groups="*") as made:
        await trio.sleep(1.5)
        assert made.gate().rule.is_known, "there are no groups, and it knows that"
        producer = await made.client(LEADER)
        for index, (node_id,) in enumerate(offsets):
            client = await made.client(node_id)
            assert await client.commit(10 * (3 - index), group=names[index]) == NONE
        await trio.sleep(1.5)
        assert made.gate().rule.counted_groups == {names[0]: 30, names[1]: 20, names[2]: 10}
        assert await producer.produce(20) == (NONE, 0)
        assert await producer.produce(1) == (FULL, 0)


@pytest.mark.parametrize("groups", ["g", "*"])
@pytest.mark.parametrize("coordinator", [LEADER, COORDINATOR])
async def test_a_group_counts_until_its_deletion_is_committed(
    coordinator: int, groups: str, autojump_clock: MockClock
) -> None:
    """It comes back where the deletion can't be, and what was admitted meanwhile would be over its bound."""
    async with scene(offsets=((coordinator, OTHER),), backlog_groups=groups) as made:
        consumer = await made.client(coordinator)
        assert await consumer.commit(0) == NONE
        await trio.sleep(1.5)
        made.cluster.cut(OTHER)
        async with trio.open_nursery() as nursery:
            delete = Message(groups_names=["g"])
            nursery.start_soon(consumer.connection.request, ApiKey.DELETE_GROUPS, delete)
            await trio.sleep(2.5)
            assert made.gate().rule.counted_groups == {"g": 0}
            made.gate().forget()
            await trio.sleep(1.5)
            assert not made.gate().rule.is_known, "nor is it told to whoever begins to lead"
        await made.cluster.until(lambda: made.gate().rule.is_known, "the deletion is committed")
        assert made.gate().rule.counted_groups == {}


class ClosingGroups:
    """A coordinator that has a group when it is asked first (`looked` is called then), and has lost it after so many looks."""

    def __init__(self, looks_max: float = 1, looked: Callable[[], None] = lambda: None) -> None:
        self.looks = 0
        self._looks_max = looks_max
        self._looked = looked

    def leader_of(self, group_id: str) -> int:
        """It is this broker."""
        return LEADER

    def shard(self, group_id: str) -> object:
        """Raises ApiError when it was looked at as often as it may be."""
        self.looks += 1
        if self.looks == 1:
            self._looked()
        if self.looks > self._looks_max:
            raise ApiError(ErrorCode.NOT_COORDINATOR)
        return self

    def may_come_back(self, group_id: str) -> bool:
        """Nobody was deleted."""
        return False

    def offsets_of(self, topic: str, partition: int | None = None) -> list[object]:
        """Nothing: the shard is closed."""
        return []


async def test_a_group_that_moves_away_while_others_are_asked_keeps_its_last_offset(
    autojump_clock: MockClock,
) -> None:
    async with scene() as made:
        consumer = await made.client(COORDINATOR)
        assert await consumer.commit(0) == NONE
        await trio.sleep(1.5)
        gate, broker = made.gate(), made.cluster.broker(LEADER)
        registry = BacklogRegistry()
        groups: Any = ClosingGroups()
        asker = OffsetAsker(broker.environment, broker.config, broker.image, groups, registry)
        registry.follow(gate)
        with trio.move_on_after(0.5):
            await asker.run()
        assert groups.looks == 2
        assert gate.rule.counted_groups == {"g": 0}


async def test_what_was_asked_before_a_leadership_began_is_not_told_to_it(autojump_clock: MockClock) -> None:
    async with scene() as made:
        consumer = await made.client(COORDINATOR)
        assert await consumer.commit(0) == NONE
        await trio.sleep(1.5)
        gate, broker = made.gate(), made.cluster.broker(LEADER)
        registry = BacklogRegistry()
        groups: Any = ClosingGroups(math.inf, gate.forget)
        asker = OffsetAsker(broker.environment, broker.config, broker.image, groups, registry)
        registry.follow(gate)
        with trio.move_on_after(0.4):
            await asker.run()
        assert groups.looks == 2
        assert not gate.rule.is_known
