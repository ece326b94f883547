"""The metadata store: a linearizable key-value store with compare-and-swap on revisions, leases and watches.

The control plane of a cluster (DESIGN section 7). The vocabulary is etcd's: every successful transaction that changes
something raises the store's *revision* by one; a key has the revision that created it and the one that last changed it; a key
under a lease goes when the lease ends. One contract suite (`tests/contract/`) runs against every implementation.
"""

from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Protocol

from penstock.errors import PenstockError

OPERATIONS_PER_TRANSACTION_MAX = 128
"""Compares (a compare of both revisions is two) and operations each; etcd's default bound."""
VALUE_SIZE_BYTES_MAX = 1_000_000
TRANSACTION_SIZE_BYTES_MAX = 1_400_000
"""Keys and values of all compares and operations together; with what is sent around them, etcd's default bound of 1.5 MiB."""


class MetadataError(PenstockError):
    """The store did not do what was asked."""


class MetadataUnavailable(MetadataError):
    """The store can't be reached, and nothing was changed."""


class OutcomeUnknown(MetadataError):
    """The reply was lost: the transaction may or may not have been applied. Read again before acting (PROPERTIES M1)."""


class LeaseNotFound(MetadataError):
    """The lease has ended or never was."""


class TransactionTooLarge(MetadataError):
    """More operations or a larger value than the store takes."""


class Compacted(MetadataError):
    """The watch asked for revisions that are gone: take a new snapshot and watch from there."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One key as stored."""

    key: str
    value: bytes
    create_revision: int
    mod_revision: int
    lease_id: int = 0


@dataclass(frozen=True, slots=True)
class Snapshot:
    """All keys under a prefix at one revision, sorted by key."""

    entries: Sequence[Entry]
    revision: int


@dataclass(frozen=True, slots=True)
class Compare:
    """A condition: the key's mod revision (or create revision) equals the number; 0 means that the key is absent."""

    key: str
    mod_revision: int | None = None
    create_revision: int | None = None


@dataclass(frozen=True, slots=True)
class Put:
    """Store a value; `lease_id` 0 means without a lease. A key begins with a slash."""

    key: str
    value: bytes
    lease_id: int = 0


@dataclass(frozen=True, slots=True)
class Delete:
    """Remove a key; no error if it is absent."""

    key: str


@dataclass(frozen=True, slots=True)
class TransactionResult:
    """What a transaction did. `revision` is the store's after it, whether it succeeded or not."""

    succeeded: bool
    revision: int


@dataclass(frozen=True, slots=True)
class WatchEvent:
    """One change: `entry` is the new state, or None when the key was deleted."""

    key: str
    entry: Entry | None


@dataclass(frozen=True, slots=True)
class WatchBatch:
    """All changes of one revision under the watched prefix, in the order of the transaction. Never split."""

    revision: int
    events: Sequence[WatchEvent]


class MetadataStore(Protocol):
    """The port."""

    async def get(self, key: str) -> Entry | None:
        """Linearizable read of one key. Raises MetadataUnavailable."""
        ...

    async def range(self, prefix: str) -> Snapshot:
        """Linearizable read of all keys that start with `prefix`. Raises MetadataUnavailable."""
        ...

    async def transact(
        self, compares: Sequence[Compare], operations: Sequence[Put | Delete]
    ) -> TransactionResult:
        """Do all operations if all compares hold, else none. Durable on return. One key may be named by one operation only.

        Raises:
            MetadataUnavailable: nothing was changed.
            OutcomeUnknown: it may have been applied (also when cancelled while under way).
            LeaseNotFound: a put names a lease that has ended; nothing was changed.
            TransactionTooLarge: over the bounds of this module; nothing was changed.
        """
        ...

    async def grant_lease(self, ttl_s: int) -> int:
        """A new lease that ends `ttl_s` seconds (at least 2) after its last keep-alive. Returns its id (never 0).

        Raises MetadataUnavailable; a lease that was made all the same has no keys and ends unseen.
        """
        ...

    async def keep_alive(self, lease_id: int) -> None:
        """Renew: the lease lives for its ttl from some moment within this call, so count from before it.

        Raises LeaseNotFound when it has ended, MetadataUnavailable when no answer came.
        """
        ...

    async def revoke_lease(self, lease_id: int) -> None:
        """End a lease and delete its keys, in one revision. No error if it has ended.

        Raises MetadataUnavailable when no answer came: then it has ended or ends by itself.
        """
        ...

    def watch(
        self, prefix: str, *, after_revision: int
    ) -> AbstractAsyncContextManager[AsyncIterator[WatchBatch]]:
        """Every change under `prefix` with a revision above `after_revision`, in order, none twice, none left out.

        The iterator survives reconnects by itself. Cancelling it loses no batch. Raises Compacted from the iteration when the past is
        gone, MetadataUnavailable when the store was closed.
        """
        ...
