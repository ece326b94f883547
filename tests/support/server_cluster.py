"""Several whole servers in one trio run: they share a network and a metadata store in memory, and have a disk each.

    async with server_cluster(1, 2, 3) as cluster:
        answer = await cluster.ask(2, ApiKey.METADATA, 12, topics=[...], ...)
        await cluster.stop(1)                       # cleanly
        await cluster.start(1)                      # on its disk

With trio's MockClock(autojump_threshold=0) two minutes take as long as the work that is done in them.
"""

import random
from collections.abc import AsyncGenerator, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import trio
from tests.support.memory_files import MemoryFiles
from tests.support.memory_metadata import MemoryMetadata
from tests.support.memory_network import MemoryNetwork
from tests.support.metadata_plane import TrioClock
from tests.support.scripted_threads import ScriptedThreads

from penstock.broker.broker import Broker
from penstock.broker.broker_config import BrokerConfig
from penstock.broker.keys import PartitionState
from penstock.broker.server import RunningBroker, serve
from penstock.client.connection import ConnectionSettings, open_connection
from penstock.protocol.api import ApiKey
from penstock.protocol.message import Message
from penstock.runtime.environment import Environment
from penstock.runtime.metadata import MetadataStore

PORT = 9092


@dataclass
class _Server:
    """What one broker has; disk and threads outlive a restart."""

    files: MemoryFiles = field(default_factory=MemoryFiles)
    threads: ScriptedThreads = field(default_factory=ScriptedThreads)
    running: RunningBroker | None = None
    scope: trio.CancelScope = field(default_factory=trio.CancelScope)
    ended: trio.Event = field(default_factory=trio.Event)


class MemoryCluster:
    """See the module."""

    def __init__(self, nursery: trio.Nursery, properties: Mapping[str, str], latency_s: float) -> None:
        self.network = MemoryNetwork(latency_s=latency_s)
        self.store = MemoryMetadata()
        self._nursery = nursery
        self._properties = properties
        self._servers: dict[int, _Server] = {}

    def broker(self, node_id: int) -> Broker:
        """One that runs."""
        running = self._servers[node_id].running
        assert running is not None
        return running.broker

    async def start(self, node_id: int, **properties: str) -> None:
        """Start a server; returns when it takes requests."""
        server = self._servers.setdefault(node_id, _Server())
        given = {key.replace("_", "."): value for key, value in properties.items()}
        config = BrokerConfig.from_properties(
            {
                "node.id": str(node_id),
                "log.dirs": "/data",
                "metadata.store": "etcd://memory",
                "listeners": f"PLAINTEXT://10.0.0.{node_id}:{PORT}",
                **self._properties,
                **given,
            }
        )

        def open_metadata(_: str) -> AbstractAsyncContextManager[MetadataStore]:
            return nullcontext(self.store)

        environment = Environment(
            TrioClock(), random.Random(node_id), self.network, server.files, server.threads, open_metadata
        )
        started = trio.Event()

        def note(running: RunningBroker) -> None:
            server.running = running
            started.set()

        async def run() -> None:
            server.scope, server.ended = trio.CancelScope(), trio.Event()
            with server.scope:
                await serve(environment, config, started=note)
            server.ended.set()

        self._nursery.start_soon(run)
        await started.wait()

    async def stop(self, node_id: int) -> None:
        """Stop a server cleanly; returns when it is gone."""
        server = self._servers[node_id]
        server.scope.cancel()
        await server.ended.wait()

    async def ask(self, node_id: int, api_key: ApiKey, version: int, **fields: Any) -> Message:
        """Send one request on a connection of its own, and return the answer."""
        async with trio.open_nursery() as nursery:
            connection = await open_connection(
                nursery, self.network, f"10.0.0.{node_id}", PORT, ConnectionSettings()
            )
            answer = await connection.request(api_key, Message(**fields), at_least=version, at_most=version)
            connection.close()
        return answer

    async def create(
        self, topic: str, *assignments: tuple[int, ...], node_id: int | None = None, **configs: str
    ) -> None:
        """Make a topic with these replicas, on the controller; returns when all brokers see it."""
        broker = self.broker(next(iter(self._servers)))
        assert broker.image.controller is not None
        answer = await self.ask(
            node_id or broker.image.controller.node_id,
            ApiKey.CREATE_TOPICS,
            7,
            topics=[
                Message(
                    name=topic,
                    num_partitions=-1,
                    replication_factor=-1,
                    assignments=[
                        Message(partition_index=index, broker_ids=list(replicas))
                        for index, replicas in enumerate(assignments)
                    ],
                    configs=[
                        Message(name=name.replace("_", "."), value=value) for name, value in configs.items()
                    ],
                )
            ],
            timeout_ms=10_000,
            validate_only=False,
        )
        assert answer.topics[0].error_code == 0, answer.topics[0].error_message
        for server in self._servers.values():
            if server.running is not None and not server.ended.is_set():
                watch = server.running.broker.watch
                while watch.image.topic(topic) is None:
                    await watch.wait_for(watch.image.revision + 1)

    def states(self, topic: str, *, seen_by: int) -> list[PartitionState]:
        """A topic's partitions as one broker sees them."""
        image = self.broker(seen_by).image
        found = image.topic(topic)
        return [] if found is None else [p.state for p in image.partitions(found.topic_id)]


@asynccontextmanager
async def server_cluster(
    *node_ids: int, latency_s: float = 0.0005, **properties: str
) -> AsyncGenerator[MemoryCluster]:
    """Servers that take requests; stopped cleanly at the end. Underscores in property names stand for dots."""
    given = {key.replace("_", "."): value for key, value in properties.items()}
    async with trio.open_nursery() as nursery:
        cluster = MemoryCluster(nursery, given, latency_s)
        for node_id in node_ids:
            await cluster.start(node_id)
        try:
            yield cluster
        finally:
            nursery.cancel_scope.cancel()
