"""One computer over the lives of many brokers: its disk, its metadata store, the clients around it, and what they were promised.

    machine = Machine(seed)
    await machine.live(plan)        a broker starts, all that was promised is compared, clients work, and it ends as planned

One seed is one run: everything that chance decides comes from one generator.
"""

import hashlib
from contextlib import nullcontext
from random import Random
from typing import Protocol, cast

import trio
from tests.support.crashes.clients import (
    Administrator,
    Committer,
    Deleter,
    IdempotentProducer,
    KeyedProducer,
    Meanwhile,
    PlainProducer,
    Reader,
    Toggler,
    check_ledger,
)
from tests.support.crashes.connection import Connection
from tests.support.crashes.ledger import KeyLedger, Ledger
from tests.support.crashes.process import End, Plan, Process
from tests.support.memory_broker import DATA, LISTENER, MemoryBroker
from tests.support.memory_files import MemoryFiles
from tests.support.memory_metadata import MemoryMetadata
from tests.support.metadata_plane import TrioClock
from tests.support.simulated_disk import UNBOUNDED_BYTES
from tests.support.survivors import by_chance

from penstock.broker.broker import open_broker
from penstock.broker.broker_config import BrokerConfig
from penstock.broker.topic_admin import NewTopic
from penstock.errors import PenstockError
from penstock.protocol.errors import ErrorCode
from penstock.runtime.environment import Environment
from penstock.runtime.network import Network

PROPERTIES = {
    "log.dirs": DATA,
    "replica.high.watermark.checkpoint.interval.ms": "40",
    "offsets.topic.num.partitions": "2",
    "offsets.topic.segment.bytes": "2000",
    "log.segment.bytes": "900",
    "log.index.interval.bytes": "200",
    "log.retention.check.interval.ms": "30",
    "log.cleaner.backoff.ms": "15",
    "log.cleaner.min.cleanable.ratio": "0.1",
}
SWEEP_S = 0.1
TOPICS: dict[str, tuple[int, dict[str, str]]] = {
    "kept": (2, {}),
    "cached": (1, {"write.caching": "true"}),
    "toggled": (1, {}),
    "latest": (1, {"cleanup.policy": "compact", "min.cleanable.dirty.ratio": "0.01"}),
    "short": (1, {"retention.bytes": "1500", "file.delete.delay.ms": "20"}),
}


class Client(Protocol):
    """What goes on in each life."""

    async def run(self, connection: Connection) -> None:
        """Until cancelled."""
        ...


class Machine:
    """See the module."""

    def __init__(self, seed: int) -> None:
        self.random = Random(seed)
        self.disk = MemoryFiles()
        self.store = MemoryMetadata()
        self.ends: list[str] = []
        self.ended: list[End] = []
        self.faults_met = 0
        kept, deleted, cached, toggled, short, latest = self.ledgers = [
            Ledger("kept", 0, True),
            Ledger("kept", 1, True),
            Ledger("cached", 0, False),
            Ledger("toggled", 0, False),
            Ledger("short", 0, True, has_retention=True),
            KeyLedger("latest", 0, True),
        ]
        self.committer = Committer("billing")
        self.administrator = Administrator(("come", "go"), self._new_ledger)
        self._meanwhile = Meanwhile("meanwhile", kept)
        self.clients: list[Client] = [
            self.committer,
            self.administrator,
            self._meanwhile,
            IdempotentProducer("i-kept", kept),
            PlainProducer("p-kept", kept, -1),
            PlainProducer("p0-kept", kept, 0),
            PlainProducer("p-deleted", deleted, 1),
            Deleter(deleted),
            IdempotentProducer("i-cached", cached),
            PlainProducer("p-cached", cached, 1),
            PlainProducer("p-toggled", toggled, -1),
            Toggler("toggled"),
            PlainProducer("p-short", short, -1),
            PlainProducer("q-short", short, 1),
            KeyedProducer("k-latest", latest, -1),
            KeyedProducer("l-latest", latest, 1),
            *(Reader(ledger) for ledger in self.ledgers),
        ]
        self._passing: list[Ledger] = []

    def _new_ledger(self, topic: str) -> Ledger:
        """Of a topic that comes and goes."""
        ledger = Ledger(topic, 0, True)
        self._passing.append(ledger)
        return ledger

    @property
    def acked_count(self) -> int:
        """Batches and commits."""
        batches = sum(ledger.acked_count for ledger in (*self.ledgers, *self._passing))
        return batches + self.committer.acked_count

    def digest(self) -> str:
        """Of all that has come of the run so far: how lives ended, what was promised, and what is on the disk."""
        promised = [(ledger.name, sorted(ledger.known.items())) for ledger in (*self.ledgers, *self._passing)]
        seen = repr((self.ends, promised, self.store.revision, sorted(self.disk.image().items())))
        return hashlib.sha256(seen.encode()).hexdigest()

    # Lives

    async def live(self, plan: Plan) -> None:
        """One life, and what its end does to the disk."""
        process = Process(self.disk, self.store, self.random, plan)
        try:
            async with trio.open_nursery() as nursery:

                async def bury() -> None:
                    await process.died.wait()
                    nursery.cancel_scope.cancel()

                nursery.start_soon(bury)
                await self._run_broker(process)
                nursery.cancel_scope.cancel()
        except* PenstockError:
            # a broker that can't start or stop says so; that is no promise broken if the disk has failed it
            if not (process.is_dead or process.faults_met):
                raise
        self._end(process)

    def _end(self, process: Process) -> None:
        assert not process.waits, f"{len(process.waits)} times the event loop may wait: {process.waits[0]}"
        end = process.plan.end
        self.ends.append(f"{end.value} after {process.call_count} calls, {process.faults_met} faults")
        self.ended.append(end)
        self.faults_met += process.faults_met
        process.is_dead = True
        self.disk.capacity_bytes = UNBOUNDED_BYTES
        if end is End.POWER_CUT:
            self.cut_power()
        else:
            self.disk.kill()

    def cut_power(self) -> None:
        """Lose what was not synced, or a part of it."""
        if self.random.random() < 0.3:
            self.disk.power_cut()
        else:
            self.disk.power_cut(by_chance(self.disk.unsynced(), self.random))
        for ledger in (*self.ledgers, *self._passing):
            ledger.note_power_cut()

    async def _run_broker(self, process: Process) -> None:
        environment = Environment(
            TrioClock(),
            self.random,
            cast(Network, None),
            process.files,
            process.threads,
            lambda _: nullcontext(process.store),
        )
        config = BrokerConfig.from_properties(PROPERTIES)
        async with (
            open_broker(environment, config, {LISTENER: ("127.0.0.1", 9092)}) as broker,
            trio.open_nursery() as background,
        ):
            background.start_soon(broker.partitions.keep_checkpoints)
            background.start_soon(broker.retention.run)
            background.start_soon(broker.cleaner.run)
            await self._work(Connection(process, MemoryBroker(broker, self.disk, process.threads)))
            background.cancel_scope.cancel()

    async def _work(self, connection: Connection) -> None:
        process = connection.process
        await self._make_topics(connection)
        usable = [ledger for ledger in self.ledgers if await check_ledger(connection, ledger)]
        process.during_sync = lambda: self._maybe_send(connection)
        async with trio.open_nursery() as nursery:
            for client in self.clients:
                nursery.start_soon(client.run, connection)
            nursery.start_soon(self._sweep, connection)
            for _ in range(3):
                nursery.start_soon(self._read_slowly, connection)
            await self._let_time_pass(process.plan)
            nursery.cancel_scope.cancel()
        process.during_sync = None
        if process.plan.end is End.STOP:
            await self._probe(connection, usable)
        else:
            process.die()
            await trio.sleep_forever()

    async def _let_time_pass(self, plan: Plan) -> None:
        """The disk may be full for the first half of it."""
        if plan.room_bytes is not None:
            self.disk.capacity_bytes = self.disk.used_bytes() + plan.room_bytes
        await trio.sleep(plan.after_s / 2)
        self.disk.capacity_bytes = UNBOUNDED_BYTES
        await trio.sleep(plan.after_s / 2)

    def _maybe_send(self, connection: Connection) -> None:
        if not connection.process.is_dead and self.random.random() < 0.3:
            self._meanwhile.send_now(connection)

    async def _sweep(self, connection: Connection) -> None:
        while True:
            await trio.sleep(SWEEP_S)
            connection.memory.broker.partitions.flush_due(trio.current_time())
            connection.memory.broker.partitions.close_retired()

    async def _read_slowly(self, connection: Connection) -> None:
        """What may be deleted next."""
        while True:
            moving = [ledger for ledger in self.ledgers if ledger.log_start]
            if not moving:
                await connection.think(0.01)
                continue
            ledger = self.random.choice(moving)
            await connection.read_slowly(ledger.topic, ledger.index, ledger.log_start)

    async def _make_topics(self, connection: Connection) -> None:
        broker = connection.memory.broker
        for name, (partition_count, configs) in TOPICS.items():
            if broker.image.topic(name) is None:
                assert not any(ledger.known for ledger in self.ledgers if ledger.topic == name), (
                    "a topic is lost"
                )
                created = await broker.topics.create(NewTopic(name, partition_count, configs=configs))
                await broker.watch.wait_for(created.revision)
                await broker.partitions.wait_ready(created.topic_id)

    async def _probe(self, connection: Connection, usable: list[Ledger]) -> None:
        """An error of the disk takes out one partition at most; the others go on."""
        refused: list[str] = []
        for ledger in usable:
            producer = KeyedProducer if isinstance(ledger, KeyLedger) else PlainProducer
            code = await producer(f"probe.{len(self.ends)}", ledger, -1).send_one(connection)
            if code:
                assert code == ErrorCode.KAFKA_STORAGE_ERROR, f"{ledger.name}: {ErrorCode(code).name}"
                refused.append(ledger.name)
        faults = connection.process.faults_met
        assert len(refused) <= faults, f"{refused} refuse after {faults} errors of the disk"


__all__ = ["Machine"]
