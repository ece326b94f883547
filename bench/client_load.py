"""One measurement of one client library, in a process of its own: `python -m bench.client_load CLIENT produce|consume ...`.

Owns a loop for each client, the fastest that its documentation offers, and prints one line of JSON: records, bytes of values, wall
and CPU seconds of this process (its threads included). The clock starts when the client is connected and has moved a first record, and stops when
everything is acked or has been read; every value's length is looked at. Imports only the client that it measures.
"""

import asyncio
import importlib
import json
from collections.abc import Awaitable, Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from itertools import cycle, islice
from random import Random
from typing import TYPE_CHECKING, Any

import click
import trio

from bench.processes import Meter

if TYPE_CHECKING:
    from penstock.consumer.consumer import Consumer
    from penstock.producer.producer import Producer

BATCH_BYTES = 1 << 20
LINGER_MS = 5
POLL_RECORDS = 10_000
QUIET_S = 30.0
DISTINCT_VALUES = 1000


class NothingCame(Exception):
    """The client stopped short of its task."""


@dataclass(frozen=True, slots=True)
class Task:
    """What a client is to do. Topics are there, with their partitions, before it starts."""

    bootstrap: str
    topic: str
    partition_count: int
    value_size_bytes: int
    record_count: int
    is_mixed: bool = False
    """Whether values are of 0.6 to 1.4 times `value_size_bytes`, evenly spread, instead of all alike."""

    def check(self, record_count: int) -> None:
        """Raise NothingCame unless all was done."""
        if record_count < self.record_count:
            raise NothingCame(f"{record_count} of {self.record_count} records")

    @property
    def distinct(self) -> list[bytes]:
        """A thousand values that differ, so that nobody profits from one that is always the same."""
        random = Random(1)
        size = self.value_size_bytes
        sizes = [
            random.randrange(size * 6 // 10, size * 14 // 10) if self.is_mixed else size
            for _ in range(DISTINCT_VALUES)
        ]
        return [random.randbytes(each) for each in sizes]

    @property
    def values(self) -> Iterator[bytes]:
        """One for each record: the distinct ones again and again."""
        return islice(cycle(self.distinct), self.record_count)

    @property
    def size_bytes(self) -> int:
        """Of all values."""
        return self.record_count * sum(map(len, self.distinct)) // DISTINCT_VALUES


@dataclass(frozen=True, slots=True)
class Measured:
    """What was done and what it took."""

    record_count: int
    size_bytes: int
    seconds: float
    cpu_seconds: float


def _untyped(name: str) -> Any:
    return importlib.import_module(name)


def _measured(task: Task, size_bytes: int, meter: Meter) -> Measured:
    return Measured(task.record_count, size_bytes, meter.seconds, meter.driver_cpu_seconds)


# Penstock


def penstock_send_many(task: Task) -> Measured:
    """`send_many`: an iterable of values in one call."""
    return _penstock_produce(task, _send_many)


def penstock_enqueue(task: Task) -> Measured:
    """`await enqueue(...)` for each record, and one `flush`."""
    return _penstock_produce(task, _enqueue)


async def _send_many(producer: "Producer", task: Task) -> None:
    result = await producer.send_many(task.topic, task.values)
    task.check(result.record_count)


async def _enqueue(producer: "Producer", task: Task) -> None:
    enqueue, topic = producer.enqueue, task.topic
    for value in task.values:
        await enqueue(topic, value)
    await producer.flush()


def _penstock_produce(task: Task, load: "Callable[[Producer, Task], Awaitable[None]]") -> Measured:
    async def run() -> Measured:
        from penstock.producer.producer import Producer

        settings: dict[str, Any] = {"linger_ms": LINGER_MS, "idempotence": False}
        async with Producer(task.bootstrap, batch_size_bytes=BATCH_BYTES, **settings) as producer:
            await producer.send(task.topic, b"first", partition=0)
            with Meter() as meter:
                await load(producer, task)
        return _measured(task, task.size_bytes, meter)

    return trio.run(run)


def penstock_batches(task: Task) -> Measured:
    """`batches()`: the records of a fetched batch at a time, each looked at."""
    return _penstock_consume(task, _read_batches)


def penstock_iterate(task: Task) -> Measured:
    """`async for record in consumer`."""
    return _penstock_consume(task, _read_records)


async def _read_batches(consumer: "Consumer", task: Task) -> int:
    read = size_bytes = 0
    async for batch in consumer.batches():
        for record in batch:
            size_bytes += len(record.value or b"")
        read += len(batch)
        if read >= task.record_count:
            break
    return size_bytes


async def _read_records(consumer: "Consumer", task: Task) -> int:
    left, size_bytes = task.record_count, 0
    async for record in consumer:
        size_bytes += len(record.value or b"")
        left -= 1
        if not left:
            break
    return size_bytes


def _penstock_consume(task: Task, load: "Callable[[Consumer, Task], Awaitable[int]]") -> Measured:
    async def run() -> Measured:
        from penstock.client.metadata import TopicPartition
        from penstock.consumer.consumer import Consumer

        places = [TopicPartition(task.topic, index) for index in range(task.partition_count)]
        async with Consumer(task.bootstrap, auto_offset_reset="earliest") as consumer:
            await consumer.end_offsets(places)
            consumer.assign(places)
            with Meter() as meter:
                size_bytes = await load(consumer, task)
        return _measured(task, size_bytes, meter)

    return trio.run(run)


# confluent-kafka


def _confluent_producer(task: Task) -> Any:
    from confluent_kafka import Producer

    producer = Producer(
        {
            "bootstrap.servers": task.bootstrap,
            "acks": "all",
            "linger.ms": LINGER_MS,
            "queue.buffering.max.messages": 1_000_000,
            "log_level": 0,
        }
    )
    producer.produce(task.topic, b"first", partition=0)
    if producer.flush(QUIET_S):
        raise NothingCame("the first record was not acked")
    return producer


def confluent_produce(task: Task) -> Measured:
    """The loop of its own examples: `produce` for each record, `poll` now and then."""
    producer, values, topic = _confluent_producer(task), task.values, task.topic
    with Meter() as meter:
        produce = producer.produce
        for index, value in enumerate(values):
            try:
                produce(topic, value)
            except BufferError:
                producer.poll(0.05)
                produce(topic, value)
            if not index & 1023:
                producer.poll(0)
        task.check(task.record_count - producer.flush(QUIET_S))
    return _measured(task, task.size_bytes, meter)


def confluent_produce_batch(task: Task) -> Measured:
    """`produce_batch`: a list of a thousand records in each call."""
    producer = _confluent_producer(task)
    chunk = [{"value": value} for value in task.distinct]
    sent = 0
    with Meter() as meter:
        while sent < task.record_count:
            while len(producer) > 900_000:
                producer.poll(0.005)
            sent += producer.produce_batch(task.topic, chunk[: task.record_count - sent])
            producer.poll(0)
        task.check(task.record_count - producer.flush(QUIET_S))
    return _measured(task, task.size_bytes, meter)


def _confluent_consumer(task: Task) -> Any:
    from confluent_kafka import Consumer, TopicPartition

    consumer = Consumer(
        {
            "bootstrap.servers": task.bootstrap,
            "group.id": "bench",  # asked for by librdkafka, not used: partitions are assigned by hand
            "enable.auto.commit": False,
            "fetch.queue.backoff.ms": 1,  # by default a fetch waits for a second once 100,000 records are queued
            "log_level": 0,
        }
    )
    consumer.list_topics(task.topic, timeout=QUIET_S)
    consumer.assign([TopicPartition(task.topic, index, 0) for index in range(task.partition_count)])
    return consumer


def confluent_consume(task: Task) -> Measured:
    """`consume(n)`: a list of messages in each call."""
    consumer = _confluent_consumer(task)
    read = size_bytes = 0
    with Meter() as meter:
        while read < task.record_count:
            messages = consumer.consume(POLL_RECORDS, timeout=1.0)
            if not messages:
                raise NothingCame(f"{read} of {task.record_count} records")
            for message in messages:
                size_bytes += len(message.value())
            read += len(messages)
    consumer.close()
    return _measured(task, size_bytes, meter)


def confluent_poll(task: Task) -> Measured:
    """`poll`: one message in each call, as in most programs."""
    consumer = _confluent_consumer(task)
    size_bytes = 0
    with Meter() as meter:
        for _ in range(task.record_count):
            message = consumer.poll(QUIET_S)
            if message is None:
                raise NothingCame("poll came back with nothing")
            size_bytes += len(message.value())
    consumer.close()
    return _measured(task, size_bytes, meter)


# aiokafka


def aiokafka_send(task: Task) -> Measured:
    """`await send(...)` for each record, without waiting for its future."""

    async def run() -> Measured:
        producer = _untyped("aiokafka").AIOKafkaProducer(
            bootstrap_servers=task.bootstrap, acks="all", linger_ms=LINGER_MS, max_batch_size=BATCH_BYTES
        )
        await producer.start()
        values, topic = task.values, task.topic
        await producer.send_and_wait(topic, b"first", partition=0)
        with Meter() as meter:
            for value in values:
                await producer.send(topic, value)
            await producer.flush()
        await producer.stop()
        return _measured(task, task.size_bytes, meter)

    return asyncio.run(run())


def aiokafka_getmany(task: Task) -> Measured:
    """`getmany`: lists of records by partition."""

    async def run() -> Measured:
        aiokafka = _untyped("aiokafka")
        consumer = aiokafka.AIOKafkaConsumer(bootstrap_servers=task.bootstrap, auto_offset_reset="earliest")
        await consumer.start()
        consumer.assign([aiokafka.TopicPartition(task.topic, index) for index in range(task.partition_count)])
        read = size_bytes = 0
        with Meter() as meter:
            while read < task.record_count:
                found = await consumer.getmany(timeout_ms=int(QUIET_S * 1000), max_records=POLL_RECORDS)
                if not found:
                    raise NothingCame(f"{read} of {task.record_count} records")
                for records in found.values():
                    for record in records:
                        size_bytes += len(record.value or b"")
                    read += len(records)
        await consumer.stop()
        return _measured(task, size_bytes, meter)

    return asyncio.run(run())


# kafka-python


def kafka_python_send(task: Task) -> Measured:
    """`send(...)` for each record, without waiting for its future."""
    producer = _untyped("kafka").KafkaProducer(
        bootstrap_servers=task.bootstrap, acks="all", linger_ms=LINGER_MS, batch_size=BATCH_BYTES
    )
    values, topic = task.values, task.topic
    producer.send(topic, b"first", partition=0).get(QUIET_S)
    with Meter() as meter:
        for value in values:
            producer.send(topic, value)
        producer.flush()
    producer.close()
    return _measured(task, task.size_bytes, meter)


def kafka_python_poll(task: Task) -> Measured:
    """`poll`: lists of records by partition."""
    kafka = _untyped("kafka")
    consumer = kafka.KafkaConsumer(bootstrap_servers=task.bootstrap, auto_offset_reset="earliest")
    consumer.assign([kafka.TopicPartition(task.topic, index) for index in range(task.partition_count)])
    read = size_bytes = 0
    with Meter() as meter:
        while read < task.record_count:
            found = consumer.poll(timeout_ms=QUIET_S * 1000, max_records=POLL_RECORDS)
            if not found:
                raise NothingCame(f"{read} of {task.record_count} records")
            for records in found.values():
                for record in records:
                    size_bytes += len(record.value)
                read += len(records)
    consumer.close()
    return _measured(task, size_bytes, meter)


PRODUCERS: Mapping[str, Callable[[Task], Measured]] = {
    "penstock send_many": penstock_send_many,
    "penstock enqueue": penstock_enqueue,
    "confluent produce": confluent_produce,
    "confluent produce_batch": confluent_produce_batch,
    "aiokafka send": aiokafka_send,
    "kafka-python send": kafka_python_send,
}
CONSUMERS: Mapping[str, Callable[[Task], Measured]] = {
    "penstock batches": penstock_batches,
    "penstock iterate": penstock_iterate,
    "confluent consume": confluent_consume,
    "confluent poll": confluent_poll,
    "aiokafka getmany": aiokafka_getmany,
    "kafka-python poll": kafka_python_poll,
}


@click.command()
@click.argument("client", type=click.Choice([*PRODUCERS, *CONSUMERS]))
@click.option("--bootstrap", required=True)
@click.option("--topic", required=True)
@click.option("--partitions", type=int, required=True)
@click.option("--value-size", type=int, required=True)
@click.option("--records", type=int, required=True)
@click.option("--mixed", is_flag=True)
def main(
    client: str, bootstrap: str, topic: str, partitions: int, value_size: int, records: int, mixed: bool
) -> None:
    """Measure one client once and print a line of JSON."""
    task = Task(bootstrap, topic, partitions, value_size, records, mixed)
    loop = PRODUCERS.get(client) or CONSUMERS[client]
    click.echo(json.dumps(asdict(loop(task))))


if __name__ == "__main__":
    main()
