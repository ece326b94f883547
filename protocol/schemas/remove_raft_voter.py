"""RemoveRaftVoter, API key 81. Written by `make generate` from kio: do not edit."""

# fmt: off
from penstock.protocol.schemas import Structs

VERSIONS = (0, 0)
FLEXIBLE_FROM = 0

REQUEST: Structs = {
    "RemoveRaftVoterRequest": (
        ("cluster_id", "string", "0+", None, "0+"),
        ("voter_id", "int32", "0+", 0),
        ("voter_directory_id", "uuid", "0+", 0),
    ),
}

RESPONSE: Structs = {
    "RemoveRaftVoterResponse": (
        ("throttle_time_ms", "int32", "0+", 0),
        ("error_code", "int16", "0+", 0),
        ("error_message", "string", "0+", None, "0+"),
    ),
}
