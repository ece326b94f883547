"""Calls about groups as messages: requests from values, values from answers.

Pure. Knows no connection and no retry; what a broker refused comes out as a BrokerError in the place of the result.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import TypeVar

from penstock.client.errors import BrokerError, broker_error
from penstock.client.group_values import (
    GroupDescription,
    GroupKind,
    GroupListing,
    GroupMember,
    GroupState,
    OffsetAndMetadata,
)
from penstock.client.metadata import TopicPartition
from penstock.protocol.consumer_protocol import PROTOCOL_TYPE, decode_assignment
from penstock.protocol.errors import DecodeError, ErrorCode
from penstock.protocol.message import Message

_NO_GENERATION = -1
_NO_OFFSET = -1
_BROKERS_RETENTION = -1
V = TypeVar("V")


def list_groups_request(states: Sequence[GroupState], kinds: Sequence[GroupKind]) -> Message:
    """ListGroups; filters by state need version 4, by kind version 5."""
    return Message(states_filter=[str(state) for state in states], types_filter=[str(kind) for kind in kinds])


def read_groups(answer: Message) -> list[GroupListing]:
    """The groups of one broker."""
    return [
        GroupListing(
            group_id=entry.group_id,
            protocol_type=entry.protocol_type,
            state=GroupState.read(entry.group_state),
            kind=GroupKind.read(entry.group_type),
        )
        for entry in answer.groups
    ]


def describe_groups_request(group_ids: Sequence[str]) -> Message:
    """DescribeGroups."""
    return Message(groups=list(group_ids), include_authorized_operations=False)


def read_classic_groups(answer: Message, coordinator: str) -> dict[str, GroupDescription | BrokerError]:
    """The outcome for each group. Up to version 5 a group that is not there shows as dead; it comes out as UnknownGroup all the same."""
    outcomes: dict[str, GroupDescription | BrokerError] = {}
    for entry in answer.groups:
        code = entry.error_code
        if not code and GroupState.read(entry.group_state) == GroupState.DEAD:
            code = ErrorCode.GROUP_ID_NOT_FOUND
        if code:
            outcomes[entry.group_id] = _group_error(code, None, entry.group_id)
        else:
            outcomes[entry.group_id] = _classic_group(entry, coordinator)
    return outcomes


def _classic_group(entry: Message, coordinator: str) -> GroupDescription:
    is_consumer = entry.protocol_type == PROTOCOL_TYPE
    return GroupDescription(
        group_id=entry.group_id,
        kind=GroupKind.CLASSIC,
        state=GroupState.read(entry.group_state),
        protocol_type=entry.protocol_type,
        protocol=entry.protocol_data,
        members=[
            GroupMember(
                member_id=member.member_id,
                group_instance_id=member.group_instance_id,
                client_id=member.client_id,
                client_host=_host(member.client_host),
                assignment=_assigned(member.member_assignment) if is_consumer else (),
            )
            for member in entry.members
        ],
        coordinator=coordinator,
    )


def _assigned(assignment: bytes) -> Sequence[TopicPartition]:
    """What a leader assigned; nothing where it is no consumer's (a member may send any bytes)."""
    if not assignment:
        return ()
    try:
        return sorted(TopicPartition(*each) for each in decode_assignment(assignment).partitions)
    except DecodeError:
        return ()


def describe_consumer_groups_request(group_ids: Sequence[str]) -> Message:
    """ConsumerGroupDescribe."""
    return Message(group_ids=list(group_ids), include_authorized_operations=False)


def read_consumer_groups(answer: Message, coordinator: str) -> dict[str, GroupDescription | BrokerError]:
    """The outcome for each group; UnknownGroup for one that is classic."""
    return {
        entry.group_id: _group_error(entry.error_code, entry.error_message, entry.group_id)
        if entry.error_code
        else _consumer_group(entry, coordinator)
        for entry in answer.groups
    }


def _consumer_group(entry: Message, coordinator: str) -> GroupDescription:
    return GroupDescription(
        group_id=entry.group_id,
        kind=GroupKind.CONSUMER,
        state=GroupState.read(entry.group_state),
        protocol_type=PROTOCOL_TYPE,
        protocol=entry.assignor_name,
        members=[
            GroupMember(
                member_id=member.member_id,
                group_instance_id=member.instance_id,
                client_id=member.client_id,
                client_host=_host(member.client_host),
                assignment=_partitions(member.assignment),
                target_assignment=_partitions(member.target_assignment),
                epoch=member.member_epoch,
            )
            for member in entry.members
        ],
        coordinator=coordinator,
        epoch=entry.group_epoch,
    )


def _partitions(assignment: Message) -> Sequence[TopicPartition]:
    return sorted(
        TopicPartition(topic.topic_name, index)
        for topic in assignment.topic_partitions
        for index in topic.partitions
    )


def _host(text: str) -> str:
    """Java writes a slash before an address that it has no name for."""
    return text.removeprefix("/")


def delete_groups_request(group_ids: Sequence[str]) -> Message:
    """DeleteGroups."""
    return Message(groups_names=list(group_ids))


def read_deleted_groups(answer: Message) -> dict[str, BrokerError | None]:
    """The outcome for each group; None where it is gone."""
    return {
        entry.group_id: _group_error(entry.error_code, None, entry.group_id) if entry.error_code else None
        for entry in answer.results
    }


def offset_fetch_request(group_id: str, partitions: Iterable[TopicPartition] | None) -> Message:
    """OffsetFetch of one group: the fields of versions up to 7 and those of 8 and 9. None: all partitions (version 2 and later)."""
    topics = None
    if partitions is not None:
        topics = [
            Message(name=topic, partition_indexes=[index for index, _ in entries])
            for topic, entries in _by_topic(dict.fromkeys(partitions)).items()
        ]
    return Message(
        group_id=group_id,
        topics=topics,
        groups=[Message(group_id=group_id, topics=topics)],
        require_stable=False,
    )


def read_committed(
    answer: Message, group_id: str
) -> dict[TopicPartition, OffsetAndMetadata | BrokerError | None]:
    """The committed offset of each partition, None where there is none.

    `answer` is the entry of the group, or up to version 7 the whole answer. Raises BrokerError for an error of the group.
    """
    if answer.error_code:
        raise _group_error(answer.error_code, None, group_id)
    return {
        TopicPartition(topic.name, entry.partition_index): _committed(topic.name, entry)
        for topic in answer.topics
        for entry in topic.partitions
    }


def _committed(topic: str, entry: Message) -> OffsetAndMetadata | BrokerError | None:
    if entry.error_code:
        return broker_error(entry.error_code, subject=f"{topic}-{entry.partition_index}")
    if entry.committed_offset == _NO_OFFSET:
        return None
    return OffsetAndMetadata(entry.committed_offset, entry.metadata or "", entry.committed_leader_epoch)


def offset_commit_request(
    group_id: str, offsets: Mapping[TopicPartition, int | OffsetAndMetadata]
) -> Message:
    """OffsetCommit from outside of the group, by topic name (version 9 at most)."""
    return Message(
        group_id=group_id,
        generation_id_or_member_epoch=_NO_GENERATION,
        member_id="",
        group_instance_id=None,
        retention_time_ms=_BROKERS_RETENTION,
        topics=[
            Message(name=topic, partitions=[_offset_to_commit(*entry) for entry in entries])
            for topic, entries in _by_topic(offsets).items()
        ],
    )


def _offset_to_commit(index: int, offset: int | OffsetAndMetadata) -> Message:
    full = OffsetAndMetadata(offset) if isinstance(offset, int) else offset
    return Message(
        partition_index=index,
        committed_offset=full.offset,
        committed_leader_epoch=full.leader_epoch,
        committed_metadata=full.metadata,
    )


def offset_delete_request(group_id: str, partitions: Iterable[TopicPartition]) -> Message:
    """OffsetDelete."""
    return Message(
        group_id=group_id,
        topics=[
            Message(name=topic, partitions=[Message(partition_index=index) for index, _ in entries])
            for topic, entries in _by_topic(dict.fromkeys(partitions)).items()
        ],
    )


def read_partition_errors(answer: Message) -> dict[TopicPartition, BrokerError | None]:
    """The outcome for each partition of OffsetCommit and OffsetDelete; None where it went well."""
    return {
        TopicPartition(topic.name, entry.partition_index): broker_error(
            entry.error_code, subject=f"{topic.name}-{entry.partition_index}"
        )
        if entry.error_code
        else None
        for topic in answer.topics
        for entry in topic.partitions
    }


def _group_error(code: int, message: str | None, group_id: str) -> BrokerError:
    # What a broker writes to GROUP_ID_NOT_FOUND differs with the call that found it.
    return broker_error(
        code, None if code == ErrorCode.GROUP_ID_NOT_FOUND else message, subject=f"group {group_id}"
    )


def _by_topic(values: Mapping[TopicPartition, V]) -> dict[str, list[tuple[int, V]]]:
    topics: dict[str, list[tuple[int, V]]] = {}
    for (topic, partition), value in values.items():
        topics.setdefault(topic, []).append((partition, value))
    return topics


__all__ = [
    "delete_groups_request",
    "describe_consumer_groups_request",
    "describe_groups_request",
    "list_groups_request",
    "offset_commit_request",
    "offset_delete_request",
    "offset_fetch_request",
    "read_classic_groups",
    "read_committed",
    "read_consumer_groups",
    "read_deleted_groups",
    "read_groups",
    "read_partition_errors",
]
