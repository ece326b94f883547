"""RenewDelegationToken, API key 39. Written by `make generate` from kio: do not edit."""

# fmt: off
from penstock.protocol.schemas import Structs

VERSIONS = (1, 2)
FLEXIBLE_FROM = 2

REQUEST: Structs = {
    "RenewDelegationTokenRequest": (
        ("hmac", "bytes", "1+", b''),
        ("renew_period_ms", "int64", "1+", 0),
    ),
}

RESPONSE: Structs = {
    "RenewDelegationTokenResponse": (
        ("error_code", "int16", "1+", 0),
        ("expiry_timestamp_ms", "int64", "1+", 0),
        ("throttle_time_ms", "int32", "1+", 0),
    ),
}
