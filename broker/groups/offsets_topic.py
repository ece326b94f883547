"""`__consumer_offsets`: how it is made, and which partition a group belongs to.

Owns the topic's name, its configs at birth and the hash. Source: Kafka's `AutoTopicCreationManager`, `GroupCoordinatorConfig` and
`Utils.abs(groupId.hashCode())`.
"""

from typing import TYPE_CHECKING

from penstock.broker.broker_config import BrokerConfig
from penstock.broker.errors import ApiError
from penstock.broker.topic_admin import NewTopic
from penstock.protocol.errors import ErrorCode

if TYPE_CHECKING:
    from penstock.broker.topic_admin import TopicAdmin

OFFSETS_TOPIC = "__consumer_offsets"
_INT32_MIN = -(2**31)


def partition_for(group_id: str, partition_count: int) -> int:
    """The partition whose leader coordinates the group."""
    number = java_hash(group_id)
    return 0 if number == _INT32_MIN else abs(number) % partition_count


def java_hash(text: str) -> int:
    """Java's `String.hashCode`: over UTF-16 units, in 32 signed bits."""
    number = 0
    data = text.encode("utf-16-be", "surrogatepass")
    for position in range(0, len(data), 2):
        number = (number * 31 + (data[position] << 8 | data[position + 1])) & 0xFFFFFFFF
    return number - (number >> 31 << 32)


async def make_offsets_topic(topics: "TopicAdmin", config: BrokerConfig, broker_count: int) -> int:
    """Make the topic; returns the revision that shows it, 0 if somebody else has made it meanwhile. Raises ApiError."""
    new = NewTopic(
        OFFSETS_TOPIC,
        config.offsets_topic_num_partitions,
        max(1, min(config.offsets_topic_replication_factor, broker_count)),
        configs={
            "cleanup.policy": "compact",
            "compression.type": "producer",
            "segment.bytes": str(config.offsets_topic_segment_bytes),
        },
    )
    try:
        return (await topics.create(new)).revision
    except ApiError as error:
        if error.code == ErrorCode.TOPIC_ALREADY_EXISTS:
            return 0
        raise
