"""AlterUserScramCredentials, API key 51. Written by `make generate` from kio: do not edit."""

# fmt: off
from penstock.protocol.schemas import Structs

VERSIONS = (0, 0)
FLEXIBLE_FROM = 0

REQUEST: Structs = {
    "AlterUserScramCredentialsRequest": (
        ("deletions", "[]ScramCredentialDeletion", "0+", ()),
        ("upsertions", "[]ScramCredentialUpsertion", "0+", ()),
    ),
    "ScramCredentialDeletion": (
        ("name", "string", "0+", ""),
        ("mechanism", "int8", "0+", 0),
    ),
    "ScramCredentialUpsertion": (
        ("name", "string", "0+", ""),
        ("mechanism", "int8", "0+", 0),
        ("iterations", "int32", "0+", 0),
        ("salt", "bytes", "0+", b''),
        ("salted_password", "bytes", "0+", b''),
    ),
}

RESPONSE: Structs = {
    "AlterUserScramCredentialsResponse": (
        ("throttle_time_ms", "int32", "0+", 0),
        ("results", "[]AlterUserScramCredentialsResult", "0+", ()),
    ),
    "AlterUserScramCredentialsResult": (
        ("user", "string", "0+", ""),
        ("error_code", "int16", "0+", 0),
        ("error_message", "string", "0+", None, "0+"),
    ),
}
