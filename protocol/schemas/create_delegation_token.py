"""CreateDelegationToken, API key 38. Written by `make generate` from kio: do not edit."""

# fmt: off
from penstock.protocol.schemas import Structs

VERSIONS = (1, 3)
FLEXIBLE_FROM = 2

REQUEST: Structs = {
    "CreateDelegationTokenRequest": (
        ("owner_principal_type", "string", "3+", None, "3+"),
        ("owner_principal_name", "string", "3+", None, "3+"),
        ("renewers", "[]CreatableRenewers", "1+", ()),
        ("max_lifetime_ms", "int64", "1+", 0),
    ),
    "CreatableRenewers": (
        ("principal_type", "string", "1+", ""),
        ("principal_name", "string", "1+", ""),
    ),
}

RESPONSE: Structs = {
    "CreateDelegationTokenResponse": (
        ("error_code", "int16", "1+", 0),
        ("principal_type", "string", "1+", ""),
        ("principal_name", "string", "1+", ""),
        ("token_requester_principal_type", "string", "3+", ""),
        ("token_requester_principal_name", "string", "3+", ""),
        ("issue_timestamp_ms", "int64", "1+", 0),
        ("expiry_timestamp_ms", "int64", "1+", 0),
        ("max_timestamp_ms", "int64", "1+", 0),
        ("token_id", "string", "1+", ""),
        ("hmac", "bytes", "1+", b''),
        ("throttle_time_ms", "int32", "1+", 0),
    ),
}
