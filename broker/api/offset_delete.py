"""OffsetDelete, version 0: a group forgets what it has committed for some partitions (KIP-496).

- A partition of a topic that the group's members are subscribed to: GROUP_SUBSCRIBED_TO_TOPIC. A group with members that are no consumers, whose
  subscriptions nobody can read: NON_EMPTY_GROUP for all.
- An unknown group: GROUP_ID_NOT_FOUND; an unknown topic or partition: UNKNOWN_TOPIC_OR_PARTITION; nothing committed: no error.
"""

from typing import TYPE_CHECKING

import trio

from penstock.broker.context import RequestContext
from penstock.broker.errors import ApiError
from penstock.broker.groups.classic_driver import is_empty
from penstock.broker.groups.classic_group import ClassicGroup
from penstock.broker.groups.group import Group
from penstock.broker.groups.subscriptions import CONSUMER_PROTOCOL_TYPE
from penstock.protocol.errors import ErrorCode
from penstock.protocol.message import Message

if TYPE_CHECKING:
    from penstock.broker.broker import Broker


async def handle(broker: "Broker", context: RequestContext, request: Message) -> Message:
    """Delete the offsets that may be deleted."""
    try:
        group = _group(broker, request.group_id)
    except ApiError as error:
        return Message(error_code=error.code, topics=[])
    gone: dict[tuple[str, int], Message] = {}
    topics = [
        Message(
            name=topic.name,
            partitions=[
                _partition(broker, group, topic.name, partition.partition_index, gone)
                for partition in topic.partitions
            ],
        )
        for topic in request.topics
    ]
    if gone:
        code = await _delete(broker, group, list(gone))
        for answer in gone.values():
            answer.error_code = code
    return Message(error_code=ErrorCode.NONE, topics=topics)


def _group(broker: "Broker", group_id: str) -> Group:
    group = broker.groups.shard(group_id).groups.get(group_id)
    if group is None:
        raise ApiError(ErrorCode.GROUP_ID_NOT_FOUND)
    membership = group.membership
    if (
        isinstance(membership, ClassicGroup)
        and not is_empty(group)
        and membership.protocol_type != CONSUMER_PROTOCOL_TYPE
    ):
        raise ApiError(ErrorCode.NON_EMPTY_GROUP)
    return group


def _partition(
    broker: "Broker", group: Group, topic: str, index: int, gone: dict[tuple[str, int], Message]
) -> Message:
    answer = Message(partition_index=index, error_code=ErrorCode.NONE)
    known = broker.image.topic(topic)
    if known is None or not 0 <= index < known.partition_count:
        answer.error_code = ErrorCode.UNKNOWN_TOPIC_OR_PARTITION
    elif group.membership is not None and group.membership.is_subscribed_to(topic):
        answer.error_code = ErrorCode.GROUP_SUBSCRIBED_TO_TOPIC
    elif group.has_offset(topic, index):
        gone[topic, index] = answer
    return answer


async def _delete(broker: "Broker", group: Group, keys: list[tuple[str, int]]) -> ErrorCode:
    finished = trio.Event()
    outcome = [ErrorCode.COORDINATOR_NOT_AVAILABLE]

    def done(code: ErrorCode) -> None:
        outcome[0] = code
        finished.set()

    group.shard.put_offsets(group, [(topic, index, None) for topic, index in keys], done)
    with trio.move_on_after(broker.config.offsets_commit_timeout_ms / 1000):
        await finished.wait()
    return outcome[0]
