"""Several whole brokers in one trio run, on a network, disks and a metadata store in memory.

    async with memory_cluster(3) as cluster:
        await cluster.create("orders", replicas=[(1, 2, 3)])
        async with cluster.client() as producer: ...
        cluster.cut(1)              # it goes on, but reaches neither the store nor anybody else: a zombie
        await cluster.stop(2); await cluster.start(2)

Deterministic only as far as trio is; the simulation (`tests/simulation`) kills processes, loses disks' caches and is seeded.
"""

from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext
from typing import Any

import trio
from tests.support.memory_files import MemoryFiles
from tests.support.memory_metadata import MemoryMetadata
from tests.support.memory_network import MemoryListener, MemoryNetwork, MemoryStream
from tests.support.metadata_plane import TrioClock, new_random
from tests.support.scripted_threads import ScriptedThreads

from penstock.broker import keys
from penstock.broker.broker import Broker
from penstock.broker.broker_config import BrokerConfig
from penstock.broker.keys import PartitionState, TopicRecord
from penstock.broker.partition import Partition
from penstock.broker.server import RunningBroker, serve
from penstock.runtime.environment import Environment
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

PORT = 9092


class _Machine:
    """One broker's disk, workers, and its way to the network and the store."""

    def __init__(self, node_id: int, network: MemoryNetwork, store: MemoryMetadata) -> None:
        self.host = f"10.0.0.{node_id}"
        self.files = MemoryFiles()
        self.threads = ScriptedThreads()
        self.is_cut = False
        self.is_storeless = False
        self.reachable = trio.Event()
        self.reachable.set()
        self.broker: Broker | None = None
        self.scope = trio.CancelScope()
        self.stopped = trio.Event()
        self._network = network
        self._streams: set[MemoryStream] = set()
        self.store = _StoreOver(self, store)

    def cut(self) -> None:
        """Reach nobody, and be reached by nobody, from now on."""
        self.is_cut = True
        self.reachable = trio.Event()
        for stream in tuple(self._streams):
            stream.close()
        self._streams.clear()

    def lose_store(self) -> None:
        """Reach the store no more, but everybody else."""
        self.is_storeless = True
        self.reachable = trio.Event()

    def mend(self) -> None:
        """Be in the network again."""
        self.is_cut = self.is_storeless = False
        self.reachable.set()

    def check(self, error: Callable[[str], Exception]) -> None:
        """Raise unless this machine is in the network."""
        if self.is_cut or (self.is_storeless and error is MetadataUnavailable):
            raise error(f"{self.host} is cut off")

    # The network port

    async def listen(self, host: str, port: int, *, backlog: int = 1024, is_open: bool = True) -> "_Listener":
        return _Listener(self, await self._network.listen(host, port, backlog=backlog, is_open=is_open))

    async def connect(self, host: str, port: int) -> MemoryStream:
        self.check(AddressError)
        stream = await self._network.connect(host, port)
        self._streams.add(stream)
        return stream

    def took(self, stream: MemoryStream) -> None:
        self._streams.add(stream)


class _Listener:
    def __init__(self, machine: _Machine, listener: MemoryListener) -> None:
        self._machine = machine
        self._listener = listener
        self.address = listener.address

    def open(self) -> None:
        self._listener.open()

    async def accept(self) -> MemoryStream:
        while True:
            stream = await self._listener.accept()
            if not self._machine.is_cut:
                self._machine.took(stream)
                return stream
            stream.close()

    def close(self) -> None:
        self._listener.close()


class _StoreOver:
    """The one store as one machine reaches it."""

    def __init__(self, machine: _Machine, store: MemoryMetadata) -> None:
        self._machine = machine
        self._store = store

    async def get(self, key: str) -> Entry | None:
        self._machine.check(MetadataUnavailable)
        return await self._store.get(key)

    async def range(self, prefix: str) -> Snapshot:
        self._machine.check(MetadataUnavailable)
        return await self._store.range(prefix)

    async def transact(
        self, compares: Sequence[Compare], operations: Sequence[Put | Delete]
    ) -> TransactionResult:
        self._machine.check(MetadataUnavailable)
        return await self._store.transact(compares, operations)

    async def grant_lease(self, ttl_s: int) -> int:
        self._machine.check(MetadataUnavailable)
        return await self._store.grant_lease(ttl_s)

    async def keep_alive(self, lease_id: int) -> None:
        self._machine.check(MetadataUnavailable)
        await self._store.keep_alive(lease_id)

    async def revoke_lease(self, lease_id: int) -> None:
        self._machine.check(MetadataUnavailable)
        await self._store.revoke_lease(lease_id)

    @asynccontextmanager
    async def watch(self, prefix: str, *, after_revision: int) -> AsyncGenerator[AsyncIterator[WatchBatch]]:
        self._machine.check(MetadataUnavailable)
        async with self._store.watch(prefix, after_revision=after_revision) as batches:
            yield self._pass_on(batches)

    async def _pass_on(self, batches: AsyncIterator[WatchBatch]) -> AsyncGenerator[WatchBatch]:
        async for batch in batches:
            if self._machine.is_cut or self._machine.is_storeless:
                await self._machine.reachable.wait()
            yield batch


class MemoryCluster:
    """The brokers by node id, from 1 on."""

    def __init__(self, count: int, nursery: trio.Nursery, properties: dict[str, str]) -> None:
        self.network = MemoryNetwork(latency_s=0.0005)
        self.shared_store = MemoryMetadata()
        self._nursery = nursery
        self._properties = properties
        self.machines = {
            node_id: _Machine(node_id, self.network, self.shared_store) for node_id in range(1, count + 1)
        }

    @property
    def bootstrap(self) -> str:
        """All brokers."""
        return ",".join(f"{machine.host}:{PORT}" for machine in self.machines.values())

    def environment(self, machine: _Machine) -> Environment:
        """What a broker's process is given."""

        def open_metadata(_: str) -> AbstractAsyncContextManager[MetadataStore]:
            return nullcontext(machine.store)

        return Environment(
            TrioClock(), new_random(len(machine.host)), machine, machine.files, machine.threads, open_metadata
        )

    def client_environment(self) -> Environment:
        """What a client is given, on a machine that nothing ever happens to."""
        machine = _Machine(99, self.network, self.shared_store)
        return self.environment(machine)

    async def start(self, node_id: int) -> None:
        """Start a broker, for the first time or again on its disk; returns when it serves."""
        machine = self.machines[node_id]
        config = BrokerConfig.from_properties(
            {
                "log.dirs": "/data",
                "node.id": str(node_id),
                "listeners": f"PLAINTEXT://{machine.host}:{PORT}",
                "metadata.store": "etcd://memory",
                **{key: value.replace("{node}", str(node_id)) for key, value in self._properties.items()},
            }
        )
        machine.scope = trio.CancelScope()
        machine.stopped = trio.Event()
        started = trio.Event()

        def note(running: RunningBroker) -> None:
            machine.broker = running.broker
            started.set()

        async def run() -> None:
            with machine.scope:
                await serve(self.environment(machine), config, started=note)
            machine.stopped.set()

        self._nursery.start_soon(run)
        await started.wait()

    async def stop(self, node_id: int) -> None:
        """A controlled stop."""
        machine = self.machines[node_id]
        machine.threads.release_all()
        machine.scope.cancel()
        await machine.stopped.wait()
        machine.broker = None

    def cut(self, node_id: int) -> None:
        """The broker is out of the network, and does not know it."""
        self.machines[node_id].cut()

    def lose_store(self, node_id: int) -> None:
        """The broker is cut off from the metadata store alone: it answers clients, by what it knew before."""
        self.machines[node_id].lose_store()

    def mend(self, node_id: int) -> None:
        """It is in the network again."""
        self.machines[node_id].mend()

    def broker(self, node_id: int) -> Broker:
        """One that runs."""
        broker = self.machines[node_id].broker
        assert broker is not None, f"broker {node_id} does not run"
        return broker

    def partition(self, node_id: int, topic: str = "orders", index: int = 0) -> Partition:
        """A replica."""
        found = self.broker(node_id).partitions.by_name(topic, index)
        assert found is not None, f"{topic}-{index} is not open on broker {node_id}"
        return found

    async def create(
        self, topic: str, replicas: Sequence[tuple[int, ...]] = ((1, 2, 3),), **configs: str
    ) -> bytes:
        """Make a topic right in the store, the first replica of each partition leading; returns its id when all know it."""
        topic_id = bytes(range(16))[:-1] + bytes([len(self.shared_store.entries) % 256])
        puts = [
            Put(keys.partition_key(topic_id, index), keys.encode_partition(PartitionState(r, r, r[0], 0)))
            for index, r in enumerate(replicas)
        ]
        overrides = {name.replace("_", "."): value for name, value in configs.items()}
        if overrides:
            puts.append(Put(keys.topic_configs_key(topic), keys.encode_configs(overrides)))
        puts.append(Put(keys.topic_key(topic), keys.encode_topic(TopicRecord(topic_id, len(replicas)))))
        result = await self.shared_store.transact([], puts)
        for machine in self.machines.values():
            if machine.broker is not None and not machine.is_cut:
                await machine.broker.watch.wait_for(result.revision)
                await machine.broker.partitions.wait_ready(topic_id)
        return topic_id

    async def until(self, holds: Callable[[], Any]) -> None:
        """Return when something holds that no event tells of: looked at every virtual millisecond, for a minute."""
        with trio.fail_after(60):
            while not holds():  # noqa: ASYNC110 - no event tells
                await trio.sleep(0.001)

    def leader(self, topic: str = "orders", index: int = 0) -> int:
        """Who leads, as the store has it."""
        for machine in self.machines.values():
            if machine.broker is not None and not machine.is_cut:
                image = machine.broker.image
                known = image.topic(topic)
                state = None if known is None else image.partition(known.topic_id, index)
                return state.leader if state is not None else -1
        raise AssertionError("no broker is there to ask")


@asynccontextmanager
async def memory_cluster(count: int = 3, **properties: str) -> AsyncGenerator[MemoryCluster]:
    """Brokers that all serve; stopped at the end. Underscores in property names stand for dots, {node} in values for the node id. Wants a MockClock that jumps."""
    given = {name.replace("_", "."): value for name, value in properties.items()}
    async with trio.open_nursery() as nursery:
        cluster = MemoryCluster(count, nursery, given)
        for node_id in cluster.machines:
            await cluster.start(node_id)
        try:
            yield cluster
        finally:
            for machine in cluster.machines.values():
                machine.threads.release_all()
                machine.mend()
            nursery.cancel_scope.cancel()
