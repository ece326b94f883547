"""A group of the consumer protocol under any order of heartbeats, lost answers, lag, crashes, returns, timeouts, topics and restarts.

What must hold (PROPERTIES G1, G3), after every single step: no partition is held by two members; what a client that is still a member
takes for its own, the coordinator holds for it; the index of holders is what the members' records say; nothing is shown that
could still fail to be stored. When all comes to rest: every partition of every subscribed topic has exactly one owner, everybody is at the
group's epoch, targets are balanced, and a group restored from the log is the same group.
"""

from collections import Counter

import hypothesis.strategies as st
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from tests.support.consumer_group_members import Client, FakeTopics, GroupBench, Partition, flat, restored
from tests.support.examples import examples

from penstock.broker.groups.consumer_group_events import (
    LEAVE_EPOCH,
    STATIC_LEAVE_EPOCH,
    ConsumerGroupLimits,
    ConsumerGroupState,
    ConsumerHeartbeat,
    ConsumerHeartbeatReply,
    DescribeRequested,
)
from penstock.broker.groups.consumer_group_state import StoredGroup
from penstock.protocol.errors import ErrorCode

SLOTS = st.integers(0, 4)
TOPIC_NAMES = ("a1", "a2", "b1")
SUBSCRIPTIONS = st.sampled_from(
    [
        (("a1",), ""),
        (("a1", "a2"), ""),
        (("a2", "b1"), ""),
        (("missing",), ""),
        ((), "a.*"),
        (("b1",), "a[12]"),
        ((), "b1"),
    ]
)
ALIKE = (("a1", "a2"), "")
LIMITS = ConsumerGroupLimits(session_timeout_ms=45_000)


class GroupTrial(RuleBasedStateMachine):
    """One run."""

    def __init__(self) -> None:
        super().__init__()
        self.topics = FakeTopics(a1=3, a2=2)
        self.bench = GroupBench(self.topics, LIMITS)
        self.bench.lands_at_once = False
        self.clients: dict[int, Client] = {}
        self.born = 0

    # Members come, write, lag and go. A number picks one of those that are there.

    @rule(
        slot=SLOTS,
        subscription=st.one_of(st.just(ALIKE), SUBSCRIPTIONS),
        is_static=st.booleans(),
        is_slow=st.booleans(),
    )
    def start(
        self, slot: int, subscription: tuple[tuple[str, ...], str], is_static: bool, is_slow: bool
    ) -> None:
        """A client starts where there is none; a static one may be the successor of one that crashed or left."""
        if slot in self.clients:
            return
        self.born += 1
        client = Client(f"m{self.born}", names=subscription[0], regex=subscription[1])
        client.instance_id = f"i{slot}" if is_static else None
        client.is_slow = is_slow
        self.clients[slot] = client
        self.send(client)

    @precondition(lambda self: self.clients)
    @rule(place=SLOTS, how_far=st.sampled_from([3, 3, 3, 2, 1, 0]))
    def beat(self, place: int, how_far: int) -> None:
        """A heartbeat; perhaps with its store landing at once, its answer coming, and what follows from that."""
        client = self.pick(place)
        if client.waits_for is None:
            self.send(client)
        if how_far >= 1 and self.bench.store is not None:
            self.bench.land()
        if how_far >= 2:
            self.receive(client)
        if how_far >= 3 and not client.is_slow:
            client.reconcile()

    @precondition(lambda self: len(self.clients) > 1)
    @rule(place=SLOTS, other=SLOTS)
    def two_beat(self, place: int, other: int) -> None:
        """Two members in turn, as far as they get without waiting for anybody."""
        for at in (place, other, place, other):
            self.beat(at, 3)

    @precondition(lambda self: self.clients)
    @rule(place=SLOTS, happens=st.sampled_from(["answer", "miss", "reconcile"]))
    def answers_and_lag(self, place: int, happens: str) -> None:
        """The answer comes late; or the client gives up waiting, while its request may be handled yet or have been; or it catches up."""
        client = self.pick(place)
        if happens == "answer":
            self.receive(client)
        elif happens == "reconcile":
            client.reconcile()
        elif client.waits_for is not None:
            client.miss()

    @precondition(lambda self: self.clients)
    @rule(place=SLOTS, subscription=SUBSCRIPTIONS)
    def subscribe(self, place: int, subscription: tuple[tuple[str, ...], str]) -> None:
        client = self.pick(place)
        client.names, client.regex = subscription

    @precondition(lambda self: self.clients)
    @rule(place=SLOTS, how=st.sampled_from(["crash", "leave", "step out"]))
    def go(self, place: int, how: str) -> None:
        """A member crashes; or it gives everything up and says so. A static member may only step out."""
        client = self.pick(place)
        self.clients = {slot: other for slot, other in self.clients.items() if other is not client}
        if how == "crash":
            return
        is_static = how == "step out" and client.instance_id is not None
        self.bench.step(
            ConsumerHeartbeat(
                token=self.bench.token(),
                member_id=client.member_id,
                member_epoch=STATIC_LEAVE_EPOCH if is_static else LEAVE_EPOCH,
                instance_id=client.instance_id,
            )
        )

    # The rest of the world.

    @precondition(lambda self: self.bench.store is not None)
    @rule(fails=st.booleans(), landed_count=st.integers(0, 12))
    def store_lands(self, fails: bool, landed_count: int) -> None:
        code = ErrorCode.COORDINATOR_NOT_AVAILABLE if fails else ErrorCode.NONE
        self.bench.land(code, landed_count=landed_count)

    @rule(duration_ms=st.sampled_from([1, 5_000, 20_000, 46_000, 61_000]))
    def time_passes(self, duration_ms: int) -> None:
        self.bench.pass_time(duration_ms)

    @rule(name=st.sampled_from(TOPIC_NAMES), partition_count=st.integers(0, 6))
    def topics_change(self, name: str, partition_count: int) -> None:
        """A topic is made or grows, or (0) is deleted."""
        known = self.topics.topic(name)
        if partition_count == 0:
            self.topics.delete(name)
        elif known is None or known.partition_count < partition_count:
            self.topics.put(name, partition_count)
        self.bench.change_topics()

    @rule(landed=st.integers(0, 8))
    def coordinator_restarts(self, landed: int) -> None:
        """Whoever waits for an answer waits for nothing; a store under way has landed in part."""
        self.bench.restart(landed)
        self.bench.replies.clear()
        for client in self.clients.values():
            if client.waits_for is not None:
                client.miss()

    def pick(self, place: int) -> Client:
        """One of the clients."""
        return list(self.clients.values())[place % len(self.clients)]

    def send(self, client: Client) -> None:
        """Its next heartbeat."""
        self.bench.step(client.heartbeat(self.bench.token()))

    def receive(self, client: Client) -> None:
        """The answer it waits for, if it is there."""
        reply = self.bench.replies.pop(client.waits_for or 0, None)
        if reply is not None:
            assert isinstance(reply, ConsumerHeartbeatReply)
            client.take(reply)

    # What holds at any time.

    @invariant()
    def no_partition_has_two_holders(self) -> None:
        stored = self.bench.group.stored
        holders: dict[Partition, str] = {}
        for member_id, current in stored.currents.items():
            assert not flat(current.assigned) & flat(current.pending_revocation)
            for partition in flat(current.assigned) | flat(current.pending_revocation):
                assert holders.setdefault(partition, member_id) == member_id, "two holders"
                assert stored.holder(*partition) == member_id
        assert set(stored.currents) <= set(stored.members)

    def check_clients(self, stored: StoredGroup) -> None:
        """Who owns what is not held for it is one whom its next heartbeat will tell that it is fenced."""
        for client in self.clients.values():
            current = stored.current(client.member_id)
            is_fenced = client.member_id not in stored.members or client.epoch > current.member_epoch
            held = flat(current.assigned) | flat(current.pending_revocation)
            assert is_fenced or client.owned <= held, f"{client.member_id} uses what others may be given"

    @invariant()
    def clients_own_what_is_held_for_them(self) -> None:
        self.check_clients(self.bench.group.stored)

    @invariant()
    def what_is_committed_is_all_that_is_shown(self) -> None:
        """An answer came only from what a restart would find: so a restart right now keeps every promise made."""
        stored = restored(self.bench.log, self.topics, LIMITS, self.bench.now_ms).stored
        holders: dict[Partition, str] = {}
        for member_id, current in stored.currents.items():
            for partition in flat(current.assigned) | flat(current.pending_revocation):
                assert holders.setdefault(partition, member_id) == member_id
        self.check_clients(stored)

    @invariant()
    def somebody_wakes_the_group(self) -> None:
        group = self.bench.group
        if self.bench.store is None and group.stored.members:
            assert group.deadline_ms is not None, "a member that can't expire"

    # What holds in the end.

    def teardown(self) -> None:
        """Everything comes to rest."""
        self.bench.lands_at_once = True
        if self.bench.store is not None:
            self.bench.land()
        for client in self.clients.values():
            if client.waits_for is not None:
                self.receive(client)
            if client.waits_for is not None:
                client.miss()
        clients = tuple(self.clients.values())
        for _ in range(4):  # who has crashed expires; who is alive goes on writing
            self.bench.pass_time(20_000)
            self.bench.settle(*clients, rounds=1)
        self.bench.settle(*clients, rounds=2 * len(clients) + 4)
        self.check_rest(clients)

    def check_rest(self, clients: tuple[Client, ...]) -> None:
        """At rest."""
        group = self.bench.group
        assert set(group.stored.members) == {client.member_id for client in clients}
        assert group.state is (ConsumerGroupState.STABLE if clients else ConsumerGroupState.EMPTY)
        owners = Counter(partition for client in clients for partition in client.owned)
        wanted: set[Partition] = set()
        for client in clients:
            assert client.last_error is ErrorCode.NONE
            assert client.epoch == group.stored.assignment_epoch == group.stored.epoch
            assert client.owned == client.given == flat(group.stored.target(client.member_id))
            topics = [self.topics.topic(name) for name in self.subscribed(client)]
            mine = {(t.topic_id, index) for t in topics if t for index in range(t.partition_count)}
            assert client.owned <= mine, "it has what it does not want"
            wanted |= mine
        assert owners == Counter(wanted)
        if clients and len({self.subscribed(client) for client in clients}) == 1:
            sizes = [len(client.owned) for client in clients]
            assert max(sizes) - min(sizes) <= 1
        self.bench.step(
            DescribeRequested(token=self.bench.token())
        )  # whatever a failed store left in the log is taken back
        again = restored(self.bench.log, self.topics, LIMITS, self.bench.now_ms).stored
        assert vars(again) == vars(group.stored)

    def subscribed(self, client: Client) -> frozenset[str]:
        """The topics that a client wants."""
        matched = self.topics.match(client.regex) if client.regex else frozenset[str]()
        return frozenset(name for name in client.names if self.topics.topic(name)) | matched


GroupTrial.TestCase.settings = settings(max_examples=examples(250), stateful_step_count=60, deadline=None)
TestGroupTrial = GroupTrial.TestCase
