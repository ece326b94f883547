"""DeleteRecords, API key 21. Written by `make generate` from kio: do not edit."""

# fmt: off
from penstock.protocol.schemas import Structs

VERSIONS = (0, 2)
FLEXIBLE_FROM = 2

REQUEST: Structs = {
    "DeleteRecordsRequest": (
        ("topics", "[]DeleteRecordsTopic", "0+", ()),
        ("timeout_ms", "int32", "0+", 0),
    ),
    "DeleteRecordsTopic": (
        ("name", "string", "0+", ""),
        ("partitions", "[]DeleteRecordsPartition", "0+", ()),
    ),
    "DeleteRecordsPartition": (
        ("partition_index", "int32", "0+", 0),
        ("offset", "int64", "0+", 0),
    ),
}

RESPONSE: Structs = {
    "DeleteRecordsResponse": (
        ("throttle_time_ms", "int32", "0+", 0),
        ("topics", "[]DeleteRecordsTopicResult", "0+", ()),
    ),
    "DeleteRecordsTopicResult": (
        ("name", "string", "0+", ""),
        ("partitions", "[]DeleteRecordsPartitionResult", "0+", ()),
    ),
    "DeleteRecordsPartitionResult": (
        ("partition_index", "int32", "0+", 0),
        ("low_watermark", "int64", "0+", 0),
        ("error_code", "int16", "0+", 0),
    ),
}
