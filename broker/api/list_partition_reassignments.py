"""ListPartitionReassignments, version 0: the moves under way, of all partitions (null) or of those asked for (KIP-455).

Any broker answers, from its image. What is not being moved, or does not exist, is left out.
"""

from typing import TYPE_CHECKING

from penstock.broker.context import RequestContext
from penstock.broker.image import PartitionImage
from penstock.protocol.errors import ErrorCode
from penstock.protocol.message import Message

if TYPE_CHECKING:
    from penstock.broker.broker import Broker


async def handle(broker: "Broker", context: RequestContext, request: Message) -> Message:
    """List them as of this broker's image."""
    image = broker.image
    wanted: dict[str, set[int] | None] = dict.fromkeys(image.topics)
    if request.topics is not None:
        wanted = {topic.name: set(topic.partition_indexes) for topic in request.topics}
    found: list[Message] = []
    for name, indexes in wanted.items():
        topic = image.topic(name)
        moving = [
            _moving(partition)
            for partition in (image.partitions(topic.topic_id) if topic else ())
            if (partition.adding_replicas or partition.removing_replicas)
            and (indexes is None or partition.index in indexes)
        ]
        if moving:
            found.append(Message(name=name, partitions=moving))
    return Message(error_code=ErrorCode.NONE, error_message=None, topics=found)


def _moving(partition: PartitionImage) -> Message:
    return Message(
        partition_index=partition.index,
        replicas=partition.replicas,
        adding_replicas=partition.adding_replicas,
        removing_replicas=partition.removing_replicas,
    )
