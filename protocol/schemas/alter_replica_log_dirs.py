"""AlterReplicaLogDirs, API key 34. Written by `make generate` from kio: do not edit."""

# fmt: off
from penstock.protocol.schemas import Structs

VERSIONS = (1, 2)
FLEXIBLE_FROM = 2

REQUEST: Structs = {
    "AlterReplicaLogDirsRequest": (
        ("dirs", "[]AlterReplicaLogDir", "1+", ()),
    ),
    "AlterReplicaLogDir": (
        ("path", "string", "1+", ""),
        ("topics", "[]AlterReplicaLogDirTopic", "1+", ()),
    ),
    "AlterReplicaLogDirTopic": (
        ("name", "string", "1+", ""),
        ("partitions", "[]int32", "1+", ()),
    ),
}

RESPONSE: Structs = {
    "AlterReplicaLogDirsResponse": (
        ("throttle_time_ms", "int32", "1+", 0),
        ("results", "[]AlterReplicaLogDirTopicResult", "1+", ()),
    ),
    "AlterReplicaLogDirTopicResult": (
        ("topic_name", "string", "1+", ""),
        ("partitions", "[]AlterReplicaLogDirPartitionResult", "1+", ()),
    ),
    "AlterReplicaLogDirPartitionResult": (
        ("partition_index", "int32", "1+", 0),
        ("error_code", "int16", "1+", 0),
    ),
}
