"""Fetch, API key 1. Written by `make generate` from kio: do not edit."""

# fmt: off
from penstock.protocol.schemas import Structs

VERSIONS = (4, 18)
FLEXIBLE_FROM = 12

REQUEST: Structs = {
    "FetchRequest": (
        ("cluster_id", "string", "12+", None, "12+", 0),
        ("replica_state", "ReplicaState", "15+", (), "", 1),
        ("replica_id", "int32", "4-14", -1),
        ("max_wait_ms", "int32", "4+", 0),
        ("min_bytes", "int32", "4+", 0),
        ("max_bytes", "int32", "4+", 2147483647),
        ("isolation_level", "int8", "4+", 0),
        ("session_id", "int32", "7+", 0),
        ("session_epoch", "int32", "7+", -1),
        ("topics", "[]FetchTopic", "4+", ()),
        ("forgotten_topics_data", "[]ForgottenTopic", "7+", ()),
        ("rack_id", "string", "11+", ""),
    ),
    "FetchTopic": (
        ("topic_id", "uuid", "13+", 0),
        ("topic", "string", "4-12", ""),
        ("partitions", "[]FetchPartition", "4+", ()),
    ),
    "FetchPartition": (
        ("partition", "int32", "4+", 0),
        ("current_leader_epoch", "int32", "9+", -1),
        ("fetch_offset", "int64", "4+", 0),
        ("last_fetched_epoch", "int32", "12+", -1),
        ("log_start_offset", "int64", "5+", -1),
        ("partition_max_bytes", "int32", "4+", 0),
        ("replica_directory_id", "uuid", "17+", 0, "", 0),
        ("high_watermark", "int64", "18+", 9223372036854775807, "", 1),
    ),
    "ForgottenTopic": (
        ("topic_id", "uuid", "13+", 0),
        ("topic", "string", "7-12", ""),
        ("partitions", "[]int32", "7+", ()),
    ),
    "ReplicaState": (
        ("replica_id", "int32", "15+", -1),
        ("replica_epoch", "int64", "15+", -1),
    ),
}

RESPONSE: Structs = {
    "FetchResponse": (
        ("throttle_time_ms", "int32", "4+", 0),
        ("error_code", "int16", "7+", 0),
        ("session_id", "int32", "7+", 0),
        ("responses", "[]FetchableTopicResponse", "4+", ()),
        ("node_endpoints", "[]NodeEndpoint", "16+", (), "", 0),
    ),
    "FetchableTopicResponse": (
        ("topic_id", "uuid", "13+", 0),
        ("topic", "string", "4-12", ""),
        ("partitions", "[]PartitionData", "4+", ()),
    ),
    "PartitionData": (
        ("partition_index", "int32", "4+", 0),
        ("error_code", "int16", "4+", 0),
        ("high_watermark", "int64", "4+", 0),
        ("last_stable_offset", "int64", "4+", -1),
        ("log_start_offset", "int64", "5+", -1),
        ("diverging_epoch", "EpochEndOffset", "12+", (), "", 0),
        ("current_leader", "LeaderIdAndEpoch", "12+", (), "", 1),
        ("snapshot_id", "SnapshotId", "12+", (), "", 2),
        ("aborted_transactions", "[]AbortedTransaction", "4+", (), "4+"),
        ("preferred_read_replica", "int32", "11+", -1),
        ("records", "records", "4+", b'', "4+"),
    ),
    "AbortedTransaction": (
        ("producer_id", "int64", "4+", 0),
        ("first_offset", "int64", "4+", 0),
    ),
    "EpochEndOffset": (
        ("epoch", "int32", "12+", -1),
        ("end_offset", "int64", "12+", -1),
    ),
    "LeaderIdAndEpoch": (
        ("leader_id", "int32", "12+", -1),
        ("leader_epoch", "int32", "12+", -1),
    ),
    "SnapshotId": (
        ("end_offset", "int64", "12+", -1),
        ("epoch", "int32", "12+", -1),
    ),
    "NodeEndpoint": (
        ("node_id", "int32", "16+", 0),
        ("host", "string", "16+", ""),
        ("port", "int32", "16+", 0),
        ("rack", "string", "16+", None, "16+"),
    ),
}
