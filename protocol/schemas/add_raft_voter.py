"""AddRaftVoter, API key 80. Written by `make generate` from kio: do not edit."""

# fmt: off
from penstock.protocol.schemas import Structs

VERSIONS = (0, 1)
FLEXIBLE_FROM = 0

REQUEST: Structs = {
    "AddRaftVoterRequest": (
        ("cluster_id", "string", "0+", None, "0+"),
        ("timeout_ms", "int32", "0+", 0),
        ("voter_id", "int32", "0+", 0),
        ("voter_directory_id", "uuid", "0+", 0),
        ("listeners", "[]Listener", "0+", ()),
        ("ack_when_committed", "bool", "1+", True),
    ),
    "Listener": (
        ("name", "string", "0+", ""),
        ("host", "string", "0+", ""),
        ("port", "uint16", "0+", 0),
    ),
}

RESPONSE: Structs = {
    "AddRaftVoterResponse": (
        ("throttle_time_ms", "int32", "0+", 0),
        ("error_code", "int16", "0+", 0),
        ("error_message", "string", "0+", None, "0+"),
    ),
}
