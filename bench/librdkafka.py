"""The load of a real client: librdkafka by confluent-kafka, with its own defaults but for what a bench must set.

Owns one producer or consumer for the length of a call. Its threads run on the cores of the caller. Idempotence is off, acks is all, nothing is
compressed. Counts values, not batches: what an application sees.
"""

from time import perf_counter
from typing import Any

from confluent_kafka import Consumer, KafkaError, Message, Producer, TopicPartition

from bench.driver import Load, LoadFailed
from bench.processes import Meter

CHUNK_RECORDS = 1000
QUEUE_RECORDS = 500_000
CONSUME_RECORDS = 10_000
QUIET_S = 30.0


def _producer(bootstrap: str, **settings: Any) -> Producer:
    fixed = {"bootstrap.servers": bootstrap, "acks": "all", "enable.idempotence": False, "log_level": 0}
    return Producer({**fixed, **settings})


def produce_records(
    bootstrap: str, topic: str, *, value: bytes, record_count: int, seconds: float, server_pid: int = 0
) -> Load:
    """Hand over records as fast as librdkafka takes them, until `record_count` or `seconds`; returns when all are acked.

    Raises:
        LoadFailed: a record was not acked.
    """
    producer = _producer(bootstrap, **{"queue.buffering.max.messages": QUEUE_RECORDS})
    producer.list_topics(topic, timeout=QUIET_S)
    chunk = [{"value": value}] * CHUNK_RECORDS
    sent = 0
    with Meter(server_pid) as meter:
        deadline = perf_counter() + seconds
        while sent < record_count and perf_counter() < deadline:
            # Never fill librdkafka's queue to the brim: it would refuse a part of the chunk.
            while len(producer) > QUEUE_RECORDS - CHUNK_RECORDS:
                producer.poll(0.005)
            sent += producer.produce_batch(topic, chunk[: record_count - sent], partition=0)
            producer.poll(0)
        unacked = producer.flush(QUIET_S)
    if unacked:
        raise LoadFailed(f"{unacked} records were not acked within {QUIET_S} s")
    return Load(0, sent, sent * len(value), (), meter)


def end_offset(bootstrap: str, topic: str) -> int:
    """The log end offset of partition 0."""
    consumer = _consumer(bootstrap)
    try:
        _, high = consumer.get_watermark_offsets(TopicPartition(topic, 0), timeout=QUIET_S)
        return int(high)
    finally:
        consumer.close()


def lone_writes(
    bootstrap: str, topic: str, *, value: bytes, count: int, seconds: float, server_pid: int = 0
) -> Load:
    """One record at a time, each acked before the next: what a service sees that writes and waits.

    Raises:
        LoadFailed: a record was not acked.
    """
    producer = _producer(bootstrap, **{"linger.ms": 0})
    producer.list_topics(topic, timeout=QUIET_S)
    latencies_s: list[float] = []
    failures: list[KafkaError] = []
    acked = 0

    def on_delivery(error: KafkaError | None, _: Message) -> None:
        nonlocal acked
        acked += 1
        if error is not None:
            failures.append(error)

    def write() -> None:
        before = acked
        producer.produce(topic, value, partition=0, on_delivery=on_delivery)
        while acked == before:
            producer.poll(QUIET_S)

    write()  # makes the connection
    with Meter(server_pid) as meter:
        now = perf_counter()
        deadline = now + seconds
        while len(latencies_s) < count and now < deadline:
            sent = now
            write()
            now = perf_counter()
            latencies_s.append(now - sent)
    if failures:
        raise LoadFailed(str(failures[0]))
    done = len(latencies_s)
    return Load(done, done, done * len(value), latencies_s, meter)


def end_to_end(
    bootstrap: str, topic: str, *, value: bytes, count: int, seconds: float, server_pid: int = 0
) -> Load:
    """One record at a time, each read by a consumer before the next is written. Latencies are from `produce` to the message in hand.

    Raises:
        LoadFailed: a record did not come.
    """
    producer = _producer(bootstrap, **{"linger.ms": 0})
    consumer = _consumer(bootstrap)
    latencies_s: list[float] = []

    def pass_one() -> None:
        producer.produce(topic, value, partition=0)
        message = consumer.poll(QUIET_S)
        if message is None or message.value() != value:
            raise LoadFailed("a record was not read" if message is None else str(message.error()))
        producer.poll(0)

    try:
        consumer.assign([TopicPartition(topic, 0, 0)])
        pass_one()  # makes the connections
        with Meter(server_pid) as meter:
            now = perf_counter()
            deadline = now + seconds
            while len(latencies_s) < count and now < deadline:
                sent = now
                pass_one()
                now = perf_counter()
                latencies_s.append(now - sent)
        producer.flush(QUIET_S)
    finally:
        consumer.close()
    done = len(latencies_s)
    return Load(done, done, done * len(value), latencies_s, meter)


def _consumer(bootstrap: str) -> Consumer:
    return Consumer(
        {
            "bootstrap.servers": bootstrap,
            "group.id": "bench",  # asked for by librdkafka, not used: the partition is assigned by hand
            "enable.auto.commit": False,
            # by default a fetch waits for a second once 100,000 records are queued: then a faster broker measures slower
            "fetch.queue.backoff.ms": 1,
            "log_level": 0,
        }
    )


def consume_records(
    bootstrap: str, topic: str, *, record_count: int, seconds: float, server_pid: int = 0
) -> Load:
    """Read partition 0 from offset 0 until `record_count` records or `seconds`.

    Raises:
        LoadFailed: an error, or nothing came for a while.
    """
    consumer = _consumer(bootstrap)
    read = size_bytes = 0
    try:
        consumer.list_topics(topic, timeout=QUIET_S)
        with Meter(server_pid) as meter:
            deadline = perf_counter() + seconds
            consumer.assign([TopicPartition(topic, 0, 0)])
            while read < record_count and perf_counter() < deadline:
                messages = consumer.consume(min(CONSUME_RECORDS, record_count - read), timeout=1.0)
                size_bytes += sum(_size_bytes(message) for message in messages)
                read += len(messages)
    finally:
        consumer.close()
    if not read:
        raise LoadFailed(f"not one record in {meter.seconds:.1f} s")
    return Load(0, read, size_bytes, (), meter)


def _size_bytes(message: Message) -> int:
    value = message.value()
    if value is None:
        raise LoadFailed(str(message.error()))
    return len(value)
