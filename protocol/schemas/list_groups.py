"""ListGroups, API key 16. Written by `make generate` from kio: do not edit."""

# fmt: off
from penstock.protocol.schemas import Structs

VERSIONS = (0, 5)
FLEXIBLE_FROM = 3

REQUEST: Structs = {
    "ListGroupsRequest": (
        ("states_filter", "[]string", "4+", ()),
        ("types_filter", "[]string", "5+", ()),
    ),
}

RESPONSE: Structs = {
    "ListGroupsResponse": (
        ("throttle_time_ms", "int32", "1+", 0),
        ("error_code", "int16", "0+", 0),
        ("groups", "[]ListedGroup", "0+", ()),
    ),
    "ListedGroup": (
        ("group_id", "string", "0+", ""),
        ("protocol_type", "string", "0+", ""),
        ("group_state", "string", "4+", ""),
        ("group_type", "string", "5+", ""),
    ),
}
