"""OffsetForLeaderEpoch, versions 2 to 4: where an epoch ended (KIP-101, KIP-279, KIP-320).

Consumers use it to find out whether the log was truncated under them. The answer is the largest epoch at or below the one asked
for, and the offset at which the next one starts; epoch and offset -1 where nothing is known.
"""

from typing import TYPE_CHECKING

from penstock.broker.api.fetch import CONSUMER_REPLICA_ID, DEBUG_REPLICA_ID, check_leadership
from penstock.broker.context import RequestContext
from penstock.protocol.errors import ErrorCode
from penstock.protocol.message import Message

if TYPE_CHECKING:
    from penstock.broker.broker import Broker


async def handle(broker: "Broker", context: RequestContext, request: Message) -> Message:
    """Answer every partition."""
    refused = request.replica_id not in (CONSUMER_REPLICA_ID, DEBUG_REPLICA_ID)
    topics: list[Message] = []
    for topic in request.topics:
        partitions = [_answer(broker, topic.topic, entry, refused) for entry in topic.partitions]
        topics.append(Message(topic=topic.topic, partitions=partitions))
    return Message(topics=topics)


def _answer(broker: "Broker", topic: str, entry: Message, refused: bool) -> Message:
    index = entry.partition
    partition = broker.partitions.by_name(topic, index)
    if refused:
        code = ErrorCode.CLUSTER_AUTHORIZATION_FAILED
    elif partition is None:
        code = broker.partitions.why_absent(topic, None, index)
    else:
        code = check_leadership(partition, entry.current_leader_epoch)
    epoch, end_offset = -1, -1
    if partition is not None and not code:
        epoch, end_offset = partition.log.end_offset_for_epoch(entry.leader_epoch)
        end_offset = (
            min(end_offset, partition.high_watermark) if epoch == partition.leader_epoch else end_offset
        )
    return Message(partition=index, error_code=code, leader_epoch=epoch, end_offset=end_offset)
