"""Groups follow the leadership of their partition: nobody waits for a coordinator that is none, and nothing is answered that a failover could take back."""

from typing import Any

import pytest
import trio
import trio.testing
from tests.support.group_calls import GroupCalls
from tests.support.leadership import OTHER, change_leader
from tests.support.memory_broker import MemoryBroker, memory_broker

from penstock.broker.groups.offset_table import CommittedOffset
from penstock.broker.groups.offsets_topic import OFFSETS_TOPIC
from penstock.protocol.api import ApiKey
from penstock.protocol.errors import ErrorCode
from penstock.protocol.group_records import encode_offset_key

ME = 1
ONE_PARTITION: dict[str, Any] = {"offsets_topic_num_partitions": "1"}


async def coordinate(memory: MemoryBroker) -> GroupCalls:
    """Calls to a broker that coordinates, with a topic "orders"."""
    groups = GroupCalls(memory)
    await memory.create("orders", 3)
    await groups.find()
    return groups


async def move_away(memory: MemoryBroker, **more: Any) -> None:
    """Let another broker lead the groups' partition."""
    await change_leader(memory, OFFSETS_TOPIC, leader=OTHER, **more)


async def come_back(memory: MemoryBroker, **more: Any) -> None:
    """Let this broker lead it (again)."""
    await change_leader(memory, OFFSETS_TOPIC, leader=ME, **more)


async def join(groups: GroupCalls, codes: list[int]) -> None:
    """Join, as clients do in two steps, and note the code of the answer."""
    first = await groups.join()
    codes.append((await groups.join(member_id=first.member_id)).error_code)


async def test_waiting_joins_are_answered_at_once_though_logs_are_being_opened(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with memory_broker(group_initial_rebalance_delay_ms="3600000", **ONE_PARTITION) as memory:
        groups = await coordinate(memory)
        codes: list[int] = []
        async with trio.open_nursery() as nursery:
            for _ in range(3):
                nursery.start_soon(join, groups, codes)
            await trio.testing.wait_all_tasks_blocked()
            memory.threads.hold("open_each")
            nursery.start_soon(memory.create, "slow")
            await trio.testing.wait_all_tasks_blocked()
            assert memory.threads.waiting("open_each")
            partition = memory.partition(OFFSETS_TOPIC)
            nursery.start_soon(partition.quiesce)  # as a failed log does, beside the manager's queue
            await trio.testing.wait_all_tasks_blocked()
            assert codes == [ErrorCode.NOT_COORDINATOR] * 3
            memory.threads.release_all()


async def test_a_deposed_coordinator_answers_nothing_and_sends_clients_away() -> None:
    async with memory_broker(**ONE_PARTITION) as memory:
        groups = await coordinate(memory)
        member_id, generation = await groups.become_member()
        await move_away(memory)
        assert await groups.heartbeat("g", member_id, generation) == ErrorCode.NOT_COORDINATOR
        assert await groups.commit() == [ErrorCode.NOT_COORDINATOR]
        assert groups.coordinator.services.group_count == 0, "nothing of them is kept"
        assert not memory.partition(OFFSETS_TOPIC).fetch_waiters


async def test_a_commit_under_way_when_leadership_goes_is_refused_and_the_log_decides(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with memory_broker(**ONE_PARTITION) as memory:
        groups = await coordinate(memory)
        await groups.commit("g", {0: 1})
        memory.threads.hold("sync")
        codes: list[list[int]] = []

        async def commit() -> None:
            codes.append(await groups.commit("g", {0: 2}))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(commit)
            await trio.testing.wait_all_tasks_blocked()
            await move_away(memory)
            await trio.testing.wait_all_tasks_blocked()
            assert codes == [[ErrorCode.NOT_COORDINATOR]]
            memory.threads.release_all()
        await come_back(memory)
        await groups.find()
        assert await groups.committed() == 2, "it was in the log, and nobody has cut it off"


async def test_a_commit_that_is_queued_when_the_epoch_changes_is_not_written_behind_what_was_loaded(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with memory_broker(**ONE_PARTITION) as memory:
        groups = await coordinate(memory)
        await groups.commit("g", {0: 1})
        await come_back(memory)
        await groups.find()
        memory.threads.hold("prepare_append")  # the first append of an epoch queues in the lane
        codes: list[list[int]] = []

        async def commit() -> None:
            codes.append(await groups.commit("g", {0: 2}))

        async with trio.open_nursery() as nursery:
            for _ in range(2):
                nursery.start_soon(commit)
                await trio.testing.wait_all_tasks_blocked()
            await come_back(memory)
            await trio.testing.wait_all_tasks_blocked()
            assert groups.coordinator.is_loading, "until the append that was begun has ended"
            memory.threads.release_all()
        assert codes == [[ErrorCode.NOT_COORDINATOR]] * 2
        await groups.find()
        assert await groups.committed() == 1
        assert memory.partition(OFFSETS_TOPIC).log.log_end_offset == 1


async def test_the_same_leader_in_a_new_epoch_reads_its_groups_anew_and_gives_members_a_fresh_session(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with memory_broker(**ONE_PARTITION) as memory:
        groups = await coordinate(memory)
        member_id, generation = await groups.become_member()
        await groups.commit("g", {0: 5}, member_id=member_id, generation_id_or_member_epoch=generation)
        before = groups.shard("g")
        await trio.sleep(8)  # of a session of ten seconds
        await come_back(memory)
        await groups.find()
        assert groups.shard("g") is not before
        assert before.is_closed
        late = (encode_offset_key("g", "orders", 0), CommittedOffset(9, -1, "", 1).encode())
        assert await before.write([late]) == ErrorCode.NOT_COORDINATOR, (
            "in the log it would be behind the load"
        )
        assert await groups.committed() == 5
        await trio.sleep(8)
        assert await groups.heartbeat("g", member_id, generation) == 0, "heard of 16 s ago, but by another"
        await trio.sleep(11)
        assert await groups.heartbeat("g", member_id, generation) == ErrorCode.UNKNOWN_MEMBER_ID


async def test_a_waiting_join_is_answered_when_the_same_leader_goes_on_in_a_new_epoch(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with memory_broker(group_initial_rebalance_delay_ms="3600000", **ONE_PARTITION) as memory:
        groups = await coordinate(memory)
        codes: list[int] = []
        async with trio.open_nursery() as nursery:
            nursery.start_soon(join, groups, codes)
            await trio.testing.wait_all_tasks_blocked()
            await come_back(memory)
            await trio.testing.wait_all_tasks_blocked()
            assert codes == [ErrorCode.NOT_COORDINATOR]


async def test_a_new_coordinator_answers_no_offset_that_is_not_committed_on_the_others() -> None:
    async with memory_broker(offsets_topic_num_partitions="4") as memory:
        groups = await coordinate(memory)
        names = ["g", "h", "i", "j"]
        for name in names:
            await groups.commit(name, {0: 7})
        coordinator = groups.coordinator
        indexes = {name: coordinator.shard(name).partition.index for name in names}
        assert sorted(indexes.values()) == [0, 1, 2, 3]
        for index in range(3):  # as many as are loaded at once, and one more
            partition = memory.partition(OFFSETS_TOPIC, index)
            await change_leader(memory, OFFSETS_TOPIC, index, leader=OTHER)
            partition.machine.high_watermark = partition.high_watermark = 0  # a follower that knew of none
            await change_leader(memory, OFFSETS_TOPIC, index, leader=ME, isr=(ME, OTHER))
        await trio.testing.wait_all_tasks_blocked()
        for name, index in indexes.items():
            if index < 3:
                assert await groups.commit(name) == [ErrorCode.COORDINATOR_LOAD_IN_PROGRESS]
        await come_back(memory, index=3)
        last = next(name for name, index in indexes.items() if index == 3)
        await groups.find(last)
        assert await groups.committed(last) == 7, "what waits for followers is in nobody's way"
        for index in range(3):
            await come_back(memory, index=index, raises_epoch=False)  # the other has left the ISR
        await trio.testing.wait_all_tasks_blocked()
        assert [await groups.committed(name) for name in names] == [7, 7, 7, 7]


async def test_a_load_whose_epoch_has_passed_ends_though_nothing_is_committed_any_more() -> None:
    async with memory_broker(**ONE_PARTITION) as memory:
        groups = await coordinate(memory)
        await groups.commit("g", {0: 7})
        partition = memory.partition(OFFSETS_TOPIC)
        await move_away(memory)
        partition.machine.high_watermark = partition.high_watermark = 0
        await trio.testing.wait_all_tasks_blocked()
        task_count = trio.lowlevel.current_statistics().tasks_living
        for _ in range(5):
            await come_back(memory, isr=(ME, OTHER))
            await trio.testing.wait_all_tasks_blocked()
        assert len(partition.fetch_waiters) == 1, "the last shard's; those before listen no more"
        assert trio.lowlevel.current_statistics().tasks_living == task_count + 1
        await come_back(memory)
        await groups.find()
        assert await groups.committed() == 7


@pytest.mark.parametrize("version", [3, 5])
async def test_any_broker_names_the_coordinator_and_none_where_it_is_not_registered(version: int) -> None:
    async with memory_broker(**ONE_PARTITION) as memory:
        groups = await coordinate(memory)

        async def find() -> tuple[int, int]:
            answer = await groups.call(ApiKey.FIND_COORDINATOR, version, key="g", coordinator_keys=["g"])
            found = answer.coordinators[0] if version > 3 else answer
            return found.error_code, found.node_id

        assert await find() == (0, ME)
        await move_away(memory)
        assert await find() == (ErrorCode.COORDINATOR_NOT_AVAILABLE, -1)
