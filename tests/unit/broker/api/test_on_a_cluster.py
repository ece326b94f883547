"""What several brokers answer together: each by its own image, and of what it leads only."""

from typing import Any

import pytest
import trio
from tests.support.machine_cluster import MemoryCluster, server_cluster
from trio.testing import MockClock

from penstock import Producer
from penstock.broker.partition import Partition
from penstock.client.admin import Admin
from penstock.client.admin_values import HIGH_WATERMARK, LATEST, FoundOffset
from penstock.client.connection import Connection, ConnectionSettings, open_connection
from penstock.client.errors import BrokerError
from penstock.client.metadata import TopicPartition
from penstock.protocol.api import ApiKey
from penstock.protocol.errors import ErrorCode
from penstock.protocol.message import Message

PLACE = TopicPartition("orders", 0)
SHORT: dict[str, str] = {"broker_session_timeout_ms": "3000", "broker_heartbeat_interval_ms": "500"}


async def connect(cluster: MemoryCluster, node_id: int, nursery: trio.Nursery) -> Connection:
    """A client's connection to one broker."""
    network = cluster.client("client").network
    return await open_connection(nursery, network, f"10.0.0.{node_id}", 9092, ConnectionSettings())


async def produce(cluster: MemoryCluster, count: int) -> None:
    """Records for "orders", acked."""
    async with Producer(cluster.bootstrap, environment=cluster.client("client")) as producer:
        await producer.send_many("orders", [b"%d" % number for number in range(count)], partition=0)


def replica(cluster: MemoryCluster, node_id: int) -> Partition:
    """A broker's replica of "orders"."""
    found = cluster.partition(node_id, "orders")
    assert found is not None
    return found


def starts(cluster: MemoryCluster) -> list[int]:
    """Where the logs of "orders" begin."""
    return [
        replica(cluster, node).log.log_start_offset
        for node, member in cluster.members.items()
        if member.broker is not None
    ]


async def test_deleted_records_are_gone_on_all_replicas_when_that_is_answered(
    autojump_clock: MockClock,
) -> None:
    async with server_cluster(1, 2, 3, **SHORT) as cluster:
        await cluster.create("orders", (1, 2, 3))
        await produce(cluster, 10)
        async with Admin(cluster.bootstrap, cluster.client("client")) as admin:
            assert await admin.delete_records({PLACE: 4}) == {PLACE: 4}
            assert starts(cluster) == [4, 4, 4]
            began = trio.current_time()
            assert await admin.delete_records({PLACE: HIGH_WATERMARK}) == {PLACE: 10}
            assert trio.current_time() - began < 0.7, "followers are told at once"
            assert starts(cluster) == [10, 10, 10]


async def test_deletion_of_records_waits_for_no_dead_replica_and_not_for_ever_for_a_lame_one(
    autojump_clock: MockClock,
) -> None:
    async with server_cluster(1, 2, 3, **SHORT) as cluster:
        await cluster.create("orders", (1, 2, 3))
        await produce(cluster, 10)
        lame = cluster.members[3].process
        assert lame is not None
        lame.threads.hold("write_log_starts")
        async with trio.open_nursery() as nursery:
            connection = await connect(cluster, 1, nursery)
            partition = Message(partition_index=0, offset=4)
            request = Message(topics=[Message(name="orders", partitions=[partition])], timeout_ms=3_000)
            answer = await connection.request(ApiKey.DELETE_RECORDS, request)
            assert answer.topics[0].partitions[0].error_code == ErrorCode.REQUEST_TIMED_OUT
            cluster.cut(3)  # dead, once its session has ended
            await trio.sleep(4)
            answer = await connection.request(ApiKey.DELETE_RECORDS, request)
            assert (answer.topics[0].partitions[0].error_code, starts(cluster)[:2]) == (0, [4, 4])
            nursery.cancel_scope.cancel()


async def test_every_broker_tells_leaders_replicas_and_who_is_offline(autojump_clock: MockClock) -> None:
    async with server_cluster(1, 2, 3, **SHORT) as cluster:
        await cluster.create("orders", (3, 1, 2))
        await produce(cluster, 1)
        await cluster.stop(3)

        async def told(node: int) -> tuple[Any, ...]:
            async with trio.open_nursery() as nursery:
                connection = await connect(cluster, node, nursery)
                request = Message(topics=[Message(name="orders")])
                answer = await connection.request(ApiKey.METADATA, request)
                nursery.cancel_scope.cancel()
            (partition,) = answer.topics[0].partitions
            return (
                sorted(broker.node_id for broker in answer.brokers),
                answer.controller_id,
                partition.leader_id in (1, 2),
                partition.leader_epoch,
                sorted(partition.isr_nodes),
                list(partition.replica_nodes),
                list(partition.offline_replicas),
            )

        first = await told(1)
        assert first == await told(2)
        assert first[0] == [1, 2]
        assert first[1] in (1, 2)
        assert first[2:] == (True, 1, [1, 2], [3, 1, 2], [3])


async def test_only_the_leader_answers_for_offsets_and_epochs(autojump_clock: MockClock) -> None:
    async with server_cluster(1, 2, 3, **SHORT) as cluster:
        await cluster.create("orders", (1, 2, 3))
        await produce(cluster, 5)
        async with trio.open_nursery() as nursery:
            for node, code in ((1, 0), (2, ErrorCode.NOT_LEADER_OR_FOLLOWER)):
                connection = await connect(cluster, node, nursery)
                asked = Message(partition_index=0, timestamp=-1, current_leader_epoch=0)
                request = Message(replica_id=-1, topics=[Message(name="orders", partitions=[asked])])
                answer = await connection.request(ApiKey.LIST_OFFSETS, request)
                assert answer.topics[0].partitions[0].error_code == code
                epoch = Message(partition=0, current_leader_epoch=0, leader_epoch=0)
                request = Message(replica_id=-1, topics=[Message(topic="orders", partitions=[epoch])])
                answer = await connection.request(ApiKey.OFFSET_FOR_LEADER_EPOCH, request)
                assert answer.topics[0].partitions[0].error_code == code
            nursery.cancel_scope.cancel()
        async with Admin(cluster.bootstrap, cluster.client("client")) as admin:
            found = await admin.list_offsets({PLACE: LATEST})
            assert found == {PLACE: FoundOffset(5, -1, 0)}


async def test_a_replica_tells_how_much_it_lacks(autojump_clock: MockClock) -> None:
    async with server_cluster(1, 2, 3, **SHORT) as cluster:
        await cluster.create("orders", (1, 2, 3))
        await produce(cluster, 5)

        async def lags() -> list[int]:
            found: list[int] = []
            async with trio.open_nursery() as nursery:
                for node in cluster.members:
                    connection = await connect(cluster, node, nursery)
                    answer = await connection.request(ApiKey.DESCRIBE_LOG_DIRS, Message(topics=None))
                    (topic,) = [each for each in answer.results[0].topics if each.name == "orders"]
                    found.append(topic.partitions[0].offset_lag)
                nursery.cancel_scope.cancel()
            return found

        await cluster.until(lambda: replica(cluster, 3).machine.told_high_watermark == 5, "told")
        assert await lags() == [0, 0, 0]
        replica(cluster, 3).machine.told_high_watermark = 9
        assert await lags() == [0, 0, 4]


async def test_a_coordinator_that_is_cut_off_answers_no_offset_that_others_may_have_replaced(
    autojump_clock: MockClock,
) -> None:
    settings = {**SHORT, "offsets_topic_num_partitions": "1", "offsets_topic_replication_factor": "3"}
    async with server_cluster(1, 2, 3, **settings) as cluster:
        await cluster.create("orders", (1, 2, 3))
        async with Admin(cluster.bootstrap, cluster.client("client")) as admin:
            await admin.alter_group_offsets("g", {PLACE: 1})
            old = cluster.leader("__consumer_offsets")
            zombie = cluster.broker(old).groups
            assert zombie.shard("g").groups["g"].offsets.get("orders", 0) is not None
            cluster.cut(old)
            await cluster.until(
                lambda: cluster.leader("__consumer_offsets") not in (-1, old), "another leads"
            )
            outcomes = await admin.alter_group_offsets("g", {PLACE: 2})
            assert not any(isinstance(outcome, BrokerError) for outcome in outcomes.values())
            assert zombie.shards(), "it does not know of any other"
            with pytest.raises(Exception, match="NOT_COORDINATOR"):
                zombie.shard("g")
            cluster.mend(old)
