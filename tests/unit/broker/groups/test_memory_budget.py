"""What hostile clients can make a coordinator keep is bounded, and what is there already goes on working."""

import trio
import trio.testing
from tests.support.group_calls import GroupCalls
from tests.support.memory_broker import memory_broker

from penstock.broker.groups.memory_budget import COUNT_INTERVAL_MS, MemoryBudget
from penstock.broker.groups.offset_table import OFFSET_BYTES, CommittedOffset, OffsetTable
from penstock.protocol.errors import ErrorCode
from penstock.protocol.message import Message

MIB = 1 << 20


def test_charges_only_add_up_until_everything_is_counted_anew_and_that_not_too_often() -> None:
    held, now, counts = 0, 1_000_000, 0

    def count() -> int:
        nonlocal counts
        counts += 1
        return held

    budget = MemoryBudget(100, count, lambda: now)
    assert all(budget.admit(10) for _ in range(10))
    assert counts == 0
    held = 30
    assert budget.admit(10)
    assert counts == 1
    held = 100
    assert [budget.admit(10) for _ in range(20)] == [True] * 6 + [False] * 14
    assert counts == 1, "a flood of refusals costs no counting"
    now += COUNT_INTERVAL_MS
    assert not budget.admit(10)
    held = 0
    assert not budget.admit(10)
    now += COUNT_INTERVAL_MS
    assert budget.admit(10)


async def test_made_up_members_are_refused_and_real_ones_go_on(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with memory_broker(group_memory_max_bytes=str(MIB)) as memory:
        groups = GroupCalls(memory)
        await memory.create("orders", 2)
        await groups.find()
        member_id, generation = await groups.become_member("real", session_timeout_ms=60_000)
        large = [Message(name="range", metadata=bytes(300_000))]
        codes = [(await groups.join(f"fake-{n}", protocols=large)).error_code for n in range(6)]
        assert codes[0] == ErrorCode.MEMBER_ID_REQUIRED
        assert codes[-1] == ErrorCode.MEMBER_ID_REQUIRED, "ids that were only given out take little"
        await trio.sleep(COUNT_INTERVAL_MS / 1000 + 1)
        kept: list[int] = []
        for n in range(6):
            first = await groups.join(f"more-{n}", protocols=large)
            kept.append((await groups.join(f"more-{n}", first.member_id, protocols=large)).error_code)
        assert kept[0] == 0
        assert kept[-1] == ErrorCode.GROUP_MAX_SIZE_REACHED
        assert await groups.heartbeat("real", member_id, generation) == 0
        assert (await groups.join("real", member_id)).error_code == 0


async def test_an_offset_that_is_replaced_needs_no_room() -> None:
    async with memory_broker(group_memory_max_bytes=str(MIB), offset_metadata_max_bytes="30000") as memory:
        groups = GroupCalls(memory)
        await memory.create("orders", 2)
        await groups.find()
        codes = [(await groups.commit(f"g{n}", {0: 1}, metadata="x" * 30_000))[0] for n in range(50)]
        assert codes[0] == 0
        assert codes[-1] == ErrorCode.COORDINATOR_NOT_AVAILABLE
        assert await groups.commit("g0", {0: 2}, metadata="x" * 30_000) == [0]
        assert await groups.committed("g0") == 2


def test_what_offsets_take_is_known_without_a_look_at_each() -> None:
    table = OffsetTable()
    table.put("t", 0, CommittedOffset(1, -1, "abc", 1))
    table.put("t", 1, CommittedOffset(1, -1, "", 1))
    table.put("t", 1, CommittedOffset(2, -1, "abcd", 1))
    table.put("t", 2, None)
    assert table.held_bytes == 2 * OFFSET_BYTES + 7
    assert [index for _, index, _ in table] == [0, 1]
    table.put("t", 0, None)
    table.put("t", 1, None)
    assert table.held_bytes == 0
    assert not table
