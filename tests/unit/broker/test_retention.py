"""Retention at work: the order of its steps, full disks, readers in the middle, jumping clocks, and deletions that wait."""

import pytest
import trio
import trio.testing
from tests.support.logs import batch
from tests.support.memory_broker import DATA, MemoryBroker, memory_broker
from tests.support.memory_files import MemoryFiles
from tests.support.memory_metadata import MemoryMetadata
from tests.unit.broker.test_partitions import checkpoint, delete_records_before, end_of, fill, settle

from penstock.broker.deleted_files import DeletedFiles
from penstock.broker.retention import Retention
from penstock.protocol.errors import ErrorCode
from penstock.protocol.record_batch import read_batch_header
from penstock.runtime.clock import Clock
from penstock.runtime.files import DiskError, DiskFull
from penstock.storage.layout import LOG_START_CHECKPOINT

NONE = ErrorCode.NONE
DAY_S = 86_400.0
FOLDER = f"{DATA}/orders-0"
BATCH_COUNT = 12
SEGMENT_COUNT = 4
"""Of three batches each."""
SIZE_BYTES = len(batch())
SMALL = str(3 * SIZE_BYTES)


def bases(broker: MemoryBroker) -> list[int]:
    return [segment.base_offset for segment in broker.partition().log.segments]


def names(files: MemoryFiles, ending: str = ".log") -> list[str]:
    return [name for name in files.list_directory(FOLDER) if name.endswith(ending)]


async def filled(broker: MemoryBroker, **configs: str) -> None:
    await broker.create("orders", 1, segment_bytes=SMALL, **configs)
    await fill(broker, "orders", BATCH_COUNT)
    assert bases(broker) == [0, 3, 6, 9]


async def test_expired_segments_go_and_the_active_one_is_rolled_first() -> None:
    """batch() stamps with 1000, long ago."""
    async with memory_broker(log_segment_delete_delay_ms="0") as broker:
        await filled(broker)
        await broker.broker.retention.check()
        await settle()
        assert bases(broker) == [BATCH_COUNT]
        assert names(broker.files) == [f"{BATCH_COUNT:020}.log"]
        assert (await end_of(broker, "orders"))[0] == ErrorCode.OFFSET_OUT_OF_RANGE
        await fill(broker, "orders")
        (part,) = await broker.fetched(("orders", 0, BATCH_COUNT))
        assert (part.error_code, part.high_watermark, part.log_start_offset) == (
            NONE,
            BATCH_COUNT + 1,
            BATCH_COUNT,
        )
        await broker.broker.retention.check()
        assert bases(broker) == [BATCH_COUNT + 1]
        await broker.broker.retention.check()
        assert bases(broker) == [BATCH_COUNT + 1], "an empty segment is left alone"


async def test_retention_by_size_names_what_it_deleted_and_why(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    async with memory_broker() as broker:
        await filled(broker, retention_ms="-1", retention_bytes=str(7 * SIZE_BYTES))
        await broker.broker.retention.check()
        assert bases(broker) == [3, 6, 9]
        assert f"orders-0: deleted 1 segment(s), {3 * SIZE_BYTES} bytes, over retention.bytes" in caplog.text


async def test_compacted_topics_and_committed_offsets_are_not_deleted_by_age() -> None:
    async with memory_broker() as broker:
        await broker.create("orders", cleanup_policy="compact", segment_bytes=SMALL)
        partition = broker.partition()
        raw = batch()
        for _ in range(BATCH_COUNT):
            info = partition.log.append_as_leader(
                memoryview(raw),
                read_batch_header(memoryview(raw)),
                leader_epoch=partition.leader_epoch,
                now_ms=0,
            )
            assert info.position >= 0
        partition.log.sync()
        partition.high_watermark = BATCH_COUNT
        await broker.broker.retention.check()
        assert partition.log.log_start_offset == 0


async def test_the_start_is_durable_before_it_holds_and_before_any_file_goes() -> None:
    async with memory_broker() as broker:
        await filled(broker)
        broker.threads.hold("write_log_starts")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(broker.broker.retention.check)
            await settle()
            assert broker.partition().log.log_start_offset == 0
            assert await end_of(broker, "orders") == (NONE, BATCH_COUNT)
            assert len(names(broker.files)) == SEGMENT_COUNT + 1, "all of them, and the one it rolled to"
            broker.threads.release("write_log_starts")
        assert checkpoint(broker.files, LOG_START_CHECKPOINT) == {("orders", 0): BATCH_COUNT}
        assert bases(broker) == [BATCH_COUNT]


async def test_a_kill_between_checkpoint_and_deletion_brings_nothing_back() -> None:
    files, store = MemoryFiles(), MemoryMetadata()
    async with memory_broker(files=files, store=store) as broker:
        await filled(broker)
        broker.threads.hold("put_oldest_segment_away")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(broker.broker.retention.check)
            await settle()
            crashed = files.copy()
            broker.threads.release("put_oldest_segment_away")
    async with memory_broker(files=crashed, store=store) as broker:
        assert broker.partition().log.log_start_offset == BATCH_COUNT
        assert (await end_of(broker, "orders"))[0] == ErrorCode.OFFSET_OUT_OF_RANGE
        await broker.broker.retention.check()
        assert bases(broker) == [BATCH_COUNT]


async def test_a_reader_in_the_middle_of_a_deleted_segment_reads_on() -> None:
    async with memory_broker(log_segment_delete_delay_ms="0") as broker:
        await filled(broker)
        partition = broker.partition()
        held = partition.read(4, 1 << 20)
        before = held.read()
        await broker.broker.retention.check()
        await settle()
        assert names(broker.files) == [f"{BATCH_COUNT:020}.log"]
        assert held.read() == before
        held.release()


async def test_produces_go_on_while_segments_are_deleted_one_by_one() -> None:
    async with memory_broker() as broker:
        await filled(broker)
        broker.threads.hold("put_oldest_segment_away")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(broker.broker.retention.check)
            await settle()
            for _ in range(SEGMENT_COUNT + 1):
                await fill(broker, "orders")
                broker.threads.release_one("put_oldest_segment_away")
                await settle()
        assert bases(broker)[0] == BATCH_COUNT


# Full disks


async def test_a_full_disk_does_not_keep_retention_from_making_room() -> None:
    """The checkpoint finds no space; then there is some."""
    async with memory_broker() as broker:
        await filled(broker, retention_ms="-1", retention_bytes=str(7 * SIZE_BYTES))
        broker.files.capacity_bytes = broker.files.used_bytes()
        (part,) = await broker.produced("orders", bytes(batch()))
        assert part.error_code == ErrorCode.KAFKA_STORAGE_ERROR
        await broker.broker.retention.check()
        assert bases(broker) == [3, 6, 9]
        assert names(broker.files, ".deleted") == [], "nothing waits for file.delete.delay.ms"
        assert checkpoint(broker.files, LOG_START_CHECKPOINT) == {("orders", 0): 3}
        await fill(broker, "orders")


async def test_delete_records_makes_room_on_a_full_disk() -> None:
    async with memory_broker() as broker:
        await filled(broker, retention_ms="-1")
        broker.files.capacity_bytes = broker.files.used_bytes()
        part = await delete_records_before(broker, "orders", 7)
        assert (part.error_code, part.low_watermark) == (NONE, 7)
        assert bases(broker) == [6, 9]
        assert checkpoint(broker.files, LOG_START_CHECKPOINT) == {("orders", 0): 7}


async def test_delete_records_that_are_not_durable_are_not_told_as_done() -> None:
    async with memory_broker() as broker:
        await filled(broker, retention_ms="-1")
        broker.threads.fail_once("write_log_starts", DiskError("injected"))
        part = await delete_records_before(broker, "orders", 7)
        assert part.error_code == ErrorCode.KAFKA_STORAGE_ERROR
        assert broker.partition().log.log_start_offset == 0
        assert await end_of(broker, "orders") == (NONE, BATCH_COUNT)
        for offset in (BATCH_COUNT + 1, -2):
            assert (
                await delete_records_before(broker, "orders", offset)
            ).error_code == ErrorCode.OFFSET_OUT_OF_RANGE
        assert (await delete_records_before(broker, "orders", -1)).low_watermark == BATCH_COUNT
        assert (await delete_records_before(broker, "orders", 2)).low_watermark == BATCH_COUNT
        assert bases(broker) == [9], "the active segment is not rolled for it"


async def test_what_goes_wrong_with_one_log_is_named_and_leaves_the_others_alone(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with memory_broker() as broker:
        await filled(broker)
        await broker.create("other")
        await fill(broker, "other")
        broker.threads.fail_once("put_oldest_segment_away", DiskFull("injected"))
        await broker.broker.retention.check()
        assert "orders-0: retention: injected" in caplog.text
        assert broker.partition("other").log.log_start_offset == 1
        await broker.broker.retention.check()
        assert bases(broker) == [BATCH_COUNT]


# Time


async def test_a_clock_that_jumps_a_day_ahead_deletes_no_active_segment(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """Records of now, to be kept for an hour."""
    async with memory_broker(log_retention_check_interval_ms="600000") as broker:
        for topic in ("orders", "old"):
            await broker.create(topic, retention_ms="3600000")
        await fill(broker, "old")
        parts = broker.broker
        jumping = JumpingClock(parts.clock)
        deleted = DeletedFiles(jumping, parts.threads)
        retention = Retention(parts.config, jumping, parts.threads, parts.partitions, deleted)
        stamped = bytes(batch(timestamps_ms=jumping.wall_ms()))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(retention.run)
            await settle()
            (part,) = await broker.produced("orders", stamped)
            assert part.error_code == NONE
            await trio.sleep(700)
            for jump_s in (DAY_S, -DAY_S, DAY_S):
                jumping.ahead_ms = int(jump_s * 1000)
                await trio.sleep(700)
            assert broker.partition().log.log_start_offset == 0
            assert broker.partition("old").log.log_start_offset == 1, "it was looked at"
            nursery.cancel_scope.cancel()


class JumpingClock:
    """A clock whose wall is moved."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self.ahead_ms = 0

    def monotonic(self) -> float:
        return self._clock.monotonic()

    def thread_time(self) -> float:
        return 0.0

    def wall_ms(self) -> int:
        return self._clock.wall_ms() + self.ahead_ms


async def test_files_of_deleted_segments_stay_for_their_delay(autojump_clock: trio.testing.MockClock) -> None:
    async with memory_broker() as broker:
        await filled(broker, file_delete_delay_ms="60000")
        await broker.broker.retention.check()
        gone = names(broker.files, ".log.deleted")
        assert len(gone) == SEGMENT_COUNT
        await trio.sleep(59)
        assert names(broker.files, ".log.deleted") == gone
        await trio.sleep(2)
        assert names(broker.files, ".deleted") == []


async def test_files_still_waiting_at_the_stop_go_at_the_next_start() -> None:
    files, store = MemoryFiles(), MemoryMetadata()
    async with memory_broker(files=files, store=store) as broker:
        await filled(broker)
        await broker.create("gone")
        await broker.broker.retention.check()
        await broker.delete("gone")
        await settle()
        assert any(name.endswith("-delete") for name in files.list_directory(DATA))
    assert names(files, ".deleted")
    async with memory_broker(files=files, store=store):
        assert not names(files, ".deleted")
        await settle()
        assert not any(name.endswith("-delete") for name in files.list_directory(DATA))


async def test_a_topic_made_anew_keeps_its_files_when_the_old_ones_go(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with memory_broker() as broker:
        await filled(broker)
        await broker.broker.retention.check()
        await broker.delete("orders")
        await filled(broker, retention_ms="-1")
        await trio.sleep(61)
        assert bases(broker) == [0, 3, 6, 9]
        assert len(names(broker.files)) == SEGMENT_COUNT
        assert not any(name.endswith("-delete") for name in broker.files.list_directory(DATA))


async def test_retention_of_a_topic_that_is_deleted_meanwhile_ends_quietly(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with memory_broker() as broker:
        await filled(broker)
        broker.threads.hold("put_oldest_segment_away")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(broker.broker.retention.check)
            await settle()
            await broker.delete("orders")
            await settle()
            broker.threads.release("put_oldest_segment_away")
        assert "retention" not in caplog.text


async def test_partitions_at_rest_cost_a_few_hops_and_no_call_of_the_disk() -> None:
    async with memory_broker() as broker:
        await broker.create("orders", 300)
        before, hops = broker.files.calls.copy(), broker.threads.calls.copy()
        await broker.broker.retention.check()
        assert broker.files.calls == before
        assert (broker.threads.calls - hops).total() == 5
