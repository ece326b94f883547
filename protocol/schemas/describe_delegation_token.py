"""DescribeDelegationToken, API key 41. Written by `make generate` from kio: do not edit."""

# fmt: off
from penstock.protocol.schemas import Structs

VERSIONS = (1, 3)
FLEXIBLE_FROM = 2

REQUEST: Structs = {
    "DescribeDelegationTokenRequest": (
        ("owners", "[]DescribeDelegationTokenOwner", "1+", (), "1+"),
    ),
    "DescribeDelegationTokenOwner": (
        ("principal_type", "string", "1+", ""),
        ("principal_name", "string", "1+", ""),
    ),
}

RESPONSE: Structs = {
    "DescribeDelegationTokenResponse": (
        ("error_code", "int16", "1+", 0),
        ("tokens", "[]DescribedDelegationToken", "1+", ()),
        ("throttle_time_ms", "int32", "1+", 0),
    ),
    "DescribedDelegationToken": (
        ("principal_type", "string", "1+", ""),
        ("principal_name", "string", "1+", ""),
        ("token_requester_principal_type", "string", "3+", ""),
        ("token_requester_principal_name", "string", "3+", ""),
        ("issue_timestamp", "int64", "1+", 0),
        ("expiry_timestamp", "int64", "1+", 0),
        ("max_timestamp", "int64", "1+", 0),
        ("token_id", "string", "1+", ""),
        ("hmac", "bytes", "1+", b''),
        ("renewers", "[]DescribedDelegationTokenRenewer", "1+", ()),
    ),
    "DescribedDelegationTokenRenewer": (
        ("principal_type", "string", "1+", ""),
        ("principal_name", "string", "1+", ""),
    ),
}
