"""The environment that production code is handed at start, and simulation hands in its own of."""

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass

from penstock.runtime.clock import Clock, Random
from penstock.runtime.files import FileSystem
from penstock.runtime.metadata import MetadataStore
from penstock.runtime.network import Network
from penstock.runtime.threads import Threads


@dataclass(frozen=True, slots=True)
class Environment:
    """Every source of time, chance, bytes and metadata that Penstock uses.

    `open_metadata(location)` opens the store behind a location: a file path for SQLite, `etcd://…` for etcd.
    """

    clock: Clock
    random: Random
    network: Network
    files: FileSystem
    threads: Threads
    open_metadata: Callable[[str], AbstractAsyncContextManager[MetadataStore]]
    open_files_max: int = 20_000
    """Descriptors that the process may have."""
