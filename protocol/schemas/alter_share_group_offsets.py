"""AlterShareGroupOffsets, API key 91. Written by `make generate` from kio: do not edit."""

# fmt: off
from penstock.protocol.schemas import Structs

VERSIONS = (0, 0)
FLEXIBLE_FROM = 0

REQUEST: Structs = {
    "AlterShareGroupOffsetsRequest": (
        ("group_id", "string", "0+", ""),
        ("topics", "[]AlterShareGroupOffsetsRequestTopic", "0+", ()),
    ),
    "AlterShareGroupOffsetsRequestTopic": (
        ("topic_name", "string", "0+", ""),
        ("partitions", "[]AlterShareGroupOffsetsRequestPartition", "0+", ()),
    ),
    "AlterShareGroupOffsetsRequestPartition": (
        ("partition_index", "int32", "0+", 0),
        ("start_offset", "int64", "0+", 0),
    ),
}

RESPONSE: Structs = {
    "AlterShareGroupOffsetsResponse": (
        ("throttle_time_ms", "int32", "0+", 0),
        ("error_code", "int16", "0+", 0),
        ("error_message", "string", "0+", None, "0+"),
        ("responses", "[]AlterShareGroupOffsetsResponseTopic", "0+", ()),
    ),
    "AlterShareGroupOffsetsResponseTopic": (
        ("topic_name", "string", "0+", ""),
        ("topic_id", "uuid", "0+", 0),
        ("partitions", "[]AlterShareGroupOffsetsResponsePartition", "0+", ()),
    ),
    "AlterShareGroupOffsetsResponsePartition": (
        ("partition_index", "int32", "0+", 0),
        ("error_code", "int16", "0+", 0),
        ("error_message", "string", "0+", None, "0+"),
    ),
}
