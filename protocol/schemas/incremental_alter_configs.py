"""IncrementalAlterConfigs, API key 44. Written by `make generate` from kio: do not edit."""

# fmt: off
from penstock.protocol.schemas import Structs

VERSIONS = (0, 1)
FLEXIBLE_FROM = 1

REQUEST: Structs = {
    "IncrementalAlterConfigsRequest": (
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
        ("config_operation", "int8", "0+", 0),
        ("value", "string", "0+", None, "0+"),
    ),
}

RESPONSE: Structs = {
    "IncrementalAlterConfigsResponse": (
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
