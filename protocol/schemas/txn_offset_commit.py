"""TxnOffsetCommit, API key 28. Written by `make generate` from kio: do not edit."""

# fmt: off
from penstock.protocol.schemas import Structs

VERSIONS = (0, 5)
FLEXIBLE_FROM = 3

REQUEST: Structs = {
    "TxnOffsetCommitRequest": (
        ("transactional_id", "string", "0+", ""),
        ("group_id", "string", "0+", ""),
        ("producer_id", "int64", "0+", 0),
        ("producer_epoch", "int16", "0+", 0),
        ("generation_id", "int32", "3+", -1),
        ("member_id", "string", "3+", ""),
        ("group_instance_id", "string", "3+", None, "3+"),
        ("topics", "[]TxnOffsetCommitRequestTopic", "0+", ()),
    ),
    "TxnOffsetCommitRequestTopic": (
        ("name", "string", "0+", ""),
        ("partitions", "[]TxnOffsetCommitRequestPartition", "0+", ()),
    ),
    "TxnOffsetCommitRequestPartition": (
        ("partition_index", "int32", "0+", 0),
        ("committed_offset", "int64", "0+", 0),
        ("committed_leader_epoch", "int32", "2+", -1),
        ("committed_metadata", "string", "0+", None, "0+"),
    ),
}

RESPONSE: Structs = {
    "TxnOffsetCommitResponse": (
        ("throttle_time_ms", "int32", "0+", 0),
        ("topics", "[]TxnOffsetCommitResponseTopic", "0+", ()),
    ),
    "TxnOffsetCommitResponseTopic": (
        ("name", "string", "0+", ""),
        ("partitions", "[]TxnOffsetCommitResponsePartition", "0+", ()),
    ),
    "TxnOffsetCommitResponsePartition": (
        ("partition_index", "int32", "0+", 0),
        ("error_code", "int16", "0+", 0),
    ),
}
