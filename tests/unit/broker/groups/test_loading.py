"""A shard made anew from its log: after a restart groups know what they knew, whatever else is in the log."""

import logging
from typing import Any

import pytest
import trio
import trio.testing
from tests.support.group_calls import SUBSCRIPTION, GroupCalls
from tests.support.leadership import OTHER, change_leader
from tests.support.memory_broker import MemoryBroker, memory_broker
from tests.support.memory_files import MemoryFiles
from tests.support.memory_metadata import MemoryMetadata

from penstock.broker.groups.offsets_topic import OFFSETS_TOPIC
from penstock.protocol.errors import ErrorCode
from penstock.protocol.group_records import encode_group_key, encode_offset_key, encode_offset_value
from penstock.runtime.files import DiskError, TooManyOpenFiles

SMALL_BUFFER: dict[str, Any] = {"offsets_load_buffer_size": "100", "offsets_topic_num_partitions": "1"}


async def loaded(memory: MemoryBroker) -> GroupCalls:
    """Calls to a broker whose groups have been loaded."""
    groups = GroupCalls(memory)
    await groups.find()
    assert not groups.coordinator.is_loading
    return groups


async def write(groups: GroupCalls, *records: tuple[bytes, bytes | None]) -> None:
    """Put records into the log behind the coordinator's back."""
    assert await groups.shard("g").write(records) == ErrorCode.NONE


async def test_after_a_restart_the_last_commit_of_each_partition_is_there_and_what_was_deleted_is_not() -> (
    None
):
    files, store = MemoryFiles(), MemoryMetadata()
    async with memory_broker(files=files, store=store, **SMALL_BUFFER) as memory:
        groups = await loaded(memory)
        await memory.create("orders", 3)
        for offset in range(30):
            await groups.commit("g", {0: offset, 1: offset * 2})
        await groups.commit("gone")
        assert await groups.delete("gone") == [0]
    async with memory_broker(files=files, store=store, **SMALL_BUFFER) as memory:
        groups = await loaded(memory)
        assert [await groups.committed(partition=index) for index in range(3)] == [29, 58, -1]
        assert await groups.states() == {"g": "Empty"}
        assert await groups.commit("g", {0: 5}) == [0]
        assert await groups.committed() == 5


async def test_members_that_were_there_go_on_after_a_restart(autojump_clock: trio.testing.MockClock) -> None:
    files, store = MemoryFiles(), MemoryMetadata()
    async with memory_broker(files=files, store=store) as memory:
        groups = await loaded(memory)
        await memory.create("orders")
        member_id, generation = await groups.become_member()
    async with memory_broker(files=files, store=store) as memory:
        groups = await loaded(memory)
        told = await groups.describe()
        assert (told.group_state, told.members[0].member_assignment) == ("Stable", b"mine")
        assert told.members[0].member_metadata == SUBSCRIPTION
        assert await groups.heartbeat("g", member_id, generation) == 0
        more: dict[str, Any] = {"member_id": member_id, "generation_id_or_member_epoch": generation}
        assert await groups.commit("g", {0: 3}, **more) == [0]
        await trio.sleep(11)
        assert await groups.states() == {"g": "Empty"}, "who is not heard of after the restart is taken out"


async def test_records_of_the_future_and_damaged_ones_are_left_out_with_a_line(
    caplog: pytest.LogCaptureFixture,
) -> None:
    files, store = MemoryFiles(), MemoryMetadata()
    async with memory_broker(files=files, store=store, **SMALL_BUFFER) as memory:
        groups = await loaded(memory)
        await memory.create("orders")
        await groups.commit("g", {0: 1})
        good = encode_offset_value(9, 0, "", 1)
        await write(groups, (b"\x00\x63newer", b"what"), (b"\x00\x63newer2", None))
        await write(groups, (encode_offset_key("g", "orders", 0), b"\x00\x01short"))
        await write(groups, (encode_group_key("g"), b"\x00\x09newer value"))
        await write(groups, (b"", good), (b"\x00\x01\x7f\xff", good))
        await groups.commit("h", {0: 2})
    with caplog.at_level(logging.WARNING):
        async with memory_broker(files=files, store=store, **SMALL_BUFFER) as memory:
            groups = await loaded(memory)
            assert await groups.committed("g") == 1, "the damaged record does not hide the one before it"
            assert await groups.committed("h") == 2
    text = caplog.text
    assert "2 records of unknown kind 99" in text
    assert f"{OFFSETS_TOPIC}-0: the record at offset 3 is damaged and left out" in text
    assert text.count("is damaged") == 4


async def test_a_topic_deleted_or_made_anew_while_nobody_looked_has_no_offsets() -> None:
    files, store = MemoryFiles(), MemoryMetadata()
    async with memory_broker(files=files, store=store, **SMALL_BUFFER) as memory:
        groups = await loaded(memory)
        await memory.create("orders")
        old = encode_offset_value(9, 0, "", 1, topic_id=b"o" * 16)
        await write(groups, (encode_offset_key("g", "orders", 0), old))
        unnamed = encode_offset_value(9, 0, "", 1)
        await write(groups, (encode_offset_key("h", "orders", 0), unnamed))
    async with memory_broker(files=files, store=store, **SMALL_BUFFER) as memory:
        groups = await loaded(memory)
        await trio.testing.wait_all_tasks_blocked()
        assert await groups.committed("g") == -1, "of another topic of that name"
        assert await groups.committed("h") == 9, "an older version did not say which topic: it is believed"


async def test_while_its_log_is_read_a_shard_says_so_and_answers_afterwards() -> None:
    files, store = MemoryFiles(), MemoryMetadata()
    async with memory_broker(files=files, store=store) as memory:
        groups = await loaded(memory)
        await memory.create("orders")
        await groups.commit()
    async with memory_broker(files=files, store=store) as memory:
        groups = GroupCalls(memory)
        assert groups.coordinator.is_loading
        assert await groups.commit() == [ErrorCode.COORDINATOR_LOAD_IN_PROGRESS]
        assert await groups.heartbeat("g", "me", 1) == 0, "as Kafka: members go on while groups are loaded"
        await groups.find()
        assert await groups.committed() == 7


async def test_a_log_that_could_not_be_read_for_want_of_descriptors_is_read_again_and_nothing_counts_twice(
    autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    files, store = MemoryFiles(), MemoryMetadata()
    async with memory_broker(files=files, store=store, **SMALL_BUFFER) as memory:
        groups = await loaded(memory)
        await memory.create("orders")
        await groups.commit("g")
        await groups.commit("h")
        member_id, generation = await groups.become_member()
        before = groups.coordinator.services.group_count
    async with memory_broker(files=files, store=store, **SMALL_BUFFER) as memory:
        groups = GroupCalls(memory)
        memory.threads.hold("_read")
        await trio.testing.wait_all_tasks_blocked()
        memory.threads.release_one("_read")
        await trio.testing.wait_all_tasks_blocked()
        memory.threads.fail_once("_read", TooManyOpenFiles("none left"))  # when some of it has been replayed
        memory.threads.release_all()
        await trio.testing.wait_all_tasks_blocked()
        assert await groups.commit() == [ErrorCode.COORDINATOR_NOT_AVAILABLE]
        assert groups.coordinator.services.group_count == 0
        await trio.sleep(1.1)
        assert [await groups.committed(group) for group in ("g", "h")] == [7, 7]
        assert await groups.heartbeat("g", member_id, generation) == 0
        assert groups.coordinator.services.group_count == before
        assert caplog.text.count("can't be loaded: none left") == 1


async def test_a_log_that_stays_unreadable_is_tried_ever_more_rarely_and_no_more_when_it_is_anothers(
    autojump_clock: trio.testing.MockClock,
) -> None:
    files, store = MemoryFiles(), MemoryMetadata()
    async with memory_broker(files=files, store=store, **SMALL_BUFFER) as memory:
        groups = await loaded(memory)
        await memory.create("orders")
        await groups.commit("g")
    async with memory_broker(files=files, store=store, **SMALL_BUFFER) as memory:
        memory.threads.hold("_read")
        for wait_s in (1, 2, 4, 8, 16, 30, 30):
            await trio.testing.wait_all_tasks_blocked()
            assert memory.threads.waiting("_read") == 1
            memory.threads.fail_once("_read", DiskError("broken"))
            memory.threads.release_one("_read")
            await trio.sleep(wait_s - 0.1)
            assert memory.threads.waiting("_read") == 0
            await trio.sleep(0.2)
        memory.threads.fail_once("_read", DiskError("broken"))
        memory.threads.release_one("_read")
        await change_leader(memory, OFFSETS_TOPIC, leader=OTHER)
        await trio.sleep(100)
        assert memory.threads.waiting("_read") == 0
        memory.threads.release_all()
