"""AlterClientQuotas, API key 49. Written by `make generate` from kio: do not edit."""

# fmt: off
from penstock.protocol.schemas import Structs

VERSIONS = (0, 1)
FLEXIBLE_FROM = 1

REQUEST: Structs = {
    "AlterClientQuotasRequest": (
        ("entries", "[]EntryData", "0+", ()),
        ("validate_only", "bool", "0+", False),
    ),
    "EntryData": (
        ("entity", "[]EntityData", "0+", ()),
        ("ops", "[]OpData", "0+", ()),
    ),
    "EntityData": (
        ("entity_type", "string", "0+", ""),
        ("entity_name", "string", "0+", None, "0+"),
    ),
    "OpData": (
        ("key", "string", "0+", ""),
        ("value", "float64", "0+", 0.0),
        ("remove", "bool", "0+", False),
    ),
}

RESPONSE: Structs = {
    "AlterClientQuotasResponse": (
        ("throttle_time_ms", "int32", "0+", 0),
        ("entries", "[]EntryData", "0+", ()),
    ),
    "EntryData": (
        ("error_code", "int16", "0+", 0),
        ("error_message", "string", "0+", None, "0+"),
        ("entity", "[]EntityData", "0+", ()),
    ),
    "EntityData": (
        ("entity_type", "string", "0+", ""),
        ("entity_name", "string", "0+", None, "0+"),
    ),
}
