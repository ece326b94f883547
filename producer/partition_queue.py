"""One partition's batches, in order, and the sequence numbers that keep them so.

Owns what may be sent now and what must come first. Pure: no clock, no I/O. Does not know brokers or topics' metadata.

Order is kept by three rules. A batch is taken only from the front. After a failure that is tried again nothing is taken until all that is on
the wire has its answer; then the failed ones go out again, in their order, one at a time. Without sequences one batch is on the wire at a time.

A broker that has nothing of a producer takes any sequence of it as the first. So until the first ack nothing goes to a new leader while a batch to the
one before has no answer (a broker without power gives none before the request's timeout). Penstock takes only 0 for a while after it has refused a
batch; with Kafka, a producer's very first batch that is refused as too large comes, split, behind the second that was on the wire with it.

A broker remembers the last five batches of a producer, and answers a copy of an older one as if it were out of order. So the sixth batch after one
without a final answer is not taken, even where the four between are acked.

Idempotence (KIP-98, KIP-360): a batch gets its sequence when it is first taken and keeps it through all attempts, so the broker drops what
it has already. The epoch is the partition's own and only this rule raises it: *when a batch is refused as out of order, and every batch
before it has an outcome, then it is not in the log, nor is any behind it*: the broker waits for a batch that will never come. All of them get new
sequences, from 0, in the next epoch; a late copy of what was given up is fenced by that epoch. Raising it earlier, while an attempt of a
later batch is still unclear, could append that batch twice. A gap at the very end is closed at once: nothing unclear is behind it.
"""

from collections import deque
from collections.abc import Iterable

from penstock.producer.batch import Batch, ProducerIdentity
from penstock.protocol.record_batch import MAX_SEQUENCE, NO_SEQUENCE

NO_NODE = -1
EPOCH_MAX = 2**15 - 1
REMEMBERED_MAX = 5
"""A broker remembers this many batches of a producer, and knows a duplicate of none before."""


class PartitionQueue:
    """The batches of one partition that have no outcome yet."""

    __slots__ = (
        "failure_count",
        "has_acked",
        "has_gap",
        "identity",
        "index",
        "is_draining",
        "leader_epoch",
        "must_restart",
        "next_number",
        "next_sequence",
        "node_id",
        "on_wire",
        "on_wire_max",
        "retry_at_ms",
        "topic",
        "topic_id",
        "waiting",
    )

    def __init__(self, topic: str, index: int, on_wire_max: int) -> None:
        self.topic = topic
        self.index = index
        self.topic_id: bytes | None = None
        self.node_id = NO_NODE
        self.waiting: deque[Batch] = deque()
        self.on_wire: list[Batch] = []
        self.on_wire_max = on_wire_max
        self.retry_at_ms = 0.0
        self.failure_count = 0
        self.leader_epoch = -1
        """Of the leader that it is at, or was last."""
        self.is_draining = False
        self.identity: ProducerIdentity | None = None
        self.has_acked = False
        """Under this producer id, in this topic: every leader from now on knows it, and takes nothing behind a gap."""
        self.has_gap = False
        """A batch was refused for good while others were on the wire behind it: those will be out of order, for no other reason."""
        self.next_sequence = 0
        self.next_number = 0
        self.must_restart = False

    @property
    def is_held(self) -> bool:
        """Nothing may be taken until an answer comes, whatever the time."""
        if not self.on_wire:
            return False
        if len(self.on_wire) >= self.on_wire_max or self.is_draining or self.must_restart:
            return True
        if self.identity is None:
            return False
        oldest = min(
            (batch.number for batch in self.on_wire if batch.outcome is None), default=self.next_number
        )
        return self.next_number - oldest >= REMEMBERED_MAX or any(batch.is_again for batch in self.on_wire)

    @property
    def unfinished(self) -> list[Batch]:
        """All its batches whose outcome nobody was told yet, in order."""
        return [batch for batch in (*self.on_wire, *self.waiting) if batch.outcome is None]

    def take(self, identity: ProducerIdentity | None) -> Batch:
        """Move the first waiting batch to the wire; not while `is_held`. `identity` is the producer's, None without idempotence."""
        batch = self.waiting.popleft()
        self.is_draining = False
        batch.is_again = batch.base_sequence != NO_SEQUENCE
        if identity is not None and not batch.is_again:
            if self.identity is None:
                self.identity, self.next_sequence, self.has_acked = identity, 0, False
            batch.number = self.next_number
            self.next_number += 1
            batch.identity, batch.base_sequence = self.identity, self.next_sequence
            self.next_sequence = (self.next_sequence + batch.record_count) & MAX_SEQUENCE
        batch.is_closed = True
        self.on_wire.append(batch)
        return batch

    def move(self, node_id: int) -> None:
        """Another node leads: it takes any sequence of a producer that it does not know, so what is on the wire to the last one comes first."""
        self.node_id = node_id
        if self.on_wire and self.identity is not None and not self.has_acked:
            self.is_draining = True

    def forget_topic(self) -> None:
        """The topic is another one of the same name, whose leaders know neither sequences nor producer."""
        self.has_acked = False
        self.must_restart = self.must_restart or self.identity is not None

    def restart(self) -> None:
        """Take the next epoch, or forget the identity where there is no next one; all waiting batches get new sequences."""
        assert not self.on_wire
        self.must_restart = self.has_gap = False
        self.next_sequence = 0
        identity = self.identity
        if identity is not None:
            is_last = identity.epoch >= EPOCH_MAX
            self.identity = None if is_last else ProducerIdentity(identity.producer_id, identity.epoch + 1)
        for batch in self.waiting:
            batch.identity, batch.base_sequence, batch.may_be_appended = None, NO_SEQUENCE, False

    def put_back(self, batch: Batch) -> None:
        """Let a batch from the wire wait for another attempt, in its place."""
        self.on_wire.remove(batch)
        self.is_draining = True
        if batch.outcome is None:
            self._insert(batch.order, (batch,))
        else:
            self._close_gap(batch)

    def put_back_parts(self, batch: Batch, parts: Iterable[Batch]) -> None:
        """As `put_back`, for a batch that was split. The parts share its sequences, so that those behind it keep theirs."""
        self.on_wire.remove(batch)
        self.is_draining = True
        sequence = batch.base_sequence
        placed = list(parts)
        for number, part in enumerate(placed):
            part.order = (*batch.order, number)
            part.identity, part.number = batch.identity, batch.number
            part.is_closed = True
            if sequence != NO_SEQUENCE:
                part.base_sequence = sequence
                sequence = (sequence + part.record_count) & MAX_SEQUENCE
        self._insert(batch.order, placed)

    def acked(self, batch: Batch) -> None:
        """The batch is in the log."""
        self.on_wire.remove(batch)
        self.failure_count = 0
        if not self.must_restart:  # else it may be in the log of a topic that is gone
            self.has_acked = True

    def refused(self, batch: Batch) -> None:
        """The batch from the wire is not in the log and will not be: close the gap that it leaves in the sequences."""
        self.on_wire.remove(batch)
        self.failure_count = 0
        self.has_gap = any(other.base_sequence != NO_SEQUENCE for other in self.on_wire)
        self._close_gap(batch)

    def out_of_order(self, batch: Batch) -> None:
        """The broker refused the batch for its sequence: see the module's docstring."""
        is_first = not any(
            other.base_sequence != NO_SEQUENCE and _precedes(other, batch)
            for other in (*self.on_wire, *self.waiting)
        )
        if is_first:
            self.must_restart = True
        self.put_back(batch)

    def expire(self, batch: Batch) -> None:
        """Give up a waiting batch."""
        self.waiting.remove(batch)
        self._close_gap(batch)

    def _close_gap(self, batch: Batch) -> None:
        if batch.base_sequence == NO_SEQUENCE or batch.identity != self.identity:
            return
        behind = [
            other
            for other in (*self.on_wire, *self.waiting)
            if other.base_sequence != NO_SEQUENCE and not _precedes(other, batch)
        ]
        if not behind and not batch.may_be_appended:
            self.next_sequence = batch.base_sequence
        elif not any(other.may_be_appended for other in behind) and not any(
            other.base_sequence != NO_SEQUENCE for other in self.on_wire
        ):
            self.must_restart = True

    def _insert(self, order: tuple[int, ...], batches: Iterable[Batch]) -> None:
        place = 0
        for other in self.waiting:
            if other.order > order:
                break
            place += 1
        for batch in batches:
            self.waiting.insert(place, batch)
            place += 1


def _precedes(one: Batch, other: Batch) -> bool:
    """Whether `one` has the earlier sequence; both are of one epoch and few, so distance tells, also around the wrap."""
    distance = (other.base_sequence - one.base_sequence) & MAX_SEQUENCE
    return one is not other and 0 < distance < 2**30


__all__ = ["EPOCH_MAX", "NO_NODE", "REMEMBERED_MAX", "PartitionQueue"]
