"""The producer against a real broker, Penstock or Apache Kafka; what it wrote is read by other people's clients."""

import random
from collections.abc import Mapping

import pytest
import trio
from confluent_kafka import TopicPartition
from tests.support.clients import CODECS, kcat, librdkafka
from tests.support.processes import IS_KAFKA, RunningServer
from tests.support.topics import create_topic, fresh_name
from tests.support.wire import Connection

from penstock.client.errors import BrokerError, BufferFull, DeliveryFailed, UnknownTopic
from penstock.producer.batch import Delivery
from penstock.producer.partitioner import java_partition
from penstock.producer.producer import OutgoingRecord, Producer
from penstock.protocol.errors import ErrorCode

LIMIT_S = 60
ALL_CODECS = ("none", *(codec for codec in CODECS if codec != "none"))


def awkward_values(count: int) -> list[bytes]:
    chance = random.Random(11)
    sizes = (0, 1, 63, 64, 100, 5000, 70_000)
    return [chance.randbytes(chance.choice(sizes)) + b"%d" % number * 20 for number in range(count)]


@pytest.mark.parametrize("codec", ALL_CODECS)
async def test_what_send_many_wrote_is_read_byte_for_byte(
    codec: str, server: RunningServer, connection: Connection
) -> None:
    topic = create_topic(connection, f"many-{codec}")
    values = awkward_values(300)
    with trio.fail_after(LIMIT_S):
        async with Producer(server.bootstrap, compression=codec, batch_size_bytes=100_000) as producer:
            result = await producer.send_many(topic, values)
    assert result.record_count == 300
    assert [(one.first_offset, one.last_offset) for one in result.ranges] == [(0, 299)]
    assert kcat.consume(server.bootstrap, topic, 300) == values
    assert librdkafka.consume(server.bootstrap, topic, 300) == values


async def test_keys_headers_times_and_nulls_arrive(server: RunningServer, connection: Connection) -> None:
    topic = create_topic(connection, "all-fields")
    headers = (("trace", b"\x00\xff"), ("trace", None), ("ü", b""))
    with trio.fail_after(LIMIT_S):
        async with Producer(server.bootstrap) as producer:
            told = await producer.send(topic, None, key=b"k", timestamp_ms=1234567890123, headers=headers)
            assert (told.partition, told.offset, told.timestamp_ms) == (0, 0, 1234567890123)
            await producer.send_many(
                topic, [b"plain", OutgoingRecord(b"v", key=b"own", timestamp_ms=5), None], key=b"shared"
            )
    consumer = librdkafka.make_consumer(server.bootstrap)
    consumer.assign([TopicPartition(topic, 0, 0)])
    found = librdkafka.read(consumer, 4)
    consumer.close()
    assert found[0].value() is None
    assert found[0].headers() == list(headers)
    assert found[0].timestamp()[1] == 1234567890123
    assert [one.key() for one in found] == [b"k", b"shared", b"own", b"shared"]
    assert [one.value() for one in found[1:]] == [b"plain", b"v", None]
    assert found[2].timestamp()[1] == 5


async def test_keys_go_where_java_puts_them_and_order_is_kept(
    server: RunningServer, connection: Connection
) -> None:
    topic = create_topic(connection, "keys", partitions=5)
    with trio.fail_after(LIMIT_S):
        async with Producer(server.bootstrap, linger_ms=2) as producer:
            for number in range(500):
                await producer.enqueue(topic, b"%d" % number, key=b"key-%d" % (number % 23))
    for partition in range(5):
        expected = [
            b"%d" % number
            for number in range(500)
            if java_partition(b"key-%d" % (number % 23), 5) == partition
        ]
        assert librdkafka.consume(server.bootstrap, topic, len(expected), partition) == expected


async def test_values_without_keys_go_to_all_partitions(
    server: RunningServer, connection: Connection
) -> None:
    topic = create_topic(connection, "keyless", partitions=3)
    with trio.fail_after(LIMIT_S):
        async with Producer(server.bootstrap, batch_size_bytes=4096) as producer:
            result = await producer.send_many(topic, [b"%05d" % number * 20 for number in range(5000)])
    assert {one.partition for one in result.ranges} == {0, 1, 2}
    assert result.record_count == 5000
    for partition in range(3):
        count = sum(one.record_count for one in result.ranges if one.partition == partition)
        found = librdkafka.consume(server.bootstrap, topic, count, partition)
        assert found == sorted(found)


@pytest.mark.parametrize("acks", ["all", "leader", "none"])
@pytest.mark.parametrize("idempotence", [None, False])
async def test_every_acks_delivers(
    acks: str, idempotence: bool | None, server: RunningServer, connection: Connection
) -> None:
    topic = create_topic(connection, "acks")
    values = [b"%d" % number for number in range(1000)]
    with trio.fail_after(LIMIT_S):
        async with Producer(
            server.bootstrap, acks=acks, idempotence=idempotence, batch_size_bytes=2000
        ) as producer:
            deliveries = [await producer.enqueue(topic, value) for value in values]
            metadata = await deliveries[-1].wait()
            assert metadata.offset == (-1 if acks == "none" else 999)
    assert librdkafka.consume(server.bootstrap, topic, 1000) == values


async def test_many_tasks_may_send_at_once(server: RunningServer, connection: Connection) -> None:
    topic = create_topic(connection, "tasks", partitions=2)
    offsets: list[tuple[int, int]] = []

    async def send(producer: Producer, name: int) -> None:
        for number in range(20):
            told = await producer.send(topic, b"%d/%d" % (name, number))
            offsets.append((told.partition, told.offset))

    with trio.fail_after(LIMIT_S):
        async with Producer(server.bootstrap) as producer, trio.open_nursery() as nursery:
            for name in range(25):
                nursery.start_soon(send, producer, name)
    assert len(set(offsets)) == 500


async def test_a_missing_topic_is_an_error_and_not_a_wait(server: RunningServer) -> None:
    with trio.fail_after(LIMIT_S):
        async with Producer(server.bootstrap) as producer:
            with pytest.raises(UnknownTopic):
                await producer.send(fresh_name("missing"), b"value")
            with pytest.raises(BrokerError) as refused:
                await producer.send("no such name", b"value")
            assert refused.value.code == ErrorCode.INVALID_TOPIC_EXCEPTION
            with pytest.raises(BufferFull):
                producer.send_nowait(fresh_name("missing"), b"value")


@pytest.mark.parametrize("codec", ["none", "lz4"])
async def test_a_batch_that_the_topic_does_not_take_is_split(
    codec: str, server: RunningServer, connection: Connection
) -> None:
    topic = create_topic(connection, "small", configs={"max.message.bytes": "3000"})
    values = [random.Random(number).randbytes(500) for number in range(200)]
    with trio.fail_after(LIMIT_S):
        async with Producer(server.bootstrap, compression=codec, batch_size_bytes=20_000) as producer:
            result = await producer.send_many(topic, values)
            assert result.record_count == 200
            assert [(one.first_offset, one.last_offset) for one in result.ranges] == [(0, 199)]
            with pytest.raises(BrokerError) as refused:
                await producer.send(topic, random.Random(1).randbytes(5000))
            assert refused.value.code == ErrorCode.MESSAGE_TOO_LARGE
            assert (await producer.send(topic, b"after")).offset == 200
    assert librdkafka.consume(server.bootstrap, topic, 201) == [*values, b"after"]


async def test_a_refused_batch_does_not_bar_those_behind_it(
    server: RunningServer, connection: Connection
) -> None:
    """A gap in the sequences that the producer has to close, with batches behind it on the wire."""
    topic = create_topic(connection, "refused", configs={"max.message.bytes": "3000"})
    with trio.fail_after(LIMIT_S):
        async with Producer(server.bootstrap, batch_size_bytes=2500) as producer:
            good = [await producer.enqueue(topic, b"%d" % number * 300) for number in range(3)]
            bad = await producer.enqueue(topic, bytes(5000))
            good += [await producer.enqueue(topic, b"%d" % number * 300) for number in range(3, 9)]
            with pytest.raises(BrokerError):
                await bad.wait()
            assert [(await delivery.wait()).offset for delivery in good] == list(range(9))
    assert librdkafka.consume(server.bootstrap, topic, 9) == [b"%d" % number * 300 for number in range(9)]


async def test_a_topic_deleted_and_made_again_gets_the_records(
    server: RunningServer, connection: Connection
) -> None:
    topic = create_topic(connection, "again")
    with trio.fail_after(LIMIT_S):
        async with Producer(server.bootstrap) as producer:
            for number in range(3):
                await producer.send(topic, b"%d" % number)
            remake(connection, topic)
            assert (await producer.send(topic, b"new")).offset == 0
            assert (await producer.send(topic, b"newer")).offset == 1
    assert librdkafka.consume(server.bootstrap, topic, 2) == [b"new", b"newer"]


def remake(connection: Connection, topic: str) -> None:
    reply = connection.request("delete_topics", 5, topic_names=[topic], timeout=10_000)
    assert reply.responses[0].error_code == 0
    wanted: Mapping[str, object] = {
        "name": topic,
        "num_partitions": 1,
        "replication_factor": 1,
    }
    while connection.request("create_topics", 5, topics=[wanted], timeout=10_000).topics[0].error_code != 0:
        assert IS_KAFKA, "Penstock frees the name at once"


async def test_leaving_by_an_error_fails_what_was_not_acked_and_hangs_nowhere(
    server: RunningServer, connection: Connection
) -> None:
    class Mine(Exception):
        pass

    topic = create_topic(connection, "left")
    failures: list[DeliveryFailed] = []

    async def wait(delivery: Delivery) -> None:
        with pytest.raises(DeliveryFailed) as failed:
            await delivery.wait()
        failures.append(failed.value)

    async def leave(nursery: trio.Nursery) -> None:
        async with Producer(server.bootstrap, linger_ms=1e9) as producer:
            nursery.start_soon(wait, await producer.enqueue(topic, b"value"))
            raise Mine

    with trio.fail_after(LIMIT_S):
        async with trio.open_nursery() as nursery:
            with pytest.raises(Mine):
                await leave(nursery)
    assert [failure.may_be_delivered for failure in failures] == [False]


async def test_leaving_by_cancellation_hangs_nowhere(server: RunningServer, connection: Connection) -> None:
    topic = create_topic(connection, "cancelled")
    deliveries: list[Delivery] = []
    with trio.fail_after(LIMIT_S):
        with trio.CancelScope() as scope:
            async with Producer(server.bootstrap, linger_ms=1e9) as producer:
                deliveries.append(await producer.enqueue(topic, b"value"))
                scope.cancel()
                await trio.lowlevel.checkpoint()
        with pytest.raises(DeliveryFailed):
            await deliveries[0].wait()
