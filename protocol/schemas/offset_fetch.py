"""OffsetFetch, API key 9. Written by `make generate` from kio: do not edit."""

# fmt: off
from penstock.protocol.schemas import Structs

VERSIONS = (1, 10)
FLEXIBLE_FROM = 6

REQUEST: Structs = {
    "OffsetFetchRequest": (
        ("groups", "[]OffsetFetchRequestGroup", "8+", ()),
        ("group_id", "string", "1-7", ""),
        ("topics", "[]OffsetFetchRequestTopic", "1-7", (), "2-7"),
        ("require_stable", "bool", "7+", False),
    ),
    "OffsetFetchRequestTopic": (
        ("name", "string", "1-7", ""),
        ("partition_indexes", "[]int32", "1-7", ()),
    ),
    "OffsetFetchRequestGroup": (
        ("group_id", "string", "8+", ""),
        ("member_id", "string", "9+", None, "9+"),
        ("member_epoch", "int32", "9+", -1),
        ("topics", "[]OffsetFetchRequestTopics", "8+", (), "8+"),
    ),
    "OffsetFetchRequestTopics": (
        ("topic_id", "uuid", "10+", 0),
        ("name", "string", "8-9", ""),
        ("partition_indexes", "[]int32", "8+", ()),
    ),
}

RESPONSE: Structs = {
    "OffsetFetchResponse": (
        ("throttle_time_ms", "int32", "3+", 0),
        ("groups", "[]OffsetFetchResponseGroup", "8+", ()),
        ("topics", "[]OffsetFetchResponseTopic", "1-7", ()),
        ("error_code", "int16", "2-7", 0),
    ),
    "OffsetFetchResponseTopic": (
        ("name", "string", "1-7", ""),
        ("partitions", "[]OffsetFetchResponsePartition", "1-7", ()),
    ),
    "OffsetFetchResponsePartition": (
        ("partition_index", "int32", "1-7", 0),
        ("committed_offset", "int64", "1-7", 0),
        ("committed_leader_epoch", "int32", "5-7", -1),
        ("metadata", "string", "1-7", None, "1-7"),
        ("error_code", "int16", "1-7", 0),
    ),
    "OffsetFetchResponseGroup": (
        ("group_id", "string", "8+", ""),
        ("topics", "[]OffsetFetchResponseTopics", "8+", ()),
        ("error_code", "int16", "8+", 0),
    ),
    "OffsetFetchResponseTopics": (
        ("topic_id", "uuid", "10+", 0),
        ("name", "string", "8-9", ""),
        ("partitions", "[]OffsetFetchResponsePartitions", "8+", ()),
    ),
    "OffsetFetchResponsePartitions": (
        ("partition_index", "int32", "8+", 0),
        ("committed_offset", "int64", "8+", 0),
        ("committed_leader_epoch", "int32", "8+", -1),
        ("metadata", "string", "8+", None, "8+"),
        ("error_code", "int16", "8+", 0),
    ),
}
