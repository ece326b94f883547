"""Records that fail, against a whole broker, in virtual time."""

import os
import random
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest
import trio
from tests.support.memory_server import MemoryServer, memory_server
from trio.testing import MockClock

from penstock.client.metadata import TopicPartition
from penstock.consumer.consumer import Consumer
from penstock.consumer.dead_letters import RecordFailure, read_failure
from penstock.consumer.record import ConsumerRecord, Headers
from penstock.consumer.redrive import Redrive
from penstock.producer.producer import Producer

TOPIC, GROUP = "orders", "billing"
LIMIT_S = 10_000


def in_virtual_time(test: Callable[[MemoryServer], Awaitable[None]]) -> None:
    async def run() -> None:
        with trio.fail_after(LIMIT_S):
            async with memory_server(num_partitions="1") as server:
                await test(server)

    trio.run(run, clock=MockClock(autojump_threshold=0))


async def produce(server: MemoryServer, *values: bytes) -> None:
    async with Producer(server.bootstrap, server.client("shop")) as producer:
        for value in values:
            await producer.send(TOPIC, value, key=b"key of " + value, headers=[("own", value)])


async def all_of(server: MemoryServer, topic: str) -> list[ConsumerRecord]:
    async with Consumer(server.bootstrap, environment=server.client("looker")) as looker:
        return [record async for record in looker.read(topic)]


Hook = Callable[[], Awaitable[object]]


class Slow:
    """A producer before whose sends something happens, and after whose acks something happens before the caller is told."""

    def __init__(self, producer: Producer, ahead: Hook, behind: Hook) -> None:
        self._producer = producer
        self._ahead = ahead
        self._behind = behind
        self.partition_count = producer.partition_count

    async def send(
        self, topic: str, value: bytes | None, *, key: bytes | None = None, headers: Headers = ()
    ) -> None:
        await self._ahead()
        await self._producer.send(topic, value, key=key, headers=headers)
        await self._behind()


@asynccontextmanager
async def redriving(
    server: MemoryServer,
    name: str = "member",
    *,
    ahead: Hook = trio.lowlevel.checkpoint,
    behind: Hook = trio.lowlevel.checkpoint,
    group: str = GROUP,
    reset: str = "earliest",
    **options: object,
) -> AsyncGenerator[Redrive]:
    environment = server.client(name)
    consumer = Consumer(
        server.bootstrap,
        environment=environment,
        group=group,
        auto_offset_reset=reset,  # type: ignore[arg-type]
        session_timeout_ms=6_000,
    )
    async with (
        consumer,
        Producer(server.bootstrap, environment) as producer,
        Redrive(consumer, Slow(producer, ahead, behind), TOPIC, **options) as redrive,  # type: ignore[arg-type]
    ):
        yield redrive


def test_a_record_that_fails_holds_up_others_or_is_tried_too_often_or_too_early() -> None:
    async def run(server: MemoryServer) -> None:
        tries: list[tuple[bytes | None, float]] = []
        began_s = trio.current_time()
        began_ms = server.clock.wall_ms()

        async def handle(record: ConsumerRecord) -> None:
            tries.append((record.value, trio.current_time() - began_s))
            assert (record.topic, record.partition) == (TOPIC, 0)
            assert record.headers == (("own", record.value),)
            assert record.key == b"key of " + (record.value or b"")
            if record.value == b"bad":
                raise ValueError(f"try {len(tries)}")

        await produce(server, b"one", b"bad", b"two", b"three")
        async with redriving(server, delays_s=(10, 100)) as redrive:
            with trio.move_on_after(115):
                await redrive.run(handle)
            statistics = redrive.statistics()
            assert (statistics.done_count, statistics.retried_count, statistics.dead_count) == (3, 2, 1)
        assert [value for value, _ in tries] == [b"one", b"bad", b"two", b"three", b"bad", b"bad"]
        first_s, second_s, third_s = (at_s for value, at_s in tries if value == b"bad")
        assert 10 <= second_s - first_s < 11
        assert 100 <= third_s - second_s < 101
        (dead,) = await all_of(server, "orders.dlq")
        assert (dead.key, dead.value, dead.headers[0]) == (b"key of bad", b"bad", ("own", b"bad"))
        original = (await all_of(server, TOPIC))[1]
        told = read_failure(dead.headers)
        assert told is not None
        first_ms = told.first_failure_ms
        assert first_ms == pytest.approx(began_ms + first_s * 1000, abs=100)
        assert told == RecordFailure(
            topic=TOPIC,
            partition=0,
            offset=1,
            timestamp_ms=original.timestamp_ms,
            group=GROUP,
            attempts=3,
            first_failure_ms=first_ms,
            exception_class="ValueError",
            exception_message="try 6",
        )

    in_virtual_time(run)


def test_many_failures_are_retried_out_of_order_or_fetched_over_and_over() -> None:
    async def run(server: MemoryServer) -> None:
        values = [b"%d" % number for number in range(40)]
        tries: list[bytes | None] = []

        async def handle(record: ConsumerRecord) -> None:
            tries.append(record.value)
            await trio.sleep(0.05)
            if len(tries) <= len(values):
                raise ValueError

        await produce(server, *values)
        with trio.move_on_after(12):
            async with redriving(server, delays_s=[5]) as redrive:
                await redrive.run(handle)
        assert tries == values * 2

    in_virtual_time(run)


@pytest.mark.parametrize(("is_acked", "after_s"), [(False, 1), (False, 12), (True, 0)])
def test_a_kill_between_failure_and_commit_loses_the_record(is_acked: bool, after_s: int) -> None:
    """Not sent: nobody has it elsewhere, so it must come again, however long it takes. Acked: it may be there twice."""

    async def run(server: MemoryServer) -> None:
        async def fail(record: ConsumerRecord) -> None:
            raise ValueError

        async def die() -> None:
            await trio.sleep(after_s)  # automatic commits come after five
            server.hosts["first"].freeze()
            await trio.sleep_forever()

        await produce(server, b"bad")
        with trio.move_on_after(30):
            hooks = {"behind" if is_acked else "ahead": die}
            async with redriving(server, "first", delays_s=[1], **hooks) as redrive:  # type: ignore[arg-type]
                await redrive.run(fail)
        server.hosts["first"].crash()
        assert len(await all_of(server, "orders.retry.1")) == int(is_acked)
        done: list[bytes | None] = []

        async def handle(record: ConsumerRecord) -> None:
            done.append(record.value)

        with trio.move_on_after(55):
            async with redriving(server, "second", delays_s=[1]) as redrive:
                await redrive.run(handle)
        assert done == [b"bad"] * (1 + is_acked)

    in_virtual_time(run)


def test_what_failed_before_a_group_had_offsets_of_the_retry_topic_is_skipped() -> None:
    async def run(server: MemoryServer) -> None:
        done: list[bytes | None] = []

        async def fail(record: ConsumerRecord) -> None:
            raise ValueError

        async def handle(record: ConsumerRecord) -> None:
            done.append(record.value)

        await produce(server, b"bad")
        with trio.move_on_after(3.5):
            async with redriving(server, "first", delays_s=[100]) as redrive:
                with trio.move_on_after(3):
                    await redrive.run(fail)
                server.hosts["first"].freeze()
        server.hosts["first"].crash()
        assert len(await all_of(server, "orders.retry.1")) == 1
        async with Consumer(server.bootstrap, group=GROUP, environment=server.client("x")) as looker:
            assert (await looker.committed([TopicPartition("orders.retry.1", 0)])) == {
                TopicPartition("orders.retry.1", 0): None
            }
        with trio.move_on_after(105):
            async with redriving(server, "second", reset="latest", delays_s=[100]) as redrive:
                await redrive.run(handle)
        assert done == [b"bad"]

    in_virtual_time(run)


def test_a_group_retries_what_failed_for_another() -> None:
    async def run(server: MemoryServer) -> None:
        tries: list[str] = []

        async def work(group: str) -> None:
            async with redriving(server, group, group=group, delays_s=[5]) as redrive:
                async for attempt in redrive:
                    async with attempt:
                        tries.append(group)
                        if group == "ill" and not attempt.is_last:
                            raise ValueError

        await produce(server, b"one")
        with trio.move_on_after(12):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(work, "well")
                nursery.start_soon(work, "ill")
        assert sorted(tries) == ["ill", "ill", "well"]

    in_virtual_time(run)


def test_what_can_never_work_is_tried_again() -> None:
    async def run(server: MemoryServer) -> None:
        async def handle(record: ConsumerRecord) -> None:
            raise UnicodeDecodeError("utf-8", b"", 0, 1, "nonsense")

        await produce(server, b"bad")
        async with redriving(server, dead_at_once=(ValueError,)) as redrive:
            with trio.move_on_after(10):
                await redrive.run(handle)
            assert redrive.statistics().dead_count == 1
        assert await all_of(server, "orders.retry.1") == []

    in_virtual_time(run)


def test_a_record_whose_work_was_cancelled_is_committed_or_sent_to_retry() -> None:
    async def run(server: MemoryServer) -> None:
        done: list[bytes | None] = []
        await produce(server, b"one", b"two")
        async with redriving(server, "first") as redrive:
            with trio.move_on_after(20):
                async for attempt in redrive:
                    async with attempt as record:
                        if record.value == b"two":
                            await trio.sleep_forever()
        assert redrive.statistics().retried_count == 0
        with trio.move_on_after(12):
            async with redriving(server, "second") as redrive:
                async for attempt in redrive:
                    with trio.CancelScope() as scope:
                        async with attempt as record:
                            done.append(record.value)
                            if len(done) == 1:
                                scope.cancel()
                                await trio.lowlevel.checkpoint()
                    if scope.cancelled_caught:
                        break
        assert done == [b"two"]
        with trio.move_on_after(12):
            async with redriving(server, "third") as redrive:
                async for attempt in redrive:
                    with trio.move_on_after(1):
                        async with attempt as record:
                            done.append(record.value)
                            await trio.sleep(2 if len(done) < 4 else 0.5)
        assert done == [b"two"] * 4
        assert redrive.statistics().done_count == 1

    in_virtual_time(run)


def test_an_attempt_that_was_left_out_counts_as_done() -> None:
    async def run(server: MemoryServer) -> None:
        async def leave_out(count: int) -> None:
            async with redriving(server) as redrive:
                for _ in range(count):
                    await anext(redrive)

        await produce(server, b"one")
        with pytest.raises(RuntimeError, match="left out"):
            await leave_out(2)
        with pytest.raises(RuntimeError, match="left out"):
            await leave_out(1)
        async with redriving(server) as redrive, await anext(redrive) as record:
            assert record.offset == 0
        with pytest.raises(RuntimeError, match="async with"):
            await anext(redrive)

    in_virtual_time(run)


@pytest.mark.parametrize(
    ("options", "topics", "delays_s", "message"),
    [
        ({}, ["t"], [1], "a group"),
        ({"group": "g", "auto_commit": False}, ["t"], [1], "auto_commit"),
        ({"group": "g"}, [], [1], "topics"),
        ({"group": "g"}, ["t"], [-1], "delays_s"),
    ],
)
def test_a_redrive_that_would_lose_records_is_made(
    options: dict[str, object], topics: list[str], delays_s: list[float], message: str
) -> None:
    consumer = Consumer("localhost", **options)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=message):
        Redrive(consumer, Producer("localhost"), *topics, delays_s=delays_s)


CHURNS = int(os.environ.get("REDRIVE_CHURNS", "1"))


@pytest.mark.parametrize("seed", range(CHURNS))
def test_members_that_come_go_and_die_lose_a_record_that_failed(seed: int) -> None:
    chance = random.Random(seed)
    values = [b"%d" % number for number in range(40)]
    done: set[bytes | None] = set()

    async def handle(record: ConsumerRecord) -> None:
        await trio.sleep(chance.random() * 0.1)
        if record.value in values[::10] or chance.random() < 0.3:
            raise ValueError
        done.add(record.value)

    async def live(server: MemoryServer, name: str) -> None:
        async with redriving(server, name, delays_s=(1, 5)) as redrive:
            with trio.move_on_after(chance.uniform(1, 15)):
                await redrive.run(handle)
            if chance.random() < 0.5:
                server.hosts[name].freeze()
        server.hosts[name].crash()

    async def live_again(server: MemoryServer, name: str) -> None:
        for life in range(3):
            await live(server, f"{name}{life}")

    async def run(server: MemoryServer) -> None:
        await produce(server, *values)
        async with trio.open_nursery() as nursery:
            for name in ("one", "two"):
                nursery.start_soon(live_again, server, name)
        async with redriving(server, delays_s=(1, 5)) as redrive:
            with trio.move_on_after(60):  # the dead are out of the group after 6 s
                await redrive.run(handle)
        dead = {record.value for record in await all_of(server, "orders.dlq")}
        assert done | dead == set(values)
        assert dead >= set(values[::10])

    in_virtual_time(run)
