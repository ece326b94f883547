"""ConsumerGroupHeartbeat, API key 68. Written by `make generate` from kio: do not edit."""

# fmt: off
from penstock.protocol.schemas import Structs

VERSIONS = (0, 1)
FLEXIBLE_FROM = 0

REQUEST: Structs = {
    "ConsumerGroupHeartbeatRequest": (
        ("group_id", "string", "0+", ""),
        ("member_id", "string", "0+", ""),
        ("member_epoch", "int32", "0+", 0),
        ("instance_id", "string", "0+", None, "0+"),
        ("rack_id", "string", "0+", None, "0+"),
        ("rebalance_timeout_ms", "int32", "0+", -1),
        ("subscribed_topic_names", "[]string", "0+", None, "0+"),
        ("subscribed_topic_regex", "string", "1+", None, "1+"),
        ("server_assignor", "string", "0+", None, "0+"),
        ("topic_partitions", "[]TopicPartitions", "0+", None, "0+"),
    ),
    "TopicPartitions": (
        ("topic_id", "uuid", "0+", 0),
        ("partitions", "[]int32", "0+", ()),
    ),
}

RESPONSE: Structs = {
    "ConsumerGroupHeartbeatResponse": (
        ("throttle_time_ms", "int32", "0+", 0),
        ("error_code", "int16", "0+", 0),
        ("error_message", "string", "0+", None, "0+"),
        ("member_id", "string", "0+", None, "0+"),
        ("member_epoch", "int32", "0+", 0),
        ("heartbeat_interval_ms", "int32", "0+", 0),
        ("assignment", "Assignment", "0+", None, "0+"),
    ),
    "Assignment": (
        ("topic_partitions", "[]TopicPartitions", "0+", ()),
    ),
    "TopicPartitions": (
        ("topic_id", "uuid", "0+", 0),
        ("partitions", "[]int32", "0+", ()),
    ),
}
