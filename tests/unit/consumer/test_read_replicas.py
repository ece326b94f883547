"""Reading from the replica in one's own rack on whole brokers (KIP-392): it is read from, it is left when it dies, and it is come back to."""

import trio
from tests.support.machine_cluster import MemoryCluster, server_cluster
from trio.testing import MockClock

from penstock import Consumer, Producer

RACKS = {
    "broker_rack": "rack-{node}",
    "replica_selector_class": "org.apache.kafka.common.replica.RackAwareReplicaSelector",
    "broker_session_timeout_ms": "3000",
    "broker_heartbeat_interval_ms": "500",
}


async def send(cluster: MemoryCluster, *values: bytes) -> None:
    """Records for "orders", acked."""
    async with Producer(cluster.bootstrap, environment=cluster.client("client")) as producer:
        await producer.send_many("orders", list(values), partition=0)


async def read(consumer: Consumer, count: int) -> list[bytes | None]:
    """The next values."""
    with trio.fail_after(60):
        return [(await anext(consumer)).value for _ in range(count)]


def node_of(consumer: Consumer) -> int:
    """Which broker it fetches from."""
    (state,) = consumer._state.partitions.values()  # pyright: ignore[reportPrivateUsage]
    return state.node_id(trio.current_time())


async def test_the_replica_of_the_rack_is_read_and_left_when_it_dies(autojump_clock: MockClock) -> None:
    async with server_cluster(1, 2, 3, **RACKS) as cluster:
        await cluster.create("orders", (1, 2, 3))
        await send(cluster, b"a", b"b")
        async with Consumer(
            cluster.bootstrap,
            "orders",
            environment=cluster.client("client"),
            auto_offset_reset="earliest",
            rack="rack-3",
        ) as consumer:
            assert await read(consumer, 2) == [b"a", b"b"]
            assert node_of(consumer) == 3
            await send(cluster, b"c")
            assert await read(consumer, 1) == [b"c"]
            cluster.cut(3)
            await send(cluster, b"d")
            assert await read(consumer, 1) == [b"d"]
            assert node_of(consumer) == 1
            cluster.mend(3)


async def test_without_a_rack_or_in_the_leaders_own_the_leader_is_read(autojump_clock: MockClock) -> None:
    async with server_cluster(1, 2, 3, **RACKS) as cluster:
        await cluster.create("orders", (1, 2, 3))
        await send(cluster, b"a")
        for rack in (None, "rack-1", "elsewhere"):
            async with Consumer(
                cluster.bootstrap,
                "orders",
                environment=cluster.client("client"),
                auto_offset_reset="earliest",
                rack=rack,
            ) as consumer:
                assert await read(consumer, 1) == [b"a"]
                assert node_of(consumer) == 1
