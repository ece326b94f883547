"""DeleteTopics, API key 20. Written by `make generate` from kio: do not edit."""

# fmt: off
from penstock.protocol.schemas import Structs

VERSIONS = (1, 6)
FLEXIBLE_FROM = 4

REQUEST: Structs = {
    "DeleteTopicsRequest": (
        ("topics", "[]DeleteTopicState", "6+", ()),
        ("topic_names", "[]string", "1-5", ()),
        ("timeout_ms", "int32", "1+", 0),
    ),
    "DeleteTopicState": (
        ("name", "string", "6+", None, "6+"),
        ("topic_id", "uuid", "6+", 0),
    ),
}

RESPONSE: Structs = {
    "DeleteTopicsResponse": (
        ("throttle_time_ms", "int32", "1+", 0),
        ("responses", "[]DeletableTopicResult", "1+", ()),
    ),
    "DeletableTopicResult": (
        ("name", "string", "1+", "", "6+"),
        ("topic_id", "uuid", "6+", 0),
        ("error_code", "int16", "1+", 0),
        ("error_message", "string", "5+", None, "5+"),
    ),
}
