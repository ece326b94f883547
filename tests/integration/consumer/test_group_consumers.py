"""Consumers of a group, whole: records, commits and rebalances, of both protocols, against a real broker."""

from typing import Any

import pytest
import trio
from tests.support.processes import RunningServer
from tests.support.topics import create_topic, fresh_name, produce_values
from tests.support.wire import Connection, connect

from penstock.client.metadata import TopicPartition
from penstock.consumer.consumer import Consumer
from penstock.consumer.record import ConsumerRecord

LIMIT_S = 40
PROTOCOLS = ("classic", "consumer")


async def take(consumer: Consumer, count: int) -> list[ConsumerRecord]:
    """The next `count` records."""
    return [await anext(consumer) for _ in range(count)]


@pytest.mark.parametrize("protocol", PROTOCOLS)
async def test_a_group_goes_on_where_it_stopped(
    server: RunningServer, connection: Connection, protocol: str
) -> None:
    topic, group = create_topic(connection, "goes-on", partitions=2), fresh_name("group")
    for index in range(2):
        produce_values(connection, topic, *[b"%d" % number for number in range(5)], partition=index)
    options: dict[str, Any] = {"group": group, "group_protocol": protocol, "auto_offset_reset": "earliest"}
    async with Consumer(server.bootstrap, topic, **options) as consumer:
        found = await take(consumer, 7)
    async with Consumer(server.bootstrap, topic, **options) as consumer:
        found += await take(consumer, 3)
        places = [(record.partition, record.offset) for record in found]
        assert sorted(places) == [(p, o) for p in range(2) for o in range(5)]
        await consumer.commit()
        partitions = [TopicPartition(topic, index) for index in range(2)]
        committed = await consumer.committed(partitions)
        assert [place and place.offset for place in committed.values()] == [5, 5]


@pytest.mark.parametrize("protocol", PROTOCOLS)
async def test_a_rebalance_waits_for_the_record_in_hand(group_server: RunningServer, protocol: str) -> None:
    server, group = group_server, fresh_name("group")
    with connect(server.bootstrap) as connection:
        topic = create_topic(connection, "in-hand", partitions=2)
        for index in range(2):
            produce_values(connection, topic, *[b"%d" % number for number in range(50)], partition=index)
    options: dict[str, Any] = {"group": group, "group_protocol": protocol, "auto_offset_reset": "earliest"}
    options |= {"heartbeat_interval_ms": 100, "session_timeout_ms": 6000}
    seen: dict[tuple[int, int], list[str]] = {}
    done = trio.Event()

    async def work(name: str, started: trio.Event) -> None:
        async with Consumer(server.bootstrap, topic, **options) as consumer:
            async for record in consumer:
                started.set()
                seen.setdefault((record.partition, record.offset), []).append(name)
                await trio.sleep(0.02)
                if len(seen) == 100:
                    done.set()

    async with trio.open_nursery() as nursery:
        first, second = trio.Event(), trio.Event()
        nursery.start_soon(work, "first", first)
        await first.wait()
        nursery.start_soon(work, "second", second)
        await done.wait()
        nursery.cancel_scope.cancel()
    assert {name for names in seen.values() for name in names} == {"first", "second"}
    assert [place for place, names in seen.items() if len(names) > 1] == [], "processed twice"


async def test_callbacks_may_commit_and_seek(server: RunningServer, connection: Connection) -> None:
    topic, group = create_topic(connection, "callbacks"), fresh_name("group")
    produce_values(connection, topic, *[b"%d" % number for number in range(10)])
    calls: list[str] = []

    async def assigned(partitions: frozenset[TopicPartition]) -> None:
        calls.append("assigned")
        for partition in partitions:
            consumer.seek(partition, 4)

    async def revoked(partitions: frozenset[TopicPartition]) -> None:
        calls.append("revoked")
        await consumer.commit()

    consumer = Consumer(
        server.bootstrap, topic, group=group, auto_commit=False, on_assigned=assigned, on_revoked=revoked
    )
    async with consumer:
        assert [record.offset for record in await take(consumer, 2)] == [4, 5]
    assert calls == ["assigned", "revoked"]
    async with Consumer(server.bootstrap, group=group) as other:
        committed = await other.committed([TopicPartition(topic, 0)])
        found = committed[TopicPartition(topic, 0)]
        assert found is not None
        assert found.offset == 6


async def test_an_error_in_the_block_does_not_commit_the_record_in_hand(
    server: RunningServer, connection: Connection
) -> None:
    topic, group = create_topic(connection, "error"), fresh_name("group")
    produce_values(connection, topic, *[b"%d" % number for number in range(10)])
    options: dict[str, Any] = {"group": group, "auto_offset_reset": "earliest"}

    async def fail_at_the_fourth() -> None:
        async with Consumer(server.bootstrap, topic, **options) as consumer:
            async for record in consumer:
                if record.offset == 3:
                    raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await fail_at_the_fourth()
    async with Consumer(server.bootstrap, topic, **options) as consumer:
        assert (await take(consumer, 1))[0].offset == 3


async def test_who_is_stuck_loses_its_partitions_and_comes_back(
    server: RunningServer, connection: Connection
) -> None:
    topic, group = create_topic(connection, "stuck"), fresh_name("group")
    produce_values(connection, topic, *[b"%d" % number for number in range(4)])
    lost = trio.Event()

    async def on_lost(partitions: frozenset[TopicPartition]) -> None:
        lost.set()

    options: dict[str, Any] = {"group": group, "auto_offset_reset": "earliest", "max_poll_interval_ms": 1000}
    more: dict[str, Any] = {"on_lost": on_lost, "heartbeat_interval_ms": 200, "session_timeout_ms": 6000}
    async with Consumer(server.bootstrap, topic, **options, **more) as consumer:
        first = await anext(consumer)
        await lost.wait()
        assert not consumer.assignment
        again = await anext(consumer)
        assert (first.offset, again.offset) == (0, 0), "nothing was committed of what was in hand"
