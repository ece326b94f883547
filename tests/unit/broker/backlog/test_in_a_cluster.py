"""Bounded backlogs whose groups have their coordinator at another broker. Whole brokers in virtual time."""

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
from penstock.broker.backlog.gate import FRESH_S, BacklogGate
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
    *,
    offsets: tuple[tuple[int, ...], ...] = ((COORDINATOR, LEADER, OTHER),),
    replicas: tuple[int, ...] = (LEADER, COORDINATOR, OTHER),
    **configs: Any,
) -> AsyncGenerator[Scene]:
    """`offsets` are the replicas of the partitions of __consumer_offsets, `replicas` those of "orders"."""
    async with server_cluster(1, 2, 3) as cluster, trio.open_nursery() as nursery:
        await place_groups(cluster, offsets)
        given = {"backlog_max_records": str(BOUND), "backlog_groups": "g", **configs}
        await cluster.create("orders", replicas, **given)
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
        assert made.gate().may_refuse(trio.current_time())
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


class ClosedGroups:
    """A coordinator that has lost its groups, and has not heard of it."""

    def leader_of(self, group_id: str) -> int:
        """It is this broker."""
        return LEADER

    def shard(self, group_id: str) -> object:
        """Raises ApiError."""
        raise ApiError(ErrorCode.NOT_COORDINATOR)

    def offsets_of(self, topic: str, partition: int | None = None) -> list[object]:
        """Nothing: the shard is closed."""
        return []


class GroupsElsewhere(ClosedGroups):
    """All groups have another coordinator; `looked` is called by who wants to know."""

    def __init__(self, looked: Callable[[], None]) -> None:
        self._looked = looked

    def leader_of(self, group_id: str) -> int:
        """It is another broker."""
        self._looked()
        return COORDINATOR


async def test_a_group_that_has_moved_away_keeps_its_last_offset(autojump_clock: MockClock) -> None:
    async with scene() as made:
        consumer = await made.client(COORDINATOR)
        assert await consumer.commit(0) == NONE
        await trio.sleep(1.5)
        gate, broker = made.gate(), made.cluster.broker(LEADER)
        registry = BacklogRegistry()
        groups: Any = ClosedGroups()
        asker = OffsetAsker(broker.environment, broker.config, broker.image, groups, registry)
        registry.follow(gate)
        with trio.move_on_after(0.5):
            await asker.run()
        assert gate.rule.counted_groups == {"g": 0}


@pytest.mark.parametrize("begins_anew", [False, True])
async def test_what_was_asked_before_a_leadership_began_is_not_told_to_it(
    begins_anew: bool, autojump_clock: MockClock
) -> None:
    async with scene() as made:
        consumer = await made.client(COORDINATOR)
        assert await consumer.commit(0) == NONE
        await trio.sleep(1.5)
        gate, broker = made.gate(), made.cluster.broker(LEADER)
        gate.forget()
        registry = BacklogRegistry()
        groups: Any = GroupsElsewhere(gate.forget if begins_anew else lambda: None)
        asker = OffsetAsker(broker.environment, broker.config, broker.image, groups, registry)
        registry.follow(gate)
        with trio.move_on_after(0.4):
            await asker.run()
        assert gate.rule.is_known is not begins_anew


# One of several coordinators says nothing


def names_of(count: int) -> list[str]:
    """A group of each partition of an offsets topic of so many."""
    names = {partition_for(name, count): name for name in "abcdefgh"}
    return [names[index] for index in range(count)]


@asynccontextmanager
async def two_coordinators(
    groups: str, **configs: Any
) -> AsyncGenerator[tuple[Scene, Client, Client, Client]]:
    """A full backlog, and clients of its leader and of two coordinators: `MINE` has committed 0 at the first, `HIS` far ahead at the second."""
    named = groups.format(MINE, HIS)
    offsets = ((COORDINATOR,), (OTHER,))
    async with scene(offsets=offsets, replicas=(LEADER,), backlog_groups=named, **configs) as made:
        producer, consumer, other = [await made.client(node_id) for node_id in (LEADER, COORDINATOR, OTHER)]
        assert await consumer.commit(0, group=MINE) == NONE
        assert await other.commit(1000, group=HIS) == NONE
        await trio.sleep(1.5)
        assert await producer.produce(BOUND) == (NONE, 0)
        yield made, producer, consumer, other


MINE, HIS = names_of(2)
NAMED_AND_ALL = pytest.mark.parametrize("groups", ["{},{}", "*"])


@NAMED_AND_ALL
async def test_a_silent_coordinator_makes_others_offsets_old(groups: str, autojump_clock: MockClock) -> None:
    async with two_coordinators(groups) as (made, producer, consumer, _):
        made.cluster.freeze(OTHER)
        await trio.sleep(0.3)
        oldest_s = 0.0
        for step in range(1, 21):
            assert (await producer.produce(1))[0] == FULL
            await trio.sleep(0.013 * (step % 5))
            assert await consumer.commit(step, group=MINE) == NONE
            committed_at = refused_at = trio.current_time()
            while (await producer.produce(1))[0] != NONE:
                refused_at = trio.current_time()
                await trio.sleep(0.01)
            assert trio.current_time() - committed_at < 0.1
            oldest_s = max(oldest_s, refused_at - committed_at)
            await trio.sleep(0.09)
        assert oldest_s <= FRESH_S


@NAMED_AND_ALL
async def test_a_silent_coordinator_leaves_batches_unanswered(groups: str, autojump_clock: MockClock) -> None:
    """Its group is the slowest one: what it had last refuses them."""
    async with two_coordinators(groups) as (made, producer, consumer, other):
        assert await other.commit(0, group=HIS) == NONE
        assert await consumer.commit(1000, group=MINE) == NONE
        await trio.sleep(1.5)
        made.cluster.freeze(OTHER)
        await trio.sleep(0.2)
        for step in range(40):
            started = trio.current_time()
            assert (await producer.produce(1))[0] == FULL
            assert trio.current_time() - started < (0.03 if step else 1.2), "at first it is waited for"
            await trio.sleep(0.07)
        made.cluster.thaw(OTHER)
        assert await other.commit(1000, group=HIS) == NONE
        await trio.sleep(0.1)
        assert (await producer.produce(1))[0] in (NONE, FULL)
        await trio.sleep(0.1)
        assert (await producer.produce(1))[0] == NONE, "it is heard again"


@NAMED_AND_ALL
async def test_held_batches_wait_for_a_silent_coordinator(groups: str, autojump_clock: MockClock) -> None:
    async with two_coordinators(groups, backlog_policy="hold") as (made, producer, consumer, _):
        made.cluster.freeze(OTHER)
        for step in range(1, 8):
            waiting = producer.begin(1)
            await trio.sleep(0.21 * step)
            assert await consumer.commit(step, group=MINE) == NONE
            started = trio.current_time()
            assert await producer.end(waiting) == (NONE, 0)
            assert trio.current_time() - started < 0.1


@NAMED_AND_ALL
async def test_who_was_never_told_waits_for_the_silent_one_too(
    groups: str, autojump_clock: MockClock
) -> None:
    async with two_coordinators(groups) as (made, producer, _, _):
        made.cluster.freeze(OTHER)
        gate = made.gate()
        gate.forget()
        assert await producer.produce(1, timeout_ms=6_000) == (TIMED_OUT, 0)
        assert not gate.rule.is_known
        made.cluster.thaw(OTHER)
        with trio.fail_after(3):
            assert (await producer.produce(1))[0] == FULL
        await trio.sleep(0.2)
        gate.forget()
        with trio.fail_after(0.1):  # a batch that waits has it asked
            assert (await producer.produce(1))[0] == FULL


async def dawdle(cluster: MemoryCluster, node_id: int, pause_s: float) -> None:
    """It answers once in so long: the network takes 0.5 ms each way."""
    while True:
        cluster.freeze(node_id)
        await trio.sleep(pause_s)
        cluster.thaw(node_id)
        await trio.sleep(0.0008)


@NAMED_AND_ALL
async def test_coordinators_that_are_never_in_time_are_not_heard(
    groups: str, autojump_clock: MockClock
) -> None:
    """They take 0.15 s, and never answer in the same round."""
    async with two_coordinators(groups) as (made, producer, consumer, _), trio.open_nursery() as nursery:
        nursery.start_soon(dawdle, made.cluster, COORDINATOR, 0.15)
        await trio.sleep(0.075)
        nursery.start_soon(dawdle, made.cluster, OTHER, 0.15)
        made.gate().forget()
        started = trio.current_time()
        assert (await producer.produce(1))[0] == FULL
        assert trio.current_time() - started < 1.5, "told by pieces"
        for step in range(1, 6):
            assert await consumer.commit(step, group=MINE) == NONE
            await trio.sleep(0.06)
            assert (await producer.produce(1))[0] == NONE, "what is older than the batch does not refuse it"
            started = trio.current_time()
            assert (await producer.produce(1))[0] == FULL
            assert trio.current_time() - started < 1.0
        nursery.cancel_scope.cancel()


async def test_who_answers_bit_by_bit_is_waited_for(autojump_clock: MockClock) -> None:
    """With all groups a coordinator is asked several times in a row."""
    async with two_coordinators("*") as (made, producer, consumer, other), trio.open_nursery() as nursery:
        assert await other.commit(0, group=HIS) == NONE
        assert await consumer.commit(1000, group=MINE) == NONE
        await trio.sleep(1.5)
        nursery.start_soon(dawdle, made.cluster, OTHER, 0.9)
        for _ in range(5):
            with trio.fail_after(1.2):
                assert (await producer.produce(1))[0] == FULL
            await trio.sleep(0.3)
        nursery.cancel_scope.cancel()


async def test_who_falls_silent_half_way_has_told_nothing(autojump_clock: MockClock) -> None:
    async with two_coordinators("*") as (made, producer, consumer, other):
        assert await other.commit(0, group=HIS) == NONE
        assert await consumer.commit(1000, group=MINE) == NONE
        await trio.sleep(1.8)
        assert await other.commit(1, group=HIS) == NONE
        made.cluster.freeze(OTHER)
        waiting = producer.begin(1)
        await trio.sleep(0.3)
        made.cluster.thaw(OTHER)
        await trio.sleep(0.0008)  # the first of its answers gets out
        made.cluster.freeze(OTHER)
        assert (await producer.end(waiting))[0] == NONE


async def test_a_late_answer_is_told_to_a_leadership_that_has_begun_meanwhile(
    autojump_clock: MockClock,
) -> None:
    async with two_coordinators("{},{}") as (made, producer, _, _):
        gate = made.gate()
        await trio.sleep(0.2)
        made.cluster.freeze(OTHER)
        waiting = producer.begin(BOUND + 1)  # has all be asked
        await trio.sleep(0.12)
        gate.forget()
        made.cluster.thaw(OTHER)
        await trio.sleep(0.01)
        made.cluster.freeze(OTHER)
        await trio.sleep(1.0)
        assert not gate.rule.is_known
        made.cluster.thaw(OTHER)
        await made.cluster.until(lambda: gate.rule.is_known, "it was told")
        assert (await producer.end(waiting))[0] == FULL
