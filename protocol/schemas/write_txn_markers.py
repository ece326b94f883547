"""WriteTxnMarkers, API key 27. Written by `make generate` from kio: do not edit."""

# fmt: off
from penstock.protocol.schemas import Structs

VERSIONS = (1, 2)
FLEXIBLE_FROM = 1

REQUEST: Structs = {
    "WriteTxnMarkersRequest": (
        ("markers", "[]WritableTxnMarker", "1+", ()),
    ),
    "WritableTxnMarker": (
        ("producer_id", "int64", "1+", 0),
        ("producer_epoch", "int16", "1+", 0),
        ("transaction_result", "bool", "1+", False),
        ("topics", "[]WritableTxnMarkerTopic", "1+", ()),
        ("coordinator_epoch", "int32", "1+", 0),
        ("transaction_version", "int8", "2+", 0),
    ),
    "WritableTxnMarkerTopic": (
        ("name", "string", "1+", ""),
        ("partition_indexes", "[]int32", "1+", ()),
    ),
}

RESPONSE: Structs = {
    "WriteTxnMarkersResponse": (
        ("markers", "[]WritableTxnMarkerResult", "1+", ()),
    ),
    "WritableTxnMarkerResult": (
        ("producer_id", "int64", "1+", 0),
        ("topics", "[]WritableTxnMarkerTopicResult", "1+", ()),
    ),
    "WritableTxnMarkerTopicResult": (
        ("name", "string", "1+", ""),
        ("partitions", "[]WritableTxnMarkerPartitionResult", "1+", ()),
    ),
    "WritableTxnMarkerPartitionResult": (
        ("partition_index", "int32", "1+", 0),
        ("error_code", "int16", "1+", 0),
    ),
}
