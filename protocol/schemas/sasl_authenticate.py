"""SaslAuthenticate, API key 36. Written by `make generate` from kio: do not edit."""

# fmt: off
from penstock.protocol.schemas import Structs

VERSIONS = (0, 2)
FLEXIBLE_FROM = 2

REQUEST: Structs = {
    "SaslAuthenticateRequest": (
        ("auth_bytes", "bytes", "0+", b''),
    ),
}

RESPONSE: Structs = {
    "SaslAuthenticateResponse": (
        ("error_code", "int16", "0+", 0),
        ("error_message", "string", "0+", None, "0+"),
        ("auth_bytes", "bytes", "0+", b''),
        ("session_lifetime_ms", "int64", "1+", 0),
    ),
}
