"""DeleteShareGroupState, API key 86. Written by `make generate` from kio: do not edit."""

# fmt: off
from penstock.protocol.schemas import Structs

VERSIONS = (0, 0)
FLEXIBLE_FROM = 0

REQUEST: Structs = {
    "DeleteShareGroupStateRequest": (
        ("group_id", "string", "0+", ""),
        ("topics", "[]DeleteStateData", "0+", ()),
    ),
    "DeleteStateData": (
        ("topic_id", "uuid", "0+", 0),
        ("partitions", "[]PartitionData", "0+", ()),
    ),
    "PartitionData": (
        ("partition", "int32", "0+", 0),
    ),
}

RESPONSE: Structs = {
    "DeleteShareGroupStateResponse": (
        ("results", "[]DeleteStateResult", "0+", ()),
    ),
    "DeleteStateResult": (
        ("topic_id", "uuid", "0+", 0),
        ("partitions", "[]PartitionResult", "0+", ()),
    ),
    "PartitionResult": (
        ("partition", "int32", "0+", 0),
        ("error_code", "int16", "0+", 0),
        ("error_message", "string", "0+", None, "0+"),
    ),
}
