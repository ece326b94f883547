"""ShareGroupHeartbeat, API key 76. Written by `make generate` from kio: do not edit."""

# fmt: off
from penstock.protocol.schemas import Structs

VERSIONS = (1, 1)
FLEXIBLE_FROM = 1

REQUEST: Structs = {
    "ShareGroupHeartbeatRequest": (
        ("group_id", "string", "1+", ""),
        ("member_id", "string", "1+", ""),
        ("member_epoch", "int32", "1+", 0),
        ("rack_id", "string", "1+", None, "1+"),
        ("subscribed_topic_names", "[]string", "1+", None, "1+"),
    ),
}

RESPONSE: Structs = {
    "ShareGroupHeartbeatResponse": (
        ("throttle_time_ms", "int32", "1+", 0),
        ("error_code", "int16", "1+", 0),
        ("error_message", "string", "1+", None, "1+"),
        ("member_id", "string", "1+", None, "1+"),
        ("member_epoch", "int32", "1+", 0),
        ("heartbeat_interval_ms", "int32", "1+", 0),
        ("assignment", "Assignment", "1+", None, "1+"),
    ),
    "Assignment": (
        ("topic_partitions", "[]TopicPartitions", "1+", ()),
    ),
    "TopicPartitions": (
        ("topic_id", "uuid", "1+", 0),
        ("partitions", "[]int32", "1+", ()),
    ),
}
