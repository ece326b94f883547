"""AlterConfigs, API key 33. Written by `make generate` from kio: do not edit."""

# fmt: off
from penstock.protocol.schemas import Structs

VERSIONS = (0, 2)
FLEXIBLE_FROM = 2

REQUEST: Structs = {
    "AlterConfigsRequest": (
        ("resources", "[]AlterConfigsResource", "0+", ()),
        ("validate_only", "bool", "0+", False),
    ),
    "AlterConfigsResource": (
        ("resource_type", "int8", "0+", 0),
        ("resource_name", "string", "0+", ""),
        ("configs", "[]AlterableConfig", "0+", ()),
    ),
    "AlterableConfig": (
        ("name", "string", "0+", ""),
        ("value", "string", "0+", None, "0+"),
    ),
}

RESPONSE: Structs = {
    "AlterConfigsResponse": (
        ("throttle_time_ms", "int32", "0+", 0),
        ("responses", "[]AlterConfigsResourceResponse", "0+", ()),
    ),
    "AlterConfigsResourceResponse": (
        ("error_code", "int16", "0+", 0),
        ("error_message", "string", "0+", None, "0+"),
        ("resource_type", "int8", "0+", 0),
        ("resource_name", "string", "0+", ""),
    ),
}
