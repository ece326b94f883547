"""How one broker is cut off: from everybody, or from the metadata store alone. It goes on, and does not know it: a zombie."""

from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import asynccontextmanager

import trio

from penstock.runtime.metadata import (
    Compare,
    Delete,
    Entry,
    MetadataStore,
    MetadataUnavailable,
    Put,
    Snapshot,
    TransactionResult,
    WatchBatch,
)
from penstock.runtime.network import AddressError


class Link:
    """What a broker can reach."""

    def __init__(self) -> None:
        self.is_cut = False
        self.is_storeless = False
        self.mended = trio.Event()

    def cut(self, *, store_only: bool) -> None:
        """Reach nobody, or the store no more."""
        self.is_storeless = True
        self.is_cut = not store_only
        self.mended = trio.Event()

    def mend(self) -> None:
        """Reach everybody again."""
        self.is_cut = self.is_storeless = False
        self.mended.set()

    def check_network(self) -> None:
        """Raise where nobody can be reached."""
        if self.is_cut:
            raise AddressError("cut off")

    def check_store(self) -> None:
        """Raise where the store can't be reached."""
        if self.is_storeless:
            raise MetadataUnavailable("cut off")


class StoreOver:
    """The one store as one broker reaches it."""

    def __init__(self, link: Link, store: MetadataStore) -> None:
        self._link = link
        self._store = store

    async def get(self, key: str) -> Entry | None:
        self._link.check_store()
        return await self._store.get(key)

    async def range(self, prefix: str) -> Snapshot:
        self._link.check_store()
        return await self._store.range(prefix)

    async def transact(
        self, compares: Sequence[Compare], operations: Sequence[Put | Delete]
    ) -> TransactionResult:
        self._link.check_store()
        return await self._store.transact(compares, operations)

    async def grant_lease(self, ttl_s: int) -> int:
        self._link.check_store()
        return await self._store.grant_lease(ttl_s)

    async def keep_alive(self, lease_id: int) -> None:
        self._link.check_store()
        await self._store.keep_alive(lease_id)

    async def revoke_lease(self, lease_id: int) -> None:
        self._link.check_store()
        await self._store.revoke_lease(lease_id)

    @asynccontextmanager
    async def watch(self, prefix: str, *, after_revision: int) -> AsyncGenerator[AsyncIterator[WatchBatch]]:
        self._link.check_store()
        async with self._store.watch(prefix, after_revision=after_revision) as batches:
            yield self._pass_on(batches)

    async def _pass_on(self, batches: AsyncIterator[WatchBatch]) -> AsyncGenerator[WatchBatch]:
        async for batch in batches:
            if self._link.is_storeless:
                await self._link.mended.wait()
            yield batch
