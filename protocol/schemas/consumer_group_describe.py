"""ConsumerGroupDescribe, API key 69. Written by `make generate` from kio: do not edit."""

# fmt: off
from penstock.protocol.schemas import Structs

VERSIONS = (0, 1)
FLEXIBLE_FROM = 0

REQUEST: Structs = {
    "ConsumerGroupDescribeRequest": (
        ("group_ids", "[]string", "0+", ()),
        ("include_authorized_operations", "bool", "0+", False),
    ),
}

RESPONSE: Structs = {
    "ConsumerGroupDescribeResponse": (
        ("throttle_time_ms", "int32", "0+", 0),
        ("groups", "[]DescribedGroup", "0+", ()),
    ),
    "DescribedGroup": (
        ("error_code", "int16", "0+", 0),
        ("error_message", "string", "0+", None, "0+"),
        ("group_id", "string", "0+", ""),
        ("group_state", "string", "0+", ""),
        ("group_epoch", "int32", "0+", 0),
        ("assignment_epoch", "int32", "0+", 0),
        ("assignor_name", "string", "0+", ""),
        ("members", "[]Member", "0+", ()),
        ("authorized_operations", "int32", "0+", -2147483648),
    ),
    "Member": (
        ("member_id", "string", "0+", ""),
        ("instance_id", "string", "0+", None, "0+"),
        ("rack_id", "string", "0+", None, "0+"),
        ("member_epoch", "int32", "0+", 0),
        ("client_id", "string", "0+", ""),
        ("client_host", "string", "0+", ""),
        ("subscribed_topic_names", "[]string", "0+", ()),
        ("subscribed_topic_regex", "string", "0+", None, "0+"),
        ("assignment", "Assignment", "0+", ()),
        ("target_assignment", "Assignment", "0+", ()),
        ("member_type", "int8", "1+", -1),
    ),
    "Assignment": (
        ("topic_partitions", "[]TopicPartitions", "0+", ()),
    ),
    "TopicPartitions": (
        ("topic_id", "uuid", "0+", 0),
        ("topic_name", "string", "0+", ""),
        ("partitions", "[]int32", "0+", ()),
    ),
}
