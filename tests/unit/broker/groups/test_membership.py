"""Classic members through the handlers of a whole broker in memory, and what happens when the broker or a connection goes."""

from typing import Any

import pytest
import trio
import trio.testing
from tests.support.group_calls import SUBSCRIPTION, GroupCalls
from tests.support.memory_broker import MemoryBroker, memory_broker

from penstock.broker.api import join_group
from penstock.broker.context import ANONYMOUS, RequestContext
from penstock.broker.pending_response import PendingResponse
from penstock.protocol.api import ApiKey
from penstock.protocol.codec import decode_request, encode_request
from penstock.protocol.errors import ErrorCode
from penstock.protocol.message import Message

JOIN_KEY = int(ApiKey.JOIN_GROUP)


async def begin_join(memory: MemoryBroker, member_id: str = "", *, version: int = 3) -> PendingResponse:
    """A join that is still waiting (before version 4 there is no id to fetch first)."""
    request = Message(
        group_id="g",
        member_id=member_id,
        session_timeout_ms=10_000,
        rebalance_timeout_ms=10_000,
        protocol_type="consumer",
        protocols=[Message(name="range", metadata=SUBSCRIPTION)],
    )
    decoded = decode_request(JOIN_KEY, version, encode_request(JOIN_KEY, version, request))
    context = RequestContext(JOIN_KEY, version, 1, "me", ANONYMOUS, "127.0.0.1:5", "PLAINTEXT")
    pending = await join_group.handle(memory.broker, context, decoded)
    assert isinstance(pending, PendingResponse)
    return pending


async def test_a_member_joins_syncs_commits_and_leaves(autojump_clock: trio.testing.MockClock) -> None:
    async with memory_broker() as memory:
        groups = GroupCalls(memory)
        await memory.create("orders")
        await groups.find()
        member_id, generation = await groups.become_member()
        assert member_id.startswith("test-")
        assert await groups.heartbeat("g", member_id, generation) == 0
        more: dict[str, Any] = {"member_id": member_id, "generation_id_or_member_epoch": generation}
        assert await groups.commit("g", {0: 3}, **more) == [0]
        assert await groups.commit("g", {0: 4}) == [ErrorCode.UNKNOWN_MEMBER_ID], (
            "no member, but there are some"
        )
        stale: dict[str, Any] = {**more, "generation_id_or_member_epoch": generation + 1}
        assert await groups.commit("g", {0: 4}, **stale) == [ErrorCode.ILLEGAL_GENERATION]
        told = await groups.describe()
        assert (told.group_state, told.protocol_type, told.protocol_data) == ("Stable", "consumer", "range")
        (member,) = told.members
        assert (member.client_id, member.client_host) == ("test", "/127.0.0.1")
        assert (member.member_metadata, member.member_assignment) == (SUBSCRIPTION, b"mine")
        assert await groups.delete("g") == [ErrorCode.NON_EMPTY_GROUP]
        assert (await groups.leave("g", member_id)).members[0].error_code == 0
        assert await groups.states() == {"g": "Empty"}
        assert await groups.committed() == 3


async def test_a_silent_member_is_taken_out_by_time_alone(autojump_clock: trio.testing.MockClock) -> None:
    async with memory_broker() as memory:
        groups = GroupCalls(memory)
        await groups.find()
        member_id, generation = await groups.become_member()
        await trio.sleep(9)
        assert await groups.heartbeat("g", member_id, generation) == 0
        await trio.sleep(9)
        assert await groups.states() == {"g": "Stable"}
        await trio.sleep(1.1)
        assert await groups.states() == {"g": "Empty"}
        assert await groups.heartbeat("g", member_id, generation) == ErrorCode.UNKNOWN_MEMBER_ID


async def test_two_members_rebalance_and_both_get_what_the_leader_gives(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with memory_broker() as memory:
        groups = GroupCalls(memory)
        await groups.find()
        first, generation = await groups.become_member()
        second = (await groups.join()).member_id
        joined: dict[str, Message] = {}

        async def join(member_id: str) -> None:
            joined[member_id] = await groups.join("g", member_id)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(join, second)
            await trio.testing.wait_all_tasks_blocked()
            code = await groups.heartbeat("g", first, generation)
            assert code == ErrorCode.REBALANCE_IN_PROGRESS
            nursery.start_soon(join, first)
        assert {answer.generation_id for answer in joined.values()} == {generation + 1}
        leader = joined[first].leader
        assert len(joined[leader].members) == 2
        assert sum(len(answer.members) for answer in joined.values()) == 2, "only the leader sees members"
        synced: dict[str, bytes] = {}

        async def sync(member_id: str) -> None:
            shares = [Message(member_id=each, assignment=each.encode()) for each in joined]
            answer = await groups.call(
                ApiKey.SYNC_GROUP,
                group_id="g",
                generation_id=generation + 1,
                member_id=member_id,
                assignments=shares if member_id == leader else [],
            )
            synced[member_id] = answer.assignment

        async with trio.open_nursery() as nursery:
            for member_id in joined:
                nursery.start_soon(sync, member_id)
        assert synced == {member_id: member_id.encode() for member_id in joined}


async def test_a_join_whose_connection_is_gone_leaves_nobody_waiting() -> None:
    async with memory_broker() as memory:
        groups = GroupCalls(memory)
        await groups.find()
        pending = await begin_join(memory)
        shard = groups.shard("g")
        assert shard.waiting_count == 1
        pending.abandon()
        assert shard.waiting_count == 0
        assert await groups.states() == {"g": "PreparingRebalance"}, "its member is still one"


async def test_a_stopping_broker_answers_who_waits() -> None:
    async with memory_broker() as memory:
        groups = GroupCalls(memory)
        await groups.find()
        pending = await begin_join(memory)
        pending.hurry()
        assert pending.ready
        assert pending.message is not None
        assert pending.message.error_code == ErrorCode.COORDINATOR_NOT_AVAILABLE
        other = await begin_join(memory)
        groups.coordinator.close()
        assert other.message is not None
        assert other.message.error_code == ErrorCode.NOT_COORDINATOR
        refused = await groups.join()
        assert refused.error_code == ErrorCode.COORDINATOR_NOT_AVAILABLE


async def test_an_assignment_that_could_not_be_stored_is_given_to_nobody(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with memory_broker() as memory:
        groups = GroupCalls(memory)
        await groups.find()
        first = await groups.join()
        joined = await groups.join("g", first.member_id)
        room = memory.files.capacity_bytes
        memory.files.capacity_bytes = 0
        synced = await groups.call(
            ApiKey.SYNC_GROUP,
            group_id="g",
            generation_id=joined.generation_id,
            member_id=joined.member_id,
            assignments=[Message(member_id=joined.member_id, assignment=b"mine")],
        )
        assert synced.error_code == ErrorCode.NOT_COORDINATOR
        assert (await groups.describe()).group_state == "PreparingRebalance"
        memory.files.capacity_bytes = room
        again = await groups.join("g", joined.member_id)
        assert (again.error_code, again.generation_id) == (0, joined.generation_id + 1)


async def test_as_many_groups_as_may_be_and_no_more() -> None:
    async with memory_broker(group_max_count="2") as memory:
        groups = GroupCalls(memory)
        await memory.create("orders")
        await groups.find()
        assert await groups.commit("a") == [0]
        assert await groups.commit("b") == [0]
        assert await groups.commit("c") == [ErrorCode.GROUP_MAX_SIZE_REACHED]
        assert (await groups.join("d")).error_code == ErrorCode.GROUP_MAX_SIZE_REACHED
        assert await groups.delete("a") == [0]
        assert await groups.commit("c") == [0]


async def test_a_deleted_group_is_gone_with_its_offsets_and_an_unknown_one_is_told() -> None:
    async with memory_broker() as memory:
        groups = GroupCalls(memory)
        await memory.create("orders")
        await groups.find()
        await groups.commit("a")
        assert await groups.delete("a", "b") == [0, ErrorCode.GROUP_ID_NOT_FOUND]
        assert await groups.committed("a") == -1
        assert await groups.states() == {}


async def test_a_group_whose_deletion_is_not_stored_is_still_there() -> None:
    async with memory_broker() as memory:
        groups = GroupCalls(memory)
        await memory.create("orders")
        await groups.find()
        await groups.commit("a")
        shard = groups.shard("a")
        room, memory.files.capacity_bytes = memory.files.capacity_bytes, 0
        codes = await groups.delete("a")
        memory.files.capacity_bytes = room
        assert codes == [ErrorCode.NOT_COORDINATOR]
        assert "a" in shard.groups
        assert await groups.committed("a") == 7
        assert await groups.delete("a") == [0]


@pytest.mark.parametrize("group_id", ["", "g"])
async def test_calls_to_a_group_that_is_not_there(group_id: str) -> None:
    unknown = ErrorCode.UNKNOWN_MEMBER_ID if group_id else ErrorCode.INVALID_GROUP_ID
    async with memory_broker() as memory:
        groups = GroupCalls(memory)
        await groups.find()
        assert (await groups.join(group_id, "me")).error_code == unknown
        assert await groups.heartbeat(group_id, "me", 1) == unknown
        assert (await groups.leave(group_id, "me")).error_code == unknown
        synced = await groups.call(ApiKey.SYNC_GROUP, group_id=group_id, generation_id=1, member_id="me")
        assert synced.error_code == unknown
        described = await groups.describe(group_id)
        assert (described.error_code, described.group_state) == (ErrorCode.GROUP_ID_NOT_FOUND, "Dead")


async def test_lists_are_filtered_by_state_and_type_in_any_case() -> None:
    async with memory_broker() as memory:
        groups = GroupCalls(memory)
        await memory.create("orders")
        await groups.find()
        await groups.commit("a")
        await begin_join(memory)
        assert await groups.states() == {"a": "Empty", "g": "PreparingRebalance"}
        assert await groups.states(states_filter=["eMPTY"]) == {"a": "Empty"}
        assert await groups.states(types_filter=["CLASSIC"], states_filter=["stable"]) == {}
        assert await groups.states(types_filter=["consumer"]) == {}
