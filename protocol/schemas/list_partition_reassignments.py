"""ListPartitionReassignments, API key 46. Written by `make generate` from kio: do not edit."""

# fmt: off
from penstock.protocol.schemas import Structs

VERSIONS = (0, 0)
FLEXIBLE_FROM = 0

REQUEST: Structs = {
    "ListPartitionReassignmentsRequest": (
        ("timeout_ms", "int32", "0+", 60000),
        ("topics", "[]ListPartitionReassignmentsTopics", "0+", None, "0+"),
    ),
    "ListPartitionReassignmentsTopics": (
        ("name", "string", "0+", ""),
        ("partition_indexes", "[]int32", "0+", ()),
    ),
}

RESPONSE: Structs = {
    "ListPartitionReassignmentsResponse": (
        ("throttle_time_ms", "int32", "0+", 0),
        ("error_code", "int16", "0+", 0),
        ("error_message", "string", "0+", None, "0+"),
        ("topics", "[]OngoingTopicReassignment", "0+", ()),
    ),
    "OngoingTopicReassignment": (
        ("name", "string", "0+", ""),
        ("partitions", "[]OngoingPartitionReassignment", "0+", ()),
    ),
    "OngoingPartitionReassignment": (
        ("partition_index", "int32", "0+", 0),
        ("replicas", "[]int32", "0+", ()),
        ("adding_replicas", "[]int32", "0+", ()),
        ("removing_replicas", "[]int32", "0+", ()),
    ),
}
