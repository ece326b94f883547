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
    ),
}
