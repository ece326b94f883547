"""Whole brokers of one cluster in one trio run: each has a disk and a machine of its own, all share a network and a metadata store.

    async with machine_cluster(3) as cluster:
        admin = cluster.client("admin")             the environment of a client
        await cluster.kill(2)                       its process is gone, what it wrote is not; cut_power(2) takes what was not synced
        await cluster.start(2)
        leader = cluster.leader("orders", 0)        the node id, as the store has it
        await cluster.settled("orders")             every replica is in the ISR and has all

    async with server_cluster(1, 2, 3) as cluster:  the same with all settings as they are by default, as a test of answers wants them
        answer = await cluster.ask(2, ApiKey.METADATA, 12, topics=[...], ...)

With `run_in_virtual_time`, or trio's MockClock(autojump_threshold=0), minutes take as long as the work that is done in them.
"""

from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import asynccontextmanager, nullcontext
from random import Random
from typing import Any

import trio
from tests.support.crashes.process import WORKER_WAITS_S, End, Plan, Process
from tests.support.cut_off import Link, StoreOver
from tests.support.logs import read_batches
from tests.support.memory_files import MemoryFiles
from tests.support.memory_metadata import MemoryMetadata
from tests.support.memory_network import MemoryListener, MemoryNetwork, MemoryStream
from tests.support.metadata_plane import TrioClock
from tests.support.scripted_threads import ScriptedThreads
from tests.support.survivors import by_chance

from penstock import Producer
from penstock.broker import keys
from penstock.broker.broker import Broker
from penstock.broker.broker_config import BrokerConfig
from penstock.broker.image import ClusterImage, PartitionImage
from penstock.broker.keys import PartitionState
from penstock.broker.partition import Partition
from penstock.broker.server import RunningBroker, serve
from penstock.client.admin import Admin
from penstock.client.admin_values import CreatedTopic, NewTopic
from penstock.client.connection import ConnectionSettings, open_connection
from penstock.errors import PenstockError
from penstock.protocol.api import ApiKey
from penstock.protocol.message import Message
from penstock.runtime.environment import Environment
from penstock.runtime.metadata import Put, Snapshot

PORT = 9092
POLL_S = 0.05
FOR_EVER = Plan(End.KILL, float("inf"))
BASE = {"log.dirs": "/data", "metadata.store": "etcd://memory"}
PROPERTIES = {
    **BASE,
    "log.segment.bytes": "2000",
    "log.index.interval.bytes": "200",
    "broker.session.timeout.ms": "3000",
    "broker.heartbeat.interval.ms": "500",
    "replica.lag.time.max.ms": "4000",
    "replica.high.watermark.checkpoint.interval.ms": "300",
    "log.initial.task.delay.ms": "100",
    "log.retention.check.interval.ms": "500",
    "offsets.topic.num.partitions": "1",
    "shutdown.timeout.ms": "200",
}


class MachineNetwork:
    """The network as one broker's machine has it; with its end all that it had open ends without a word."""

    def __init__(self, network: MemoryNetwork, name: str, link: Link) -> None:
        self.host = network.host(name)
        self.link = link
        self._network = network
        self._listeners: list[MemoryListener] = []
        self.accepted: set[MemoryStream] = set()

    async def listen(
        self, host: str, port: int, *, backlog: int = 1024, is_open: bool = True
    ) -> "MachineListener":
        listener = await self._network.listen(host, port, backlog=backlog, is_open=is_open)
        self._listeners.append(listener)
        return MachineListener(self, listener)

    async def connect(self, host: str, port: int) -> MemoryStream:
        self.link.check_network()
        return await self.host.connect(host, port)

    def cut(self) -> None:
        """Break what is connected; the ports stay."""
        for stream in (*self.host.streams, *self.accepted):
            stream.close()

    def crash(self) -> None:
        """Break everything."""
        self.host.crash()
        for listener in self._listeners:
            listener.close()
        for stream in self.accepted:
            stream.close()


class MachineListener:
    """Knows what it has accepted."""

    def __init__(self, network: MachineNetwork, listener: MemoryListener) -> None:
        self.address = listener.address
        self._network = network
        self._listener = listener

    def open(self) -> None:
        self._listener.open()

    async def accept(self) -> MemoryStream:
        while True:
            stream = await self._listener.accept()
            if not self._network.link.is_cut:
                stream.belong_to(self._network.host)
                self._network.accepted.add(stream)
                return stream
            stream.close()

    def close(self) -> None:
        self._listener.close()


class Member:
    """One broker: its disk outlives it."""

    def __init__(self, node_id: int) -> None:
        self.node_id = node_id
        self.disk = MemoryFiles()
        self.link = Link()
        self.process: Process | None = None
        self.network: MachineNetwork | None = None
        self.broker: Broker | None = None
        self.started = trio.Event()
        self.ended = trio.Event()
        self.scope = trio.CancelScope()

    @property
    def is_up(self) -> bool:
        """Whether it answers requests."""
        return self.broker is not None


class MemoryCluster:
    """See the module."""

    def __init__(self, nursery: trio.Nursery, random: Random, properties: dict[str, str]) -> None:
        self.network = MemoryNetwork(latency_s=0.0005)
        self.store = MemoryMetadata()
        self.random = random
        self.members: dict[int, Member] = {}
        self._nursery = nursery
        self._properties = properties
        self.worker_waits_s: Sequence[float] = WORKER_WAITS_S
        self.waits: list[str] = []
        """What event loops asked of their disks though they may have to wait; but for the records that a connection sends, which were looked for."""

    @property
    def bootstrap(self) -> str:
        """Where clients begin."""
        return ",".join(f"10.0.0.{node_id}:{PORT}" for node_id in self.members)

    def client(self, name: str) -> Environment:
        """The environment of a client on a machine of its own."""
        return Environment(
            TrioClock(),
            self.random,
            self.network.host(name),
            MemoryFiles(),
            ScriptedThreads(),
            lambda _: nullcontext(self.store),
        )

    # Lives

    async def start(self, node_id: int) -> Member:
        """Start a broker, for the first time or again; returns when it answers."""
        self.begin(node_id)
        member = self.members[node_id]
        await member.started.wait()
        return member

    def begin(self, node_id: int, plan: Plan = FOR_EVER) -> Member:
        """The same without waiting: it may never come so far."""
        member = self.members.setdefault(node_id, Member(node_id))
        assert member.process is None, f"broker {node_id} runs already"
        member.process = Process(member.disk, StoreOver(member.link, self.store), self.random, plan)
        member.process.worker_waits_s = self.worker_waits_s
        member.network = MachineNetwork(self.network, f"broker-{node_id}", member.link)
        member.started, member.ended, member.scope = trio.Event(), trio.Event(), trio.CancelScope()
        self._nursery.start_soon(self._live, member)
        return member

    async def _live(self, member: Member) -> None:
        process, network = member.process, member.network
        assert process is not None
        assert network is not None
        config = BrokerConfig.from_properties(
            {
                **{
                    name: value.replace("{node}", str(member.node_id))
                    for name, value in self._properties.items()
                },
                "node.id": str(member.node_id),
                "listeners": f"PLAINTEXT://10.0.0.{member.node_id}:{PORT}",
            }
        )
        environment = Environment(
            TrioClock(),
            self.random,
            network,
            process.files,
            process.threads,
            lambda _: nullcontext(process.store),
        )

        def note(running: RunningBroker) -> None:
            member.broker = running.broker
            member.started.set()

        async def bury() -> None:
            await process.died.wait()
            network.crash()
            member.scope.cancel()

        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(bury)
                with member.scope:
                    await serve(environment, config, started=note)
                nursery.cancel_scope.cancel()
        except* (PenstockError, FileNotFoundError):
            if not process.is_dead:  # else it has reason to complain
                raise
        finally:
            network.crash()
            self.waits += [wait for wait in process.waits if "broker/connection.py" not in wait]
            member.broker = member.process = None
            member.ended.set()

    async def stop(self, node_id: int) -> None:
        """Stop a broker cleanly."""
        member = self.members[node_id]
        member.scope.cancel()
        await member.ended.wait()

    def cut(self, node_id: int) -> None:
        """The broker is out of the network, and does not know it."""
        member = self.members[node_id]
        member.link.cut(store_only=False)
        assert member.network is not None
        member.network.cut()

    def freeze(self, node_id: int) -> None:
        """The broker says nothing any more, and nothing is lost; its session with the store lives on."""
        network = self.members[node_id].network
        assert network is not None
        network.host.freeze()

    def thaw(self, node_id: int) -> None:
        """It goes on."""
        network = self.members[node_id].network
        assert network is not None
        network.host.thaw()

    def lose_store(self, node_id: int) -> None:
        """The broker is cut off from the metadata store alone: it answers clients, by what it knew before."""
        self.members[node_id].link.cut(store_only=True)

    def mend(self, node_id: int) -> None:
        """It is in the network again."""
        self.members[node_id].link.mend()

    async def kill(self, node_id: int) -> None:
        """End its process; what it has written stays."""
        await self._die(node_id)
        self.members[node_id].disk.kill()

    async def cut_power(self, node_id: int, *, keeps_some: bool = False) -> None:
        """End its machine; what it has not synced is lost, or (`keeps_some`) a part of it."""
        await self._die(node_id)
        disk = self.members[node_id].disk
        if keeps_some:
            disk.power_cut(by_chance(disk.unsynced(), self.random))
        else:
            disk.power_cut()

    async def _die(self, node_id: int) -> None:
        member = self.members[node_id]
        assert member.process is not None
        member.process.die()
        await member.ended.wait()

    async def set_replicas(self, topic: str, *replicas: int, index: int = 0) -> None:
        """Give a partition to these brokers by hand; the ISR is who stays, and leads on if it is among them."""
        state = self.state(topic, index)
        isr = tuple(node_id for node_id in state.isr if node_id in replicas)
        leader = state.leader if state.leader in isr else isr[0]
        epoch = state.leader_epoch + (leader != state.leader)
        value = keys.encode_partition(PartitionState(replicas, isr, leader, epoch))
        await self.store.transact([], [Put(keys.partition_key(state.topic_id, index), value)])

    async def set_leader(self, topic: str, leader: int, *, index: int = 0) -> None:
        """Elect a member of the ISR by hand."""
        state = self.state(topic, index)
        value = keys.encode_partition(
            PartitionState(state.replicas, state.isr, leader, state.leader_epoch + 1)
        )
        await self.store.transact([], [Put(keys.partition_key(state.topic_id, index), value)])

    async def configure_brokers(self, **configs: str) -> None:
        """Set dynamic configs of all brokers."""
        await self.store.transact([], [Put(keys.broker_configs_key(None), keys.encode_configs(configs))])

    async def configure_topic(self, topic: str, **configs: str) -> None:
        """Set configs of a topic besides those it has."""
        merged = {**self.image().topic_configs(topic), **configs}
        await self.store.transact([], [Put(keys.topic_configs_key(topic), keys.encode_configs(merged))])

    async def make_topic(self, name: str, partition_count: int = 1, **configs: str) -> None:
        """With three replicas; underscores in config names stand for dots."""
        given = {
            "min.insync.replicas": "2",
            **{key.replace("_", "."): value for key, value in configs.items()},
        }
        topic = NewTopic(name=name, partition_count=partition_count, replication_factor=3, configs=given)
        async with Admin(self.bootstrap, environment=self.client("admin")) as admin:
            outcome = (await admin.create_topics([topic]))[name]
        assert isinstance(outcome, CreatedTopic), outcome

    async def ask(self, node_id: int, api_key: ApiKey, version: int, **fields: Any) -> Message:
        """Send one request on a connection of its own, and return the answer."""
        async with trio.open_nursery() as nursery:
            connection = await open_connection(
                nursery, self.network, f"10.0.0.{node_id}", PORT, ConnectionSettings()
            )
            answer = await connection.request(api_key, Message(**fields), at_least=version, at_most=version)
            connection.close()
        return answer

    async def create(self, topic: str, *assignments: tuple[int, ...], **configs: str) -> None:
        """Make a topic with these replicas, on the controller; returns when all brokers see it."""
        controller = self.broker(next(iter(self.members))).image.controller
        assert controller is not None
        placed = [
            Message(partition_index=index, broker_ids=list(replicas))
            for index, replicas in enumerate(assignments)
        ]
        given = [Message(name=name.replace("_", "."), value=value) for name, value in configs.items()]
        wanted = Message(
            name=topic, num_partitions=-1, replication_factor=-1, assignments=placed, configs=given
        )
        answer = await self.ask(
            controller.node_id,
            ApiKey.CREATE_TOPICS,
            7,
            topics=[wanted],
            timeout_ms=10_000,
            validate_only=False,
        )
        assert answer.topics[0].error_code == 0, answer.topics[0].error_message
        for member in self.members.values():
            while member.broker is not None and member.broker.image.topic(topic) is None:
                await member.broker.watch.wait_for(member.broker.image.revision + 1)

    async def fill(self, topic: str, count: int, *, size_bytes: int = 100) -> None:
        """Produce so many records, one after the other, with acks=all."""
        async with Producer(self.bootstrap, environment=self.client("filler")) as producer:
            for number in range(count):
                await producer.send(topic, b"%d %s" % (number, b"x" * size_bytes), partition=0)

    def names(self, node_id: int) -> list[str]:
        """What lies in a broker's data directory."""
        return sorted(self.members[node_id].disk.list_directory("/data"))

    # Looking

    def image(self) -> ClusterImage:
        """What the store holds."""
        image = ClusterImage()
        entries = [entry for key, entry in sorted(self.store.entries.items()) if key.startswith(keys.ROOT)]
        image.reset(Snapshot(entries, self.store.revision))
        return image

    def state(self, topic: str, index: int = 0) -> PartitionImage:
        """A partition's state in the store."""
        image = self.image()
        found = image.topic(topic)
        assert found is not None, f"no topic {topic}"
        state = image.partition(found.topic_id, index)
        assert state is not None
        return state

    def states(self, topic: str, *, seen_by: int) -> list[PartitionState]:
        """A topic's partitions as one broker sees them."""
        image = self.broker(seen_by).image
        found = image.topic(topic)
        return [] if found is None else [p.state for p in image.partitions(found.topic_id)]

    def broker(self, node_id: int) -> Broker:
        """One that runs."""
        broker = self.members[node_id].broker
        assert broker is not None, f"broker {node_id} does not run"
        return broker

    def leader(self, topic: str, index: int = 0) -> int:
        """The node id of the leader; -1 without one."""
        return self.state(topic, index).leader

    def partition(self, node_id: int, topic: str, index: int = 0) -> Partition | None:
        """A broker's replica."""
        broker = self.members[node_id].broker
        return None if broker is None else broker.partitions.by_name(topic, index)

    async def until(self, holds: Callable[[], bool], what: str, *, within_s: float = 60.0) -> None:
        """Return as soon as something holds."""
        ends_at = trio.current_time() + within_s
        while not holds():
            assert trio.current_time() < ends_at, f"not within {within_s} s: {what}"
            await trio.sleep(POLL_S)

    def is_settled(self, topic: str, index: int = 0) -> bool:
        """Whether all replicas are up, in the ISR, and have all, which is committed."""
        state = self.state(topic, index)
        replicas = [
            self.partition(node_id, topic, index) for node_id in state.replicas if node_id in self.members
        ]
        ends = {
            (replica.log.log_end_offset, replica.high_watermark)
            for replica in replicas
            if replica is not None
        }
        return (
            state.leader >= 0
            and set(state.isr) == set(state.replicas)
            and len(replicas) == len(state.replicas)
            and None not in replicas
            and len(ends) == 1
            and all(end == high_watermark for end, high_watermark in ends)
        )

    async def settled(
        self, topic: str, index: int = 0, *, within_s: float = 60.0, compare: bool = True
    ) -> None:
        """Return when `is_settled`, then hold the replicas against each other, byte for byte (PROPERTIES D1, D7)."""
        await self.until(lambda: self.is_settled(topic, index), f"{topic}-{index} settles", within_s=within_s)
        if compare:
            self.check_same(topic, index)

    def check_same(self, topic: str, index: int = 0) -> None:
        """All replicas hold the same bytes from the highest log start on, and the same epochs."""
        replicas = [self.partition(node_id, topic, index) for node_id in self.state(topic, index).replicas]
        logs = [replica.log for replica in replicas if replica is not None]
        start = max(log.log_start_offset for log in logs)
        contents = [[raw for raw in read_batches(log) if _last_offset(raw) >= start] for log in logs]
        for content in contents[1:]:
            assert content == contents[0], f"replicas of {topic}-{index} differ"


def _last_offset(raw: bytes) -> int:
    return int.from_bytes(raw[:8], "big") + int.from_bytes(raw[23:27], "big")


@asynccontextmanager
async def machine_cluster(count: int, random: Random, **properties: str) -> AsyncGenerator[MemoryCluster]:
    """`count` brokers that answer requests; stopped at the end. Underscores in property names stand for dots, {node} in values for the node id."""
    given = {key.replace("_", "."): value for key, value in properties.items()}
    async with trio.open_nursery() as nursery:
        cluster = MemoryCluster(nursery, random, {**PROPERTIES, **given})
        for node_id in range(1, count + 1):
            cluster.begin(node_id)
        for node_id in range(1, count + 1):
            await cluster.members[node_id].started.wait()
        yield cluster
        for member in cluster.members.values():
            if member.process is not None:
                member.process.die()
        nursery.cancel_scope.cancel()


@asynccontextmanager
async def server_cluster(*node_ids: int, **properties: str) -> AsyncGenerator[MemoryCluster]:
    """Brokers with default settings and quick disks, started one after the other; the first is the controller. They end with the block."""
    given = {key.replace("_", "."): value for key, value in properties.items()}
    async with trio.open_nursery() as nursery:
        cluster = MemoryCluster(nursery, Random(1), {**BASE, **given})
        cluster.worker_waits_s = (0.0,)
        for node_id in node_ids:
            await cluster.start(node_id)
        try:
            yield cluster
        finally:
            for member in cluster.members.values():
                member.link.mend()
                if member.process is not None:
                    member.process.threads.release_all()
            nursery.cancel_scope.cancel()


__all__ = ["MemoryCluster", "machine_cluster", "server_cluster"]
