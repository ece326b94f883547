"""EndTxn, API key 26. Written by `make generate` from kio: do not edit."""

# fmt: off
from penstock.protocol.schemas import Structs

VERSIONS = (0, 5)
FLEXIBLE_FROM = 3

REQUEST: Structs = {
    "EndTxnRequest": (
        ("transactional_id", "string", "0+", ""),
        ("producer_id", "int64", "0+", 0),
        ("producer_epoch", "int16", "0+", 0),
        ("committed", "bool", "0+", False),
    ),
}

RESPONSE: Structs = {
    "EndTxnResponse": (
        ("throttle_time_ms", "int32", "0+", 0),
        ("error_code", "int16", "0+", 0),
        ("producer_id", "int64", "5+", -1),
        ("producer_epoch", "int16", "5+", -1),
    ),
}
