"""The records of `__consumer_offsets` that groups of the consumer protocol (KIP-848) are made of.

Owns their tables, field for field those of Kafka 4.1, and the kinds that their keys begin with. ConsumerGroupPartitionMetadata is what
Kafka 4.0 wrote: 4.1 keeps a hash in ConsumerGroupMetadata instead (KIP-1101), so it is read and never written. Source: Kafka's
ConsumerGroup*Key and ConsumerGroup*Value.
"""

import enum
from collections.abc import Mapping
from types import MappingProxyType

from penstock.protocol.record_format import RecordFormat
from penstock.protocol.schemas import Structs


class ConsumerRecordKind(enum.IntEnum):
    """What the int16 at the beginning of a key says."""

    METADATA = 3
    PARTITION_METADATA = 4
    MEMBER_METADATA = 5
    TARGET_ASSIGNMENT_METADATA = 6
    TARGET_ASSIGNMENT_MEMBER = 7
    CURRENT_MEMBER_ASSIGNMENT = 8
    REGULAR_EXPRESSION = 16


# fmt: off
_GROUP = ("group_id", "string", "0+", "")
_MEMBER = ("member_id", "string", "0+", "")
_TOPIC_PARTITIONS = (
    ("topic_id", "uuid", "0+", 0),
    ("partitions", "[]int32", "0+", ()),
)

_KEYS: Mapping[ConsumerRecordKind, Structs] = {
    ConsumerRecordKind.METADATA: {"ConsumerGroupMetadataKey": (_GROUP,)},
    ConsumerRecordKind.PARTITION_METADATA: {"ConsumerGroupPartitionMetadataKey": (_GROUP,)},
    ConsumerRecordKind.MEMBER_METADATA: {"ConsumerGroupMemberMetadataKey": (_GROUP, _MEMBER)},
    ConsumerRecordKind.TARGET_ASSIGNMENT_METADATA: {"ConsumerGroupTargetAssignmentMetadataKey": (_GROUP,)},
    ConsumerRecordKind.TARGET_ASSIGNMENT_MEMBER: {"ConsumerGroupTargetAssignmentMemberKey": (_GROUP, _MEMBER)},
    ConsumerRecordKind.CURRENT_MEMBER_ASSIGNMENT: {"ConsumerGroupCurrentMemberAssignmentKey": (_GROUP, _MEMBER)},
    ConsumerRecordKind.REGULAR_EXPRESSION: {
        "ConsumerGroupRegularExpressionKey": (
            _GROUP,
            ("regular_expression", "string", "0+", ""),
        ),
    },
}

_VALUES: Mapping[ConsumerRecordKind, Structs] = {
    ConsumerRecordKind.METADATA: {
        "ConsumerGroupMetadataValue": (
            ("epoch", "int32", "0+", 0),
            ("metadata_hash", "int64", "0+", 0, "", 0),
        ),
    },
    ConsumerRecordKind.PARTITION_METADATA: {
        "ConsumerGroupPartitionMetadataValue": (
            ("topics", "[]TopicMetadata", "0+", ()),
        ),
        "TopicMetadata": (
            ("topic_id", "uuid", "0+", 0),
            ("topic_name", "string", "0+", ""),
            ("num_partitions", "int32", "0+", 0),
            ("partition_metadata", "[]PartitionMetadata", "0+", ()),
        ),
        "PartitionMetadata": (
            ("partition", "int32", "0+", 0),
            ("racks", "[]string", "0+", ()),
        ),
    },
    ConsumerRecordKind.MEMBER_METADATA: {
        "ConsumerGroupMemberMetadataValue": (
            ("instance_id", "string", "0+", "", "0+"),
            ("rack_id", "string", "0+", "", "0+"),
            ("client_id", "string", "0+", ""),
            ("client_host", "string", "0+", ""),
            ("subscribed_topic_names", "[]string", "0+", ()),
            ("subscribed_topic_regex", "string", "0+", "", "0+"),
            ("rebalance_timeout_ms", "int32", "0+", -1),
            ("server_assignor", "string", "0+", "", "0+"),
            ("classic_member_metadata", "ClassicMemberMetadata", "0+", None, "0+", 0),
        ),
        "ClassicMemberMetadata": (
            ("session_timeout_ms", "int32", "0+", 0),
            ("supported_protocols", "[]ClassicProtocol", "0+", ()),
        ),
        "ClassicProtocol": (
            ("name", "string", "0+", ""),
            ("metadata", "bytes", "0+", b""),
        ),
    },
    ConsumerRecordKind.TARGET_ASSIGNMENT_METADATA: {
        "ConsumerGroupTargetAssignmentMetadataValue": (
            ("assignment_epoch", "int32", "0+", 0),
        ),
    },
    ConsumerRecordKind.TARGET_ASSIGNMENT_MEMBER: {
        "ConsumerGroupTargetAssignmentMemberValue": (
            ("topic_partitions", "[]TopicPartition", "0+", ()),
        ),
        "TopicPartition": _TOPIC_PARTITIONS,
    },
    ConsumerRecordKind.CURRENT_MEMBER_ASSIGNMENT: {
        "ConsumerGroupCurrentMemberAssignmentValue": (
            ("member_epoch", "int32", "0+", 0),
            ("previous_member_epoch", "int32", "0+", 0),
            ("state", "int8", "0+", 0),
            ("assigned_partitions", "[]TopicPartitions", "0+", ()),
            ("partitions_pending_revocation", "[]TopicPartitions", "0+", ()),
        ),
        "TopicPartitions": _TOPIC_PARTITIONS,
    },
    ConsumerRecordKind.REGULAR_EXPRESSION: {
        "ConsumerGroupRegularExpressionValue": (
            ("topics", "[]string", "0+", ()),
            ("version", "int64", "0+", 0),
            ("timestamp", "int64", "0+", 0),
        ),
    },
}
# fmt: on

KEYS: Mapping[ConsumerRecordKind, RecordFormat] = MappingProxyType(
    {
        kind: RecordFormat(next(iter(table)), table, versions=range(kind, kind + 1))
        for kind, table in _KEYS.items()
    }
)
"""The key of each kind; its version is the kind."""

VALUES: Mapping[ConsumerRecordKind, RecordFormat] = MappingProxyType(
    {
        kind: RecordFormat(next(iter(table)), table, versions=range(1), flexible_from=0)
        for kind, table in _VALUES.items()
    }
)
"""The value of each kind: version 0, flexible."""

WRITTEN_VERSION = 0
