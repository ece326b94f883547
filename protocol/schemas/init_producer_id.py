"""InitProducerId, API key 22. Written by `make generate` from kio: do not edit."""

# fmt: off
from penstock.protocol.schemas import Structs

VERSIONS = (0, 6)
FLEXIBLE_FROM = 2

REQUEST: Structs = {
    "InitProducerIdRequest": (
        ("transactional_id", "string", "0+", None, "0+"),
        ("transaction_timeout_ms", "int32", "0+", 0),
        ("producer_id", "int64", "3+", -1),
        ("producer_epoch", "int16", "3+", -1),
        ("enable2_pc", "bool", "6+", False),
        ("keep_prepared_txn", "bool", "6+", False),
    ),
}

RESPONSE: Structs = {
    "InitProducerIdResponse": (
        ("throttle_time_ms", "int32", "0+", 0),
        ("error_code", "int16", "0+", 0),
        ("producer_id", "int64", "0+", -1),
        ("producer_epoch", "int16", "0+", 0),
        ("ongoing_txn_producer_id", "int64", "6+", -1),
        ("ongoing_txn_producer_epoch", "int16", "6+", -1),
    ),
}
