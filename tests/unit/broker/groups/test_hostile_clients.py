"""What one client asks for does not harm the groups of others, nor the broker's memory."""

import uuid
from typing import Any

import pytest
import trio
import trio.testing
from tests.support.consumer_group_members import Client, FakeTopics, GroupBench
from tests.support.group_calls import SUBSCRIPTION, GroupCalls
from tests.support.memory_broker import LISTENER, MemoryBroker, memory_broker, parts_of

from penstock.broker.api import join_group
from penstock.broker.context import ANONYMOUS, RequestContext
from penstock.broker.groups.classic_events import TokenAbandoned
from penstock.broker.groups.consumer_admission import REGEXES_MAX
from penstock.broker.groups.consumer_group_events import LEAVE_EPOCH, ConsumerHeartbeat
from penstock.broker.groups.memory_budget import COUNT_INTERVAL_MS
from penstock.broker.pending_response import PendingResponse
from penstock.protocol.api import ApiKey
from penstock.protocol.errors import ErrorCode
from penstock.protocol.message import Message

MIB = 1 << 20
INT64_MAX = 2**63 - 1


async def consumer_beat(groups: GroupCalls, member_id: str = "", **more: Any) -> Message:
    """A heartbeat of the consumer protocol, the first one of a new member."""
    fields: dict[str, Any] = {
        "group_id": "g",
        "member_id": member_id or str(uuid.uuid4()),
        "member_epoch": 0,
        "rebalance_timeout_ms": 60_000,
        "subscribed_topic_names": ["orders"],
        "topic_partitions": [],
        **more,
    }
    return await groups.call(ApiKey.CONSUMER_GROUP_HEARTBEAT, 1, **fields)


async def join_named(memory: MemoryBroker, client_id: str) -> bytes:
    """A join in version 3 as a client of that name; the response as it is sent."""
    request = Message(
        group_id="g",
        member_id="",
        session_timeout_ms=10_000,
        rebalance_timeout_ms=10_000,
        protocol_type="consumer",
        protocols=[Message(name="range", metadata=SUBSCRIPTION)],
        group_instance_id=None,
        reason=None,
    )
    context = RequestContext(int(ApiKey.JOIN_GROUP), 3, 1, client_id, ANONYMOUS, "127.0.0.1:5", LISTENER)
    answer = await join_group.handle(memory.broker, context, request)
    assert isinstance(answer, PendingResponse)
    (part,) = await parts_of(answer)
    assert isinstance(part, bytes)
    return part


@pytest.mark.parametrize("name", ["x" * 32_767, "\U0001f600" * 8_190])
async def test_a_client_with_the_longest_name_makes_no_answer_that_can_not_be_encoded(
    autojump_clock: trio.testing.MockClock, name: str
) -> None:
    async with memory_broker() as memory:
        groups = GroupCalls(memory)
        await groups.find()
        assert len(await join_named(memory, name)) > 100


async def test_a_retention_time_without_end_is_kept_as_the_latest_time_there_is() -> None:
    async with memory_broker() as memory:
        groups = GroupCalls(memory)
        await memory.create("orders")
        await groups.find()
        assert await groups.commit(version=4, retention_time_ms=INT64_MAX) == [0]
        assert await groups.committed() == 7
        assert not groups.shard("g").groups["g"].pending_offsets


async def test_a_group_described_many_times_is_described_once() -> None:
    async with memory_broker() as memory:
        groups = GroupCalls(memory)
        await memory.create("orders")
        await groups.find()
        await groups.commit()
        answer = await groups.call(ApiKey.DESCRIBE_GROUPS, groups=["g", "other"] + ["g"] * 1000)
        assert [group.group_id for group in answer.groups] == ["g", "other"]


async def test_an_offset_asked_for_many_times_is_told_once() -> None:
    async with memory_broker() as memory:
        groups = GroupCalls(memory)
        await memory.create("orders", 2)
        await groups.find()
        await groups.commit("g", {0: 1, 1: 2}, metadata="x" * 4_000)
        topics = [Message(name="orders", partition_indexes=[0, 1] + [0] * 1000)] * 10
        wanted = [Message(group_id="g", topics=topics)] + [Message(group_id="g", topics=None)] * 1000
        answer = await groups.call(ApiKey.OFFSET_FETCH, groups=wanted)
        (group,) = answer.groups
        (topic,) = group.topics
        assert [(p.partition_index, p.committed_offset) for p in topic.partitions] == [(0, 1), (1, 2)]


async def test_made_up_members_of_the_consumer_protocol_are_refused_and_real_ones_go_on(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with memory_broker(group_memory_max_bytes=str(MIB)) as memory:
        groups = GroupCalls(memory)
        await memory.create("orders", 2)
        await groups.find()
        real = await consumer_beat(groups)
        assert real.error_code == 0
        await trio.sleep(COUNT_INTERVAL_MS / 1000 + 1)
        names = [f"topic-{n:05}-{'x' * 30}" for n in range(2_000)]
        codes = [
            (await consumer_beat(groups, group_id=f"fake-{n}", subscribed_topic_names=names)).error_code
            for n in range(30)
        ]
        assert codes[0] == 0
        assert codes[-1] == ErrorCode.GROUP_MAX_SIZE_REACHED
        assert "fake-29" not in groups.shard("fake-29").groups, "what was refused left nothing"
        await trio.sleep(COUNT_INTERVAL_MS / 1000 + 1)
        again = await consumer_beat(
            groups,
            real.member_id,
            member_epoch=real.member_epoch,
            topic_partitions=None,
            subscribed_topic_names=names,
        )
        assert again.error_code == ErrorCode.GROUP_MAX_SIZE_REACHED, (
            "who is there can't grow without end either"
        )
        beat = await consumer_beat(
            groups,
            real.member_id,
            member_epoch=real.member_epoch,
            topic_partitions=None,
            subscribed_topic_names=None,
            rebalance_timeout_ms=-1,
        )
        assert beat.error_code == 0
        left = await consumer_beat(groups, real.member_id, member_epoch=-1)
        assert left.error_code == 0


async def test_a_subscription_too_large_for_a_record_fails_alone() -> None:
    async with memory_broker(message_max_bytes="20000") as memory:
        groups = GroupCalls(memory)
        await memory.create("orders", 2)
        await groups.find()
        answers: dict[str, Message] = {}

        async def beat(member_id: str, names: list[str]) -> None:
            answers[member_id] = await consumer_beat(groups, member_id, subscribed_topic_names=names)

        async with trio.open_nursery() as nursery:
            for n in range(8):
                nursery.start_soon(beat, f"good-{n}", ["orders"])
                nursery.start_soon(beat, f"bad-{n}", [f"{n}-{k:05}" for k in range(3_000)])
        codes = {name: answer.error_code for name, answer in answers.items()}
        assert {codes[f"good-{n}"] for n in range(8)} == {ErrorCode.NONE}
        assert {codes[f"bad-{n}"] for n in range(8)} == {ErrorCode.INVALID_REQUEST}


def test_members_with_ever_new_regular_expressions_are_refused() -> None:
    bench = GroupBench(FakeTopics(t=4))
    for number in range(REGEXES_MAX):
        assert bench.beat(Client(f"m{number}", regex=f"t{number}.*")).error_code is ErrorCode.NONE
    refused = bench.beat(Client("late", regex="t.*"))
    assert refused.error_code is ErrorCode.INVALID_REGULAR_EXPRESSION
    assert bench.beat(Client("alike", regex="t1.*")).error_code is ErrorCode.NONE


def test_heartbeats_of_connections_that_are_gone_wait_for_no_store() -> None:
    bench = GroupBench(FakeTopics(t=4))
    bench.lands_at_once = False
    gone: list[int] = []
    for number in range(100):
        gone.append(bench.token())
        bench.step(Client(f"m{number}", names=("t",)).heartbeat(gone[-1]))
    leaving = bench.token()
    bench.step(ConsumerHeartbeat(token=leaving, member_id="m0", member_epoch=LEAVE_EPOCH))
    for token in (*gone, leaving):
        bench.step(TokenAbandoned(token=token))
    bench.land()
    while bench.store is not None:
        bench.land()
    assert set(bench.replies) == {gone[0], leaving}, "who leaves does not wait to hear it"
    assert not bench.group.stored.members
