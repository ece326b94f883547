"""DeleteGroups, API key 42. Written by `make generate` from kio: do not edit."""

# fmt: off
from penstock.protocol.schemas import Structs

VERSIONS = (0, 2)
FLEXIBLE_FROM = 2

REQUEST: Structs = {
    "DeleteGroupsRequest": (
        ("groups_names", "[]string", "0+", ()),
    ),
}

RESPONSE: Structs = {
    "DeleteGroupsResponse": (
        ("throttle_time_ms", "int32", "0+", 0),
        ("results", "[]DeletableGroupResult", "0+", ()),
    ),
    "DeletableGroupResult": (
        ("group_id", "string", "0+", ""),
        ("error_code", "int16", "0+", 0),
    ),
}
