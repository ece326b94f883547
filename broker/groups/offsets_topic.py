"""`__consumer_offsets`: how it is made, and which partition a group belongs to.

Owns the topic's name, its configs at birth and the hash. Source: Kafka's `AutoTopicCreationManager`, `GroupCoordinatorConfig` and
`Utils.abs(groupId.hashCode())`.
"""

from penstock.broker.broker_config import BrokerConfig
from penstock.broker.topic_admin import NewTopic

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


def new_offsets_topic(config: BrokerConfig) -> NewTopic:
    """The topic as it is to be made.

    In a cluster that takes as many brokers as it is to have replicas, as in Kafka: made too early, it would stay on too few.
    """
    factor = config.offsets_topic_replication_factor
    return NewTopic(
        OFFSETS_TOPIC,
        config.offsets_topic_num_partitions,
        factor if config.is_clustered else 1,
        configs={
            "cleanup.policy": "compact",
            "compression.type": "producer",
            "segment.bytes": str(config.offsets_topic_segment_bytes),
        },
    )
