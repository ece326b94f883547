"""UpdateFeatures, API key 57. Written by `make generate` from kio: do not edit."""

# fmt: off
from penstock.protocol.schemas import Structs

VERSIONS = (0, 2)
FLEXIBLE_FROM = 0

REQUEST: Structs = {
    "UpdateFeaturesRequest": (
        ("timeout_ms", "int32", "0+", 60000),
        ("feature_updates", "[]FeatureUpdateKey", "0+", ()),
        ("validate_only", "bool", "1+", False),
    ),
    "FeatureUpdateKey": (
        ("feature", "string", "0+", ""),
        ("max_version_level", "int16", "0+", 0),
        ("upgrade_type", "int8", "1+", 1),
        ("allow_downgrade", "bool", "0", False),
    ),
}

RESPONSE: Structs = {
    "UpdateFeaturesResponse": (
        ("throttle_time_ms", "int32", "0+", 0),
        ("error_code", "int16", "0+", 0),
        ("error_message", "string", "0+", None, "0+"),
        ("results", "[]UpdatableFeatureResult", "0-1", ()),
    ),
    "UpdatableFeatureResult": (
        ("feature", "string", "0-1", ""),
        ("error_code", "int16", "0-1", 0),
        ("error_message", "string", "0-1", None, "0-1"),
    ),
}
