"""OffsetDelete, API key 47. Written by `make generate` from kio: do not edit."""

# fmt: off
from penstock.protocol.schemas import Structs

VERSIONS = (0, 0)
FLEXIBLE_FROM = None

REQUEST: Structs = {
    "OffsetDeleteRequest": (
        ("group_id", "string", "0+", ""),
        ("topics", "[]OffsetDeleteRequestTopic", "0+", ()),
    ),
    "OffsetDeleteRequestTopic": (
        ("name", "string", "0+", ""),
        ("partitions", "[]OffsetDeleteRequestPartition", "0+", ()),
    ),
    "OffsetDeleteRequestPartition": (
        ("partition_index", "int32", "0+", 0),
    ),
}

RESPONSE: Structs = {
    "OffsetDeleteResponse": (
        ("error_code", "int16", "0+", 0),
        ("throttle_time_ms", "int32", "0+", 0),
        ("topics", "[]OffsetDeleteResponseTopic", "0+", ()),
    ),
    "OffsetDeleteResponseTopic": (
        ("name", "string", "0+", ""),
        ("partitions", "[]OffsetDeleteResponsePartition", "0+", ()),
    ),
    "OffsetDeleteResponsePartition": (
        ("partition_index", "int32", "0+", 0),
        ("error_code", "int16", "0+", 0),
    ),
}
