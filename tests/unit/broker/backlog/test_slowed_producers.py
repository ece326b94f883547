"""Producers at a full backlog, over connections: held, stopped by TCP, throttled. A whole server in virtual time."""

import itertools
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio
from tests.support.batches import encode_batch
from tests.support.memory_server import HOST, PORT, MemoryServer, memory_server
from trio.testing import MockClock

from penstock.client.admin import Admin
from penstock.client.admin_values import NewTopic
from penstock.client.connection import Connection, ConnectionSettings, open_connection
from penstock.protocol.api import ApiKey
from penstock.protocol.codec import decode_response, encode_request
from penstock.protocol.errors import ErrorCode
from penstock.protocol.message import Message

NONE, TIMED_OUT = ErrorCode.NONE, ErrorCode.REQUEST_TIMED_OUT
PRODUCE_VERSION = 9
BOUND = 100


class Client:
    """A client with a connection of its own."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection

    async def commit(self, offset: int) -> None:
        """Commit for group "g"."""
        partitions = [Message(partition_index=0, committed_offset=offset)]
        topics = [Message(name="orders", partitions=partitions)]
        request = Message(group_id="g", topics=topics)
        answer = await self.connection.request(ApiKey.OFFSET_COMMIT, request, at_most=8)
        assert answer.topics[0].partitions[0].error_code == 0

    def begin(self, count: int, *, topic: str = "orders", size: int = 10, timeout_ms: int = 20_000) -> Any:
        """Send a batch, and wait for nothing."""
        data = [Message(index=0, records=encode_batch([bytes(size)] * count, timestamps_ms=[0] * count))]
        topics = [Message(name=topic, partition_data=data)]
        body = encode_request(
            ApiKey.PRODUCE, PRODUCE_VERSION, Message(acks=-1, timeout_ms=timeout_ms, topic_data=topics)
        )
        return self.connection.begin(ApiKey.PRODUCE, PRODUCE_VERSION, [body])

    async def end(self, pending: Any) -> tuple[int, int]:
        """The code of what was begun, and the throttle time that was told."""
        body = await self.connection.finish(pending, ApiKey.PRODUCE, PRODUCE_VERSION)
        answer = decode_response(ApiKey.PRODUCE, PRODUCE_VERSION, body)
        return answer.responses[0].partition_responses[0].error_code, answer.throttle_time_ms

    async def produce(self, count: int, **more: Any) -> tuple[int, int]:
        """Send a batch, and wait."""
        return await self.end(self.begin(count, **more))


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
        await client.connection.request(ApiKey.FIND_COORDINATOR, Message(coordinator_keys=["g"]), at_most=4)
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
