"""KIP-848 members against a coordinator that keeps to the protocol, while answers are lost, late or errors.

The coordinator is a small one, written after CurrentAssignmentBuilder: it gives a partition to a member only when no other one has it. So a
member that acknowledges too early, or keeps something that it was told to give up, shows as a partition with two owners.
"""

import random
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from tests.support.examples import examples

from penstock.client.metadata import TopicPartition
from penstock.consumer.consumer_events import (
    Action,
    Event,
    FetchTopicNames,
    HeartbeatAnswered,
    SendHeartbeat,
    SubscriptionChanged,
    TopicNamesFetched,
)
from penstock.consumer.consumer_machine import ConsumerMachine
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
from penstock.consumer.subscription import Subscription
from penstock.protocol.errors import ErrorCode
from penstock.runtime.network import ConnectionLost

# The broker's session is as long as the member's: who was silent that long knows it, too.
SESSION_MS, BEAT_MS, POLL_MS = 2_000, 300, 5_000
TOPIC_ID, COUNT = b"t" * 16, 6
EVERYTHING = frozenset(range(COUNT))


class Coordinator:
    """Even shares; takes before it gives."""

    def __init__(self) -> None:
        self.epoch = 0
        self.epochs: dict[str, int] = {}
        self.given: dict[str, set[int]] = {}  # what a member may have
        self.revoking: dict[str, set[int]] = {}  # what it was told to give up, and since when
        self.revoking_since_ms: dict[str, float] = {}
        self.seen_ms: dict[str, float] = {}

    def pass_time(self, now_ms: float) -> None:
        for name in list(self.epochs):
            late = name in self.revoking_since_ms and now_ms - self.revoking_since_ms[name] >= POLL_MS
            if late or now_ms - self.seen_ms[name] >= SESSION_MS:
                self.remove(name)

    def remove(self, name: str) -> None:
        for table in (self.epochs, self.given, self.revoking, self.revoking_since_ms, self.seen_ms):
            table.pop(name, None)
        self.epoch += 1

    def heartbeat(self, name: str, sent: SendHeartbeat, now_ms: float) -> HeartbeatAnswered:
        self.pass_time(now_ms)
        if sent.member_epoch < 0:
            self.remove(name)
            return HeartbeatAnswered(request=sent.request, member_epoch=sent.member_epoch)
        if sent.member_epoch == 0:
            if name in self.epochs:
                self.remove(name)
            self.epoch += 1
            self.given[name], self.revoking[name] = set(), set()
        elif self.epochs.get(name) != sent.member_epoch:
            code = ErrorCode.FENCED_MEMBER_EPOCH if name in self.epochs else ErrorCode.UNKNOWN_MEMBER_ID
            return HeartbeatAnswered(request=sent.request, error_code=code)
        self.seen_ms[name] = now_ms
        self.epochs[name] = self.epoch
        if sent.owned is not None:
            owned = set(sent.owned.get(TOPIC_ID, ()))
            self.revoking[name] &= owned
        self.reconcile(name, now_ms)
        return HeartbeatAnswered(
            request=sent.request,
            member_epoch=self.epoch,
            heartbeat_interval_ms=BEAT_MS,
            assignment={TOPIC_ID: tuple(sorted(self.given[name]))},
        )

    def reconcile(self, name: str, now_ms: float) -> None:
        names = sorted(self.epochs)
        target = {index for index in EVERYTHING if names[index % len(names)] == name}
        taken = self.given[name] - target
        self.revoking[name] |= taken
        self.given[name] &= target
        if not self.revoking[name]:
            self.revoking_since_ms.pop(name, None)
            others = [self.given[other] | self.revoking[other] for other in names if other != name]
            self.given[name] |= target - set().union(*others)
        elif taken:
            self.revoking_since_ms.setdefault(name, now_ms)


class Member:
    """One member, its listener and its requests."""

    def __init__(self, name: str, world: "World") -> None:
        self.name, self.world = name, world
        options = MembershipOptions(session_timeout_ms=SESSION_MS, max_poll_interval_ms=POLL_MS)
        self.machine = ConsumerMachine(options, world.chance.random)
        self.owned: frozenset[TopicPartition] = frozenset()
        self.call: CallListener | None = None
        self.requests: dict[int, Any] = {}
        self.late_answers: list[HeartbeatAnswered] = []
        self.ended = False
        self.is_late = False

    def step(self, event: Event) -> None:
        for action in self.machine.step(event, self.world.now_ms):
            self.do(action)
        self.world.check()

    def do(self, action: Action) -> None:
        match action:
            case SendHeartbeat() | FetchTopicNames():
                self.requests[action.request] = action
            case AbandonRequest():
                self.requests.pop(action.request, None)
            case CallListener():
                self.begin_call(action)
            case AwaitPolled():
                self.is_late = True
            case End():
                self.ended = True
                assert not self.owned
            case _:
                pass

    def begin_call(self, call: CallListener) -> None:
        assert call.partitions
        if call.kind is CallbackKind.ASSIGN:
            assert not call.partitions & self.owned
            self.owned |= call.partitions
        elif call.kind is CallbackKind.LOSE:
            assert call.partitions == self.owned
            self.owned = frozenset()
        self.call = call

    def return_from_call(self) -> None:
        if self.call is not None:
            call, self.call = self.call, None
            if call.kind is CallbackKind.REVOKE:
                self.owned -= call.partitions
            self.step(CallbackFinished(call.callback))

    def take_late_answers(self) -> None:
        answers, self.late_answers = self.late_answers, []
        for answer in answers:
            self.step(answer)

    def answer(self, *, kindly: bool) -> None:
        if not self.requests:
            return
        request = next(iter(self.requests))
        action = self.requests.pop(request)
        chance = 0.0 if kindly else self.world.chance.random()
        if isinstance(action, FetchTopicNames):
            names = {TOPIC_ID: "t"} if chance < 0.8 else {}
            self.step(TopicNamesFetched(request, names))
            return
        if chance < 0.8:
            self.step(self.world.coordinator.heartbeat(self.name, action, self.world.now_ms))
        elif chance < 0.88:
            if chance < 0.84:  # it came, and the answer was lost
                self.world.coordinator.heartbeat(self.name, action, self.world.now_ms)
            self.step(RequestFailed(request, ConnectionLost("gone"), True))
        elif chance < 0.96:
            self.late_answers.append(self.world.coordinator.heartbeat(self.name, action, self.world.now_ms))
        else:
            self.step(HeartbeatAnswered(request=request, error_code=ErrorCode.COORDINATOR_LOAD_IN_PROGRESS))


class World:
    """Some members and their coordinator."""

    def __init__(self, seed: int) -> None:
        self.chance = random.Random(seed)
        self.now_ms = 1_000_000.0
        self.coordinator = Coordinator()
        self.members = [Member(name, self) for name in "abc"]

    def check(self) -> None:
        owned = [partition for member in self.members for partition in member.owned]
        assert len(owned) == len(set(owned)), {member.name: member.owned for member in self.members}

    def tick(self, ms: float) -> None:
        end_ms = self.now_ms + ms
        for _ in range(400):
            due = [
                (deadline_ms, member)
                for member in self.members
                if (deadline_ms := member.machine.deadline_ms) is not None and deadline_ms <= end_ms
            ]
            if not due:
                break
            deadline_ms, member = min(due, key=lambda item: item[0])
            self.now_ms = max(self.now_ms, deadline_ms)
            member.step(TimePassed(None))
            self.coordinator.pass_time(self.now_ms)
        else:
            raise AssertionError("it does not come to rest")
        self.now_ms = end_ms
        self.coordinator.pass_time(end_ms)

    def happen(self) -> None:
        member = self.chance.choice(self.members)
        choice = self.chance.random()
        if choice < 0.4:
            member.answer(kindly=False)
        elif choice < 0.65:
            member.return_from_call()
            member.take_late_answers()
        elif choice < 0.9:
            self.tick(self.chance.choice([1, 100, 300, 700]))
        elif choice < 0.92:
            member.step(TimePassed(POLL_MS + 1.0))
        elif choice < 0.97 and member.is_late:
            member.is_late = False
            member.step(Polled())
        elif choice >= 0.97:
            wanted = self.chance.choice([Subscription(frozenset("t")), Subscription(pattern="t"), None])
            member.step(SubscriptionChanged(wanted))


@settings(max_examples=examples(100), deadline=None)
@given(seed=st.integers(0, 2**32), kindness=st.sampled_from([0.2, 0.6, 0.9]))
def test_no_partition_has_two_owners_and_in_the_end_all_have_one(seed: int, kindness: float) -> None:
    world = World(seed)
    for member in world.members:
        member.step(SubscriptionChanged(Subscription(frozenset("t"))))
    for _ in range(150):
        if world.chance.random() < kindness:
            member = world.chance.choice(world.members)
            member.answer(kindly=True)
            member.return_from_call()
        else:
            world.happen()
    for member in world.members:
        member.take_late_answers()
        member.is_late = False
        member.step(Polled())
        member.step(SubscriptionChanged(Subscription(frozenset("t"))))
    for _ in range(300):
        for member in world.members:
            while member.requests or member.call:
                member.answer(kindly=True)
                member.return_from_call()
        world.tick(100)
    assert {tp.partition for member in world.members for tp in member.owned} == EVERYTHING
    assert all(len(member.owned) == COUNT // 3 for member in world.members)
    for member in world.members:
        member.step(LeaveWanted())
        for _ in range(5):
            member.return_from_call()
            member.answer(kindly=True)
        assert member.ended
