"""What the broker's log tells of groups: rebalances and members that are put out, and nothing of what is everyday."""

import logging

import pytest
import trio
import trio.testing
from tests.support.consumer_group_members import FakeTopics, GroupBench
from tests.support.group_calls import GroupCalls
from tests.support.memory_broker import memory_broker
from tests.support.memory_files import MemoryFiles
from tests.support.memory_metadata import MemoryMetadata

from penstock.broker.groups.consumer_group_events import ConsumerHeartbeat, ConsumerHeartbeatReply


def told(caplog: pytest.LogCaptureFixture) -> list[str]:
    """The lines of the package, at INFO and above, since the last look."""
    lines = [
        record.getMessage()
        for record in caplog.records
        if record.levelno >= logging.INFO and record.name.startswith("penstock.broker.groups")
    ]
    caplog.clear()
    return lines


async def test_a_rebalance_is_one_line_and_everyday_requests_are_none(
    caplog: pytest.LogCaptureFixture, autojump_clock: trio.testing.MockClock
) -> None:
    caplog.set_level(logging.DEBUG)
    async with memory_broker() as memory:
        groups = GroupCalls(memory)
        await groups.find()
        await memory.create("orders")
        member_id, generation = await groups.become_member()
        assert told(caplog) == ["group 'g': generation 1: 1 member, 'range'"]
        for _ in range(3):
            await groups.heartbeat("g", member_id, generation)
            await groups.commit("other", {0: 1})
        assert told(caplog) == []
        await groups.leave("g", member_id)
        assert told(caplog) == ["group 'g': generation 2: no members"]


async def test_a_member_that_falls_silent_is_told_with_its_client(
    caplog: pytest.LogCaptureFixture, autojump_clock: trio.testing.MockClock
) -> None:
    caplog.set_level(logging.INFO)
    async with memory_broker() as memory:
        groups = GroupCalls(memory)
        await groups.find()
        member_id, _ = await groups.become_member()
        told(caplog)
        await trio.sleep(120)
        (put_out, empty) = told(caplog)
    assert put_out.startswith(f"group 'g': member {member_id!r} (client ")
    assert " is out: nothing was heard of it for " in put_out
    assert empty == "group 'g': generation 2: no members"


async def test_after_a_restart_all_groups_are_one_line(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    files, store = MemoryFiles(), MemoryMetadata()
    async with memory_broker(files=files, store=store) as memory:
        groups = GroupCalls(memory)
        await memory.create("orders")
        await groups.find()
        for name in "abcdef":
            await groups.commit(name)
    told(caplog)
    async with memory_broker(files=files, store=store) as memory:
        await GroupCalls(memory).find()
        while memory.broker.groups.is_loading:
            await trio.testing.wait_all_tasks_blocked()
        assert told(caplog) == ["groups loaded: 6"]


def beat(bench: GroupBench, epoch: int) -> ConsumerHeartbeatReply:
    """A heartbeat of the member "a" of billing."""
    token = bench.token()
    bench.step(
        ConsumerHeartbeat(
            token=token,
            member_id="a",
            member_epoch=epoch,
            client_id="billing",
            rebalance_timeout_ms=60_000,
            topic_names=("t",),
            owned={},
        )
    )
    reply = bench.replies[token]
    assert isinstance(reply, ConsumerHeartbeatReply)
    return reply


def test_each_epoch_is_told_once_and_a_silent_member_with_its_client() -> None:
    bench = GroupBench(FakeTopics(t=4))
    assert beat(bench, 0).error_code == 0
    assert bench.group.news == ["epoch 1: 1 member"]
    assert beat(bench, 1).error_code == 0
    assert bench.group.news == []
    bench.lands_at_once = False
    bench.pass_time(bench.limits.session_timeout_ms)
    assert bench.group.news == [
        f"member 'a' (client 'billing', ) is out: nothing was heard of it for {bench.limits.session_timeout_ms} ms"
    ]
    bench.land()
    assert bench.group.news == ["epoch 2: no members"]
