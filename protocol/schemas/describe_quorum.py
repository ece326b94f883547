"""DescribeQuorum, API key 55. Written by `make generate` from kio: do not edit."""

# fmt: off
from penstock.protocol.schemas import Structs

VERSIONS = (0, 2)
FLEXIBLE_FROM = 0

REQUEST: Structs = {
    "DescribeQuorumRequest": (
        ("topics", "[]TopicData", "0+", ()),
    ),
    "TopicData": (
        ("topic_name", "string", "0+", ""),
        ("partitions", "[]PartitionData", "0+", ()),
    ),
    "PartitionData": (
        ("partition_index", "int32", "0+", 0),
    ),
}

RESPONSE: Structs = {
    "DescribeQuorumResponse": (
        ("error_code", "int16", "0+", 0),
        ("error_message", "string", "2+", None, "2+"),
        ("topics", "[]TopicData", "0+", ()),
        ("nodes", "[]Node", "2+", ()),
    ),
    "TopicData": (
        ("topic_name", "string", "0+", ""),
        ("partitions", "[]PartitionData", "0+", ()),
    ),
    "PartitionData": (
        ("partition_index", "int32", "0+", 0),
        ("error_code", "int16", "0+", 0),
        ("error_message", "string", "2+", None, "2+"),
        ("leader_id", "int32", "0+", 0),
        ("leader_epoch", "int32", "0+", 0),
        ("high_watermark", "int64", "0+", 0),
        ("current_voters", "[]ReplicaState", "0+", ()),
        ("observers", "[]ReplicaState", "0+", ()),
    ),
    "ReplicaState": (
        ("replica_id", "int32", "0+", 0),
        ("replica_directory_id", "uuid", "2+", 0),
        ("log_end_offset", "int64", "0+", 0),
        ("last_fetch_timestamp", "int64", "1+", -1),
        ("last_caught_up_timestamp", "int64", "1+", -1),
    ),
    "Node": (
        ("node_id", "int32", "2+", 0),
        ("listeners", "[]Listener", "2+", ()),
    ),
    "Listener": (
        ("name", "string", "2+", ""),
        ("host", "string", "2+", ""),
        ("port", "uint16", "2+", 0),
    ),
}
