"""AddOffsetsToTxn, API key 25. Written by `make generate` from kio: do not edit."""

# fmt: off
from penstock.protocol.schemas import Structs

VERSIONS = (0, 4)
FLEXIBLE_FROM = 3

REQUEST: Structs = {
    "AddOffsetsToTxnRequest": (
        ("transactional_id", "string", "0+", ""),
        ("producer_id", "int64", "0+", 0),
        ("producer_epoch", "int16", "0+", 0),
        ("group_id", "string", "0+", ""),
    ),
}

RESPONSE: Structs = {
    "AddOffsetsToTxnResponse": (
        ("throttle_time_ms", "int32", "0+", 0),
        ("error_code", "int16", "0+", 0),
    ),
}
