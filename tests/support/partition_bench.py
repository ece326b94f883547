"""One partition on a disk in memory and on workers that the test holds: what `broker/partition.py` is tried on."""

import dataclasses
import math
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

import trio
import trio.testing
from tests.support.logs import DIRECTORY, NOW_MS, TOPIC_ID, batch, new_log, reopen
from tests.support.memory_files import MemoryFiles
from tests.support.scripted_threads import ScriptedThreads

from penstock.broker.open_files import ActiveFiles
from penstock.broker.partition import Partition
from penstock.broker.partition_machine import ChangeIsr, PartitionMachine, StateLearned
from penstock.broker.partition_settings import PartitionServices, PartitionSettings
from penstock.protocol.produce import ProducePartitionResult
from penstock.storage.log import Log
from penstock.storage.log_config import LogConfig

ME = 1
FAR_MS = 2**62
SETTINGS = PartitionSettings(
    log_config=LogConfig(),
    write_caching=False,
    min_insync_replicas=1,
    max_message_bytes=1 << 20,
    timestamp_before_max_ms=FAR_MS,
    timestamp_after_max_ms=FAR_MS,
    flush_messages=2**62,
    flush_ms=2**62,
    rewriter=None,
)


class BenchClock:
    """Trio's time, and besides it what appends cost: `append_cost_s` passes between two looks at it."""

    def __init__(self) -> None:
        self.append_cost_s = 0.0
        self.spent_s = 0.0

    def monotonic(self) -> float:
        self.spent_s += self.append_cost_s
        return trio.current_time() + self.spent_s

    def wall_ms(self) -> int:
        return NOW_MS

    def thread_time(self) -> float:
        return trio.current_time()


class BenchLease:
    """The broker's registration, which ends when the test says so."""

    def __init__(self) -> None:
        self.deadline = math.inf


class Sent:
    """One produced batch and what came of it."""

    def __init__(self, acks: int) -> None:
        self.acks = acks
        self.result = ProducePartitionResult("orders", None, 0, 0)
        self.done_count = 0
        self.is_final = False

    @property
    def code(self) -> int:
        """The error code as it stands; what is sent if the producer's patience ends now."""
        return self.result.error_code

    def done(self) -> None:
        """Called by the partition."""
        self.done_count += 1
        self.is_final = True


class PartitionBench:
    """The partition and all it stands on."""

    def __init__(self, nursery: trio.Nursery, settings: PartitionSettings, files: MemoryFiles) -> None:
        self.files = files
        self.threads = ScriptedThreads()
        self.clock = BenchClock()
        self.held_bytes = 0
        self.lease = BenchLease()
        self.asked: list[ChangeIsr] = []
        """ISR changes that the partition wants stored."""
        self.has_left = False
        is_there = files.exists(DIRECTORY)
        config = settings.log_config
        self.log: Log = reopen(files, config, clean=True) if is_there else new_log(files, config)
        self.sent: list[Sent] = []
        self.machine = PartitionMachine(
            ME, write_caching=settings.write_caching, min_insync_replicas=settings.min_insync_replicas
        )
        self.services = PartitionServices(
            self.clock,
            self.threads,
            nursery.start_soon,
            trio.CapacityLimiter(4),
            ActiveFiles(100),
            self._hold,
            self.lease,
            self,
        )
        self.partition = Partition("orders", TOPIC_ID, 0, self.log, settings, self.machine, self.services)

    def _hold(self, count: int) -> None:
        self.held_bytes += count
        assert self.held_bytes >= 0

    def ask(self, partition: Partition, change: ChangeIsr) -> None:
        """What the partition wants stored."""
        self.asked.append(change)

    def leave(self, topic_id: bytes, index: int) -> None:
        """The partition's log has failed."""
        self.has_left = True

    def lead(
        self,
        epoch: int = 1,
        *,
        leader: int = ME,
        isr: tuple[int, ...] = (ME,),
        replicas: tuple[int, ...] = (ME,),
        partition_epoch: int | None = None,
    ) -> None:
        """What the store says of the partition; later than anything it said before, unless `partition_epoch` is given."""
        self.partition.learn(
            StateLearned(
                leader,
                epoch,
                isr,
                replicas,
                self.machine.partition_epoch + 1 if partition_epoch is None else partition_epoch,
                self.log.log_end_offset,
                self.log.durable_end_offset,
                self.clock.monotonic() * 1000,
            )
        )

    def send(self, acks: int = -1, raw: bytearray | None = None) -> Sent:
        """Produce a batch; the frame it came in is overwritten at once, as the connection's is."""
        sent = Sent(acks)
        self.sent.append(sent)
        frame = raw if raw is not None else batch([b"v%d" % len(self.sent)])
        if self.partition.produce(memoryview(frame), acks, sent.result, sent.done):
            assert sent.done_count == 0
            sent.is_final = True
        frame[:] = bytes(len(frame))
        return sent

    def change(self, **settings: Any) -> None:
        """Change the topic's settings."""
        self.partition.change_settings(dataclasses.replace(self.partition.settings, **settings))

    async def warm_up(self) -> None:
        """Have the first append of the epoch behind us."""
        self.send()
        await settle()
        assert self.sent[-1].code == 0


async def settle() -> None:
    """Return when nothing moves any more."""
    await trio.testing.wait_all_tasks_blocked()


@asynccontextmanager
async def partition_bench(
    files: MemoryFiles | None = None, **settings: Any
) -> AsyncGenerator[PartitionBench]:
    """A partition that leads in epoch 1; empty, or what was closed on that disk before."""
    async with trio.open_nursery() as nursery:
        bench = PartitionBench(nursery, dataclasses.replace(SETTINGS, **settings), files or MemoryFiles())
        bench.lead()
        try:
            yield bench
        finally:
            bench.threads.release_all()
            nursery.cancel_scope.cancel()
