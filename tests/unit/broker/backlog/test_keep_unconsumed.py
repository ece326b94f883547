"""Retention that spares what a counted group has not consumed, and tells of it."""

import pytest
import trio
from tests.support.group_calls import GroupCalls
from tests.support.logs import batch
from tests.support.memory_broker import MemoryBroker, memory_broker
from tests.support.memory_files import MemoryFiles
from tests.support.memory_metadata import MemoryMetadata
from tests.support.partition_bench import settle
from tests.unit.broker.test_partitions import checkpoint

from penstock.storage.layout import LOG_START_CHECKPOINT

SIZE_BYTES = len(batch())


async def filled(broker: MemoryBroker, **configs: str) -> GroupCalls:
    """Twelve batches of one record in four segments, all of them expired long ago."""
    given = {"backlog_groups": "g", "segment_bytes": str(3 * SIZE_BYTES), **configs}
    await broker.create("orders", 1, **given)
    calls = GroupCalls(broker)
    await calls.find()
    for _ in range(12):
        await broker.produced("orders", bytes(batch()))
    return calls


async def starts(broker: MemoryBroker) -> list[int]:
    """The base offsets of the segments after a check of retention."""
    await broker.broker.retention.check()
    await settle()
    return [segment.base_offset for segment in broker.partition().log.segments]


@pytest.mark.parametrize("bound", [{"retention_ms": "1000"}, {"retention_bytes": "1"}])
async def test_nothing_goes_that_a_counted_group_has_not_consumed(bound: dict[str, str]) -> None:
    async with memory_broker() as broker:
        calls = await filled(broker, retention_keep_unconsumed="true", **bound)
        await calls.commit("g", {0: 0})
        assert await starts(broker) == [0, 3, 6, 9]
        await calls.commit("g", {0: 5})
        assert await starts(broker) == [3, 6, 9]
        await calls.commit("other", {0: 3})
        await calls.commit("g", {0: 9})
        assert await starts(broker) == [9]
        await calls.commit("g", {0: 12})
        assert await starts(broker) == [12]


async def test_without_a_group_that_counts_retention_does_what_it_always_does() -> None:
    async with memory_broker() as broker:
        calls = await filled(broker, retention_keep_unconsumed="true", retention_ms="1000")
        await calls.commit("other", {0: 0})
        assert await starts(broker) == [12]


async def test_a_bound_of_the_backlog_alone_keeps_nothing_back() -> None:
    async with memory_broker() as broker:
        calls = await filled(broker, backlog_max_records="100", retention_ms="1000")
        await calls.commit("g", {0: 0})
        assert await starts(broker) == [12]


async def test_records_that_a_client_deletes_go_all_the_same() -> None:
    async with memory_broker() as broker:
        calls = await filled(broker, retention_keep_unconsumed="true")
        await calls.commit("g", {0: 0})
        await broker.broker.retention.cut({broker.partition(): 6}, "asked for")
        assert await starts(broker) == [6, 9]


@pytest.mark.parametrize("is_written", [False, True])
async def test_a_group_that_goes_back_while_the_disk_is_slow_keeps_what_was_to_go(is_written: bool) -> None:
    async with memory_broker() as broker:
        calls = await filled(broker, retention_keep_unconsumed="true", retention_ms="1000")
        await calls.commit("g", {0: 9})
        broker.threads.hold("write_log_starts", after=is_written)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(broker.broker.retention.check)
            await settle()
            assert broker.threads.waiting("write_log_starts") == 1
            await calls.commit("g", {0: 4})
            broker.threads.release("write_log_starts")
        assert broker.partition().log.log_start_offset == 0
        assert checkpoint(broker.files, LOG_START_CHECKPOINT).get(("orders", 0), 0) == 0, (
            "nor after a restart"
        )
        assert await starts(broker) == [3, 6, 9]


async def test_nothing_goes_before_the_groups_are_read_after_a_restart() -> None:
    files, store = MemoryFiles(), MemoryMetadata()
    async with memory_broker(files=files, store=store) as broker:
        calls = await filled(broker, retention_keep_unconsumed="true", retention_ms="1000")
        await calls.commit("g", {0: 4})
    async with memory_broker(files=files, store=store) as broker:
        gate = broker.partition().gate
        assert gate is not None
        await settle()
        gate.rule.is_known = False
        assert await starts(broker) == [0, 3, 6, 9]
        gate.told_all({"g": 4})
        assert await starts(broker) == [3, 6, 9]


async def test_what_is_kept_back_is_told_once_and_again_when_somebody_else_is_slowest(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("INFO", "penstock.broker.backlog.kept")
    async with memory_broker() as broker:
        calls = await filled(
            broker, retention_keep_unconsumed="true", retention_ms="1000", backlog_groups="g,h"
        )
        await calls.commit("g", {0: 4})
        await starts(broker)
        await starts(broker)
        await calls.commit("h", {0: 3})
        await starts(broker)
        await calls.commit("g", {0: 12})
        await calls.commit("h", {0: 12})
        await starts(broker)
    told = [record.getMessage() for record in caplog.records]
    keeps = (
        f"orders-0: retention.keep.unconsumed keeps 3 segment(s), {9 * SIZE_BYTES} bytes, "
        "that are older than retention.ms=1000: "
    )
    assert told == [
        keeps + "group g has consumed up to offset 4",
        keeps + "group h has consumed up to offset 3",
        "orders-0: nothing is kept for want of consumption any more",
    ]
