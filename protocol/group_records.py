"""The records of `__consumer_offsets`: committed offsets and classic groups.

Owns their tables (kio has none), in all versions that Kafka has written since 0.9, and which version is written. Consumer groups of
KIP-848 have a module of their own. Source: Kafka's OffsetCommitKey/Value and GroupMetadataKey/Value.
"""

import enum
from typing import NamedTuple

from penstock.protocol.message import Message
from penstock.protocol.record_format import RecordFormat
from penstock.protocol.schemas import Structs


class RecordKind(enum.IntEnum):
    """What the int16 at the beginning of a key says. Those from 3 on are of KIP-848 and later."""

    OFFSET_COMMIT_OLD = 0
    OFFSET_COMMIT = 1
    GROUP_METADATA = 2


# fmt: off
_OFFSET_COMMIT_KEY: Structs = {
    "OffsetCommitKey": (
        ("group", "string", "0+", ""),
        ("topic", "string", "0+", ""),
        ("partition", "int32", "0+", 0),
    ),
}
_OFFSET_COMMIT_VALUE: Structs = {
    "OffsetCommitValue": (
        ("offset", "int64", "0+", 0),
        ("leader_epoch", "int32", "3+", -1),
        ("metadata", "string", "0+", ""),
        ("commit_timestamp", "int64", "0+", 0),
        ("expire_timestamp", "int64", "1", -1),
        ("topic_id", "uuid", "4+", 0, "", 0),
    ),
}
_GROUP_METADATA_KEY: Structs = {
    "GroupMetadataKey": (
        ("group", "string", "0+", ""),
    ),
}
_GROUP_METADATA_VALUE: Structs = {
    "GroupMetadataValue": (
        ("protocol_type", "string", "0+", ""),
        ("generation", "int32", "0+", 0),
        ("protocol", "string", "0+", None, "0+"),
        ("leader", "string", "0+", None, "0+"),
        ("current_state_timestamp", "int64", "2+", -1),
        ("members", "[]MemberMetadata", "0+", ()),
    ),
    "MemberMetadata": (
        ("member_id", "string", "0+", ""),
        ("group_instance_id", "string", "3+", None, "3+"),
        ("client_id", "string", "0+", ""),
        ("client_host", "string", "0+", ""),
        ("rebalance_timeout", "int32", "1+", 0),
        ("session_timeout", "int32", "0+", 0),
        ("subscription", "bytes", "0+", b""),
        ("assignment", "bytes", "0+", b""),
    ),
}
# fmt: on

OFFSET_COMMIT_KEY = RecordFormat("OffsetCommitKey", _OFFSET_COMMIT_KEY, versions=range(2))
OFFSET_COMMIT_VALUE = RecordFormat(
    "OffsetCommitValue", _OFFSET_COMMIT_VALUE, versions=range(5), flexible_from=4
)
GROUP_METADATA_KEY = RecordFormat("GroupMetadataKey", _GROUP_METADATA_KEY, versions=range(2, 3))
GROUP_METADATA_VALUE = RecordFormat(
    "GroupMetadataValue", _GROUP_METADATA_VALUE, versions=range(5), flexible_from=4
)

WRITTEN_GROUP_VERSION = 3
VERSION_WITH_EXPIRY = 1
VERSION_WITH_TOPIC_ID = 4
NEVER_EXPIRES = -1


class OffsetKey(NamedTuple):
    """What an offset is committed for."""

    group: str
    topic: str
    partition: int


def encode_offset_key(group: str, topic: str, partition: int) -> bytes:
    """The key of a committed offset."""
    message = Message(group=group, topic=topic, partition=partition)
    return OFFSET_COMMIT_KEY.encode(RecordKind.OFFSET_COMMIT, message)


def decode_offset_key(key: bytes) -> OffsetKey:
    """The inverse. Raises DecodeError."""
    message = OFFSET_COMMIT_KEY.decode(key)
    return OffsetKey(message.group, message.topic, message.partition)


def encode_offset_value(
    offset: int,
    leader_epoch: int,
    metadata: str,
    commit_timestamp: int,
    *,
    expire_timestamp: int = NEVER_EXPIRES,
    topic_id: bytes = bytes(16),
) -> bytes:
    """The value of a committed offset: version 1 where the client gave it a retention time, else 4, which has the topic id."""
    version = VERSION_WITH_TOPIC_ID if expire_timestamp == NEVER_EXPIRES else VERSION_WITH_EXPIRY
    return OFFSET_COMMIT_VALUE.encode(
        version,
        Message(
            offset=offset,
            leader_epoch=leader_epoch,
            metadata=metadata,
            commit_timestamp=commit_timestamp,
            expire_timestamp=expire_timestamp,
            topic_id=topic_id,
        ),
    )


def decode_offset_value(value: bytes) -> Message:
    """All fields of the newest version; a leader epoch, topic id or expiry that its own version lacks is -1, zeros or -1."""
    return OFFSET_COMMIT_VALUE.decode(value)


def encode_group_key(group: str) -> bytes:
    """The key of a classic group."""
    return GROUP_METADATA_KEY.encode(RecordKind.GROUP_METADATA, Message(group=group))


def decode_group_key(key: bytes) -> str:
    """The inverse. Raises DecodeError."""
    group: str = GROUP_METADATA_KEY.decode(key).group
    return group


def encode_group_value(value: Message) -> bytes:
    """The value of a classic group, in the version that Kafka writes."""
    return GROUP_METADATA_VALUE.encode(WRITTEN_GROUP_VERSION, value)


def decode_group_value(value: bytes) -> Message:
    """All fields; before version 1 the session timeout was the rebalance timeout, too. Raises DecodeError."""
    message = GROUP_METADATA_VALUE.decode(value)
    if value[:2] == b"\x00\x00":
        for member in message.members:
            member.rebalance_timeout = member.session_timeout
    return message


__all__ = [
    "OffsetKey",
    "RecordKind",
    "decode_group_key",
    "decode_group_value",
    "decode_offset_key",
    "decode_offset_value",
    "encode_group_key",
    "encode_group_value",
    "encode_offset_key",
    "encode_offset_value",
]
