"""confluent-kafka: librdkafka behind Python."""

import importlib
from collections.abc import Mapping, Sequence
from typing import Any

from confluent_kafka import (
    Consumer,
    ConsumerGroupTopicPartitions,
    KafkaError,
    KafkaException,
    Message,
    Producer,
    TopicPartition,
)
from tests.support.clients import LIMIT_S
from tests.support.deadline import until

admin: Any = importlib.import_module(
    "confluent_kafka.admin"
)  # its annotations are partly missing, partly wrong


class Acks:
    """Delivery reports of one producer."""

    def __init__(self) -> None:
        self.offsets: list[int] = []
        self.errors: list[KafkaError] = []

    def __call__(self, error: KafkaError | None, message: Message) -> None:
        """The callback."""
        if error is not None:
            self.errors.append(error)
            return
        offset = message.offset()
        assert offset is not None
        self.offsets.append(offset)


def make_producer(bootstrap: str, **settings: Any) -> Producer:
    """A producer; settings in librdkafka's names with `_` for `.`."""
    return Producer({"bootstrap.servers": bootstrap, **dotted(settings)})


def dotted(settings: Mapping[str, Any]) -> dict[str, Any]:
    """`message_timeout_ms` becomes `message.timeout.ms`; librdkafka spells one name with an underscore."""
    return {
        name if name == "log_level" else name.replace("_", "."): value for name, value in settings.items()
    }


def produce(bootstrap: str, topic: str, values: Sequence[bytes], codec: str) -> None:
    """Produce to partition 0, and wait for all acks."""
    producer = make_producer(bootstrap, compression_type=codec, linger_ms=5)
    acks = Acks()
    for value in values:
        producer.produce(topic, value, partition=0, on_delivery=acks)
        producer.poll(0)
    assert producer.flush(LIMIT_S) == 0
    assert not acks.errors
    assert acks.offsets == sorted(acks.offsets)
    assert len(acks.offsets) == len(values)


def make_consumer(bootstrap: str, **settings: Any) -> Consumer:
    """A consumer that commits nothing; librdkafka wants a group's name even so."""
    fixed = {"bootstrap.servers": bootstrap, "group.id": "by-hand", "enable.auto.commit": False}
    return Consumer({**fixed, "auto.offset.reset": "error", **dotted(settings)})


def read(consumer: Consumer, count: int) -> list[Message]:
    """The next `count` messages of what is assigned; an error or too few in time is a failure."""
    found: list[Message] = []

    def enough() -> bool:
        for message in consumer.consume(min(count - len(found), 10_000), 0.2):
            error = message.error()
            assert error is None, str(error)
            found.append(message)
        return len(found) >= count

    until(enough, f"{count} messages by librdkafka", limit_s=LIMIT_S)
    return found


def value_of(message: Message) -> bytes:
    """The value, which must be there."""
    value = message.value()
    assert isinstance(value, bytes)
    return value


def consume(bootstrap: str, topic: str, count: int, partition: int = 0) -> list[bytes]:
    """The first `count` values of a partition."""
    consumer = make_consumer(bootstrap)
    try:
        consumer.assign([TopicPartition(topic, partition, 0)])
        return [value_of(message) for message in read(consumer, count)]
    finally:
        consumer.close()


def commit_beginnings(bootstrap: str, group: str, topic: str) -> None:
    """Commit offset 0 of every partition for a group that has no members yet, so that none of its members looks for a beginning.

    librdkafka 2.16 asks for the first offset anew half a second after an answer that a rebalance had overtaken, though it reads the
    partition by then: it begins at 0 again, and its commits go back. So it does alone with its own mock of a broker, too.
    """
    client = admin.AdminClient({"bootstrap.servers": bootstrap, "log_level": 0})
    count = len(client.list_topics(topic, timeout=LIMIT_S).topics[topic].partitions)
    beginnings = [TopicPartition(topic, index, 0) for index in range(count)]

    def committed() -> bool:
        request = [ConsumerGroupTopicPartitions(group, beginnings)]
        try:
            done = client.alter_consumer_group_offsets(request)[group].result(LIMIT_S)
        except KafkaException as error:
            if error.args[0].retriable():
                return False
            raise
        return all(place.error is None for place in done.topic_partitions)

    until(committed, f"the beginnings of {topic} committed for {group}", limit_s=LIMIT_S)
