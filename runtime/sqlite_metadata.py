"""The embedded metadata store: one SQLite file, one process.

Owns the store's leases, watchers and the order of calls; the tables are in `sqlite_database`, which is imported (with sqlite3 behind it)
when a store is opened. Blocking work goes to a worker, one call at a time.

Invariants: a change is told to the watchers in the same step of the loop in which its transaction comes back, so nobody sees a revision
number before the watchers can. The newest changes are kept in memory and older ones read from the file, so that a slow watcher costs no
memory. Leases live in the process: whoever opens the store finds none, and the keys that the last process left under leases go first,
in one revision. Without leases and changes no task has a timer.
"""

import itertools
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar, TypeVarTuple

import trio

from penstock.runtime.clock import Clock, Random
from penstock.runtime.metadata import (
    Compare,
    Delete,
    Entry,
    LeaseNotFound,
    MetadataError,
    MetadataUnavailable,
    Put,
    Snapshot,
    TransactionResult,
    WatchBatch,
)
from penstock.runtime.metadata_checks import check_lease_ttl, check_transaction
from penstock.runtime.threads import Threads

if TYPE_CHECKING:
    from penstock.runtime.sqlite_database import Database, Outcome

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

RECENT_REVISION_COUNT_MAX = 1024
RECENT_SIZE_BYTES_MAX = 4_000_000
_EXPIRY_RETRY_S = 1.0


@dataclass(slots=True)
class _Lease:
    id: int
    ttl_s: int
    deadline: float


class RecentChanges:
    """The newest revisions, without gaps, bounded by count and bytes; always at least the newest one."""

    def __init__(self) -> None:
        self._batches: deque[WatchBatch] = deque()
        self._size_bytes = 0

    def add(self, batch: WatchBatch) -> None:
        """Take the next revision in, and let go of the oldest ones past the bounds."""
        self._batches.append(batch)
        self._size_bytes += _size_bytes(batch)
        while len(self._batches) > 1 and (
            len(self._batches) > RECENT_REVISION_COUNT_MAX or self._size_bytes > RECENT_SIZE_BYTES_MAX
        ):
            self._size_bytes -= _size_bytes(self._batches.popleft())

    def after(self, revision: int) -> Sequence[WatchBatch] | None:
        """Everything above `revision`, or None when some of it is only in the file."""
        if not self._batches or revision + 1 < self._batches[0].revision:
            return None
        return list(itertools.islice(self._batches, revision + 1 - self._batches[0].revision, None))


class SqliteMetadata:
    """The `MetadataStore` on an open database. Made by `open_sqlite_metadata`."""

    def __init__(self, database: "Database", *, clock: Clock, random: Random, threads: Threads) -> None:
        self._database = database
        self._clock = clock
        self._random = random
        self._threads = threads
        self._turn = trio.Lock()
        self._leases: dict[int, _Lease] = {}
        self._recent = RecentChanges()
        self._revision = database.revision
        self._watchers = trio.lowlevel.ParkingLot()
        self._leases_changed = trio.Event()
        self._closed = False

    async def get(self, key: str) -> Entry | None:
        """One entry, as of the last transaction."""
        return await self._run(self._database.get, key)

    async def range(self, prefix: str) -> Snapshot:
        """All entries under a prefix and the revision they are of."""
        return await self._run(self._database.range, prefix)

    async def transact(
        self, compares: Sequence[Compare], operations: Sequence[Put | Delete]
    ) -> TransactionResult:
        """Do all operations if all compares hold, else none. On the disk on return.

        Cancellation: before it began nothing is changed; once it is on the worker it is waited for and its result returned.
        OutcomeUnknown comes from a failed sync only, and then the store has to be opened anew.
        """
        check_transaction(compares, operations)
        async with self._turn:
            for operation in operations:
                if isinstance(operation, Put) and operation.lease_id:
                    self._living_lease(operation.lease_id)
            outcome = await self._work(self._database.transact, compares, operations)
            self._tell(outcome)
        return TransactionResult(outcome.succeeded, outcome.revision)

    async def grant_lease(self, ttl_s: int) -> int:
        """A new lease, in memory: it ends with the process at the latest."""
        check_lease_ttl(ttl_s)
        await trio.lowlevel.checkpoint()
        self._check_open()
        lease_id = self._random.randrange(1, 1 << 62)
        self._leases[lease_id] = _Lease(lease_id, ttl_s, self._clock.monotonic() + ttl_s)
        self._leases_changed.set()
        return lease_id

    async def keep_alive(self, lease_id: int) -> None:
        """Renew a lease; touches no disk."""
        await trio.lowlevel.checkpoint()
        self._check_open()
        lease = self._living_lease(lease_id)
        lease.deadline = self._clock.monotonic() + lease.ttl_s

    async def revoke_lease(self, lease_id: int) -> None:
        """End a lease and delete its keys. If it fails or is cancelled, the lease has ended all the same and the keys go soon."""
        lease = self._leases.get(lease_id)
        if lease is not None:
            lease.deadline = self._clock.monotonic()
            try:
                await self._end_lease(lease)
            except BaseException:
                self._leases_changed.set()
                raise
        else:
            await trio.lowlevel.checkpoint()

    @asynccontextmanager
    async def watch(
        self, prefix: str, *, after_revision: int
    ) -> AsyncGenerator[AsyncIterator[WatchBatch], None]:
        """Changes under `prefix` from the history and then as they happen. A watcher that lags holds nobody up.

        The iteration raises MetadataUnavailable when the store is closed. Cancelling it loses no batch.
        """
        yield _Watch(self, prefix, after_revision)

    async def changes(self, after_revision: int) -> Sequence[WatchBatch]:
        """The next revisions above `after_revision`, at least one; waits for it. Raises Compacted."""
        while self._revision <= after_revision:
            self._check_open()
            await self._watchers.park()
        recent = self._recent.after(after_revision)
        if recent is None:
            return await self._run(self._database.history, after_revision)
        await trio.lowlevel.checkpoint()
        return recent

    async def expire_leases(self) -> None:
        """Delete the keys of ended leases for ever; waits without a timer while there are no leases."""
        while True:
            now = self._clock.monotonic()
            ended = [lease for lease in self._leases.values() if lease.deadline <= now]
            for lease in ended:
                try:
                    await self._end_lease(lease)
                except MetadataError:
                    # The disk may have room again later. The lease counts as ended in the meantime.
                    await trio.sleep(_EXPIRY_RETRY_S)
            if ended:
                continue
            self._leases_changed = trio.Event()
            first_deadline = min((lease.deadline for lease in self._leases.values()), default=float("inf"))
            with trio.move_on_at(first_deadline):
                await self._leases_changed.wait()

    async def end_orphaned_keys(self) -> None:
        """Delete what the last process left under its leases."""
        async with self._turn:
            self._tell(await self._work(self._database.end_leases, None))

    async def close(self) -> None:
        """Wait for the call under way, close the file and wake the watchers."""
        self._closed = True
        self._watchers.unpark_all()
        async with self._turn:
            await self._threads.run(self._database.close)

    async def _end_lease(self, lease: _Lease) -> None:
        async with self._turn:
            # A keep-alive may have come first, or somebody else ended it.
            if lease.deadline > self._clock.monotonic() or lease.id not in self._leases:
                return
            self._tell(await self._work(self._database.end_leases, lease.id))
            del self._leases[lease.id]

    def _living_lease(self, lease_id: int) -> _Lease:
        lease = self._leases.get(lease_id)
        if lease is None or lease.deadline <= self._clock.monotonic():
            raise LeaseNotFound(f"lease {lease_id:x} has ended or never was")
        return lease

    def _tell(self, outcome: "Outcome") -> None:
        self._revision = outcome.revision
        if outcome.changes is not None:
            self._recent.add(outcome.changes)
            self._watchers.unpark_all()

    async def _run(self, function: Callable[[*Ts], T], *args: *Ts) -> T:
        async with self._turn:
            return await self._work(function, *args)

    async def _work(self, function: Callable[[*Ts], T], *args: *Ts) -> T:
        """Call the database on a worker; the caller holds the turn."""
        self._check_open()
        return await self._threads.run(function, *args)

    def _check_open(self) -> None:
        if self._closed:
            raise MetadataUnavailable("the metadata store is closed")


class _Watch:
    """The iterator of one watch; one task at a time."""

    def __init__(self, store: SqliteMetadata, prefix: str, after_revision: int) -> None:
        self._store = store
        self._prefix = prefix
        self._after_revision = after_revision
        self._waiting: deque[WatchBatch] = deque()

    def __aiter__(self) -> "_Watch":
        return self

    async def __anext__(self) -> WatchBatch:
        await trio.lowlevel.checkpoint()
        while not self._waiting:
            changes = await self._store.changes(self._after_revision)
            self._after_revision = changes[-1].revision
            self._waiting.extend(batch for batch in map(self._under_prefix, changes) if batch.events)
        return self._waiting.popleft()

    def _under_prefix(self, batch: WatchBatch) -> WatchBatch:
        return WatchBatch(
            batch.revision, [event for event in batch.events if event.key.startswith(self._prefix)]
        )


def _size_bytes(batch: WatchBatch) -> int:
    return sum(len(event.key) + (len(event.entry.value) if event.entry else 0) for event in batch.events)


def _open_database(path: str) -> "Database":
    # Here, on the worker: the import takes milliseconds, and a process without a broker never needs it.
    from penstock.runtime.sqlite_database import Database

    return Database(path)


@asynccontextmanager
async def open_sqlite_metadata(
    path: str,
    *,
    clock: Clock,
    random: Random,
    threads: Threads,
    open_database: Callable[[str], "Database"] = _open_database,
) -> AsyncGenerator[SqliteMetadata, None]:
    """Open the store in the file `path`, made if it is missing, and keep it to this process until the block is left.

    Raises:
        MetadataError: another process has it open, or it is not a store that this version reads.
    """
    store = SqliteMetadata(
        await threads.run(open_database, path), clock=clock, random=random, threads=threads
    )
    failure: BaseException | None = None
    try:
        await store.end_orphaned_keys()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(store.expire_leases)
            try:
                yield store
            except BaseException as error:  # noqa: BLE001 - raised below: the nursery would wrap it into a group of one
                failure = error
            # A cancellation from outside must not take the place of the failure either.
            nursery.cancel_scope.shield = True
            nursery.cancel_scope.cancel()
    finally:
        with trio.CancelScope(shield=True):
            await store.close()
    if failure is not None:
        raise failure


__all__ = ["SqliteMetadata", "open_sqlite_metadata"]
