"""CreateAcls, API key 30. Written by `make generate` from kio: do not edit."""

# fmt: off
from penstock.protocol.schemas import Structs

VERSIONS = (1, 3)
FLEXIBLE_FROM = 2

REQUEST: Structs = {
    "CreateAclsRequest": (
        ("creations", "[]AclCreation", "1+", ()),
    ),
    "AclCreation": (
        ("resource_type", "int8", "1+", 0),
        ("resource_name", "string", "1+", ""),
        ("resource_pattern_type", "int8", "1+", 3),
        ("principal", "string", "1+", ""),
        ("host", "string", "1+", ""),
        ("operation", "int8", "1+", 0),
        ("permission_type", "int8", "1+", 0),
    ),
}

RESPONSE: Structs = {
    "CreateAclsResponse": (
        ("throttle_time_ms", "int32", "1+", 0),
        ("results", "[]AclCreationResult", "1+", ()),
    ),
    "AclCreationResult": (
        ("error_code", "int16", "1+", 0),
        ("error_message", "string", "1+", None, "1+"),
    ),
}
