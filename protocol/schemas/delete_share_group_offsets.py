"""DeleteShareGroupOffsets, API key 92. Written by `make generate` from kio: do not edit."""

# fmt: off
from penstock.protocol.schemas import Structs

VERSIONS = (0, 0)
FLEXIBLE_FROM = 0

REQUEST: Structs = {
    "DeleteShareGroupOffsetsRequest": (
        ("group_id", "string", "0+", ""),
        ("topics", "[]DeleteShareGroupOffsetsRequestTopic", "0+", ()),
    ),
    "DeleteShareGroupOffsetsRequestTopic": (
        ("topic_name", "string", "0+", ""),
    ),
}

RESPONSE: Structs = {
    "DeleteShareGroupOffsetsResponse": (
        ("throttle_time_ms", "int32", "0+", 0),
        ("error_code", "int16", "0+", 0),
        ("error_message", "string", "0+", None, "0+"),
        ("responses", "[]DeleteShareGroupOffsetsResponseTopic", "0+", ()),
    ),
    "DeleteShareGroupOffsetsResponseTopic": (
        ("topic_name", "string", "0+", ""),
        ("topic_id", "uuid", "0+", 0),
        ("error_code", "int16", "0+", 0),
        ("error_message", "string", "0+", None, "0+"),
    ),
}
