"""DescribeUserScramCredentials, API key 50. Written by `make generate` from kio: do not edit."""

# fmt: off
from penstock.protocol.schemas import Structs

VERSIONS = (0, 0)
FLEXIBLE_FROM = 0

REQUEST: Structs = {
    "DescribeUserScramCredentialsRequest": (
        ("users", "[]UserName", "0+", (), "0+"),
    ),
    "UserName": (
        ("name", "string", "0+", ""),
    ),
}

RESPONSE: Structs = {
    "DescribeUserScramCredentialsResponse": (
        ("throttle_time_ms", "int32", "0+", 0),
        ("error_code", "int16", "0+", 0),
        ("error_message", "string", "0+", None, "0+"),
        ("results", "[]DescribeUserScramCredentialsResult", "0+", ()),
    ),
    "DescribeUserScramCredentialsResult": (
        ("user", "string", "0+", ""),
        ("error_code", "int16", "0+", 0),
        ("error_message", "string", "0+", None, "0+"),
        ("credential_infos", "[]CredentialInfo", "0+", ()),
    ),
    "CredentialInfo": (
        ("mechanism", "int8", "0+", 0),
        ("iterations", "int32", "0+", 0),
    ),
}
