"""Runs groups of the consumer protocol in a shard: machine actions to records and answers, records back to machines.

Owns the two ways between the values of `consumer_group_events` and the records of `protocol/consumer_group_records`, what the machines see
of the cluster's topics, and when a group has a membership of this kind. Decides nothing about members.
"""

import logging
from collections.abc import Callable, Iterable
from typing import Any

import trio

from penstock.broker.errors import ApiError
from penstock.broker.groups.classic_driver import is_empty
from penstock.broker.groups.classic_events import StoreFinished, Token
from penstock.broker.groups.consumer_group import ConsumerGroup
from penstock.broker.groups.consumer_group_events import (
    Action,
    Assignment,
    ConsumerGroupLimits,
    CurrentAssignment,
    CurrentRecord,
    Event,
    GroupEpochRecord,
    MemberMetadata,
    MemberRecord,
    MemberState,
    Record,
    RegexRecord,
    Reply,
    StoreRecords,
    SubscribedTopic,
    TargetEpochRecord,
    TargetRecord,
    TopicsChanged,
)
from penstock.broker.groups.group import Group
from penstock.broker.groups.shard import GroupShard
from penstock.broker.groups.topic_patterns import matching
from penstock.broker.image import ClusterImage, ImageDelta
from penstock.protocol.consumer_group_records import KEYS, VALUES, WRITTEN_VERSION, ConsumerRecordKind
from penstock.protocol.errors import DecodeError, ErrorCode
from penstock.protocol.message import Message
from penstock.protocol.record_format import version_of
from penstock.runtime.clock import Clock

log = logging.getLogger(__name__)

MATCHED_NAMES_MAX = 100_000
"""Names that regular expressions have matched which are remembered, so that a thousand members with one expression cost one look."""


class ImageTopics:
    """The topics of the cluster image, as machines ask for them."""

    def __init__(self, image: ClusterImage) -> None:
        self._image = image
        self._matched: dict[str, frozenset[str]] = {}
        self._matched_count = 0
        self._matched_revision = -1

    @property
    def revision(self) -> int:
        """The image's."""
        return self._image.revision

    def topic(self, name: str) -> SubscribedTopic | None:
        """The topic of that name."""
        topic = self._image.topic(name)
        return None if topic is None else SubscribedTopic(name, topic.topic_id, topic.partition_count)

    def names(self) -> Iterable[str]:
        """All of them."""
        return self._image.topics

    def match(self, regex: str) -> frozenset[str]:
        """The names that the whole expression matches. Raises InvalidRegularExpression."""
        if self._matched_revision != self._image.revision or self._matched_count > MATCHED_NAMES_MAX:
            self._matched.clear()
            self._matched_count = 0
            self._matched_revision = self._image.revision
        names = self._matched.get(regex)
        if names is None:
            names = self._matched[regex] = matching(regex, self._image.topics)
            self._matched_count += len(names) + 1
        return names


class ConsumerGroupDriver:
    """The driver of groups of the consumer protocol (see `membership_driver`)."""

    kinds = frozenset(int(kind) for kind in ConsumerRecordKind)

    def __init__(self, limits: ConsumerGroupLimits, image: ClusterImage, clock: Clock) -> None:
        self.limits = limits
        self._topics = ImageTopics(image)
        self._clock = clock
        self._replayed: dict[Group, ConsumerGroup] = {}

    def handles(self, group: Group) -> bool:
        """Whether it is a group of the consumer protocol."""
        return isinstance(group.membership, ConsumerGroup)

    def begin(self, group: Group) -> ConsumerGroup:
        """The group's membership, a new one where it has none or an empty one of the other kind.

        Raises ApiError GROUP_ID_NOT_FOUND, as Kafka does, where it has members of the classic protocol.
        """
        if isinstance(group.membership, ConsumerGroup):
            return group.membership
        if not is_empty(group):
            raise ApiError(
                ErrorCode.GROUP_ID_NOT_FOUND,
                f"The group {group.group_id} has members of the classic protocol.",
            )
        begun = ConsumerGroup(group.group_id, self.limits, self._topics)
        group.shard.put_membership(group, begun)
        return begun

    def note(self, shards: Iterable[GroupShard], delta: ImageDelta) -> None:
        """Topics may have changed: the groups look at them with their next heartbeat."""
        if not (delta.topics_added or delta.topics_removed or delta.topics_changed):
            return
        for shard in shards:
            for group in tuple(shard.groups.values()):
                if isinstance(group.membership, ConsumerGroup):
                    shard.try_step(group, TopicsChanged())

    # Replay

    def apply(self, group: Group, key: bytes, value: bytes | None) -> None:
        """Replay one record. Raises DecodeError."""
        record = decode_record(key, value)
        if value is not None:
            group.stored_kinds.add(version_of(key))
        if record is None:
            return
        machine = self._replayed.get(group)
        if machine is None:
            machine = self._replayed[group] = ConsumerGroup(group.group_id, self.limits, self._topics)
        machine.replay(record)

    def loaded(self, group: Group, now_ms: int) -> None:
        """Put the membership in the group: members that are there get a fresh session."""
        machine = self._replayed.pop(group, None)
        if machine is None:
            return
        if not machine.exists:
            group.stored_kinds -= self.kinds
            return
        machine.resume(now_ms)
        group.shard.put_membership(group, machine)

    def forget(self, group: Group) -> None:
        """The load was given up."""
        self._replayed.pop(group, None)

    # Requests

    async def ask(self, group: Group, event_of: Callable[[Token], Event]) -> Reply:
        """Step the group with an event that has a token, and wait for its answer. Cancellation: the group may have taken the event."""
        shard = group.shard
        answered = trio.Event()
        answers: list[Reply] = []

        def answer(reply: Reply) -> None:
            answers.append(reply)
            answered.set()

        token = shard.wait(answer)
        shard.step(group, event_of(token))
        try:
            await answered.wait()
        finally:
            shard.abandon(token)
        return answers[0]

    def drop_unused(self, group: Group) -> None:
        """Take a group out of memory that was made for a join and got no member, and of which the log holds nothing."""
        machine = group.membership
        unused = isinstance(machine, ConsumerGroup) and machine.is_unused
        if unused and not group.offset_keys() and not group.has_records:
            group.shard.drop(group)

    # Actions

    def perform(self, group: Group, actions: Iterable[Action]) -> None:
        """Store what is to be stored, answer who is to be answered."""
        for action in actions:
            if isinstance(action, StoreRecords):
                self._store(group, action)
            else:
                group.shard.resolve(action.token, action)

    def _store(self, group: Group, action: StoreRecords) -> None:
        machine, shard = group.membership, group.shard

        def done(code: ErrorCode) -> None:
            if code == ErrorCode.INVALID_COMMIT_OFFSET_SIZE:
                code = ErrorCode.UNKNOWN_SERVER_ERROR  # as Kafka: members can't do anything about it
            if group.membership is machine and not shard.is_closed:
                shard.step(group, StoreFinished(store_token=action.store_token, error_code=code))

        now_ms = self._clock.wall_ms()
        pairs = [encode_record(group.group_id, record, now_ms) for record in action.records]
        group.stored_kinds.update(version_of(key) for key, value in pairs if value is not None)
        shard.store(group, pairs, done)

    def tombstone_keys(self, group: Group) -> list[bytes]:
        """The keys of all that may be stored of the membership."""
        machine = group.membership
        assert isinstance(machine, ConsumerGroup)
        keys = [encode_record(group.group_id, record, 0)[0] for record in machine.tombstones()]
        if ConsumerRecordKind.PARTITION_METADATA in group.stored_kinds:
            keys.append(_key(ConsumerRecordKind.PARTITION_METADATA, group.group_id))
        return keys


# Records to bytes.


def encode_record(group_id: str, record: Record, wall_ms: int) -> tuple[bytes, bytes | None]:
    """The key and the value (None: a tombstone) of a record; `wall_ms` stamps what Kafka stamps."""
    match record:
        case CurrentRecord(member_id, current):
            kind, name, value = ConsumerRecordKind.CURRENT_MEMBER_ASSIGNMENT, member_id, _current(current)
        case TargetRecord(member_id, assignment):
            kind, name = ConsumerRecordKind.TARGET_ASSIGNMENT_MEMBER, member_id
            value = None if assignment is None else Message(topic_partitions=_partitions(assignment))
        case MemberRecord(member_id, metadata):
            kind, name, value = ConsumerRecordKind.MEMBER_METADATA, member_id, _member(metadata)
        case GroupEpochRecord(epoch, metadata_hash):
            kind, name = ConsumerRecordKind.METADATA, ""
            value = None if epoch is None else Message(epoch=epoch, metadata_hash=metadata_hash)
        case TargetEpochRecord(epoch):
            kind, name = ConsumerRecordKind.TARGET_ASSIGNMENT_METADATA, ""
            value = None if epoch is None else Message(assignment_epoch=epoch)
        case RegexRecord(regex, topic_names, revision):
            kind, name = ConsumerRecordKind.REGULAR_EXPRESSION, regex
            value = (
                None
                if topic_names is None
                else Message(topics=sorted(topic_names), version=revision, timestamp=wall_ms)
            )
    return _key(kind, group_id, name), None if value is None else VALUES[kind].encode(WRITTEN_VERSION, value)


def _key(kind: ConsumerRecordKind, group_id: str, name: str = "") -> bytes:
    message = Message(group_id=group_id)
    if kind in (
        ConsumerRecordKind.MEMBER_METADATA,
        ConsumerRecordKind.TARGET_ASSIGNMENT_MEMBER,
        ConsumerRecordKind.CURRENT_MEMBER_ASSIGNMENT,
    ):
        message.member_id = name
    elif kind is ConsumerRecordKind.REGULAR_EXPRESSION:
        message.regular_expression = name
    return KEYS[kind].encode(kind, message)


def _member(metadata: MemberMetadata | None) -> Message | None:
    if metadata is None:
        return None
    return Message(
        instance_id=metadata.instance_id,
        rack_id=metadata.rack_id,
        client_id=metadata.client_id,
        client_host=metadata.client_host,
        subscribed_topic_names=list(metadata.topic_names),
        subscribed_topic_regex=metadata.topic_regex,
        rebalance_timeout_ms=metadata.rebalance_timeout_ms,
        server_assignor=metadata.server_assignor,
    )


def _current(current: CurrentAssignment | None) -> Message | None:
    if current is None:
        return None
    return Message(
        member_epoch=current.member_epoch,
        previous_member_epoch=current.previous_member_epoch,
        state=int(current.state),
        assigned_partitions=_partitions(current.assigned),
        partitions_pending_revocation=_partitions(current.pending_revocation),
    )


def _partitions(assignment: Assignment) -> list[Message]:
    return [
        Message(topic_id=topic_id, partitions=sorted(indexes))
        for topic_id, indexes in sorted(assignment.items())
    ]


# Bytes to records.


def decode_record(key: bytes, value: bytes | None) -> Record | None:
    """The record; None for one that says nothing here (what Kafka 4.0 kept of partitions). Raises DecodeError."""
    kind_number = version_of(key)
    if kind_number not in ConsumerGroupDriver.kinds:
        raise DecodeError(f"a record of kind {kind_number} is not of a consumer group")
    kind = ConsumerRecordKind(kind_number)
    decode = _DECODERS.get(kind)
    if decode is None:
        return None
    return decode(KEYS[kind].decode(key), None if value is None else VALUES[kind].decode(value))


def _read_epoch(key: Message, value: Message | None) -> Record:
    return GroupEpochRecord(None) if value is None else GroupEpochRecord(value.epoch, value.metadata_hash)


def _read_target_epoch(key: Message, value: Message | None) -> Record:
    return TargetEpochRecord(None if value is None else value.assignment_epoch)


def _read_target(key: Message, value: Message | None) -> Record:
    return TargetRecord(key.member_id, None if value is None else _assignment(value.topic_partitions))


def _read_member(key: Message, value: Message | None) -> Record:
    if value is None:
        return MemberRecord(key.member_id, None)
    metadata = MemberMetadata(
        instance_id=value.instance_id,
        rack_id=value.rack_id,
        client_id=value.client_id,
        client_host=value.client_host,
        topic_names=tuple(value.subscribed_topic_names),
        topic_regex=value.subscribed_topic_regex or "",
        rebalance_timeout_ms=value.rebalance_timeout_ms,
        server_assignor=value.server_assignor,
    )
    return MemberRecord(key.member_id, metadata)


def _read_current(key: Message, value: Message | None) -> Record:
    if value is None:
        return CurrentRecord(key.member_id, None)
    if value.state not in MemberState.__members__.values():
        raise DecodeError(f"a member in the unknown state {value.state}")
    current = CurrentAssignment(
        member_epoch=value.member_epoch,
        previous_member_epoch=value.previous_member_epoch,
        state=MemberState(value.state),
        assigned=_assignment(value.assigned_partitions),
        pending_revocation=_assignment(value.partitions_pending_revocation),
    )
    return CurrentRecord(key.member_id, current)


def _read_regex(key: Message, value: Message | None) -> Record:
    if value is None:
        return RegexRecord(key.regular_expression, None)
    return RegexRecord(key.regular_expression, frozenset(value.topics), value.version)


def _assignment(topics: Iterable[Any]) -> Assignment:
    return {topic.topic_id: frozenset(topic.partitions) for topic in topics if topic.partitions}


_DECODERS: dict[ConsumerRecordKind, Callable[[Message, Message | None], Record]] = {
    ConsumerRecordKind.METADATA: _read_epoch,
    ConsumerRecordKind.MEMBER_METADATA: _read_member,
    ConsumerRecordKind.TARGET_ASSIGNMENT_METADATA: _read_target_epoch,
    ConsumerRecordKind.TARGET_ASSIGNMENT_MEMBER: _read_target,
    ConsumerRecordKind.CURRENT_MEMBER_ASSIGNMENT: _read_current,
    ConsumerRecordKind.REGULAR_EXPRESSION: _read_regex,
}
