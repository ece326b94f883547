"""The metadata plane of a broker without its logs: what handlers and admin code need, on a store in memory."""

import random
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, cast

import trio
from tests.support.memory_metadata import MemoryMetadata
from tests.support.memory_network import MemoryNetwork

from penstock.broker import keys
from penstock.broker.broker import Broker
from penstock.broker.broker_config import BrokerConfig
from penstock.broker.context import ANONYMOUS, RequestContext
from penstock.broker.image import ClusterImage
from penstock.broker.keys import BrokerRegistration, Endpoint
from penstock.broker.metadata_watch import MetadataWatch
from penstock.broker.needed_topics import NeededTopics
from penstock.broker.producer_ids import ProducerIds
from penstock.broker.registration import Registration, join_cluster
from penstock.broker.topic_admin import NewTopic, TopicAdmin
from penstock.protocol.codec import decode_request, decode_response, encode_request, encode_response
from penstock.protocol.message import Message
from penstock.runtime.metadata import MetadataStore, Put
from penstock.runtime.network import Network

LISTENER = "PLAINTEXT"
ENDPOINTS = {LISTENER: Endpoint("broker.example", 9092), "INSIDE": Endpoint("10.0.0.1", 19092, "PLAINTEXT")}
NODE_ID = 1


class TrioClock:
    """Trio's time, so that a MockClock moves both."""

    def monotonic(self) -> float:
        return trio.current_time()

    def wall_ms(self) -> int:
        return 1_700_000_000_000 + int(trio.current_time() * 1000)

    def thread_time(self) -> float:
        return trio.current_time()


def new_random(seed: int = 7) -> random.Random:
    """Chance that is the same in every run; has what the `Random` port asks for."""
    return random.Random(seed)


class ReadyPartitions:
    """In place of the partition manager: everything is ready at once, unless `stuck`."""

    def __init__(self) -> None:
        self.waited_for: list[bytes] = []
        self.stuck = False

    async def wait_ready(self, topic_id: bytes) -> None:
        self.waited_for.append(topic_id)
        if self.stuck:
            await trio.sleep_forever()

    def is_offline(self, topic_id: bytes, index: int) -> bool:
        """No log here is damaged."""
        return False


@dataclass
class Plane:
    """The parts, under the names that `Broker` gives them."""

    store: MetadataStore
    config: BrokerConfig
    image: ClusterImage
    watch: MetadataWatch
    registration: Registration
    topics: TopicAdmin
    needed_topics: NeededTopics
    producer_ids: ProducerIds
    cluster_id: str
    partitions: ReadyPartitions = field(default_factory=ReadyPartitions)

    async def create(self, name: str, partition_count: int = 1, **configs: str) -> bytes:
        """Make a topic (underscores in config names stand for dots) and see it; returns its id."""
        overrides = {key.replace("_", "."): value for key, value in configs.items()}
        created = await self.topics.create(NewTopic(name, partition_count, configs=overrides))
        await self.watch.wait_for(created.revision)
        return created.topic_id

    async def call(self, handler: Callable[..., Any], api_key: int, version: int, **fields: Any) -> Message:
        """Send a request through both codecs, as a client of that version would, and return what it would read."""
        body = encode_request(api_key, version, Message(**fields))
        request = decode_request(api_key, version, memoryview(body))
        context = RequestContext(api_key, version, 1, "test", ANONYMOUS, "127.0.0.1:5", LISTENER)
        response = await handler(cast(Broker, self), context, request)
        return decode_response(api_key, version, encode_response(api_key, version, response))


@asynccontextmanager
async def metadata_plane(
    properties: Mapping[str, str] | None = None,
    store: MetadataStore | None = None,
    network: Network | None = None,
) -> AsyncGenerator[Plane, None]:
    """A broker that has registered and follows the store."""
    store = store or MemoryMetadata()
    config = BrokerConfig.from_properties({"node.id": str(NODE_ID), **(properties or {})})
    chance = new_random()
    cluster_id = await join_cluster(store, chance)
    registration = Registration(store, config, TrioClock(), chance, directory_id="here")
    await registration.start(ENDPOINTS)
    image = ClusterImage()
    watch = MetadataWatch(store, image)
    async with trio.open_nursery() as nursery:
        await watch.load()
        nursery.start_soon(watch.run)
        topics = TopicAdmin(store, image, config, chance)
        yield Plane(
            store,
            config,
            image,
            watch,
            registration,
            topics,
            NeededTopics(network or MemoryNetwork(), config, watch, topics),
            ProducerIds(store, nursery.start_soon),
            cluster_id,
        )
        nursery.cancel_scope.cancel()


async def register_broker(store: MetadataStore, node_id: int, *, rack: str | None = None) -> None:
    """Another live broker, which does nothing; without a lease, so it lives on."""
    endpoints = {LISTENER: Endpoint(f"broker{node_id}.example", 9092)}
    value = keys.encode_broker(BrokerRegistration(f"{node_id:032x}", endpoints, rack, f"elsewhere {node_id}"))
    await store.transact([], [Put(keys.broker_key(node_id), value)])
