"""DescribeClientQuotas, API key 48. Written by `make generate` from kio: do not edit."""

# fmt: off
from penstock.protocol.schemas import Structs

VERSIONS = (0, 1)
FLEXIBLE_FROM = 1

REQUEST: Structs = {
    "DescribeClientQuotasRequest": (
        ("components", "[]ComponentData", "0+", ()),
        ("strict", "bool", "0+", False),
    ),
    "ComponentData": (
        ("entity_type", "string", "0+", ""),
        ("match_type", "int8", "0+", 0),
        ("match", "string", "0+", None, "0+"),
    ),
}

RESPONSE: Structs = {
    "DescribeClientQuotasResponse": (
        ("throttle_time_ms", "int32", "0+", 0),
        ("error_code", "int16", "0+", 0),
        ("error_message", "string", "0+", None, "0+"),
        ("entries", "[]EntryData", "0+", (), "0+"),
    ),
    "EntryData": (
        ("entity", "[]EntityData", "0+", ()),
        ("values", "[]ValueData", "0+", ()),
    ),
    "EntityData": (
        ("entity_type", "string", "0+", ""),
        ("entity_name", "string", "0+", None, "0+"),
    ),
    "ValueData": (
        ("key", "string", "0+", ""),
        ("value", "float64", "0+", 0.0),
    ),
}
