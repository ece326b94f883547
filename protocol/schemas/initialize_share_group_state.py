"""InitializeShareGroupState, API key 83. Written by `make generate` from kio: do not edit."""

# fmt: off
from penstock.protocol.schemas import Structs

VERSIONS = (0, 0)
FLEXIBLE_FROM = 0

REQUEST: Structs = {
    "InitializeShareGroupStateRequest": (
        ("group_id", "string", "0+", ""),
        ("topics", "[]InitializeStateData", "0+", ()),
    ),
    "InitializeStateData": (
        ("topic_id", "uuid", "0+", 0),
        ("partitions", "[]PartitionData", "0+", ()),
    ),
    "PartitionData": (
        ("partition", "int32", "0+", 0),
        ("state_epoch", "int32", "0+", 0),
        ("start_offset", "int64", "0+", 0),
    ),
}

RESPONSE: Structs = {
    "InitializeShareGroupStateResponse": (
        ("results", "[]InitializeStateResult", "0+", ()),
    ),
    "InitializeStateResult": (
        ("topic_id", "uuid", "0+", 0),
        ("partitions", "[]PartitionResult", "0+", ()),
    ),
    "PartitionResult": (
        ("partition", "int32", "0+", 0),
        ("error_code", "int16", "0+", 0),
        ("error_message", "string", "0+", None, "0+"),
    ),
}
