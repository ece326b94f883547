"""The log cleaner at work: which log is next, how errors end, who may pull a log from under it, and what is written down."""

import logging
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import TypeVar, TypeVarTuple

import pytest
import trio
import trio.testing
from tests.support.compaction import append_raw, kept_records, keyed, marker, unreadable
from tests.support.group_calls import GroupCalls
from tests.support.logs import NOW_MS, read_batches
from tests.support.memory_broker import DATA, MemoryBroker, memory_broker
from tests.support.memory_files import MemoryFiles
from tests.support.memory_metadata import MemoryMetadata
from tests.support.scripted_threads import ScriptedThreads

from penstock.broker import log_cleaner
from penstock.broker.log_cleaner import LogCleaner
from penstock.protocol.errors import ErrorCode
from penstock.protocol.record_filter import ControlType
from penstock.runtime.files import DiskError, DiskFull
from penstock.storage.checkpoint import read_offset_checkpoint
from penstock.storage.log import Log

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

NONE = ErrorCode.NONE
CHECKPOINT = f"{DATA}/cleaner-offset-checkpoint"
COUNT = 12


async def write(broker: MemoryBroker, topic: str, *pairs: tuple[bytes, bytes | None]) -> None:
    for key, value in pairs:
        (part,) = await broker.produced(topic, bytes(keyed([(key, value)], timestamps_ms=NOW_MS)))
        assert part.error_code == NONE


async def dirty(broker: MemoryBroker, topic: str = "orders", count: int = COUNT, **configs: str) -> Log:
    """A compacted topic of one partition, all of whose records have one key."""
    await broker.create(
        topic,
        1,
        cleanup_policy="compact",
        segment_bytes="250",
        min_cleanable_dirty_ratio="0.1",
        **configs,
    )
    await write(broker, topic, *[(b"k", b"%d" % number) for number in range(count)])
    return broker.partition(topic).log


def cleaner(broker: MemoryBroker) -> LogCleaner:
    return broker.broker.cleaner


def values(log: Log) -> list[bytes | None]:
    return [record.value for record in kept_records(log)]


def checkpoint(files: MemoryFiles) -> dict[tuple[str, int], int]:
    return read_offset_checkpoint(files, CHECKPOINT)


async def test_a_log_that_is_due_is_compacted_and_the_checkpoint_says_up_to_where() -> None:
    async with memory_broker() as broker:
        log = await dirty(broker)
        active = log.segments[-1].base_offset
        assert await cleaner(broker).clean_one()
        assert values(log)[0] == b"%d" % (active - 1)
        assert len(values(log)) == 1 + COUNT - active
        assert checkpoint(broker.files) == {("orders", 0): active}
        assert not await cleaner(broker).clean_one(), "nothing is due any more"


async def test_what_is_not_to_be_compacted_is_left_alone() -> None:
    async with memory_broker() as broker:
        await broker.create("orders", 1, segment_bytes="250")
        await write(broker, "orders", *[(b"k", b"%d" % number) for number in range(COUNT)])
        assert not await cleaner(broker).clean_one()
        assert len(values(broker.partition().log)) == COUNT


async def test_the_dirtiest_log_comes_first() -> None:
    async with memory_broker() as broker:
        first = await dirty(broker, "orders", 30)
        await cleaner(broker).clean_one()
        await write(broker, "orders", *[(b"%d" % number, b"x") for number in range(6)])
        second = await dirty(broker, "other", 7)
        assert await cleaner(broker).clean_one()
        assert values(second)[0] == b"5"
        assert len(values(first)) > 6
        while await cleaner(broker).clean_one():
            pass


async def test_after_a_restart_compaction_goes_on_where_it_was() -> None:
    files, store = MemoryFiles(), MemoryMetadata()
    async with memory_broker(files=files, store=store) as broker:
        await dirty(broker)
        await cleaner(broker).clean_one()
        kept = values(broker.partition().log)
    async with memory_broker(files=files, store=store) as broker:
        assert values(broker.partition().log) == kept
        assert not await cleaner(broker).clean_one()
    files.replace(CHECKPOINT, b"rubbish")
    async with memory_broker(files=files, store=store) as broker:
        assert broker.broker.partitions.by_name("orders", 0) is not None
        assert await cleaner(broker).clean_one(), "without the checkpoint it begins anew"
        assert values(broker.partition().log) == kept


async def test_damage_makes_a_log_uncleanable_with_one_line_and_others_go_on(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with memory_broker() as broker:
        bad, good = await dirty(broker, "bad", 30), await dirty(broker, "good")
        path = bad.segments[0].path
        broker.files.change(path, 68, b"?")  # within the records of the first batch
        for _ in range(5):
            await cleaner(broker).clean_one()
        assert len(values(good)) < COUNT
        lines = [record for record in caplog.records if record.levelname == "ERROR"]
        assert len(lines) == 1
        assert "bad-0: not compacted any more" in lines[0].getMessage()
        assert "CRC" in lines[0].getMessage()
        await write(broker, "bad", (b"k", b"still served"))


async def test_a_batch_that_nobody_can_read_is_named_in_one_line_and_hinders_nothing(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with memory_broker() as broker:
        log = await dirty(broker)
        append_raw(log, unreadable(keyed([(b"k", b"junk")], timestamps_ms=NOW_MS)))
        await write(broker, "orders", *[(b"k", b"%d" % number) for number in range(COUNT)])
        assert await cleaner(broker).clean_one()
        assert not await cleaner(broker).clean_one()
        (line,) = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
        assert f"orders-0: copied 1 batches as they are, the first at offset {COUNT}:" in line
        assert len(read_batches(log)) < COUNT


async def test_a_marker_that_nobody_can_read_ends_the_compaction_and_is_not_called_damage(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with memory_broker() as broker:
        log = await dirty(broker)
        append_raw(log, unreadable(marker(ControlType.COMMIT, producer_id=5)))
        await write(broker, "orders", *[(b"k", b"%d" % number) for number in range(COUNT)])
        for _ in range(3):
            await cleaner(broker).clean_one()
        (line,) = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
        assert "orders-0: not compacted any more until the next start" in line
        assert "corrupt" not in line


async def test_a_full_disk_is_named_once_and_tried_again_later(
    caplog: pytest.LogCaptureFixture, autojump_clock: trio.testing.MockClock
) -> None:
    async with memory_broker() as broker:
        log = await dirty(broker)
        broker.files.fail("pwrite", DiskFull)
        assert await cleaner(broker).clean_one()
        assert not await cleaner(broker).clean_one(), "not at once"
        assert len(values(log)) == COUNT
        names = broker.files.list_directory(log.directory)
        assert not [name for name in names if name.endswith((".cleaned", ".swap", ".tmp"))]
        assert [r.getMessage() for r in caplog.records if "not compacted" in r.getMessage()]
        await trio.sleep(log_cleaner.RETRY_S)
        assert await cleaner(broker).clean_one()
        assert len(values(log)) < COUNT


async def test_a_disk_that_fails_within_the_swap_takes_the_partition_offline_and_a_restart_mends_it() -> None:
    files, store = MemoryFiles(), MemoryMetadata()
    async with memory_broker(files=files, store=store) as broker:
        log = await dirty(broker)
        renames = 0

        def look(operation: str, path: str) -> None:
            nonlocal renames
            if operation == "rename" and path.endswith(".log"):
                renames += 1
                files.fail("sync_directory", DiskError)

        files.before_change = look
        assert await cleaner(broker).clean_one()
        files.before_change = None
        assert renames
        (part,) = await broker.produced("orders", bytes(keyed([(b"k", b"x")])))
        assert part.error_code == ErrorCode.KAFKA_STORAGE_ERROR
        assert log.failure is not None
        active = log.segments[-1].base_offset
    files.kill()
    async with memory_broker(files=files, store=store) as broker:
        left = values(broker.partition().log)
        assert left[-(COUNT - active) :] == [b"%d" % number for number in range(active, COUNT)]
        await write(broker, "orders", (b"k", b"on"))


async def test_a_topic_is_deleted_and_made_anew_under_a_compaction() -> None:
    async with memory_broker() as broker:
        await dirty(broker)
        broker.threads.hold("step", after=True)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(cleaner(broker).clean_one)
            await trio.testing.wait_all_tasks_blocked()
            assert broker.threads.waiting("step")
            await broker.delete("orders")
            await trio.testing.wait_all_tasks_blocked()
            assert broker.files.exists(f"{DATA}/orders-0"), "not before the cleaner has left"
            broker.threads.release("step")
        await trio.testing.wait_all_tasks_blocked()
        assert not broker.files.exists(f"{DATA}/orders-0")
        log = await dirty(broker)
        assert len(values(log)) == COUNT
        assert await cleaner(broker).clean_one()
        assert checkpoint(broker.files) == {("orders", 0): log.segments[-1].base_offset}


async def test_a_stop_in_the_middle_of_a_compaction_is_clean() -> None:
    files, store = MemoryFiles(), MemoryMetadata()
    async with memory_broker(files=files, store=store) as broker:
        await dirty(broker)
        async with trio.open_nursery() as nursery:
            broker.threads.hold("step", after=True)
            nursery.start_soon(cleaner(broker).run)
            await trio.testing.wait_all_tasks_blocked()
            nursery.cancel_scope.cancel()
            broker.threads.release("step")
    names = files.list_directory(f"{DATA}/orders-0")
    assert not [name for name in names if name.endswith((".cleaned", ".swap", ".deleted"))]
    async with memory_broker(files=files, store=store) as broker:
        assert not broker.partition().log.report


async def test_the_cleaner_runs_by_itself_and_not_if_it_is_switched_off(
    autojump_clock: trio.testing.MockClock,
) -> None:
    for enabled in ("true", "false"):
        async with memory_broker(log_cleaner_enable=enabled) as broker, trio.open_nursery() as nursery:
            nursery.start_soon(cleaner(broker).run)
            log = await dirty(broker)
            await trio.sleep(60)
            assert (len(values(log)) < COUNT) == (enabled == "true")
            nursery.cancel_scope.cancel()


async def test_bytes_per_second_are_bounded(autojump_clock: trio.testing.MockClock) -> None:
    async with memory_broker(log_cleaner_io_max_bytes_per_second="100") as broker:
        log = await dirty(broker, count=30)
        size_bytes = log.size_bytes
        started = trio.current_time()
        await cleaner(broker).clean_one()
        assert log.size_bytes < size_bytes
        assert trio.current_time() - started > 2 * 0.8 * size_bytes / 100, "it is read twice"


class BusyWorkers(ScriptedThreads):
    """Each step of a compaction takes a second."""

    async def run(self, function: Callable[[*Ts], T], *args: *Ts) -> T:
        if getattr(function, "__name__", "") == "step":
            await trio.sleep(1)
        return await super().run(function, *args)


async def test_the_event_loop_has_no_more_of_a_core_than_a_compaction(
    autojump_clock: trio.testing.MockClock,
) -> None:
    workers = BusyWorkers()
    async with memory_broker(threads=workers) as broker:
        await dirty(broker)
        started = trio.current_time()
        await cleaner(broker).clean_one()
        pauses = workers.calls["step"] - 1
        assert pauses > 0
        assert trio.current_time() - started >= workers.calls["step"] + 3 * pauses


async def test_a_compaction_that_gets_nowhere_lets_the_cleaner_rest(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with memory_broker() as broker:
        log = await dirty(broker, count=4)
        append_raw(log, keyed([(b"k", b"open")], producer_id=5, is_transactional=True))
        await write(broker, "orders", *[(b"k", b"%d" % number) for number in range(20)])
        assert await cleaner(broker).clean_one()
        assert checkpoint(broker.files) == {("orders", 0): 4}
        assert await cleaner(broker).clean_one()
        assert not await cleaner(broker).clean_one()
        await trio.sleep(broker.broker.config.log_cleaner_backoff_ms / 1000)
        append_raw(log, marker(ControlType.COMMIT, producer_id=5))
        await write(broker, "orders", (b"k", b"last"))
        log.roll()
        assert await cleaner(broker).clean_one()
        assert values(log) == [b"last"]


async def test_max_compaction_lag_ms_rolls_and_makes_due(autojump_clock: trio.testing.MockClock) -> None:
    async with memory_broker() as broker:
        await broker.create(
            "orders", 1, cleanup_policy="compact", max_compaction_lag_ms="5000", min_cleanable_dirty_ratio="1"
        )
        log = broker.partition().log
        now_ms = broker.broker.clock.wall_ms()
        for number, time_ms in enumerate((now_ms - 6000, now_ms - 6000, now_ms - 900)):
            raw = bytes(keyed([(b"k", b"%d" % number)], timestamps_ms=time_ms))
            await broker.produced("orders", raw)
        assert [segment.base_offset for segment in log.segments] == [0, 2]
        assert await cleaner(broker).clean_one()
        assert values(log) == [b"1", b"2"]


async def test_groups_are_the_same_after_their_records_were_compacted() -> None:
    files, store = MemoryFiles(), MemoryMetadata()

    def start() -> AbstractAsyncContextManager[MemoryBroker]:
        return memory_broker(
            files=files, store=store, offsets_topic_num_partitions="1", offsets_topic_segment_bytes="1000"
        )

    async with start() as broker:
        await broker.create("orders", 3)
        groups = GroupCalls(broker)
        await groups.find("g")
        for number in range(40):
            assert await groups.commit("g", {0: number, 1: 2 * number}) == [0, 0]
            assert await groups.commit(f"g{number % 4}", {2: number}) == [0]
        await groups.become_member("joined")
        assert await groups.delete("g3") == [0]
        states = await groups.states()
        log = broker.partition("__consumer_offsets").log
        log.roll()
        before = log.size_bytes
        await broker.broker.partitions.write_checkpoints()
        assert await cleaner(broker).clean_one()
        assert log.size_bytes < before / 5
        assert await groups.commit("g", {0: 41}) == [0]
    for _ in range(2):
        async with start() as broker:
            groups = GroupCalls(broker)
            await groups.find("g")
            assert await groups.committed("g", partition=0) == 41
            assert await groups.committed("g", partition=1) == 78
            assert [await groups.committed(f"g{n}", partition=2) for n in range(4)] == [36, 37, 38, -1]
            assert await groups.states() == states
        files.unlink(f"{DATA}/.kafka_cleanshutdown")  # so that the second time all is verified
