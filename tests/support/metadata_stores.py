"""The metadata stores that the contract suite runs against. A further one is one more class in `STORES`.

A kind makes a place, opens a store on it (again after closing: what was stored is there), and says how time passes for its leases.
"""

from contextlib import AbstractAsyncContextManager, nullcontext
from pathlib import Path
from typing import Protocol

import trio
from tests.support.memory_metadata import MemoryMetadata
from trio.abc import Clock
from trio.testing import MockClock

from penstock.runtime.metadata import MetadataStore
from penstock.runtime.production import production_environment


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


STORES: dict[str, type[StorePlace]] = {"sqlite": SqlitePlace, "memory": MemoryPlace}
