"""Producers at a full backlog, over connections: held, stopped by TCP, throttled. A whole server in virtual time."""

import itertools
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio
from tests.support.backlog_clients import Client
from tests.support.memory_server import HOST, PORT, MemoryServer, memory_server
from trio.testing import MockClock

from penstock.client.admin import Admin
from penstock.client.admin_values import ConfigChange, ConfigResource, NewTopic, ResourceKind
from penstock.client.connection import ConnectionSettings, open_connection
from penstock.protocol.errors import ErrorCode

NONE, TIMED_OUT = ErrorCode.NONE, ErrorCode.REQUEST_TIMED_OUT
BOUND = 100


class Scene:
    """A server with the bounded topic "orders" and another, and those who connect to it."""

    def __init__(self, server: MemoryServer, nursery: trio.Nursery) -> None:
        self.server = server
        self._nursery = nursery

    async def client(self, nursery: trio.Nursery | None = None) -> Client:
        """A new one; it lives in that nursery, if one is given."""
        network = self.server.client(f"client-{len(self.server.hosts)}").network
        return Client(
            await open_connection(nursery or self._nursery, network, HOST, PORT, ConnectionSettings())
        )

    @property
    def end_offset(self) -> int:
        """Of the bounded topic."""
        assert self.server.broker is not None
        partition = self.server.broker.partitions.by_name("orders", 0)
        assert partition is not None
        return partition.log.log_end_offset


@asynccontextmanager
async def scene(policy: str, **properties: Any) -> AsyncGenerator[Scene]:
    """Group "g" has committed 0, and nothing is produced yet."""
    async with (
        memory_server(write_caching="true", **properties) as server,
        trio.open_nursery() as nursery,
    ):
        async with Admin(server.bootstrap, server.client("admin")) as admin:
            configs = {
                "backlog.max.records": str(BOUND),
                "backlog.groups": "g",
                "backlog.policy": policy,
            }
            await admin.create_topics(
                [
                    NewTopic(name="orders", partition_count=1, configs=configs),
                    NewTopic(name="other", partition_count=1),
                ]
            )
        made = Scene(server, nursery)
        client = await made.client()
        await client.find_coordinator()
        await client.commit(0)
        yield made
        nursery.cancel_scope.cancel()


async def test_a_throttled_producer_comes_down_to_the_pace_of_its_consumer(autojump_clock: MockClock) -> None:
    async with scene("throttle") as made:
        producer, consumer = await made.client(), await made.client()
        assert await producer.produce(BOUND // 2) == (NONE, 0), "nothing below half of the bound"
        told: list[int] = []
        ends: list[int] = []
        waits: list[float] = []
        for second in range(1, 31):
            await consumer.commit(20 * second)
            end_of_second = trio.current_time() + 1
            while trio.current_time() < end_of_second:
                asked = trio.current_time()
                code, throttle_ms = await producer.produce(2)
                assert code == NONE
                waits.append(trio.current_time() - asked)
                told.append(throttle_ms)
            ends.append(made.end_offset - 20 * second)
        assert (made.end_offset - BOUND // 2) / 30 == pytest.approx(20, rel=0.15)
        assert max(ends) <= BOUND
        assert min(ends[5:]) >= BOUND // 2, "it is not slowed down more than the bound asks for"
        steps = [later - earlier for earlier, later in itertools.pairwise(told)]
        assert max(map(abs, steps)) <= 400, "smooth"
        assert max(waits) <= 1.01, "nobody waits at the bound"


async def test_pipelined_requests_cost_a_throttled_producer_each_its_time(autojump_clock: MockClock) -> None:
    async with scene("throttle") as made:
        producer = await made.client()
        await producer.produce(75)
        pending = [producer.begin(1) for _ in range(5)]
        asked = trio.current_time()
        told = [(await producer.end(one))[1] for one in pending]
        assert all(250 <= throttle_ms <= 400 for throttle_ms in told), told
        await producer.produce(1)
        assert trio.current_time() - asked == pytest.approx(sum(told) / 1000, abs=0.02)


async def test_a_policy_that_is_set_later_slows_nobody_down(autojump_clock: MockClock) -> None:
    async with scene("reject") as made:
        producer = await made.client()
        assert await producer.produce(75) == (NONE, 0)
        async with Admin(made.server.bootstrap, made.server.client("admin")) as admin:
            topic = ConfigResource(ResourceKind.TOPIC, "orders")
            change = ConfigChange("backlog.policy", "throttle")
            assert (await admin.alter_configs({topic: [change]})) == {topic: None}
        assert (await producer.produce(1))[1] > 0


async def test_who_waits_takes_no_more_than_the_budget_and_holds_up_nobody_else(
    autojump_clock: MockClock,
) -> None:
    async with scene("hold", backlog_held_max_bytes="20000") as made:
        producer, other, consumer = await made.client(), await made.client(), await made.client()
        assert await producer.produce(BOUND) == (NONE, 0)
        pending = [producer.begin(1, size=9_000) for _ in range(40)]
        await trio.sleep(1)
        assert made.server.broker is not None
        partition = made.server.broker.partitions.by_name("orders", 0)
        assert partition is not None
        assert partition.gate is not None
        held = partition.gate.held_bytes
        # at most what one read of the connection has brought is held beyond the budget
        assert 20_000 <= held.held_bytes <= 20_000 + 256 * 1024
        assert len(partition.gate.held) < 40
        assert await other.produce(5, topic="other") == (NONE, 0)
        assert await other.produce(1, topic="orders", timeout_ms=100) == (TIMED_OUT, 0)
        await consumer.commit(BOUND)
        assert [await producer.end(one) for one in pending] == [(NONE, 0)] * 40
        assert held.held_bytes == 0
        assert made.end_offset == BOUND + 40


async def test_a_stop_waits_for_nobody_who_waits_for_room(autojump_clock: MockClock) -> None:
    codes: list[int] = []

    async def tell(producer: Client, pending: Any) -> None:
        codes.append((await producer.end(pending))[0])

    async with trio.open_nursery() as outside:
        async with scene("hold") as made:
            producer = await made.client(outside)
            await producer.produce(BOUND)
            outside.start_soon(tell, producer, producer.begin(1))
            await trio.sleep(1)
            started = trio.current_time()
        assert trio.current_time() - started < 1
        await trio.sleep(1)
        outside.cancel_scope.cancel()
    assert codes == [TIMED_OUT]
