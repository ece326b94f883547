"""GetTelemetrySubscriptions, API key 71. Written by `make generate` from kio: do not edit."""

# fmt: off
from penstock.protocol.schemas import Structs

VERSIONS = (0, 0)
FLEXIBLE_FROM = 0

REQUEST: Structs = {
    "GetTelemetrySubscriptionsRequest": (
        ("client_instance_id", "uuid", "0+", 0),
    ),
}

RESPONSE: Structs = {
    "GetTelemetrySubscriptionsResponse": (
        ("throttle_time_ms", "int32", "0+", 0),
        ("error_code", "int16", "0+", 0),
        ("client_instance_id", "uuid", "0+", 0),
        ("subscription_id", "int32", "0+", 0),
        ("accepted_compression_types", "[]int8", "0+", ()),
        ("push_interval_ms", "int32", "0+", 0),
        ("telemetry_max_bytes", "int32", "0+", 0),
        ("delta_temporality", "bool", "0+", False),
        ("requested_metrics", "[]string", "0+", ()),
    ),
}
