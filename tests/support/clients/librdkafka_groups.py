"""confluent-kafka's consumers as members of groups: each polls in a thread of its own and keeps what it saw."""

import threading
from collections.abc import Callable
from typing import Any

from confluent_kafka import Consumer, KafkaError, Message, TopicPartition
from tests.support.clients import LIMIT_S
from tests.support.clients.librdkafka import dotted
from tests.support.deadline import until

Place = tuple[str, int]
POLL_S = 0.05


class GroupMember:
    """A consumer that polls until `close`. `events` are its callbacks in order: ("assigned" | "revoked" | "lost", places)."""

    def __init__(
        self, bootstrap: str, group: str, *topics: str, protocol: str = "consumer", **settings: Any
    ) -> None:
        fixed = {
            "bootstrap.servers": bootstrap,
            "group.id": group,
            "group.protocol": protocol,
            "auto.offset.reset": "earliest",
            "enable.auto.commit": False,
            "topic.metadata.refresh.interval.ms": 1000,
        }
        self.values: list[bytes] = []
        self.errors: list[KafkaError] = []
        self.events: list[tuple[str, set[Place]]] = []
        self.owned: set[Place] = set()
        self.commits_each = False
        self._todo: list[Callable[[Consumer], None]] = []
        self._ended = threading.Event()
        self._consumer = Consumer({**fixed, **dotted(settings)})
        self._consumer.subscribe(
            list(topics), on_assign=self._assigned, on_revoke=self._revoked, on_lost=self._lost
        )
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _assigned(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        self._note("assigned", partitions)

    def _revoked(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        self._note("revoked", partitions)

    def _lost(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        self._note("lost", partitions)

    def _note(self, what: str, partitions: list[TopicPartition]) -> None:
        places = {(each.topic, each.partition) for each in partitions}
        self.events.append((what, places))
        self.owned = self.owned | places if what == "assigned" else self.owned - places

    def _run(self) -> None:
        while not self._ended.is_set():
            while self._todo:
                self._todo.pop(0)(self._consumer)
            message = self._consumer.poll(POLL_S)
            if message is not None:
                self._take(message)

    def _take(self, message: Message) -> None:
        error = message.error()
        if error is not None:
            self.errors.append(error)
            return
        value = message.value()
        assert isinstance(value, bytes)
        self.values.append(value)
        if self.commits_each:
            self._consumer.commit(message=message, asynchronous=False)

    def do(self, work: Callable[[Consumer], Any]) -> Any:
        """Do something with the consumer, in its own thread; returns the result."""
        results: list[Any] = []
        self._todo.append(lambda consumer: results.append((work(consumer),)))
        return until(lambda: results[0] if results else None, "the consumer's thread")[0]

    def subscribe(self, *topics: str) -> None:
        """Subscribe to other topics."""
        self.do(
            lambda consumer: consumer.subscribe(
                list(topics), on_assign=self._assigned, on_revoke=self._revoked, on_lost=self._lost
            )
        )

    def commit(self) -> None:
        """Commit what was handed out, and wait."""
        self.do(lambda consumer: consumer.commit(asynchronous=False))

    def close(self) -> None:
        """Leave the group and end."""
        if self._ended.is_set():
            return
        self._ended.set()
        self._thread.join(LIMIT_S)
        self._consumer.close()
