"""One consumer of a group against a whole broker with a topic of a hundred records, in virtual time."""

from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import trio
from tests.support.memory_server import MemoryServer, memory_server
from trio.testing import MockClock

from penstock.client.admin import Admin
from penstock.client.admin_values import NewTopic
from penstock.client.metadata import TopicPartition
from penstock.consumer.consumer import Consumer
from penstock.producer.producer import Producer

TOPIC, GROUP, TP = "t", "g", TopicPartition("t", 0)
PROTOCOLS = ("classic", "consumer")
LIMIT_S = 120.0


def in_virtual_time(test: Callable[..., Awaitable[None]], protocol: str | None = None) -> None:
    """Run it with a server that has a topic of a hundred records."""

    async def run() -> None:
        with trio.fail_after(LIMIT_S):
            async with filled_server() as server:
                await (test(server) if protocol is None else test(server, protocol))

    trio.run(run, clock=MockClock(autojump_threshold=0))


@asynccontextmanager
async def filled_server() -> AsyncGenerator[MemoryServer]:
    async with memory_server(
        group_consumer_heartbeat_interval_ms="1000", group_consumer_min_heartbeat_interval_ms="1000"
    ) as server:
        async with Admin(server.bootstrap, server.client("admin")) as admin:
            await admin.create_topics([NewTopic(name=TOPIC, partition_count=1)])
        async with Producer(server.bootstrap, server.client("producer")) as producer:
            await producer.send_many(TOPIC, [b"%d" % number for number in range(100)])
        yield server


@asynccontextmanager
async def member(server: MemoryServer, protocol: Any = "classic", **options: Any) -> AsyncGenerator[Consumer]:
    options.setdefault("environment", server.client("member"))
    consumer = Consumer(
        server.bootstrap,
        TOPIC,
        group=GROUP,
        group_protocol=protocol,
        auto_offset_reset="earliest",
        **options,
    )
    async with consumer:
        yield consumer


async def committed(server: MemoryServer) -> int | None:
    async with Consumer(server.bootstrap, group=GROUP, environment=server.client("looker")) as looker:
        found = (await looker.committed([TP]))[TP]
    return None if found is None else found.offset


async def take_two(consumer: Consumer) -> None:
    """Done with the first, and the second in hand."""
    assert [(await anext(consumer)).offset for _ in range(2)] == [0, 1]
