"""Produce, API key 0. Written by `make generate` from kio: do not edit."""

# fmt: off
from penstock.protocol.schemas import Structs

VERSIONS = (3, 13)
FLEXIBLE_FROM = 9

REQUEST: Structs = {
    "ProduceRequest": (
        ("transactional_id", "string", "3+", None, "3+"),
        ("acks", "int16", "3+", 0),
        ("timeout_ms", "int32", "3+", 0),
        ("topic_data", "[]TopicProduceData", "3+", ()),
    ),
    "TopicProduceData": (
        ("topic_id", "uuid", "13+", 0),
        ("name", "string", "3-12", ""),
        ("partition_data", "[]PartitionProduceData", "3+", ()),
    ),
    "PartitionProduceData": (
        ("index", "int32", "3+", 0),
        ("records", "records", "3+", None, "3+"),
    ),
}

RESPONSE: Structs = {
    "ProduceResponse": (
        ("responses", "[]TopicProduceResponse", "3+", ()),
        ("throttle_time_ms", "int32", "3+", 0),
        ("node_endpoints", "[]NodeEndpoint", "10+", (), "", 0),
    ),
    "TopicProduceResponse": (
        ("topic_id", "uuid", "13+", 0),
        ("name", "string", "3-12", ""),
        ("partition_responses", "[]PartitionProduceResponse", "3+", ()),
    ),
    "PartitionProduceResponse": (
        ("index", "int32", "3+", 0),
        ("error_code", "int16", "3+", 0),
        ("base_offset", "int64", "3+", 0),
        ("log_append_time_ms", "int64", "3+", -1),
        ("log_start_offset", "int64", "5+", -1),
        ("record_errors", "[]BatchIndexAndErrorMessage", "8+", ()),
        ("error_message", "string", "8+", None, "8+"),
        ("current_leader", "LeaderIdAndEpoch", "10+", (), "", 0),
    ),
    "BatchIndexAndErrorMessage": (
        ("batch_index", "int32", "8+", 0),
        ("batch_index_error_message", "string", "8+", None, "8+"),
    ),
    "LeaderIdAndEpoch": (
        ("leader_id", "int32", "10+", -1),
        ("leader_epoch", "int32", "10+", -1),
    ),
    "NodeEndpoint": (
        ("node_id", "int32", "10+", 0),
        ("host", "string", "10+", ""),
        ("port", "int32", "10+", 0),
        ("rack", "string", "10+", None, "10+"),
    ),
}
