"""The metadata stores that the contract suite runs against. A further one is one more class in `STORES`.

A kind makes a place, opens a store on it (again after closing: what was stored is there), and says how time passes for its leases.
"""

import itertools
import time
from collections.abc import AsyncGenerator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext
from pathlib import Path
from typing import Protocol

import trio
from tests.support.etcd import shared_etcd
from tests.support.etcd_gateway import EtcdGateway
from tests.support.memory_metadata import MemoryMetadata
from tests.support.metadata_plane import TrioClock
from trio.abc import Clock
from trio.testing import MockClock

from penstock.runtime.etcd_metadata import open_etcd_metadata
from penstock.runtime.metadata import MetadataStore
from penstock.runtime.production import production_environment

_NUMBERS = itertools.count()


class StorePlace(Protocol):
    """Where one store lives for the length of a test."""

    def __init__(self, folder: Path) -> None: ...

    @property
    def clock(self) -> Clock:
        """The clock that the test's trio runs on."""
        ...

    def open(self) -> AbstractAsyncContextManager[MetadataStore]:
        """Open the store; one at a time."""
        ...

    async def pass_time(self, seconds: float) -> None:
        """Let the leases get older."""
        ...

    async def pass_end(self, seconds: float) -> None:
        """Let leases that live for less than this end; the caller then waits until it sees their end."""
        ...


class SqlitePlace:
    """The embedded store in a file."""

    def __init__(self, folder: Path) -> None:
        self.clock = MockClock()
        self._path = folder / "metadata.db"
        self._environment = production_environment()

    def open(self) -> AbstractAsyncContextManager[MetadataStore]:
        return self._environment.open_metadata(str(self._path))

    async def pass_time(self, seconds: float) -> None:
        await trio.testing.wait_all_tasks_blocked()
        self.clock.jump(seconds)

    async def pass_end(self, seconds: float) -> None:
        await self.pass_time(seconds)


class MemoryPlace:
    """The store that tests of the broker use."""

    def __init__(self, folder: Path) -> None:
        self.clock = MockClock()
        self._store = MemoryMetadata()

    def open(self) -> AbstractAsyncContextManager[MetadataStore]:
        return nullcontext(self._store)

    async def pass_time(self, seconds: float) -> None:
        await trio.testing.wait_all_tasks_blocked()
        self.clock.jump(seconds)

    async def pass_end(self, seconds: float) -> None:
        await self.pass_time(seconds)


class RealClock(Clock):
    """The machine's time."""

    def start_clock(self) -> None:
        pass

    def current_time(self) -> float:
        return time.monotonic()

    def deadline_to_sleep_time(self, deadline: float) -> float:
        return deadline - time.monotonic()


class EtcdPlace:
    """A prefix of its own in the one real etcd that all tests of this process share. Time passes by itself."""

    def __init__(self, folder: Path) -> None:
        self.clock = RealClock()
        self._server = shared_etcd()
        self._location = f"{self._server.location}/{folder.name}-{next(_NUMBERS)}"
        self._environment = production_environment()

    @asynccontextmanager
    async def open(self) -> AsyncGenerator[MetadataStore]:
        async with self._environment.open_metadata(self._location) as store:
            yield store
        # A lease that ends during a later test would raise the revision there.
        for lease in self._server.ask("POST", "/v3/lease/leases", {}).get("leases", ()):
            self._server.ask("POST", "/v3/lease/revoke", lease)

    async def pass_time(self, seconds: float) -> None:
        await trio.sleep(seconds)

    async def pass_end(self, seconds: float) -> None:
        await trio.lowlevel.checkpoint()


class GatewayPlace:
    """The adapter for etcd over an etcd in memory, in virtual time. Revisions come in fragments here."""

    def __init__(self, folder: Path) -> None:
        self.clock = MockClock()
        self._gateway = EtcdGateway()
        self._gateway.events_per_message_max = 2
        self._environment = production_environment()

    def open(self) -> AbstractAsyncContextManager[MetadataStore]:
        return open_etcd_metadata(
            "etcd://one,two",
            clock=TrioClock(),
            random=self._environment.random,
            threads=self._environment.threads,
            transport=self._gateway,
        )

    async def pass_time(self, seconds: float) -> None:
        await trio.testing.wait_all_tasks_blocked()
        self.clock.jump(seconds)

    async def pass_end(self, seconds: float) -> None:
        await self.pass_time(seconds)


STORES: dict[str, type[StorePlace]] = {
    "sqlite": SqlitePlace,
    "memory": MemoryPlace,
    "etcd": EtcdPlace,
    "gateway": GatewayPlace,
}
