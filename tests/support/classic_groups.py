"""A classic group on a bench: requests in, replies and stores out, and what must hold after every step.

Checked here, so that every test which uses the bench checks it: a token is answered once and no token is answered that does not wait; no
deadline lies in the past; the indexes over the members agree with the members; a store is asked for once.
"""

from collections import deque
from collections.abc import Callable, Mapping
from typing import TypeVar

from penstock.broker.groups.classic_events import (
    Action,
    ClassicLimits,
    ClassicState,
    Event,
    GroupClosed,
    GroupSnapshot,
    HeartbeatReceived,
    HeartbeatReply,
    JoinReply,
    JoinRequested,
    LeaveReply,
    LeaveRequested,
    LeavingMember,
    OffsetCommitted,
    Store,
    StoreFinished,
    SyncReply,
    SyncRequested,
    TimePassed,
)
from penstock.broker.groups.classic_group import ClassicGroup
from penstock.protocol.errors import ErrorCode

SESSION_TIMEOUT_MS = 10_000
REBALANCE_TIMEOUT_MS = 60_000
Reply = JoinReply | SyncReply | HeartbeatReply | LeaveReply
ReplyKind = TypeVar("ReplyKind", JoinReply, SyncReply, HeartbeatReply, LeaveReply)


class GroupBench:
    """One group and the requests on their way in it. Time moves only by `advance`."""

    def __init__(self, limits: ClassicLimits | None = None) -> None:
        self.limits = limits or ClassicLimits()
        self.group = ClassicGroup("g", self.limits)
        self.now_ms = 1_000
        self.replies: dict[int, Reply] = {}
        self.waiting: set[int] = set()
        self.stores: deque[Store] = deque()
        """Asked for and not yet finished, the oldest first."""
        self.stored: GroupSnapshot | None = None
        """What the log says."""
        self.witness: Callable[[Reply, int], None] | None = None
        """Called with each reply and the generation that the group had before the step."""
        self._tokens = 0
        self._store_tokens: set[int] = set()
        self._fresh = 0

    # Stepping.

    def step(self, event: Event) -> tuple[Action, ...]:
        """Step the group once and check what must always hold."""
        generation = self.group.generation
        actions = self.group.step(event, self.now_ms)
        for action in actions:
            if isinstance(action, Store):
                assert action.store_token not in self._store_tokens
                self._store_tokens.add(action.store_token)
                self.stores.append(action)
            else:
                assert action.token in self.waiting, f"nobody waits for {action}"
                self.waiting.remove(action.token)
                self.replies[action.token] = action
                if self.witness is not None:
                    self.witness(action, generation)
        assert self.group.deadline_ms is None or self.group.deadline_ms > self.now_ms
        self.check()
        return actions

    def check(self) -> None:
        """What holds between steps."""
        group = self.group
        if group.state is ClassicState.EMPTY:
            assert not group.members()
            assert group.leader is None
        elif group.state is ClassicState.DEAD:
            assert not self.waiting
            assert group.deadline_ms is None
        elif group.state is ClassicState.PREPARING_REBALANCE:
            assert group.deadline_ms is not None
        if members := group.members():
            assert group.leader in {member.member_id for member in members}
        check_members(group)

    def advance(self, ms: int) -> list[tuple[int, tuple[Action, ...]]]:
        """Let time pass, waking the group at each of its deadlines; returns what it did when (ms of the bench's clock)."""
        end_ms = self.now_ms + ms
        done: list[tuple[int, tuple[Action, ...]]] = []
        while (deadline_ms := self.group.deadline_ms) is not None and deadline_ms <= end_ms:
            self.now_ms = max(self.now_ms, deadline_ms)
            done.append((self.now_ms, self.step(TimePassed())))
        self.now_ms = end_ms
        return done

    def token(self) -> int:
        self._tokens += 1
        self.waiting.add(self._tokens)
        return self._tokens

    # Requests: each returns its token.

    def join(
        self,
        member_id: str = "",
        *,
        fresh: str | None = None,
        instance: str | None = None,
        protocols: tuple[tuple[str, bytes], ...] = (("range", b""),),
        protocol_type: str = "consumer",
        session_ms: int = SESSION_TIMEOUT_MS,
        rebalance_ms: int = REBALANCE_TIMEOUT_MS,
        version: int = 9,
        client_id: str = "client",
    ) -> int:
        """JoinGroup in this version; `fresh` is the id that a new member would get."""
        if fresh is None:
            self._fresh += 1
            fresh = f"m{self._fresh}"
        token = self.token()
        self.step(
            JoinRequested(
                token=token,
                member_id=member_id,
                fresh_member_id=fresh,
                group_instance_id=instance,
                client_id=client_id,
                client_host="/127.0.0.1",
                session_timeout_ms=session_ms,
                rebalance_timeout_ms=rebalance_ms,
                protocol_type=protocol_type,
                protocols=protocols,
                requires_known_member_id=version >= 4,
                can_skip_assignment=version >= 9,
            )
        )
        return token

    def sync(
        self,
        member_id: str,
        assignments: Mapping[str, bytes] | None = None,
        *,
        generation: int | None = None,
        instance: str | None = None,
        protocol_type: str | None = None,
        protocol_name: str | None = None,
    ) -> int:
        """SyncGroup of the group's present generation, or of another."""
        token = self.token()
        self.step(
            SyncRequested(
                token=token,
                generation=self.group.generation if generation is None else generation,
                member_id=member_id,
                group_instance_id=instance,
                protocol_type=protocol_type,
                protocol_name=protocol_name,
                assignments=assignments or {},
            )
        )
        return token

    def heartbeat(
        self, member_id: str, *, generation: int | None = None, instance: str | None = None
    ) -> ErrorCode:
        """Heartbeat, and the code that it is answered with."""
        token = self.token()
        self.step(
            HeartbeatReceived(
                token=token,
                generation=self.group.generation if generation is None else generation,
                member_id=member_id,
                group_instance_id=instance,
            )
        )
        return self.got(token, HeartbeatReply).error_code

    def leave(self, *members: LeavingMember | str) -> LeaveReply:
        """LeaveGroup of these."""
        token = self.token()
        leaving = tuple(m if isinstance(m, LeavingMember) else LeavingMember(member_id=m) for m in members)
        self.step(LeaveRequested(token=token, members=leaving))
        return self.got(token, LeaveReply)

    def commit(self, member_id: str, generation: int, instance: str | None = None) -> ErrorCode:
        """OffsetCommit as the shell does it."""
        code = self.group.check_commit(member_id, generation, instance)
        if code is ErrorCode.NONE:
            self.step(OffsetCommitted(member_id=member_id))
        return code

    def finish_store(self, code: ErrorCode = ErrorCode.NONE) -> tuple[Action, ...]:
        """Let the oldest store be in the log, or never be."""
        store = self.stores.popleft()
        if code is ErrorCode.NONE:
            self.stored = store.snapshot
        return self.step(StoreFinished(store_token=store.store_token, error_code=code))

    def close(self, code: ErrorCode = ErrorCode.NOT_COORDINATOR) -> None:
        """Delete or unload the group."""
        self.step(GroupClosed(error_code=code))

    def restart(self, *, state_age_ms: int | None = 0) -> None:
        """Have the coordinator crash, and the group made anew from the log; who waited never hears."""
        self.waiting.clear()
        self.stores.clear()
        if self.stored is None:
            self.group = ClassicGroup("g", self.limits)
        else:
            self.group = ClassicGroup.restore(
                "g", self.limits, self.stored, self.now_ms, state_age_ms=state_age_ms
            )
        self._store_tokens.clear()
        self.check()

    # Replies and states.

    def is_in(self, state: ClassicState) -> bool:
        """Say whether the group is in this state (asked anew each time, which a type checker must not think it knows)."""
        return self.group.state is state

    def got(self, token: int, kind: type[ReplyKind]) -> ReplyKind:
        """The reply to this token, which must be there."""
        reply = self.replies[token]
        assert isinstance(reply, kind)
        return reply

    def joined(self, token: int) -> JoinReply:
        return self.got(token, JoinReply)

    def synced(self, token: int) -> SyncReply:
        return self.got(token, SyncReply)

    # Short ways to a state.

    def add_member(
        self,
        name: str,
        *,
        protocols: tuple[tuple[str, bytes], ...] = (("range", b""),),
        session_ms: int = SESSION_TIMEOUT_MS,
        rebalance_ms: int = REBALANCE_TIMEOUT_MS,
    ) -> int:
        """Let a client join that is asked to come back with the id `name`; returns the token of its second JoinGroup."""
        first = self.join(fresh=name, protocols=protocols, session_ms=session_ms, rebalance_ms=rebalance_ms)
        assert self.joined(first).error_code is ErrorCode.MEMBER_ID_REQUIRED
        return self.join(name, protocols=protocols, session_ms=session_ms, rebalance_ms=rebalance_ms)

    def finish_joining(self) -> None:
        """Let the time to join go by, and no more."""
        while self.group.state is ClassicState.PREPARING_REBALANCE:
            assert self.group.deadline_ms is not None
            self.advance(self.group.deadline_ms - self.now_ms)

    def sync_all(self, *names: str) -> None:
        """Let all sync, the leader with an assignment that names each member, and let it be stored."""
        assert self.group.state is ClassicState.COMPLETING_REBALANCE
        assignments = {member.member_id: member.member_id.encode() for member in self.group.members()}
        tokens = [self.sync(name, assignments) for name in names]
        self.finish_store()
        for name, token in zip(names, tokens, strict=True):
            assert self.synced(token).assignment == name.encode()

    def make_stable(self, *names: str) -> None:
        """Let dynamic members with these ids form the first generation; the first leads. Each is assigned its own name."""
        for name in names:
            self.add_member(name)
        self.finish_joining()
        self.sync_all(*names)
        assert self.group.state is ClassicState.STABLE
        assert self.group.leader == names[0]


def check_members(group: ClassicGroup) -> None:
    """The indexes over the members say what the members say."""
    members = group._members  # pyright: ignore[reportPrivateUsage]
    assert members.joining_count == sum(member.join_token is not None for member in members)
    assert members.static_ids == {m.group_instance_id: m.member_id for m in members if m.group_instance_id}
    names = {name for member in members for name in member.protocols}
    assert dict(members.supporters) == {
        name: sum(name in member.protocols for member in members) for name in names
    }
    assert members.unsynced <= members.by_id.keys()
    assert not members.pending.keys() & members.by_id.keys()
    assert all(
        members.earliest_expiry_ms is not None and members.earliest_expiry_ms <= expires_ms
        for expires_ms in members.pending.values()
    )
    for member_id, member in members.by_id.items():
        assert member.member_id == member_id
        assert member.join_token is None or member.sync_token is None
        if not member.is_waiting or member.is_new:
            assert member.expires_ms is not None, "who does not wait must expire some day"
            assert members.earliest_expiry_ms is not None
            assert members.earliest_expiry_ms <= member.expires_ms
