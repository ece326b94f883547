"""OffsetForLeaderEpoch, API key 23. Written by `make generate` from kio: do not edit."""

# fmt: off
from penstock.protocol.schemas import Structs

VERSIONS = (2, 4)
FLEXIBLE_FROM = 4

REQUEST: Structs = {
    "OffsetForLeaderEpochRequest": (
        ("replica_id", "int32", "3+", -2),
        ("topics", "[]OffsetForLeaderTopic", "2+", ()),
    ),
    "OffsetForLeaderTopic": (
        ("topic", "string", "2+", ""),
        ("partitions", "[]OffsetForLeaderPartition", "2+", ()),
    ),
    "OffsetForLeaderPartition": (
        ("partition", "int32", "2+", 0),
        ("current_leader_epoch", "int32", "2+", -1),
        ("leader_epoch", "int32", "2+", 0),
    ),
}

RESPONSE: Structs = {
    "OffsetForLeaderEpochResponse": (
        ("throttle_time_ms", "int32", "2+", 0),
        ("topics", "[]OffsetForLeaderTopicResult", "2+", ()),
    ),
    "OffsetForLeaderTopicResult": (
        ("topic", "string", "2+", ""),
        ("partitions", "[]EpochEndOffset", "2+", ()),
    ),
    "EpochEndOffset": (
        ("error_code", "int16", "2+", 0),
        ("partition", "int32", "2+", 0),
        ("leader_epoch", "int32", "2+", -1),
        ("end_offset", "int64", "2+", -1),
    ),
}
