"""DescribeConfigs, API key 32. Written by `make generate` from kio: do not edit."""

# fmt: off
from penstock.protocol.schemas import Structs

VERSIONS = (1, 4)
FLEXIBLE_FROM = 4

REQUEST: Structs = {
    "DescribeConfigsRequest": (
        ("resources", "[]DescribeConfigsResource", "1+", ()),
        ("include_synonyms", "bool", "1+", False),
        ("include_documentation", "bool", "3+", False),
    ),
    "DescribeConfigsResource": (
        ("resource_type", "int8", "1+", 0),
        ("resource_name", "string", "1+", ""),
        ("configuration_keys", "[]string", "1+", (), "1+"),
    ),
}

RESPONSE: Structs = {
    "DescribeConfigsResponse": (
        ("throttle_time_ms", "int32", "1+", 0),
        ("results", "[]DescribeConfigsResult", "1+", ()),
    ),
    "DescribeConfigsResult": (
        ("error_code", "int16", "1+", 0),
        ("error_message", "string", "1+", None, "1+"),
        ("resource_type", "int8", "1+", 0),
        ("resource_name", "string", "1+", ""),
        ("configs", "[]DescribeConfigsResourceResult", "1+", ()),
    ),
    "DescribeConfigsResourceResult": (
        ("name", "string", "1+", ""),
        ("value", "string", "1+", None, "1+"),
        ("read_only", "bool", "1+", False),
        ("config_source", "int8", "1+", -1),
        ("is_sensitive", "bool", "1+", False),
        ("synonyms", "[]DescribeConfigsSynonym", "1+", ()),
        ("config_type", "int8", "3+", 0),
        ("documentation", "string", "3+", None, "3+"),
    ),
    "DescribeConfigsSynonym": (
        ("name", "string", "1+", ""),
        ("value", "string", "1+", None, "1+"),
        ("source", "int8", "1+", 0),
    ),
}
