"""ShareGroupDescribe, API key 77. Written by `make generate` from kio: do not edit."""

# fmt: off
from penstock.protocol.schemas import Structs

VERSIONS = (1, 1)
FLEXIBLE_FROM = 1

REQUEST: Structs = {
    "ShareGroupDescribeRequest": (
        ("group_ids", "[]string", "1+", ()),
        ("include_authorized_operations", "bool", "1+", False),
    ),
}

RESPONSE: Structs = {
    "ShareGroupDescribeResponse": (
        ("throttle_time_ms", "int32", "1+", 0),
        ("groups", "[]DescribedGroup", "1+", ()),
    ),
    "DescribedGroup": (
        ("error_code", "int16", "1+", 0),
        ("error_message", "string", "1+", None, "1+"),
        ("group_id", "string", "1+", ""),
        ("group_state", "string", "1+", ""),
        ("group_epoch", "int32", "1+", 0),
        ("assignment_epoch", "int32", "1+", 0),
        ("assignor_name", "string", "1+", ""),
        ("members", "[]Member", "1+", ()),
        ("authorized_operations", "int32", "1+", -2147483648),
    ),
    "Member": (
        ("member_id", "string", "1+", ""),
        ("rack_id", "string", "1+", None, "1+"),
        ("member_epoch", "int32", "1+", 0),
        ("client_id", "string", "1+", ""),
        ("client_host", "string", "1+", ""),
        ("subscribed_topic_names", "[]string", "1+", ()),
        ("assignment", "Assignment", "1+", ()),
    ),
    "Assignment": (
        ("topic_partitions", "[]TopicPartitions", "1+", ()),
    ),
    "TopicPartitions": (
        ("topic_id", "uuid", "1+", 0),
        ("topic_name", "string", "1+", ""),
        ("partitions", "[]int32", "1+", ()),
    ),
}
