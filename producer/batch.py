"""A batch of records on its way: what it holds, where it stands, what became of it; and the handle on one of its records.

Owns the life of a batch: open (records come), closed (taken for sending once), finished (outcome known). Does not know when or where it is
sent: `accumulator` and `sender` do.

Invariants: an outcome is set once; `finished` is set with it; a batch that was split is finished when its parts are, and its own outcome
is theirs.
"""

from dataclasses import dataclass
from typing import NamedTuple

import trio

from penstock.client.errors import DeliveryFailed
from penstock.errors import PenstockError
from penstock.protocol.record_batch import NO_SEQUENCE
from penstock.protocol.record_writer import RecordWriter

UNKNOWN_OFFSET = -1


class ProducerIdentity(NamedTuple):
    """Producer id and epoch of an idempotent producer."""

    producer_id: int
    epoch: int


@dataclass(frozen=True, slots=True)
class RecordMetadata:
    """Where a record is now. `offset` is -1 with acks="none", and where the broker knows only that it is a duplicate."""

    topic: str
    partition: int
    offset: int
    timestamp_ms: int


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a batch: `error` is None where it was acked. `log_append_time_ms` is -1 unless the broker set the times."""

    base_offset: int = UNKNOWN_OFFSET
    log_append_time_ms: int = -1
    error: PenstockError | None = None


class Batch:
    """Records of one partition that are sent together."""

    __slots__ = (
        "base_sequence",
        "charged_bytes",
        "claimed_count",
        "created_ms",
        "finished",
        "identity",
        "is_again",
        "is_closed",
        "is_compressed",
        "last_error",
        "may_be_appended",
        "number",
        "order",
        "outcome",
        "partition",
        "parts",
        "topic",
        "was_sent",
        "writer",
    )

    def __init__(self, topic: str, partition: int, order: tuple[int, ...], created_ms: float) -> None:
        self.topic = topic
        self.partition = partition
        self.order = order
        """Batches of a partition are sent in this order; parts of a split batch have its, with their number behind."""
        self.created_ms = created_ms
        self.writer = RecordWriter()
        self.charged_bytes = 0
        """What of the buffer's memory it holds."""
        self.is_closed = False
        self.is_compressed = False
        self.identity: ProducerIdentity | None = None
        self.base_sequence = NO_SEQUENCE
        self.number = 0
        """Counts the batches of a partition that got a sequence."""
        self.is_again = False
        """On the wire with the sequence of an attempt before."""
        self.was_sent = False
        self.may_be_appended = False
        """An attempt may have reached the log: its answer was lost, or was not clear."""
        self.last_error: PenstockError | None = None
        self.claimed_count = 0
        """Records whose outcome somebody waits for, or was told."""
        self.finished = trio.Event()
        self.outcome: Outcome | None = None
        self.parts: list[Batch] = []

    @property
    def record_count(self) -> int:
        """Records in it."""
        return self.writer.record_count

    @property
    def unclaimed_count(self) -> int:
        """Records that nobody waits for."""
        return max(0, self.record_count - self.claimed_count)

    def finish(self, outcome: Outcome) -> None:
        """Tell everybody who waits."""
        assert self.outcome is None
        self.outcome = outcome
        self.finished.set()

    def place_of(self, index: int) -> tuple["Batch", int]:
        """The batch that holds the record `index` after all splits, and its place there."""
        batch = self
        while batch.parts:
            for part in batch.parts:
                if index < part.record_count:
                    batch = part
                    break
                index -= part.record_count
        return batch, index

    async def wait_finished(self) -> None:
        """Wait until all of it has an outcome, with no claim to see it. Cancellation: nothing changes."""
        await self.finished.wait()
        for part in self.parts:
            await part.wait_finished()


class Delivery:
    """One record on its way; given out by `Producer.enqueue` and `send_nowait`."""

    __slots__ = ("_batch", "_index", "_is_claimed", "_timestamp_ms")

    def __init__(self, batch: Batch, index: int, timestamp_ms: int) -> None:
        self._batch = batch
        self._index = index
        self._timestamp_ms = timestamp_ms
        self._is_claimed = False

    @property
    def place(self) -> tuple[Batch, int]:
        """The batch that took the record, and its place there."""
        return self._batch, self._index

    @property
    def is_done(self) -> bool:
        """Whether `wait` returns or raises at once."""
        return self._batch.place_of(self._index)[0].outcome is not None

    async def wait(self) -> RecordMetadata:
        """Wait for the ack. Any number of tasks may, any number of times.

        Raises:
            BrokerError: the broker refused the record; it is not in the log. BacklogFull is the one to branch on.
            DeliveryTimedOut, DeliveryFailed: no ack; their `may_be_delivered` tells whether it may be in the log.

        Cancellation: only the waiting ends; the record is delivered all the same. Where that fails, and nobody waits, `flush` tells.
        """
        batch, index = self._batch, self._index
        claims, self._is_claimed = not self._is_claimed, True
        try:
            while True:
                batch.claimed_count += claims
                await batch.finished.wait()
                if not batch.parts:
                    break
                batch, index = batch.place_of(index)
        except trio.Cancelled:
            batch.claimed_count -= claims
            self._is_claimed = not claims
            raise
        return metadata_of(batch, index, self._timestamp_ms)


def metadata_of(batch: Batch, index: int, timestamp_ms: int) -> RecordMetadata:
    """What became of a record of a finished batch; raises what kept it from being acked."""
    outcome = batch.outcome
    assert outcome is not None
    if outcome.error is not None:
        raise copy_of(outcome.error)
    offset = UNKNOWN_OFFSET if outcome.base_offset < 0 else outcome.base_offset + index
    time_ms = timestamp_ms if outcome.log_append_time_ms < 0 else outcome.log_append_time_ms
    return RecordMetadata(batch.topic, batch.partition, offset, time_ms)


def copy_of(error: PenstockError) -> PenstockError:
    """An exception of its own for each record that raises it, so that tracebacks don't grow into each other."""
    kind = type(error)
    copy = kind.__new__(kind, *error.args)  # not by its constructor, which may want something else
    copy.__dict__.update(error.__dict__)
    copy.__cause__ = error.__cause__
    return copy


def delivery_failed(message: str, batch: Batch, cause: PenstockError | None = None) -> DeliveryFailed:
    """The error of a batch that is given up without a broker's refusal."""
    failed = DeliveryFailed(message, may_be_delivered=batch.may_be_appended)
    failed.__cause__ = cause or batch.last_error
    return failed


__all__ = [
    "UNKNOWN_OFFSET",
    "Batch",
    "Delivery",
    "Outcome",
    "ProducerIdentity",
    "RecordMetadata",
    "copy_of",
    "delivery_failed",
    "metadata_of",
]
