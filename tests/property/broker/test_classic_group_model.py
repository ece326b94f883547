"""A classic group among clients that join, leave, crash, freeze, come late and lie, over a log that fails (PROPERTIES G1, G3).

The clients do what real ones do with the replies they get; the test knows what was handed out to whom. What must hold, whatever comes:

- a generation has one assignment, handed out only after it was stored, disjoint, and to members of the generation only;
- commits, heartbeats and syncs of a stale generation, of a stranger or of a replaced static member are refused;
- every token is answered once; nobody waits longer in a join or a sync than the rebalance timeout, not counting the log's time;
- when everybody behaves again the group is Stable and everything is assigned; when everybody freezes it is Empty and nobody waits.

A failed store may have landed in the log all the same, and a crash of the coordinator may come between a store and its end.
"""

import enum
from dataclasses import dataclass, field

import hypothesis.strategies as st
from hypothesis import HealthCheck, settings
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from tests.support.classic_groups import GroupBench, Reply
from tests.support.examples import examples

from penstock.broker.groups.classic_events import (
    ClassicLimits,
    ClassicState,
    GroupSnapshot,
    HeartbeatReceived,
    HeartbeatReply,
    JoinReply,
    JoinRequested,
    LeaveRequested,
    LeavingMember,
    OffsetCommitted,
    StoreFinished,
    SyncReply,
    SyncRequested,
)
from penstock.protocol.errors import ErrorCode

PARTITIONS = frozenset(range(8))
REBALANCE_TIMEOUTS_MS = (5_000, 20_000, 60_000)
SESSION_TIMEOUTS_MS = (6_000, 10_000, 30_000)
CLIENT_COUNT_MAX = 7
STORE_ERRORS = (ErrorCode.COORDINATOR_NOT_AVAILABLE, ErrorCode.NOT_COORDINATOR)


class Phase(enum.Enum):
    OUT = "has to join"
    JOINED = "has to sync"
    IN = "has its assignment"
    GONE = "left, fenced for good or turned away"


@dataclass
class Client:
    """A consumer as the coordinator's other side."""

    name: str
    instance: str | None
    version: int
    session_ms: int
    rebalance_ms: int
    topics: int = 0
    member_id: str = ""
    generation: int = -1
    phase: Phase = Phase.OUT
    token: int | None = None
    leads: tuple[str, ...] = ()
    """The members to assign to, if it leads."""
    assigned: frozenset[int] = frozenset()
    is_stuck: bool = False
    """Its application hangs, and its heartbeats go on."""
    past: list[tuple[str, int]] = field(default_factory=list[tuple[str, int]])
    """Identities it had: member id and generation."""


def encode(partitions: frozenset[int] | set[int]) -> bytes:
    return bytes(sorted(partitions))


@dataclass(frozen=True)
class Sent:
    """What a client said of itself in a request."""

    key: str
    """Its instance id, or else its member id."""
    generation: int


def assignments_of(snapshot: GroupSnapshot) -> dict[str, bytes]:
    return {member.group_instance_id or member.member_id: member.assignment for member in snapshot.members}


class GroupModel(RuleBasedStateMachine):
    """The group, its clients and its log."""

    def __init__(self) -> None:
        super().__init__()
        self.bench = GroupBench(ClassicLimits(new_member_join_timeout_ms=300_000, group_max_size=6))
        self.bench.witness = self.check_reply
        self.clients: list[Client] = []
        self.sent: dict[int, Sent] = {}
        self.clock_of_waiting: dict[int, int] = {}
        """How long each token has waited while the log owed nothing."""
        self.handed_out: dict[int, dict[str, bytes]] = {}
        """Assignment by member, or instance, for each generation."""
        self.in_log: list[GroupSnapshot] = []
        self.names = 0

    # The clients.

    def settle_replies(self) -> None:
        """Let every client read what has come for it."""
        for client in self.clients:
            if client.token is not None and client.token in self.bench.replies:
                reply = self.bench.replies[client.token]
                client.token = None
                if client.phase is not Phase.GONE:
                    self.read(client, reply)

    def read(self, client: Client, reply: Reply) -> None:
        match reply:
            case JoinReply(error_code=ErrorCode.NONE):
                client.member_id, client.generation = reply.member_id, reply.generation
                client.past.append((client.member_id, client.generation))
                client.phase = Phase.JOINED
                may_assign = reply.leader == reply.member_id and not reply.skip_assignment
                client.leads = tuple(member.member_id for member in reply.members) if may_assign else ()
            case SyncReply(error_code=ErrorCode.NONE):
                client.phase = Phase.IN
                client.assigned = frozenset(reply.assignment)
            case HeartbeatReply(error_code=ErrorCode.NONE):
                pass
            case _:
                self.read_error(client, reply)

    def read_error(self, client: Client, reply: Reply) -> None:
        client.assigned = frozenset()
        client.phase = Phase.OUT
        match reply.error_code:
            case ErrorCode.MEMBER_ID_REQUIRED:
                assert isinstance(reply, JoinReply)
                client.member_id = reply.member_id
            case ErrorCode.UNKNOWN_MEMBER_ID:
                client.member_id = ""
            case ErrorCode.FENCED_INSTANCE_ID | ErrorCode.GROUP_MAX_SIZE_REACHED:
                client.phase = Phase.GONE
            case code:
                assert code in (
                    ErrorCode.REBALANCE_IN_PROGRESS,
                    ErrorCode.ILLEGAL_GENERATION,
                    *STORE_ERRORS,
                )

    def send_join(self, client: Client) -> None:
        self.names += 1
        client.token = self.token(client)
        self.bench.step(
            JoinRequested(
                token=client.token,
                member_id=client.member_id,
                fresh_member_id=f"{client.name}.{self.names}",
                group_instance_id=client.instance,
                session_timeout_ms=client.session_ms,
                rebalance_timeout_ms=client.rebalance_ms,
                protocol_type="consumer",
                protocols=(("range", b"%d" % client.topics), (f"only-{client.name}", b"")),
                requires_known_member_id=client.version >= 4,
                can_skip_assignment=client.version >= 9,
            )
        )

    def send_sync(self, client: Client, salt: int) -> None:
        """A leader deals the partitions to its members, `salt` says in which order."""
        assignments: dict[str, bytes] = {"stranger": b"\x00"}
        for index, member_id in enumerate(client.leads):
            mine = {p for p in PARTITIONS if (p + salt) % len(client.leads) == index}
            assignments[member_id] = encode(mine)
        client.token = self.token(client)
        self.bench.step(
            SyncRequested(
                token=client.token,
                generation=client.generation,
                member_id=client.member_id,
                group_instance_id=client.instance,
                protocol_type="consumer",
                protocol_name="range",
                assignments=assignments,
            )
        )

    def send_heartbeat(self, client: Client) -> int:
        token = self.token(client)
        self.bench.step(
            HeartbeatReceived(
                token=token,
                generation=client.generation,
                member_id=client.member_id,
                group_instance_id=client.instance,
            )
        )
        return token

    def token(self, client: Client | None = None) -> int:
        token = self.bench.token()
        if client is not None:
            self.sent[token] = Sent(client.instance or client.member_id, client.generation)
        self.clock_of_waiting[token] = 0
        return token

    def act(self, client: Client, salt: int = 0) -> None:
        """Do what a real client would do next; who waits for a reply does nothing."""
        if client.token is None and not client.is_stuck:
            match client.phase:
                case Phase.OUT:
                    self.send_join(client)
                case Phase.JOINED:
                    self.send_sync(client, salt)
                case Phase.IN:
                    client.token = self.send_heartbeat(client)
                    self.check_commit(client)
                case Phase.GONE:
                    pass
        self.settle_replies()

    # What is checked when something is handed out.

    def check_reply(self, reply: Reply, generation: int) -> None:
        """At the moment it is given; `generation` is the group's before the step."""
        if reply.error_code not in (ErrorCode.NONE, ErrorCode.REBALANCE_IN_PROGRESS):
            return
        sent = self.sent.get(reply.token)
        match reply:
            case JoinReply():
                assert generation <= reply.generation <= self.bench.group.generation
                assert reply.protocol_name == "range", "only that is known to all"
                ids = {member.member_id for member in reply.members}
                assert not ids or (reply.leader == reply.member_id and reply.member_id in ids)
            case SyncReply():
                assert sent is not None
                assert sent.generation == generation, "a stale generation was not refused"
                if reply.error_code is ErrorCode.NONE:
                    self.check_assigned(sent, reply.assignment)
            case HeartbeatReply():
                assert sent is not None
                assert sent.generation == generation, "a stale generation was not refused"
            case _:
                pass

    def check_assigned(self, sent: Sent, assignment: bytes) -> None:
        stored = [snapshot for snapshot in self.in_log if snapshot.generation == sent.generation]
        assert stored, "handed out before it was stored"
        of_member = {member.group_instance_id or member.member_id: member for member in stored[-1].members}
        assert assignment == of_member[sent.key].assignment
        handed_out = self.handed_out.setdefault(sent.generation, {})
        assert handed_out.setdefault(sent.key, assignment) == assignment, "two assignments"
        dealt = [partition for assignment in handed_out.values() for partition in assignment]
        assert len(dealt) == len(set(dealt)), "owned twice in a generation"

    def check_commit(self, client: Client) -> None:
        code = self.bench.group.check_commit(client.member_id, client.generation, client.instance)
        if code is ErrorCode.NONE:
            assert client.generation == self.bench.group.generation
            self.bench.step(OffsetCommitted(member_id=client.member_id))

    # What happens.

    @initialize(statics=st.lists(st.booleans(), min_size=1, max_size=3), is_stable=st.booleans())
    def a_group_forms(self, statics: list[bool], is_stable: bool) -> None:
        for is_static in statics:
            self.somebody_comes(is_static, 9, 10_000, 20_000)
        for _ in range(3 if is_stable else 0):
            self.advance(200)
            self.all_act(0, 1)
            self.finish_stores()

    @rule(
        is_static=st.booleans(),
        version=st.sampled_from((3, 5, 9)),
        session_ms=st.sampled_from(SESSION_TIMEOUTS_MS),
        rebalance_ms=st.sampled_from(REBALANCE_TIMEOUTS_MS),
    )
    @precondition(lambda self: len(self.clients) < CLIENT_COUNT_MAX)
    def somebody_comes(self, is_static: bool, version: int, session_ms: int, rebalance_ms: int) -> None:
        self.names += 1
        name = f"c{self.names}"
        client = Client(name, f"i{self.names}" if is_static else None, version, session_ms, rebalance_ms)
        self.clients.append(client)
        self.act(client)
        self.act(client)

    @rule(which=st.integers(0, 99), salt=st.integers(0, 7))
    @precondition(lambda self: self.clients)
    def one_acts(self, which: int, salt: int) -> None:
        self.act(self.clients[which % len(self.clients)], salt)

    @rule(salt=st.integers(0, 7), times=st.integers(1, 3))
    def all_act(self, salt: int, times: int) -> None:
        for _ in range(times):
            for client in self.clients:
                self.act(client, salt)

    @rule(which=st.integers(0, 99))
    @precondition(lambda self: self.clients)
    def one_hangs_or_goes_on(self, which: int) -> None:
        client = self.clients[which % len(self.clients)]
        client.is_stuck = not client.is_stuck

    @rule(which=st.integers(0, 99), joins=st.booleans())
    @precondition(lambda self: len(self.clients) > 1)
    def one_hangs_through_a_rebalance(self, which: int, joins: bool) -> None:
        """The others join, and it only heartbeats: neither joins, or joins and does not sync."""
        client = self.clients[which % len(self.clients)]
        for other in self.clients:
            if other.phase is not Phase.GONE and (joins or other is not client):
                self.send_join(other)
        self.settle_replies()
        client.is_stuck = True
        self.all_act(0, 1)
        self.advance(70_000)
        client.is_stuck = False

    @rule(salt=st.integers(0, 7))
    def leaders_change_their_mind(self, salt: int) -> None:
        for client in self.clients:
            if client.phase is Phase.JOINED and client.leads:
                self.send_sync(client, salt)
                self.send_sync(client, salt + 1)
        self.finish_stores()
        self.settle_replies()

    @rule(which=st.integers(0, 99), changes=st.booleans())
    @precondition(lambda self: self.clients)
    def one_joins_again(self, which: int, changes: bool) -> None:
        """A retry on another connection, or a changed subscription: the request before it may still wait."""
        client = self.clients[which % len(self.clients)]
        if client.phase is not Phase.GONE:
            client.topics += changes
            self.send_join(client)
            self.settle_replies()

    @rule(which=st.integers(0, 99), salt=st.integers(0, 7))
    @precondition(lambda self: self.clients)
    def one_syncs_again(self, which: int, salt: int) -> None:
        client = self.clients[which % len(self.clients)]
        if client.phase is not Phase.GONE and client.member_id:
            self.send_sync(client, salt)
            self.settle_replies()

    @rule(which=st.integers(0, 99))
    @precondition(lambda self: self.clients)
    def one_leaves(self, which: int) -> None:
        client = self.clients.pop(which % len(self.clients))
        leaving = LeavingMember(member_id=client.member_id, group_instance_id=client.instance)
        self.bench.step(LeaveRequested(token=self.token(), members=(leaving,)))
        self.settle_replies()

    @rule(which=st.integers(0, 99))
    @precondition(lambda self: self.clients)
    def one_crashes(self, which: int) -> None:
        self.clients.pop(which % len(self.clients))

    @rule(which=st.integers(0, 99))
    @precondition(lambda self: self.clients)
    def one_starts_again(self, which: int) -> None:
        """Forgetting its member id; a static member comes back to its place."""
        client = self.clients[which % len(self.clients)]
        if client.phase is not Phase.GONE:
            client.member_id, client.generation, client.phase = "", -1, Phase.OUT
            client.token = None
            client.assigned = frozenset()
            self.act(client)

    @rule(which=st.integers(0, 99))
    @precondition(lambda self: any(client.instance for client in self.clients))
    def a_double_comes(self, which: int) -> None:
        """A second process with the name of a static member."""
        statics = [client for client in self.clients if client.instance]
        model = statics[which % len(statics)]
        self.names += 1
        double = Client(f"c{self.names}", model.instance, model.version, model.session_ms, model.rebalance_ms)
        self.clients.append(double)
        self.act(double)

    @rule(which=st.integers(0, 99))
    @precondition(lambda self: any(client.instance for client in self.clients))
    def an_administrator_removes_one(self, which: int) -> None:
        statics = [client for client in self.clients if client.instance]
        leaving = LeavingMember(member_id="", group_instance_id=statics[which % len(statics)].instance)
        self.bench.step(LeaveRequested(token=self.token(), members=(leaving,)))
        self.settle_replies()

    @rule(which=st.integers(0, 99), back=st.integers(1, 5))
    @precondition(lambda self: self.clients)
    def the_past_calls(self, which: int, back: int) -> None:
        """Requests of an earlier identity arrive late: a new one must not be taken in by them."""
        client = self.clients[which % len(self.clients)]
        self.advance(0)
        stale = [past for past in client.past if past[1] < self.bench.group.generation]
        if not stale:
            return
        member_id, generation = stale[-min(back, len(stale))]
        bench = self.bench
        assert bench.group.check_commit(member_id, generation, client.instance) is not ErrorCode.NONE
        before = (bench.group.state, bench.group.generation, bench.group.members())
        sync = bench.sync(member_id, {member_id: b"\x07"}, generation=generation, instance=client.instance)
        heartbeat = bench.heartbeat(member_id, generation=generation, instance=client.instance)
        for code in (bench.synced(sync).error_code, heartbeat):
            assert code in (
                ErrorCode.ILLEGAL_GENERATION,
                ErrorCode.UNKNOWN_MEMBER_ID,
                ErrorCode.FENCED_INSTANCE_ID,
            )
        assert (bench.group.state, bench.group.generation, bench.group.members()) == before
        self.settle_replies()

    # The log.

    @rule(count=st.integers(1, 3))
    @precondition(lambda self: self.bench.stores)
    def stores_end_well(self, count: int) -> None:
        for _ in range(min(count, len(self.bench.stores))):
            self.finish_store(ErrorCode.NONE, lands=True)

    @rule(code=st.sampled_from(STORE_ERRORS), lands=st.booleans())
    @precondition(lambda self: self.bench.stores)
    def a_store_fails(self, code: ErrorCode, lands: bool) -> None:
        self.finish_store(code, lands=lands)

    def finish_store(self, code: ErrorCode, *, lands: bool) -> None:
        store = self.bench.stores.popleft()
        if lands:
            self.write(store.snapshot)
        self.bench.step(StoreFinished(store_token=store.store_token, error_code=code))
        self.settle_replies()

    def write(self, snapshot: GroupSnapshot) -> None:
        for earlier in self.in_log:
            assert earlier.generation <= snapshot.generation
            if earlier.generation == snapshot.generation:
                assert assignments_of(earlier) == assignments_of(snapshot), "two assignments in the log"
        self.in_log.append(snapshot)
        self.bench.stored = snapshot

    @rule(landed=st.integers(0, 2))
    def the_coordinator_crashes(self, landed: int) -> None:
        for _ in range(min(landed, len(self.bench.stores))):
            self.write(self.bench.stores.popleft().snapshot)
        self.bench.restart()
        self.in_log = [s for s in self.in_log if s.generation <= self.bench.group.generation]
        for client in self.clients:
            if client.token is not None:  # the connection ends, and the client asks again
                client.token = None
                client.phase = Phase.GONE if client.phase is Phase.GONE else Phase.OUT

    # Time.

    @rule(ms=st.sampled_from((1, 50, 100, 1_000, 3_000)))
    def a_moment_passes(self, ms: int) -> None:
        self.advance(ms)

    @rule(ms=st.sampled_from((5_000, 6_000, 20_000, 70_000)))
    def much_time_passes(self, ms: int) -> None:
        self.advance(ms)

    @rule(ms=st.sampled_from((10, 6_000, 70_000)))
    def the_shell_is_late(self, ms: int) -> None:
        """Time passes and nobody wakes the group; the next event comes late."""
        self.bench.now_ms += ms

    def advance(self, ms: int) -> None:
        while ms > 3_000:
            self.advance(3_000)
            ms -= 3_000
            for client in self.clients:
                if client.is_stuck and client.phase is not Phase.GONE:
                    self.send_heartbeat(client)
        waiting = [] if self.bench.stores else list(self.bench.waiting)
        begin_ms = self.bench.now_ms
        for at_ms, _ in self.bench.advance(ms):
            if self.bench.stores:
                self.count_waits(waiting, at_ms - begin_ms)
                waiting = []
        self.count_waits(waiting, self.bench.now_ms - begin_ms)
        self.settle_replies()

    def count_waits(self, tokens: list[int], ms: int) -> None:
        """Count time that these waited through, while the log owed nothing."""
        for token in self.bench.waiting.intersection(tokens):
            self.clock_of_waiting[token] += ms
            assert self.clock_of_waiting[token] <= max(REBALANCE_TIMEOUTS_MS), "a rebalance without end"

    # Always.

    @invariant()
    def members_are_who_was_told(self) -> None:
        self.bench.check()

    # In the end.

    def finish_stores(self) -> None:
        while self.bench.stores:
            self.finish_store(ErrorCode.NONE, lands=True)

    def teardown(self) -> None:
        for client in self.clients:
            client.is_stuck = False
        if len(self.clients) % 2:
            self.everybody_freezes()
        else:
            self.everybody_behaves()

    def everybody_freezes(self) -> None:
        for _ in range(20):
            self.finish_stores()
            self.advance(70_000)
        self.finish_stores()
        assert self.bench.is_in(ClassicState.EMPTY)
        assert not self.bench.waiting
        assert self.bench.group.deadline_ms is None

    def everybody_behaves(self) -> None:
        """All who are still there do what they should, and the log works."""
        here: list[Client] = []
        for _ in range(200):
            for client in self.clients:
                self.act(client)
                self.finish_stores()
                self.settle_replies()
            here = [client for client in self.clients if client.phase is not Phase.GONE]
            if self.has_come_to_rest(here):
                break
            self.advance(1_000)
        if not here:
            self.everybody_freezes()
            return
        assert self.has_come_to_rest(here)
        owned = sorted(partition for client in here for partition in client.assigned)
        assert owned == sorted(PARTITIONS), "everything is assigned, once"

    def has_come_to_rest(self, here: list[Client]) -> bool:
        group = self.bench.group
        return (
            bool(here)
            and group.state is ClassicState.STABLE
            and all(client.phase is Phase.IN and client.generation == group.generation for client in here)
            and {member.member_id for member in group.members()} == {client.member_id for client in here}
        )


def test_a_group_is_right_whatever_its_members_do() -> None:
    run_state_machine_as_test(
        GroupModel,
        settings=settings(
            max_examples=examples(200),
            stateful_step_count=60,
            deadline=None,
            suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
        ),
    )
