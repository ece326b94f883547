"""The simulated metadata store: one linearizable store, and the faulty way to it that each host has.

`CentralStore` is the store itself: it never loses anything. `StoreFront` is what a broker's environment opens: every call is a request and a reply over
the simulated links, so a transaction may be applied while its reply is lost, a request may be applied long after its caller gave up, a watch falls
behind and finds the past compacted, and a lease ends while its owner is frozen or cut off.

Watchers of the store itself (checkers) are told of each transaction with its compares and of who asked for it, in the moment it is applied.
"""

from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Generic, TypeVar

import trio
from tests.simulation.kernel import Incarnation, Kernel
from tests.simulation.network import Link, SimulatedNetwork
from tests.support.memory_metadata import Lease, MemoryMetadata

from penstock.runtime.metadata import (
    Compacted,
    Compare,
    Delete,
    Entry,
    LeaseNotFound,
    MetadataError,
    MetadataUnavailable,
    OutcomeUnknown,
    Put,
    Snapshot,
    TransactionResult,
    WatchBatch,
)
from penstock.runtime.metadata_checks import check_lease_ttl, check_transaction

T = TypeVar("T")

ADDRESS = "10.0.0.100"
TIMEOUT_S = 3.0
RETRY_S = 0.3
WATCH_RETRY_S = 0.5
RECONNECT_S = (0.05, 0.5, 2.0)


@dataclass(frozen=True, slots=True)
class Applied:
    """A transaction that changed something (or, without compares and by nobody, the end of a lease)."""

    by: Incarnation | None
    compares: Sequence[Compare]
    before: dict[str, Entry]
    """Of the keys that it wrote or deleted, those that were there."""
    batch: WatchBatch


class CentralStore(MemoryMetadata):
    """See the module. Its calls happen at once; it is up unless told otherwise."""

    def __init__(self, kernel: Kernel) -> None:
        super().__init__()
        self.kernel = kernel
        self.is_up = True
        self.applied_listeners: list[Callable[[Applied], None]] = []
        self._watchers: list[Callable[[], None]] = []
        self._by: Incarnation | None = None
        self._compares: Sequence[Compare] = ()

    def transact_now(
        self, by: Incarnation, compares: Sequence[Compare], operations: Sequence[Put | Delete]
    ) -> TransactionResult:
        """Raises LeaseNotFound."""
        self._expire_leases()
        for operation in operations:
            if isinstance(operation, Put) and operation.lease_id:
                self._lease(operation.lease_id)
        succeeded = all(self._holds(compare) for compare in compares)
        if succeeded:
            self._by, self._compares = by, compares
            self._commit(operations)
            self._by, self._compares = None, ()
        return TransactionResult(succeeded, self.revision)

    def get_now(self, key: str) -> Entry | None:
        self._expire_leases()
        return self.entries.get(key)

    def range_now(self, prefix: str) -> Snapshot:
        self._expire_leases()
        found = [entry for key, entry in sorted(self.entries.items()) if key.startswith(prefix)]
        return Snapshot(found, self.revision)

    def grant_now(self, ttl_s: int) -> int:
        lease_id = self._new_lease(ttl_s)
        self._expire_later(lease_id)
        return lease_id

    def keep_alive_now(self, lease_id: int) -> None:
        """Raises LeaseNotFound."""
        self._expire_leases()
        lease = self._lease(lease_id)
        lease.deadline = self.kernel.now + lease.ttl_s
        self._expire_later(lease_id)

    def revoke_now(self, lease_id: int) -> None:
        self._expire_leases()
        if self._leases.pop(lease_id, None) is not None:
            self._delete_keys_of(lease_id)

    def _new_lease(self, ttl_s: int) -> int:
        lease_id = self._next_lease_id
        self._next_lease_id += 1
        self._leases[lease_id] = Lease(ttl_s, self.kernel.now + ttl_s)
        return lease_id

    def _expire_later(self, lease_id: int) -> None:
        self.kernel.at(self._lease(lease_id).deadline, self._expire_leases)

    def _commit(self, operations: Sequence[Put | Delete]) -> None:
        before = {o.key: self.entries[o.key] for o in operations if o.key in self.entries}
        revision = self.revision
        super()._commit(operations)
        if self.revision == revision:
            return
        batch = self._history[-1]
        self.kernel.note(f"store {self.revision} by {self._by}: {' '.join(e.key for e in batch.events)}")
        applied = Applied(self._by, self._compares, before, batch)
        for listener in self.applied_listeners:
            listener(applied)
        for poke in tuple(self._watchers):
            poke()

    # Watches

    def add_watcher(self, poke: Callable[[], None]) -> None:
        """Have `poke` called after each change."""
        self._watchers.append(poke)

    def remove_watcher(self, poke: Callable[[], None]) -> None:
        self._watchers.remove(poke)

    def after(self, revision: int) -> list[WatchBatch]:
        """Raises Compacted."""
        if revision < self.compacted_revision:
            raise Compacted(f"revisions up to {self.compacted_revision} are gone")
        found: list[WatchBatch] = []
        for batch in reversed(self._history):
            if batch.revision <= revision:
                break
            found.append(batch)
        found.reverse()
        return found


class _Reply(Generic[T]):
    """Of one request."""

    __slots__ = ("error", "event", "is_broken", "value")

    def __init__(self) -> None:
        self.event = trio.Event()
        self.value: T | None = None
        self.error: MetadataError | None = None
        self.is_broken = False


class StoreFront:
    """The `MetadataStore` of one process."""

    def __init__(
        self, network: SimulatedNetwork, address: str, process: Incarnation, store: CentralStore
    ) -> None:
        self.kernel = network.kernel
        self.random = self.kernel.random(f"store/{process}")
        self.process = process
        self.there: Link = network.link(address, ADDRESS)
        self.back: Link = network.link(ADDRESS, address)
        self.watch_lag_s = 0.0
        self.loss_chance = 0.0
        """That the connection breaks under a request, before it was applied or after; watches share it."""
        self.reconnected_at = 0.0
        self.store = store

    async def get(self, key: str) -> Entry | None:
        return await self._ask(lambda: self.store.get_now(key), MetadataUnavailable)

    async def range(self, prefix: str) -> Snapshot:
        return await self._ask(lambda: self.store.range_now(prefix), MetadataUnavailable)

    async def transact(
        self, compares: Sequence[Compare], operations: Sequence[Put | Delete]
    ) -> TransactionResult:
        check_transaction(compares, operations)
        return await self._ask(
            lambda: self.store.transact_now(self.process, compares, operations), OutcomeUnknown
        )

    async def grant_lease(self, ttl_s: int) -> int:
        check_lease_ttl(ttl_s)
        return await self._ask(lambda: self.store.grant_now(ttl_s), MetadataUnavailable)

    async def keep_alive(self, lease_id: int) -> None:
        await self._ask(lambda: self.store.keep_alive_now(lease_id), MetadataUnavailable)

    async def revoke_lease(self, lease_id: int) -> None:
        await self._ask(lambda: self.store.revoke_now(lease_id), MetadataUnavailable)

    @asynccontextmanager
    async def watch(
        self, prefix: str, *, after_revision: int
    ) -> AsyncGenerator[AsyncIterator[WatchBatch], None]:
        watch = _Watch(self, prefix, after_revision)
        self.store.add_watcher(watch.poke)
        watch.poke()
        try:
            yield watch
        finally:
            watch.end()
            self.store.remove_watcher(watch.poke)

    async def _ask(self, operation: Callable[[], T], unknown: type[MetadataError]) -> T:
        """One request and its reply. `unknown` is raised if nothing is known of it."""
        if self.process.is_dead:
            await trio.lowlevel.checkpoint()
            raise MetadataUnavailable("the process that asks is dead")
        reply: _Reply[T] = _Reply()
        ends_at = self.kernel.now + TIMEOUT_S
        self.kernel.after(self.there.transit_s(0), lambda: self._arrive(operation, reply, ends_at))
        with trio.move_on_at(ends_at):
            await reply.event.wait()
        if self.process.is_dead:
            raise MetadataUnavailable("the process that asks is dead")
        if reply.error is not None and not reply.is_broken:
            raise reply.error
        if reply.is_broken or not reply.event.is_set():
            raise unknown("the connection broke" if reply.is_broken else "no reply in time")
        return reply.value  # type: ignore[return-value]

    def _arrive(self, operation: Callable[[], T], reply: _Reply[T], ends_at: float) -> None:
        """The request is at the store, if it got through; it is sent again for a while, and may come when nobody waits any more."""
        kernel = self.kernel
        if self.there.is_cut:
            if kernel.now < ends_at and not self.process.is_dead:
                kernel.after(RETRY_S, lambda: self._arrive(operation, reply, ends_at))
            return
        if self._breaks():
            reply.is_broken = True
            reply.event.set()
            return
        loses_reply = self._breaks()
        if not self.store.is_up:
            reply.error = MetadataUnavailable("connection refused")
        else:
            try:
                reply.value = operation()
            except LeaseNotFound as error:
                reply.error = error
        kernel.after(self.back.transit_s(0), lambda: self._answer(reply, ends_at, loses_reply))

    def _breaks(self) -> bool:
        if self.loss_chance > 0.0 and self.random.random() < self.loss_chance:
            self.reconnected_at = self.kernel.now + self.random.choice(RECONNECT_S)
            return True
        return False

    def _answer(self, reply: _Reply[T], ends_at: float, is_lost: bool) -> None:
        reply.is_broken = is_lost
        if not self.back.is_cut:
            reply.event.set()
        elif self.kernel.now < ends_at:
            self.kernel.after(RETRY_S, lambda: self._answer(reply, ends_at, is_lost))


class _Watch:
    """One watch's iterator: what has arrived here, and what the store has beyond it."""

    def __init__(self, front: StoreFront, prefix: str, after_revision: int) -> None:
        self._front = front
        self._prefix = prefix
        self._arrived_revision = after_revision
        self._arrived: deque[WatchBatch] = deque()
        self._error: Compacted | None = None
        self._lot = trio.lowlevel.ParkingLot()
        self._is_poked = False
        self._has_ended = False

    def __aiter__(self) -> "_Watch":
        return self

    async def __anext__(self) -> WatchBatch:
        await trio.lowlevel.checkpoint()
        while not self._arrived:
            if self._error is not None:
                raise self._error
            if self._front.process.is_dead:
                raise MetadataUnavailable("the process that asks is dead")
            await self._lot.park()
        return self._arrived.popleft()

    def poke(self) -> None:
        """The store has changed; it will be seen here a moment later."""
        if not self._is_poked:
            self._is_poked = True
            front = self._front
            front.kernel.after(front.back.transit_s(0) + front.watch_lag_s, self._arrive)

    def end(self) -> None:
        self._has_ended = True

    def _arrive(self) -> None:
        front = self._front
        if self._has_ended or front.process.is_dead:
            self._lot.unpark_all()
            return
        if front.back.is_cut or front.there.is_cut or not front.store.is_up:
            front.kernel.after(WATCH_RETRY_S, self._arrive)
            return
        if front.kernel.now < front.reconnected_at:
            front.kernel.at(front.reconnected_at, self._arrive)
            return
        self._is_poked = False
        try:
            for batch in front.store.after(self._arrived_revision):
                self._arrived_revision = batch.revision
                events = [event for event in batch.events if event.key.startswith(self._prefix)]
                if events:
                    self._arrived.append(WatchBatch(batch.revision, events))
        except Compacted as error:
            self._error = error
        self._lot.unpark_all()


__all__ = ["ADDRESS", "Applied", "CentralStore", "StoreFront"]
