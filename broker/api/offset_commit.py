"""OffsetCommit, versions 2 to 10.

- A group's members commit with their id and generation (member epoch in a KIP-848 group); simple consumers, with generation -1, only to a group
  that has no members. A group that is not there is made by a simple consumer's commit; a generation of it is ILLEGAL_GENERATION, from version 9
  on GROUP_ID_NOT_FOUND.
- Topics that are not there: UNKNOWN_TOPIC_OR_PARTITION, by id (version 10) UNKNOWN_TOPIC_ID. Metadata longer than `offset.metadata.max.bytes`:
  OFFSET_METADATA_TOO_LARGE, for that partition only.
- The answer goes out when the records are committed; what takes longer than `offsets.commit.timeout.ms` answers COORDINATOR_NOT_AVAILABLE and may
  still count. The retention time of versions 2 to 4 is kept with the offset.
- The empty group id is allowed, as Kafka does for the sake of old simple consumers.
"""

from typing import TYPE_CHECKING

import trio

from penstock.broker.context import RequestContext
from penstock.broker.errors import ApiError
from penstock.broker.groups.classic_events import OffsetCommitted
from penstock.broker.groups.group import Group
from penstock.broker.groups.offset_table import NO_TOPIC_ID, OFFSET_BYTES, CommittedOffset
from penstock.broker.groups.shard import GroupShard
from penstock.broker.image import TopicImage
from penstock.protocol.errors import ErrorCode
from penstock.protocol.group_records import NEVER_EXPIRES
from penstock.protocol.message import Message

if TYPE_CHECKING:
    from penstock.broker.broker import Broker

FIRST_VERSION_BY_ID = 10
FIRST_VERSION_WITH_GROUP_ERRORS = 9
DEFAULT_RETENTION = -1
INT64_MAX = 2**63 - 1

_Entry = tuple[str, int, CommittedOffset | None]


async def handle(broker: "Broker", context: RequestContext, request: Message) -> Message:
    """Commit, and wait until it is kept."""
    by_id = context.api_version >= FIRST_VERSION_BY_ID
    entries: list[_Entry] = []
    waiting: list[Message] = []
    topics = [_check_topic(broker, request, topic, by_id, entries, waiting) for topic in request.topics]
    if entries:
        code = await _commit(broker, context, request, entries)
        for partition in waiting:
            partition.error_code = code
    return Message(topics=topics)


def _check_topic(
    broker: "Broker",
    request: Message,
    topic: Message,
    by_id: bool,
    entries: list[_Entry],
    waiting: list[Message],
) -> Message:
    """The topic's part of the answer; what may be committed goes to `entries`, its place in the answer to `waiting`."""
    image = broker.image
    known = image.topic_by_id(topic.topic_id) if by_id else image.topic(topic.name)
    now_ms = broker.clock.wall_ms()
    partitions: list[Message] = []
    for wanted in topic.partitions:
        index = wanted.partition_index
        answer = Message(partition_index=index, error_code=ErrorCode.NONE)
        partitions.append(answer)
        if known is None:
            answer.error_code = ErrorCode.UNKNOWN_TOPIC_ID if by_id else ErrorCode.UNKNOWN_TOPIC_OR_PARTITION
        elif not 0 <= index < known.partition_count:
            answer.error_code = ErrorCode.UNKNOWN_TOPIC_OR_PARTITION
        elif len(wanted.committed_metadata or "") > broker.config.offset_metadata_max_bytes:
            answer.error_code = ErrorCode.OFFSET_METADATA_TOO_LARGE
        else:
            entries.append((known.name, index, _value(request, wanted, known, now_ms)))
            waiting.append(answer)
    return Message(topic_id=topic.topic_id, name=topic.name, partitions=partitions)


def _value(request: Message, wanted: Message, topic: TopicImage, now_ms: int) -> CommittedOffset:
    expires = NEVER_EXPIRES
    if request.retention_time_ms != DEFAULT_RETENTION:
        expires = min(max(now_ms + request.retention_time_ms, 0), INT64_MAX)
    return CommittedOffset(
        wanted.committed_offset,
        wanted.committed_leader_epoch,
        wanted.committed_metadata or "",
        now_ms,
        expires,
        topic.topic_id if expires == NEVER_EXPIRES else NO_TOPIC_ID,
    )


async def _commit(
    broker: "Broker", context: RequestContext, request: Message, entries: list[_Entry]
) -> ErrorCode:
    try:
        shard = broker.groups.shard(request.group_id, allow_empty_id=True)
        group = _admit(shard, context, request)
    except ApiError as error:
        return error.code
    fresh = sum(
        OFFSET_BYTES + len(value.metadata)
        for topic, index, value in entries
        if value is not None and not _replaces(group, topic, index, value)
    )
    if fresh and not broker.groups.memory.admit(fresh):
        return ErrorCode.COORDINATOR_NOT_AVAILABLE
    finished = trio.Event()
    outcome = [ErrorCode.COORDINATOR_NOT_AVAILABLE]

    def done(code: ErrorCode) -> None:
        outcome[0] = code
        finished.set()

    shard.put_offsets(group, entries, done)
    with trio.move_on_after(broker.config.offsets_commit_timeout_ms / 1000):
        await finished.wait()
    return outcome[0]


def _replaces(group: Group, topic: str, index: int, value: CommittedOffset) -> bool:
    """Whether there is an offset already that takes as much memory."""
    known = group.offsets.get(topic, index)
    return known is not None and len(value.metadata) <= len(known.metadata)


def _admit(shard: GroupShard, context: RequestContext, request: Message) -> Group:
    """The group, if this member may commit to it now. Raises ApiError."""
    group = shard.groups.get(request.group_id)
    generation = request.generation_id_or_member_epoch
    if group is None:
        if generation >= 0:
            is_new = context.api_version >= FIRST_VERSION_WITH_GROUP_ERRORS
            raise ApiError(ErrorCode.GROUP_ID_NOT_FOUND if is_new else ErrorCode.ILLEGAL_GENERATION)
        return shard.add(request.group_id)
    membership = group.membership
    if membership is None:
        if generation >= 0:
            raise ApiError(ErrorCode.UNKNOWN_MEMBER_ID)
        return group
    code = membership.check_commit(request.member_id, generation, request.group_instance_id)
    if code == ErrorCode.STALE_MEMBER_EPOCH and context.api_version < FIRST_VERSION_WITH_GROUP_ERRORS:
        code = ErrorCode.UNSUPPORTED_VERSION
    if code:
        raise ApiError(code)
    if request.member_id:
        shard.step(group, OffsetCommitted(member_id=request.member_id))
    return group
