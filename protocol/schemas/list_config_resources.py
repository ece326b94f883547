"""ListConfigResources, API key 74. Written by `make generate` from kio: do not edit."""

# fmt: off
from penstock.protocol.schemas import Structs

VERSIONS = (0, 1)
FLEXIBLE_FROM = 0

REQUEST: Structs = {
    "ListConfigResourcesRequest": (
        ("resource_types", "[]int8", "1+", ()),
    ),
}

RESPONSE: Structs = {
    "ListConfigResourcesResponse": (
        ("throttle_time_ms", "int32", "0+", 0),
        ("error_code", "int16", "0+", 0),
        ("config_resources", "[]ConfigResource", "0+", ()),
    ),
    "ConfigResource": (
        ("resource_name", "string", "0+", ""),
        ("resource_type", "int8", "1+", 16),
    ),
}
