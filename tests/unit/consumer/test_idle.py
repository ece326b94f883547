"""What a consumer costs while nothing happens, in virtual time against a whole broker."""

import trio
from tests.support.memory_server import memory_server
from trio.testing import MockClock

from penstock.client.admin import Admin
from penstock.client.admin_values import NewTopic
from penstock.consumer.consumer import Consumer

IDLE_S = 100
LONG_POLLS_A_SECOND = 2
"""`fetch_max_wait_ms` is 500."""


async def idle_requests(group: str | None) -> int:
    async with memory_server() as server:
        async with Admin(server.bootstrap, server.client("admin")) as admin:
            await admin.create_topics([NewTopic(name="idle", partition_count=4)])
        reader = Consumer(server.bootstrap, "idle", group=group, environment=server.client("reader"))
        async with reader as consumer:
            with trio.move_on_after(5):
                await anext(consumer)
            before = consumer.fetch_request_count
            with trio.move_on_after(IDLE_S) as idle:
                await anext(consumer)
            assert idle.cancelled_caught
            return consumer.fetch_request_count - before


def test_an_idle_consumer_asks_for_no_more_than_its_long_polls() -> None:
    for group in (None, "readers"):
        count = trio.run(idle_requests, group, clock=MockClock(autojump_threshold=0))
        assert LONG_POLLS_A_SECOND * IDLE_S - 5 <= count <= LONG_POLLS_A_SECOND * IDLE_S + 5
