"""DescribeGroups, API key 15. Written by `make generate` from kio: do not edit."""

# fmt: off
from penstock.protocol.schemas import Structs

VERSIONS = (0, 6)
FLEXIBLE_FROM = 5

REQUEST: Structs = {
    "DescribeGroupsRequest": (
        ("groups", "[]string", "0+", ()),
        ("include_authorized_operations", "bool", "3+", False),
    ),
}

RESPONSE: Structs = {
    "DescribeGroupsResponse": (
        ("throttle_time_ms", "int32", "1+", 0),
        ("groups", "[]DescribedGroup", "0+", ()),
    ),
    "DescribedGroup": (
        ("error_code", "int16", "0+", 0),
        ("error_message", "string", "6+", None, "6+"),
        ("group_id", "string", "0+", ""),
        ("group_state", "string", "0+", ""),
        ("protocol_type", "string", "0+", ""),
        ("protocol_data", "string", "0+", ""),
        ("members", "[]DescribedGroupMember", "0+", ()),
        ("authorized_operations", "int32", "3+", -2147483648),
    ),
    "DescribedGroupMember": (
        ("member_id", "string", "0+", ""),
        ("group_instance_id", "string", "4+", None, "4+"),
        ("client_id", "string", "0+", ""),
        ("client_host", "string", "0+", ""),
        ("member_metadata", "bytes", "0+", b''),
        ("member_assignment", "bytes", "0+", b''),
    ),
}
