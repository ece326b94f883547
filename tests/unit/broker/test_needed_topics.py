"""A broker that is not the controller gets the topics that it needs all the same."""

import trio
from tests.support.machine_cluster import MemoryCluster, server_cluster
from trio.testing import MockClock

from penstock.protocol.api import ApiKey
from penstock.protocol.errors import ErrorCode
from penstock.protocol.message import Message

GROUP = 0


async def ask_for(cluster: MemoryCluster, node_id: int, topic: str) -> Message:
    answer = await cluster.ask(
        node_id,
        ApiKey.METADATA,
        12,
        topics=[Message(topic_id=bytes(16), name=topic)],
        allow_auto_topic_creation=True,
        include_topic_authorized_operations=False,
    )
    described: Message = answer.topics[0]
    return described


async def test_a_topic_is_made_by_asking_any_broker_for_it(autojump_clock: MockClock) -> None:
    async with server_cluster(1, 2, num_partitions="4", default_replication_factor="2") as cluster:
        topic = await ask_for(cluster, 2, "orders")
        assert (topic.error_code, len(topic.partitions)) == (ErrorCode.NONE, 4)
        assert {len(p.replica_nodes) for p in topic.partitions} == {2}


async def test_the_coordinator_is_found_by_asking_any_broker_for_it(autojump_clock: MockClock) -> None:
    async with server_cluster(1, 2, 3, offsets_topic_num_partitions="6") as cluster:
        answer = await cluster.ask(3, ApiKey.FIND_COORDINATOR, 4, key_type=GROUP, coordinator_keys=["g"])
        assert answer.coordinators[0].error_code == ErrorCode.NONE
        states = cluster.states("__consumer_offsets", seen_by=3)
        assert [len(state.replicas) for state in states] == [3] * 6
        configs = cluster.broker(3).image.topic_configs("__consumer_offsets")
        assert configs["cleanup.policy"] == "compact"


async def test_the_offsets_topic_is_not_made_before_its_replicas_have_brokers(
    autojump_clock: MockClock,
) -> None:
    async with server_cluster(1, 2) as cluster:
        answer = await cluster.ask(2, ApiKey.FIND_COORDINATOR, 4, key_type=GROUP, coordinator_keys=["g"])
        assert answer.coordinators[0].error_code == ErrorCode.COORDINATOR_NOT_AVAILABLE
        assert "2 broker(s) are registered" in answer.coordinators[0].error_message
        await cluster.start(3)
        answer = await cluster.ask(2, ApiKey.FIND_COORDINATOR, 4, key_type=GROUP, coordinator_keys=["g"])
        assert answer.coordinators[0].error_code == ErrorCode.NONE


async def test_two_brokers_that_are_asked_at_once_make_one_topic(autojump_clock: MockClock) -> None:
    async with server_cluster(1, 2, 3) as cluster:
        found: list[Message] = []

        async def ask(node_id: int) -> None:
            found.append(await ask_for(cluster, node_id, "orders"))

        async with trio.open_nursery() as nursery:
            for node_id in (1, 2, 3):
                nursery.start_soon(ask, node_id)
        assert [topic.error_code for topic in found] == [0, 0, 0]
        assert len({topic.topic_id for topic in found}) == 1


async def test_clients_can_not_shape_the_offsets_topic(autojump_clock: MockClock) -> None:
    async with server_cluster(1) as cluster:
        answer = await cluster.ask(
            1,
            ApiKey.CREATE_TOPICS,
            7,
            topics=[
                Message(
                    name="__consumer_offsets",
                    num_partitions=1,
                    replication_factor=1,
                    assignments=[],
                    configs=[],
                )
            ],
            timeout_ms=1000,
            validate_only=False,
        )
        assert answer.topics[0].error_code == ErrorCode.INVALID_REQUEST
