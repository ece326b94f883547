"""Scenes of a member of a KIP-848 group."""

from collections.abc import Sequence
from typing import TypeVar

import pytest

from penstock.client.errors import BrokerError
from penstock.client.metadata import TopicPartition
from penstock.consumer.consumer_events import (
    Action,
    Event,
    FetchTopicNames,
    HeartbeatAnswered,
    PartitionsById,
    SendHeartbeat,
    SubscriptionChanged,
    TopicNamesFetched,
)
from penstock.consumer.consumer_machine import LEAVE_TIMEOUT_MS, ConsumerMachine
from penstock.consumer.membership import MembershipOptions
from penstock.consumer.membership_events import (
    AwaitPolled,
    CallbackFinished,
    CallbackKind,
    CallListener,
    End,
    ForgetCoordinator,
    LeaveWanted,
    Polled,
    RequestFailed,
    TimePassed,
)
from penstock.consumer.subscription import Subscription
from penstock.protocol.errors import ErrorCode
from penstock.runtime.network import ConnectionLost

SESSION_MS, BEAT_MS, POLL_MS = 10_000, 1_000, 60_000
T_ID, U_ID, NEW_T_ID = b"t" * 16, b"u" * 16, b"T" * 16
NAMES = {T_ID: "t", U_ID: "u"}
T = TypeVar("T")


def partitions(*indexes: int, topic: str = "t") -> frozenset[TopicPartition]:
    return frozenset(TopicPartition(topic, index) for index in indexes)


class Scene:
    """A machine, the time, and what it did last."""

    def __init__(self, instance_id: str | None = None) -> None:
        self.now_ms = 1_000_000.0
        options = MembershipOptions(
            session_timeout_ms=SESSION_MS, max_poll_interval_ms=POLL_MS, group_instance_id=instance_id
        )
        self.machine = ConsumerMachine(options)
        self.actions: Sequence[Action] = ()

    def step(self, event: Event) -> "Scene":
        self.actions = self.machine.step(event, self.now_ms)
        return self

    def wait(self, ms: float, ms_since_poll: float | None = None) -> "Scene":
        self.now_ms += ms
        return self.step(TimePassed(ms_since_poll))

    def the(self, kind: type[T]) -> T:
        found = [action for action in self.actions if isinstance(action, kind)]
        assert len(found) == 1, f"{kind.__name__} in {self.actions}"
        return found[0]

    def has(self, kind: type) -> bool:
        return any(isinstance(action, kind) for action in self.actions)

    def subscribe(self, *topics: str) -> "Scene":
        return self.step(SubscriptionChanged(Subscription(frozenset(topics))))

    def answered(self, epoch: int, assignment: PartitionsById | None = None) -> "Scene":
        return self.step(
            HeartbeatAnswered(
                request=self.the(SendHeartbeat).request,
                member_epoch=epoch,
                heartbeat_interval_ms=BEAT_MS,
                assignment=assignment,
            )
        )

    def refused(self, code: ErrorCode) -> "Scene":
        return self.step(HeartbeatAnswered(request=self.the(SendHeartbeat).request, error_code=code))

    def named(self) -> "Scene":
        return self.step(TopicNamesFetched(self.the(FetchTopicNames).request, NAMES))

    def called(self, kind: CallbackKind, expected: frozenset[TopicPartition]) -> "Scene":
        call = self.the(CallListener)
        assert (call.kind, call.partitions) == (kind, expected)
        return self

    def returned(self) -> "Scene":
        assert self.machine.ownership.running is not None
        return self.step(CallbackFinished(self.machine.ownership.running.callback))


def stable(*indexes: int, instance_id: str | None = None) -> Scene:
    """In epoch 1, with what it was given, and the coordinator knows."""
    scene = Scene(instance_id).subscribe("t").answered(1, {T_ID: indexes}).named()
    scene.called(CallbackKind.ASSIGN, partitions(*indexes)).returned().answered(1)
    assert scene.machine.is_settled
    return scene


def test_the_first_heartbeat_tells_everything_and_the_assignment_is_acknowledged() -> None:
    scene = Scene().subscribe("t", "a")
    sent = scene.the(SendHeartbeat)
    assert (sent.member_epoch, sent.topics, sent.owned) == (0, ["a", "t"], {})
    assert (sent.rebalance_timeout_ms, sent.is_full) == (POLL_MS, True)
    scene.answered(1, {T_ID: (0, 1)}).named().called(CallbackKind.ASSIGN, partitions(0, 1))
    assert not scene.machine.is_settled
    ack = scene.returned().the(SendHeartbeat)
    assert ack == SendHeartbeat(request=ack.request, member_epoch=1, owned={T_ID: (0, 1)})
    assert scene.answered(1).machine.is_settled


def test_a_heartbeat_with_nothing_new_tells_nothing() -> None:
    scene = stable(0).wait(BEAT_MS)
    assert scene.the(SendHeartbeat) == SendHeartbeat(request=scene.the(SendHeartbeat).request, member_epoch=1)
    scene.answered(1)
    assert not scene.actions


def test_what_is_taken_away_is_acknowledged_after_its_revoke_and_not_before() -> None:
    scene = stable(0, 1).wait(BEAT_MS).answered(1, {T_ID: (0,)})
    scene.called(CallbackKind.REVOKE, partitions(1))
    for _ in range(3):
        assert scene.wait(BEAT_MS).the(SendHeartbeat).owned is None
        scene.answered(1)
    assert scene.returned().the(SendHeartbeat).owned == {T_ID: (0,)}


def test_what_is_taken_away_is_acknowledged_before_what_is_new_is_taken() -> None:
    scene = stable(0, 1).wait(BEAT_MS).answered(2, {T_ID: (0,), U_ID: (5,)})
    scene.called(CallbackKind.REVOKE, partitions(1)).returned()
    assert [type(action) for action in scene.actions] == [SendHeartbeat, CallListener]
    assert scene.the(SendHeartbeat).owned == {T_ID: (0,)}
    scene.called(CallbackKind.ASSIGN, partitions(5, topic="u"))


def test_an_assignment_after_a_full_heartbeat_is_acknowledged_even_if_it_is_no_news() -> None:
    # The answer before it, which was lost, may have given something: the coordinator waits to hear that it is not owned.
    scene = stable(0).wait(BEAT_MS)
    scene.step(RequestFailed(scene.the(SendHeartbeat).request, ConnectionLost("gone"), True))
    scene.wait(200).answered(3, {T_ID: (0,)})
    assert scene.the(SendHeartbeat).owned == {T_ID: (0,)}
    scene.answered(3, {T_ID: (0,)})
    assert not scene.actions, "once"


def test_a_topic_id_that_is_not_known_yet_is_asked_for_until_it_is() -> None:
    scene = Scene().subscribe("t").answered(1, {T_ID: (0,), U_ID: (0,)})
    request = scene.the(FetchTopicNames).request
    scene.step(TopicNamesFetched(request, {T_ID: "t"})).called(CallbackKind.ASSIGN, partitions(0))
    scene.returned().answered(1)
    scene.wait(BEAT_MS)
    scene.named().called(CallbackKind.ASSIGN, partitions(0, topic="u"))


def test_a_topic_that_was_made_anew_is_given_up_before_it_is_taken() -> None:
    scene = stable(0).wait(BEAT_MS).answered(2, {NEW_T_ID: (0,)})
    scene.step(TopicNamesFetched(scene.the(FetchTopicNames).request, {NEW_T_ID: "t"}))
    call = scene.machine.ownership.running
    assert call is not None
    assert call.kind is CallbackKind.REVOKE
    scene.returned()
    scene.called(CallbackKind.ASSIGN, partitions(0))
    scene.answered(2)
    assert scene.returned().the(SendHeartbeat).owned == {NEW_T_ID: (0,)}


def test_a_topic_that_was_made_anew_is_given_up_also_when_its_new_id_is_known_before() -> None:
    scene = stable(0).wait(BEAT_MS).answered(2, {T_ID: (0,), NEW_T_ID: ()})
    scene.step(TopicNamesFetched(scene.the(FetchTopicNames).request, {NEW_T_ID: "t"})).answered(2)
    assert not scene.actions
    scene.wait(BEAT_MS).answered(3, {NEW_T_ID: (0,)}).called(CallbackKind.REVOKE, partitions(0))
    scene.returned().called(CallbackKind.ASSIGN, partitions(0))


def test_a_changed_subscription_is_told_at_once_and_once() -> None:
    sent = stable(0).subscribe("u").the(SendHeartbeat)
    assert (sent.topics, sent.pattern, sent.owned) == (["u"], None, None)
    scene = stable(0).subscribe("u").answered(2).wait(BEAT_MS)
    assert scene.the(SendHeartbeat).topics is None


def test_a_pattern_is_sent_as_it_is_and_taken_back_by_an_empty_one() -> None:
    scene = stable(0).step(SubscriptionChanged(Subscription(pattern="t.*")))
    assert (scene.the(SendHeartbeat).topics, scene.the(SendHeartbeat).pattern) == ([], "t.*")
    sent = scene.answered(2).subscribe("t").the(SendHeartbeat)
    assert (sent.topics, sent.pattern) == (["t"], "")


@pytest.mark.parametrize("code", [ErrorCode.FENCED_MEMBER_EPOCH, ErrorCode.UNKNOWN_MEMBER_ID])
def test_a_fenced_member_loses_everything_and_then_joins_anew(code: ErrorCode) -> None:
    scene = stable(0).wait(BEAT_MS).refused(code).called(CallbackKind.LOSE, partitions(0))
    assert scene.machine.epoch == -1
    assert not scene.wait(500).has(SendHeartbeat), "the loss has not been told yet"
    sent = scene.returned().the(SendHeartbeat)
    assert (sent.member_epoch, sent.is_full, sent.owned) == (0, True, {})


def test_after_a_heartbeat_without_an_answer_everything_is_told() -> None:
    scene = stable(0).wait(BEAT_MS)
    scene.step(RequestFailed(scene.the(SendHeartbeat).request, ConnectionLost("gone"), True))
    assert scene.has(ForgetCoordinator)
    sent = scene.wait(200).the(SendHeartbeat)
    assert (sent.member_epoch, sent.is_full, sent.topics, sent.owned) == (1, True, ["t"], {T_ID: (0,)})


@pytest.mark.parametrize(
    "code",
    [
        ErrorCode.UNRELEASED_INSTANCE_ID,
        ErrorCode.INVALID_REGULAR_EXPRESSION,
        ErrorCode.UNSUPPORTED_ASSIGNOR,
        ErrorCode.GROUP_AUTHORIZATION_FAILED,
    ],
)
def test_what_cannot_be_mended_ends_it(code: ErrorCode) -> None:
    error = Scene().subscribe("t").refused(code).the(End).error
    assert isinstance(error, BrokerError)
    assert error.code == code


def test_silence_for_a_session_timeout_is_a_loss() -> None:
    scene = stable(0).wait(BEAT_MS)
    request = scene.the(SendHeartbeat).request
    scene.wait(SESSION_MS - BEAT_MS - 1)
    assert not scene.has(CallListener)
    scene.wait(1).called(CallbackKind.LOSE, partitions(0))
    scene.step(HeartbeatAnswered(request=request, member_epoch=1))
    assert scene.machine.epoch == -1


def test_the_session_counts_from_when_the_heartbeat_was_sent() -> None:
    scene = stable(0).wait(BEAT_MS)
    sent_ms, request = scene.now_ms, scene.the(SendHeartbeat).request
    scene.wait(5_000).step(HeartbeatAnswered(request=request, member_epoch=1, heartbeat_interval_ms=BEAT_MS))
    scene.wait(sent_ms + SESSION_MS - 1 - scene.now_ms)
    assert not scene.has(CallListener)
    scene.wait(1).called(CallbackKind.LOSE, partitions(0))


def test_a_revoke_that_outlasts_the_rebalance_timeout_becomes_a_loss() -> None:
    scene = stable(0, 1).wait(BEAT_MS)
    sent_ms = scene.now_ms
    scene.answered(1, {T_ID: (0,)})
    while scene.now_ms + BEAT_MS < sent_ms + POLL_MS:
        scene.wait(BEAT_MS)
        assert not scene.has(CallListener)
        scene.answered(1, {T_ID: (0,)})
    scene.wait(BEAT_MS).called(CallbackKind.LOSE, partitions(0, 1))
    assert scene.returned().the(SendHeartbeat).member_epoch == 0


def test_a_user_who_is_late_loses_everything_and_leaves_until_they_are_back() -> None:
    scene = stable(0).wait(BEAT_MS, ms_since_poll=POLL_MS).called(CallbackKind.LOSE, partitions(0))
    assert [action.member_epoch for action in scene.actions if isinstance(action, SendHeartbeat)] == [-1]
    assert scene.has(AwaitPolled)
    assert not scene.returned().wait(POLL_MS).actions
    assert scene.machine.deadline_ms is None
    assert scene.step(Polled()).the(SendHeartbeat).member_epoch == 0


@pytest.mark.parametrize(("instance_id", "epoch"), [(None, -1), ("s", -2)])
def test_leaving_revokes_then_tells_then_ends(instance_id: str | None, epoch: int) -> None:
    scene = stable(0, instance_id=instance_id).step(LeaveWanted()).called(CallbackKind.REVOKE, partitions(0))
    assert scene.wait(BEAT_MS).the(SendHeartbeat).member_epoch == 1, "still a member while the user is at it"
    scene.answered(1)
    assert scene.returned().the(SendHeartbeat).member_epoch == epoch
    assert scene.answered(epoch).the(End).error is None


def test_a_coordinator_that_does_not_answer_a_good_bye_does_not_hold_it_up() -> None:
    scene = stable(0).step(LeaveWanted()).returned()
    assert not scene.wait(LEAVE_TIMEOUT_MS - 1).has(End)
    assert scene.wait(1).has(End)


def test_leaving_before_the_first_answer_says_good_bye_all_the_same() -> None:
    scene = Scene().subscribe("t").step(LeaveWanted())
    assert scene.the(SendHeartbeat).member_epoch == -1


def test_unsubscribing_leaves_and_another_subscription_joins_again() -> None:
    scene = stable(0).step(SubscriptionChanged(None)).called(CallbackKind.REVOKE, partitions(0))
    assert scene.returned().the(SendHeartbeat).member_epoch == -1
    scene.answered(-1)
    assert not scene.has(End)
    scene.wait(POLL_MS * 2)
    assert scene.machine.deadline_ms is None
    sent = scene.subscribe("u").the(SendHeartbeat)
    assert (sent.member_epoch, sent.topics) == (0, ["u"])
