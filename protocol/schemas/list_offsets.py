"""ListOffsets, API key 2. Written by `make generate` from kio: do not edit."""

# fmt: off
from penstock.protocol.schemas import Structs

VERSIONS = (1, 11)
FLEXIBLE_FROM = 6

REQUEST: Structs = {
    "ListOffsetsRequest": (
        ("replica_id", "int32", "1+", 0),
        ("isolation_level", "int8", "2+", 0),
        ("topics", "[]ListOffsetsTopic", "1+", ()),
        ("timeout_ms", "int32", "10+", 0),
    ),
    "ListOffsetsTopic": (
        ("name", "string", "1+", ""),
        ("partitions", "[]ListOffsetsPartition", "1+", ()),
    ),
    "ListOffsetsPartition": (
        ("partition_index", "int32", "1+", 0),
        ("current_leader_epoch", "int32", "4+", -1),
        ("timestamp", "int64", "1+", 0),
    ),
}

RESPONSE: Structs = {
    "ListOffsetsResponse": (
        ("throttle_time_ms", "int32", "2+", 0),
        ("topics", "[]ListOffsetsTopicResponse", "1+", ()),
    ),
    "ListOffsetsTopicResponse": (
        ("name", "string", "1+", ""),
        ("partitions", "[]ListOffsetsPartitionResponse", "1+", ()),
    ),
    "ListOffsetsPartitionResponse": (
        ("partition_index", "int32", "1+", 0),
        ("error_code", "int16", "1+", 0),
        ("timestamp", "int64", "1+", -1),
        ("offset", "int64", "1+", -1),
        ("leader_epoch", "int32", "4+", -1),
    ),
}
