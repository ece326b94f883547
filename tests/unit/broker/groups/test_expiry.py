"""Offsets go when their time is over, and not before."""

from typing import Any

import pytest
import trio
import trio.testing
from tests.support.group_calls import GroupCalls
from tests.support.memory_broker import memory_broker

from penstock.broker.groups.classic_group import ClassicGroup
from penstock.broker.groups.expiry import Expiry
from penstock.broker.groups.group import Group
from penstock.broker.groups.shard import GroupShard
from penstock.protocol.api import ApiKey

MINUTE_S = 60
CONFIG: dict[str, Any] = {"offsets_retention_minutes": "10", "offsets_retention_check_interval_ms": "60000"}


async def test_offsets_of_simple_consumers_go_after_their_last_commit(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with memory_broker(**CONFIG) as memory:
        groups = GroupCalls(memory)
        await memory.create("orders", 2)
        await groups.find()
        await groups.commit("g", {0: 1, 1: 1})
        await trio.sleep(8 * MINUTE_S)
        await groups.commit("g", {1: 2})
        await trio.sleep(4 * MINUTE_S)
        assert [await groups.committed(partition=index) for index in (0, 1)] == [-1, 2]
        await trio.sleep(8 * MINUTE_S)
        assert await groups.states() == {}, "a group with nothing left goes as well"


async def test_offsets_of_a_group_with_members_stay_and_count_from_when_it_became_empty(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with memory_broker(**CONFIG) as memory:
        groups = GroupCalls(memory)
        await memory.create("orders")
        await memory.create("other")
        await groups.find()
        await groups.commit("g", topic="other")
        member_id, generation = await groups.become_member("g", session_timeout_ms=1_800_000)
        more: dict[str, Any] = {"member_id": member_id, "generation_id_or_member_epoch": generation}
        await groups.commit("g", {0: 5}, **more)
        await trio.sleep(15 * MINUTE_S)
        assert await groups.committed() == 5, "its members are subscribed"
        assert await groups.committed(topic="other") == -1, "nobody is subscribed to that one"
        await groups.leave("g", member_id)
        await trio.sleep(8 * MINUTE_S)
        assert await groups.committed() == 5
        await trio.sleep(4 * MINUTE_S)
        assert await groups.committed() == -1
        assert await groups.states() == {}


async def test_a_retention_time_that_an_old_client_asks_for_holds_for_its_offset(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with memory_broker(**CONFIG) as memory:
        groups = GroupCalls(memory)
        await memory.create("orders", 2)
        await groups.find()
        await groups.commit("g", {0: 1}, version=4, retention_time_ms=3 * MINUTE_S * 1000)
        await groups.commit("g", {1: 1}, version=4, retention_time_ms=30 * MINUTE_S * 1000)
        await trio.sleep(5 * MINUTE_S)
        assert [await groups.committed(partition=index) for index in (0, 1)] == [-1, 1]
        await trio.sleep(15 * MINUTE_S)
        assert await groups.committed(partition=1) == 1


async def test_a_group_that_somebody_only_asked_to_join_is_forgotten(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with memory_broker(**CONFIG) as memory:
        groups = GroupCalls(memory)
        await groups.find()
        first = await groups.join()
        assert first.member_id
        await trio.sleep(0.5 * MINUTE_S)
        assert await groups.states() == {"g": "Empty"}
        await trio.sleep(2 * MINUTE_S)
        assert await groups.states() == {}


async def test_offsets_of_a_live_group_that_is_no_consumers_stay(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with memory_broker(**CONFIG) as memory:
        groups = GroupCalls(memory)
        await memory.create("orders")
        await groups.find()
        await groups.commit("g")
        first = await groups.join("g", protocol_type="connect", session_timeout_ms=1_800_000)
        joined = await groups.join(
            "g", first.member_id, protocol_type="connect", session_timeout_ms=1_800_000
        )
        await groups.call(
            ApiKey.SYNC_GROUP,
            group_id="g",
            generation_id=joined.generation_id,
            member_id=joined.member_id,
            assignments=[],
        )
        await trio.sleep(25 * MINUTE_S)
        assert await groups.committed() == 7, "what such members use nobody here can tell"


async def test_nothing_expires_while_members_join_anew(autojump_clock: trio.testing.MockClock) -> None:
    async with memory_broker(**CONFIG) as memory:
        groups = GroupCalls(memory)
        await memory.create("orders")
        await memory.create("other")
        await groups.find()
        await groups.commit("g", topic="other")
        long: dict[str, Any] = {"session_timeout_ms": 1_800_000, "rebalance_timeout_ms": 1_800_000}
        first = await groups.join("g", **long)
        joined = await groups.join("g", first.member_id, **long)
        assert joined.error_code == 0
        await trio.sleep(25 * MINUTE_S)
        assert await groups.states() == {"g": "CompletingRebalance"}
        assert await groups.committed(topic="other") == 7, "they may be about to subscribe to it"


async def test_each_topic_is_looked_up_in_the_subscriptions_once_however_many_partitions_it_has(
    autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with memory_broker(**CONFIG) as memory:
        groups = GroupCalls(memory)
        await memory.create("orders", 50)
        await groups.find()
        await groups.commit("g", dict.fromkeys(range(50), 1))
        await groups.become_member("g", session_timeout_ms=1_800_000)
        asked: list[str] = []
        known = ClassicGroup.is_subscribed_to

        def is_subscribed_to(machine: ClassicGroup, topic: str) -> bool:
            asked.append(topic)
            return known(machine, topic)

        monkeypatch.setattr(ClassicGroup, "is_subscribed_to", is_subscribed_to)
        await trio.sleep(1.5 * MINUTE_S)
        assert asked == ["orders"]


async def test_a_group_whose_expiry_meets_a_bug_stops_neither_the_broker_nor_other_groups(
    autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async with memory_broker(**CONFIG) as memory:
        groups = GroupCalls(memory)
        await memory.create("orders")
        await groups.find()
        for group in ("bad", "good"):
            await groups.commit(group)
        known = Expiry.expire

        def expire(self: Expiry, shard: GroupShard, group: Group) -> None:
            if group.group_id == "bad":
                raise ZeroDivisionError
            known(self, shard, group)

        monkeypatch.setattr(Expiry, "expire", expire)
        await trio.sleep(15 * MINUTE_S)
        assert await groups.states() == {"bad": "Empty"}
        assert "'bad'" in caplog.text
        assert await groups.commit("good") == [0]
