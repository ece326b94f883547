"""OffsetFetch, versions 1 to 10: what groups have committed.

- Nothing committed, an unknown group, an unknown topic or partition: offset -1 without an error, as in Kafka; by id (version 10) an unknown topic
  is UNKNOWN_TOPIC_ID.
- A null list of topics asks for all (from version 2 on). From version 8 on several groups at once (KIP-709).
- `require_stable`: there are no transactions yet whose offsets could be unstable. But a group that is not here is not said to have committed nothing while
  it may come back, since a deletion is not committed: COORDINATOR_LOAD_IN_PROGRESS.
- Version 9 and up: a member of a KIP-848 group says its epoch, and is refused when that is stale.
- A group, topic or partition that is asked for twice is told once: an answer is not to be a thousand times its request.
- The empty group id is allowed, as for OffsetCommit.
"""

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import trio

from penstock.broker.context import RequestContext
from penstock.broker.errors import ApiError
from penstock.broker.groups.group import Group
from penstock.broker.groups.offset_table import NO_TOPIC_ID
from penstock.broker.image import TopicImage
from penstock.protocol.errors import ErrorCode
from penstock.protocol.message import Message

if TYPE_CHECKING:
    from penstock.broker.broker import Broker

FIRST_VERSION_WITH_ALL = 2
FIRST_VERSION_WITH_GROUPS = 8
FIRST_VERSION_BY_ID = 10
NO_OFFSET = -1
NO_EPOCH = -1


async def handle(broker: "Broker", context: RequestContext, request: Message) -> Message:
    """Answer for every group."""
    version = context.api_version
    if version >= FIRST_VERSION_WITH_GROUPS:
        once = {wanted.group_id: wanted for wanted in reversed(request.groups)}
        groups: list[Message] = []
        for wanted in reversed(once.values()):
            groups.append(_group(broker, version, wanted, request.require_stable))
            await trio.lowlevel.checkpoint()
        return Message(groups=groups)
    wanted = Message(group_id=request.group_id, topics=request.topics, member_id=None, member_epoch=NO_EPOCH)
    answer = _group(broker, version, wanted, request.require_stable)
    if answer.error_code and version < FIRST_VERSION_WITH_ALL:
        for topic in answer.topics:
            for partition in topic.partitions:
                partition.error_code = answer.error_code
    return Message(topics=answer.topics, error_code=answer.error_code)


def _group(broker: "Broker", version: int, wanted: Message, is_stable: bool) -> Message:
    code, group = ErrorCode.NONE, None
    try:
        shard = broker.groups.shard(wanted.group_id, allow_empty_id=True)
        group = shard.groups.get(wanted.group_id)
        if is_stable and shard.may_come_back(wanted.group_id):
            raise ApiError(ErrorCode.COORDINATOR_LOAD_IN_PROGRESS)
        if group is not None:
            _check_member(group, wanted)
    except ApiError as error:
        code = error.code
    by_id = version >= FIRST_VERSION_BY_ID
    if code and version >= FIRST_VERSION_WITH_ALL:
        topics: list[Message] = []
    elif wanted.topics is None:
        topics = _all_topics(broker, group, by_id)
    else:
        once = {topic.topic_id if by_id else topic.name: topic for topic in reversed(wanted.topics)}
        topics = [_topic(broker, group, topic, by_id) for topic in reversed(once.values())]
    return Message(group_id=wanted.group_id, topics=topics, error_code=code)


def _check_member(group: Group, wanted: Message) -> None:
    """Raises ApiError where the member's epoch is not the one it should have."""
    check: Any = getattr(group.membership, "check_fetch", None)
    if check is not None:
        code: ErrorCode = check(wanted.member_id, wanted.member_epoch)
        if code:
            raise ApiError(code)


def _topic(broker: "Broker", group: Group | None, wanted: Message, by_id: bool) -> Message:
    if not by_id:
        named = broker.image.topic(wanted.name)
        partitions = _partitions(group, wanted.name, named, wanted.partition_indexes, ErrorCode.NONE)
        return Message(name=wanted.name, partitions=partitions)
    known = broker.image.topic_by_id(wanted.topic_id)
    name = known.name if known is not None else None
    code = ErrorCode.NONE if known is not None else ErrorCode.UNKNOWN_TOPIC_ID
    return Message(
        topic_id=wanted.topic_id,
        partitions=_partitions(group, name, known, wanted.partition_indexes, code),
    )


def _all_topics(broker: "Broker", group: Group | None, by_id: bool) -> list[Message]:
    topics: list[Message] = []
    for name in group.offsets.topics if group is not None else ():
        assert group is not None
        known = broker.image.topic(name)
        if by_id and known is None:
            continue
        indexes = [index for index, _ in group.offsets.of_topic(name)]
        partitions = _partitions(group, name, known, indexes, ErrorCode.NONE)
        if by_id:
            assert known is not None
            topics.append(Message(topic_id=known.topic_id, partitions=partitions))
        else:
            topics.append(Message(name=name, partitions=partitions))
    return topics


def _partitions(
    group: Group | None,
    topic: str | None,
    known: TopicImage | None,
    indexes: Iterable[int],
    code: ErrorCode,
) -> list[Message]:
    """The partitions' answers. A commit that meant an older topic of the name, and landed when that was gone, is none."""
    answers: list[Message] = []
    for index in dict.fromkeys(indexes):
        committed = None if group is None or topic is None else group.offsets.get(topic, index)
        if committed is None or (
            known is not None and committed.topic_id not in (NO_TOPIC_ID, known.topic_id)
        ):
            answers.append(
                Message(
                    partition_index=index,
                    committed_offset=NO_OFFSET,
                    committed_leader_epoch=NO_EPOCH,
                    metadata="",
                    error_code=code,
                )
            )
        else:
            answers.append(
                Message(
                    partition_index=index,
                    committed_offset=committed.offset,
                    committed_leader_epoch=committed.leader_epoch,
                    metadata=committed.metadata,
                    error_code=code,
                )
            )
    return answers
