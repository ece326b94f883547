"""The members of one classic group: who they are, what they can speak, who waits for what, and when each of them expires.

Owns the indexes over the members (by instance id, votes for each protocol, how many wait in a join) and keeps them in step. Decides
nothing about rebalances: `ClassicGroup` does. Invariants:

- `supporters[name]` is the number of members that support the protocol; each instance id names exactly one member that is there;
- an id is never both pending and a member; `unsynced` holds members only;
- a member waits with a join or with a sync, never with both;
- `earliest_expiry_ms` is never later than the first expiry: heartbeats move expiries back without a look at the others, so it may be
  too early, which costs one idle look (a heartbeat in a group of a thousand costs what it costs in a group of one).

Source: Kafka's ClassicGroup and ClassicGroupMember; KIP-345 (instance ids), KIP-394 (pending members).
"""

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass

from penstock.broker.groups.classic_events import GroupSnapshot, JoinedMember, SnapshotMember, Token
from penstock.broker.groups.subscriptions import read_subscribed_topics
from penstock.protocol.errors import DecodeError, ErrorCode


@dataclass(slots=True, kw_only=True)
class Member:
    """One member. Times are monotonic ms."""

    member_id: str
    group_instance_id: str | None
    client_id: str
    client_host: str
    rebalance_timeout_ms: int
    session_timeout_ms: int
    protocols: Mapping[str, bytes]
    """Metadata by protocol name, the most wanted first."""
    assignment: bytes = b""
    join_token: Token | None = None
    sync_token: Token | None = None
    is_new: bool = False
    """Added in the rebalance under way. Its client may not know its id and so can't heartbeat; the session timeout holds for it only after."""
    expires_ms: int | None = None

    @property
    def is_waiting(self) -> bool:
        """Whether a request of it is parked, so that no heartbeat can be expected."""
        return self.join_token is not None or self.sync_token is not None

    def matches(self, protocols: Mapping[str, bytes]) -> bool:
        """Say whether these are its protocols: same names, metadata and order."""
        return list(self.protocols.items()) == list(protocols.items())


def protocols_by_name(protocols: Iterable[tuple[str, bytes]]) -> dict[str, bytes]:
    """Index the protocols in their order; of two with one name the first counts, as in Kafka."""
    by_name: dict[str, bytes] = {}
    for name, metadata in protocols:
        by_name.setdefault(name, metadata)
    return by_name


MEMBER_BYTES = 1_500
"""What a member takes besides what its client has sent."""
PENDING_BYTES = 200


class ClassicMembers:
    """The members of one group, and the ids that were given out and not yet come back with."""

    def __init__(self) -> None:
        self.by_id: dict[str, Member] = {}
        self.static_ids: dict[str, str] = {}
        """Member id by instance id."""
        self.supporters: Counter[str] = Counter()
        self.pending: dict[str, int] = {}
        """Expiry by id, in the order they were given out."""
        self.unsynced: set[str] = set()
        """Who has not sent a SyncGroup in this generation."""
        self.joining_count = 0
        self.earliest_expiry_ms: int | None = None
        self._topics: dict[str, frozenset[str] | None] = {}
        """Subscribed topics by protocol, as far as somebody asked since the last change."""

    def __len__(self) -> int:
        return len(self.by_id)

    def __iter__(self) -> Iterator[Member]:
        return iter(self.by_id.values())

    @property
    def held_bytes(self) -> int:
        """What all of it takes in memory, about."""
        ids = sum(len(member_id) + PENDING_BYTES for member_id in self.pending)
        return ids + sum(
            MEMBER_BYTES
            + len(member.member_id)
            + len(member.client_id)
            + len(member.assignment)
            + sum(len(name) + len(metadata) for name, metadata in member.protocols.items())
            for member in self.by_id.values()
        )

    def __contains__(self, member_id: str) -> bool:
        return member_id in self.by_id

    # Who is who.

    def check(self, member_id: str, group_instance_id: str | None) -> ErrorCode:
        """Say whether the caller is the member that it says: NONE, UNKNOWN_MEMBER_ID or FENCED_INSTANCE_ID."""
        if group_instance_id is not None:
            holder = self.static_ids.get(group_instance_id)
            if holder is not None and holder != member_id:
                return ErrorCode.FENCED_INSTANCE_ID
            if holder is None:
                return ErrorCode.UNKNOWN_MEMBER_ID
        return ErrorCode.NONE if member_id in self.by_id else ErrorCode.UNKNOWN_MEMBER_ID

    def add(self, member: Member) -> None:
        """Add a member that is not there; a pending id is so no longer."""
        assert member.member_id not in self.by_id
        self.pending.pop(member.member_id, None)
        self.by_id[member.member_id] = member
        if member.group_instance_id is not None:
            assert member.group_instance_id not in self.static_ids
            self.static_ids[member.group_instance_id] = member.member_id
        self._add_protocols(member, member.protocols)
        self.joining_count += member.join_token is not None

    def remove(self, member_id: str) -> None:
        """Take out a member; nobody may wait with it any more."""
        member = self.by_id.pop(member_id)
        assert not member.is_waiting
        if member.group_instance_id is not None:
            del self.static_ids[member.group_instance_id]
        self._forget_protocols(member)
        self.unsynced.discard(member_id)
        self._rest_if_empty()

    def rename(self, member: Member, member_id: str) -> None:
        """Give a static member another id; its place among the members, its assignment and its waiting requests stay."""
        assert member.group_instance_id is not None
        old_id = member.member_id
        self.by_id = {
            member_id if name == old_id else name: member_ for name, member_ in self.by_id.items()
        }  # in place: a leader's assignor may go by the order
        member.member_id = member_id
        self.static_ids[member.group_instance_id] = member_id
        if old_id in self.unsynced:
            self.unsynced.remove(old_id)
            self.unsynced.add(member_id)

    def set_join_token(self, member: Member, token: Token | None) -> None:
        """Let the member wait in a join, or wait no more."""
        self.joining_count += (token is not None) - (member.join_token is not None)
        member.join_token = token

    @property
    def have_all_joined(self) -> bool:
        """Whether every member waits in a join, and nobody is about to."""
        return self.joining_count == len(self.by_id) and not self.pending

    @property
    def rebalance_timeout_ms(self) -> int:
        """The longest that any member asks for; 0 without members."""
        return max((member.rebalance_timeout_ms for member in self), default=0)

    # Protocols.

    def set_protocols(self, member: Member, protocols: Mapping[str, bytes]) -> None:
        """Replace what the member can speak."""
        self._forget_protocols(member)
        self._add_protocols(member, protocols)

    def _add_protocols(self, member: Member, protocols: Mapping[str, bytes]) -> None:
        self._topics.clear()
        member.protocols = protocols
        self.supporters.update(protocols.keys())

    def _forget_protocols(self, member: Member) -> None:
        self._topics.clear()
        self.supporters.subtract(member.protocols.keys())
        for name in member.protocols:
            if not self.supporters[name]:
                del self.supporters[name]

    def support_any(self, names: Collection[str]) -> bool:
        """Say whether all members support one of these protocols."""
        return any(self.supporters[name] == len(self.by_id) for name in names)

    def select_protocol(self) -> str:
        """Choose the protocol: each member votes for its first that all support; the first of those with most votes wins."""
        votes: Counter[str] = Counter()
        for member in self:
            votes[self._vote(member)] += 1
        return votes.most_common(1)[0][0]

    def _vote(self, member: Member) -> str:
        return next(name for name in member.protocols if self.supporters[name] == len(self.by_id))

    def subscribed_topics(self, protocol_name: str | None) -> frozenset[str] | None:
        """Return what the members subscribe to, going by their metadata for this protocol; None where that can't be told."""
        name = protocol_name or ""
        if name not in self._topics:
            self._topics[name] = self._read_topics(name)
        return self._topics[name]

    def _read_topics(self, protocol_name: str) -> frozenset[str] | None:
        topics: set[str] = set()
        for member in self:
            try:
                topics |= read_subscribed_topics(member.protocols[protocol_name])
            except (
                DecodeError,
                KeyError,
            ):  # no key: it has joined, and which protocol it will be is not decided
                return None
        return frozenset(topics)

    # Expiry.

    def arm(self, member: Member, expires_ms: int) -> None:
        """Let the member expire then, and not before."""
        member.expires_ms = expires_ms
        self._expect_expiry(expires_ms)

    def add_pending(self, member_id: str, expires_ms: int, count_max: int) -> None:
        """Remember an id that was given out; past `count_max` the one given out first is forgotten."""
        self.pending[member_id] = expires_ms
        if len(self.pending) > count_max:
            del self.pending[next(iter(self.pending))]
        self._expect_expiry(expires_ms)

    def drop_pending(self, member_id: str) -> bool:
        """Forget an id that was given out; False where it was not."""
        was_pending = self.pending.pop(member_id, None) is not None
        self._rest_if_empty()
        return was_pending

    def _rest_if_empty(self) -> None:
        if not self.by_id and not self.pending:
            self.earliest_expiry_ms = None

    def _expect_expiry(self, expires_ms: int) -> None:
        if self.earliest_expiry_ms is None or expires_ms < self.earliest_expiry_ms:
            self.earliest_expiry_ms = expires_ms

    def take_expired(self, now_ms: int) -> list[Member]:
        """Return the members whose time is up and forget such pending ids; who waits in a rebalance can't be expected to heartbeat.

        The members are still there: removing them, and what that entails, is the group's business.
        """
        for member_id in [name for name, expires_ms in self.pending.items() if expires_ms <= now_ms]:
            del self.pending[member_id]
        expired: list[Member] = []
        for member in self:
            if member.expires_ms is not None and member.expires_ms <= now_ms:
                member.expires_ms = None
                if member.is_new or not member.is_waiting:
                    expired.append(member)
        self.look_for_earliest_expiry()
        return expired

    def look_for_earliest_expiry(self) -> None:
        """Make `earliest_expiry_ms` exact."""
        armed = (member.expires_ms for member in self if member.expires_ms is not None)
        self.earliest_expiry_ms = min((*armed, *self.pending.values()), default=None)

    # What others get to see.

    def joined(self, protocol_name: str) -> tuple[JoinedMember, ...]:
        """Return the members as the leader's JoinGroup reply names them."""
        return tuple(
            JoinedMember(
                member_id=member.member_id,
                group_instance_id=member.group_instance_id,
                metadata=member.protocols[protocol_name],
            )
            for member in self
        )

    def snapshot(
        self, protocol_name: str | None, assignments: Mapping[str, bytes] | None = None
    ) -> tuple[SnapshotMember, ...]:
        """Return the members with their metadata for the protocol (empty without one) and these assignments, or else their own."""
        return tuple(
            SnapshotMember(
                member_id=member.member_id,
                group_instance_id=member.group_instance_id,
                client_id=member.client_id,
                client_host=member.client_host,
                rebalance_timeout_ms=member.rebalance_timeout_ms,
                session_timeout_ms=member.session_timeout_ms,
                subscription=member.protocols.get(protocol_name, b"") if protocol_name is not None else b"",
                assignment=member.assignment
                if assignments is None
                else assignments.get(member.member_id, b""),
            )
            for member in self
        )

    def load(self, snapshot: GroupSnapshot, now_ms: int) -> None:
        """Add the members of a stored group; each has its whole session timeout from now. Of two with one id the first counts."""
        for stored in snapshot.members:
            if stored.member_id in self or stored.group_instance_id in self.static_ids:
                continue
            rebalance_timeout_ms = stored.rebalance_timeout_ms
            member = Member(
                member_id=stored.member_id,
                group_instance_id=stored.group_instance_id,
                client_id=stored.client_id,
                client_host=stored.client_host,
                rebalance_timeout_ms=stored.session_timeout_ms
                if rebalance_timeout_ms < 0
                else rebalance_timeout_ms,
                session_timeout_ms=stored.session_timeout_ms,
                protocols={snapshot.protocol_name or "": stored.subscription},
                assignment=stored.assignment,
            )
            self.add(member)
            self.arm(member, now_ms + member.session_timeout_ms)
