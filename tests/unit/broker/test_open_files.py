"""Descriptors are divided, and an active segment that nobody writes to gives its file to one that is written to."""

import pytest
import trio
from tests.support.logs import batch
from tests.support.memory_broker import MemoryBroker, memory_broker
from tests.support.memory_files import MemoryFiles
from tests.support.memory_metadata import MemoryMetadata
from tests.support.partition_bench import settle

from penstock.broker.open_files import divide
from penstock.protocol.errors import ErrorCode
from penstock.runtime.files import DiskError

NONE = ErrorCode.NONE
DESCRIPTORS = 96
PLACES = divide(DESCRIPTORS).active_segments
COUNT = PLACES + 8
ROUNDS = 3


@pytest.mark.parametrize("descriptors_max", [1, 64, 96, 256, 1024, 20_000, 1 << 20])
def test_the_shares_fit_into_the_limit(descriptors_max: int) -> None:
    shares = divide(descriptors_max)
    assert min(shares) > 0
    assert shares.active_segments > shares.closed_segments
    if descriptors_max >= DESCRIPTORS:
        used = shares.active_segments + 2 * shares.closed_segments + shares.connections
        assert used <= descriptors_max - 48


def is_open(broker: MemoryBroker, topic: str) -> bool:
    """Whether the active segment is open to append."""
    return broker.partition(topic).log.segments[-1].file is not None


async def write(broker: MemoryBroker, topic: str) -> int:
    (part,) = await broker.produced(topic, bytes(batch()))
    return int(part.error_code)


async def make_topics(broker: MemoryBroker, **configs: str) -> list[str]:
    names = [f"topic-{number}" for number in range(COUNT)]
    for name in names:
        await broker.create(name, 1, **configs)
    return names


async def test_more_partitions_than_files_are_all_written_to_at_once() -> None:
    files, store = MemoryFiles(), MemoryMetadata()
    async with memory_broker(files=files, store=store, open_files_max=DESCRIPTORS) as broker:
        await broker.create("orders", COUNT)
        for _ in range(ROUNDS):
            parts = await broker.produced("orders", *[bytes(batch())] * COUNT)
            assert [part.error_code for part in parts] == [NONE] * COUNT
            assert sum(p.log.segments[-1].file is not None for p in broker.broker.partitions) <= PLACES
            assert files.open_count <= PLACES + 2 * divide(DESCRIPTORS).closed_segments
        crashed = files.copy()
    async with memory_broker(files=crashed, store=store, open_files_max=DESCRIPTORS) as broker:
        assert [p.log.log_end_offset for p in broker.broker.partitions] == [ROUNDS] * COUNT


async def test_the_one_that_is_written_to_keeps_its_file() -> None:
    async with memory_broker(open_files_max=DESCRIPTORS) as broker:
        names = await make_topics(broker)
        await broker.create("busy")
        hops = 0
        for _ in range(ROUNDS):
            for name in names:
                assert await write(broker, name) == NONE
                before = broker.threads.calls["prepare_append"]
                assert await write(broker, "busy") == NONE
                hops += broker.threads.calls["prepare_append"] - before
        assert hops <= 2, "once at first, and once when all were new alike"


async def test_what_was_not_synced_yet_is_durable_when_its_file_is_closed() -> None:
    """Nobody would hear of a write that fails after its last descriptor was closed."""
    async with memory_broker(open_files_max=DESCRIPTORS) as broker:
        names = await make_topics(broker, write_caching="true")
        for name in names:
            await write(broker, name)
        for name in names:
            log = broker.partition(name).log
            assert is_open(broker, name) or log.durable_end_offset == 1
        assert not is_open(broker, names[0])
        assert await write(broker, names[0]) == NONE
        assert broker.partition(names[0]).log.log_end_offset == 2


async def test_a_sync_that_fails_at_closing_takes_that_partition_offline_and_its_place_is_free() -> None:
    async with memory_broker(open_files_max=DESCRIPTORS) as broker:
        names = await make_topics(broker, write_caching="true")
        for name in names[:PLACES]:
            assert await write(broker, name) == NONE
        broker.files.fail("datasync", DiskError)
        for name in names[PLACES:]:
            assert await write(broker, name) == NONE
        failed = [name for name in names if broker.partition(name).log.failure is not None]
        assert len(failed) == 1
        assert await write(broker, failed[0]) == ErrorCode.KAFKA_STORAGE_ERROR


async def test_appends_wait_behind_the_closing_of_their_own_file() -> None:
    async with memory_broker(open_files_max=DESCRIPTORS) as broker:
        names = await make_topics(broker)
        for name in names[:PLACES]:
            await write(broker, name)
        broker.threads.hold("close")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(write, broker, names[PLACES])
            await settle()
            assert broker.threads.waiting("close") == 1
            for _ in range(2):
                for name in names[:PLACES]:
                    nursery.start_soon(write, broker, name)
                await settle()
            broker.threads.release("close")
        ends = [broker.partition(name).log.log_end_offset for name in names[:PLACES]]
        assert ends == [3] * PLACES
        assert sum(is_open(broker, name) for name in names) <= PLACES


async def test_deleted_topics_give_their_places_back() -> None:
    async with memory_broker(open_files_max=DESCRIPTORS) as broker:
        names = await make_topics(broker)
        for name in names[:PLACES]:
            await write(broker, name)
        await broker.delete(names[0])
        await write(broker, names[PLACES])
        assert all(is_open(broker, name) for name in names[1 : PLACES + 1])


async def test_a_roll_of_a_log_at_rest_opens_no_file_to_stay() -> None:
    async with memory_broker(open_files_max=DESCRIPTORS) as broker:
        names = await make_topics(broker)
        for name in names:
            await write(broker, name)
        await broker.broker.retention.check()
        assert [broker.partition(name).log.log_start_offset for name in names] == [1] * COUNT
        assert sum(is_open(broker, name) for name in names) <= PLACES


async def test_a_fetch_of_more_files_than_may_be_open_brings_some_now_and_the_rest_later() -> None:
    files, store = MemoryFiles(), MemoryMetadata()
    async with memory_broker(files=files, store=store) as broker:
        await broker.create("orders", COUNT)
        await broker.produced("orders", *[bytes(batch())] * COUNT)
    async with memory_broker(files=files, store=store, open_files_max=DESCRIPTORS) as broker:
        missing = set(range(COUNT))
        while missing:
            parts = await broker.fetched(*(("orders", index, 0) for index in sorted(missing)))
            assert not any(part.error_code for part in parts)
            served = {part.partition_index for part in parts if part.records}
            assert 0 < len(served) <= 2 * divide(DESCRIPTORS).closed_segments
            missing -= served
