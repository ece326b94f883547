"""ShareAcknowledge, API key 79. Written by `make generate` from kio: do not edit."""

# fmt: off
from penstock.protocol.schemas import Structs

VERSIONS = (1, 2)
FLEXIBLE_FROM = 1

REQUEST: Structs = {
    "ShareAcknowledgeRequest": (
        ("group_id", "string", "1+", None, "1+"),
        ("member_id", "string", "1+", None, "1+"),
        ("share_session_epoch", "int32", "1+", 0),
        ("is_renew_ack", "bool", "2+", False),
        ("topics", "[]AcknowledgeTopic", "1+", ()),
    ),
    "AcknowledgeTopic": (
        ("topic_id", "uuid", "1+", 0),
        ("partitions", "[]AcknowledgePartition", "1+", ()),
    ),
    "AcknowledgePartition": (
        ("partition_index", "int32", "1+", 0),
        ("acknowledgement_batches", "[]AcknowledgementBatch", "1+", ()),
    ),
    "AcknowledgementBatch": (
        ("first_offset", "int64", "1+", 0),
        ("last_offset", "int64", "1+", 0),
        ("acknowledge_types", "[]int8", "1+", ()),
    ),
}

RESPONSE: Structs = {
    "ShareAcknowledgeResponse": (
        ("throttle_time_ms", "int32", "1+", 0),
        ("error_code", "int16", "1+", 0),
        ("error_message", "string", "1+", None, "1+"),
        ("acquisition_lock_timeout_ms", "int32", "2+", 0),
        ("responses", "[]ShareAcknowledgeTopicResponse", "1+", ()),
        ("node_endpoints", "[]NodeEndpoint", "1+", ()),
    ),
    "ShareAcknowledgeTopicResponse": (
        ("topic_id", "uuid", "1+", 0),
        ("partitions", "[]PartitionData", "1+", ()),
    ),
    "PartitionData": (
        ("partition_index", "int32", "1+", 0),
        ("error_code", "int16", "1+", 0),
        ("error_message", "string", "1+", None, "1+"),
        ("current_leader", "LeaderIdAndEpoch", "1+", ()),
    ),
    "LeaderIdAndEpoch": (
        ("leader_id", "int32", "1+", 0),
        ("leader_epoch", "int32", "1+", 0),
    ),
    "NodeEndpoint": (
        ("node_id", "int32", "1+", 0),
        ("host", "string", "1+", ""),
        ("port", "int32", "1+", 0),
        ("rack", "string", "1+", None, "1+"),
    ),
}
