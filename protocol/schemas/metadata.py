"""Metadata, API key 3. Written by `make generate` from kio: do not edit."""

# fmt: off
from penstock.protocol.schemas import Structs

VERSIONS = (0, 13)
FLEXIBLE_FROM = 9

REQUEST: Structs = {
    "MetadataRequest": (
        ("topics", "[]MetadataRequestTopic", "0+", (), "1+"),
        ("allow_auto_topic_creation", "bool", "4+", True),
        ("include_cluster_authorized_operations", "bool", "8-10", False),
        ("include_topic_authorized_operations", "bool", "8+", False),
    ),
    "MetadataRequestTopic": (
        ("topic_id", "uuid", "10+", 0),
        ("name", "string", "0+", "", "10+"),
    ),
}

RESPONSE: Structs = {
    "MetadataResponse": (
        ("throttle_time_ms", "int32", "3+", 0),
        ("brokers", "[]MetadataResponseBroker", "0+", ()),
        ("cluster_id", "string", "2+", None, "2+"),
        ("controller_id", "int32", "1+", -1),
        ("topics", "[]MetadataResponseTopic", "0+", ()),
        ("error_code", "int16", "13+", 0),
        ("cluster_authorized_operations", "int32", "8-10", -2147483648),
    ),
    "MetadataResponseBroker": (
        ("node_id", "int32", "0+", 0),
        ("host", "string", "0+", ""),
        ("port", "int32", "0+", 0),
        ("rack", "string", "1+", None, "1+"),
    ),
    "MetadataResponseTopic": (
        ("error_code", "int16", "0+", 0),
        ("name", "string", "0+", "", "12+"),
        ("topic_id", "uuid", "10+", 0),
        ("is_internal", "bool", "1+", False),
        ("partitions", "[]MetadataResponsePartition", "0+", ()),
        ("topic_authorized_operations", "int32", "8+", -2147483648),
    ),
    "MetadataResponsePartition": (
        ("error_code", "int16", "0+", 0),
        ("partition_index", "int32", "0+", 0),
        ("leader_id", "int32", "0+", 0),
        ("leader_epoch", "int32", "7+", -1),
        ("replica_nodes", "[]int32", "0+", ()),
        ("isr_nodes", "[]int32", "0+", ()),
        ("offline_replicas", "[]int32", "5+", ()),
    ),
}
