"""SyncGroup, API key 14. Written by `make generate` from kio: do not edit."""

# fmt: off
from penstock.protocol.schemas import Structs

VERSIONS = (0, 5)
FLEXIBLE_FROM = 4

REQUEST: Structs = {
    "SyncGroupRequest": (
        ("group_id", "string", "0+", ""),
        ("generation_id", "int32", "0+", 0),
        ("member_id", "string", "0+", ""),
        ("group_instance_id", "string", "3+", None, "3+"),
        ("protocol_type", "string", "5+", None, "5+"),
        ("protocol_name", "string", "5+", None, "5+"),
        ("assignments", "[]SyncGroupRequestAssignment", "0+", ()),
    ),
    "SyncGroupRequestAssignment": (
        ("member_id", "string", "0+", ""),
        ("assignment", "bytes", "0+", b''),
    ),
}

RESPONSE: Structs = {
    "SyncGroupResponse": (
        ("throttle_time_ms", "int32", "1+", 0),
        ("error_code", "int16", "0+", 0),
        ("protocol_type", "string", "5+", None, "5+"),
        ("protocol_name", "string", "5+", None, "5+"),
        ("assignment", "bytes", "0+", b''),
    ),
}
