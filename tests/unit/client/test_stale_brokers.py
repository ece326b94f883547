"""A broker that is cut off from the metadata store goes on telling clients what was true before: they get away from it, though they began there."""

import trio
from tests.support.machine_cluster import MemoryCluster, server_cluster
from trio.testing import MockClock

from penstock import Consumer, Producer
from penstock.client.admin import Admin
from penstock.client.metadata import TopicPartition

SETTINGS = {
    "broker_session_timeout_ms": "3000",
    "broker_heartbeat_interval_ms": "500",
    "offsets_topic_num_partitions": "1",
    "offsets_topic_replication_factor": "3",
}
PLACE = TopicPartition("orders", 0)


def only(node_id: int) -> str:
    """The address of one broker."""
    return f"10.0.0.{node_id}:9092"


async def lose_leader(cluster: MemoryCluster, topic: str) -> int:
    """Cut the leader off from the store; returns who it was when another leads."""
    leader = cluster.leader(topic)
    cluster.lose_store(leader)
    await cluster.until(lambda: cluster.leader(topic) not in (-1, leader), "another leads")
    return leader


async def test_producer_and_consumer_leave_a_leader_that_does_not_know_that_it_is_none(
    autojump_clock: MockClock,
) -> None:
    async with server_cluster(1, 2, 3, **SETTINGS) as cluster:
        await cluster.create("orders", (1, 2, 3))
        environment = cluster.client("client")
        async with (
            Producer(only(1), environment=environment) as producer,
            Consumer(only(1), "orders", environment=environment, auto_offset_reset="earliest") as consumer,
        ):
            await producer.send("orders", b"a", partition=0)
            assert (await anext(consumer)).value == b"a"
            assert await lose_leader(cluster, "orders") == 1
            with trio.fail_after(10):
                await producer.send("orders", b"b", partition=0)
            with trio.fail_after(10):
                assert (await anext(consumer)).value == b"b"
        cluster.mend(1)


async def test_commits_leave_a_coordinator_that_does_not_know_that_it_is_none(
    autojump_clock: MockClock,
) -> None:
    async with server_cluster(1, 2, 3, **SETTINGS) as cluster:
        await cluster.create("orders", (1, 2, 3))
        async with Admin(cluster.bootstrap, cluster.client("client")) as admin:
            await admin.alter_group_offsets("g", {PLACE: 1})
        coordinator = cluster.leader("__consumer_offsets")
        async with Admin(only(coordinator), cluster.client("client")) as admin:
            await admin.list_group_offsets("g", [PLACE])
            assert await lose_leader(cluster, "__consumer_offsets") == coordinator
            with trio.fail_after(10):
                assert await admin.alter_group_offsets("g", {PLACE: 2}) == {PLACE: None}
            found = await admin.list_group_offsets("g", [PLACE])
            assert getattr(found[PLACE], "offset", None) == 2
        cluster.mend(coordinator)
