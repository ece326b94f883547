"""ReadShareGroupState, API key 84. Written by `make generate` from kio: do not edit."""

# fmt: off
from penstock.protocol.schemas import Structs

VERSIONS = (0, 0)
FLEXIBLE_FROM = 0

REQUEST: Structs = {
    "ReadShareGroupStateRequest": (
        ("group_id", "string", "0+", ""),
        ("topics", "[]ReadStateData", "0+", ()),
    ),
    "ReadStateData": (
        ("topic_id", "uuid", "0+", 0),
        ("partitions", "[]PartitionData", "0+", ()),
    ),
    "PartitionData": (
        ("partition", "int32", "0+", 0),
        ("leader_epoch", "int32", "0+", 0),
    ),
}

RESPONSE: Structs = {
    "ReadShareGroupStateResponse": (
        ("results", "[]ReadStateResult", "0+", ()),
    ),
    "ReadStateResult": (
        ("topic_id", "uuid", "0+", 0),
        ("partitions", "[]PartitionResult", "0+", ()),
    ),
    "PartitionResult": (
        ("partition", "int32", "0+", 0),
        ("error_code", "int16", "0+", 0),
        ("error_message", "string", "0+", None, "0+"),
        ("state_epoch", "int32", "0+", 0),
        ("start_offset", "int64", "0+", 0),
        ("state_batches", "[]StateBatch", "0+", ()),
    ),
    "StateBatch": (
        ("first_offset", "int64", "0+", 0),
        ("last_offset", "int64", "0+", 0),
        ("delivery_state", "int8", "0+", 0),
        ("delivery_count", "int16", "0+", 0),
    ),
}
