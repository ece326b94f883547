"""One fsync serves all that wait for it, and only so many run at once: counted in virtual time, on a disk whose fsync takes five milliseconds."""

from collections.abc import Callable
from typing import TypeVar, TypeVarTuple

import trio
import trio.testing
from tests.support.logs import batch
from tests.support.memory_broker import MemoryBroker, memory_broker
from tests.support.scripted_threads import ScriptedThreads

from penstock.broker.broker import PARALLEL_SYNCS_MAX

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

SYNC_S = 0.005
PRODUCER_COUNT = 64
SECONDS = 0.25


class SlowSyncs(ScriptedThreads):
    """Workers, of whom one that syncs a log is busy for `SYNC_S`: what is appended meanwhile is not covered."""

    def __init__(self) -> None:
        super().__init__()
        self.running = self.running_max = 0

    async def run(self, function: Callable[[*Ts], T], *args: *Ts) -> T:
        if getattr(function, "__name__", "") != "sync":
            return await super().run(function, *args)
        self.running += 1
        self.running_max = max(self.running_max, self.running)
        try:
            result = await super().run(function, *args)
            await trio.sleep(SYNC_S)
            return result
        finally:
            self.running -= 1


async def acks_in_a_second(broker: MemoryBroker, topics: list[str]) -> int:
    """Producers, one after the other on the topics, each of which waits for its ack before it sends again."""
    acked = 0

    async def produce(topic: str) -> None:
        nonlocal acked
        while True:
            (part,) = await broker.produced(topic, bytes(batch()))
            assert part.error_code == 0
            acked += 1

    with trio.move_on_after(SECONDS):
        async with trio.open_nursery() as nursery:
            for number in range(PRODUCER_COUNT):
                nursery.start_soon(produce, topics[number % len(topics)])
    return acked


async def test_64_producers_on_one_partition_need_more_than_one_sync_for_eight_acks(
    autojump_clock: trio.testing.MockClock,
) -> None:
    threads = SlowSyncs()
    async with memory_broker(threads=threads) as broker:
        await broker.create("orders")
        await broker.produced("orders", bytes(batch()))
        syncs = broker.files.calls["datasync"]
        acked = await acks_in_a_second(broker, ["orders"])
        syncs = broker.files.calls["datasync"] - syncs
    assert syncs * SYNC_S >= SECONDS * 0.9, "the disk was the bottleneck"
    assert syncs * 8 <= acked
    assert syncs * PRODUCER_COUNT * 0.45 <= acked, "every other sync, at the latest, serves all of them"


async def test_64_partitions_sync_all_at_once_or_wait_though_the_disk_is_free(
    autojump_clock: trio.testing.MockClock,
) -> None:
    threads = SlowSyncs()
    async with memory_broker(threads=threads) as broker:
        topics = [f"topic-{number}" for number in range(PRODUCER_COUNT)]
        for topic in topics:
            await broker.create(topic)
            await broker.produced(topic, bytes(batch()))
        acked = await acks_in_a_second(broker, topics)
    assert threads.running_max == PARALLEL_SYNCS_MAX
    assert acked >= PARALLEL_SYNCS_MAX * SECONDS / SYNC_S * 0.9
