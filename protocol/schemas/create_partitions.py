"""CreatePartitions, API key 37. Written by `make generate` from kio: do not edit."""

# fmt: off
from penstock.protocol.schemas import Structs

VERSIONS = (0, 3)
FLEXIBLE_FROM = 2

REQUEST: Structs = {
    "CreatePartitionsRequest": (
        ("topics", "[]CreatePartitionsTopic", "0+", ()),
        ("timeout_ms", "int32", "0+", 0),
        ("validate_only", "bool", "0+", False),
    ),
    "CreatePartitionsTopic": (
        ("name", "string", "0+", ""),
        ("count", "int32", "0+", 0),
        ("assignments", "[]CreatePartitionsAssignment", "0+", (), "0+"),
    ),
    "CreatePartitionsAssignment": (
        ("broker_ids", "[]int32", "0+", ()),
    ),
}

RESPONSE: Structs = {
    "CreatePartitionsResponse": (
        ("throttle_time_ms", "int32", "0+", 0),
        ("results", "[]CreatePartitionsTopicResult", "0+", ()),
    ),
    "CreatePartitionsTopicResult": (
        ("name", "string", "0+", ""),
        ("error_code", "int16", "0+", 0),
        ("error_message", "string", "0+", None, "0+"),
    ),
}
