"""Members of groups by other people's clients, each in a thread of its own; what they own goes into a ledger that threads may write."""

import asyncio
import importlib
import threading
import time
from collections.abc import Callable, Generator, Iterable
from contextlib import contextmanager
from typing import Any

import trio
from tests.support.group_members import Ledger, RecordingListener

from penstock.client.metadata import TopicPartition

Partitions = frozenset[TopicPartition]
SESSION_MS = 6_000


class ForeignMember:
    """Joins when made; `leave` returns when it has left. Errors of its thread are raised by `leave`."""

    def __init__(
        self, ledger: Ledger, name: str, bootstrap: str, group: str, topic: str, assignor: str
    ) -> None:
        self.listener = RecordingListener(ledger, name)
        self._ledger = ledger
        self._bootstrap, self._group, self._topic, self._assignor = bootstrap, group, topic, assignor
        self._token = trio.lowlevel.current_trio_token()
        self.stopping = threading.Event()
        self._failure: BaseException | None = None
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()

    @property
    def owned(self) -> Partitions:
        return self.listener.owned

    async def leave(self) -> None:
        self.stopping.set()
        await trio.to_thread.run_sync(self.thread.join)
        if self._failure is not None:
            raise self._failure

    def _run(self) -> None:
        try:
            self.consume()
        except Exception as error:  # noqa: BLE001 - handed on
            self._failure = error
            trio.from_thread.run_sync(self._ledger.fail, error, trio_token=self._token)

    def consume(self) -> None:
        raise NotImplementedError

    def gave(self, partitions: Iterable[Any]) -> None:
        self._in_trio(lambda given: self._take_note(given, is_gain=True), partitions)

    def took(self, partitions: Iterable[Any]) -> None:
        self._in_trio(lambda given: self._take_note(given, is_gain=False), partitions)

    def _take_note(self, partitions: Partitions, *, is_gain: bool) -> None:
        if is_gain:
            partitions -= self.listener.owned  # some clients name all that they have, not only what is new
            self.listener.owned |= partitions
            self._ledger.give(self.listener, partitions)
        else:
            partitions &= self.listener.owned
            self.listener.owned -= partitions
            self._ledger.take(self.listener, partitions)

    def _in_trio(self, note: Callable[[Partitions], None], partitions: Iterable[Any]) -> None:
        named = frozenset(TopicPartition(partition.topic, partition.partition) for partition in partitions)
        trio.from_thread.run_sync(note, named, trio_token=self._token)


class ConfluentMember(ForeignMember):
    """librdkafka."""

    def consume(self) -> None:
        from confluent_kafka import Consumer

        is_cooperative = self._assignor == "cooperative-sticky"
        consumer = Consumer(
            {
                "bootstrap.servers": self._bootstrap,
                "group.id": self._group,
                "partition.assignment.strategy": self._assignor,
                "session.timeout.ms": SESSION_MS,
                "heartbeat.interval.ms": 200,
                "enable.auto.commit": False,
            }
        )

        def on_assign(consumer: Any, partitions: list[Any]) -> None:
            self.gave(partitions)
            (consumer.incremental_assign if is_cooperative else consumer.assign)(partitions)

        def on_revoke(consumer: Any, partitions: list[Any]) -> None:
            self.took(partitions)
            if is_cooperative:
                consumer.incremental_unassign(partitions)
            else:
                consumer.unassign()

        consumer.subscribe([self._topic], on_assign=on_assign, on_revoke=on_revoke)
        while not self.stopping.is_set():
            consumer.poll(0.05)
        consumer.close()


ASSIGNORS = {
    "range": ("range", "RangePartitionAssignor"),
    "roundrobin": ("roundrobin", "RoundRobinPartitionAssignor"),
    "sticky": ("sticky.sticky_assignor", "StickyPartitionAssignor"),
    "cooperative-sticky": ("cooperative_sticky", "CooperativeStickyAssignor"),
}
"""Where kafka-python has them, and aiokafka, which descends from it."""


def assignor_of(package: str, name: str) -> Any:
    module, kind = ASSIGNORS[name]
    return getattr(importlib.import_module(f"{package}.coordinator.assignors.{module}"), kind)


class KafkaPythonMember(ForeignMember):
    """kafka-python."""

    def consume(self) -> None:
        kafka: Any = importlib.import_module("kafka")  # untyped
        member = self

        class Listener(kafka.ConsumerRebalanceListener):  # type: ignore[misc]
            def on_partitions_revoked(self, revoked: Any) -> None:
                member.took(revoked)

            def on_partitions_assigned(self, assigned: Any) -> None:
                member.gave(assigned)

            def on_partitions_lost(self, lost: Any) -> None:
                member.took(lost)

        consumer = kafka.KafkaConsumer(
            bootstrap_servers=self._bootstrap,
            group_id=self._group,
            partition_assignment_strategy=[assignor_of("kafka", self._assignor)],
            session_timeout_ms=SESSION_MS,
            heartbeat_interval_ms=200,
            enable_auto_commit=False,
        )
        consumer.subscribe([self._topic], listener=Listener())
        while not self.stopping.is_set():
            # 3.0.12 drops an assignment that comes between two polls where the leader joined again over new metadata (`need_rejoin`
            # in its coordinator has turned false by then). So one poll is to see a join through.
            consumer.poll(timeout_ms=1_000)
        had = [TopicPartition(*partition) for partition in consumer.assignment()]
        self.took(had)  # it closes without a call of its own
        consumer.close()


class AiokafkaMember(ForeignMember):
    """aiokafka, with an event loop of its own."""

    def consume(self) -> None:
        asyncio.run(self._consume())

    async def _consume(self) -> None:
        aiokafka: Any = importlib.import_module("aiokafka")  # untyped
        member = self

        class Listener(aiokafka.ConsumerRebalanceListener):  # type: ignore[misc]
            async def on_partitions_revoked(self, revoked: Any) -> None:
                member.took(revoked)

            async def on_partitions_assigned(self, assigned: Any) -> None:
                member.gave(assigned)

        consumer = aiokafka.AIOKafkaConsumer(
            bootstrap_servers=self._bootstrap,
            group_id=self._group,
            partition_assignment_strategy=(assignor_of("aiokafka", self._assignor),),
            session_timeout_ms=SESSION_MS,
            heartbeat_interval_ms=200,
            enable_auto_commit=False,
        )
        consumer.subscribe(topics=[self._topic], listener=Listener())
        await consumer.start()
        while not self.stopping.is_set():
            await consumer.getmany(timeout_ms=50)
        self.took(consumer.assignment())
        await consumer.stop()


CLIENTS: dict[str, type[ForeignMember]] = {
    "confluent-kafka": ConfluentMember,
    "kafka-python": KafkaPythonMember,
    "aiokafka": AiokafkaMember,
}


@contextmanager
def quiet_end(members: list[ForeignMember]) -> Generator[None]:
    """Stop whatever runs when a test fails."""
    try:
        yield
    finally:
        for member in members:
            member.stopping.set()
        end = time.monotonic() + 1
        for member in members:
            member.thread.join(max(0.0, end - time.monotonic()))
