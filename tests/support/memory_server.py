"""A whole server and its clients in one trio run: sockets, disk, metadata and workers in memory, time in the hand of trio's clock.

    async with memory_server() as server:
        async with Admin(server.bootstrap, server.client("admin")) as admin: ...
        away = server.client_host("member")     # freeze(), thaw(), crash(): see memory_network

With trio's MockClock(autojump_threshold=0) two minutes take as long as the work that is done in them.
"""

import random
from collections.abc import AsyncGenerator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext
from dataclasses import dataclass, field

import trio
from tests.support.memory_files import MemoryFiles
from tests.support.memory_metadata import MemoryMetadata
from tests.support.memory_network import Host, MemoryNetwork
from tests.support.metadata_plane import TrioClock
from tests.support.scripted_threads import ScriptedThreads

from penstock.broker.broker import Broker
from penstock.broker.broker_config import BrokerConfig
from penstock.broker.server import RunningBroker, serve
from penstock.runtime.environment import Environment
from penstock.runtime.metadata import MetadataStore
from penstock.runtime.network import Network

HOST, PORT = "10.0.0.1", 9092


@dataclass(slots=True)
class MemoryServer:
    """The server's parts; those on disk and in the store outlive a restart."""

    network: MemoryNetwork
    files: MemoryFiles
    store: MemoryMetadata
    threads: ScriptedThreads
    random: random.Random
    broker: Broker | None = None
    hosts: dict[str, Host] = field(default_factory=dict[str, Host])
    clock: TrioClock = field(default_factory=TrioClock)

    @property
    def bootstrap(self) -> str:
        """Where clients begin."""
        return f"{HOST}:{PORT}"

    def environment(self, network: Network) -> Environment:
        """What a program on that network is given."""

        def open_metadata(_: str) -> AbstractAsyncContextManager[MetadataStore]:
            return nullcontext(self.store)

        return Environment(self.clock, self.random, network, self.files, self.threads, open_metadata)

    def client(self, name: str) -> Environment:
        """The environment of a client on a machine of its own."""
        self.hosts[name] = self.network.host(name)
        return self.environment(self.hosts[name])


@asynccontextmanager
async def memory_server(
    *,
    seed: int = 7,
    latency_s: float = 0.0005,
    server: MemoryServer | None = None,
    clock: TrioClock | None = None,
    **properties: str,
) -> AsyncGenerator[MemoryServer]:
    """A server that takes connections; stopped cleanly at the end. Underscores in property names stand for dots.

    With `server`, one that was stopped starts again on its disk and store.
    """
    if server is None:
        server = MemoryServer(
            MemoryNetwork(latency_s=latency_s),
            MemoryFiles(),
            MemoryMetadata(),
            ScriptedThreads(),
            random.Random(seed),
        )
    if clock is not None:
        server.clock = clock
    given = {key.replace("_", "."): value for key, value in properties.items()}
    config = BrokerConfig.from_properties(
        {"log.dirs": "/data", "listeners": f"PLAINTEXT://{HOST}:{PORT}", **given}
    )
    running: list[RunningBroker] = []
    started = trio.Event()

    def note(broker: RunningBroker) -> None:
        running.append(broker)
        started.set()

    async with trio.open_nursery() as nursery:

        async def run() -> None:
            await serve(server.environment(server.network), config, started=note)

        nursery.start_soon(run)
        await started.wait()
        server.broker = running[0].broker
        try:
            yield server
        finally:
            server.threads.release_all()
            nursery.cancel_scope.cancel()
