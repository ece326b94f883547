"""ConsumerGroupDescribe, versions 0 and 1: groups of the consumer protocol with their epochs, members, assignments and targets (KIP-848).

Shows what is committed: while a store is under way, the answer waits for it. From version 1 on members say which protocol they speak: all of
them the new one, since groups are not migrated while they have members.
"""

from typing import TYPE_CHECKING

from penstock.broker import authorized_operations
from penstock.broker.api.consumer_group_heartbeat import NOT_SERVED
from penstock.broker.context import RequestContext
from penstock.broker.errors import ApiError
from penstock.broker.groups.consumer_group_events import (
    Assignment,
    DescribedMember,
    DescribeReply,
    DescribeRequested,
)
from penstock.broker.image import ClusterImage
from penstock.protocol.errors import ErrorCode
from penstock.protocol.message import Message

if TYPE_CHECKING:
    from penstock.broker.broker import Broker

CONSUMER_PROTOCOL_MEMBER = 1


async def handle(broker: "Broker", context: RequestContext, request: Message) -> Message:
    """Describe each group that is asked for, once."""
    groups = [await _describe(broker, group_id) for group_id in dict.fromkeys(request.group_ids)]
    if request.include_authorized_operations:
        for group in groups:
            if not group.error_code:
                group.authorized_operations = authorized_operations.ON_GROUP
    return Message(groups=groups)


async def _describe(broker: "Broker", group_id: str) -> Message:
    consumer = broker.groups.consumer
    if not broker.config.serves_consumer_protocol:
        return _refusal(group_id, ErrorCode.UNSUPPORTED_VERSION, NOT_SERVED)
    try:
        group = broker.groups.shard(group_id).groups.get(group_id)
    except ApiError as error:
        return _refusal(group_id, error.code, error.message)
    if group is None:
        return _refusal(group_id, ErrorCode.GROUP_ID_NOT_FOUND, f"Group {group_id} not found.")
    if not consumer.handles(group):
        return _refusal(group_id, ErrorCode.GROUP_ID_NOT_FOUND, f"Group {group_id} is not a consumer group.")
    reply = await consumer.ask(group, lambda token: DescribeRequested(token=token))
    assert isinstance(reply, DescribeReply)
    if reply.error_code:
        return _refusal(group_id, reply.error_code, None)
    return Message(
        error_code=ErrorCode.NONE,
        group_id=group_id,
        group_state=reply.state.value,
        group_epoch=reply.group_epoch,
        assignment_epoch=reply.target_epoch,
        assignor_name=reply.assignor,
        members=[_member(broker.image, member) for member in reply.members],
    )


def _member(image: ClusterImage, member: DescribedMember) -> Message:
    metadata = member.metadata
    return Message(
        member_id=member.member_id,
        instance_id=metadata.instance_id,
        rack_id=metadata.rack_id,
        member_epoch=member.member_epoch,
        client_id=metadata.client_id,
        client_host=metadata.client_host,
        subscribed_topic_names=list(metadata.topic_names),
        subscribed_topic_regex=metadata.topic_regex or None,
        assignment=_assignment(image, member.assigned),
        target_assignment=_assignment(image, member.target),
        member_type=CONSUMER_PROTOCOL_MEMBER,
    )


def _assignment(image: ClusterImage, assignment: Assignment) -> Message:
    """The partitions by topic; topics that are deleted have no name any more and are left out."""
    topics = [(image.topic_by_id(topic_id), indexes) for topic_id, indexes in assignment.items()]
    return Message(
        topic_partitions=[
            Message(topic_id=topic.topic_id, topic_name=topic.name, partitions=sorted(indexes))
            for topic, indexes in topics
            if topic is not None
        ]
    )


def _refusal(group_id: str, code: ErrorCode, message: str | None) -> Message:
    return Message(group_id=group_id, error_code=code, error_message=message, members=[])
