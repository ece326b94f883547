"""JoinGroup, API key 11. Written by `make generate` from kio: do not edit."""

# fmt: off
from penstock.protocol.schemas import Structs

VERSIONS = (0, 9)
FLEXIBLE_FROM = 6

REQUEST: Structs = {
    "JoinGroupRequest": (
        ("group_id", "string", "0+", ""),
        ("session_timeout_ms", "int32", "0+", 0),
        ("rebalance_timeout_ms", "int32", "1+", -1),
        ("member_id", "string", "0+", ""),
        ("group_instance_id", "string", "5+", None, "5+"),
        ("protocol_type", "string", "0+", ""),
        ("protocols", "[]JoinGroupRequestProtocol", "0+", ()),
        ("reason", "string", "8+", None, "8+"),
    ),
    "JoinGroupRequestProtocol": (
        ("name", "string", "0+", ""),
        ("metadata", "bytes", "0+", b''),
    ),
}

RESPONSE: Structs = {
    "JoinGroupResponse": (
        ("throttle_time_ms", "int32", "2+", 0),
        ("error_code", "int16", "0+", 0),
        ("generation_id", "int32", "0+", -1),
        ("protocol_type", "string", "7+", None, "7+"),
        ("protocol_name", "string", "0+", "", "7+"),
        ("leader", "string", "0+", ""),
        ("skip_assignment", "bool", "9+", False),
        ("member_id", "string", "0+", ""),
        ("members", "[]JoinGroupResponseMember", "0+", ()),
    ),
    "JoinGroupResponseMember": (
        ("member_id", "string", "0+", ""),
        ("group_instance_id", "string", "5+", None, "5+"),
        ("metadata", "bytes", "0+", b''),
    ),
}
