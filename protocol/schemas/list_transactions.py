"""ListTransactions, API key 66. Written by `make generate` from kio: do not edit."""

# fmt: off
from penstock.protocol.schemas import Structs

VERSIONS = (0, 2)
FLEXIBLE_FROM = 0

REQUEST: Structs = {
    "ListTransactionsRequest": (
        ("state_filters", "[]string", "0+", ()),
        ("producer_id_filters", "[]int64", "0+", ()),
        ("duration_filter", "int64", "1+", -1),
        ("transactional_id_pattern", "string", "2+", None, "2+"),
    ),
}

RESPONSE: Structs = {
    "ListTransactionsResponse": (
        ("throttle_time_ms", "int32", "0+", 0),
        ("error_code", "int16", "0+", 0),
        ("unknown_state_filters", "[]string", "0+", ()),
        ("transaction_states", "[]TransactionState", "0+", ()),
    ),
    "TransactionState": (
        ("transactional_id", "string", "0+", ""),
        ("producer_id", "int64", "0+", 0),
        ("transaction_state", "string", "0+", ""),
    ),
}
