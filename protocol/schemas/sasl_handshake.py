"""SaslHandshake, API key 17. Written by `make generate` from kio: do not edit."""

# fmt: off
from penstock.protocol.schemas import Structs

VERSIONS = (0, 1)
FLEXIBLE_FROM = None

REQUEST: Structs = {
    "SaslHandshakeRequest": (
        ("mechanism", "string", "0+", ""),
    ),
}

RESPONSE: Structs = {
    "SaslHandshakeResponse": (
        ("error_code", "int16", "0+", 0),
        ("mechanisms", "[]string", "0+", ()),
    ),
}
