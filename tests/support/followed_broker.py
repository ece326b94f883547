"""A broker that leads `orders-0`, whose followers are nothing but registrations in the store: the test fetches in their names.

async with followed_broker() as bench:                  # broker 1 leads, 2 and 3 are in the ISR
    await bench.broker.produced("orders", batch(), acks=1)
    part = await bench.fetch_as(2, offset=1)
"""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

import trio.testing
from tests.support.memory_broker import MemoryBroker, memory_broker
from tests.support.memory_metadata import MemoryMetadata

from penstock.broker import keys
from penstock.broker.keys import BrokerRegistration, ControllerClaim, Endpoint, PartitionState, TopicRecord
from penstock.broker.partition import Partition
from penstock.protocol.message import Message
from penstock.runtime.metadata import Delete, Put

ME = 1
TOPIC = "orders"
TOPIC_ID = bytes(range(1, 17))
KEY = keys.partition_key(TOPIC_ID, 0)
REPLICAS = (1, 2, 3)
VERSION = 17
ANY = -1


class FollowedBroker:
    """The broker, and what the test says in its followers' place."""

    def __init__(self, broker: MemoryBroker, store: MemoryMetadata) -> None:
        self.broker = broker
        self.store = store
        self.epochs: dict[int, int] = {}
        """Broker epochs of the followers: the create revisions of their registrations."""

    @property
    def leader_epoch(self) -> int:
        """The latest, as it is stored."""
        return self.stored_state().leader_epoch if KEY in self.store.entries else 0

    @property
    def partition(self) -> Partition:
        """The one partition."""
        return self.broker.partition()

    async def register(self, node_id: int, *, rack: str | None = None, is_fenced: bool = False) -> None:
        """Start a broker, or start it anew: another incarnation with another epoch."""
        key = keys.broker_key(node_id)
        if key in self.store.entries:
            await self.store.transact([], [Delete(key)])
        endpoints = {"PLAINTEXT": Endpoint("127.0.0.1", 9000 + node_id)}
        registration = BrokerRegistration(f"incarnation-{node_id}", endpoints, rack, "", is_fenced)
        await self.write(Put(key, keys.encode_broker(registration)))
        self.epochs[node_id] = self.store.revision

    async def store_state(
        self,
        *,
        leader: int = ME,
        isr: tuple[int, ...] = REPLICAS,
        elr: tuple[int, ...] = (),
        is_election: bool = True,
    ) -> None:
        """Elect a leader, or change the ISR only."""
        state = PartitionState(
            REPLICAS, isr, leader, self.leader_epoch + is_election, eligible_leader_replicas=elr
        )
        await self.write(Put(KEY, keys.encode_partition(state)))

    def stored_state(self) -> PartitionState:
        """The partition's state as the store has it."""
        return keys.decode_partition(KEY, self.store.entries[KEY].value)

    async def write(self, put: Put) -> None:
        """Write to the store, and wait until the broker has acted on it."""
        await self.store.transact([], [put])
        await trio.testing.wait_all_tasks_blocked()

    async def fetch_as(
        self,
        node_id: int,
        offset: int,
        *,
        epoch: int = ANY,
        leader_epoch: int = ANY,
        last_fetched_epoch: int = -1,
        **more: Any,
    ) -> Message:
        """Fetch as a follower; the whole answer. Without more said, as one who is up to date on who is who."""
        broker = self.broker
        return await broker.answer(
            broker.fetch(
                (TOPIC_ID, 0, offset),
                version=VERSION,
                current_leader_epoch=self.leader_epoch if leader_epoch == ANY else leader_epoch,
                last_fetched_epoch=last_fetched_epoch,
                replica_state=Message(
                    replica_id=node_id, replica_epoch=self.epochs[node_id] if epoch == ANY else epoch
                ),
                **more,
            )
        )


@asynccontextmanager
async def followed_broker(
    *, isr: tuple[int, ...] = REPLICAS, is_clustered: bool = True, **properties: Any
) -> AsyncGenerator[FollowedBroker]:
    """Broker 1 leads with brokers 2 and 3 registered; the controller is some broker 9, which does nothing. Underscores in property names stand for dots."""
    store = MemoryMetadata()
    if is_clustered:
        properties["metadata_store"] = "etcd://memory"
    claim = keys.encode_controller(ControllerClaim(9, "incarnation-9"))
    await store.transact([], [Put(keys.CONTROLLER_KEY, claim)])
    async with memory_broker(store=store, **properties) as broker:
        bench = FollowedBroker(broker, store)
        for node_id in REPLICAS[1:]:
            await bench.register(node_id)
        await bench.write(Put(keys.topic_key(TOPIC), keys.encode_topic(TopicRecord(TOPIC_ID, 1))))
        await bench.store_state(isr=isr)
        await broker.broker.partitions.wait_ready(TOPIC_ID)
        await trio.testing.wait_all_tasks_blocked()
        yield bench
