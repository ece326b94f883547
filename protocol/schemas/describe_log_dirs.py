"""DescribeLogDirs, API key 35. Written by `make generate` from kio: do not edit."""

# fmt: off
from penstock.protocol.schemas import Structs

VERSIONS = (1, 5)
FLEXIBLE_FROM = 2

REQUEST: Structs = {
    "DescribeLogDirsRequest": (
        ("topics", "[]DescribableLogDirTopic", "1+", (), "1+"),
    ),
    "DescribableLogDirTopic": (
        ("topic", "string", "1+", ""),
        ("partitions", "[]int32", "1+", ()),
    ),
}

RESPONSE: Structs = {
    "DescribeLogDirsResponse": (
        ("throttle_time_ms", "int32", "1+", 0),
        ("error_code", "int16", "3+", 0),
        ("results", "[]DescribeLogDirsResult", "1+", ()),
    ),
    "DescribeLogDirsResult": (
        ("error_code", "int16", "1+", 0),
        ("log_dir", "string", "1+", ""),
        ("topics", "[]DescribeLogDirsTopic", "1+", ()),
        ("total_bytes", "int64", "4+", -1),
        ("usable_bytes", "int64", "4+", -1),
        ("is_cordoned", "bool", "5+", False),
    ),
    "DescribeLogDirsTopic": (
        ("name", "string", "1+", ""),
        ("partitions", "[]DescribeLogDirsPartition", "1+", ()),
    ),
    "DescribeLogDirsPartition": (
        ("partition_index", "int32", "1+", 0),
        ("partition_size", "int64", "1+", 0),
        ("offset_lag", "int64", "1+", 0),
        ("is_future_key", "bool", "1+", False),
        ("backlog", "DescribeLogDirsBacklog", "2+", None, "2+", 10000),
    ),
    "DescribeLogDirsBacklog": (
        ("group", "string", "2+", None, "2+"),
        ("policy", "string", "2+", ""),
        ("max_records", "int64", "2+", -1),
        ("max_bytes", "int64", "2+", -1),
        ("max_age_ms", "int64", "2+", -1),
        ("keeps_unconsumed", "bool", "2+", False),
        ("records", "int64", "2+", -1),
        ("size_bytes", "int64", "2+", -1),
        ("age_ms", "int64", "2+", -1),
        ("refused_batches", "int64", "2+", 0),
        ("refused_records", "int64", "2+", 0),
        ("held_batches", "int64", "2+", 0),
        ("held_bytes", "int64", "2+", 0),
        ("timed_out_batches", "int64", "2+", 0),
        ("throttled_ms", "int64", "2+", 0),
        ("kept_segments", "int64", "2+", 0),
        ("kept_bytes", "int64", "2+", 0),
        ("kept_since_ms", "int64", "2+", -1),
    ),
}
