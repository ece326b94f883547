"""ElectLeaders, AlterPartitionReassignments, ListPartitionReassignments, UnregisterBroker: asked of whole brokers of a cluster."""

from collections.abc import Sequence
from typing import Any

import pytest
import trio
from tests.support.machine_cluster import MemoryCluster, server_cluster
from trio.testing import MockClock

from penstock.broker import keys
from penstock.protocol.api import ApiKey
from penstock.protocol.errors import ErrorCode
from penstock.protocol.message import Message
from penstock.runtime.metadata import Put

PREFERRED, UNCLEAN = 0, 1


async def until(cluster: MemoryCluster, topic: str, seen_by: int = 1, **wanted: Any) -> None:
    """Wait until a broker sees partition 0 so."""
    watch = cluster.broker(seen_by).watch
    with trio.fail_after(60):
        while any(getattr(cluster.states(topic, seen_by=seen_by)[0], k) != v for k, v in wanted.items()):
            await watch.wait_for(watch.image.revision + 1)


async def put_state(cluster: MemoryCluster, topic: str, state: keys.PartitionState) -> None:
    """Make partition 0 look so, whatever brokers do."""
    found = cluster.broker(1).image.topic(topic)
    assert found is not None
    key = keys.partition_key(found.topic_id, 0)
    result = await cluster.store.transact([], [Put(key, keys.encode_partition(state))])
    await cluster.broker(1).watch.wait_for(result.revision)


async def elect(
    cluster: MemoryCluster, election_type: int, topic: str | None, *, node_id: int = 1, version: int = 2
) -> Message:
    topics = None if topic is None else [Message(topic=topic, partitions=[0, 7])]
    fields = {"topic_partitions": topics, "timeout_ms": 1000}
    if version > 0:
        fields["election_type"] = election_type
    return await cluster.ask(node_id, ApiKey.ELECT_LEADERS, version, **fields)


def codes(answer: Message) -> dict[tuple[str, int], int]:
    return {
        (topic.topic, result.partition_id): result.error_code
        for topic in answer.replica_election_results
        for result in topic.partition_result
    }


@pytest.mark.parametrize("version", [0, 1, 2])
async def test_a_preferred_election_moves_leadership(version: int, autojump_clock: MockClock) -> None:
    async with server_cluster(1, 2, auto_leader_rebalance_enable="false") as cluster:
        await cluster.create("led", (2, 1))
        await put_state(cluster, "led", keys.PartitionState((2, 1), (2, 1), 1, 5))
        answer = await elect(cluster, PREFERRED, "led", version=version)
        assert codes(answer) == {("led", 0): 0, ("led", 7): ErrorCode.UNKNOWN_TOPIC_OR_PARTITION}
        assert cluster.states("led", seen_by=1)[0].leader == 2
        answer = await elect(cluster, PREFERRED, "led", version=version)
        assert codes(answer)["led", 0] == ErrorCode.ELECTION_NOT_NEEDED


async def test_an_election_of_all_partitions_names_those_that_changed(autojump_clock: MockClock) -> None:
    async with server_cluster(1, 2, auto_leader_rebalance_enable="false") as cluster:
        await cluster.create("as-it-should-be", (1, 2))
        await cluster.create("led", (2, 1))
        await put_state(cluster, "led", keys.PartitionState((2, 1), (2, 1), 1, 5))
        assert codes(await elect(cluster, PREFERRED, None)) == {("led", 0): 0}


async def test_elections_that_can_not_be_had(autojump_clock: MockClock) -> None:
    async with server_cluster(1, 2, auto_leader_rebalance_enable="false") as cluster:
        await cluster.create("led", (2, 1))
        await cluster.create("gone", (2,))
        await cluster.stop(2)
        await until(cluster, "gone", leader=-1)
        answer = await elect(cluster, PREFERRED, "led")
        assert codes(answer)["led", 0] == ErrorCode.PREFERRED_LEADER_NOT_AVAILABLE
        answer = await elect(cluster, UNCLEAN, "led")
        assert codes(answer)["led", 0] == ErrorCode.ELECTION_NOT_NEEDED
        answer = await elect(cluster, UNCLEAN, "gone")
        assert codes(answer)["gone", 0] == ErrorCode.ELIGIBLE_LEADERS_NOT_AVAILABLE
        assert (await elect(cluster, 9, "led")).error_code == ErrorCode.INVALID_REQUEST


async def test_an_unclean_election_is_had_when_it_is_asked_for(autojump_clock: MockClock) -> None:
    async with server_cluster(1, 2) as cluster:
        await cluster.create("lost", (1, 2))
        await put_state(cluster, "lost", keys.PartitionState((1, 9), (9,), -1, 5))
        assert codes(await elect(cluster, UNCLEAN, "lost"))["lost", 0] == 0
        assert cluster.states("lost", seen_by=1)[0].isr == (1,)


async def test_only_the_controller_takes_elections_and_reassignments(autojump_clock: MockClock) -> None:
    async with server_cluster(1, 2) as cluster:
        await cluster.create("t", (1, 2))
        answer = await elect(cluster, PREFERRED, "t", node_id=2)
        assert answer.error_code == ErrorCode.NOT_CONTROLLER
        assert codes(answer)["t", 0] == ErrorCode.NOT_CONTROLLER
        answer = await reassign(cluster, (2, 1), node_id=2)
        assert answer.error_code == ErrorCode.NOT_CONTROLLER


async def reassign(
    cluster: MemoryCluster,
    target: Sequence[int] | None,
    *,
    node_id: int = 1,
    version: int = 1,
    may_change_factor: bool = True,
) -> Message:
    topics = [Message(name="t", partitions=[Message(partition_index=0, replicas=target)])]
    return await cluster.ask(
        node_id,
        ApiKey.ALTER_PARTITION_REASSIGNMENTS,
        version,
        timeout_ms=1000,
        topics=topics,
        **({"allow_replication_factor_change": may_change_factor} if version else {}),
    )


def code(answer: Message) -> int:
    assert answer.error_code == 0
    return int(answer.responses[0].partitions[0].error_code)


async def listed(cluster: MemoryCluster, *names: str, node_id: int = 1) -> list[Message]:
    topics = [Message(name=name, partition_indexes=[0]) for name in names] or None
    answer = await cluster.ask(
        node_id, ApiKey.LIST_PARTITION_REASSIGNMENTS, 0, timeout_ms=1000, topics=topics
    )
    assert answer.error_code == 0
    return list(answer.topics)


@pytest.mark.parametrize("version", [0, 1])
async def test_a_partition_moves_to_other_brokers(version: int, autojump_clock: MockClock) -> None:
    async with server_cluster(1, 2, 3) as cluster:
        await cluster.create("t", (1, 2))
        assert code(await reassign(cluster, (3, 2), version=version)) == 0
        await until(cluster, "t", replicas=(3, 2), isr=(3, 2), adding_replicas=(), removing_replicas=())
        assert cluster.states("t", seen_by=1)[0].leader in (2, 3)
        assert await listed(cluster) == []


async def test_moves_under_way_are_listed_by_any_broker_and_can_be_cancelled(
    autojump_clock: MockClock,
) -> None:
    async with server_cluster(1, 2, 3) as cluster:
        await cluster.create("t", (1, 2))
        await cluster.create("still", (1, 2))
        await put_state(cluster, "t", keys.PartitionState((9, 2, 1), (1, 2), 1, 0, (9,), (1,)))
        await until(cluster, "t", seen_by=2, adding_replicas=(9,))  # 9 is dead, so it stays under way
        for topics in ((), ("t", "still", "none")):
            (topic,) = await listed(cluster, *topics, node_id=2)
            moving = topic.partitions[0]
            assert (topic.name, moving.replicas) == ("t", [9, 2, 1])
            assert (moving.adding_replicas, moving.removing_replicas) == ([9], [1])
        assert code(await reassign(cluster, None)) == 0
        assert await listed(cluster) == []
        assert code(await reassign(cluster, None)) == ErrorCode.NO_REASSIGNMENT_IN_PROGRESS


@pytest.mark.parametrize(
    ("target", "error"),
    [
        ((), ErrorCode.INVALID_REPLICA_ASSIGNMENT),
        ((1, 1), ErrorCode.INVALID_REPLICA_ASSIGNMENT),
        ((1, -2), ErrorCode.INVALID_REPLICA_ASSIGNMENT),
        ((1, 77), ErrorCode.INVALID_REPLICA_ASSIGNMENT),
        ((1,), ErrorCode.INVALID_REPLICATION_FACTOR),
    ],
)
async def test_targets_that_make_no_sense_are_refused(
    target: tuple[int, ...], error: ErrorCode, autojump_clock: MockClock
) -> None:
    async with server_cluster(1, 2) as cluster:
        await cluster.create("t", (1, 2))
        assert code(await reassign(cluster, target, may_change_factor=False)) == error
        assert cluster.states("t", seen_by=1)[0].replicas == (1, 2)


async def unregister(cluster: MemoryCluster, node_id: int, *, asks: int = 1) -> int:
    answer = await cluster.ask(asks, ApiKey.UNREGISTER_BROKER, 0, broker_id=node_id)
    return int(answer.error_code)


@pytest.mark.parametrize("asks", [1, 2])
async def test_what_a_dead_broker_has_left_is_removed(asks: int, autojump_clock: MockClock) -> None:
    async with server_cluster(1, 2) as cluster:
        await cluster.create("t", (1, 2), min_insync_replicas="2")
        state = keys.PartitionState((1, 2, 9), (1,), 1, 0, eligible_leader_replicas=(9,))
        await put_state(cluster, "t", state)
        configs = keys.encode_configs({"log.retention.ms": "1000"})
        result = await cluster.store.transact([], [Put(keys.broker_configs_key(9), configs)])
        await cluster.broker(1).watch.wait_for(result.revision)
        assert await unregister(cluster, 9, asks=asks) == 0
        assert 9 not in cluster.states("t", seen_by=1)[0].eligible_leader_replicas
        assert cluster.broker(1).image.broker_configs(9) == {}


async def test_a_live_broker_and_one_that_never_was_are_not_unregistered(autojump_clock: MockClock) -> None:
    async with server_cluster(1, 2) as cluster:
        assert await unregister(cluster, 2) == ErrorCode.INVALID_REQUEST
        assert await unregister(cluster, 9) == ErrorCode.BROKER_ID_NOT_REGISTERED


async def test_partitions_are_described_with_their_eligible_leader_replicas(
    autojump_clock: MockClock,
) -> None:
    async with server_cluster(1, 2, 3) as cluster:
        await cluster.create("t", (1, 2), min_insync_replicas="2")
        await cluster.stop(2)
        await until(cluster, "t", isr=(1,))
        answer = await cluster.ask(
            3,
            ApiKey.DESCRIBE_TOPIC_PARTITIONS,
            0,
            topics=[Message(name="t")],
            response_partition_limit=10,
            cursor=None,
        )
        partition = answer.topics[0].partitions[0]
        assert (partition.isr_nodes, partition.eligible_leader_replicas) == ([1], [2])


async def test_a_broker_that_is_starting_is_told_to_nobody_who_would_wait_for_it(
    autojump_clock: MockClock,
) -> None:
    async with server_cluster(1) as cluster:
        value = keys.BrokerRegistration(
            "a", {"PLAINTEXT": keys.Endpoint("h", 1)}, None, "d", is_fenced=True, is_starting=True
        )
        result = await cluster.store.transact([], [Put(keys.broker_key(2), keys.encode_broker(value))])
        await cluster.broker(1).watch.wait_for(result.revision)
        answer = await cluster.ask(1, ApiKey.METADATA, 9, topics=[])
        assert [broker.node_id for broker in answer.brokers] == [1]
        for asks, told in ((False, {1: False}), (True, {1: False, 2: True})):
            answer = await cluster.ask(1, ApiKey.DESCRIBE_CLUSTER, 2, include_fenced_brokers=asks)
            assert {broker.broker_id: broker.is_fenced for broker in answer.brokers} == told
