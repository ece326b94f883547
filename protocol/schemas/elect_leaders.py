"""ElectLeaders, API key 43. Written by `make generate` from kio: do not edit."""

# fmt: off
from penstock.protocol.schemas import Structs

VERSIONS = (0, 2)
FLEXIBLE_FROM = 2

REQUEST: Structs = {
    "ElectLeadersRequest": (
        ("election_type", "int8", "1+", 0),
        ("topic_partitions", "[]TopicPartitions", "0+", (), "0+"),
        ("timeout_ms", "int32", "0+", 60000),
    ),
    "TopicPartitions": (
        ("topic", "string", "0+", ""),
        ("partitions", "[]int32", "0+", ()),
    ),
}

RESPONSE: Structs = {
    "ElectLeadersResponse": (
        ("throttle_time_ms", "int32", "0+", 0),
        ("error_code", "int16", "1+", 0),
        ("replica_election_results", "[]ReplicaElectionResult", "0+", ()),
    ),
    "ReplicaElectionResult": (
        ("topic", "string", "0+", ""),
        ("partition_result", "[]PartitionResult", "0+", ()),
    ),
    "PartitionResult": (
        ("partition_id", "int32", "0+", 0),
        ("error_code", "int16", "0+", 0),
        ("error_message", "string", "0+", None, "0+"),
    ),
}
