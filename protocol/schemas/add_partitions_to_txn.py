"""AddPartitionsToTxn, API key 24. Written by `make generate` from kio: do not edit."""

# fmt: off
from penstock.protocol.schemas import Structs

VERSIONS = (0, 5)
FLEXIBLE_FROM = 3

REQUEST: Structs = {
    "AddPartitionsToTxnRequest": (
        ("transactions", "[]AddPartitionsToTxnTransaction", "4+", ()),
        ("v3_and_below_transactional_id", "string", "0-3", ""),
        ("v3_and_below_producer_id", "int64", "0-3", 0),
        ("v3_and_below_producer_epoch", "int16", "0-3", 0),
        ("v3_and_below_topics", "[]AddPartitionsToTxnTopic", "0-3", ()),
    ),
    "AddPartitionsToTxnTopic": (
        ("name", "string", "0+", ""),
        ("partitions", "[]int32", "0+", ()),
    ),
    "AddPartitionsToTxnTransaction": (
        ("transactional_id", "string", "4+", ""),
        ("producer_id", "int64", "4+", 0),
        ("producer_epoch", "int16", "4+", 0),
        ("verify_only", "bool", "4+", False),
        ("topics", "[]AddPartitionsToTxnTopic", "4+", ()),
    ),
}

RESPONSE: Structs = {
    "AddPartitionsToTxnResponse": (
        ("throttle_time_ms", "int32", "0+", 0),
        ("error_code", "int16", "4+", 0),
        ("results_by_transaction", "[]AddPartitionsToTxnResult", "4+", ()),
        ("results_by_topic_v3_and_below", "[]AddPartitionsToTxnTopicResult", "0-3", ()),
    ),
    "AddPartitionsToTxnTopicResult": (
        ("name", "string", "0+", ""),
        ("results_by_partition", "[]AddPartitionsToTxnPartitionResult", "0+", ()),
    ),
    "AddPartitionsToTxnPartitionResult": (
        ("partition_index", "int32", "0+", 0),
        ("partition_error_code", "int16", "0+", 0),
    ),
    "AddPartitionsToTxnResult": (
        ("transactional_id", "string", "4+", ""),
        ("topic_results", "[]AddPartitionsToTxnTopicResult", "4+", ()),
    ),
}
