"""ExpireDelegationToken, API key 40. Written by `make generate` from kio: do not edit."""

# fmt: off
from penstock.protocol.schemas import Structs

VERSIONS = (1, 2)
FLEXIBLE_FROM = 2

REQUEST: Structs = {
    "ExpireDelegationTokenRequest": (
        ("hmac", "bytes", "1+", b''),
        ("expiry_time_period_ms", "int64", "1+", 0),
    ),
}

RESPONSE: Structs = {
    "ExpireDelegationTokenResponse": (
        ("error_code", "int16", "1+", 0),
        ("expiry_timestamp_ms", "int64", "1+", 0),
        ("throttle_time_ms", "int32", "1+", 0),
    ),
}
