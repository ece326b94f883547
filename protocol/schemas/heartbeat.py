"""Heartbeat, API key 12. Written by `make generate` from kio: do not edit."""

# fmt: off
from penstock.protocol.schemas import Structs

VERSIONS = (0, 4)
FLEXIBLE_FROM = 4

REQUEST: Structs = {
    "HeartbeatRequest": (
        ("group_id", "string", "0+", ""),
        ("generation_id", "int32", "0+", 0),
        ("member_id", "string", "0+", ""),
        ("group_instance_id", "string", "3+", None, "3+"),
    ),
}

RESPONSE: Structs = {
    "HeartbeatResponse": (
        ("throttle_time_ms", "int32", "1+", 0),
        ("error_code", "int16", "0+", 0),
    ),
}
