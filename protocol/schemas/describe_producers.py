"""DescribeProducers, API key 61. Written by `make generate` from kio: do not edit."""

# fmt: off
from penstock.protocol.schemas import Structs

VERSIONS = (0, 0)
FLEXIBLE_FROM = 0

REQUEST: Structs = {
    "DescribeProducersRequest": (
        ("topics", "[]TopicRequest", "0+", ()),
    ),
    "TopicRequest": (
        ("name", "string", "0+", ""),
        ("partition_indexes", "[]int32", "0+", ()),
    ),
}

RESPONSE: Structs = {
    "DescribeProducersResponse": (
        ("throttle_time_ms", "int32", "0+", 0),
        ("topics", "[]TopicResponse", "0+", ()),
    ),
    "TopicResponse": (
        ("name", "string", "0+", ""),
        ("partitions", "[]PartitionResponse", "0+", ()),
    ),
    "PartitionResponse": (
        ("partition_index", "int32", "0+", 0),
        ("error_code", "int16", "0+", 0),
        ("error_message", "string", "0+", None, "0+"),
        ("active_producers", "[]ProducerState", "0+", ()),
    ),
    "ProducerState": (
        ("producer_id", "int64", "0+", 0),
        ("producer_epoch", "int32", "0+", 0),
        ("last_sequence", "int32", "0+", -1),
        ("last_timestamp", "int64", "0+", -1),
        ("coordinator_epoch", "int32", "0+", 0),
        ("current_txn_start_offset", "int64", "0+", -1),
    ),
}
