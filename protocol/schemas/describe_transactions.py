"""DescribeTransactions, API key 65. Written by `make generate` from kio: do not edit."""

# fmt: off
from penstock.protocol.schemas import Structs

VERSIONS = (0, 0)
FLEXIBLE_FROM = 0

REQUEST: Structs = {
    "DescribeTransactionsRequest": (
        ("transactional_ids", "[]string", "0+", ()),
    ),
}

RESPONSE: Structs = {
    "DescribeTransactionsResponse": (
        ("throttle_time_ms", "int32", "0+", 0),
        ("transaction_states", "[]TransactionState", "0+", ()),
    ),
    "TransactionState": (
        ("error_code", "int16", "0+", 0),
        ("transactional_id", "string", "0+", ""),
        ("transaction_state", "string", "0+", ""),
        ("transaction_timeout_ms", "int32", "0+", 0),
        ("transaction_start_time_ms", "int64", "0+", 0),
        ("producer_id", "int64", "0+", 0),
        ("producer_epoch", "int16", "0+", 0),
        ("topics", "[]TopicData", "0+", ()),
    ),
    "TopicData": (
        ("topic", "string", "0+", ""),
        ("partitions", "[]int32", "0+", ()),
    ),
}
