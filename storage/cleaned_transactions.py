"""Which batches of a log belong to aborted transactions, and which markers have nothing left to end: for compaction.

Owns the bookkeeping along a walk over headers in offset order. Knows no files. A transaction of a producer goes from its first transactional
batch to the next control batch of that producer.

Two passes. `TransactionScan` finds the aborted transactions of a range, and where the first one begins that has no end in it: behind that offset
nothing may be cleaned. `TransactionFilter` then goes over all that is cleaned, from the start of the log, and says what may go.

Invariant: a marker may go only if no batch of its transaction was seen before it in the same pass. So whatever the scan did not see, which is
what an earlier cleaning should have dropped, stays aborted.

Source: KIP-98, KIP-534; Kafka's `CleanedTransactionMetadata`.
"""

from typing import NamedTuple

from penstock.protocol.record_batch import BatchHeader
from penstock.protocol.record_filter import ControlType

TRANSACTIONS_MAX = 100_000
"""Aborted ones, or open ones, that one cleaning minds: about 20 MB. It ends where more come, and the next goes on there."""


class AbortedTransaction(NamedTuple):
    """Offsets of the first batch and of the marker."""

    first_offset: int
    last_offset: int
    producer_id: int


class TransactionScan:
    """The first pass, over the part that was not cleaned yet."""

    def __init__(self) -> None:
        self.aborted: list[AbortedTransaction] = []
        self._first_offsets: dict[int, int] = {}

    def note(self, header: BatchHeader, marker: int | None) -> None:
        """The next batch; `marker` is the type of a control batch's record."""
        producer_id = header.producer_id
        if not header.is_control:
            if header.is_transactional:
                self._first_offsets.setdefault(producer_id, header.base_offset)
        elif marker in (ControlType.ABORT, ControlType.COMMIT):
            first_offset = self._first_offsets.pop(producer_id, None)
            if marker == ControlType.ABORT and first_offset is not None:
                self.aborted.append(AbortedTransaction(first_offset, header.last_offset, producer_id))

    @property
    def is_full(self) -> bool:
        """Whether no more transactions are to be minded at once."""
        return len(self.aborted) >= TRANSACTIONS_MAX or len(self._first_offsets) >= TRANSACTIONS_MAX

    def first_unstable_offset(self, end_offset: int) -> int:
        """Where the first transaction begins that has not ended below `end_offset`, up to where was scanned; that offset itself if there is none."""
        return min(end_offset, min(self._first_offsets.values(), default=end_offset))


class TransactionFilter:
    """The second pass; and a third, for each goes over the batches once."""

    def __init__(self, aborted: list[AbortedTransaction]) -> None:
        self._aborted = sorted(aborted, reverse=True)
        self._in_aborted: dict[int, bool] = {}
        """By producer, whether a batch of its aborted transaction was seen."""
        self._in_other: set[int] = set()

    def is_aborted(self, header: BatchHeader) -> bool:
        """Whether a batch of records may go because its transaction was aborted."""
        if not header.is_transactional:
            return False
        self._enter(header)
        producer_id = header.producer_id
        if producer_id in self._in_aborted:
            self._in_aborted[producer_id] = True
            return True
        self._in_other.add(producer_id)
        return False

    def ends_nothing(self, header: BatchHeader, marker: int | None) -> bool:
        """Whether a control batch ends a transaction of which no batch is left, so that it may go, too."""
        self._enter(header)
        if marker is None:
            return True
        if marker not in (ControlType.ABORT, ControlType.COMMIT):
            return False
        producer_id = header.producer_id
        had_batches = self._in_aborted.pop(producer_id, False) if marker == ControlType.ABORT else False
        if producer_id in self._in_other:
            self._in_other.discard(producer_id)
            had_batches = True
        return not had_batches

    def _enter(self, header: BatchHeader) -> None:
        while self._aborted and self._aborted[-1].first_offset <= header.last_offset:
            self._in_aborted[self._aborted.pop().producer_id] = False


__all__ = ["TRANSACTIONS_MAX", "AbortedTransaction", "TransactionFilter", "TransactionScan"]
