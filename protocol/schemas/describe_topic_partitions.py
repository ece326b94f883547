"""DescribeTopicPartitions, API key 75. Written by `make generate` from kio: do not edit."""

# fmt: off
from penstock.protocol.schemas import Structs

VERSIONS = (0, 0)
FLEXIBLE_FROM = 0

REQUEST: Structs = {
    "DescribeTopicPartitionsRequest": (
        ("topics", "[]TopicRequest", "0+", ()),
        ("response_partition_limit", "int32", "0+", 2000),
        ("cursor", "Cursor", "0+", None, "0+"),
    ),
    "TopicRequest": (
        ("name", "string", "0+", ""),
    ),
    "Cursor": (
        ("topic_name", "string", "0+", ""),
        ("partition_index", "int32", "0+", 0),
    ),
}

RESPONSE: Structs = {
    "DescribeTopicPartitionsResponse": (
        ("throttle_time_ms", "int32", "0+", 0),
        ("topics", "[]DescribeTopicPartitionsResponseTopic", "0+", ()),
        ("next_cursor", "Cursor", "0+", None, "0+"),
    ),
    "DescribeTopicPartitionsResponseTopic": (
        ("error_code", "int16", "0+", 0),
        ("name", "string", "0+", None, "0+"),
        ("topic_id", "uuid", "0+", 0),
        ("is_internal", "bool", "0+", False),
        ("partitions", "[]DescribeTopicPartitionsResponsePartition", "0+", ()),
        ("topic_authorized_operations", "int32", "0+", -2147483648),
    ),
    "DescribeTopicPartitionsResponsePartition": (
        ("error_code", "int16", "0+", 0),
        ("partition_index", "int32", "0+", 0),
        ("leader_id", "int32", "0+", 0),
        ("leader_epoch", "int32", "0+", -1),
        ("replica_nodes", "[]int32", "0+", ()),
        ("isr_nodes", "[]int32", "0+", ()),
        ("eligible_leader_replicas", "[]int32", "0+", (), "0+"),
        ("last_known_elr", "[]int32", "0+", (), "0+"),
        ("offline_replicas", "[]int32", "0+", ()),
    ),
    "Cursor": (
        ("topic_name", "string", "0+", ""),
        ("partition_index", "int32", "0+", 0),
    ),
}
