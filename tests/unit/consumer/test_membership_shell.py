"""What the trio side owes: no task left behind, a prompt end, calls of the listener in order."""

from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio
from tests.support.group_members import TestMember, members
from tests.support.scripted_broker import (
    HANG_UP,
    SILENCE,
    Instead,
    ScriptedBroker,
    ScriptedNetwork,
    metadata_answer,
    scripted_environment,
)
from trio.testing import MockClock, wait_all_tasks_blocked

from penstock.client.errors import BrokerError, CommitFailed
from penstock.client.metadata import TopicPartition
from penstock.consumer.consumer import Consumer
from penstock.protocol.api import ApiKey
from penstock.protocol.consumer_protocol import ConsumerAssignment, encode_assignment
from penstock.protocol.errors import ErrorCode
from penstock.protocol.message import Message

T0 = frozenset({TopicPartition("t", 0)})
Answer = Message | Instead


class Coordinator:
    """Of one follower: gives it t-0, and does as the test says from then on."""

    def __init__(self) -> None:
        self.join_answer: Answer | None = None
        self.heartbeat_answer: Answer = Message(error_code=0)
        self.leave_answer: Answer = Message(error_code=0, members=[])
        self.broker = ScriptedBroker(
            {
                ApiKey.METADATA: lambda _, __: metadata_answer({1: ("1", 9092)}, {"t": [1]}),
                ApiKey.FIND_COORDINATOR: lambda _, __: _coordinator(),
                ApiKey.JOIN_GROUP: self._join,
                ApiKey.SYNC_GROUP: lambda _, __: Message(
                    error_code=0, assignment=encode_assignment(ConsumerAssignment((("t", 0),)))
                ),
                ApiKey.HEARTBEAT: lambda _, __: self.heartbeat_answer,
                ApiKey.LEAVE_GROUP: lambda _, __: self.leave_answer,
            }
        )

    def _join(self, version: int, request: Message) -> Answer:
        if self.join_answer is not None:
            return self.join_answer
        return Message(
            error_code=0,
            generation_id=1,
            protocol_type="consumer",
            protocol_name=request.protocols[0].name,
            leader="other",
            member_id="me",
            members=[],
        )


def _coordinator() -> Message:
    fields = {"error_code": 0, "node_id": 1, "host": "1", "port": 9092}
    return Message(**fields, coordinators=[Message(key="g", **fields)])


@asynccontextmanager
async def member_of(coordinator: Coordinator, assignor: str = "range") -> AsyncGenerator[TestMember]:
    environment = scripted_environment(ScriptedNetwork({("1", 9092): coordinator.broker}))
    async with members("1:9092", environment) as group:
        yield group.start(group="g", topics=("t",), assignors=(assignor,))


async def happens(event: Callable[[], bool]) -> None:
    """Let mocked time pass until the event."""
    with trio.fail_after(120):
        while not event():  # noqa: ASYNC110 - of a mocked clock
            await trio.sleep(0.01)


async def test_a_member_joins_beats_and_leaves(autojump_clock: MockClock) -> None:
    coordinator = Coordinator()
    async with member_of(coordinator) as member:
        await happens(lambda: member.owned == T0)
        await trio.sleep(1)
        assert 4 <= len(coordinator.broker.bodies(ApiKey.HEARTBEAT)) <= 6
        await member.membership.leave()
        assert [call for call, _ in member.listener.calls] == ["assign", "revoke"]
        assert len(coordinator.broker.bodies(ApiKey.LEAVE_GROUP)) == 1
        await member.membership.leave()
        beats = len(coordinator.broker.bodies(ApiKey.HEARTBEAT))
        await trio.sleep(60)
        assert len(coordinator.broker.bodies(ApiKey.HEARTBEAT)) == beats


async def test_leaving_before_the_run_has_begun_keeps_it_from_beginning(autojump_clock: MockClock) -> None:
    coordinator = Coordinator()
    async with member_of(coordinator) as member:
        await member.membership.leave()
        await trio.sleep(10)
        assert not coordinator.broker.bodies(ApiKey.JOIN_GROUP)


async def test_a_coordinator_that_is_silent_holds_no_leave_up_for_long(autojump_clock: MockClock) -> None:
    coordinator = Coordinator()
    coordinator.leave_answer = SILENCE
    async with member_of(coordinator) as member:
        await happens(lambda: member.owned == T0)
        begin = trio.current_time()
        await member.membership.leave()
        assert trio.current_time() - begin <= 5.1


async def test_a_member_whose_heartbeats_are_not_answered_gives_up_by_itself(
    autojump_clock: MockClock,
) -> None:
    coordinator = Coordinator()
    async with member_of(coordinator) as member:
        await happens(lambda: member.owned == T0)
        coordinator.heartbeat_answer = coordinator.join_answer = SILENCE
        begin = trio.current_time()
        await happens(lambda: not member.owned)
        assert 5.7 <= trio.current_time() - begin <= 6.1, "the session timeout"
        assert member.listener.calls[-1][0] == "lose"


async def test_a_leave_goes_beside_a_join_that_waits(autojump_clock: MockClock) -> None:
    coordinator = Coordinator()
    async with member_of(coordinator, "cooperative-sticky") as member:
        await happens(lambda: member.owned == T0)
        coordinator.join_answer = SILENCE
        coordinator.heartbeat_answer = Message(error_code=ErrorCode.REBALANCE_IN_PROGRESS)
        await happens(lambda: len(coordinator.broker.bodies(ApiKey.JOIN_GROUP)) == 2)
        begin = trio.current_time()
        await member.membership.leave()
        assert trio.current_time() - begin < 0.1
        joins = [stream for stream in coordinator.broker.streams if stream.is_closed]
        assert len(joins) == 1, "the connection on which the join waits is given up, and no other"


async def test_a_loss_cancels_the_revoke_that_waits_for_the_user(autojump_clock: MockClock) -> None:
    coordinator = Coordinator()
    async with member_of(coordinator) as member:
        await happens(lambda: member.owned == T0)
        member.listener.revoke_gate = trio.Event()
        coordinator.heartbeat_answer = Message(error_code=ErrorCode.REBALANCE_IN_PROGRESS)
        await trio.sleep(1)
        assert member.owned == T0
        coordinator.heartbeat_answer = Message(error_code=ErrorCode.UNKNOWN_MEMBER_ID)
        await happens(lambda: not member.owned)
        assert [call for call, _ in member.listener.calls] == ["assign", "lose"]
        coordinator.heartbeat_answer = Message(error_code=0)
        await happens(lambda: member.owned == T0)


async def test_a_cancelled_run_calls_nobody_and_tells_nobody(autojump_clock: MockClock) -> None:
    coordinator = Coordinator()
    async with member_of(coordinator) as member:
        await happens(lambda: member.owned == T0)
        member.scope.cancel()
        await wait_all_tasks_blocked()
        await member.membership.leave()
        assert [call for call, _ in member.listener.calls] == ["assign"]
        assert not coordinator.broker.bodies(ApiKey.LEAVE_GROUP)


async def test_a_failure_for_good_is_told_and_kept(autojump_clock: MockClock) -> None:
    coordinator = Coordinator()
    async with member_of(coordinator) as member:
        await happens(lambda: member.owned == T0)
        coordinator.heartbeat_answer = Message(error_code=ErrorCode.GROUP_AUTHORIZATION_FAILED)
        await happens(lambda: member.listener.failure is not None)
        assert not member.owned
        assert member.membership.failure is member.listener.failure
        assert isinstance(member.listener.failure, BrokerError)
        await member.membership.wait_settled()
        member.listener.failure = None


@pytest.mark.parametrize("way", [HANG_UP, Message(error_code=ErrorCode.NOT_COORDINATOR)])
async def test_a_coordinator_that_moves_costs_nothing(way: Answer, autojump_clock: MockClock) -> None:
    coordinator = Coordinator()
    async with member_of(coordinator) as member:
        await happens(lambda: member.owned == T0)
        coordinator.heartbeat_answer = way
        await trio.sleep(2)
        coordinator.heartbeat_answer = Message(error_code=0)
        await trio.sleep(10)
        assert [call for call, _ in member.listener.calls] == ["assign"]
        assert len(coordinator.broker.bodies(ApiKey.FIND_COORDINATOR)) > 2


async def test_a_commit_that_is_tried_again_counts_for_the_assignment_in_which_it_was_begun(
    autojump_clock: MockClock,
) -> None:
    """Another member may have had the partition between, and its commits would be taken back."""
    coordinator = Coordinator()
    committed: list[int] = []

    def commit(version: int, request: Message) -> Message:
        code = ErrorCode.NONE
        if len(coordinator.broker.bodies(ApiKey.JOIN_GROUP)) == 1:
            code = ErrorCode.COORDINATOR_LOAD_IN_PROGRESS
            if (
                len(coordinator.broker.bodies(ApiKey.OFFSET_COMMIT)) == 6
            ):  # a second passes before the seventh
                coordinator.heartbeat_answer = Message(error_code=ErrorCode.UNKNOWN_MEMBER_ID)
        else:
            committed.append(request.topics[0].partitions[0].committed_offset)
        part = Message(partition_index=0, error_code=code)
        return Message(topics=[Message(name="t", topic_id=request.topics[0].topic_id, partitions=[part])])

    async def lost(partitions: frozenset[TopicPartition]) -> None:
        coordinator.heartbeat_answer = Message(error_code=0)

    loading_fields: dict[str, Any] = {"error_code": ErrorCode.COORDINATOR_LOAD_IN_PROGRESS, "topics": []}
    loading = Message(group_id="g", **loading_fields)
    coordinator.broker.handlers |= {
        ApiKey.OFFSET_COMMIT: commit,
        ApiKey.OFFSET_FETCH: lambda _, __: Message(groups=[loading], **loading_fields),
    }
    environment = scripted_environment(ScriptedNetwork({("1", 9092): coordinator.broker}))
    consumer = Consumer(
        "1:9092",
        "t",
        group="g",
        environment=environment,
        auto_commit=False,
        heartbeat_interval_ms=300,
        on_lost=lost,
    )
    async with consumer:
        await happens(lambda: consumer.assignment == T0)
        with pytest.raises(CommitFailed, match="another member"):
            await consumer.commit({TopicPartition("t", 0): 5})
        await happens(lambda: consumer.assignment == T0)
        assert len(coordinator.broker.bodies(ApiKey.JOIN_GROUP)) == 2
        assert committed == []
        await consumer.commit({TopicPartition("t", 0): 6})
        assert committed == [6]
