"""A bug that one group meets is that group's: neither the broker nor other groups end by it."""

from typing import Any

import pytest
import trio
import trio.testing
from tests.support.group_calls import GroupCalls
from tests.support.memory_broker import MemoryBroker, memory_broker
from tests.support.memory_files import MemoryFiles
from tests.support.memory_metadata import MemoryMetadata

from penstock.broker.groups.classic_events import GroupClosed
from penstock.broker.groups.classic_group import ClassicGroup
from penstock.broker.groups.consumer_group import ConsumerGroup
from penstock.broker.groups.consumer_group_events import TopicsChanged
from penstock.broker.groups.expiry import Expiry
from penstock.broker.groups.loading import Replay, load
from penstock.broker.groups.offset_table import CommittedOffset
from penstock.broker.groups.shard import GroupShard
from penstock.protocol.api import ApiKey
from penstock.protocol.errors import ErrorCode
from penstock.protocol.group_records import encode_offset_key


def break_down(monkeypatch: pytest.MonkeyPatch, kind: type[Any], event_kind: type[Any]) -> None:
    """Let the groups "bad" of a kind meet a bug with such an event."""
    known = kind.step

    def step(self: Any, event: Any, now_ms: int) -> tuple[Any, ...]:
        if isinstance(event, event_kind) and self.group_id.startswith("bad"):
            raise ZeroDivisionError
        actions: tuple[Any, ...] = known(self, event, now_ms)
        return actions

    monkeypatch.setattr(kind, "step", step)


async def join_consumer_group(groups: GroupCalls, group: str) -> None:
    """Become its member."""
    answer = await groups.call(
        ApiKey.CONSUMER_GROUP_HEARTBEAT,
        1,
        group_id=group,
        member_id="a",
        member_epoch=0,
        rebalance_timeout_ms=60_000,
        subscribed_topic_names=["orders"],
        topic_partitions=[],
    )
    assert answer.error_code == ErrorCode.NONE


async def test_a_group_that_meets_a_bug_when_topics_change_stops_nothing(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async with memory_broker() as memory:
        groups = GroupCalls(memory)
        await memory.create("orders")
        await groups.find()
        for group in ("bad", "good"):
            await join_consumer_group(groups, group)
        break_down(monkeypatch, ConsumerGroup, TopicsChanged)
        await memory.create("other")
        await trio.testing.wait_all_tasks_blocked()
        assert await groups.commit("simple") == [0]
        assert "'bad'" in caplog.text


async def test_a_group_that_meets_a_bug_when_the_broker_stops_keeps_no_other_from_being_answered(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with memory_broker(
        group_initial_rebalance_delay_ms="3600000"
    ) as memory:  # all are joining when it stops
        groups = GroupCalls(memory)
        await groups.find()
        answers: dict[str, int] = {}

        async def join(group: str) -> None:
            first = await groups.join(group)
            answers[group] = (await groups.join(group, first.member_id)).error_code

        break_down(monkeypatch, ClassicGroup, GroupClosed)
        async with trio.open_nursery() as nursery:
            for number in range(20):
                nursery.start_soon(join, f"bad{number}")
                nursery.start_soon(join, f"good{number}")
            await trio.testing.wait_all_tasks_blocked()
            groups.coordinator.close()
            await trio.testing.wait_all_tasks_blocked()
            nursery.cancel_scope.cancel()
        assert {group: code for group, code in answers.items() if group.startswith("good")} == {
            f"good{number}": ErrorCode.NOT_COORDINATOR for number in range(20)
        }


async def test_a_deleted_topic_whose_offsets_meet_a_bug_stops_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with memory_broker() as memory:
        groups = GroupCalls(memory)
        await memory.create("orders")
        await memory.create("other")
        await groups.find()
        await groups.commit()
        known = GroupShard.put_offsets

        def put_offsets(self: GroupShard, group: Any, offsets: Any, done: Any) -> None:
            monkeypatch.setattr(GroupShard, "put_offsets", known)
            raise ZeroDivisionError

        monkeypatch.setattr(GroupShard, "put_offsets", put_offsets)
        await memory.delete("other")
        await memory.delete("orders")
        await trio.testing.wait_all_tasks_blocked()
        await memory.create("orders")
        assert await groups.commit() == [0]


async def test_a_load_that_ends_in_a_bug_ends_no_broker(monkeypatch: pytest.MonkeyPatch) -> None:
    files, store = MemoryFiles(), MemoryMetadata()
    async with memory_broker(files=files, store=store) as memory:
        groups = GroupCalls(memory)
        await memory.create("orders")
        await groups.find()
        await groups.commit()

    def forget_gone_topics(self: Expiry, shard: GroupShard) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(Expiry, "forget_gone_topics", forget_gone_topics)
    async with memory_broker(files=files, store=store) as memory:
        groups = GroupCalls(memory)
        await groups.find()
        assert await groups.committed() == 7


class ClosingThreads:
    """Threads during whose read leadership goes."""

    def __init__(self, memory: MemoryBroker, shard: GroupShard, *, after_reading: bool) -> None:
        self._memory = memory
        self._shard = shard
        self._after_reading = after_reading

    async def run(self, function: Any, *arguments: Any) -> Any:
        """Run it, and lose the shard."""
        result = await self._memory.broker.threads.run(function, *arguments)
        if self._after_reading:
            self._shard.close()
        return result


@pytest.mark.parametrize("after_reading", [True, False])
async def test_a_load_that_is_given_up_leaves_nothing_behind(
    *, after_reading: bool, autojump_clock: trio.testing.MockClock
) -> None:
    async with memory_broker() as memory:
        groups = GroupCalls(memory)
        await memory.create("orders")
        await groups.find()
        await groups.become_member()
        coordinator = groups.coordinator
        count = coordinator.services.group_count
        again = GroupShard(groups.shard("g").partition, coordinator.services)
        replay = Replay(again, coordinator.classic, coordinator.consumer)
        threads: Any = ClosingThreads(memory, again, after_reading=after_reading)
        if not after_reading:
            damage = replay.finish

            async def finish() -> None:
                again.close()
                await damage()

            replay.finish = finish  # type: ignore[method-assign]
        await load(again, replay, threads, 1 << 20)
        assert not again.is_loaded
        assert coordinator.services.group_count == count
        assert not coordinator.classic._replayed  # pyright: ignore[reportPrivateUsage]


async def test_many_groups_come_to_life_in_short_turns(autojump_clock: trio.testing.MockClock) -> None:
    files, store = MemoryFiles(), MemoryMetadata()
    async with memory_broker(files=files, store=store, offsets_topic_num_partitions="1") as memory:
        groups = GroupCalls(memory)
        await memory.create("orders")
        await groups.find()
        for number in range(100):
            await groups.commit(f"g{number}")
        coordinator = groups.coordinator
        again = GroupShard(groups.shard("g").partition, coordinator.services)
        replay = Replay(again, coordinator.classic, coordinator.consumer)
        for number in range(100):
            value = CommittedOffset(1, -1, "", 1).encode()
            replay.apply(number, encode_offset_key(f"g{number}", "orders", 0), value)
        turns = 0

        async def count_turns() -> None:
            nonlocal turns
            while True:
                turns += 1
                await trio.lowlevel.checkpoint()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(count_turns)
            await replay.finish()
            nursery.cancel_scope.cancel()
        assert turns >= 4
        again.close()
