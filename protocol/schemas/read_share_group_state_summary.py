"""ReadShareGroupStateSummary, API key 87. Written by `make generate` from kio: do not edit."""

# fmt: off
from penstock.protocol.schemas import Structs

VERSIONS = (0, 1)
FLEXIBLE_FROM = 0

REQUEST: Structs = {
    "ReadShareGroupStateSummaryRequest": (
        ("group_id", "string", "0+", ""),
        ("topics", "[]ReadStateSummaryData", "0+", ()),
    ),
    "ReadStateSummaryData": (
        ("topic_id", "uuid", "0+", 0),
        ("partitions", "[]PartitionData", "0+", ()),
    ),
    "PartitionData": (
        ("partition", "int32", "0+", 0),
        ("leader_epoch", "int32", "0+", 0),
    ),
}

RESPONSE: Structs = {
    "ReadShareGroupStateSummaryResponse": (
        ("results", "[]ReadStateSummaryResult", "0+", ()),
    ),
    "ReadStateSummaryResult": (
        ("topic_id", "uuid", "0+", 0),
        ("partitions", "[]PartitionResult", "0+", ()),
    ),
    "PartitionResult": (
        ("partition", "int32", "0+", 0),
        ("error_code", "int16", "0+", 0),
        ("error_message", "string", "0+", None, "0+"),
        ("state_epoch", "int32", "0+", 0),
        ("leader_epoch", "int32", "0+", 0),
        ("start_offset", "int64", "0+", 0),
        ("delivery_complete_count", "int32", "1+", -1),
    ),
}
