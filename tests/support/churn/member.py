"""One member of a churning group: `python -m tests.support.churn.member CLIENT ...`. Reads, notes what it did, commits, until SIGTERM.

Owns a loop for each client library, with a commit that is waited for after every poll. A refused commit (the member was fenced or the
group rebalances) is no error: the records will be read again by whoever owns the partition next. What was processed is in the file, by one
write for each poll, before it is committed: so a kill between the two shows as a repetition, never as a loss.
"""

import asyncio
import importlib
import json
import os
import signal
import sys
from argparse import ArgumentParser
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

POLL_S = 0.1
JOIN_POLL_MS = 1_000
"""kafka-python 3.0.12 drops an assignment that comes between two polls where it joined again over new metadata: a poll sees a join through."""
POLL_RECORDS = 20
DEBUG = os.environ.get("CHURN_DEBUG", "")
"""What librdkafka logs to its member's file of errors, `cgrp,topic,fetch` say; by default nothing."""


@dataclass(frozen=True, slots=True)
class Membership:
    """How to join. Times in ms."""

    bootstrap: str
    group: str
    topic: str
    protocol: str
    assignor: str
    session_timeout_ms: int
    instance: str | None
    client_id: str


class Notes:
    """The file of one member: a line of JSON for each event."""

    def __init__(self, path: str) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    def write(self, event: str, **more: object) -> None:
        """Add a line, whole or not at all."""
        os.write(self._file, (json.dumps({"event": event, **more}) + "\n").encode())

    def did(self, offsets: Iterable[tuple[int, int]]) -> dict[int, int]:
        """Note processed (partition, offset) pairs; returns what is to be committed."""
        pairs = list(offsets)
        if pairs:
            self.write("did", records=pairs)
        return {partition: offset + 1 for partition, offset in sorted(pairs)}

    def committed(self, ends: Mapping[int, int]) -> None:
        """Note offsets whose commit was acked."""
        self.write("committed", ends=list(ends.items()))


class Stop:
    """Whether the process was asked to leave."""

    def __init__(self) -> None:
        self.asked = False
        signal.signal(signal.SIGTERM, self._ask)

    def _ask(self, *_: object) -> None:
        self.asked = True


def librdkafka(how: Membership, notes: Notes, stop: Stop) -> None:
    """confluent-kafka. The group must have a commit of every partition: a position from anywhere else ends the member."""
    from confluent_kafka import Consumer, KafkaException, TopicPartition

    settings: dict[str, Any] = {
        "bootstrap.servers": how.bootstrap,
        "group.id": how.group,
        "client.id": how.client_id,
        "enable.auto.commit": False,
        "auto.offset.reset": "error",
        "reconnect.backoff.ms": 20,
        "reconnect.backoff.max.ms": 200,
        "retry.backoff.ms": 20,
        **({"debug": DEBUG} if DEBUG else {"log_level": 0}),
    }
    if how.protocol == "consumer":
        settings |= {"group.protocol": "consumer"}
    else:
        settings |= {
            "partition.assignment.strategy": how.assignor,
            "session.timeout.ms": how.session_timeout_ms,
            "heartbeat.interval.ms": how.session_timeout_ms // 5,
            "max.poll.interval.ms": max(how.session_timeout_ms, 10_000),
        }
    if how.instance is not None:
        settings["group.instance.id"] = how.instance
    consumer: Any = Consumer(settings)
    uncommitted: dict[int, int] = {}

    def note(event: str) -> Callable[[Any, list[Any]], None]:
        def callback(_: Any, partitions: list[Any]) -> None:
            notes.write(event, partitions=[each.partition for each in partitions])
            if event != "assign":
                for each in partitions:
                    uncommitted.pop(each.partition, None)

        return callback

    consumer.subscribe([how.topic], on_assign=note("assign"), on_revoke=note("revoke"), on_lost=note("lose"))
    while not stop.asked:
        found = [message for message in consumer.consume(POLL_RECORDS, POLL_S) if not _is_trouble(message)]
        uncommitted |= notes.did((message.partition(), message.offset()) for message in found)
        if not uncommitted:
            continue
        try:
            consumer.commit(
                offsets=[
                    TopicPartition(how.topic, partition, end, metadata=how.client_id)
                    for partition, end in uncommitted.items()
                ],
                asynchronous=False,
            )
            notes.committed(uncommitted)
            uncommitted.clear()
        except (
            KafkaException
        ) as error:  # a KIP-848 member may keep a partition through a refusal: what was done is told again
            notes.write("refused", reason=str(error))
    notes.write("leaving")
    consumer.close()


def _is_trouble(message: Any) -> bool:
    """Whether it is no record. Raises KafkaException where the broker knows no such position, or none at all."""
    from confluent_kafka import KafkaError, KafkaException

    error = message.error()
    if error is not None and error.code() == KafkaError._AUTO_OFFSET_RESET:
        raise KafkaException(error)
    return error is not None


def aiokafka(how: Membership, notes: Notes, stop: Stop) -> None:
    """aiokafka."""
    asyncio.run(_aiokafka(how, notes, stop))


async def _aiokafka(how: Membership, notes: Notes, stop: Stop) -> None:
    library: Any = importlib.import_module("aiokafka")
    errors: Any = importlib.import_module("aiokafka.errors")
    assignors: Any = importlib.import_module(f"aiokafka.coordinator.assignors.{how.assignor}")
    assignor = {"range": "RangePartitionAssignor", "roundrobin": "RoundRobinPartitionAssignor"}[how.assignor]
    consumer = library.AIOKafkaConsumer(
        bootstrap_servers=how.bootstrap,
        group_id=how.group,
        client_id=how.client_id,
        enable_auto_commit=False,
        auto_offset_reset="earliest",
        session_timeout_ms=how.session_timeout_ms,
        heartbeat_interval_ms=how.session_timeout_ms // 5,
        max_poll_interval_ms=max(how.session_timeout_ms, 10_000),
        partition_assignment_strategy=(getattr(assignors, assignor),),
        group_instance_id=how.instance,
        retry_backoff_ms=50,
    )

    class Listener(library.ConsumerRebalanceListener):  # type: ignore[misc]
        async def on_partitions_revoked(self, revoked: Any) -> None:
            notes.write("revoke", partitions=[each.partition for each in revoked])

        async def on_partitions_assigned(self, assigned: Any) -> None:
            notes.write("assign", partitions=[each.partition for each in assigned])

    consumer.subscribe([how.topic], listener=Listener())
    await consumer.start()
    try:
        while not stop.asked:
            found = await consumer.getmany(timeout_ms=int(POLL_S * 1000), max_records=POLL_RECORDS)
            ends = notes.did((record.partition, record.offset) for part in found.values() for record in part)
            if not ends:
                continue
            try:
                offsets = {
                    library.TopicPartition(how.topic, p): (end, how.client_id) for p, end in ends.items()
                }
                await consumer.commit(offsets)
                notes.committed(ends)
            except errors.KafkaError as error:
                notes.write("refused", reason=str(error))
    finally:
        await consumer.stop()


def kafka_python(how: Membership, notes: Notes, stop: Stop) -> None:
    """kafka-python."""
    library: Any = importlib.import_module("kafka")
    errors: Any = importlib.import_module("kafka.errors")
    assignor: Any = importlib.import_module(f"kafka.coordinator.assignors.{how.assignor}")
    name = {"range": "RangePartitionAssignor", "roundrobin": "RoundRobinPartitionAssignor"}[how.assignor]
    consumer = library.KafkaConsumer(
        bootstrap_servers=how.bootstrap,
        group_id=how.group,
        client_id=how.client_id,
        enable_auto_commit=False,
        auto_offset_reset="earliest",
        session_timeout_ms=how.session_timeout_ms,
        heartbeat_interval_ms=how.session_timeout_ms // 5,
        max_poll_interval_ms=max(how.session_timeout_ms, 10_000),
        partition_assignment_strategy=[getattr(assignor, name)],
        group_instance_id=how.instance,
        retry_backoff_ms=50,
        reconnect_backoff_ms=20,
        reconnect_backoff_max_ms=200,
    )
    fresh: set[Any] = set()

    class Listener(library.ConsumerRebalanceListener):  # type: ignore[misc]
        def on_partitions_revoked(self, revoked: Any) -> None:
            notes.write("revoke", partitions=[each.partition for each in revoked])

        def on_partitions_assigned(self, assigned: Any) -> None:
            notes.write("assign", partitions=[each.partition for each in assigned])
            fresh.update(assigned)

    consumer.subscribe([how.topic], listener=Listener())
    while not stop.asked:
        found = consumer.poll(timeout_ms=JOIN_POLL_MS, max_records=POLL_RECORDS)
        # It keeps the position of a partition that it had, lost in a generation which it missed, and has again (3.0.12): others
        # have committed meanwhile, and its commits would take theirs back. It does so with Apache Kafka as well.
        for place in fresh & consumer.assignment():
            found.pop(place, None)
            consumer.seek(place, consumer.committed(place) or 0)
        fresh.clear()
        ends = notes.did((record.partition, record.offset) for part in found.values() for record in part)
        if not ends:
            continue
        offsets = {
            library.TopicPartition(how.topic, p): library.OffsetAndMetadata(end, how.client_id, -1)
            for p, end in ends.items()
        }
        try:
            consumer.commit(offsets)
            notes.committed(ends)
        except errors.KafkaError as error:
            notes.write("refused", reason=str(error))
    consumer.close()


def penstock(how: Membership, notes: Notes, stop: Stop) -> None:
    """Our own."""
    import trio

    trio.run(_penstock, how, notes, stop)


async def _penstock(how: Membership, notes: Notes, stop: Stop) -> None:
    import trio

    from penstock.client.group_values import OffsetAndMetadata
    from penstock.client.metadata import TopicPartition
    from penstock.consumer.consumer import Consumer
    from penstock.errors import PenstockError

    def noting(event: str) -> Callable[[frozenset[TopicPartition]], Awaitable[None]]:
        async def note(partitions: frozenset[TopicPartition]) -> None:
            notes.write(event, partitions=[each.partition for each in partitions])

        return note

    consumer_protocol = how.protocol == "consumer"
    async with Consumer(
        how.bootstrap,
        how.topic,
        group=how.group,
        client_id=how.client_id,
        group_protocol="consumer" if consumer_protocol else "classic",
        assignors=("range",) if consumer_protocol else (how.assignor,),
        group_instance_id=how.instance,
        auto_offset_reset="earliest",
        auto_commit=False,
        session_timeout_ms=how.session_timeout_ms,
        heartbeat_interval_ms=how.session_timeout_ms // 5,
        max_poll_interval_ms=max(how.session_timeout_ms, 10_000),
        on_assigned=noting("assign"),
        on_revoked=noting("revoke"),
        on_lost=noting("lose"),
    ) as consumer:
        while not stop.asked:
            with trio.move_on_after(POLL_S):
                batch = await consumer.next_batch(max_records=POLL_RECORDS)
                ends = notes.did((batch.partition, record.offset) for record in batch)
                offsets = {
                    TopicPartition(how.topic, partition): OffsetAndMetadata(end, metadata=how.client_id)
                    for partition, end in ends.items()
                }
                with trio.CancelScope(shield=True):
                    try:
                        await consumer.commit(offsets)
                        notes.committed(ends)
                    except PenstockError as error:
                        notes.write("refused", reason=str(error))


CLIENTS: Mapping[str, Callable[[Membership, Notes, Stop], None]] = {
    "librdkafka": librdkafka,
    "aiokafka": aiokafka,
    "kafka-python": kafka_python,
    "penstock": penstock,
}


def main() -> None:
    """The process."""
    parser = ArgumentParser()
    parser.add_argument("client", choices=sorted(CLIENTS))
    for name in ("bootstrap", "group", "topic", "protocol", "assignor", "notes"):
        parser.add_argument(f"--{name}", required=True)
    parser.add_argument("--session-timeout-ms", type=int, required=True)
    parser.add_argument("--instance")
    given = parser.parse_args()
    how = Membership(
        given.bootstrap,
        given.group,
        given.topic,
        given.protocol,
        given.assignor,
        given.session_timeout_ms,
        given.instance,
        f"{given.client}-{os.getpid()}",
    )
    CLIENTS[given.client](how, Notes(given.notes), Stop())
    sys.stdout.flush()


if __name__ == "__main__":
    main()
