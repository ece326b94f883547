"""What a shard writes, and what it makes of writes that fail."""

import pytest
import trio
import trio.testing
from tests.support.group_calls import GroupCalls
from tests.support.memory_broker import memory_broker
from tests.support.memory_files import MemoryFiles
from tests.support.memory_metadata import MemoryMetadata

from penstock.broker.errors import ApiError
from penstock.broker.groups.deadlines import Deadlines
from penstock.broker.groups.loading import Replay, load
from penstock.broker.groups.offset_table import CommittedOffset
from penstock.broker.groups.shard import GroupShard
from penstock.broker.partition import Partition
from penstock.protocol.errors import ErrorCode
from penstock.protocol.group_records import encode_offset_key
from penstock.protocol.record_batch import iterate_batches


def batch_counts(partition: Partition) -> list[int]:
    """Records in each batch of a log."""
    end = partition.log.log_end_offset
    with partition.log.read(0, 1 << 20, end, resident_only=False) as found:
        return [header.record_count for header, _ in iterate_batches(found.read())]


def record(number: int, size: int) -> tuple[bytes, bytes]:
    """A commit for a partition of its own."""
    value = CommittedOffset(number, -1, "x" * size, 1).encode()
    return encode_offset_key("g", "orders", number), value


async def test_what_could_not_be_written_is_not_seen() -> None:
    async with memory_broker() as memory:
        groups = GroupCalls(memory)
        await memory.create("orders")
        await groups.find()
        assert await groups.commit("g", {0: 1}) == [0]
        room, memory.files.capacity_bytes = memory.files.capacity_bytes, 0
        assert await groups.commit("g", {0: 2}) == [ErrorCode.NOT_COORDINATOR]
        assert await groups.committed() == 1
        memory.files.capacity_bytes = room
        assert await groups.commit("g", {0: 3}) == [0]
        assert await groups.committed() == 3
        assert not groups.shard("g").groups["g"].pending_offsets


async def test_records_of_one_call_stay_in_one_batch_where_they_fit() -> None:
    async with memory_broker(message_max_bytes="2000") as memory:
        groups = GroupCalls(memory)
        await groups.find()
        shard = groups.shard("g")
        codes: list[ErrorCode] = []
        for _ in range(3):
            shard.append([record(number, 50) for number in range(9)], codes.append)
        await trio.testing.wait_all_tasks_blocked()
        assert codes == [ErrorCode.NONE] * 3
        assert batch_counts(shard.partition) == [9, 9, 9]


async def test_a_call_that_fits_in_no_batch_takes_several() -> None:
    async with memory_broker(message_max_bytes="2000") as memory:
        groups = GroupCalls(memory)
        await groups.find()
        shard = groups.shard("g")
        assert await shard.write([record(number, 100) for number in range(40)]) == ErrorCode.NONE
        counts = batch_counts(shard.partition)
        assert sum(counts) == 40
        assert len(counts) > 1


async def test_what_is_not_committed_yet_is_not_loaded_yet() -> None:
    async with memory_broker() as memory:
        groups = GroupCalls(memory)
        await memory.create("orders")
        await groups.find()
        await groups.commit("g", {0: 1})
        memory.threads.hold("sync")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(groups.commit, "g", {0: 2})
            await trio.testing.wait_all_tasks_blocked()
            partition = groups.shard("g").partition
            assert partition.high_watermark < partition.log.log_end_offset
            again = GroupShard(partition, groups.coordinator.services)
            replay = Replay(again, groups.coordinator.classic, None)
            nursery.start_soon(load, again, replay, memory.broker.threads, 1 << 20)
            await trio.testing.wait_all_tasks_blocked()
            assert not again.is_loaded
            memory.threads.release_all()
        assert again.is_loaded
        committed = again.groups["g"].offsets.get("orders", 0)
        assert committed is not None
        assert committed.offset == 2
        again.close()


async def test_records_before_the_log_start_are_not_loaded_though_they_share_a_batch() -> None:
    files, store = MemoryFiles(), MemoryMetadata()
    async with memory_broker(files=files, store=store) as memory:
        groups = GroupCalls(memory)
        await memory.create("orders", 3)
        await groups.find()
        await groups.commit("g", {0: 10, 1: 11, 2: 12})
        groups.shard("g").partition.log.advance_log_start_offset(2)
        await memory.broker.partitions.move_log_starts({})
    async with memory_broker(files=files, store=store) as memory:
        groups = GroupCalls(memory)
        await groups.find()
        assert [await groups.committed(partition=index) for index in range(3)] == [-1, -1, 12]


async def test_a_deleted_group_that_had_members_comes_back_empty_after_a_restart(
    autojump_clock: trio.testing.MockClock,
) -> None:
    files, store = MemoryFiles(), MemoryMetadata()
    async with memory_broker(files=files, store=store) as memory:
        groups = GroupCalls(memory)
        await groups.find()
        member_id, _ = await groups.become_member()
        await groups.leave("g", member_id)
        assert await groups.delete("g") == [0]
    async with memory_broker(files=files, store=store) as memory:
        groups = GroupCalls(memory)
        await groups.find()
        assert await groups.states() == {}


async def test_a_members_commit_is_as_good_as_a_heartbeat(autojump_clock: trio.testing.MockClock) -> None:
    async with memory_broker() as memory:
        groups = GroupCalls(memory)
        await memory.create("orders")
        await groups.find()
        member_id, generation = await groups.become_member()
        for offset in range(4):
            await trio.sleep(8)
            code = await groups.commit(
                "g", {0: offset}, member_id=member_id, generation_id_or_member_epoch=generation
            )
            assert code == [0]


async def test_a_shard_whose_leadership_has_gone_answers_nothing() -> None:
    async with memory_broker() as memory:
        groups = GroupCalls(memory)
        await memory.create("orders")
        await groups.find()
        await groups.commit()
        shard = groups.shard("g")
        await shard.partition.quiesce()
        with pytest.raises(ApiError) as refusal:
            groups.shard("g")
        assert refusal.value.code == ErrorCode.NOT_COORDINATOR
        assert await shard.write([record(1, 1)]) == ErrorCode.NOT_COORDINATOR


class Thing:
    """Something with a deadline."""

    def __init__(self, deadline_ms: int | None) -> None:
        self.deadline_ms = deadline_ms
        self.scheduled_ms: int | None = None


def test_deadlines_that_move_are_met_once_and_in_order() -> None:
    earlier: list[int | None] = []
    deadlines: Deadlines[Thing] = Deadlines(lambda: earlier.append(deadlines.next_ms))
    first, second, never = Thing(100), Thing(50), Thing(None)
    for each in (first, second, never):
        deadlines.note(each)
    assert earlier == [100, 50]
    second.deadline_ms = 200
    deadlines.note(second)
    assert earlier == [100, 50], "later costs nothing"
    first.deadline_ms = 70
    deadlines.note(first)
    assert list(deadlines.due(60)) == []
    assert list(deadlines.due(150)) == [first]
    first.deadline_ms = None
    deadlines.note(first)
    assert list(deadlines.due(1000)) == [second]
    second.deadline_ms = None
    assert list(deadlines.due(5000)) == []
    assert deadlines.next_ms is None
