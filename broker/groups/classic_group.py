"""One group of the classic protocol (JoinGroup, SyncGroup, Heartbeat, LeaveGroup) as a state machine: pure.

Owns what each request means in each state, and the error codes. Knows no wire, no log, no clock and no chance: `step(event, now_ms)` takes
what happened and returns what to do. The rebalance itself is in `classic_rebalance.py`, with the picture of the states; what is known of
members is in `classic_members.py`. Eager and cooperative rebalancing are the same here: the difference is in the assignments, which are
bytes. Invariants:

- every token gets exactly one reply. A request that is repeated while the first one waits takes its place, and the first is answered;
- every `Store` must be answered by one `StoreFinished`. What comes for a rebalance that is over changes nothing.

Source: Kafka's GroupMetadataManager; KIP-345 and KIP-814 (static members), KIP-389 (group.max.size), KIP-394 (member ids first). Different
from Kafka on purpose: nothing is stored for a group that never had a generation; ids given out and not come back with are bounded; who
leaves while its sync waits is answered; a leader's second assignment for a generation is dropped; a sync in a stable group is a sign of
life, as in Kafka's coordinator before 4.0, since clients count their sessions from it.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

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
    LeftMember,
    OffsetCommitted,
    SnapshotMember,
    StoreFinished,
    SyncReply,
    SyncRequested,
    TimePassed,
    Token,
    TokenAbandoned,
)
from penstock.broker.groups.classic_members import ClassicMembers, Member, protocols_by_name
from penstock.broker.groups.classic_rebalance import ClassicRebalance
from penstock.broker.groups.subscriptions import CONSUMER_PROTOCOL_TYPE
from penstock.protocol.errors import ErrorCode


@dataclass(frozen=True, slots=True, kw_only=True)
class _StaticRejoin:
    """A static member that came back in a stable group: what to answer once its new id is stored, or what to go back to."""

    token: Token
    member_id: str
    can_skip_assignment: bool
    previous_leader: str
    previous: Member
    """The member as it was, with its old id."""


class ClassicGroup(ClassicRebalance):
    """One consumer group as its coordinator sees it."""

    def __init__(self, group_id: str, limits: ClassicLimits) -> None:
        super().__init__(limits)
        self.group_id = group_id
        self._static_rejoins: dict[int, _StaticRejoin] = {}

    @classmethod
    def restore(
        cls,
        group_id: str,
        limits: ClassicLimits,
        snapshot: GroupSnapshot,
        now_ms: int,
        *,
        state_age_ms: int | None = None,
    ) -> "ClassicGroup":
        """Make the group anew from its last record, written `state_age_ms` ago by the wall clock (None: the record does not tell)."""
        group = cls(group_id, limits)
        group._now_ms = now_ms
        group.generation = snapshot.generation
        group.protocol_type = snapshot.protocol_type or None
        group.protocol_name = snapshot.protocol_name
        group.leader = snapshot.leader
        group._members.load(snapshot, now_ms)
        if not len(group._members):
            group.leader = None
            group.empty_since_ms = None if state_age_ms is None else now_ms - state_age_ms
        else:
            group.protocol_name = snapshot.protocol_name or ""
            group.state = ClassicState.STABLE
            if group.leader is None or group.leader not in group._members:
                group.leader = next(iter(group._members)).member_id
            if len(group._members) > limits.group_max_size:
                group._prepare_rebalance()
        group._do_what_is_due()
        assert not group._actions, "nobody waits yet"
        return group

    def step(self, event: Event, now_ms: int) -> tuple[Action, ...]:
        """Take one event, then do what is due; returns what to do, in order.

        An event that comes late still counts: a heartbeat that was read after its member's time was up, but before the group was told
        of the time, keeps the member.
        """
        self._now_ms = now_ms
        self.news.clear()
        match event:
            case HeartbeatReceived():
                self._heartbeat(event)
            case OffsetCommitted(member_id=member_id):
                if (member := self._members.by_id.get(member_id)) is not None:
                    self._keep_alive(member)
            case JoinRequested():
                self._join(event)
            case SyncRequested():
                self._sync(event)
            case LeaveRequested():
                self._leave(event)
            case StoreFinished():
                self._finish_store(event)
            case GroupClosed(error_code=error_code):
                self._close(error_code)
            case TimePassed() | TokenAbandoned():
                pass
        self._do_what_is_due()
        if not self._actions:
            return ()
        actions = tuple(self._actions)
        self._actions.clear()
        return actions

    # What others ask.

    @property
    def is_vacant(self) -> bool:
        """Whether nobody ever was a member and nobody is about to be: the group is not in the log, and may be forgotten."""
        return self.state is ClassicState.EMPTY and self.generation == 0 and not self._members.pending

    @property
    def held_bytes(self) -> int:
        """What members and ids given out take in memory, about."""
        return self._members.held_bytes

    def members(self) -> tuple[SnapshotMember, ...]:
        """Return the members for DescribeGroups: metadata only while STABLE, as Kafka shows them."""
        is_stable = self.state is ClassicState.STABLE
        return self._members.snapshot(self.protocol_name if is_stable else None)

    def check_commit(
        self,
        member_id: str,
        generation: int,
        group_instance_id: str | None,
        *,
        is_transactional: bool = False,
    ) -> ErrorCode:
        """Say whether such a member may commit offsets now: OffsetCommit's fencing, or TxnOffsetCommit's.

        Without a member (generation -1, no ids), i.e. for administrators and consumers that assign themselves, only an empty group takes
        commits; TxnOffsetCommit's old versions name no member at all, so there it is taken any time.
        """
        if self.state is ClassicState.DEAD:
            return ErrorCode.COORDINATOR_NOT_AVAILABLE
        if generation < 0 and self.state is ClassicState.EMPTY:
            return ErrorCode.NONE
        if generation >= 0 or member_id or group_instance_id is not None:
            if code := self._check_member(member_id, group_instance_id, generation):
                return code
        elif not is_transactional and self.state is not ClassicState.EMPTY:
            return ErrorCode.UNKNOWN_MEMBER_ID
        if not is_transactional and self.state is ClassicState.COMPLETING_REBALANCE:
            return ErrorCode.REBALANCE_IN_PROGRESS
        return ErrorCode.NONE

    def is_subscribed_to(self, topic: str) -> bool:
        """Say whether some member may be subscribed to the topic: what can't be parsed counts as subscribed.

        Groups of another protocol type than "consumer" are subscribed to nothing, as far as the coordinator knows.
        """
        if self.protocol_type != CONSUMER_PROTOCOL_TYPE:
            return False
        topics = self._members.subscribed_topics(self.protocol_name)
        return topics is None or topic in topics

    def _check_member(self, member_id: str, group_instance_id: str | None, generation: int) -> ErrorCode:
        code = self._members.check(member_id, group_instance_id)
        if code is ErrorCode.NONE and generation != self.generation:
            return ErrorCode.ILLEGAL_GENERATION
        return code

    # JoinGroup.

    def _join(self, event: JoinRequested) -> None:
        limits = self.limits
        protocols = protocols_by_name(event.protocols)
        if self.state is ClassicState.DEAD:
            self._refuse_join(event, ErrorCode.COORDINATOR_NOT_AVAILABLE)
        elif not (
            limits.group_min_session_timeout_ms
            <= event.session_timeout_ms
            <= limits.group_max_session_timeout_ms
        ):
            self._refuse_join(event, ErrorCode.INVALID_SESSION_TIMEOUT)
        elif not self._has_room_for(event.member_id):
            self._turn_away(event)
        elif not self._can_speak(event.protocol_type, protocols):
            self._refuse_join(event, ErrorCode.INCONSISTENT_GROUP_PROTOCOL)
        elif event.member_id:
            self._join_as(event, protocols)
        else:
            self._join_newly(event, protocols)

    def _refuse_join(self, event: JoinRequested, code: ErrorCode) -> None:
        self._actions.append(JoinReply(token=event.token, error_code=code, member_id=event.member_id))

    def _has_room_for(self, member_id: str) -> bool:
        """Say whether group.max.size lets this one in; in a rebalance those who have joined count, since the others may not come."""
        members = self._members
        member = members.by_id.get(member_id)
        match self.state:
            case ClassicState.PREPARING_REBALANCE:
                has_joined = member is not None and member.join_token is not None
                return has_joined or members.joining_count < self.limits.group_max_size
            case ClassicState.COMPLETING_REBALANCE | ClassicState.STABLE:
                return member is not None or len(members) < self.limits.group_max_size
            case _:
                return True

    def _turn_away(self, event: JoinRequested) -> None:
        """The group is full: also a member that rejoins too late loses its place."""
        self._members.drop_pending(event.member_id)
        if (member := self._members.by_id.get(event.member_id)) is not None:
            self._remove(member)
        self._actions.append(JoinReply(token=event.token, error_code=ErrorCode.GROUP_MAX_SIZE_REACHED))
        self._complete_join_if_ready()

    def _can_speak(self, protocol_type: str, protocols: Mapping[str, bytes]) -> bool:
        if self.state is ClassicState.EMPTY:
            return bool(protocol_type and protocols)
        return protocol_type == self.protocol_type and self._members.support_any(protocols.keys())

    def _join_newly(self, event: JoinRequested, protocols: Mapping[str, bytes]) -> None:
        """Take in a client that has no member id."""
        if event.group_instance_id is not None:
            holder = self._members.static_ids.get(event.group_instance_id)
            if holder is not None:
                self._replace_static(event, protocols, self._members.by_id[holder])
            else:
                self._add(event, protocols, event.fresh_member_id)
        elif event.requires_known_member_id:
            expires_ms = self._now_ms + event.session_timeout_ms
            self._members.add_pending(event.fresh_member_id, expires_ms, self.limits.pending_member_max_count)
            self._actions.append(
                JoinReply(
                    token=event.token,
                    error_code=ErrorCode.MEMBER_ID_REQUIRED,
                    member_id=event.fresh_member_id,
                )
            )
        else:
            self._add(event, protocols, event.fresh_member_id)

    def _join_as(self, event: JoinRequested, protocols: Mapping[str, bytes]) -> None:
        """Let a client with a member id join, or join again."""
        if event.member_id in self._members.pending and event.group_instance_id is None:
            self._add(event, protocols, event.member_id)
            return
        if code := self._members.check(event.member_id, event.group_instance_id):
            self._refuse_join(event, code)
            return
        member = self._members.by_id[event.member_id]
        is_leader = self.leader == event.member_id
        if (
            self.state is ClassicState.PREPARING_REBALANCE
            or not member.matches(protocols)
            or (self.state is ClassicState.STABLE and is_leader)
        ):  # a stable leader asks for a rebalance by joining: it has seen something that is not in the metadata
            self._update(member, event, protocols)
            self._rebalance_or_complete_join()
        else:  # it may not have got its reply: the generation is as it was
            self._reply_joined(
                event.token, member, shows_members=self.state is ClassicState.COMPLETING_REBALANCE
            )

    def _add(self, event: JoinRequested, protocols: Mapping[str, bytes], member_id: str) -> None:
        if not len(self._members):
            self.protocol_type = event.protocol_type
        if self.leader is None:
            self.leader = member_id
        if self.state is ClassicState.PREPARING_REBALANCE and self._is_initial:
            self._has_new_member = True
        member = Member(
            member_id=member_id,
            group_instance_id=event.group_instance_id,
            client_id=event.client_id,
            client_host=event.client_host,
            rebalance_timeout_ms=_rebalance_timeout_ms(event),
            session_timeout_ms=event.session_timeout_ms,
            protocols=protocols,
            join_token=event.token,
            is_new=True,
        )
        self._members.add(member)
        self._members.arm(member, self._now_ms + self.limits.new_member_join_timeout_ms)
        self._rebalance_or_complete_join()

    def _update(self, member: Member, event: JoinRequested, protocols: Mapping[str, bytes]) -> None:
        """Let the member wait in a join, with what it says of itself now."""
        if member.join_token is not None:
            self._actions.append(
                JoinReply(
                    token=member.join_token,
                    error_code=ErrorCode.NOT_COORDINATOR,
                    member_id=member.member_id,
                )
            )
        self._members.set_protocols(member, protocols)
        self._members.set_join_token(member, event.token)
        member.rebalance_timeout_ms = _rebalance_timeout_ms(event)
        member.session_timeout_ms = event.session_timeout_ms

    # Static members that come back.

    def _replace_static(self, event: JoinRequested, protocols: Mapping[str, bytes], member: Member) -> None:
        """A client without a member id comes with an instance id that is taken: it takes the place, whoever had it is fenced."""
        previous_leader = self.leader or ""
        self._answer_waiting(member, ErrorCode.FENCED_INSTANCE_ID, member.member_id)
        previous = replace(member)
        self._rename(member, event.fresh_member_id)
        member.client_id = event.client_id
        member.client_host = event.client_host
        member.is_new = False
        self._update(member, event, protocols)
        self._keep_alive(member)
        match self.state:
            case ClassicState.STABLE if self._members.select_protocol() == self.protocol_name:
                store_token = self._store()
                self._static_rejoins[store_token] = _StaticRejoin(
                    token=event.token,
                    member_id=member.member_id,
                    can_skip_assignment=event.can_skip_assignment,
                    previous_leader=previous_leader,
                    previous=previous,
                )
            case (
                _
            ):  # the leader may have been told of the old id already: its assignment would miss the new one
                self._rebalance_or_complete_join()

    def _rename(self, member: Member, member_id: str) -> None:
        if self.leader == member.member_id:
            self.leader = member_id
        self._members.rename(member, member_id)

    def _finish_static_rejoin(self, rejoin: _StaticRejoin, code: ErrorCode) -> None:
        member = self._members.by_id.get(rejoin.member_id)
        if member is None or member.join_token != rejoin.token or self.state is not ClassicState.STABLE:
            return  # gone, fenced or answered already, or part of a rebalance that will answer it
        self._members.set_join_token(member, None)
        if code:
            self._undo_static_rejoin(member, rejoin, code)
        elif rejoin.can_skip_assignment:
            is_leader = self.leader == member.member_id
            assert self.protocol_name is not None
            self._actions.append(
                JoinReply(
                    token=rejoin.token,
                    generation=self.generation,
                    protocol_type=self.protocol_type,
                    protocol_name=self.protocol_name,
                    leader=self.leader or "",
                    skip_assignment=is_leader,
                    member_id=member.member_id,
                    members=self._members.joined(self.protocol_name) if is_leader else (),
                )
            )
        else:  # told of the leader's old id, a returning leader takes itself for a follower and assigns nothing
            self._actions.append(
                JoinReply(
                    token=rejoin.token,
                    generation=self.generation,
                    protocol_type=self.protocol_type,
                    protocol_name=self.protocol_name,
                    leader=rejoin.previous_leader,
                    member_id=member.member_id,
                )
            )
        self._keep_alive(member)

    def _undo_static_rejoin(self, member: Member, rejoin: _StaticRejoin, code: ErrorCode) -> None:
        """The new id is not in the log: the member is who it was, and the client has to ask again."""
        previous = rejoin.previous
        self._rename(member, previous.member_id)
        self._members.set_protocols(member, previous.protocols)
        member.client_id = previous.client_id
        member.client_host = previous.client_host
        member.rebalance_timeout_ms = previous.rebalance_timeout_ms
        member.session_timeout_ms = previous.session_timeout_ms
        self._actions.append(JoinReply(token=rejoin.token, error_code=code))

    # SyncGroup.

    def _sync(self, event: SyncRequested) -> None:
        members = self._members
        if code := self._check_sync(event):
            self._actions.append(SyncReply(token=event.token, error_code=code))
            return
        member = members.by_id[event.member_id]
        members.unsynced.discard(event.member_id)
        if not members.unsynced:
            self._sync_deadline_ms = None
        if self.state is ClassicState.STABLE:
            self._reply_assigned(event.token, member)
            self._keep_alive(member)  # the client counts its session from this request on
            return
        if member.sync_token is not None:
            self._actions.append(SyncReply(token=member.sync_token, error_code=ErrorCode.NOT_COORDINATOR))
        member.sync_token = event.token
        if self.leader == event.member_id:
            self._store_assignments(event.assignments)

    def _check_sync(self, event: SyncRequested) -> ErrorCode:
        if self.state is ClassicState.DEAD:
            return ErrorCode.COORDINATOR_NOT_AVAILABLE
        if code := self._check_member(event.member_id, event.group_instance_id, event.generation):
            return code
        for said, known in (
            (event.protocol_type, self.protocol_type),
            (event.protocol_name, self.protocol_name),
        ):
            if said is not None and known is not None and said != known:
                return ErrorCode.INCONSISTENT_GROUP_PROTOCOL
        if self.state is ClassicState.PREPARING_REBALANCE:
            return ErrorCode.REBALANCE_IN_PROGRESS
        return ErrorCode.NONE

    # Heartbeat and LeaveGroup.

    def _heartbeat(self, event: HeartbeatReceived) -> None:
        if self.state is ClassicState.DEAD:
            code = ErrorCode.COORDINATOR_NOT_AVAILABLE
        else:
            code = self._check_member(event.member_id, event.group_instance_id, event.generation)
            if code is ErrorCode.NONE:
                self._keep_alive(self._members.by_id[event.member_id])
                if self.state is ClassicState.PREPARING_REBALANCE:
                    code = ErrorCode.REBALANCE_IN_PROGRESS
        self._actions.append(HeartbeatReply(token=event.token, error_code=code))

    def _leave(self, event: LeaveRequested) -> None:
        if self.state is ClassicState.DEAD:
            code = ErrorCode.COORDINATOR_NOT_AVAILABLE
            self._actions.append(LeaveReply(token=event.token, error_code=code))
            return
        left = tuple(
            LeftMember(
                member_id=leaving.member_id,
                group_instance_id=leaving.group_instance_id,
                error_code=self._leave_one(leaving),
            )
            for leaving in event.members
        )
        self._actions.append(LeaveReply(token=event.token, members=left))
        if any(member.error_code is ErrorCode.NONE for member in left):
            self._go_on_without_some()

    def _leave_one(self, leaving: LeavingMember) -> ErrorCode:
        members = self._members
        member_id = leaving.member_id
        if not member_id and leaving.group_instance_id is not None:  # an administrator's
            member_id = members.static_ids.get(leaving.group_instance_id, "")
        elif members.drop_pending(member_id):
            return ErrorCode.NONE
        if code := members.check(member_id, leaving.group_instance_id):
            return code
        self._remove(members.by_id[member_id])
        return ErrorCode.NONE

    # The log.

    def _finish_store(self, event: StoreFinished) -> None:
        if self._finish_assignment_store(event.store_token, event.error_code):
            return
        if (rejoin := self._static_rejoins.pop(event.store_token, None)) is not None:
            self._finish_static_rejoin(rejoin, event.error_code)

    def _close(self, code: ErrorCode) -> None:
        for member in self._members:
            self._answer_waiting(member, code, member.member_id)
        self._members = ClassicMembers()
        self._assignment_store = None
        self._static_rejoins.clear()
        self._join_deadline_ms = None
        self._sync_deadline_ms = None
        self.leader = None
        self.empty_since_ms = None
        self.state = ClassicState.DEAD


def _rebalance_timeout_ms(event: JoinRequested) -> int:
    """Version 0 has no rebalance timeout: there the session timeout is both."""
    return event.rebalance_timeout_ms if event.rebalance_timeout_ms >= 0 else event.session_timeout_ms
