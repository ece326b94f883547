"""LeaveGroup, API key 13. Written by `make generate` from kio: do not edit."""

# fmt: off
from penstock.protocol.schemas import Structs

VERSIONS = (0, 5)
FLEXIBLE_FROM = 4

REQUEST: Structs = {
    "LeaveGroupRequest": (
        ("group_id", "string", "0+", ""),
        ("members", "[]MemberIdentity", "3+", ()),
        ("member_id", "string", "0-2", ""),
    ),
    "MemberIdentity": (
        ("member_id", "string", "3+", ""),
        ("group_instance_id", "string", "3+", None, "3+"),
        ("reason", "string", "5+", None, "5+"),
    ),
}

RESPONSE: Structs = {
    "LeaveGroupResponse": (
        ("throttle_time_ms", "int32", "1+", 0),
        ("error_code", "int16", "0+", 0),
        ("members", "[]MemberResponse", "3+", ()),
    ),
    "MemberResponse": (
        ("member_id", "string", "3+", ""),
        ("group_instance_id", "string", "3+", None, "3+"),
        ("error_code", "int16", "3+", 0),
    ),
}
