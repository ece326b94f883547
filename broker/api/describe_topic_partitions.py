"""DescribeTopicPartitions, version 0: topics page by page, sorted by name (KIP-966).

At most `response_partition_limit` partitions, and no more than `max.request.partition.size.limit`; where they end, `next_cursor` names the first one
left out. No topics means all. With a list, the cursor's topic must be in it (INVALID_REQUEST for every topic otherwise). Without it, a cursor
at a topic that is gone goes on with the next one. Without eligible leader replicas the
list is empty, never null, since Java's client would fail over null; so is always that of the last known ones.
"""

from typing import TYPE_CHECKING

from penstock.broker import authorized_operations
from penstock.broker.cluster_view import ClusterView, PartitionView
from penstock.broker.context import RequestContext
from penstock.broker.names import INTERNAL_TOPICS, topic_name_fault
from penstock.protocol.errors import ErrorCode
from penstock.protocol.message import Message

if TYPE_CHECKING:
    from penstock.broker.broker import Broker


async def handle(broker: "Broker", context: RequestContext, request: Message) -> Message:
    """Describe one page."""
    names = {topic.name for topic in request.topics} or set(broker.image.topics)
    cursor: Message | None = request.cursor
    if cursor is not None:
        listed = not request.topics or cursor.topic_name in names
        if cursor.partition_index < 0 or not listed:
            refused = [_absent(name, ErrorCode.INVALID_REQUEST) for name in sorted(names)]
            return Message(topics=refused, next_cursor=None)
        names = {name for name in names if name >= cursor.topic_name}
    limit = max(1, min(request.response_partition_limit, broker.config.max_request_partitions))
    view = ClusterView(
        broker.image,
        context.listener,
        node_id=broker.config.node_id,
        is_offline=broker.partitions.is_offline,
    )
    topics: list[Message] = []
    for name in sorted(names):
        topic = broker.image.topic(name)
        if topic is None:
            fault = topic_name_fault(name)
            code = ErrorCode.INVALID_TOPIC_EXCEPTION if fault else ErrorCode.UNKNOWN_TOPIC_OR_PARTITION
            topics.append(_absent(name, code))
            continue
        first = cursor.partition_index if cursor is not None and cursor.topic_name == name else 0
        if limit == 0:
            return Message(topics=topics, next_cursor=Message(topic_name=name, partition_index=first))
        partitions = view.partitions(topic.topic_id)[first:]
        topics.append(_topic(name, topic.topic_id, partitions[:limit]))
        if len(partitions) > limit:
            next_cursor = Message(topic_name=name, partition_index=first + limit)
            return Message(topics=topics, next_cursor=next_cursor)
        limit -= len(partitions)
    return Message(topics=topics, next_cursor=None)


def _topic(name: str, topic_id: bytes, partitions: list[PartitionView]) -> Message:
    return Message(
        error_code=ErrorCode.NONE,
        name=name,
        topic_id=topic_id,
        is_internal=name in INTERNAL_TOPICS,
        partitions=[_partition(partition) for partition in partitions],
        topic_authorized_operations=authorized_operations.ON_TOPIC,
    )


def _partition(partition: PartitionView) -> Message:
    return Message(
        error_code=partition.error_code,
        partition_index=partition.index,
        leader_id=partition.leader,
        leader_epoch=partition.leader_epoch,
        replica_nodes=partition.replicas,
        isr_nodes=partition.isr,
        eligible_leader_replicas=partition.eligible_leader_replicas,
        last_known_elr=[],
        offline_replicas=partition.offline_replicas,
    )


def _absent(name: str, code: ErrorCode) -> Message:
    return Message(error_code=code, name=name, is_internal=name in INTERNAL_TOPICS, partitions=[])
