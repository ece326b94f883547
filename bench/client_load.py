"""One measurement of one client library, in a process of its own: `python -m bench.client_load CLIENT produce|consume ...`.

Owns a loop for each client, the fastest that its documentation offers, and prints one line of JSON: records, bytes of values, wall
and CPU seconds of this process (its threads included). The clock starts when the client is connected and has moved a first record, and stops when
everything is acked or has been read; every value's length is looked at. Imports only the client that it measures.
"""

import asyncio
import importlib
import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import click

from bench.processes import Meter

BATCH_BYTES = 1 << 20
LINGER_MS = 5
POLL_RECORDS = 10_000
QUIET_S = 30.0


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

    def check(self, record_count: int) -> None:
        """Raise NothingCame unless all was done."""
        if record_count < self.record_count:
            raise NothingCame(f"{record_count} of {self.record_count} records")

    @property
    def value(self) -> bytes:
        """The value of every record."""
        return b"v" * self.value_size_bytes


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
    producer, value, topic = _confluent_producer(task), task.value, task.topic
    with Meter() as meter:
        produce = producer.produce
        for index in range(task.record_count):
            try:
                produce(topic, value)
            except BufferError:
                producer.poll(0.05)
                produce(topic, value)
            if not index & 1023:
                producer.poll(0)
        task.check(task.record_count - producer.flush(QUIET_S))
    return _measured(task, task.record_count * len(value), meter)


def confluent_produce_batch(task: Task) -> Measured:
    """`produce_batch`: a list of a thousand records in each call."""
    producer, value = _confluent_producer(task), task.value
    chunk = [{"value": value}] * 1000
    sent = 0
    with Meter() as meter:
        while sent < task.record_count:
            while len(producer) > 900_000:
                producer.poll(0.005)
            sent += producer.produce_batch(task.topic, chunk[: task.record_count - sent])
            producer.poll(0)
        task.check(task.record_count - producer.flush(QUIET_S))
    return _measured(task, task.record_count * len(value), meter)


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
        value, topic = task.value, task.topic
        await producer.send_and_wait(topic, b"first", partition=0)
        with Meter() as meter:
            for _ in range(task.record_count):
                await producer.send(topic, value)
            await producer.flush()
        await producer.stop()
        return _measured(task, task.record_count * len(value), meter)

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
    value, topic = task.value, task.topic
    producer.send(topic, b"first", partition=0).get(QUIET_S)
    with Meter() as meter:
        for _ in range(task.record_count):
            producer.send(topic, value)
        producer.flush()
    producer.close()
    return _measured(task, task.record_count * len(value), meter)


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
    "confluent produce": confluent_produce,
    "confluent produce_batch": confluent_produce_batch,
    "aiokafka send": aiokafka_send,
    "kafka-python send": kafka_python_send,
}
CONSUMERS: Mapping[str, Callable[[Task], Measured]] = {
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
def main(client: str, bootstrap: str, topic: str, partitions: int, value_size: int, records: int) -> None:
    """Measure one client once and print a line of JSON."""
    task = Task(bootstrap, topic, partitions, value_size, records)
    loop = PRODUCERS.get(client) or CONSUMERS[client]
    click.echo(json.dumps(asdict(loop(task))))


if __name__ == "__main__":
    main()
