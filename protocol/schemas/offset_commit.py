"""OffsetCommit, API key 8. Written by `make generate` from kio: do not edit."""

# fmt: off
from penstock.protocol.schemas import Structs

VERSIONS = (2, 10)
FLEXIBLE_FROM = 8

REQUEST: Structs = {
    "OffsetCommitRequest": (
        ("group_id", "string", "2+", ""),
        ("generation_id_or_member_epoch", "int32", "2+", -1),
        ("member_id", "string", "2+", ""),
        ("group_instance_id", "string", "7+", None, "7+"),
        ("retention_time_ms", "int64", "2-4", -1),
        ("topics", "[]OffsetCommitRequestTopic", "2+", ()),
    ),
    "OffsetCommitRequestTopic": (
        ("topic_id", "uuid", "10+", 0),
        ("name", "string", "2-9", ""),
        ("partitions", "[]OffsetCommitRequestPartition", "2+", ()),
    ),
    "OffsetCommitRequestPartition": (
        ("partition_index", "int32", "2+", 0),
        ("committed_offset", "int64", "2+", 0),
        ("committed_leader_epoch", "int32", "6+", -1),
        ("committed_metadata", "string", "2+", None, "2+"),
    ),
}

RESPONSE: Structs = {
    "OffsetCommitResponse": (
        ("throttle_time_ms", "int32", "3+", 0),
        ("topics", "[]OffsetCommitResponseTopic", "2+", ()),
    ),
    "OffsetCommitResponseTopic": (
        ("topic_id", "uuid", "10+", 0),
        ("name", "string", "2-9", ""),
        ("partitions", "[]OffsetCommitResponsePartition", "2+", ()),
    ),
    "OffsetCommitResponsePartition": (
        ("partition_index", "int32", "2+", 0),
        ("error_code", "int16", "2+", 0),
    ),
}
