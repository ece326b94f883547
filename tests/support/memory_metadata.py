"""A metadata store in memory, with the faults that a real one can have.

The seed of the simulated store: it keeps the contract of `penstock.runtime.metadata`, drives leases by trio's clock (a
MockClock moves them), and does what it is told to go wrong: `fail_next` for calls, `compact` for watches.
"""

import enum
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

import trio

from penstock.runtime.metadata import (
    Compacted,
    Compare,
    Delete,
    Entry,
    LeaseNotFound,
    MetadataUnavailable,
    OutcomeUnknown,
    Put,
    Snapshot,
    TransactionResult,
    WatchBatch,
    WatchEvent,
)
from penstock.runtime.metadata_checks import check_lease_ttl, check_transaction


class Fault(enum.Enum):
    """What goes wrong with one transaction."""

    UNAVAILABLE = "nothing was done, and the caller is told so"
    LOST_REQUEST = "nothing was done, and the caller can't know"
    LOST_REPLY = "it was done, and the caller can't know"


@dataclass(slots=True)
class Lease:
    ttl_s: int
    deadline: float


class MemoryMetadata:
    """The `MetadataStore`; `transaction_count` and `entries` are for tests to look at."""

    def __init__(self) -> None:
        self.entries: dict[str, Entry] = {}
        self.revision = 0
        self.transaction_count = 0
        self._history: list[WatchBatch] = []
        self.compacted_revision = 0
        self._leases: dict[int, Lease] = {}
        self._next_lease_id = 1
        self._faults: deque[Fault | None] = deque()
        self._changed = trio.lowlevel.ParkingLot()

    # Faults.

    def fail_next(self, *faults: Fault | None) -> None:
        """What the next transactions suffer, one each; None lets one pass."""
        self._faults.extend(faults)

    def compact(self) -> None:
        """Forget the history: watches that have not seen all of it end with Compacted."""
        self.compacted_revision = self.revision
        self._history.clear()
        self._changed.unpark_all()

    # The port.

    async def get(self, key: str) -> Entry | None:
        await trio.lowlevel.checkpoint()
        self._expire_leases()
        return self.entries.get(key)

    async def range(self, prefix: str) -> Snapshot:
        await trio.lowlevel.checkpoint()
        self._expire_leases()
        found = [entry for key, entry in sorted(self.entries.items()) if key.startswith(prefix)]
        return Snapshot(found, self.revision)

    async def transact(
        self, compares: Sequence[Compare], operations: Sequence[Put | Delete]
    ) -> TransactionResult:
        check_transaction(compares, operations)
        await trio.lowlevel.checkpoint()
        self._expire_leases()
        self.transaction_count += 1
        fault = self._faults.popleft() if self._faults else None
        if fault is Fault.UNAVAILABLE:
            raise MetadataUnavailable("told to fail")
        if fault is Fault.LOST_REQUEST:
            raise OutcomeUnknown("told to fail")
        for operation in operations:
            if isinstance(operation, Put) and operation.lease_id:
                self._lease(operation.lease_id)
        succeeded = all(self._holds(compare) for compare in compares)
        if succeeded:
            self._commit(operations)
        if fault is Fault.LOST_REPLY:
            raise OutcomeUnknown("told to fail")
        return TransactionResult(succeeded, self.revision)

    async def grant_lease(self, ttl_s: int) -> int:
        check_lease_ttl(ttl_s)
        await trio.lowlevel.checkpoint()
        lease_id = self._next_lease_id
        self._next_lease_id += 1
        self._leases[lease_id] = Lease(ttl_s, trio.current_time() + ttl_s)
        self._changed.unpark_all()  # watchers wait no longer than the first lease
        return lease_id

    async def keep_alive(self, lease_id: int) -> None:
        await trio.lowlevel.checkpoint()
        self._expire_leases()
        lease = self._lease(lease_id)
        lease.deadline = trio.current_time() + lease.ttl_s

    async def revoke_lease(self, lease_id: int) -> None:
        await trio.lowlevel.checkpoint()
        self._expire_leases()
        if self._leases.pop(lease_id, None) is not None:
            self._delete_keys_of(lease_id)

    @asynccontextmanager
    async def watch(
        self, prefix: str, *, after_revision: int
    ) -> AsyncGenerator[AsyncIterator[WatchBatch], None]:
        yield _Watch(self, prefix, after_revision)

    # Inside.

    async def changes(self, after_revision: int) -> list[WatchBatch]:
        """What came after a revision; waits until there is something."""
        while True:
            self._expire_leases()
            if after_revision < self.compacted_revision:
                raise Compacted(f"revisions up to {self.compacted_revision} are gone")
            if after_revision < self.revision:
                return [batch for batch in self._history if batch.revision > after_revision]
            deadlines = (lease.deadline for lease in self._leases.values())
            with trio.move_on_at(min(deadlines, default=float("inf"))):
                await self._changed.park()

    def _holds(self, compare: Compare) -> bool:
        entry = self.entries.get(compare.key)
        mod_revision = entry.mod_revision if entry else 0
        create_revision = entry.create_revision if entry else 0
        return compare.mod_revision in (None, mod_revision) and compare.create_revision in (
            None,
            create_revision,
        )

    def _commit(self, operations: Sequence[Put | Delete]) -> None:
        revision = self.revision + 1
        events: list[WatchEvent] = []
        for operation in operations:
            old = self.entries.get(operation.key)
            if isinstance(operation, Put):
                created = old.create_revision if old else revision
                entry = Entry(operation.key, operation.value, created, revision, operation.lease_id)
                self.entries[operation.key] = entry
                events.append(WatchEvent(operation.key, entry))
            elif old is not None:
                del self.entries[operation.key]
                events.append(WatchEvent(operation.key, None))
        if events:
            self.revision = revision
            self._history.append(WatchBatch(revision, events))
            self._changed.unpark_all()

    def _lease(self, lease_id: int) -> Lease:
        lease = self._leases.get(lease_id)
        if lease is None:
            raise LeaseNotFound(f"lease {lease_id} has ended")
        return lease

    def _expire_leases(self) -> None:
        now = trio.current_time()
        for lease_id in [i for i, lease in self._leases.items() if lease.deadline <= now]:
            del self._leases[lease_id]
            self._delete_keys_of(lease_id)

    def _delete_keys_of(self, lease_id: int) -> None:
        keys = [key for key, entry in self.entries.items() if entry.lease_id == lease_id]
        self._commit([Delete(key) for key in keys])


class _Watch:
    """One watch's iterator."""

    def __init__(self, store: MemoryMetadata, prefix: str, after_revision: int) -> None:
        self._store = store
        self._prefix = prefix
        self._after_revision = after_revision
        self._waiting: deque[WatchBatch] = deque()

    def __aiter__(self) -> "_Watch":
        return self

    async def __anext__(self) -> WatchBatch:
        await trio.lowlevel.checkpoint()
        while not self._waiting:
            for batch in await self._store.changes(self._after_revision):
                self._after_revision = batch.revision
                events = [event for event in batch.events if event.key.startswith(self._prefix)]
                if events:
                    self._waiting.append(WatchBatch(batch.revision, events))
        return self._waiting.popleft()
