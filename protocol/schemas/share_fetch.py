"""ShareFetch, API key 78. Written by `make generate` from kio: do not edit."""

# fmt: off
from penstock.protocol.schemas import Structs

VERSIONS = (1, 2)
FLEXIBLE_FROM = 1

REQUEST: Structs = {
    "ShareFetchRequest": (
        ("group_id", "string", "1+", None, "1+"),
        ("member_id", "string", "1+", None, "1+"),
        ("share_session_epoch", "int32", "1+", 0),
        ("max_wait_ms", "int32", "1+", 0),
        ("min_bytes", "int32", "1+", 0),
        ("max_bytes", "int32", "1+", 2147483647),
        ("max_records", "int32", "1+", 0),
        ("batch_size", "int32", "1+", 0),
        ("share_acquire_mode", "int8", "2+", 0),
        ("is_renew_ack", "bool", "2+", False),
        ("topics", "[]FetchTopic", "1+", ()),
        ("forgotten_topics_data", "[]ForgottenTopic", "1+", ()),
    ),
    "FetchTopic": (
        ("topic_id", "uuid", "1+", 0),
        ("partitions", "[]FetchPartition", "1+", ()),
    ),
    "FetchPartition": (
        ("partition_index", "int32", "1+", 0),
        ("acknowledgement_batches", "[]AcknowledgementBatch", "1+", ()),
    ),
    "AcknowledgementBatch": (
        ("first_offset", "int64", "1+", 0),
        ("last_offset", "int64", "1+", 0),
        ("acknowledge_types", "[]int8", "1+", ()),
    ),
    "ForgottenTopic": (
        ("topic_id", "uuid", "1+", 0),
        ("partitions", "[]int32", "1+", ()),
    ),
}

RESPONSE: Structs = {
    "ShareFetchResponse": (
        ("throttle_time_ms", "int32", "1+", 0),
        ("error_code", "int16", "1+", 0),
        ("error_message", "string", "1+", None, "1+"),
        ("acquisition_lock_timeout_ms", "int32", "1+", 0),
        ("responses", "[]ShareFetchableTopicResponse", "1+", ()),
        ("node_endpoints", "[]NodeEndpoint", "1+", ()),
    ),
    "ShareFetchableTopicResponse": (
        ("topic_id", "uuid", "1+", 0),
        ("partitions", "[]PartitionData", "1+", ()),
    ),
    "PartitionData": (
        ("partition_index", "int32", "1+", 0),
        ("error_code", "int16", "1+", 0),
        ("error_message", "string", "1+", None, "1+"),
        ("acknowledge_error_code", "int16", "1+", 0),
        ("acknowledge_error_message", "string", "1+", None, "1+"),
        ("current_leader", "LeaderIdAndEpoch", "1+", ()),
        ("records", "records", "1+", b''),
        ("acquired_records", "[]AcquiredRecords", "1+", ()),
    ),
    "LeaderIdAndEpoch": (
        ("leader_id", "int32", "1+", 0),
        ("leader_epoch", "int32", "1+", 0),
    ),
    "AcquiredRecords": (
        ("first_offset", "int64", "1+", 0),
        ("last_offset", "int64", "1+", 0),
        ("delivery_count", "int16", "1+", 0),
    ),
    "NodeEndpoint": (
        ("node_id", "int32", "1+", 0),
        ("host", "string", "1+", ""),
        ("port", "int32", "1+", 0),
        ("rack", "string", "1+", None, "1+"),
    ),
}
