"""The producer while its broker is killed, stopped, started again and frozen."""

import os
import signal
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import pytest
import trio
from tests.faults.conftest import StartServer
from tests.support.clients import librdkafka
from tests.support.processes import IS_KAFKA, RunningServer
from tests.support.topics import create_topic
from tests.support.wire import connect

from penstock.client.errors import DeliveryTimedOut
from penstock.producer.producer import Producer

LIMIT_S = 120
RESTARTS = 1 if IS_KAFKA else 3


@pytest.fixture
def server(start_server: StartServer) -> RunningServer:
    return start_server()


def topic_of(server: RunningServer, stem: str) -> str:
    with connect(server.bootstrap) as connection:
        return create_topic(connection, stem)


@pytest.mark.parametrize("compression", ["none", "zstd"])
async def test_a_kill_mid_stream_loses_doubles_or_reorders_a_record(
    compression: str, server: RunningServer
) -> None:
    topic = topic_of(server, "kill")
    count = 0
    is_over = False

    async def feed(producer: Producer) -> None:
        nonlocal count
        while not is_over:
            await producer.enqueue(topic, b"%08d" % count * 20)
            count += 1
            if count % 50 == 0:
                await trio.sleep(0.001)

    async def restart() -> None:
        nonlocal is_over
        for _ in range(RESTARTS):
            await trio.sleep(0.4)
            await trio.to_thread.run_sync(server.kill)
            await trio.to_thread.run_sync(server.start)
        await trio.sleep(0.2)
        is_over = True

    with trio.fail_after(LIMIT_S):
        async with Producer(server.bootstrap, compression=compression, batch_size_bytes=8_000) as producer:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(feed, producer)
                nursery.start_soon(restart)
            last = await producer.send(topic, b"last")
    assert last.offset == count
    expected = [*(b"%08d" % number * 20 for number in range(count)), b"last"]
    assert librdkafka.consume(server.bootstrap, topic, count + 1) == expected


async def test_a_clean_restart_under_send_many_loses_nothing(server: RunningServer) -> None:
    topic = topic_of(server, "stop")
    values = [b"%08d" % number for number in range(300_000)]
    with trio.fail_after(LIMIT_S):
        async with (
            Producer(server.bootstrap, batch_size_bytes=4_000) as producer,
            trio.open_nursery() as nursery,
        ):
            await producer.send_many(topic, values[:1000])

            async def restart() -> None:
                await trio.to_thread.run_sync(server.stop)
                await trio.to_thread.run_sync(server.start)

            nursery.start_soon(restart)
            result = await producer.send_many(topic, values[1000:])
    assert result.record_count == len(values) - 1000
    assert librdkafka.consume(server.bootstrap, topic, len(values)) == values


@asynccontextmanager
async def frozen(server: RunningServer) -> AsyncGenerator[None]:
    os.kill(server.pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(server.pid, signal.SIGCONT)


async def test_a_frozen_broker_holds_the_producer_back_and_records_time_out(server: RunningServer) -> None:
    topic = topic_of(server, "frozen")
    memory_bytes = 200_000
    with trio.fail_after(LIMIT_S):
        async with Producer(
            server.bootstrap,
            buffer_memory_bytes=memory_bytes,
            batch_size_bytes=20_000,
            delivery_timeout_ms=1500,
            request_timeout_ms=1000,
        ) as producer:
            first = await producer.send(topic, b"first")
            async with frozen(server):
                taken = [await producer.enqueue(topic, b"x" * 1000) for _ in range(100)]
                with trio.move_on_after(0.3) as held:
                    for _ in range(1000):
                        taken.append(await producer.enqueue(topic, b"y" * 1000))
                assert held.cancelled_caught, "nothing held the producer back"
                assert len(taken) < memory_bytes / 1000
                with pytest.raises(DeliveryTimedOut) as late:
                    await taken[0].wait()
                assert late.value.may_be_delivered
                with pytest.raises(DeliveryTimedOut):
                    await taken[-1].wait()
            after = await producer.send(topic, b"after")
            with pytest.raises(DeliveryTimedOut):  # those that nobody waited for
                await producer.flush()
    values = librdkafka.consume(server.bootstrap, topic, after.offset + 1)
    assert first.offset == 0
    assert values[-1] == b"after"
    assert values[0] == b"first"
    assert len(values) <= len(taken) + 2, "a record is there twice"


async def test_a_broker_that_is_away_is_waited_for(server: RunningServer) -> None:
    topic = topic_of(server, "away")
    with trio.fail_after(LIMIT_S):
        async with Producer(server.bootstrap) as producer:
            await producer.send(topic, b"before")
            await trio.to_thread.run_sync(server.kill)
            deliveries = [await producer.enqueue(topic, b"%d" % number) for number in range(100)]
            await trio.to_thread.run_sync(server.start)
            offsets = [(await delivery.wait()).offset for delivery in deliveries]
    assert offsets == list(range(1, 101))
