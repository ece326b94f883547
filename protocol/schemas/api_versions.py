"""ApiVersions, API key 18. Written by `make generate` from kio: do not edit."""

# fmt: off
from penstock.protocol.schemas import Structs

VERSIONS = (0, 4)
FLEXIBLE_FROM = 3

REQUEST: Structs = {
    "ApiVersionsRequest": (
        ("client_software_name", "string", "3+", ""),
        ("client_software_version", "string", "3+", ""),
    ),
}

RESPONSE: Structs = {
    "ApiVersionsResponse": (
        ("error_code", "int16", "0+", 0),
        ("api_keys", "[]ApiVersion", "0+", ()),
        ("throttle_time_ms", "int32", "1+", 0),
        ("supported_features", "[]SupportedFeatureKey", "3+", (), "", 0),
        ("finalized_features_epoch", "int64", "3+", -1, "", 1),
        ("finalized_features", "[]FinalizedFeatureKey", "3+", (), "", 2),
        ("zk_migration_ready", "bool", "3+", False, "", 3),
    ),
    "ApiVersion": (
        ("api_key", "int16", "0+", 0),
        ("min_version", "int16", "0+", 0),
        ("max_version", "int16", "0+", 0),
    ),
    "SupportedFeatureKey": (
        ("name", "string", "3+", ""),
        ("min_version", "int16", "3+", 0),
        ("max_version", "int16", "3+", 0),
    ),
    "FinalizedFeatureKey": (
        ("name", "string", "3+", ""),
        ("max_version_level", "int16", "3+", 0),
        ("min_version_level", "int16", "3+", 0),
    ),
}
