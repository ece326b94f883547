"""Consumers with a pace against a whole broker, in virtual time."""

from collections import Counter
from collections.abc import Awaitable, Callable

import pytest
import trio
from tests.support.memory_server import MemoryServer, memory_server
from trio.testing import MockClock

from penstock.client.admin import Admin
from penstock.client.admin_values import NewTopic
from penstock.client.metadata import TopicPartition
from penstock.consumer.consumer import Consumer
from penstock.producer.producer import Producer

TOPIC, GROUP = "t", "g"
RECORDS_OF_EACH = 2000
LIMIT_S = 10_000


def in_virtual_time(test: Callable[[MemoryServer], Awaitable[None]]) -> None:
    """Run it with a server that has a topic of three partitions with 2000 records each."""

    async def run() -> None:
        with trio.fail_after(LIMIT_S):
            async with memory_server() as server:
                async with Admin(server.bootstrap, server.client("admin")) as admin:
                    await admin.create_topics([NewTopic(name=TOPIC, partition_count=3)])
                async with Producer(
                    server.bootstrap, server.client("producer"), batch_size_bytes=4000
                ) as producer:
                    for index in range(3):
                        values = [b"%d" % number for number in range(RECORDS_OF_EACH)]
                        await producer.send_many(TOPIC, values, partition=index)
                await test(server)

    trio.run(run, clock=MockClock(autojump_threshold=0))


def member(server: MemoryServer, name: str = "member", **options: object) -> Consumer:
    given: dict[str, object] = {"group": GROUP, "auto_offset_reset": "earliest", **options}
    return Consumer(server.bootstrap, TOPIC, environment=server.client(name), **given)  # type: ignore[arg-type]


def test_the_rate_holds_for_each_partition_instead_of_all_together() -> None:
    async def run(server: MemoryServer) -> None:
        seen: Counter[int] = Counter()
        async with member(server, max_records_per_second=100) as consumer:
            first = await anext(consumer)
            began_s, elapsed_s = trio.current_time(), 0.0
            seen[first.partition] += 1
            async for record in consumer:
                seen[record.partition] += 1
                elapsed_s = trio.current_time() - began_s
                assert seen.total() <= 100 * elapsed_s + 10
                if seen.total() == 900:
                    break
            assert elapsed_s == pytest.approx(8.9, rel=0.01)
        assert set(seen) == {0, 1, 2}
        assert min(seen.values()) >= 200, "partitions take turns"

    in_virtual_time(run)


def test_batches_come_faster_than_the_rate() -> None:
    async def run(server: MemoryServer) -> None:
        async with member(server, max_records_per_second=1000, burst_records=500) as consumer:
            sizes = [len(await consumer.next_batch())]
            began_s = trio.current_time()
            assert sizes == [500]
            while sum(sizes) < 2500:
                sizes.append(len(await consumer.next_batch()))
            assert trio.current_time() - began_s == pytest.approx(2, rel=0.02)
            assert len(sizes) <= 230, "hundred wakes a second, not one for each record"

    in_virtual_time(run)


def test_a_paced_read_of_a_small_piece_decodes_the_whole_batch_again() -> None:
    async def run(server: MemoryServer) -> None:
        async with member(server, max_records_per_second=50) as consumer:
            batch = await consumer.next_batch()
            again = await consumer.next_batch()
            assert again.raws[0] is batch.raws[0]
            assert again.raws[0].decoded is not None
            assert again.values() == [record.value for record in again]
            assert [record.offset for record in again] == list(range(batch.next_offset, again.next_offset))

    in_virtual_time(run)


def test_a_slow_consumer_holds_minutes_of_records_in_memory() -> None:
    async def run(server: MemoryServer) -> None:
        async with member(server, max_records_per_second=10, partition_fetch_max_bytes=4096) as consumer:
            most_bytes = 0
            for _ in range(100):
                await anext(consumer)
                most_bytes = max(most_bytes, consumer.buffered_bytes)
        assert 0 < most_bytes <= 3 * 4096, "one answer for each partition, and no second one beside it"

    in_virtual_time(run)


def test_a_member_that_waits_for_its_pace_is_put_out_of_the_group() -> None:
    async def run(server: MemoryServer) -> None:
        lost: list[object] = []

        async def on_lost(partitions: frozenset[TopicPartition]) -> None:
            lost.append(partitions)

        async with member(
            server,
            max_records_per_second=0.01,
            max_poll_interval_ms=10_000,
            session_timeout_ms=6000,
            on_lost=on_lost,
        ) as consumer:
            assert (await anext(consumer)).offset == 0
            assert (await anext(consumer)).offset == 1
            assert not lost
            assert len(consumer.assignment) == 3

    in_virtual_time(run)


def test_a_rebalance_waits_for_a_member_that_waits_for_its_pace() -> None:
    async def run(server: MemoryServer) -> None:
        async def take(consumer: Consumer) -> None:
            async for _ in consumer:
                pass

        async with trio.open_nursery() as nursery, member(server, max_records_per_second=0.001) as slow:
            await anext(slow)
            nursery.start_soon(take, slow)
            await trio.sleep(1)
            async with member(server, "second") as second:
                with trio.fail_after(10):
                    await anext(second)
            nursery.cancel_scope.cancel()

    in_virtual_time(run)


def test_closing_waits_for_the_pace() -> None:
    async def run(server: MemoryServer) -> None:
        ended: list[str] = []

        async def take(consumer: Consumer) -> None:
            try:
                await anext(consumer)
            except RuntimeError as error:
                ended.append(str(error))

        began_s = 0.0
        async with trio.open_nursery() as nursery, member(server, max_records_per_second=0.001) as consumer:
            await anext(consumer)
            nursery.start_soon(take, consumer)
            await trio.sleep(1)
            began_s = trio.current_time()
        assert ended == ["the consumer is closed"]
        assert trio.current_time() - began_s < 2

    in_virtual_time(run)


def test_breaking_off_a_loop_costs_the_pace_of_records_that_nobody_saw() -> None:
    async def run(server: MemoryServer) -> None:
        async with member(server, max_records_per_second=1, burst_records=100) as consumer:
            await anext(consumer)
            began_s = trio.current_time()
            for _ in range(50):
                async for _ in consumer:
                    break
                consumer.pause_all()
                consumer.resume_all()
            assert trio.current_time() - began_s < 1

    in_virtual_time(run)


def test_a_paced_read_runs_free() -> None:
    async def run(server: MemoryServer) -> None:
        async with member(server, group=None, max_records_per_second=1000) as consumer:
            reading = consumer.read(TOPIC, partitions=[0], end=1000)
            count, began_s = 0, trio.current_time()
            async for _ in reading:
                count += 1
            assert count == 1000
            assert trio.current_time() - began_s == pytest.approx(0.9, rel=0.1)

    in_virtual_time(run)


def test_more_is_in_flight_than_allowed_or_it_stays_so_after_a_commit() -> None:
    async def run(server: MemoryServer) -> None:
        done: list[int] = []
        began_s = 0.0
        async with (
            member(server, max_in_flight=50, auto_commit=False) as consumer,
            trio.open_nursery() as nursery,
        ):

            async def commit_late() -> None:
                while True:
                    await trio.sleep(3)
                    await consumer.commit()

            nursery.start_soon(commit_late)
            async for record in consumer:
                done.append(record.offset)
                if len(done) == 50:
                    began_s = trio.current_time()
                if len(done) == 51:
                    assert trio.current_time() - began_s > 1
                if len(done) == 250:
                    break
            assert trio.current_time() - began_s == pytest.approx(12, abs=4)
            nursery.cancel_scope.cancel()

    in_virtual_time(run)


def test_who_commits_what_was_handed_out_waits_for_ever_all_the_same() -> None:
    async def run(server: MemoryServer) -> None:
        async with member(server, max_in_flight=7, auto_commit=False) as consumer:
            with trio.fail_after(60):
                for _ in range(30):
                    batch = await consumer.next_batch()
                    assert len(batch) <= 7
                    await consumer.commit({batch.topic_partition: batch.next_offset})

    in_virtual_time(run)


def test_automatic_commits_hold_up_a_bounded_flight_for_their_interval() -> None:
    async def run(server: MemoryServer) -> None:
        async with member(server, max_in_flight=100, auto_commit_interval_ms=60_000) as consumer:
            count = 0
            with trio.fail_after(20):
                async for _ in consumer:
                    count += 1
                    if count == 1000:
                        break

    in_virtual_time(run)


def test_losing_or_seeking_leaves_records_in_flight_for_ever() -> None:
    async def run(server: MemoryServer) -> None:
        async with member(server, max_in_flight=10, auto_commit=False) as consumer:
            batch = await consumer.next_batch()
            assert len(batch) == 10
            consumer.seek(batch.topic_partition, 100)
            with trio.fail_after(5):
                await consumer.next_batch()
            await consumer.unsubscribe()
            consumer.subscribe(TOPIC)
            with trio.fail_after(60):
                await consumer.next_batch()

    in_virtual_time(run)


def test_pausing_all_lets_new_partitions_through() -> None:
    async def run(server: MemoryServer) -> None:
        async with member(server) as consumer:
            await anext(consumer)
            consumer.pause_all()
            assert consumer.paused == consumer.assignment != frozenset()
            async with member(server, "second") as second:
                await anext(second)
                with trio.move_on_after(20):
                    await anext(consumer)
            with trio.move_on_after(60) as waited:
                await anext(consumer)
            assert waited.cancelled_caught
            assert len(consumer.assignment) == 3
            consumer.resume_all()
            assert not consumer.paused
            with trio.fail_after(5):
                await anext(consumer)

    in_virtual_time(run)


def test_a_user_as_slow_as_the_refill_sees_one_partition_alone() -> None:
    async def run(server: MemoryServer) -> None:
        seen: Counter[int] = Counter()
        async with member(server, partition_fetch_max_bytes=1024, prefetch_max_bytes=1 << 20) as consumer:
            for _ in range(12):
                batch = await consumer.next_batch(max_records=100)
                seen[batch.partition] += 1
                await trio.sleep(0.5)
        assert len(seen) == 3

    in_virtual_time(run)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_records_per_second": 0}, "max_records_per_second"),
        ({"max_records_per_second": float("inf")}, "max_records_per_second"),
        ({"max_records_per_second": float("nan")}, "max_records_per_second"),
        ({"burst_records": 5}, "burst_records"),
        ({"max_records_per_second": 5, "burst_records": 0}, "burst_records"),
        ({"max_in_flight": 0, "group": GROUP}, "max_in_flight"),
        ({"max_in_flight": 1}, "without a group"),
    ],
)
def test_a_pace_that_makes_no_sense_stops_a_consumer_silently(
    options: dict[str, object], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        Consumer("localhost", **options)  # type: ignore[arg-type]
