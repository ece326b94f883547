"""PushTelemetry, API key 72. Written by `make generate` from kio: do not edit."""

# fmt: off
from penstock.protocol.schemas import Structs

VERSIONS = (0, 0)
FLEXIBLE_FROM = 0

REQUEST: Structs = {
    "PushTelemetryRequest": (
        ("client_instance_id", "uuid", "0+", 0),
        ("subscription_id", "int32", "0+", 0),
        ("terminating", "bool", "0+", False),
        ("compression_type", "int8", "0+", 0),
        ("metrics", "bytes", "0+", b''),
    ),
}

RESPONSE: Structs = {
    "PushTelemetryResponse": (
        ("throttle_time_ms", "int32", "0+", 0),
        ("error_code", "int16", "0+", 0),
    ),
}
