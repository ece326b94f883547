"""The producer: records in, acks out.

Owns the public face: checks what comes in, chooses the partition, waits for room and for acks. What happens to a record after that is in
`accumulator` (pure) and `sender` (tasks).

Order: records that one task sends to one partition are in the log in that order, whatever is tried again. With idempotence (the default with
acks="all") each is there once; without it, a lost answer can double a batch.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import islice
from types import TracebackType
from typing import Final, Self, cast

import trio

from penstock.client.cluster import Cluster
from penstock.client.connection import ConnectionSettings
from penstock.client.errors import BufferFull, DeliveryFailed
from penstock.client.lifetime import OwnedNursery
from penstock.client.metadata import parse_bootstrap
from penstock.client.topic_cache import TopicCache
from penstock.errors import PenstockError
from penstock.producer.accumulator import (
    BATCH_OVERHEAD_BYTES,
    Accumulator,
    record_bound_bytes,
    run_bound_bytes,
)
from penstock.producer.batch import Batch, Delivery, RecordMetadata, copy_of
from penstock.producer.many import ManyDeliveries, SendManyResult
from penstock.producer.options import checked_options
from penstock.producer.partition_queue import PartitionQueue
from penstock.producer.partitioner import KeyHashes, Partitioner, StickyPartition
from penstock.producer.sender import Sender
from penstock.protocol.record_writer import KEYLESS, RunKey
from penstock.runtime.environment import Environment

_MIB: Final = 1024 * 1024
_INT64_MAX: Final = 2**63 - 1
_RUN_MAX: Final = 4096
_WITHOUT_CHECKPOINT_MAX: Final = 1000

Headers = Sequence[tuple[str, bytes | None]]


class RecordTooLarge(PenstockError, ValueError):
    """The record is over `request_max_bytes` or over `buffer_memory_bytes`; it could never be sent."""


@dataclass(frozen=True, slots=True)
class OutgoingRecord:
    """A record for `send_many` that has more than a value."""

    value: bytes | None
    key: bytes | None = None
    partition: int | None = None
    timestamp_ms: int | None = None
    headers: Headers = ()


class Producer:
    """An async context manager: `async with Producer("localhost:9092") as producer:`. Connects on first use.

    Leaving the block sends what is buffered and waits for all acks. Leaving it by an error or by cancellation does not: what was not acked
    fails with DeliveryFailed, at once. Any number of tasks may use one producer.
    """

    def __init__(
        self,
        bootstrap: str,
        environment: Environment | None = None,
        *,
        acks: str | int = "all",
        idempotence: bool | None = None,
        compression: str = "none",
        compression_level: int | None = None,
        linger_ms: float = 0.0,
        batch_size_bytes: int = 256 * 1024,
        max_in_flight: int = 5,
        buffer_memory_bytes: int = 32 * _MIB,
        delivery_timeout_ms: float = 120_000,
        request_timeout_ms: int = 30_000,
        request_max_bytes: int = _MIB,
        partitioner: Partitioner | None = None,
        client_id: str = "penstock-producer",
    ) -> None:
        """Only checks and remembers; Kafka's names in brackets.

        Args:
            bootstrap: `host:port`, several separated by commas.
            environment: the ports; those of this machine by default.
            acks: who must have a record: "all" in-sync replicas, the "leader", or "none" (offsets are -1, nothing is tried again). [acks]
            idempotence: no doubles, whatever is tried again; on by default where acks="all", which it needs. [enable.idempotence]
            compression: "none", "gzip", "snappy", "lz4" or "zstd". [compression.type]
            compression_level: Kafka's numbers; the codec's default where None. [compression.<codec>.level]
            linger_ms: how long a batch that is not full waits for more. 0 sends at once, and batches all that comes while
                `max_in_flight` requests are on their way. [linger.ms]
            batch_size_bytes: the most that a batch takes before compression; a larger record gets one of its own. [batch.size]
            max_in_flight: requests to one broker that wait for their answers; at most 5 with idempotence. Without it, and with acks,
                one batch of a partition at a time, for the order's sake. [max.in.flight.requests.per.connection]
            buffer_memory_bytes: the most that unacked records take; past it calls wait. [buffer.memory]
            delivery_timeout_ms: how long a batch may take from its first record to its ack, all attempts together. [delivery.timeout.ms]
            request_timeout_ms: how long a broker may wait for replicas; silent for longer, it counts as lost. [request.timeout.ms]
            request_max_bytes: the most that a request takes, and a record. [max.request.size]
            partitioner: a function `(topic, key, value, partition_count) -> partition` for records that name none. By default
                keys go where Java's producer puts them, and records without a key stick to a partition for a batch. [partitioner.class]
            client_id: what brokers log. [client.id]

        Raises:
            ValueError: an option is out of its bounds, or two don't go together.
            InvalidAddress: `bootstrap` can't be read.
        """
        self._bootstrap = parse_bootstrap(bootstrap)
        self._environment = environment or _production_environment()
        self._options = checked_options(
            acks=acks,
            idempotence=idempotence,
            compression=compression,
            compression_level=compression_level,
            linger_ms=linger_ms,
            batch_size_bytes=batch_size_bytes,
            max_in_flight=max_in_flight,
            buffer_memory_bytes=buffer_memory_bytes,
            delivery_timeout_ms=delivery_timeout_ms,
            request_timeout_ms=request_timeout_ms,
            request_max_bytes=request_max_bytes,
            partitioner=partitioner,
        )
        self._settings = ConnectionSettings(client_id=client_id, request_timeout_ms=request_timeout_ms)
        self._background = OwnedNursery()
        self._accumulator = Accumulator(self._options.limits)
        self._cluster: Cluster | None = None
        self._opened: Sender | None = None
        self._hashes = KeyHashes()
        self._sticky: dict[str, StickyPartition] = {}
        self._room_lock = trio.Lock()
        self._since_checkpoint = 0

    async def __aenter__(self) -> Self:
        if self._cluster is not None:
            raise RuntimeError("a Producer is used for one `async with` block")
        nursery = await self._background.open()
        self._cluster = Cluster(self._environment, self._bootstrap, nursery, self._settings)
        topics = TopicCache(self._cluster, self._environment, creates_topics=True)
        self._opened = Sender(
            self._accumulator, self._cluster, topics, self._environment, self._options, nursery
        )
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        try:
            if error is None and self._opened is not None and self._opened.failure is None:
                await self.flush()
            elif error is None:
                self._raise_unseen_failures()
        except BaseException as own:
            self._end()
            await self._background.close(type(own), own, own.__traceback__)
            raise
        self._end()
        await self._background.close(kind, error, traceback)

    async def send(
        self,
        topic: str,
        value: bytes | None,
        *,
        key: bytes | None = None,
        partition: int | None = None,
        timestamp_ms: int | None = None,
        headers: Headers = (),
    ) -> RecordMetadata:
        """Send a record and wait for its ack; it is then as durable as `acks` says.

        `timestamp_ms` (since 1970) is now where None. `headers` may repeat a name. A topic that is missing is created where the broker does that.

        Raises:
            TypeError, ValueError, RecordTooLarge: the record can't be; nothing was sent.
            BrokerError: the broker refused it: BacklogFull, UnknownTopic, AuthorizationFailed, ProducerFenced, …; it is not in the log.
            DeliveryTimedOut, DeliveryFailed: no ack; their `may_be_delivered` tells whether it may be in the log.
            BootstrapFailed, AddressError, ConnectionLost: the topic was not known yet, and no broker answered in several attempts.

        Cancellation: while it waits for room, nothing was sent; afterwards the record is delivered all the same, unseen.
        """
        delivery = await self.enqueue(
            topic, value, key=key, partition=partition, timestamp_ms=timestamp_ms, headers=headers
        )
        return await delivery.wait()

    async def enqueue(
        self,
        topic: str,
        value: bytes | None,
        *,
        key: bytes | None = None,
        partition: int | None = None,
        timestamp_ms: int | None = None,
        headers: Headers = (),
    ) -> Delivery:
        """Take a record, waiting for room in the buffer but not for its ack: `await delivery.wait()` does, and `flush` for all.

        Raises as `send`, but for what becomes of the record later.

        Cancellation: nothing was taken.
        """
        bound_bytes = self._checked_bound(key, value, timestamp_ms, headers)
        sender = self._sender
        if topic not in sender.known:
            await self._learn(topic)
        if self._room_lock.locked() or not self._has_room(bound_bytes):
            await self._wait_for_room(bound_bytes)
        else:
            self._since_checkpoint += 1
            if self._since_checkpoint >= _WITHOUT_CHECKPOINT_MAX:
                self._since_checkpoint = 0
                await trio.lowlevel.checkpoint()
                if not self._has_room(bound_bytes):
                    await self._wait_for_room(bound_bytes)
        return self._take(topic, value, key, partition, timestamp_ms, headers, bound_bytes)

    def send_nowait(
        self,
        topic: str,
        value: bytes | None,
        *,
        key: bytes | None = None,
        partition: int | None = None,
        timestamp_ms: int | None = None,
        headers: Headers = (),
    ) -> Delivery:
        """Take a record without waiting at all.

        Raises as `enqueue`, and BufferFull where there is no room, or the topic's partitions are not known yet (`partition_count`
        learns them).
        """
        bound_bytes = self._checked_bound(key, value, timestamp_ms, headers)
        if topic not in self._sender.known:
            raise BufferFull(f"the partitions of {topic} are not known yet: await partition_count first")
        if self._room_lock.locked() or not self._has_room(bound_bytes):
            raise BufferFull(f"{self._accumulator.buffered_bytes} bytes are waiting for their acks")
        return self._take(topic, value, key, partition, timestamp_ms, headers, bound_bytes)

    async def send_many(
        self,
        topic: str,
        values: Iterable[bytes | OutgoingRecord | None],
        *,
        key: bytes | None = None,
        partition: int | None = None,
    ) -> SendManyResult:
        """Send many records and wait for all acks: the fast way. Takes `values` as there is room for them, a few thousand at a time.

        `key` and `partition` are for values that name none themselves; records of one call share a time, within some milliseconds.
        An iterator that takes long holds up the event loop; feed such with `enqueue`.

        Raises as `send`. A value that can't be, or that is refused, ends the call: no more values are taken, those before it are
        waited for, and the error's note tells how many were acked. What `values` itself raises comes out likewise.

        Cancellation: what was taken is delivered all the same, unseen.
        """
        if topic not in self._sender.known:
            await self._learn(topic)
        if partition is not None:
            self._check_partition(topic, partition)
        run_key = KEYLESS if key is None else RunKey(_checked_bytes("key", key))
        many = ManyDeliveries(topic)
        iterator = iter(values)
        try:
            while chunk := list(islice(iterator, _RUN_MAX)):
                if set(map(type, chunk)) == {bytes} and self._options.partitioner is None:
                    run = cast(list[bytes], chunk)
                    await self._take_run(topic, run, run_key, key, partition, many)
                else:
                    await self._take_each(topic, chunk, key, partition, many)
                many.fold()
                if many.failure is not None:
                    break
            await many.settle()
        except Exception as error:
            await many.settle()
            error.add_note(many.note())
            raise
        finally:
            many.give_up()  # of what cancellation left
        many.raise_failure()
        return many.result()

    async def flush(self) -> None:
        """Wait until everything that was taken before the call is acked or has failed. Linger does not count meanwhile.

        Raises:
            DeliveryFailed, BrokerError: records that nobody waited for were not acked since the last flush: the first one's error, with
                a note that tells how many there are. (Those who waited were told themselves.)

        Cancellation: only the waiting ends.
        """
        sender = self._sender
        self._accumulator.flush_count += 1
        sender.wake_all()
        try:
            for queue in list(self._accumulator.queues()):
                for batch in queue.unfinished:
                    await batch.wait_finished()
        finally:
            self._accumulator.flush_count -= 1
        self._raise_unseen_failures()

    async def partition_count(self, topic: str) -> int:
        """How many partitions a topic has, as far as is known (counts grow seldom, and are asked for again every five minutes).

        Raises:
            UnknownTopic, BrokerError, BootstrapFailed, AddressError, ConnectionLost: as `send`.
        """
        if topic not in self._sender.known:
            await self._learn(topic)
        return len(self._sender.known[topic].partitions)

    @property
    def buffered_bytes(self) -> int:
        """What unacked records take now, of `buffer_memory_bytes`."""
        return self._accumulator.buffered_bytes

    @property
    def _sender(self) -> Sender:
        sender = self._opened
        if sender is None:
            raise RuntimeError("a Producer is used inside its `async with` block")
        if sender.failure is not None:
            raise copy_of(sender.failure)
        return sender

    def _end(self) -> None:
        assert self._opened is not None
        assert self._cluster is not None
        text = "the producer was closed before the records were acked"
        self._opened.fail(DeliveryFailed(text, may_be_delivered=False))
        self._cluster.close()

    def _raise_unseen_failures(self) -> None:
        count, error = self._accumulator.take_unseen_failures()
        if error is not None:
            failure = copy_of(error)
            failure.add_note(f"{count} records that nobody waited for were not acked")
            raise failure

    # What comes in

    def _checked_bound(
        self, key: bytes | None, value: bytes | None, timestamp_ms: int | None, headers: Headers
    ) -> int:
        """Check a record; the most that it takes."""
        if value is not None and type(value) is not bytes:
            _checked_bytes("value", value)
        if key is not None and type(key) is not bytes:
            _checked_bytes("key", key)
        if timestamp_ms is not None and not 0 <= timestamp_ms <= _INT64_MAX:
            raise ValueError(f"timestamp_ms={timestamp_ms}: it is 0 or more, and has 64 bits")
        if headers:
            _check_headers(headers)
        bound_bytes = record_bound_bytes(key, value, headers)
        if bound_bytes > self._record_max_bytes:
            raise RecordTooLarge(
                f"a record of {bound_bytes} bytes, over the bound of {self._record_max_bytes}"
            )
        return bound_bytes

    @property
    def _record_max_bytes(self) -> int:
        return self._options.request_max_bytes

    def _check_partition(self, topic: str, partition: int) -> None:
        count = len(self._sender.known[topic].partitions)
        if type(partition) is not int or not 0 <= partition < count:
            raise ValueError(f"partition={partition!r}: {topic} has partitions 0 to {count - 1}")

    async def _learn(self, topic: str) -> None:
        if type(topic) is not str or not topic:
            raise TypeError(f"topic={topic!r}: it is a name, not empty")
        sender = self._sender
        sender.place(await sender.topics.get(topic))

    # Room

    def _has_room(self, bound_bytes: int) -> bool:
        accumulator = self._accumulator
        return accumulator.room_bytes >= bound_bytes + BATCH_OVERHEAD_BYTES or not accumulator.buffered_bytes

    async def _wait_for_room(self, bound_bytes: int) -> None:
        """First come, first served: a large record is not overtaken by small ones for ever."""
        async with self._room_lock:
            self._accumulator.starved_count += 1
            try:
                while not self._has_room(bound_bytes):
                    self._sender.wake_all()
                    await self._sender.room.park()
            finally:
                self._accumulator.starved_count -= 1

    # Taking

    def _take(
        self,
        topic: str,
        value: bytes | None,
        key: bytes | None,
        partition: int | None,
        timestamp_ms: int | None,
        headers: Headers,
        bound_bytes: int,
    ) -> Delivery:
        sender = self._sender
        if partition is None:
            index = self._choose(topic, key, value, bound_bytes)
        else:
            self._check_partition(topic, partition)
            index = partition
        queue = sender.queue(topic, index)
        clock = self._environment.clock
        if timestamp_ms is None:
            timestamp_ms = clock.wall_ms()
        batch = self._accumulator.append(
            queue, clock.monotonic() * 1000, timestamp_ms, key, value, headers, bound_bytes
        )
        count = batch.writer.record_count
        if count == 1:
            sender.wake(queue)
        return Delivery(batch, count - 1, timestamp_ms)

    def _choose(self, topic: str, key: bytes | None, value: bytes | None, size_bytes: int) -> int:
        count = len(self._sender.known[topic].partitions)
        if self._options.partitioner is not None:
            index = self._options.partitioner(topic, key, value, count)
            self._check_partition(topic, index)
            return index
        if key is not None:
            return self._hashes.partition(bytes(key), count)
        sticky = self._sticky_of(topic)
        index = sticky.pick(count)
        sticky.used(size_bytes)
        return index

    def _sticky_of(self, topic: str) -> StickyPartition:
        found = self._sticky.get(topic)
        if found is None:
            found = StickyPartition(self._options.batch_size_bytes, self._environment.random)
            self._sticky[topic] = found
        return found

    async def _take_run(
        self,
        topic: str,
        values: list[bytes],
        run_key: RunKey,
        key: bytes | None,
        partition: int | None,
        many: ManyDeliveries,
    ) -> None:
        """Take values of type bytes that share key and partition."""
        lengths = list(map(len, values))
        self._checked_bound(key, values[lengths.index(max(lengths))], None, ())
        clock, accumulator = self._environment.clock, self._accumulator
        start = 0
        while start < len(values):
            queue = self._queue_of_run(topic, key, partition)
            taken: tuple[Batch, int] | None = None
            if not self._room_lock.locked():
                now_ms, wall_ms = clock.monotonic() * 1000, clock.wall_ms()
                if start == 0:
                    taken = accumulator.append_run(queue, now_ms, wall_ms, run_key, values, lengths)
                else:
                    rest = values[start:], lengths[start:]
                    taken = accumulator.append_run(queue, now_ms, wall_ms, run_key, *rest)
            if taken is None:
                most_bytes = min(sum(lengths[start:]), self._options.batch_size_bytes)
                await self._wait_for_room(max(run_bound_bytes(run_key, lengths[start]), most_bytes))
                continue
            batch, count = taken
            start += count
            many.add(batch, batch.writer.record_count - count, count)
            self._sender.wake(queue)
            if partition is None and key is None:
                sticky = self._sticky_of(topic)
                sticky.used(sum(lengths[start - count : start]))
                if start < len(values):
                    sticky.move_on()
            await trio.lowlevel.checkpoint()

    def _queue_of_run(self, topic: str, key: bytes | None, partition: int | None) -> PartitionQueue:
        if partition is None:
            partition = self._choose(topic, key, None, 0)
        return self._sender.queue(topic, partition)

    async def _take_each(
        self,
        topic: str,
        records: Iterable[bytes | OutgoingRecord | None],
        key: bytes | None,
        partition: int | None,
        many: ManyDeliveries,
    ) -> None:
        """Take whatever may be in `values` of `send_many`, one by one."""
        for one in records:
            record = one if isinstance(one, OutgoingRecord) else OutgoingRecord(one)
            delivery = await self.enqueue(
                topic,
                record.value,
                key=key if record.key is None else record.key,
                partition=partition if record.partition is None else record.partition,
                timestamp_ms=record.timestamp_ms,
                headers=record.headers,
            )
            many.add(*delivery.place, 1)


def _checked_bytes(name: str, value: object) -> bytes:
    if not isinstance(value, bytes | bytearray):
        raise TypeError(f"{name}: bytes are needed, not {type(value).__name__}")
    return bytes(value)


def _check_headers(headers: Headers) -> None:
    for header in headers:
        if type(header) is not tuple or len(header) != 2:
            raise TypeError(f"headers: pairs of a name and bytes are needed, not {header!r}")
        name, value = header
        if type(name) is not str:
            raise TypeError(f"headers: a name is a str, not {type(name).__name__}")
        name.encode("utf-8", "surrogateescape")
        if value is not None:
            _checked_bytes(f"headers: {name}", value)


def _production_environment() -> Environment:
    from penstock.runtime.production import production_environment

    return production_environment()


__all__ = ["OutgoingRecord", "Producer", "RecordTooLarge"]
