"""The consumer against a real broker: Penstock, or Apache Kafka with PENSTOCK_TEST_PEER=kafka."""

from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from contextlib import asynccontextmanager
from datetime import UTC, date, datetime, timedelta
from typing import Any

import pytest
import trio
import trio.testing
from tests.support.batches import encode_batch
from tests.support.clients import java, kcat, librdkafka
from tests.support.processes import RunningServer, running_server
from tests.support.topics import await_partitions, create_topic, fresh_name, produce, produce_values
from tests.support.wire import Connection, connect

from penstock.client.admin import Admin
from penstock.client.errors import UnknownTopic
from penstock.client.metadata import TopicPartition
from penstock.consumer.consumer import Consumer
from penstock.consumer.errors import NoInitialOffset, PositionOutOfRange
from penstock.consumer.record import ConsumerRecord
from penstock.protocol.record_batch import TimestampType

LIMIT_S = 30
QUIET_S = 0.3
DAY_MS = 86_400_000


@asynccontextmanager
async def reader(server: RunningServer, *topics: str, **given: Any) -> AsyncGenerator[Consumer]:
    """A consumer that begins at the beginning."""
    options: dict[str, Any] = dict(given)
    options.setdefault("auto_offset_reset", "earliest")
    async with Consumer(server.bootstrap, *topics, **options) as consumer:
        yield consumer


async def take(records: AsyncIterator[ConsumerRecord], count: int) -> list[ConsumerRecord]:
    """The next `count` records."""
    found: list[ConsumerRecord] = []
    with trio.fail_after(LIMIT_S):
        while len(found) < count:
            found.append(await anext(records))
    return found


def values(records: list[ConsumerRecord]) -> list[bytes | None]:
    return [record.value for record in records]


async def test_records_come_whole_and_in_order(server: RunningServer, connection: Connection) -> None:
    topic = create_topic(connection, "whole")
    produce(connection, topic, encode_batch([b"a", b"b"], key=b"k", timestamps_ms=[1000, 2000]))
    async with reader(server, topic) as consumer:
        first, second = await take(consumer, 2)
        assert first[:8] == (topic, 0, 0, 1000, TimestampType.CREATE_TIME, b"k", b"a", ())
        assert (second.offset, second.timestamp_ms, second.value) == (1, 2000, b"b")
        assert first.leader_epoch >= 0
        assert await consumer.position(TopicPartition(topic, 0)) == 2
        assert consumer.lag(TopicPartition(topic, 0)) == 0


async def test_a_record_produced_while_the_consumer_waits_comes_at_once(
    server: RunningServer, connection: Connection
) -> None:
    topic = create_topic(connection, "live", partitions=3)
    async with reader(server, topic) as consumer:
        produce_values(connection, topic, b"0")
        await take(consumer, 1)
        await trio.sleep(QUIET_S)  # the long poll is under way
        for index in (1, 2, 0):
            began = trio.current_time()
            produce_values(connection, topic, b"x", partition=index)
            assert (await take(consumer, 1))[0].partition == index
            assert trio.current_time() - began < 0.2


@pytest.mark.parametrize("codec", ["none", "gzip", "snappy", "lz4", "zstd"])
async def test_every_codec_of_every_client_is_read(
    server: RunningServer, connection: Connection, codec: str
) -> None:
    wanted = [b"line %d " % number * 20 for number in range(3000)]
    topic = create_topic(connection, f"codec-{codec}")
    await trio.to_thread.run_sync(librdkafka.produce, server.bootstrap, topic, wanted, codec)
    await trio.to_thread.run_sync(kcat.produce, server.bootstrap, topic, wanted[:100], codec)
    async with reader(server, topic) as consumer:
        assert values(await take(consumer, 3100)) == wanted + wanted[:100]


async def test_javas_batches_are_read(server: RunningServer, connection: Connection) -> None:
    topic = create_topic(connection, "java")
    wanted = [b"value %d" % number * 10 for number in range(1000)]
    for codec in ("lz4", "zstd"):
        await trio.to_thread.run_sync(java.produce, server.bootstrap, topic, wanted, codec)
    async with reader(server, topic) as consumer:
        assert values(await take(consumer, 2000)) == wanted * 2


async def test_batches_are_cut_where_they_were_asked_to_be(
    server: RunningServer, connection: Connection
) -> None:
    topic = create_topic(connection, "cut")
    produce_values(connection, topic, *[b"%d" % number for number in range(10)])
    async with reader(server, topic) as consumer:
        first = await consumer.next_batch(max_records=3)
        assert [record.offset for record in first] == [0, 1, 2]
        assert (first.next_offset, len(first)) == (3, 3)
        assert (await consumer.next_batch(max_records=1)).values() == [b"3"]
        rest = await consumer.next_batch()
        assert rest.values() == [record.value for record in rest] == [b"%d" % n for n in range(4, 10)]


async def test_a_batch_larger_than_the_fetch_size_comes_all_the_same(
    server: RunningServer, connection: Connection
) -> None:
    topic = create_topic(connection, "large")
    big = bytes(300_000)
    for _ in range(5):
        produce_values(connection, topic, big)
    limits: dict[str, Any] = {
        "partition_fetch_max_bytes": 1000,
        "prefetch_max_bytes": 100_000,
        "fetch_max_bytes": 1000,
    }
    async with reader(server, topic, **limits) as consumer:
        assert values(await take(consumer, 5)) == [big] * 5


async def test_prefetching_is_bounded(server: RunningServer, connection: Connection) -> None:
    topic = create_topic(connection, "bounded", partitions=4)
    for index in range(4):
        for _ in range(20):
            produce_values(connection, topic, bytes(100_000), partition=index)
    bound = 1_000_000
    async with reader(server, topic, prefetch_max_bytes=bound) as consumer:
        seen = 0
        found: set[tuple[int, int]] = set()
        while len(found) < 80:
            record = (await take(consumer, 1))[0]
            found.add((record.partition, record.offset))
            await trio.sleep(0.002)
            seen = max(seen, consumer.buffered_bytes)
        assert 0 < seen <= bound + 101_000


async def test_a_slow_partition_does_not_hold_up_a_busy_one(
    server: RunningServer, connection: Connection
) -> None:
    topic = create_topic(connection, "busy", partitions=2)
    for _ in range(40):
        produce_values(connection, topic, bytes(100_000))
    limits: dict[str, Any] = {"partition_fetch_max_bytes": 100_000, "fetch_max_wait_ms": 5_000}
    async with reader(server, topic, **limits) as consumer:
        began = trio.current_time()
        await take(consumer, 40)
        assert trio.current_time() - began < 4, "it waited for the long poll of the empty partition"


async def test_seek_pause_and_resume(server: RunningServer, connection: Connection) -> None:
    topic = create_topic(connection, "seek", partitions=2)
    for index in range(2):
        produce_values(connection, topic, *[b"%d" % number for number in range(10)], partition=index)
    first, second = TopicPartition(topic, 0), TopicPartition(topic, 1)
    async with reader(server) as consumer:
        consumer.assign([first, second])
        assert consumer.assignment == {first, second}
        consumer.pause(second)
        assert {record.partition for record in await take(consumer, 10)} == {0}
        consumer.seek(first, 7)
        assert [record.offset for record in await take(consumer, 3)] == [7, 8, 9]
        consumer.pause(first)
        consumer.resume(second)
        assert [(record.partition, record.offset) for record in await take(consumer, 4)] == [
            (1, 0), (1, 1), (1, 2), (1, 3),
        ]  # fmt: skip
        consumer.pause(second)
        assert consumer.paused == {first, second}
        with trio.move_on_after(QUIET_S) as waited:
            await anext(consumer)
        assert waited.cancelled_caught
        consumer.resume(second)
        assert [record.offset for record in await take(consumer, 6)] == [4, 5, 6, 7, 8, 9]
        consumer.seek_to_beginning(second)
        assert [record.offset for record in await take(consumer, 1)] == [0]
        consumer.seek_to_end(second)
        assert await consumer.position(second) == 10


async def test_times_are_looked_up(server: RunningServer, connection: Connection) -> None:
    topic = create_topic(connection, "times", configs={"retention.ms": "-1"})
    day = datetime(2015, 7, 29, tzinfo=UTC)
    start_ms = int(day.timestamp() * 1000)
    times = [start_ms + hour * 3_600_000 for hour in range(-24, 48)]
    for at in range(0, len(times), 6):
        produce(
            connection,
            topic,
            encode_batch([b"%d" % t for t in times[at : at + 6]], timestamps_ms=times[at : at + 6]),
        )
    partition = TopicPartition(topic, 0)
    async with reader(server) as consumer:
        found = await consumer.offsets_for_times({partition: day})
        assert found == {partition: 24}
        assert await consumer.offsets_for_times({partition: day + timedelta(days=9)}) == {partition: None}
        assert await consumer.beginning_offsets([partition]) == {partition: 0}
        assert await consumer.end_offsets([partition]) == {partition: 72}
        consumer.assign([partition])
        await consumer.seek_to_time(day + timedelta(hours=1))
        assert (await take(consumer, 1))[0].offset == 25
        read = consumer.read(topic, start=date(2015, 7, 29), end=date(2015, 7, 30))
        assert [record.offset async for record in read] == list(range(24, 48))
        with pytest.raises(ValueError, match="time zone"):
            consumer.read(topic, start=datetime(2015, 7, 29))
        assert await consumer.position(partition) == 26


async def test_a_read_by_time_finds_records_wherever_they_lie(
    server: RunningServer, connection: Connection
) -> None:
    topic = create_topic(connection, "unsorted", partitions=2, configs={"retention.ms": "-1"})
    day_ms = DAY_MS * 16_645  # 2015-07-29
    early, within, late = day_ms - 1, day_ms, day_ms + DAY_MS
    for times in ([early, within, late], [late], [early], [late - 1, early, within + 5], [late, late]):
        values = [b"%d" % time_ms for time_ms in times]
        produce(connection, topic, encode_batch(values, timestamps_ms=times), partition=1)
    async with reader(server) as consumer:
        read = consumer.read(topic, start=date(2015, 7, 29), end=date(2015, 7, 30))
        assert [(r.offset, r.value) async for r in read] == [
            (1, b"%d" % within),
            (5, b"%d" % (late - 1)),
            (7, b"%d" % (within + 5)),
        ]
        batches = consumer.read(topic, start=date(2015, 7, 29), end=date(2015, 7, 30)).batches()
        found = [batch async for batch in batches]
        assert sum(map(len, found)) == 3
        assert [v for batch in found for v in batch.values()] == [
            b"%d" % t for t in (within, late - 1, within + 5)
        ]
        from_the_day_on = [r.timestamp_ms async for r in consumer.read(topic, start=date(2015, 7, 29))]
        assert from_the_day_on == [within, late, late, late - 1, within + 5, late, late]


async def test_a_read_by_time_of_a_stamped_topic_ends_with_its_time(
    server: RunningServer, connection: Connection
) -> None:
    topic = create_topic(connection, "stamped", configs={"message.timestamp.type": "LogAppendTime"})
    produce_values(connection, topic, b"before")
    async with reader(server) as consumer:
        (before,) = [record async for record in consumer.read(topic)]
        await trio.sleep(0.005)  # the next one has a later timestamp
        for _ in range(3):
            produce_values(connection, topic, b"after")
        end = datetime.fromtimestamp(0, UTC) + timedelta(milliseconds=before.timestamp_ms + 1)
        read = consumer.read(topic, end=end)
        assert [record.value async for record in read] == [b"before"]


async def test_partitions_are_merged_by_time(server: RunningServer, connection: Connection) -> None:
    topic = create_topic(connection, "merged", partitions=12, configs={"retention.ms": "-1"})
    base_ms = DAY_MS * 16_645
    for index in range(11):  # the last one stays empty
        for part in range(4):
            times = [base_ms + 1000 * part + 7 * number + index for number in range(100)]
            batch = encode_batch([bytes(300)] * 100, timestamps_ms=times)
            produce(connection, topic, batch, partition=index)
    # Far less room than the partitions would fill: those that the merge waits for get theirs all the same.
    async with reader(server, prefetch_max_bytes=65_536, partition_fetch_max_bytes=32_768) as consumer:
        with trio.fail_after(LIMIT_S):
            read = consumer.read(topic, merge_by_time=True)
            places = [(r.timestamp_ms, r.partition, r.offset) async for r in read]
        assert len(places) == 11 * 400
        assert places == sorted(places)
        with trio.fail_after(LIMIT_S):
            start = datetime(2015, 7, 29, 0, 0, 1, tzinfo=UTC)
            read = consumer.read(topic, start=start, end=start + timedelta(seconds=1), merge_by_time=True)
            some = [(r.timestamp_ms, r.partition, r.offset) async for r in read]
        assert some == [place for place in places if 1000 <= place[0] - base_ms < 2000]
        with pytest.raises(RuntimeError, match="merged by time"):
            await consumer.read(topic, merge_by_time=True).next_batch()


async def test_a_read_ends_where_the_log_ended_when_it_began(
    server: RunningServer, connection: Connection
) -> None:
    topic = create_topic(connection, "bounds", partitions=3)
    for number in range(20):
        produce_values(connection, topic, b"%d" % number, b"x", partition=number % 2)
    async with reader(server) as consumer:
        read = consumer.read(topic)
        first = await anext(read)
        produce_values(connection, topic, b"later", partition=first.partition)
        rest = [record async for record in read]
        places = [(record.partition, record.offset) for record in [first, *rest]]
        assert sorted(places) == [(p, o) for p in range(2) for o in range(20)]
        with pytest.raises(StopAsyncIteration):
            await anext(read)
        some = consumer.read(topic, start={0: 5, 1: 19}, end={0: 7, 1: 1000}, partitions=[0, 1])
        assert sorted([(r.partition, r.offset) async for r in some]) == [(0, 5), (0, 6), (1, 19)]
        assert [r async for r in consumer.read(topic, partitions=[2])] == []
        count = 0
        async for batch in consumer.read(topic, end=3, partitions=[0]).batches():
            count += len(batch)
        assert count == 3
        with pytest.raises(UnknownTopic):
            await anext(consumer.read(topic, partitions=[9]))
        half = consumer.read(topic)
        await anext(half)
        await half.aclose()


async def test_reset_policies(server: RunningServer, connection: Connection) -> None:
    topic = create_topic(connection, "reset")
    produce_values(connection, topic, b"old")
    partition = TopicPartition(topic, 0)
    async with reader(server, topic, auto_offset_reset="latest") as consumer:
        with trio.move_on_after(QUIET_S):
            await anext(consumer)
        produce_values(connection, topic, b"new")
        assert values(await take(consumer, 1)) == [b"new"]
    async with reader(server, auto_offset_reset="none") as consumer:
        consumer.assign([partition])
        with pytest.raises(NoInitialOffset):
            await anext(consumer)
        consumer.seek(partition, 1)
        assert values(await take(consumer, 1)) == [b"new"]
        consumer.seek(partition, 99)
        with pytest.raises(PositionOutOfRange):
            await anext(consumer)
    async with reader(server, auto_offset_reset="earliest") as consumer:
        consumer.assign([partition])
        consumer.seek(partition, 99)
        assert values(await take(consumer, 2)) == [b"old", b"new"]


async def test_cancellation_loses_no_record(server: RunningServer, connection: Connection) -> None:
    topic = create_topic(connection, "cancel")
    async with reader(server, topic) as consumer:
        found: list[int] = []
        for number in range(200):
            produce_values(connection, topic, b"%d" % number)
            with trio.move_on_after(0.0001 * (number % 12)):
                while True:
                    found.append((await anext(consumer)).offset)
        found += (
            [record.offset for record in await take(consumer, 200 - len(found))] if len(found) < 200 else []
        )
        assert found == list(range(200))


async def test_two_tasks_may_not_iterate_at_once(server: RunningServer, connection: Connection) -> None:
    topic = create_topic(connection, "two")
    async with reader(server, topic) as consumer, trio.open_nursery() as nursery:
        nursery.start_soon(consumer.next_batch)
        await trio.testing.wait_all_tasks_blocked(0.05)
        with pytest.raises(trio.BusyResourceError, match="another task"):
            await anext(consumer)
        nursery.cancel_scope.cancel()


async def test_an_unknown_topic_is_waited_for_and_then_found(
    server: RunningServer, connection: Connection
) -> None:
    name = fresh_name("later")
    topics = [{"name": name, "num_partitions": 1, "replication_factor": 1}]
    async with reader(server, name) as consumer:
        with trio.move_on_after(QUIET_S) as looked:
            await anext(consumer)
        assert looked.cancelled_caught, "neither a record nor an error"
        connection.request("create_topics", 7, topics=topics, timeout=5000)
        await_partitions(connection, name, 1)
        produce_values(connection, name, b"here")
        assert values(await take(consumer, 1)) == [b"here"]


async def test_a_partition_that_is_not_there_is_told(server: RunningServer, connection: Connection) -> None:
    topic = create_topic(connection, "one")
    async with reader(server) as consumer:
        consumer.assign([TopicPartition(topic, 7)])
        with trio.fail_after(LIMIT_S), pytest.raises(UnknownTopic):
            await anext(consumer)


@pytest.fixture(scope="module")
def own_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    """One that may be killed."""
    with running_server(tmp_path_factory.mktemp("own")) as server:
        yield server


async def test_a_broker_restart_in_the_middle_loses_and_repeats_nothing(own_server: RunningServer) -> None:
    with connect(own_server.bootstrap) as connection:
        topic = create_topic(connection, "restart")
        for number in range(50):
            produce_values(connection, topic, *[b"%d" % (number * 10 + i) + bytes(5000) for i in range(10)])
    limits: dict[str, Any] = {"prefetch_max_bytes": 400_000, "partition_fetch_max_bytes": 100_000}
    async with reader(own_server, topic, **limits) as consumer:
        found = [record.offset for record in await take(consumer, 120)]
        await trio.to_thread.run_sync(own_server.kill)
        await trio.to_thread.run_sync(own_server.start)
        found += [record.offset for record in await take(consumer, 380)]
        assert found == list(range(500))
        with connect(own_server.bootstrap) as connection:
            produce_values(connection, topic, b"after")
        assert values(await take(consumer, 1)) == [b"after"]


@pytest.mark.kafka_only
async def test_read_committed_hides_what_was_aborted(server: RunningServer, connection: Connection) -> None:
    topic = create_topic(connection, "txn")
    wanted: list[bytes] = []

    def write() -> None:
        producer = librdkafka.make_producer(server.bootstrap, transactional_id=topic)
        producer.init_transactions(LIMIT_S)
        for number in range(12):
            producer.begin_transaction()
            for part in range(5):
                value = b"%d.%d" % (number, part)
                producer.produce(topic, value, partition=0)
                if number % 3:
                    wanted.append(value)
            producer.flush()
            if number % 3:
                producer.commit_transaction(LIMIT_S)
            else:
                producer.abort_transaction(LIMIT_S)
        producer.begin_transaction()
        producer.produce(topic, b"open", partition=0)
        producer.flush()
        opened.append(producer)

    opened: list[object] = []
    await trio.to_thread.run_sync(write)
    async with reader(server, topic, isolation_level="read_committed") as consumer:
        assert values(await take(consumer, len(wanted))) == wanted
        with trio.move_on_after(QUIET_S) as waited:
            await anext(consumer)
        assert waited.cancelled_caught, "an open transaction is not seen"
        assert [r.value async for r in consumer.read(topic)] == wanted
    async with reader(server, topic) as consumer:
        everything = [record.value async for record in consumer.read(topic)]
        assert len(everything) == 61
        assert everything[-1] == b"open"


async def test_records_deleted_during_a_read_do_not_hold_it_up(
    server: RunningServer, connection: Connection
) -> None:
    topic = create_topic(connection, "deleted")
    produce_values(connection, topic, *[b"x"] * 10)
    async with Admin(server.bootstrap) as admin, reader(server) as consumer:
        read = consumer.read(topic, start=2)
        assert await read.bounds() == {TopicPartition(topic, 0): (2, 10)}
        await admin.delete_records({TopicPartition(topic, 0): -1})
        assert len([record async for record in read]) in (0, 8)  # they may have been fetched before
        assert [record async for record in consumer.read(topic)] == []
