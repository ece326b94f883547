"""DescribeShareGroupOffsets, API key 90. Written by `make generate` from kio: do not edit."""

# fmt: off
from penstock.protocol.schemas import Structs

VERSIONS = (0, 1)
FLEXIBLE_FROM = 0

REQUEST: Structs = {
    "DescribeShareGroupOffsetsRequest": (
        ("groups", "[]DescribeShareGroupOffsetsRequestGroup", "0+", ()),
    ),
    "DescribeShareGroupOffsetsRequestGroup": (
        ("group_id", "string", "0+", ""),
        ("topics", "[]DescribeShareGroupOffsetsRequestTopic", "0+", (), "0+"),
    ),
    "DescribeShareGroupOffsetsRequestTopic": (
        ("topic_name", "string", "0+", ""),
        ("partitions", "[]int32", "0+", ()),
    ),
}

RESPONSE: Structs = {
    "DescribeShareGroupOffsetsResponse": (
        ("throttle_time_ms", "int32", "0+", 0),
        ("groups", "[]DescribeShareGroupOffsetsResponseGroup", "0+", ()),
    ),
    "DescribeShareGroupOffsetsResponseGroup": (
        ("group_id", "string", "0+", ""),
        ("topics", "[]DescribeShareGroupOffsetsResponseTopic", "0+", ()),
        ("error_code", "int16", "0+", 0),
        ("error_message", "string", "0+", None, "0+"),
    ),
    "DescribeShareGroupOffsetsResponseTopic": (
        ("topic_name", "string", "0+", ""),
        ("topic_id", "uuid", "0+", 0),
        ("partitions", "[]DescribeShareGroupOffsetsResponsePartition", "0+", ()),
    ),
    "DescribeShareGroupOffsetsResponsePartition": (
        ("partition_index", "int32", "0+", 0),
        ("start_offset", "int64", "0+", 0),
        ("leader_epoch", "int32", "0+", 0),
        ("lag", "int64", "1+", -1),
        ("error_code", "int16", "0+", 0),
        ("error_message", "string", "0+", None, "0+"),
    ),
}
