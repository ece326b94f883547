"""The rebalances of one classic group: generations, who must have joined and synced by when, and what is stored. Pure.

Owns the state, the members and every deadline; `ClassicGroup` in `classic_group.py`, which is built on this, says what requests mean.

    EMPTY ──join──► PREPARING_REBALANCE ──all have joined, or time is up──► COMPLETING_REBALANCE ──leader's sync is stored──► STABLE
      ▲                    │      ▲                                                │                                           │
      └────nobody joined───┘      └──── a member comes, changes, leaves, expires, does not sync; the store fails ──────────────┘

Invariants (PROPERTIES G1, G3):

- a generation has at most one assignment, and it is handed out only once it is stored. A leader that syncs again while the first is being
  stored changes nothing: the log would hold the second after the members got the first;
- a rebalance ends within the longest rebalance timeout of its members, twice: once for joining, once for syncing. It is put off only while
  all who are left are absent static members, until their sessions end;
- whoever waits is not expected to heartbeat, and has its whole session timeout again when it is answered;
- no deadline is left in the past by a step, and a step may always come later than its deadline.

Source: Kafka's GroupMetadataManager and ClassicGroup; KIP-62, KIP-134 (initial delay), KIP-345 (static members).
"""

from collections.abc import Mapping
from dataclasses import dataclass

from penstock.broker.groups.classic_events import (
    Action,
    ClassicLimits,
    ClassicState,
    GroupSnapshot,
    JoinReply,
    Store,
    SyncReply,
    Token,
)
from penstock.broker.groups.classic_members import ClassicMembers, Member
from penstock.protocol.errors import ErrorCode

GENERATION_MAX = 2**31 - 1
LEAST_POSTPONEMENT_MS = 1_000
"""How long a rebalance that only absent static members are part of is put off at least: a rebalance timeout may be 0."""


@dataclass(frozen=True, slots=True)
class _AssignmentStore:
    """The leader's assignment on its way to the log."""

    store_token: int
    assignments: Mapping[str, bytes]


class ClassicRebalance:
    """A group's life from one generation to the next."""

    def __init__(self, limits: ClassicLimits) -> None:
        self.limits = limits
        self.state = ClassicState.EMPTY
        self.generation = 0
        self.protocol_type: str | None = None
        self.protocol_name: str | None = None
        self.leader: str | None = None
        self.deadline_ms: int | None = None
        """When the group wants to be stepped at the latest (monotonic ms); None while nothing can expire."""
        self.empty_since_ms: int | None = None
        """Since when the group is EMPTY (monotonic ms, may be negative); None while it is not, or where that is not known."""
        self.news: list[str] = []
        """What the last step did that an operator wants to know of, in words."""
        self._members = ClassicMembers()
        self._actions: list[Action] = []
        self._now_ms = 0
        self._join_deadline_ms: int | None = None
        self._sync_deadline_ms: int | None = None
        self._is_initial = False
        """The rebalance began in an empty group: it lasts the initial delay, however many have joined."""
        self._initial_delay_ms = 0
        self._initial_remaining_ms = 0
        self._has_new_member = False
        self._store_token = 0
        self._assignment_store: _AssignmentStore | None = None

    # Joining.

    def _rebalance_or_complete_join(self) -> None:
        if self.state is ClassicState.PREPARING_REBALANCE:
            self._complete_join_if_ready()
        else:
            self._prepare_rebalance()

    def _prepare_rebalance(self) -> None:
        """Have everybody join again."""
        if self.state is ClassicState.COMPLETING_REBALANCE:
            self._end_syncs(ErrorCode.REBALANCE_IN_PROGRESS)
        self._members.unsynced.clear()
        self._sync_deadline_ms = None
        self._assignment_store = None
        self._is_initial = self.state is ClassicState.EMPTY
        self.state = ClassicState.PREPARING_REBALANCE
        self.empty_since_ms = None
        timeout_ms = self._members.rebalance_timeout_ms
        if self._is_initial:
            self._has_new_member = False
            self._initial_delay_ms = self.limits.group_initial_rebalance_delay_ms
            self._initial_remaining_ms = max(timeout_ms - self._initial_delay_ms, 0)
            self._join_deadline_ms = self._now_ms + self._initial_delay_ms
        elif self._members.have_all_joined:
            self._complete_join()
        else:
            self._join_deadline_ms = self._now_ms + timeout_ms

    def _complete_join_if_ready(self) -> None:
        if (
            self.state is ClassicState.PREPARING_REBALANCE
            and not self._is_initial
            and self._members.have_all_joined
        ):
            self._complete_join()

    def _end_join_time(self) -> None:
        """The time to join is up; the initial delay is drawn out while members go on coming, up to the rebalance timeout."""
        if self._is_initial and self._has_new_member and self._initial_remaining_ms:
            self._has_new_member = False
            delay_ms = min(self.limits.group_initial_rebalance_delay_ms, self._initial_remaining_ms)
            self._initial_remaining_ms = max(self._initial_remaining_ms - self._initial_delay_ms, 0)
            self._initial_delay_ms = delay_ms
            self._join_deadline_ms = self._now_ms + delay_ms
        else:
            self._complete_join()

    def _complete_join(self) -> None:
        """Begin the next generation with those who have joined; static members may be away, dynamic ones may not."""
        self._join_deadline_ms = None
        for member in [m for m in self._members if m.join_token is None and m.group_instance_id is None]:
            self._drop(member, f"it has not rejoined within {member.rebalance_timeout_ms} ms")
        if len(self._members) and not self._elect_joined_leader():
            timeout_ms = max(self._members.rebalance_timeout_ms, LEAST_POSTPONEMENT_MS)
            self._join_deadline_ms = self._now_ms + timeout_ms
            return
        self.generation = self.generation % GENERATION_MAX + 1
        if len(self._members):
            self._begin_generation()
        else:
            self.protocol_name = None
            self.state = ClassicState.EMPTY
            self.empty_since_ms = self._now_ms
            self.news.append(f"generation {self.generation}: no members")
            self._store()  # how it ends changes nothing: whoever comes back from an older record will expire

    def _begin_generation(self) -> None:
        self.protocol_name = self._members.select_protocol()
        self.state = ClassicState.COMPLETING_REBALANCE
        for member in self._members:
            if (token := member.join_token) is not None:
                self._members.set_join_token(member, None)
                self._reply_joined(token, member, shows_members=True)
            member.is_new = False
            self._keep_alive(member)
            self._members.unsynced.add(member.member_id)
        self._sync_deadline_ms = self._now_ms + self._members.rebalance_timeout_ms

    def _elect_joined_leader(self) -> bool:
        """Keep a leader that has joined, else take the first member that has; False where nobody has."""
        assert self.leader is not None
        if self._members.by_id[self.leader].join_token is not None:
            return True
        joined = (member.member_id for member in self._members if member.join_token is not None)
        leader = next(joined, None)
        if leader is None:
            return False
        self.leader = leader
        return True

    def _reply_joined(self, token: Token, member: Member, *, shows_members: bool) -> None:
        """Tell the member of the present generation."""
        assert self.protocol_name is not None
        is_leader = self.leader == member.member_id
        self._actions.append(
            JoinReply(
                token=token,
                generation=self.generation,
                protocol_type=self.protocol_type,
                protocol_name=self.protocol_name,
                leader=self.leader or "",
                member_id=member.member_id,
                members=self._members.joined(self.protocol_name) if is_leader and shows_members else (),
            )
        )

    # Syncing.

    def _store_assignments(self, assignments: Mapping[str, bytes]) -> None:
        """Take the leader's word for this generation, unless it is given already; what it says of strangers is dropped."""
        if self._assignment_store is None:
            of_members = {
                member.member_id: assignments.get(member.member_id, b"") for member in self._members
            }
            self._assignment_store = _AssignmentStore(self._store(of_members), of_members)

    def _finish_assignment_store(self, store_token: int, code: ErrorCode) -> bool:
        """The record is in the log, or never will be; False where it is not the one that this generation waits for."""
        store = self._assignment_store
        if store is None or store.store_token != store_token:
            return False
        self._assignment_store = None
        if code:
            self._end_syncs(code)
            self._prepare_rebalance()
        else:
            self._hand_out(store.assignments)
        return True

    def _end_syncs(self, code: ErrorCode) -> None:
        """There will be no assignment: tell those who wait for it."""
        for member in self._members:
            member.assignment = b""
            if (token := member.sync_token) is not None:
                member.sync_token = None
                self._actions.append(SyncReply(token=token, error_code=code))
                self._keep_alive(member)

    def _hand_out(self, assignments: Mapping[str, bytes]) -> None:
        """The assignment is stored: everybody gets its own."""
        self.state = ClassicState.STABLE
        count = len(self._members)
        self.news.append(
            f"generation {self.generation}: {count} member{'s' if count > 1 else ''}, {self.protocol_name!r:.100}"
        )
        for member in self._members:
            member.assignment = assignments.get(member.member_id, b"")
            if (token := member.sync_token) is not None:
                member.sync_token = None
                self._reply_assigned(token, member)
                self._keep_alive(member)

    def _reply_assigned(self, token: Token, member: Member) -> None:
        self._actions.append(
            SyncReply(
                token=token,
                protocol_type=self.protocol_type,
                protocol_name=self.protocol_name,
                assignment=member.assignment,
            )
        )

    # Members that go.

    def _remove(self, member: Member) -> None:
        """Take the member out; its requests are answered so that a client which is there after all joins anew."""
        self._answer_waiting(member, ErrorCode.UNKNOWN_MEMBER_ID, "")
        self._members.remove(member.member_id)
        if self.leader == member.member_id:
            first = next(iter(self._members), None)
            self.leader = None if first is None else first.member_id

    def _drop(self, member: Member, why: str) -> None:
        """Take out a member that did not ask for it, and tell of it."""
        self.news.append(
            f"member {member.member_id!r:.100} (client {member.client_id!r:.100}, {member.client_host}) is out: {why}"
        )
        self._remove(member)

    def _answer_waiting(self, member: Member, code: ErrorCode, member_id: str) -> None:
        """Let the member wait for nothing any more."""
        if (token := member.join_token) is not None:
            self._members.set_join_token(member, None)
            self._actions.append(JoinReply(token=token, error_code=code, member_id=member_id))
        if (token := member.sync_token) is not None:
            member.sync_token = None
            self._actions.append(SyncReply(token=token, error_code=code))

    def _go_on_without_some(self) -> None:
        """Members or pending ids are gone."""
        if self.state in (ClassicState.STABLE, ClassicState.COMPLETING_REBALANCE):
            self._prepare_rebalance()
        else:
            self._complete_join_if_ready()

    # Time.

    def _keep_alive(self, member: Member) -> None:
        self._members.arm(member, self._now_ms + member.session_timeout_ms)

    def _do_what_is_due(self) -> None:
        """Do what is due by now, the earliest first, and find the next deadline."""
        while True:
            expiry_ms = self._members.earliest_expiry_ms
            deadlines = (expiry_ms, self._join_deadline_ms, self._sync_deadline_ms)
            self.deadline_ms = min((ms for ms in deadlines if ms is not None), default=None)
            if self.deadline_ms is None or self.deadline_ms > self._now_ms:
                return
            if self.deadline_ms == expiry_ms:
                self._expire_members()
            elif self.deadline_ms == self._join_deadline_ms:
                self._end_join_time()
            else:
                self._end_sync_time()

    def _expire_members(self) -> None:
        pending_count = len(self._members.pending)
        expired = self._members.take_expired(self._now_ms)
        for member in expired:
            self._drop(member, f"nothing was heard of it for {member.session_timeout_ms} ms")
        if expired:
            self._go_on_without_some()
        elif len(self._members.pending) < pending_count:
            self._complete_join_if_ready()

    def _end_sync_time(self) -> None:
        """Those who have not synced by now are out."""
        self._sync_deadline_ms = None
        for member_id in sorted(self._members.unsynced):
            member = self._members.by_id[member_id]
            self._drop(member, f"it has not synced within {member.rebalance_timeout_ms} ms")
        self._prepare_rebalance()

    # The log.

    def _store(self, assignments: Mapping[str, bytes] | None = None) -> int:
        self._store_token += 1
        snapshot = GroupSnapshot(
            protocol_type=self.protocol_type or "",
            generation=self.generation,
            protocol_name=self.protocol_name,
            leader=self.leader,
            members=self._members.snapshot(self.protocol_name, assignments),
        )
        self._actions.append(Store(store_token=self._store_token, snapshot=snapshot))
        return self._store_token
