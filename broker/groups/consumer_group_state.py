"""What a KIP-848 group has stored: the value of each of its record keys, and what follows from them.

Owns the tables and the index of who holds which partition. The same `apply` takes a record that was just decided and one that is
replayed after a restart, so a restored group is the one that wrote. Knows nothing of why a record is made.

Invariants:

- `apply` returns the record that takes the change back, so that a store that failed can be undone.
- `holder` names the one member that may still use a partition: it is in that member's `assigned` or `pending_revocation`.
- Records of one group may be applied in any order that the log (compacted or not) can have: none of them needs another.
"""

import hashlib
from collections.abc import Iterable
from dataclasses import replace
from typing import Any, TypeVar

from penstock.broker.groups.consumer_group_events import (
    NOTHING,
    Assignment,
    ConsumerGroupState,
    CurrentAssignment,
    CurrentRecord,
    DescribedMember,
    GroupEpochRecord,
    MemberMetadata,
    MemberRecord,
    MemberState,
    Record,
    RegexRecord,
    SubscribedTopic,
    TargetEpochRecord,
    TargetRecord,
)

V = TypeVar("V")

Subscription = tuple[tuple[str, ...], str]
"""Topics by name, and a regular expression."""

JOINED = CurrentAssignment()
"""What a member has that was never given anything."""


class StoredGroup:
    """The tables of one group."""

    def __init__(self) -> None:
        self.group_epoch: int | None = None
        self.metadata_hash = 0
        self.target_epoch: int | None = None
        self.members: dict[str, MemberMetadata] = {}
        self.targets: dict[str, Assignment] = {}
        self.currents: dict[str, CurrentAssignment] = {}
        self.regexes: dict[str, RegexRecord] = {}
        self._holders: dict[tuple[bytes, int], str] = {}
        self._static_members: dict[str, str] = {}
        self._name_lists: dict[tuple[str, ...], list[Any]] = {}
        """Each list of names that members are subscribed to, once, and by how many of them."""

    def apply(self, record: Record) -> Record:
        """Take one record; returns the one that would take it back."""
        match record:
            case CurrentRecord(member_id, current):
                before = CurrentRecord(member_id, self.currents.get(member_id))
                self._set_current(member_id, before.current, current)
                return before
            case TargetRecord(member_id, target):
                old_target = TargetRecord(member_id, self.targets.get(member_id))
                _put(self.targets, member_id, target)
                return old_target
            case MemberRecord(member_id, metadata):
                old_member = MemberRecord(member_id, self.members.get(member_id))
                self._set_member(member_id, old_member.metadata, metadata)
                return old_member
            case GroupEpochRecord(epoch, metadata_hash):
                old_epoch = GroupEpochRecord(self.group_epoch, self.metadata_hash)
                self.group_epoch, self.metadata_hash = epoch, metadata_hash
                return old_epoch
            case TargetEpochRecord(epoch):
                old_target_epoch = TargetEpochRecord(self.target_epoch)
                self.target_epoch = epoch
                return old_target_epoch
            case RegexRecord(regex):
                old_regex = self.regexes.get(regex, RegexRecord(regex, None))
                _put(self.regexes, regex, record if record.topic_names is not None else None)
                return old_regex

    def _set_current(
        self, member_id: str, before: CurrentAssignment | None, after: CurrentAssignment | None
    ) -> None:
        for topic_id, index in _partitions_of(before):
            if self._holders.get((topic_id, index)) == member_id:
                del self._holders[topic_id, index]
        for topic_id, index in _partitions_of(after):
            self._holders[topic_id, index] = member_id
        _put(self.currents, member_id, after)

    def _set_member(
        self, member_id: str, before: MemberMetadata | None, after: MemberMetadata | None
    ) -> None:
        old_id = before.instance_id if before is not None else None
        if old_id is not None and self._static_members.get(old_id) == member_id:
            del self._static_members[old_id]
        if before is not None:
            known = self._name_lists[before.topic_names]
            known[1] -= 1
            if not known[1]:
                del self._name_lists[before.topic_names]
        if after is not None:
            after = self._share_names(after)
        if after is not None and after.instance_id is not None:
            self._static_members[after.instance_id] = member_id
        _put(self.members, member_id, after)

    def _share_names(self, metadata: MemberMetadata) -> MemberMetadata:
        """The same with a list of names that all who have an equal one share: a thousand members are mostly alike."""
        known = self._name_lists.setdefault(metadata.topic_names, [metadata.topic_names, 0])
        known[1] += 1
        if known[0] is metadata.topic_names:
            return metadata
        return replace(metadata, topic_names=known[0])

    # Questions.

    @property
    def epoch(self) -> int:
        """The group epoch; 0 before the first one."""
        return self.group_epoch or 0

    @property
    def assignment_epoch(self) -> int:
        """The epoch of the target assignment; 0 before the first one."""
        return self.target_epoch or 0

    def current(self, member_id: str) -> CurrentAssignment:
        """What a member has."""
        return self.currents.get(member_id, JOINED)

    def target(self, member_id: str) -> Assignment:
        """What a member is to get."""
        return self.targets.get(member_id, NOTHING)

    def holder(self, topic_id: bytes, index: int) -> str | None:
        """Who may still use a partition."""
        return self._holders.get((topic_id, index))

    def static_member(self, instance_id: str) -> str | None:
        """The member id that has this instance id."""
        return self._static_members.get(instance_id)

    @property
    def is_blank(self) -> bool:
        """Whether nothing at all is stored."""
        epochs = (self.group_epoch, self.target_epoch)
        tables = (self.members, self.targets, self.currents, self.regexes)
        return epochs == (None, None) and not any(tables)

    def state(self) -> ConsumerGroupState:
        """Where the group is."""
        if not self.members:
            return ConsumerGroupState.EMPTY
        if self.epoch > self.assignment_epoch:
            return ConsumerGroupState.ASSIGNING
        if all(self.is_reconciled(self.current(member_id)) for member_id in self.members):
            return ConsumerGroupState.STABLE
        return ConsumerGroupState.RECONCILING

    def is_reconciled(self, current: CurrentAssignment) -> bool:
        """Whether a member has got its target of the present epoch."""
        return current.state is MemberState.STABLE and current.member_epoch == self.assignment_epoch

    def subscriptions(self) -> set[Subscription]:
        """What members are subscribed to, each once."""
        return {(metadata.topic_names, metadata.topic_regex) for metadata in self.members.values()}

    def names_of(self, subscription: Subscription) -> frozenset[str]:
        """The topics that such a member wants, those that its regular expression meant included; some may not exist."""
        topic_names, regex = subscription
        resolved = self.regexes.get(regex)
        names = frozenset(topic_names)
        return names | resolved.topic_names if resolved and resolved.topic_names else names

    def is_subscribed_to(self, topic: str) -> bool:
        """Whether some member wants the topic."""
        return any(topic in self.names_of(subscription) for subscription in self.subscriptions())

    def described(self) -> tuple[DescribedMember, ...]:
        """All members as they are shown, by member id."""
        return tuple(
            DescribedMember(
                member_id=member_id,
                metadata=metadata,
                member_epoch=self.current(member_id).member_epoch,
                assigned=self.current(member_id).assigned,
                target=self.target(member_id),
            )
            for member_id, metadata in sorted(self.members.items())
        )

    def tombstones(self) -> list[Record]:
        """What deletes the group; the group's own keys last, so that no prefix is a group that lost only those."""
        gone: list[Record] = [CurrentRecord(member_id, None) for member_id in self.currents]
        gone += [TargetRecord(member_id, None) for member_id in self.targets]
        gone += [MemberRecord(member_id, None) for member_id in self.members]
        gone += [RegexRecord(regex, None) for regex in self.regexes]
        if self.target_epoch is not None:
            gone.append(TargetEpochRecord(None))
        if self.group_epoch is not None:
            gone.append(GroupEpochRecord(None))
        return gone


def record_key(record: Record) -> tuple[type[Record], str]:
    """What the record is the value of: kind and name."""
    match record:
        case MemberRecord(name) | TargetRecord(name) | CurrentRecord(name) | RegexRecord(name):
            return type(record), name
        case GroupEpochRecord() | TargetEpochRecord():
            return type(record), ""


def tombstone_of(record: Record) -> Record:
    """The record that deletes what this one sets."""
    match record:
        case MemberRecord(name):
            return MemberRecord(name, None)
        case TargetRecord(name):
            return TargetRecord(name, None)
        case CurrentRecord(name):
            return CurrentRecord(name, None)
        case RegexRecord(name):
            return RegexRecord(name, None)
        case GroupEpochRecord():
            return GroupEpochRecord(None)
        case TargetEpochRecord():
            return TargetEpochRecord(None)


def metadata_hash(topics: Iterable[SubscribedTopic]) -> int:
    """One number for the topics that a group is subscribed to: another one means that something changed. 0 for no topic."""
    digest = hashlib.blake2b(digest_size=8)
    empty = True
    for topic in sorted(topics, key=lambda topic: topic.name):
        empty = False
        digest.update(topic.topic_id + topic.partition_count.to_bytes(4) + topic.name.encode() + b"\0")
    return 0 if empty else int.from_bytes(digest.digest(), signed=True)


def is_subset(owned: Assignment | None, assigned: Assignment) -> bool:
    """Whether all that a member says it owns was assigned to it; a member that says nothing can't show that."""
    if owned is None:
        return False
    return all(indexes <= assigned.get(topic_id, frozenset()) for topic_id, indexes in owned.items())


def _partitions_of(current: CurrentAssignment | None) -> list[tuple[bytes, int]]:
    if current is None:
        return []
    return [
        (topic_id, index)
        for part in (current.assigned, current.pending_revocation)
        for topic_id, indexes in part.items()
        for index in indexes
    ]


def _put(table: dict[str, V], key: str, value: V | None) -> None:
    if value is None:
        table.pop(key, None)
    else:
        table[key] = value
