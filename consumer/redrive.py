"""Retries and dead letters: a record that can't be dealt with now holds up nobody, and is not lost.

Owns the way of a record that failed: `<topic>.retry.1`, `.2`, … with a delay each, then `<topic>.dlq`. What is written on it is `dead_letters`'. Does not
know how to send: that is done by a producer which it is given.

Invariants: the consumer is asked for the next record only after this one was dealt with, or its copy was acked in the topic where it goes next; since automatic
commits cover only what was come back from, no offset is committed before (at least once: a kill in between makes one copy more). A record of a retry
topic that is not due yet is put back: its partition waits, the others go on.

Order: a record that failed is overtaken by those behind it, also by those of its key. Within a retry topic the order stays that of the failures.
Sources: as `dead_letters`.
"""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from math import inf
from types import TracebackType
from typing import Protocol, Self

import trio

from penstock.client.lifetime import OwnedNursery
from penstock.client.metadata import TopicPartition
from penstock.consumer.consumer import Consumer
from penstock.consumer.dead_letters import (
    RecordFailure,
    as_it_was,
    dead_letter_topic,
    failed_again,
    marked,
    read_failure,
    retry_topic,
)
from penstock.consumer.record import ConsumerRecord, Headers
from penstock.consumer.signal import Signal

LOOK_AGAIN_MIN_S = 0.1
"""A partition whose next record is not due is looked at again after this at the earliest: to look costs a fetch."""


class RecordSender(Protocol):
    """What is needed of a producer. `penstock.Producer` has it."""

    async def send(
        self, topic: str, value: bytes | None, *, key: bytes | None = None, headers: Headers = ()
    ) -> object:
        """Return when it is acked."""
        ...

    async def partition_count(self, topic: str) -> int:
        """Make the topic known, and have it made where the broker does that."""
        ...


@dataclass(frozen=True, slots=True)
class RedriveStatistics:
    """What became of attempts so far: dealt with, sent to a retry topic, sent to a dead letter topic."""

    done_count: int
    retried_count: int
    dead_count: int


class Attempt:
    """One try of one record: `async with attempt as record:`. An exception that leaves the block sends the record on its way, and goes no further.

    `record` is as it was first in its topic, whichever retry topic it came from: place, time and headers. `number` counts from 1; after the try that
    `is_last` it is a dead letter. `before` is what is known of the last failure. What is no `Exception` (a cancellation, Ctrl-C) passes: the record counts as
    not dealt with, and comes again. So a time limit that is to be a failure belongs into the block, as `fail_after`.
    """

    __slots__ = (
        "_redrive",
        "before",
        "is_decided",
        "is_entered",
        "is_last",
        "number",
        "offset",
        "record",
        "topic_partition",
    )

    def __init__(
        self, redrive: "Redrive", source: ConsumerRecord, before: RecordFailure | None, *, is_last: bool
    ) -> None:
        self._redrive = redrive
        self.topic_partition = TopicPartition(source.topic, source.partition)
        """Where it was consumed: with `offset`, its place in its topic or in a retry topic."""
        self.offset = source.offset
        self.record = source if before is None else as_it_was(source, before)
        self.before = before
        self.number = 1 if before is None else before.attempts + 1
        self.is_last = is_last
        self.is_entered = False
        self.is_decided = False
        """Whether the block was left: then it is known where the record goes."""

    async def __aenter__(self) -> ConsumerRecord:
        if self.is_entered:
            raise RuntimeError("an Attempt is used for one `async with` block")
        self.is_entered = True
        return self.record

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> bool:
        if error is not None and not isinstance(error, Exception):
            return False
        await self._redrive.decide(self, error)
        return error is not None


class Redrive:
    """Deals with the records of topics, again and again where that fails, as a member of the consumer's group.

        orders = Consumer("localhost:9092", group="billing")
        async with orders as consumer, Producer("localhost:9092") as producer:
            async with Redrive(consumer, producer, "orders", delays_s=(10, 60, 600)) as redrive:
                await redrive.run(bill)                     # or: async for attempt in redrive:
                                                            #         async with attempt as record: ...

    With three delays a record is tried four times. Every exception counts as a failure; those of `dead_at_once` (such as: it can't be parsed) are not tried
    again. Of a retry topic that several groups share, each takes its own.

    The consumer subscribes to the topics and their retry topics, instead of what it read; `auto_commit` does the commits. The producer waits for acks. Retry
    and dead letter topics are made where the broker makes topics; their records are up to five kilobytes larger.
    """

    def __init__(
        self,
        consumer: Consumer,
        producer: RecordSender,
        *topics: str,
        delays_s: Sequence[float] = (10.0, 60.0, 600.0),
        dead_at_once: tuple[type[Exception], ...] = (),
    ) -> None:
        """Raises ValueError for a consumer without a group or without auto_commit, for no topics, and for delays below 0."""
        if consumer.group is None or not consumer.auto_commit:
            raise ValueError("a Redrive needs a consumer with a group, and with auto_commit")
        if not topics:
            raise ValueError("which topics?")
        if not all(0 <= delay < inf for delay in delays_s):
            raise ValueError(f"delays_s={delays_s}: seconds, none below 0")
        self._consumer = consumer
        self._producer = producer
        self._group = consumer.group
        self._clock = consumer.environment.clock
        self._topics = topics
        self._delays_s = tuple(delays_s)
        self._dead_at_once = dead_at_once
        self._bases = {
            retry_topic(topic, count): topic for topic in topics for count in range(1, len(delays_s) + 1)
        }
        self._attempt: Attempt | None = None
        self._due_s: dict[TopicPartition, float] = {}
        self._due_changed = Signal()
        self._background = OwnedNursery()
        self._is_open = False
        self._counts = {"done": 0, "retried": 0, "dead": 0}

    async def __aenter__(self) -> Self:
        """Subscribes. Raises what the producer raises of a topic that is not there and not made."""
        for topic in (*self._topics, *self._bases, *map(dead_letter_topic, self._topics)):
            await self._producer.partition_count(topic)
        self._consumer.subscribe(*self._topics, *self._bases, from_beginning=self._bases)
        nursery = await self._background.open()
        nursery.start_soon(self._resume_when_due)
        self._is_open = True
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._is_open = False
        left = self._attempt
        if left is not None and not left.is_decided:
            # Else the consumer might take leaving for done.
            self._put_back(left.topic_partition, left.offset)
        await self._background.close(kind, error, traceback)
        if error is None:
            self._check_entered()

    async def run(self, handler: Callable[[ConsumerRecord], Awaitable[object]]) -> None:
        """Give each record to `handler`, one after the other: dealt with when it returns, failed when it raises. Until cancelled.

        Raises what the consumer and the producer raise; what is in hand then is consumed again. Cancellation: likewise.
        """
        async for attempt in self:
            async with attempt as record:
                await handler(record)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Attempt:
        """The next attempt, when it is due. Raises as `Consumer.next_batch`. Cancellation: it will be the next one."""
        if not self._is_open:
            raise RuntimeError("a Redrive is used inside its `async with` block")
        self._check_entered()
        left, self._attempt = self._attempt, None
        if left is not None and not left.is_decided:
            self._put_back(left.topic_partition, left.offset)
        while self._attempt is None:
            record = await anext(self._consumer)
            failure = read_failure(record.headers) if record.topic in self._bases else None
            if failure is not None and failure.group != self._group:
                continue
            wait_s = 0.0 if failure is None else self._wait_s(failure)
            if wait_s > 0:
                self._put_back(TopicPartition(record.topic, record.partition), record.offset, wait_s)
                continue
            attempts = 0 if failure is None else failure.attempts
            self._attempt = Attempt(self, record, failure, is_last=attempts >= len(self._delays_s))
        return self._attempt

    def statistics(self) -> RedriveStatistics:
        """Counts since the beginning."""
        return RedriveStatistics(self._counts["done"], self._counts["retried"], self._counts["dead"])

    async def decide(self, attempt: Attempt, error: Exception | None) -> None:
        """For `Attempt`: its block was left."""
        if error is None:
            self._counts["done"] += 1
        else:
            await self._send_on(attempt, error)
        attempt.is_decided = True

    async def _send_on(self, attempt: Attempt, error: Exception) -> None:
        record = attempt.record
        failure = failed_again(
            record,
            attempt.before,
            error,
            group=self._group,
            delays_s=self._delays_s,
            is_given_up=isinstance(error, self._dead_at_once),
            now_ms=self._clock.wall_ms(),
        )
        is_dead = failure.due_ms is None
        topic = dead_letter_topic(record.topic) if is_dead else retry_topic(record.topic, failure.attempts)
        headers = marked(record.headers, failure)
        await self._producer.send(topic, record.value, key=record.key, headers=headers)
        self._counts["dead" if is_dead else "retried"] += 1

    def _check_entered(self) -> None:
        if self._attempt is not None and not self._attempt.is_entered:
            raise RuntimeError(
                "an attempt was left out: `async with attempt as record:` tells what becomes of it"
            )

    # What is not due

    def _wait_s(self, failure: RecordFailure) -> float:
        if failure.due_ms is None:
            return 0.0
        wait_s = (failure.due_ms - self._clock.wall_ms()) / 1000
        level = min(failure.attempts, len(self._delays_s)) - 1
        return min(wait_s, self._delays_s[level])  # longer only if a clock was set back

    def _put_back(self, tp: TopicPartition, offset: int, wait_s: float = 0.0) -> None:
        """It will come again, and nothing of its partition before it is due: those behind it are due later still."""
        if tp not in self._consumer.assignment:
            return  # somebody else's meanwhile
        self._consumer.seek(tp, offset)
        if not wait_s:
            return
        self._consumer.pause(tp)
        self._due_s[tp] = self._clock.monotonic() + max(wait_s, LOOK_AGAIN_MIN_S)
        self._due_changed.set()

    async def _resume_when_due(self) -> None:
        while True:
            now_s = self._clock.monotonic()
            due = [tp for tp, due_s in self._due_s.items() if due_s <= now_s]
            for tp in due:
                del self._due_s[tp]
            self._consumer.resume(*self._consumer.paused.intersection(due))
            with trio.move_on_at(min(self._due_s.values(), default=inf)):
                await self._due_changed.wait()


__all__ = ["Attempt", "RecordSender", "Redrive", "RedriveStatistics"]
