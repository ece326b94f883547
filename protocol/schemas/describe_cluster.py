"""DescribeCluster, API key 60. Written by `make generate` from kio: do not edit."""

# fmt: off
from penstock.protocol.schemas import Structs

VERSIONS = (0, 2)
FLEXIBLE_FROM = 0

REQUEST: Structs = {
    "DescribeClusterRequest": (
        ("include_cluster_authorized_operations", "bool", "0+", False),
        ("endpoint_type", "int8", "1+", 1),
        ("include_fenced_brokers", "bool", "2+", False),
    ),
}

RESPONSE: Structs = {
    "DescribeClusterResponse": (
        ("throttle_time_ms", "int32", "0+", 0),
        ("error_code", "int16", "0+", 0),
        ("error_message", "string", "0+", None, "0+"),
        ("endpoint_type", "int8", "1+", 1),
        ("cluster_id", "string", "0+", ""),
        ("controller_id", "int32", "0+", -1),
        ("brokers", "[]DescribeClusterBroker", "0+", ()),
        ("cluster_authorized_operations", "int32", "0+", -2147483648),
    ),
    "DescribeClusterBroker": (
        ("broker_id", "int32", "0+", 0),
        ("host", "string", "0+", ""),
        ("port", "int32", "0+", 0),
        ("rack", "string", "0+", None, "0+"),
        ("is_fenced", "bool", "2+", False),
    ),
}
