"""AlterPartitionReassignments, API key 45. Written by `make generate` from kio: do not edit."""

# fmt: off
from penstock.protocol.schemas import Structs

VERSIONS = (0, 1)
FLEXIBLE_FROM = 0

REQUEST: Structs = {
    "AlterPartitionReassignmentsRequest": (
        ("timeout_ms", "int32", "0+", 60000),
        ("allow_replication_factor_change", "bool", "1+", True),
        ("topics", "[]ReassignableTopic", "0+", ()),
    ),
    "ReassignableTopic": (
        ("name", "string", "0+", ""),
        ("partitions", "[]ReassignablePartition", "0+", ()),
    ),
    "ReassignablePartition": (
        ("partition_index", "int32", "0+", 0),
        ("replicas", "[]int32", "0+", None, "0+"),
    ),
}

RESPONSE: Structs = {
    "AlterPartitionReassignmentsResponse": (
        ("throttle_time_ms", "int32", "0+", 0),
        ("allow_replication_factor_change", "bool", "1+", True),
        ("error_code", "int16", "0+", 0),
        ("error_message", "string", "0+", None, "0+"),
        ("responses", "[]ReassignableTopicResponse", "0+", ()),
    ),
    "ReassignableTopicResponse": (
        ("name", "string", "0+", ""),
        ("partitions", "[]ReassignablePartitionResponse", "0+", ()),
    ),
    "ReassignablePartitionResponse": (
        ("partition_index", "int32", "0+", 0),
        ("error_code", "int16", "0+", 0),
        ("error_message", "string", "0+", None, "0+"),
    ),
}
