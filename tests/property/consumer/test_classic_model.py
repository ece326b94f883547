"""The classic member against any order of answers, errors and silences: what must always hold.

The coordinator here is chance itself: it answers whatever it likes. What is checked is what the member decides for itself.
"""

import random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.support.examples import examples

from penstock.client.errors import BootstrapFailed
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
from penstock.consumer.classic_machine import ClassicMachine, Phase
from penstock.consumer.membership import MembershipOptions
from penstock.consumer.membership_events import (
    AbandonRequest,
    AwaitPolled,
    CallbackFinished,
    CallbackKind,
    CallListener,
    End,
    LeaveWanted,
    Polled,
    RequestFailed,
    TimePassed,
)
from penstock.protocol.consumer_protocol import (
    ConsumerAssignment,
    ConsumerSubscription,
    decode_subscription,
    encode_assignment,
    encode_subscription,
)
from penstock.protocol.errors import ErrorCode
from penstock.runtime.network import ConnectionLost

SESSION_MS, BEAT_MS, POLL_MS = 1_000, 300, 4_000
MENDED = [
    ErrorCode.COORDINATOR_LOAD_IN_PROGRESS,
    ErrorCode.COORDINATOR_NOT_AVAILABLE,
    ErrorCode.NOT_COORDINATOR,
    ErrorCode.REBALANCE_IN_PROGRESS,
    ErrorCode.UNKNOWN_MEMBER_ID,
    ErrorCode.ILLEGAL_GENERATION,
    ErrorCode.MEMBER_ID_REQUIRED,
]
FATAL = [ErrorCode.FENCED_INSTANCE_ID, ErrorCode.GROUP_AUTHORIZATION_FAILED, ErrorCode.UNKNOWN_SERVER_ERROR]


class World:
    """One member, its listener, and everything that is under way."""

    def __init__(self, seed: int, assignor: str, *, is_static: bool) -> None:
        self.chance = random.Random(seed)
        options = MembershipOptions(
            session_timeout_ms=SESSION_MS,
            heartbeat_interval_ms=BEAT_MS,
            max_poll_interval_ms=POLL_MS,
            group_instance_id="s" if is_static else None,
        )
        self.is_cooperative = assignor == "cooperative-sticky"
        self.is_static = is_static
        self.machine = ClassicMachine(options, find_assignors([assignor]), self.chance.random)
        self.now_ms = 1_000_000.0
        self.owned: frozenset[TopicPartition] = frozenset()
        self.call: CallListener | None = None
        self.requests: dict[int, Any] = {}
        self.sent_ms: dict[int, float] = {}
        self.confirmed_ms = self.now_ms
        self.generation = 0
        self.ended: End | None = None
        self.ms_since_poll: float | None = None
        self.is_late = False
        self.is_calm = False  # the coordinator gives the same again and again

    def step(self, event: Event) -> None:
        actions = self.machine.step(event, self.now_ms)
        for action in actions:
            self.do(action)
        self.check()

    def do(self, action: Action) -> None:
        assert self.ended is None, f"{action} after the end"
        match action:
            case CallListener():
                self.begin_call(action)
            case SendJoin() | FetchTopics() | SendSync() | SendHeartbeat() | SendLeave():
                self.send(action)
            case AbandonRequest():
                self.requests.pop(action.request, None)
            case AwaitPolled():
                self.is_late = True
            case End():
                self.ended = action
                assert not self.owned, "the end with something in hand"
            case _:
                pass

    def begin_call(self, call: CallListener) -> None:
        assert call.partitions, "a call about nothing"
        if call.kind is CallbackKind.ASSIGN:
            assert self.call is None
            assert not call.partitions & self.owned, "given twice"
            self.owned |= call.partitions
        elif call.kind is CallbackKind.REVOKE:
            assert self.call is None
            assert call.partitions <= self.owned
        else:
            assert call.partitions == self.owned, "a loss is of everything"
            self.owned = frozenset()
        self.call = call

    def send(self, action: SendJoin | FetchTopics | SendSync | SendHeartbeat | SendLeave) -> None:
        assert action.request not in self.sent_ms, "a request number is used once"
        self.requests[action.request] = action
        self.sent_ms[action.request] = self.now_ms
        if isinstance(action, SendJoin):
            assert self.call is None, "no join while the listener is at it"
            told = decode_subscription(action.protocols[0][1])
            owned = frozenset(TopicPartition(*partition) for partition in told.owned)
            assert owned == self.owned
            assert self.is_cooperative or not self.owned, "an eager member joins with empty hands"
            assert {partition.topic for partition in owned} <= set(told.topics)
        if isinstance(action, SendHeartbeat):
            alive = [other for other in self.requests.values() if isinstance(other, SendHeartbeat)]
            assert all(other.generation != action.generation or other is action for other in alive)
        if isinstance(action, SendLeave):
            assert not self.is_static
            assert action.member_id

    def check(self) -> None:
        if self.owned:
            assert self.now_ms - self.confirmed_ms < SESSION_MS, "owned, and nobody confirmed it"
            assert not self.is_late, "owned by a user who is away"
        deadline_ms = self.machine.deadline_ms
        if self.ended is None and not self.requests and self.call is None and not self.is_late:
            is_waiting = self.machine.phase is Phase.OUT and self.machine.member_id == ""
            assert deadline_ms is not None or is_waiting, "nothing will ever happen"

    # What may happen

    def tick(self, ms: float) -> None:
        """Time goes on, with a look at each deadline."""
        end_ms = self.now_ms + ms
        for _ in range(200):
            deadline_ms = self.machine.deadline_ms
            if deadline_ms is None or deadline_ms > end_ms or self.ended is not None:
                break
            before_ms = self.now_ms
            self.now_ms = max(self.now_ms, deadline_ms)
            if self.ms_since_poll is not None:
                self.ms_since_poll += self.now_ms - before_ms
            self.step(TimePassed(self.ms_since_poll))
        else:
            raise AssertionError(f"it does not come to rest: {self.machine.phase}")
        if self.ms_since_poll is not None:
            self.ms_since_poll += end_ms - self.now_ms
        self.now_ms = end_ms

    def answer(self, *, kindly: bool) -> None:
        if not self.requests:
            return
        action = self.requests.pop(self.chance.choice(list(self.requests)))
        roll = 0.0 if kindly else self.chance.random()
        if roll > 0.97:
            error = self.chance.choice([ConnectionLost("gone"), BootstrapFailed("nobody")])
            self.step(RequestFailed(action.request, error, self.chance.random() < 0.9))
        elif roll > 0.8:
            self.step(RequestFailed(action.request, ConnectionLost("gone"), True))
        else:
            code = ErrorCode.NONE
            if roll > 0.5:
                code = self.chance.choice(MENDED if roll < 0.795 else FATAL)
            self.answer_with(action, code)

    def answer_with(self, action: Any, code: ErrorCode) -> None:
        confirms = code in (ErrorCode.NONE, ErrorCode.REBALANCE_IN_PROGRESS)
        match action:
            case SendHeartbeat():
                if confirms and action.generation == self.machine.generation:
                    self.confirmed_ms = max(self.confirmed_ms, self.sent_ms[action.request])
                self.step(HeartbeatAnswered(action.request, code))
            case SendJoin():
                self.generation += 1
                self.step(self.join_answer(action, code))
            case FetchTopics():
                counts = {topic: self.chance.randrange(4) for topic in action.topics}
                self.step(TopicsFetched(action.request, counts))
            case SendSync():
                if code == ErrorCode.NONE:
                    self.confirmed_ms = max(self.confirmed_ms, self.sent_ms[action.request])
                drawn = {(self.chance.choice("tu"), self.chance.randrange(4)) for _ in range(3)}
                given = (("t", 0), ("u", 0)) if self.is_calm else tuple(drawn)
                self.step(SyncAnswered(action.request, code, encode_assignment(ConsumerAssignment(given))))
            case _:
                self.step(LeaveAnswered(action.request))

    def join_answer(self, action: SendJoin, code: ErrorCode) -> JoinAnswered:
        told = encode_subscription(ConsumerSubscription(("t", "u")))
        leads = self.chance.random() < 0.5
        return JoinAnswered(
            request=action.request,
            error_code=code,
            generation=self.generation if code == ErrorCode.NONE else -1,
            protocol_name=action.protocols[0][0],
            leader="m" if leads else "other",
            skip_assignment=self.chance.random() < 0.1,
            member_id="m" if code in (ErrorCode.NONE, ErrorCode.MEMBER_ID_REQUIRED) else "",
            members=[JoinedMember("m", None, told), JoinedMember("o", None, told)] if leads else [],
        )

    def return_from_call(self) -> None:
        if self.call is not None:
            call, self.call = self.call, None
            if call.kind is CallbackKind.REVOKE:
                self.owned -= call.partitions
            self.step(CallbackFinished(call.callback))

    def poll(self) -> None:
        self.ms_since_poll = self.chance.choice([None, 0.0])
        if self.is_late:
            self.is_late = False
            self.step(Polled())

    def happen(self) -> None:
        """Something."""
        choice = self.chance.random()
        if choice < 0.35:
            self.answer(kindly=False)
        elif choice < 0.6:
            self.return_from_call()
        elif choice < 0.85:
            self.tick(self.chance.choice([1, 50, 300, 900, 2_500]))
        elif choice < 0.93:
            self.poll()
        elif choice < 0.97:
            topics = self.chance.choice(
                [frozenset("t"), frozenset("tu"), frozenset("u"), None, frozenset("")]
            )
            self.step(SubscriptionChanged(topics))
        else:
            self.step(TopicsSeen({"t": self.chance.randrange(3), "u": 1}))


@pytest.mark.parametrize("is_static", [False, True], ids=["dynamic", "static"])
@pytest.mark.parametrize("assignor", ["range", "sticky", "cooperative-sticky"])
@settings(max_examples=examples(300), deadline=None)
@given(seed=st.integers(0, 2**32), kindness=st.sampled_from([0.0, 0.5, 0.9]))
def test_whatever_the_coordinator_does_the_member_stays_safe_and_comes_to_rest(
    assignor: str, is_static: bool, seed: int, kindness: float
) -> None:
    world = World(seed, assignor, is_static=is_static)
    world.step(SubscriptionChanged(frozenset("t")))
    for _ in range(120):
        if world.chance.random() < kindness:
            world.answer(kindly=True)
            world.return_from_call()
        else:
            world.happen()
        if world.ended is not None:
            return
    # From here on everything goes well: it settles.
    world.is_calm = True
    world.step(SubscriptionChanged(frozenset("tu")))
    world.ms_since_poll = None
    for _ in range(300):
        world.poll()
        world.ms_since_poll = None
        world.return_from_call()
        world.answer(kindly=True)
        if not world.requests:
            world.tick(100)
        if world.machine.is_settled or world.ended is not None:
            break
    assert world.machine.is_settled or world.ended is not None
    world.step(LeaveWanted())
    for _ in range(10):
        world.return_from_call()
        world.answer(kindly=True)
    assert world.ended is not None
    assert world.ended.error is None or world.machine.phase is Phase.ENDED
