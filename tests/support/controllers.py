"""Brokers of a cluster without logs, on one store: each registers, watches, and is the controller when that falls to it."""

from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import asynccontextmanager

import trio
import trio.testing
from tests.support.memory_metadata import MemoryMetadata
from tests.support.metadata_plane import ENDPOINTS, TrioClock, new_random

from penstock.broker import keys
from penstock.broker.broker_config import BrokerConfig
from penstock.broker.controller.controller import Controller
from penstock.broker.image import ClusterImage
from penstock.broker.keys import PartitionState, TopicRecord
from penstock.broker.metadata_watch import MetadataWatch
from penstock.broker.registration import Registration, join_cluster
from penstock.broker.rejoining import Remains
from penstock.runtime.metadata import MetadataStore, Put

TOPIC = "t"
TOPIC_ID = bytes([1] * 16)
SESSION_S = 9


class ClusterBroker:
    """One broker: its registration, its image, its controller. Made by `start`; lives until `kill` or `stop`."""

    def __init__(self, store: MetadataStore, node_id: int, properties: Mapping[str, str]) -> None:
        self.config = BrokerConfig.from_properties(
            {"node.id": str(node_id), "metadata.store": "etcd://tests", **properties}
        )
        self.node_id = node_id
        self.registration = Registration(
            store, self.config, TrioClock(), new_random(node_id), directory_id=f"directory {node_id}"
        )
        self.image = ClusterImage()
        self.watch = MetadataWatch(store, self.image)
        self.controller = Controller(store, self.config, self.watch, self.registration, TrioClock())
        self._scope = trio.CancelScope()
        self.ended = trio.Event()

    async def start(self, nursery: trio.Nursery, remains: Remains | None = None) -> None:
        """Register, follow the store, be unfenced."""
        await self.registration.start(ENDPOINTS, remains)
        self.watch.listen(self.controller.note)
        await nursery.start(self._run)
        await self.registration.ready()

    async def _run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        with self._scope:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self.registration.run)
                await self.watch.load()
                nursery.start_soon(self.watch.run)
                nursery.start_soon(self.controller.run)
                task_status.started()
        self.ended.set()

    async def kill(self) -> None:
        """End like a killed process: the lease lives on until it ends."""
        self._scope.cancel()
        await self.ended.wait()

    async def stop(self) -> None:
        """End in good order, without handing over."""
        await self.kill()
        await self.registration.stop()

    async def until(self, *wanted: PartitionState) -> None:
        """Return when the image shows these states of the topic's partitions (epochs count)."""
        while self.states() != list(wanted):
            with trio.fail_after(100):
                await self.watch.wait_for(self.image.revision + 1)

    def states(self) -> list[PartitionState]:
        """The topic's partitions as this broker sees them."""
        return [partition.state for partition in self.image.partitions(TOPIC_ID)]


@asynccontextmanager
async def cluster(
    *node_ids: int, store: MemoryMetadata | None = None, properties: Mapping[str, str] | None = None
) -> AsyncGenerator[tuple[MemoryMetadata, dict[int, ClusterBroker]]]:
    """Brokers that are up, the first of them the controller."""
    store = store or MemoryMetadata()
    await join_cluster(store, new_random())
    async with trio.open_nursery() as nursery:
        brokers: dict[int, ClusterBroker] = {}
        for node_id in node_ids:
            brokers[node_id] = ClusterBroker(store, node_id, properties or {})
            await brokers[node_id].start(nursery)
            if len(brokers) == 1:
                await trio.testing.wait_all_tasks_blocked()
        yield store, brokers
        nursery.cancel_scope.cancel()


async def put_states(store: MetadataStore, states: Sequence[PartitionState], **configs: str) -> None:
    """Make the topic with partitions in these states (at most 100)."""
    puts = [Put(keys.partition_key(TOPIC_ID, i), keys.encode_partition(s)) for i, s in enumerate(states)]
    puts.append(Put(keys.topic_key(TOPIC), keys.encode_topic(TopicRecord(TOPIC_ID, len(states)))))
    if configs:
        overrides = {name.replace("_", "."): value for name, value in configs.items()}
        puts.append(Put(keys.topic_configs_key(TOPIC), keys.encode_configs(overrides)))
    await store.transact([], puts)
