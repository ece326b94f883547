"""Runs classic groups in a shard: machine actions to records and answers, and records back to machines.

Owns the two ways between `GroupSnapshot` and GroupMetadataValue, and when a group has a classic membership. Decides nothing about members.
"""

from collections.abc import Iterable

from penstock.broker.errors import ApiError
from penstock.broker.groups.classic_events import (
    Action,
    ClassicLimits,
    GroupSnapshot,
    SnapshotMember,
    Store,
    StoreFinished,
)
from penstock.broker.groups.classic_group import ClassicGroup
from penstock.broker.groups.group import Group
from penstock.broker.groups.shard import GroupShard
from penstock.protocol.errors import ErrorCode
from penstock.protocol.group_records import (
    RecordKind,
    decode_group_value,
    encode_group_key,
    encode_group_value,
)
from penstock.protocol.message import Message
from penstock.runtime.clock import Clock

_KIND = int(RecordKind.GROUP_METADATA)


class ClassicDriver:
    """The driver of classic groups (see `membership_driver`)."""

    kinds = frozenset((_KIND,))

    def __init__(self, limits: ClassicLimits, clock: Clock) -> None:
        self.limits = limits
        self._clock = clock
        self._replayed: dict[Group, tuple[GroupSnapshot, int]] = {}

    def handles(self, group: Group) -> bool:
        """Whether it is a classic group."""
        return isinstance(group.membership, ClassicGroup)

    def begin(self, group: Group) -> ClassicGroup:
        """The group's classic membership, a new one where it has none or an empty one of the other kind.

        Raises ApiError INCONSISTENT_GROUP_PROTOCOL where it has members of the other kind.
        """
        if isinstance(group.membership, ClassicGroup):
            return group.membership
        if not is_empty(group):
            raise ApiError(
                ErrorCode.INCONSISTENT_GROUP_PROTOCOL, "The group has members of the consumer protocol."
            )
        begun = ClassicGroup(group.group_id, self.limits)
        group.shard.put_membership(group, begun)
        return begun

    def apply(self, group: Group, key: bytes, value: bytes | None) -> None:
        """Replay a GroupMetadata record: the last one counts."""
        if value is None:
            self._replayed.pop(group, None)
            group.stored_kinds.discard(_KIND)
            return
        stored = decode_group_value(value)
        group.stored_kinds.add(_KIND)
        self._replayed[group] = _snapshot_of(stored), stored.current_state_timestamp

    def loaded(self, group: Group, now_ms: int) -> None:
        """Make the membership anew: members that are there get a session timeout from now on to be heard of."""
        replayed = self._replayed.pop(group, None)
        if replayed is None:
            return
        snapshot, stored_at_ms = replayed
        age_ms = max(self._clock.wall_ms() - stored_at_ms, 0) if stored_at_ms >= 0 else 0
        restored = ClassicGroup.restore(group.group_id, self.limits, snapshot, now_ms, state_age_ms=age_ms)
        group.shard.put_membership(group, restored)

    def forget(self, group: Group) -> None:
        """The load was given up."""
        self._replayed.pop(group, None)

    def perform(self, group: Group, actions: Iterable[Action]) -> None:
        """Store what is to be stored, answer who is to be answered."""
        shard = group.shard
        for action in actions:
            if isinstance(action, Store):
                self._store(shard, group, action)
            else:
                shard.resolve(action.token, action)

    def _store(self, shard: GroupShard, group: Group, action: Store) -> None:
        machine = group.membership

        def done(code: ErrorCode) -> None:
            if code == ErrorCode.INVALID_COMMIT_OFFSET_SIZE:
                code = ErrorCode.UNKNOWN_SERVER_ERROR  # as Kafka: members can't do anything about it
            if group.membership is machine and not shard.is_closed:
                shard.step(group, StoreFinished(store_token=action.store_token, error_code=code))

        value = encode_group_value(_stored(action.snapshot, self._clock.wall_ms()))
        group.stored_kinds.add(_KIND)
        shard.store(group, [(encode_group_key(group.group_id), value)], done)

    def tombstone_keys(self, group: Group) -> list[bytes]:
        """The one record, if there may be one."""
        return [encode_group_key(group.group_id)] if _KIND in group.stored_kinds else []


def is_empty(group: Group) -> bool:
    """Whether the group has no members, of whatever kind."""
    membership = group.membership
    return membership is None or membership.state.value in ("Empty", "Dead")


def _stored(snapshot: GroupSnapshot, now_ms: int) -> Message:
    return Message(
        protocol_type=snapshot.protocol_type,
        generation=snapshot.generation,
        protocol=snapshot.protocol_name,
        leader=snapshot.leader,
        current_state_timestamp=now_ms,
        members=[
            Message(
                member_id=member.member_id,
                group_instance_id=member.group_instance_id,
                client_id=member.client_id,
                client_host=member.client_host,
                rebalance_timeout=member.rebalance_timeout_ms,
                session_timeout=member.session_timeout_ms,
                subscription=member.subscription,
                assignment=member.assignment,
            )
            for member in snapshot.members
        ],
    )


def _snapshot_of(stored: Message) -> GroupSnapshot:
    return GroupSnapshot(
        protocol_type=stored.protocol_type,
        generation=stored.generation,
        protocol_name=stored.protocol,
        leader=stored.leader,
        members=tuple(
            SnapshotMember(
                member_id=member.member_id,
                group_instance_id=member.group_instance_id,
                client_id=member.client_id,
                client_host=member.client_host,
                rebalance_timeout_ms=member.rebalance_timeout,
                session_timeout_ms=member.session_timeout,
                subscription=member.subscription,
                assignment=member.assignment,
            )
            for member in stored.members
        ),
    )
