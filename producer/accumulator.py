"""The producer's buffer: batches by partition, what of them may be sent to which broker now, and how much memory they hold.

Owns filling, linger, the bound on memory, deadlines and splitting. Pure: time comes in as monotonic milliseconds, nothing here waits. Does not
know connections, metadata or error codes: `sender` tells it where partitions live and what became of batches.

Invariants: `buffered_bytes` is the sum of what all batches hold that are waiting or on the wire, and at most the bound but for one record; a
batch is in exactly one queue, and in one place of it; a queue with waiting batches is in `_active` of its node.
Source: Kafka's `RecordAccumulator`.
"""

from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Final

from penstock.client.errors import DeliveryTimedOut
from penstock.errors import PenstockError
from penstock.producer.batch import Batch, Outcome, ProducerIdentity
from penstock.producer.partition_queue import NO_NODE, REMEMBERED_MAX, PartitionQueue
from penstock.protocol.compression import Codec, decompress
from penstock.protocol.record_batch import HEADER_SIZE_BYTES
from penstock.protocol.record_writer import (
    HEADER_OVERHEAD_MAX_BYTES,
    RECORD_COUNT_MAX,
    RECORD_OVERHEAD_MAX_BYTES,
    RecordWriter,
    RunKey,
    compressed,
    seal,
)
from penstock.protocol.records import Record, decode_records

NEVER: Final = float("inf")
BATCH_OVERHEAD_BYTES: Final = 1024
"""What a batch takes beside its records: header, objects, its place in the queues."""

_REMEMBERED_FAILURES_MAX: Final = 1_000
_RUN_RECORD_OVERHEAD_BYTES: Final = (
    20  # of a value in a run: length, time, offset delta, value length, no headers
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """The producer's options as far as they concern the buffer."""

    batch_size_bytes: int
    linger_ms: float
    buffer_memory_bytes: int
    request_max_bytes: int
    delivery_timeout_ms: float
    max_in_flight: int
    is_idempotent: bool
    keeps_order: bool
    """Without idempotence: one batch of a partition on the wire at a time. With acks="none" nothing is tried again and nothing waits."""


class Accumulator:
    """All partitions' batches."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.buffered_bytes = 0
        self.identity: ProducerIdentity | None = None
        self.flush_count = 0
        """How many wait for everything to be sent: linger does not count then."""
        self.starved_count = 0
        """How many wait for room: neither does it then."""
        self._failed: list[Batch] = []
        self._queues: dict[tuple[str, int], PartitionQueue] = {}
        self._active: dict[int, dict[PartitionQueue, None]] = {NO_NODE: {}}
        self._next_order = 0
        if limits.is_idempotent:
            self._on_wire_max = min(limits.max_in_flight, REMEMBERED_MAX)
        else:
            self._on_wire_max = 1 if limits.keeps_order else limits.max_in_flight

    # Filling

    def queue(self, topic: str, index: int) -> PartitionQueue:
        """The queue of a partition; it exists from the first call on."""
        found = self._queues.get((topic, index))
        if found is None:
            found = self._queues[topic, index] = PartitionQueue(topic, index, self._on_wire_max)
        return found

    def find(self, topic: str, index: int) -> PartitionQueue | None:
        """The queue of a partition, if it exists. Fast."""
        return self._queues.get((topic, index))

    def queues(self) -> Iterator[PartitionQueue]:
        """All that were ever asked for."""
        return iter(self._queues.values())

    @property
    def room_bytes(self) -> int:
        """How much more fits; everything does once, into an empty buffer."""
        return self.limits.buffer_memory_bytes - self.buffered_bytes

    def append(
        self,
        queue: PartitionQueue,
        now_ms: float,
        timestamp_ms: int,
        key: bytes | None,
        value: bytes | None,
        headers: Sequence[tuple[str, bytes | None]],
        bound_bytes: int,
    ) -> Batch:
        """Add a record of at most `bound_bytes` (`record_bound_bytes`) to its partition's open batch, or to a new one."""
        batch = queue.waiting[-1] if queue.waiting else None
        if (
            batch is None
            or batch.is_closed
            or len(batch.writer.data) + bound_bytes > self.limits.batch_size_bytes
            or batch.writer.record_count >= RECORD_COUNT_MAX
        ):
            batch = self._open_batch(queue, now_ms)
        writer = batch.writer
        before_bytes = len(writer.data)
        writer.append(timestamp_ms, key, value, headers)
        added_bytes = len(writer.data) - before_bytes
        batch.charged_bytes += added_bytes
        self.buffered_bytes += added_bytes
        return batch

    def append_run(
        self,
        queue: PartitionQueue,
        now_ms: float,
        timestamp_ms: int,
        key: RunKey,
        values: Sequence[bytes],
        lengths: Sequence[int],
    ) -> tuple[Batch, int] | None:
        """Add as many of the values as the batch and the memory have room for: the batch and their count. None: there is no room.

        A value that is larger than a batch gets a batch of its own.
        """
        batch = queue.waiting[-1] if queue.waiting else None
        overhead_bytes = _RUN_RECORD_OVERHEAD_BYTES + key.size_bytes
        if batch is None or batch.is_closed or not self._fits(batch, lengths[0] + overhead_bytes):
            if self.room_bytes < BATCH_OVERHEAD_BYTES + lengths[0] + overhead_bytes and self.buffered_bytes:
                return None
            batch = self._open_batch(queue, now_ms)
        writer = batch.writer
        before_bytes = len(writer.data)
        room_bytes = min(self.limits.batch_size_bytes - before_bytes, self.room_bytes)
        count = min(len(values), RECORD_COUNT_MAX - writer.record_count)
        if sum(lengths) + overhead_bytes * len(lengths) > room_bytes or count < len(values):
            count = min(count, max(0, room_bytes) // (min(lengths) + overhead_bytes))  # no more can fit
            sizes = accumulate(map(overhead_bytes.__add__, lengths[:count]))
            count = bisect_right(list(sizes), room_bytes)
            if count == 0:
                if before_bytes > HEADER_SIZE_BYTES:
                    return None  # the batch has room, the memory has not
                count = 1
            values, lengths = values[:count], lengths[:count]
        writer.append_values(timestamp_ms, key, values, lengths)
        added_bytes = len(writer.data) - before_bytes
        batch.charged_bytes += added_bytes
        self.buffered_bytes += added_bytes
        return batch, count

    def _fits(self, batch: Batch, size_bytes: int) -> bool:
        writer = batch.writer
        return (
            len(writer.data) + size_bytes <= self.limits.batch_size_bytes
            and writer.record_count < RECORD_COUNT_MAX
        )

    def _open_batch(self, queue: PartitionQueue, now_ms: float) -> Batch:
        if queue.waiting:
            queue.waiting[-1].is_closed = True
        batch = Batch(queue.topic, queue.index, (self._next_order,), now_ms)
        self._next_order += 1
        batch.charged_bytes = BATCH_OVERHEAD_BYTES
        self.buffered_bytes += BATCH_OVERHEAD_BYTES
        queue.waiting.append(batch)
        self._active.setdefault(queue.node_id, {})[queue] = None
        return batch

    def take_unseen_failures(self) -> tuple[int, PenstockError | None]:
        """How many records that nobody waited for have failed since the last call (as far as is remembered), and the first one's error."""
        failed, self._failed = self._failed, []
        unseen = [batch for batch in failed if batch.unclaimed_count]
        if not unseen or unseen[0].outcome is None:
            return 0, None
        return sum(batch.unclaimed_count for batch in unseen), unseen[0].outcome.error

    # Where partitions live

    def move(self, queue: PartitionQueue, node_id: int) -> None:
        """A partition is led by another node now; NO_NODE where nobody knows."""
        if queue.node_id == node_id:
            return
        was_active = self._active.get(queue.node_id, {}).pop(queue, False) is None
        queue.move(node_id)
        if was_active or queue.waiting:
            self._active.setdefault(node_id, {})[queue] = None

    def homeless_topics(self) -> set[str]:
        """Topics with batches that wait for a leader to be found."""
        return {queue.topic for queue in self._active[NO_NODE]}

    def active(self, node_id: int) -> list[PartitionQueue]:
        """The partitions of a node that have batches to be sent."""
        return list(self._active.get(node_id, ()))

    # Sending

    @property
    def needs_identity(self) -> bool:
        """Nothing can be taken before `identity` is set."""
        return self.limits.is_idempotent and self.identity is None

    def collect(self, node_id: int, now_ms: float) -> list[Batch]:
        """Take what goes into the next request to a node: one batch of each partition that may send, up to `request_max_bytes`, and at least one."""
        active = self._active.get(node_id)
        if not active or self.needs_identity:
            return []
        taken: list[Batch] = []
        taken_bytes = 0
        for queue in list(active):
            if queue.is_held or self._ready_at_ms(queue, now_ms) > now_ms:
                continue
            size_bytes = len(queue.waiting[0].writer.data)
            if taken and taken_bytes + size_bytes > self.limits.request_max_bytes:
                break
            if queue.must_restart and not self._restart(queue):
                continue
            taken.append(queue.take(self.identity))
            taken_bytes += size_bytes
            del active[queue]
            if queue.waiting:
                active[queue] = None  # behind the others
        return taken

    def ready_at_ms(self, node_id: int, now_ms: float) -> float:
        """When `collect` will have something by time alone; NEVER where only an answer or a new record can change that."""
        active = self._active.get(node_id)
        if not active or self.needs_identity:
            return NEVER
        return min(
            (self._ready_at_ms(queue, now_ms) for queue in active if not queue.is_held),
            default=NEVER,
        )

    def _ready_at_ms(self, queue: PartitionQueue, now_ms: float) -> float:
        batch = queue.waiting[0]
        if (
            batch.is_closed
            or len(queue.waiting) > 1
            or self.flush_count
            or self.starved_count
            or len(batch.writer.data) >= self.limits.batch_size_bytes
        ):
            return queue.retry_at_ms
        return max(queue.retry_at_ms, batch.created_ms + self.limits.linger_ms)

    def _restart(self, queue: PartitionQueue) -> bool:
        """Give a partition its next epoch; False where a new producer id is needed first."""
        before = queue.identity
        queue.restart()
        if before is None or queue.identity is not None:
            return True
        if self.identity is not None and self.identity.producer_id == before.producer_id:
            self.identity = None
        return self.identity is not None

    # What became of batches

    def acked(self, batch: Batch, outcome: Outcome) -> None:
        """A batch from the wire is in the log."""
        queue = self.queue(batch.topic, batch.partition)
        queue.acked(batch)
        self._release(batch, outcome)

    def refused(self, batch: Batch, error: PenstockError) -> None:
        """A batch from the wire is not in the log for good."""
        self.queue(batch.topic, batch.partition).refused(batch)
        self._release(batch, Outcome(error=error))

    def put_back(self, batch: Batch, *, error: PenstockError | None, retry_at_ms: float) -> None:
        """A batch from the wire is to be sent again, not before `retry_at_ms`."""
        queue = self.queue(batch.topic, batch.partition)
        batch.last_error = error or batch.last_error
        queue.retry_at_ms = max(queue.retry_at_ms, retry_at_ms)
        queue.put_back(batch)
        self._returned(queue, batch)

    def out_of_order(self, batch: Batch, *, error: PenstockError, retry_at_ms: float) -> None:
        """A batch from the wire was refused for its sequence and is not in the log."""
        queue = self.queue(batch.topic, batch.partition)
        batch.last_error = error
        queue.retry_at_ms = max(queue.retry_at_ms, retry_at_ms)
        queue.out_of_order(batch)
        self._returned(queue, batch)

    def split(self, batch: Batch, codec: Codec, level: int | None) -> None:
        """A batch of several records from the wire was too large: two halves take its place."""
        queue = self.queue(batch.topic, batch.partition)
        records = _records_of(batch, codec)
        middle = (len(records) + 1) // 2
        batch.parts = [_part_of(batch, records[:middle]), _part_of(batch, records[middle:])]
        if not batch.unclaimed_count:
            for part in batch.parts:
                part.claimed_count = part.record_count
        queue.put_back_parts(batch, batch.parts)
        for part in batch.parts:
            part.charged_bytes = BATCH_OVERHEAD_BYTES + len(part.writer.data)
            self.buffered_bytes += part.charged_bytes
        self._active.setdefault(queue.node_id, {})[queue] = None
        self._release(batch, Outcome())

    def shrunk(self, batch: Batch) -> None:
        """The batch was compressed: charge what it takes now."""
        before_bytes = batch.charged_bytes
        batch.charged_bytes = BATCH_OVERHEAD_BYTES + len(batch.writer.data)
        self.buffered_bytes += batch.charged_bytes - before_bytes

    def fail_waiting(self, queue: PartitionQueue, why: Callable[[Batch], PenstockError]) -> None:
        """Give up all that waits for a partition; what is on the wire goes on."""
        for batch in list(queue.waiting):
            queue.expire(batch)
            self._release(batch, Outcome(error=why(batch)))
        self._active.get(queue.node_id, {}).pop(queue, None)

    def fail_all(self, why: Callable[[Batch], PenstockError]) -> None:
        """Give up everything: the producer is at its end. Answers that still come find nothing to do."""
        for queue in self._queues.values():
            for batch in queue.on_wire:
                batch.may_be_appended = batch.may_be_appended or batch.was_sent
            for batch in queue.unfinished:
                self._finish(batch, Outcome(error=why(batch)))
            queue.waiting.clear()
            queue.on_wire.clear()
        for active in self._active.values():
            active.clear()
        self.buffered_bytes = 0

    def expire(self, now_ms: float) -> float:
        """Give up what is past its delivery timeout; when to look again.

        A batch on the wire is given up for those who wait, but holds its place and its memory until its answer or the end of its connection.
        """
        next_ms = NEVER
        for queue in self._queues.values():
            for batch in (*queue.on_wire, *queue.waiting):
                if batch.outcome is not None:
                    continue
                deadline_ms = batch.created_ms + self.limits.delivery_timeout_ms
                if now_ms < deadline_ms:
                    next_ms = min(next_ms, deadline_ms)
                    break
                self._time_out(queue, batch)
            if not queue.waiting:
                self._active.get(queue.node_id, {}).pop(queue, None)
        return next_ms

    def _time_out(self, queue: PartitionQueue, batch: Batch) -> None:
        if batch in queue.on_wire:
            batch.may_be_appended = True
            self._finish(batch, Outcome(error=self._timed_out(batch)))
        else:
            queue.expire(batch)
            self._release(batch, Outcome(error=self._timed_out(batch)))

    def _timed_out(self, batch: Batch) -> DeliveryTimedOut:
        tried = "not acked" if batch.was_sent else "not sent"
        name = f"{batch.record_count} records for {batch.topic}-{batch.partition}"
        text = f"{name} were {tried} within {self.limits.delivery_timeout_ms:g} ms"
        if batch.last_error is not None:
            text += f": {batch.last_error}"
        error = DeliveryTimedOut(text, may_be_delivered=batch.may_be_appended)
        error.__cause__ = batch.last_error
        return error

    def _returned(self, queue: PartitionQueue, batch: Batch) -> None:
        if batch.outcome is not None:  # given up meanwhile; only its memory was still held
            self._uncharge(batch)
        if queue.waiting:
            self._active.setdefault(queue.node_id, {})[queue] = None

    def _release(self, batch: Batch, outcome: Outcome) -> None:
        self._uncharge(batch)
        if batch.outcome is None:
            self._finish(batch, outcome)

    def _finish(self, batch: Batch, outcome: Outcome) -> None:
        if (
            outcome.error is not None
            and batch.unclaimed_count
            and len(self._failed) < _REMEMBERED_FAILURES_MAX
        ):
            self._failed.append(batch)
        batch.finish(outcome)

    def _uncharge(self, batch: Batch) -> None:
        self.buffered_bytes -= batch.charged_bytes
        batch.charged_bytes = 0
        batch.writer.data = bytearray()


def record_bound_bytes(
    key: bytes | None, value: bytes | None, headers: Sequence[tuple[str, bytes | None]]
) -> int:
    """The most that a record takes in a batch that is not compressed."""
    size_bytes = RECORD_OVERHEAD_MAX_BYTES
    if key is not None:
        size_bytes += len(key)
    if value is not None:
        size_bytes += len(value)
    for name, content in headers:
        size_bytes += HEADER_OVERHEAD_MAX_BYTES + 4 * len(name) + (0 if content is None else len(content))
    return size_bytes


def run_bound_bytes(key: RunKey, length: int) -> int:
    """The most that the next value of a run takes, as `append_run` counts it."""
    return length + _RUN_RECORD_OVERHEAD_BYTES + key.size_bytes


def prepare(batch: Batch, codec: Codec, level: int | None) -> None:
    """Make a batch that was taken ready for the wire: compress it once, and seal it with its sequence. For a worker where it is large."""
    writer = batch.writer
    if codec is not Codec.NONE and not batch.is_compressed:
        writer.data = compressed(writer.data, codec, level)
        batch.is_compressed = True
    identity = batch.identity
    seal(
        writer.data,
        codec=codec,
        record_count=writer.record_count,
        base_timestamp_ms=writer.base_timestamp_ms,
        max_timestamp_ms=writer.max_timestamp_ms,
        producer_id=-1 if identity is None else identity.producer_id,
        producer_epoch=-1 if identity is None else identity.epoch,
        base_sequence=batch.base_sequence,
    )


def _records_of(batch: Batch, codec: Codec) -> list[Record]:
    data = memoryview(batch.writer.data)
    if batch.is_compressed:
        plain = decompress(codec, data[HEADER_SIZE_BYTES:], output_max_bytes=1 << 30)
        whole = bytearray(HEADER_SIZE_BYTES)
        whole += plain
    else:
        whole = bytearray(data)
    writer = batch.writer
    seal(
        whole,
        codec=Codec.NONE,
        record_count=writer.record_count,
        base_timestamp_ms=writer.base_timestamp_ms,
        max_timestamp_ms=writer.max_timestamp_ms,
    )
    return decode_records(memoryview(whole), output_max_bytes=len(whole))


def _part_of(batch: Batch, records: Sequence[Record]) -> Batch:
    part = Batch(batch.topic, batch.partition, batch.order, batch.created_ms)
    part.was_sent = batch.was_sent
    writer = RecordWriter()
    for record in records:
        writer.append(record.timestamp, record.key, record.value, record.headers)
    part.writer = writer
    return part


__all__ = [
    "BATCH_OVERHEAD_BYTES",
    "NEVER",
    "Accumulator",
    "Limits",
    "prepare",
    "record_bound_bytes",
    "run_bound_bytes",
]
