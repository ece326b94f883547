"""Following the store: nothing missed, whatever the watch does."""

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio
from tests.support.memory_metadata import MemoryMetadata
from trio.testing import MockClock, wait_all_tasks_blocked

from penstock.broker import keys
from penstock.broker.errors import CorruptMetadata
from penstock.broker.image import ClusterImage, ImageDelta
from penstock.broker.keys import PartitionState, TopicRecord
from penstock.broker.metadata_watch import MetadataWatch
from penstock.runtime.metadata import Delete, MetadataUnavailable, Put, Snapshot, WatchBatch

TOPIC_ID = bytes([1] * 16)


def topic_puts(name: str = "t", count: int = 1) -> list[Put | Delete]:
    state = keys.encode_partition(PartitionState((1,), (1,), 1, 0))
    return [
        Put(keys.partition_key(TOPIC_ID, 0), state),
        Put(keys.topic_key(name), keys.encode_topic(TopicRecord(TOPIC_ID, count))),
    ]


class Unsteady(MemoryMetadata):
    """A store whose watch breaks when told, and whose reads fail as often as told."""

    def __init__(self) -> None:
        super().__init__()
        self.failing_reads = 0
        self.broken = trio.Event()
        self.watch_count = 0

    async def range(self, prefix: str) -> Snapshot:
        if self.failing_reads:
            self.failing_reads -= 1
            raise MetadataUnavailable("told to fail")
        return await super().range(prefix)

    @asynccontextmanager
    async def watch(
        self, prefix: str, *, after_revision: int
    ) -> AsyncGenerator[AsyncIterator[WatchBatch], None]:
        self.watch_count += 1

        async def until_broken(batches: AsyncIterator[WatchBatch]) -> AsyncGenerator[WatchBatch, None]:
            while True:
                came: list[WatchBatch] = []
                async with trio.open_nursery() as nursery:

                    async def break_it() -> None:
                        await self.broken.wait()
                        nursery.cancel_scope.cancel()

                    nursery.start_soon(break_it)
                    came.append(await anext(batches))
                    nursery.cancel_scope.cancel()
                if not came:
                    self.broken = trio.Event()
                    raise MetadataUnavailable("the watch broke")
                yield came[0]

        async with super().watch(prefix, after_revision=after_revision) as batches:
            yield until_broken(batches)


async def test_the_first_delta_adds_everything_before_the_watch_counts_as_started(
    nursery: trio.Nursery,
) -> None:
    store, image = MemoryMetadata(), ClusterImage()
    await store.transact([], topic_puts())
    watch = MetadataWatch(store, image)
    deltas: list[ImageDelta] = []
    watch.listen(deltas.append)
    await watch.load()
    nursery.start_soon(watch.run)
    assert [t.name for t in deltas[0].topics_added] == ["t"]
    assert image.revision == 1


async def test_a_writer_waits_until_its_own_broker_has_seen_it(nursery: trio.Nursery) -> None:
    store, image = MemoryMetadata(), ClusterImage()
    watch = MetadataWatch(store, image)
    await watch.load()
    nursery.start_soon(watch.run)
    result = await store.transact([], topic_puts())
    await watch.wait_for(result.revision)
    assert image.topic("t") is not None
    await watch.wait_for(result.revision)  # what is past returns at once


async def test_keys_of_others_are_not_seen(nursery: trio.Nursery) -> None:
    store, image = MemoryMetadata(), ClusterImage()
    await store.transact([], [Put("/elsewhere", b"x"), Put("/penstocks/topics/t", b"x")])
    await MetadataWatch(store, image).load()
    assert list(image.topics) == []


async def test_a_compacted_watch_reads_all_anew_and_tells_the_difference(nursery: trio.Nursery) -> None:
    store, image = MemoryMetadata(), ClusterImage()
    await store.transact([], topic_puts("old"))
    watch = MetadataWatch(store, image)
    deltas: list[ImageDelta] = []
    watch.listen(deltas.append)
    await watch.load()
    nursery.start_soon(watch.run)
    await wait_all_tasks_blocked()
    deltas.clear()
    # Both transactions come before the watcher runs again, and their history is gone by then.
    store._commit([Delete(keys.topic_key("old"))])  # pyright: ignore[reportPrivateUsage]
    store._commit([Put(keys.topic_key("new"), keys.encode_topic(TopicRecord(bytes([2] * 16), 1)))])  # pyright: ignore[reportPrivateUsage]
    store.compact()
    with trio.fail_after(5):
        await watch.wait_for(store.revision)
    assert len(deltas) == 1
    assert [t.name for t in deltas[0].topics_removed] == ["old"]
    assert [t.name for t in deltas[0].topics_added] == ["new"]


async def test_a_broken_watch_and_failing_reads_are_got_over(autojump_clock: MockClock) -> None:
    store, image = Unsteady(), ClusterImage()
    watch = MetadataWatch(store, image)
    async with trio.open_nursery() as nursery:
        await watch.load()
        nursery.start_soon(watch.run)
        await wait_all_tasks_blocked()
        store.failing_reads = 3
        store.broken.set()
        await wait_all_tasks_blocked()
        result = await store.transact([], topic_puts())
        with trio.fail_after(5):
            await watch.wait_for(result.revision)
        assert image.topic("t") is not None
        await wait_all_tasks_blocked()
        assert store.watch_count == 2
        nursery.cancel_scope.cancel()


async def test_a_store_that_is_not_there_at_the_start_fails_the_start() -> None:
    store = Unsteady()
    store.failing_reads = 1
    with pytest.raises(MetadataUnavailable):
        await MetadataWatch(store, ClusterImage()).load()


async def test_corrupt_metadata_ends_the_watch() -> None:
    store = MemoryMetadata()
    await store.transact([], [Put(keys.TOPICS_PREFIX + "..", b"{}")])
    with pytest.raises(CorruptMetadata):
        await MetadataWatch(store, ClusterImage()).load()
