"""DeleteAcls, API key 31. Written by `make generate` from kio: do not edit."""

# fmt: off
from penstock.protocol.schemas import Structs

VERSIONS = (1, 3)
FLEXIBLE_FROM = 2

REQUEST: Structs = {
    "DeleteAclsRequest": (
        ("filters", "[]DeleteAclsFilter", "1+", ()),
    ),
    "DeleteAclsFilter": (
        ("resource_type_filter", "int8", "1+", 0),
        ("resource_name_filter", "string", "1+", None, "1+"),
        ("pattern_type_filter", "int8", "1+", 3),
        ("principal_filter", "string", "1+", None, "1+"),
        ("host_filter", "string", "1+", None, "1+"),
        ("operation", "int8", "1+", 0),
        ("permission_type", "int8", "1+", 0),
    ),
}

RESPONSE: Structs = {
    "DeleteAclsResponse": (
        ("throttle_time_ms", "int32", "1+", 0),
        ("filter_results", "[]DeleteAclsFilterResult", "1+", ()),
    ),
    "DeleteAclsFilterResult": (
        ("error_code", "int16", "1+", 0),
        ("error_message", "string", "1+", None, "1+"),
        ("matching_acls", "[]DeleteAclsMatchingAcl", "1+", ()),
    ),
    "DeleteAclsMatchingAcl": (
        ("error_code", "int16", "1+", 0),
        ("error_message", "string", "1+", None, "1+"),
        ("resource_type", "int8", "1+", 0),
        ("resource_name", "string", "1+", ""),
        ("pattern_type", "int8", "1+", 3),
        ("principal", "string", "1+", ""),
        ("host", "string", "1+", ""),
        ("operation", "int8", "1+", 0),
        ("permission_type", "int8", "1+", 0),
    ),
}
