"""Consumer groups of the classic protocol with the clients that people use, as they come."""

import asyncio
import threading
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
from confluent_kafka import Consumer, KafkaException, TopicPartition
from tests.support.clients import aiokafka_client, kafka_python, kcat
from tests.support.deadline import until
from tests.support.processes import RunningServer
from tests.support.topics import create_topic, fresh_name, produce_values
from tests.support.wire import Connection

PARTITIONS = 4
COUNT = 40
LIMIT_S = 40.0

Read = Callable[[str, str, str, int], list[bytes]]
"""Bootstrap, topic, group, how many: read that many as the group's only member, commit, and leave."""


def read_with_confluent(bootstrap: str, topic: str, group: str, count: int) -> list[bytes]:
    consumer = member(bootstrap, topic, group)
    found: list[bytes] = []
    try:
        until(lambda: take(consumer, found) or len(found) >= count, "all records", limit_s=LIMIT_S)
        if found:
            consumer.commit(asynchronous=False)
        assert len(found) == count
    finally:
        consumer.close()
    return found


def read_with_kcat(bootstrap: str, topic: str, group: str, count: int) -> list[bytes]:
    options = ("-X", "auto.offset.reset=earliest", "-q", "-u", "-c", str(count), "-f", "%R%s")
    return kcat.split_sized(kcat.run("-b", bootstrap, "-G", group, *options, topic))


def read_with_aiokafka(bootstrap: str, topic: str, group: str, count: int) -> list[bytes]:
    found: list[bytes] = []

    async def work() -> None:
        consumer = aiokafka_client.aiokafka.AIOKafkaConsumer(
            topic,
            bootstrap_servers=bootstrap,
            group_id=group,
            enable_auto_commit=False,
            auto_offset_reset="earliest",
        )
        async with consumer:
            while len(found) < count:
                for records in (await consumer.getmany(timeout_ms=500)).values():
                    found.extend(record.value for record in records)
            await consumer.commit()

    aiokafka_client.run(work)
    return found


def read_with_kafka_python(bootstrap: str, topic: str, group: str, count: int) -> list[bytes]:
    consumer = kafka_python.kafka.KafkaConsumer(
        topic,
        bootstrap_servers=bootstrap,
        group_id=group,
        enable_auto_commit=False,
        auto_offset_reset="earliest",
    )
    found: list[bytes] = []

    def enough() -> bool:
        for records in consumer.poll(
            timeout_ms=1_000
        ).values():  # sees a join through, which 3.0.12 else may drop
            found.extend(record.value for record in records)
        return len(found) >= count

    try:
        until(enough, f"{count} records", limit_s=LIMIT_S)
        consumer.commit()
    finally:
        consumer.close()
    return found


READERS: dict[str, Read] = {
    "confluent": read_with_confluent,
    "kcat": read_with_kcat,
    "aiokafka": read_with_aiokafka,
    "kafka-python": read_with_kafka_python,
}


def member(bootstrap: str, topic: str, group: str, **settings: Any) -> Consumer:
    consumer = Consumer(
        {
            "bootstrap.servers": bootstrap,
            "group.id": group,
            "auto.offset.reset": "earliest",
            "enable.auto.commit": False,
            **settings,
        }
    )
    consumer.subscribe([topic])
    return consumer


def take(consumer: Consumer, found: list[bytes]) -> bool:
    """Take what comes within a short while; False, so that a condition can follow behind `or`."""
    for message in consumer.consume(100, 0.1):
        assert message.error() is None, str(message.error())
        value = message.value()
        assert isinstance(value, bytes)
        found.append(value)
    return False


def fill(connection: Connection, topic: str, begin: int, end: int) -> list[bytes]:
    """Values over all partitions."""
    values = [f"{number:05}".encode() for number in range(begin, end)]
    for index in range(PARTITIONS):
        produce_values(connection, topic, *values[index::PARTITIONS], partition=index)
    return values


@pytest.mark.filterwarnings(kafka_python.WARNINGS)
@pytest.mark.parametrize("second", READERS)
@pytest.mark.parametrize("first", ["confluent", "aiokafka"])
def test_what_one_client_committed_is_read_again_by_the_next(
    server: RunningServer, connection: Connection, first: str, second: str
) -> None:
    topic, group = create_topic(connection, "clients", partitions=PARTITIONS), fresh_name("group")
    early = fill(connection, topic, 0, COUNT)
    assert sorted(READERS[first](server.bootstrap, topic, group, COUNT)) == early
    late = fill(connection, topic, COUNT, 2 * COUNT)
    assert sorted(READERS[second](server.bootstrap, topic, group, COUNT)) == late


@pytest.mark.parametrize("assignor", ["range", "roundrobin", "cooperative-sticky"])
def test_members_that_come_and_go_leave_partitions_to_nobody_or_to_two(
    server: RunningServer, connection: Connection, assignor: str
) -> None:
    topic, group = create_topic(connection, "churn", partitions=PARTITIONS), fresh_name("group")
    fast = {"partition.assignment.strategy": assignor, "heartbeat.interval.ms": 200}
    members = [member(server.bootstrap, topic, group, **fast) for _ in range(3)]
    found: list[bytes] = []

    def settled() -> bool:
        for each in members:
            take(each, found)
        owned = Counter(partition.partition for each in members for partition in each.assignment())
        shares = sorted(len(each.assignment()) for each in members)
        return owned == Counter(range(PARTITIONS)) and shares[-1] - shares[0] <= 1

    try:
        until(settled, "an even assignment to three", limit_s=LIMIT_S)
        members.pop().close()
        until(settled, "an even assignment to two", limit_s=LIMIT_S)
        values = fill(connection, topic, 0, COUNT)
        until(lambda: settled() and len(found) >= COUNT, "every record", limit_s=LIMIT_S)
        assert sorted(found) == values
    finally:
        for each in members:
            each.close()


def test_a_static_member_that_restarts_makes_the_others_rebalance(
    server: RunningServer, connection: Connection
) -> None:
    topic, group = create_topic(connection, "static", partitions=PARTITIONS), fresh_name("group")
    found: list[bytes] = []
    assigned: list[int] = []

    def count_assignments(_: Consumer, partitions: list[TopicPartition]) -> None:
        assigned.append(len(partitions))

    fast = {"heartbeat.interval.ms": 200}
    stays = Consumer(
        {"bootstrap.servers": server.bootstrap, "group.id": group, "group.instance.id": "stays", **fast}
    )
    stays.subscribe([topic], on_assign=count_assignments)
    comes_back = member(server.bootstrap, topic, group, **fast, **{"group.instance.id": "comes-back"})
    try:
        until(
            lambda: take(stays, found) or take(comes_back, found) or len(comes_back.assignment()) == 2,
            "an assignment to two",
            limit_s=LIMIT_S,
        )
        until(lambda: take(stays, found) or len(stays.assignment()) == 2, "the other half", limit_s=LIMIT_S)
        before, share = len(assigned), comes_back.assignment()
        comes_back.close()
        comes_back = member(server.bootstrap, topic, group, **fast, **{"group.instance.id": "comes-back"})
        until(
            lambda: take(comes_back, found) or len(comes_back.assignment()) == 2,
            "the same partitions again",
            limit_s=LIMIT_S,
        )
        take(stays, found)
        assert [p.partition for p in comes_back.assignment()] == [p.partition for p in share]
        assert len(assigned) == before
    finally:
        stays.close()
        comes_back.close()


def test_a_second_member_under_the_same_instance_id_is_let_in_beside_the_first(
    server: RunningServer, connection: Connection
) -> None:
    topic, group = create_topic(connection, "fenced", partitions=1), fresh_name("group")
    identity = {"group.instance.id": "one", "heartbeat.interval.ms": 200}
    first = member(server.bootstrap, topic, group, **identity)
    until(lambda: take(first, []) or len(first.assignment()) == 1, "an assignment", limit_s=LIMIT_S)
    second = member(server.bootstrap, topic, group, **identity)
    fenced = threading.Event()

    def first_is_fenced() -> bool:
        take(second, [])
        try:
            message = first.poll(0.1)
            error = None if message is None else message.error()
            if error is not None and error.name() in ("FENCED_INSTANCE_ID", "_FATAL"):
                fenced.set()
        except KafkaException:
            fenced.set()
        return fenced.is_set()

    try:
        until(first_is_fenced, "the first to be fenced", limit_s=LIMIT_S)
        until(lambda: take(second, []) or len(second.assignment()) == 1, "the second's turn", limit_s=LIMIT_S)
    finally:
        first.close()
        second.close()


def test_aiokafka_and_confluent_share_a_group_unevenly(server: RunningServer, connection: Connection) -> None:
    topic, group = create_topic(connection, "mixed", partitions=PARTITIONS), fresh_name("group")
    values = fill(connection, topic, 0, COUNT)
    theirs: list[bytes] = []
    ours: list[bytes] = []
    fast = {"partition.assignment.strategy": "roundrobin", "heartbeat.interval.ms": 200}
    librdkafka = member(server.bootstrap, topic, group, **fast)

    async def work() -> None:
        aiokafka = aiokafka_client.aiokafka
        round_robin = [
            __import__(
                "aiokafka.coordinator.assignors.roundrobin", fromlist=["x"]
            ).RoundRobinPartitionAssignor
        ]
        consumer = aiokafka.AIOKafkaConsumer(
            topic,
            bootstrap_servers=server.bootstrap,
            group_id=group,
            auto_offset_reset="earliest",
            partition_assignment_strategy=round_robin,
            heartbeat_interval_ms=200,
        )
        async with consumer:
            while len(consumer.assignment()) != 2 or len(librdkafka.assignment()) != 2:
                for records in (await consumer.getmany(timeout_ms=100)).values():
                    theirs.extend(record.value for record in records)
                await asyncio.to_thread(take, librdkafka, ours)
            while set(theirs) | set(ours) != set(values):
                for records in (await consumer.getmany(timeout_ms=100)).values():
                    theirs.extend(record.value for record in records)
                await asyncio.to_thread(take, librdkafka, ours)

    try:
        aiokafka_client.run(work)
    finally:
        librdkafka.close()
