"""Scenes of a member of a classic group: what it is told, and what it asks for."""

from collections.abc import Mapping, Sequence
from typing import TypeVar

import pytest

from penstock.client.errors import BootstrapFailed, BrokerError, GroupFenced
from penstock.client.metadata import TopicPartition
from penstock.consumer.assignors.registry import find_assignors
from penstock.consumer.classic_events import (
    Action,
    Event,
    FetchTopics,
    HeartbeatAnswered,
    JoinAnswered,
    JoinedMember,
    LeaveAnswered,
    SendHeartbeat,
    SendJoin,
    SendLeave,
    SendSync,
    SubscriptionChanged,
    SyncAnswered,
    TopicsFetched,
    TopicsSeen,
)
from penstock.consumer.classic_machine import LEAVE_TIMEOUT_MS, ClassicMachine, Phase
from penstock.consumer.membership import MembershipOptions
from penstock.consumer.membership_events import (
    AbandonRequest,
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
from penstock.protocol.consumer_protocol import (
    ConsumerAssignment,
    ConsumerSubscription,
    decode_assignment,
    decode_subscription,
    encode_assignment,
    encode_subscription,
)
from penstock.protocol.errors import ErrorCode
from penstock.runtime.network import ConnectionLost

SESSION_MS, BEAT_MS, POLL_MS = 10_000, 1_000, 60_000
T = TypeVar("T")


def partitions(*indexes: int, topic: str = "t") -> frozenset[TopicPartition]:
    return frozenset(TopicPartition(topic, index) for index in indexes)


class Scene:
    """A machine, the time, and what it did last."""

    def __init__(self, assignor: str = "range", instance_id: str | None = None) -> None:
        self.now_ms = 1_000_000.0
        options = MembershipOptions(
            session_timeout_ms=SESSION_MS,
            heartbeat_interval_ms=BEAT_MS,
            max_poll_interval_ms=POLL_MS,
            group_instance_id=instance_id,
        )
        self.machine = ClassicMachine(options, find_assignors([assignor]))
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

    # The usual course of things

    def subscribe(self, *topics: str) -> "Scene":
        return self.step(SubscriptionChanged(frozenset(topics)))

    def joined(
        self, generation: int, *, leads: bool = False, members: Sequence[JoinedMember] = ()
    ) -> "Scene":
        join = self.the(SendJoin)
        return self.step(
            JoinAnswered(
                request=join.request,
                generation=generation,
                protocol_name=join.protocols[0][0],
                leader="me" if leads else "other",
                member_id="me",
                members=members,
            )
        )

    def assigned(self, *indexes: int, topic: str = "t") -> "Scene":
        given = tuple(partitions(*indexes, topic=topic))
        return self.step(
            SyncAnswered(self.the(SendSync).request, 0, encode_assignment(ConsumerAssignment(given)))
        )

    def called(self, kind: CallbackKind, expected: frozenset[TopicPartition]) -> "Scene":
        call = self.the(CallListener)
        assert (call.kind, call.partitions) == (kind, expected)
        return self

    def returned(self) -> "Scene":
        assert self.machine.ownership.running is not None
        return self.step(CallbackFinished(self.machine.ownership.running.callback))

    def beat(self, code: ErrorCode, *, after_ms: float = BEAT_MS) -> "Scene":
        self.wait(after_ms)
        return self.step(HeartbeatAnswered(self.the(SendHeartbeat).request, code))


def stable(assignor: str = "range", *indexes: int, instance_id: str | None = None) -> Scene:
    """A follower of generation 1 that has its partitions."""
    scene = Scene(assignor, instance_id).subscribe("t").joined(1).assigned(*indexes)
    if indexes:
        scene.called(CallbackKind.ASSIGN, partitions(*indexes)).returned()
    assert scene.machine.is_settled
    return scene


def test_a_member_joins_and_is_given_its_partitions() -> None:
    scene = Scene().subscribe("t")
    join = scene.the(SendJoin)
    assert join.member_id == ""
    assert decode_subscription(dict(join.protocols)["range"]) == ConsumerSubscription(("t",))
    sync = scene.joined(1).the(SendSync)
    assert (sync.generation, sync.member_id, sync.assignments) == (1, "me", {})
    scene.assigned(0, 1).called(CallbackKind.ASSIGN, partitions(0, 1))
    assert not scene.machine.is_settled
    assert scene.returned().machine.is_settled


def test_a_member_id_that_is_required_is_taken_at_once() -> None:
    scene = Scene().subscribe("t")
    request = scene.the(SendJoin).request
    scene.step(JoinAnswered(request=request, error_code=ErrorCode.MEMBER_ID_REQUIRED, member_id="given"))
    assert scene.the(SendJoin).member_id == "given"


def test_a_leader_assigns_by_the_subscriptions_of_all() -> None:
    scene = Scene().subscribe("t")
    told = encode_subscription(ConsumerSubscription(("t", "u")))
    members = [JoinedMember("me", None, told), JoinedMember("you", None, told)]
    scene.joined(1, leads=True, members=members)
    assert scene.the(FetchTopics).topics == {"t", "u"}, "the other's topics as well"
    scene.step(TopicsFetched(scene.the(FetchTopics).request, {"t": 2}))
    given = {
        name: decode_assignment(data).partitions for name, data in scene.the(SendSync).assignments.items()
    }
    assert given == {"me": (("t", 0),), "you": (("t", 1),)}
    assert scene.machine.misses_topics, "u is not there yet"


def test_a_member_that_cannot_be_understood_gets_nothing_and_harms_nobody() -> None:
    told = encode_subscription(ConsumerSubscription(("t",)))
    scene = Scene().subscribe("t")
    scene.joined(1, leads=True, members=[JoinedMember("me", None, told), JoinedMember("odd", None, b"\xff")])
    scene.step(TopicsFetched(scene.the(FetchTopics).request, {"t": 1}))
    given = {
        name: decode_assignment(data).partitions for name, data in scene.the(SendSync).assignments.items()
    }
    assert given == {"me": (("t", 0),), "odd": ()}


def leader_with(counts: Mapping[str, int]) -> Scene:
    told = encode_subscription(ConsumerSubscription(("t",)))
    scene = Scene().subscribe("t").joined(1, leads=True, members=[JoinedMember("me", None, told)])
    scene.step(TopicsFetched(scene.the(FetchTopics).request, counts)).assigned(0)
    return scene.returned()


def test_a_leader_joins_again_when_partitions_are_added() -> None:
    scene = leader_with({"t": 1}).step(TopicsSeen({"t": 1}))
    assert not scene.actions
    scene.step(TopicsSeen({"t": 2})).called(CallbackKind.REVOKE, partitions(0)).returned()
    assert scene.the(SendJoin).member_id == "me"


def test_a_leader_that_cannot_get_metadata_asks_again() -> None:
    told = encode_subscription(ConsumerSubscription(("t",)))
    scene = Scene().subscribe("t").joined(1, leads=True, members=[JoinedMember("me", None, told)])
    scene.step(RequestFailed(scene.the(FetchTopics).request, ConnectionLost("gone"), True))
    assert not scene.has(FetchTopics)
    assert scene.wait(200).has(FetchTopics)


# Rebalances


def test_eager_members_give_up_everything_before_they_join() -> None:
    scene = stable("range", 0, 1).beat(ErrorCode.REBALANCE_IN_PROGRESS)
    scene.called(CallbackKind.REVOKE, partitions(0, 1))
    assert not scene.has(SendJoin)
    assert decode_subscription(dict(scene.returned().the(SendJoin).protocols)["range"]).owned == ()


def test_heartbeats_go_on_while_the_user_holds_a_revoke_up() -> None:
    scene = stable("range", 0).beat(ErrorCode.REBALANCE_IN_PROGRESS)
    for _ in range(5):
        scene.beat(ErrorCode.REBALANCE_IN_PROGRESS)
        assert not scene.has(SendJoin)
    assert scene.returned().has(SendJoin)


def test_a_revoke_that_outlasts_the_rebalance_timeout_becomes_a_loss() -> None:
    scene = stable("range", 0)
    scene.beat(ErrorCode.NONE)  # sent now: no rebalance can have begun before
    quiet_ms = scene.now_ms
    scene.beat(ErrorCode.REBALANCE_IN_PROGRESS)
    while scene.now_ms + BEAT_MS < quiet_ms + POLL_MS:
        scene.beat(ErrorCode.REBALANCE_IN_PROGRESS)
        assert not scene.has(CallListener)
    scene.wait(BEAT_MS).called(CallbackKind.LOSE, partitions(0))
    assert scene.returned().has(SendJoin)


def test_cooperative_members_keep_what_they_have_and_tell_it() -> None:
    scene = stable("cooperative-sticky", 0, 1).beat(ErrorCode.REBALANCE_IN_PROGRESS)
    assert not scene.has(CallListener)
    told = decode_subscription(scene.the(SendJoin).protocols[0][1])
    assert (set(told.owned), told.generation) == ({("t", 0), ("t", 1)}, 1)
    # The assignment takes 1 away: given up first, and then a second rebalance so that somebody else can have it.
    scene.joined(2).assigned(0).called(CallbackKind.REVOKE, partitions(1))
    assert not scene.has(SendJoin)
    told = decode_subscription(scene.returned().the(SendJoin).protocols[0][1])
    assert (told.owned, told.generation) == ((("t", 0),), 2)
    scene.joined(3).assigned(0, 5).called(CallbackKind.ASSIGN, partitions(5))
    assert scene.returned().machine.is_settled


def test_cooperative_members_give_up_topics_that_they_are_no_longer_subscribed_to_before_they_join() -> None:
    scene = stable("cooperative-sticky", 0).subscribe("u").called(CallbackKind.REVOKE, partitions(0))
    assert decode_subscription(scene.returned().the(SendJoin).protocols[0][1]).owned == ()


def test_a_cooperative_member_beats_while_its_join_waits_for_others() -> None:
    scene = stable("cooperative-sticky", 0).beat(ErrorCode.REBALANCE_IN_PROGRESS)
    for _ in range(30):  # far beyond the session timeout
        scene.beat(ErrorCode.REBALANCE_IN_PROGRESS)
        assert not scene.has(CallListener)
    # Once the others are in, the old generation is over: no reason to worry.
    scene.beat(ErrorCode.ILLEGAL_GENERATION)
    assert not scene.has(CallListener)


def test_an_old_generation_is_no_proof_of_anything() -> None:
    scene = stable("cooperative-sticky", 0).beat(ErrorCode.REBALANCE_IN_PROGRESS)
    for _ in range(SESSION_MS // BEAT_MS - 1):
        scene.beat(ErrorCode.ILLEGAL_GENERATION)
        assert not scene.has(CallListener)
    scene.wait(BEAT_MS).called(CallbackKind.LOSE, partitions(0))


def test_a_rebalance_that_comes_before_the_assignment_is_joined_at_once() -> None:
    scene = Scene().subscribe("t").joined(1)
    scene.step(SyncAnswered(scene.the(SendSync).request, ErrorCode.REBALANCE_IN_PROGRESS))
    assert scene.the(SendJoin).member_id == "me"


def test_a_subscription_that_changes_during_a_join_takes_effect_after_it() -> None:
    scene = Scene().subscribe("t")
    join = scene.the(SendJoin)
    scene.subscribe("u")
    assert not scene.actions
    scene.step(
        JoinAnswered(request=join.request, generation=1, protocol_name="range", leader="x", member_id="me")
    )
    scene.assigned(0).called(CallbackKind.ASSIGN, partitions(0))
    scene.returned().called(CallbackKind.REVOKE, partitions(0))
    assert decode_subscription(scene.returned().the(SendJoin).protocols[0][1]).topics == ("u",)


# Being out


@pytest.mark.parametrize(
    ("code", "member_id"), [(ErrorCode.UNKNOWN_MEMBER_ID, ""), (ErrorCode.ILLEGAL_GENERATION, "me")]
)
@pytest.mark.parametrize("assignor", ["range", "cooperative-sticky"])
def test_a_member_that_is_out_loses_everything_and_then_joins_anew(
    code: ErrorCode, member_id: str, assignor: str
) -> None:
    scene = stable(assignor, 0).beat(code).called(CallbackKind.LOSE, partitions(0))
    assert scene.machine.generation == -1
    assert not scene.has(SendJoin)
    assert not scene.returned().has(SendJoin)
    join = scene.wait(200).the(SendJoin)
    assert join.member_id == member_id
    assert decode_subscription(join.protocols[0][1]).owned == ()


def test_a_loss_replaces_the_revoke_under_way() -> None:
    scene = (
        stable("range", 0).beat(ErrorCode.REBALANCE_IN_PROGRESS).called(CallbackKind.REVOKE, partitions(0))
    )
    revoke = scene.the(CallListener).callback
    scene.beat(ErrorCode.UNKNOWN_MEMBER_ID).called(CallbackKind.LOSE, partitions(0))
    scene.step(CallbackFinished(revoke)).wait(500)
    assert not scene.has(SendJoin), "the loss has not been told yet"
    assert scene.returned().has(SendJoin)


@pytest.mark.parametrize("assignor", ["range", "cooperative-sticky"])
def test_silence_for_a_session_timeout_is_a_loss(assignor: str) -> None:
    scene = stable(assignor, 0).wait(BEAT_MS)
    sent = scene.the(SendHeartbeat)
    scene.wait(SESSION_MS - BEAT_MS - 1)
    assert not scene.has(CallListener)
    scene.wait(1).called(CallbackKind.LOSE, partitions(0))
    scene.step(HeartbeatAnswered(sent.request, ErrorCode.NONE))
    assert scene.machine.generation == -1, "an answer that late changes nothing"


def test_the_session_counts_from_when_the_heartbeat_was_sent() -> None:
    scene = stable("range", 0).wait(BEAT_MS)
    sent_ms, request = scene.now_ms, scene.the(SendHeartbeat).request
    scene.wait(5_000).step(HeartbeatAnswered(request, ErrorCode.NONE))
    while scene.now_ms < sent_ms + SESSION_MS - 1:
        scene.wait(1)
        assert not scene.has(CallListener)
    scene.wait(1).called(CallbackKind.LOSE, partitions(0))


def test_heartbeats_are_tried_again_soon_when_the_coordinator_has_moved() -> None:
    scene = stable("range", 0).beat(ErrorCode.NOT_COORDINATOR)
    assert scene.has(ForgetCoordinator)
    assert scene.wait(200).has(SendHeartbeat)


def test_a_lost_connection_is_another_try_at_the_join() -> None:
    scene = Scene().subscribe("t")
    for _ in range(20):
        request = scene.the(SendJoin).request
        scene.step(RequestFailed(request, ConnectionLost("gone"), True))
        assert scene.has(ForgetCoordinator)
        scene.wait(1_500)
    assert scene.has(SendJoin)


def test_a_cluster_that_was_never_reached_is_told_to_the_user() -> None:
    scene = Scene().subscribe("t")
    while not scene.has(End):
        scene.step(RequestFailed(scene.the(SendJoin).request, BootstrapFailed("nobody"), True))
        if not scene.has(End):
            scene.wait(1_500)
    assert isinstance(scene.the(End).error, BootstrapFailed)


def test_a_coordinator_that_loads_is_not_looked_for_elsewhere() -> None:
    scene = Scene().subscribe("t")
    scene.step(
        JoinAnswered(request=scene.the(SendJoin).request, error_code=ErrorCode.COORDINATOR_LOAD_IN_PROGRESS)
    )
    assert not scene.has(ForgetCoordinator)
    assert scene.wait(200).has(SendJoin)


@pytest.mark.parametrize(
    "code",
    [
        ErrorCode.FENCED_INSTANCE_ID,
        ErrorCode.INCONSISTENT_GROUP_PROTOCOL,
        ErrorCode.GROUP_AUTHORIZATION_FAILED,
        ErrorCode.GROUP_MAX_SIZE_REACHED,
        ErrorCode.INVALID_SESSION_TIMEOUT,
        ErrorCode.INVALID_GROUP_ID,
    ],
)
def test_what_cannot_be_mended_ends_it(code: ErrorCode) -> None:
    scene = Scene().subscribe("t")
    scene.step(JoinAnswered(request=scene.the(SendJoin).request, error_code=code))
    error = scene.the(End).error
    assert isinstance(error, BrokerError)
    assert error.code == code
    assert scene.machine.deadline_ms is None


def test_a_fenced_member_loses_everything_before_it_ends() -> None:
    scene = stable("range", 0).beat(ErrorCode.FENCED_INSTANCE_ID).called(CallbackKind.LOSE, partitions(0))
    assert isinstance(scene.the(End).error, GroupFenced)


def test_an_assignor_that_one_does_not_have_ends_it() -> None:
    scene = Scene().subscribe("t")
    request = scene.the(SendJoin).request
    scene.step(JoinAnswered(request=request, generation=1, protocol_name="fair", member_id="me"))
    assert scene.has(End)


# The user


def test_a_user_who_is_late_loses_everything_and_leaves_until_they_are_back() -> None:
    scene = stable("range", 0)
    while scene.now_ms < 1_000_000 + POLL_MS:
        scene.wait(BEAT_MS, ms_since_poll=scene.now_ms - 1_000_000)
        if scene.has(SendHeartbeat):
            scene.step(HeartbeatAnswered(scene.the(SendHeartbeat).request, ErrorCode.NONE))
            assert not scene.has(CallListener)
    scene.wait(1, ms_since_poll=POLL_MS).called(CallbackKind.LOSE, partitions(0))
    assert scene.the(SendLeave).member_id == "me"
    assert scene.has(AwaitPolled)
    scene.returned().wait(POLL_MS * 3, ms_since_poll=POLL_MS * 4)
    assert not scene.actions
    assert scene.machine.deadline_ms is None
    assert scene.step(Polled()).the(SendJoin).member_id == ""


def test_a_user_who_takes_their_time_with_nothing_in_hand_stays_in() -> None:
    scene = stable("range", 0)
    for _ in range(3 * POLL_MS // BEAT_MS):
        scene.beat(ErrorCode.NONE)
        assert not scene.has(SendLeave)


def test_a_static_member_that_is_late_does_not_tell() -> None:
    scene = stable("range", 0, instance_id="s").beat(ErrorCode.NONE)
    scene.wait(1, ms_since_poll=POLL_MS).called(CallbackKind.LOSE, partitions(0))
    assert not scene.has(SendLeave)


def test_leaving_revokes_then_tells_then_ends() -> None:
    scene = stable("range", 0).step(LeaveWanted()).called(CallbackKind.REVOKE, partitions(0))
    leave = scene.returned().the(SendLeave)
    assert leave.member_id == "me"
    assert scene.step(LeaveAnswered(leave.request)).the(End).error is None


def test_a_static_member_leaves_without_telling() -> None:
    scene = stable("range", 0, instance_id="s").step(LeaveWanted()).called(CallbackKind.REVOKE, partitions(0))
    scene.returned()
    assert not scene.has(SendLeave)
    assert scene.the(End).error is None


def test_leaving_during_a_join_abandons_it() -> None:
    scene = stable("cooperative-sticky", 0).beat(ErrorCode.REBALANCE_IN_PROGRESS)
    join = scene.the(SendJoin)
    scene.step(LeaveWanted()).called(CallbackKind.REVOKE, partitions(0))
    assert scene.the(AbandonRequest).request == join.request
    assert scene.returned().has(SendLeave)


def test_leaving_waits_for_the_call_under_way() -> None:
    scene = Scene().subscribe("t").joined(1).assigned(0).step(LeaveWanted())
    assert not scene.has(CallListener)
    scene.returned().called(CallbackKind.REVOKE, partitions(0))


def test_a_coordinator_that_does_not_answer_a_leave_does_not_hold_it_up() -> None:
    scene = stable("range").step(LeaveWanted())
    assert scene.has(SendLeave)
    scene.wait(LEAVE_TIMEOUT_MS - 1)
    assert not scene.has(End)
    assert scene.wait(1).has(End)


def test_a_leave_whose_connection_is_lost_is_tried_once_more() -> None:
    scene = stable("range").step(LeaveWanted())
    scene.step(RequestFailed(scene.the(SendLeave).request, ConnectionLost("gone"), True))
    scene.step(RequestFailed(scene.the(SendLeave).request, ConnectionLost("gone"), True))
    assert scene.has(End)


def test_unsubscribing_leaves_and_another_subscription_joins_again() -> None:
    scene = stable("range", 0).step(SubscriptionChanged(None)).called(CallbackKind.REVOKE, partitions(0))
    assert scene.returned().the(SendLeave).member_id == "me"
    assert scene.wait(POLL_MS * 2).machine.deadline_ms is None
    assert scene.subscribe("u").the(SendJoin).member_id == ""


def test_an_unsubscription_during_a_join_takes_effect_at_once() -> None:
    scene = Scene().subscribe("t")
    request = scene.the(SendJoin).request
    scene.step(SubscriptionChanged(None))
    assert scene.the(AbandonRequest).request == request
    assert scene.machine.phase is Phase.OUT
