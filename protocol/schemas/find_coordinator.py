"""FindCoordinator, API key 10. Written by `make generate` from kio: do not edit."""

# fmt: off
from penstock.protocol.schemas import Structs

VERSIONS = (0, 6)
FLEXIBLE_FROM = 3

REQUEST: Structs = {
    "FindCoordinatorRequest": (
        ("key", "string", "0-3", ""),
        ("key_type", "int8", "1+", 0),
        ("coordinator_keys", "[]string", "4+", ()),
    ),
}

RESPONSE: Structs = {
    "FindCoordinatorResponse": (
        ("throttle_time_ms", "int32", "1+", 0),
        ("coordinators", "[]Coordinator", "4+", ()),
        ("error_code", "int16", "0-3", 0),
        ("error_message", "string", "1-3", None, "1-3"),
        ("node_id", "int32", "0-3", 0),
        ("host", "string", "0-3", ""),
        ("port", "int32", "0-3", 0),
    ),
    "Coordinator": (
        ("key", "string", "4+", ""),
        ("node_id", "int32", "4+", 0),
        ("host", "string", "4+", ""),
        ("port", "int32", "4+", 0),
        ("error_code", "int16", "4+", 0),
        ("error_message", "string", "4+", None, "4+"),
    ),
}
