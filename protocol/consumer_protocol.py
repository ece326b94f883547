"""What members of a group of consumers tell each other through the coordinator: subscriptions and assignments, as bytes.

Owns Kafka's embedded "consumer" protocol (ConsumerProtocolSubscription and ConsumerProtocolAssignment, versions 0 to 3) and the user data
of the sticky assignors. Knows neither groups nor assignors.

Invariants: as in Java, a version above 3 is read as version 3 and bytes behind the known fields are ignored, so that members of the future can
join; a negative version is an error. Fields that a message ends before are absent: some clients claim version 1 and write version 0. Counts are
bounded by the bytes that remain. Topics are sorted on writing, so that equal values are equal bytes.
Source: KIP-429 (owned partitions), KIP-792 (generation), KIP-881 (rack).
"""

import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from penstock.protocol.errors import DecodeError

PROTOCOL_TYPE = "consumer"
VERSION_MAX = 3
NO_GENERATION = -1

_Partition = tuple[str, int]
_INT16 = struct.Struct(">h")
_INT32 = struct.Struct(">i")
_TOPIC_SIZE_BYTES_MIN = 2 + 4  # a name and a count
_STRING_SIZE_BYTES_MIN = 2


@dataclass(frozen=True, slots=True)
class ConsumerSubscription:
    """What a member tells on joining."""

    topics: tuple[str, ...]
    user_data: bytes | None = None
    owned: tuple[_Partition, ...] = ()
    """(topic, partition) that it has from the generation before and may keep; empty with eager rebalancing."""
    generation: int = NO_GENERATION
    """The generation in which it was given what it owns."""
    rack: str | None = None


@dataclass(frozen=True, slots=True)
class ConsumerAssignment:
    """What the leader gives a member: (topic, partition) each."""

    partitions: tuple[_Partition, ...]
    user_data: bytes | None = None


@dataclass(frozen=True, slots=True)
class StickyUserData:
    """What `sticky` members tell: the assignment of their last generation."""

    partitions: tuple[_Partition, ...]
    generation: int = NO_GENERATION


def encode_subscription(subscription: ConsumerSubscription, version: int = VERSION_MAX) -> bytes:
    """The bytes of a subscription; fields that the version does not have are left out."""
    topics = sorted(subscription.topics)
    parts = [_INT16.pack(version), _INT32.pack(len(topics))]
    parts += [_string(topic) for topic in topics]
    parts.append(_nullable_bytes(subscription.user_data))
    if version >= 1:
        parts += _partitions(subscription.owned)
    if version >= 2:
        parts.append(_INT32.pack(subscription.generation))
    if version >= 3:
        rack = subscription.rack
        parts.append(_INT16.pack(-1) if rack is None else _string(rack))
    return b"".join(parts)


def decode_subscription(data: bytes) -> ConsumerSubscription:
    """Raises DecodeError."""
    reader = _Reader(data)
    version = reader.version()
    topics = tuple(reader.string() for _ in range(reader.count(_STRING_SIZE_BYTES_MIN)))
    user_data = reader.nullable_bytes()
    owned = reader.partitions() if version >= 1 and reader.has_more else ()
    generation = reader.int32() if version >= 2 and reader.has_more else NO_GENERATION
    rack = reader.nullable_string() if version >= 3 and reader.has_more else None
    return ConsumerSubscription(topics, user_data, owned, generation, rack)


def encode_assignment(assignment: ConsumerAssignment, version: int = VERSION_MAX) -> bytes:
    """The bytes of an assignment (all versions look alike)."""
    parts = [_INT16.pack(version), *_partitions(assignment.partitions), _nullable_bytes(assignment.user_data)]
    return b"".join(parts)


def decode_assignment(data: bytes) -> ConsumerAssignment:
    """Raises DecodeError. No bytes at all are an empty assignment: the coordinator gives them to whom the leader has forgotten."""
    if not data:
        return ConsumerAssignment(())
    reader = _Reader(data)
    reader.version()
    partitions = reader.partitions()
    return ConsumerAssignment(partitions, reader.nullable_bytes() if reader.has_more else None)


def encode_sticky_user_data(user_data: StickyUserData) -> bytes:
    """As Java's StickyAssignor, version 1."""
    return b"".join([*_partitions(user_data.partitions), _INT32.pack(user_data.generation)])


def decode_sticky_user_data(data: bytes | None) -> StickyUserData:
    """Version 1, or 0 (which ends before the generation). What can't be read counts as none, as in Java."""
    if not data:
        return StickyUserData(())
    try:
        reader = _Reader(data)
        partitions = reader.partitions()
        return StickyUserData(partitions, reader.int32() if reader.has_more else NO_GENERATION)
    except DecodeError:
        return StickyUserData(())


def encode_generation(generation: int) -> bytes:
    """The user data of Java's CooperativeStickyAssignor."""
    return _INT32.pack(generation)


def decode_generation(data: bytes | None) -> int:
    """Of a `cooperative-sticky` member below subscription version 2; NO_GENERATION where there is something else (librdkafka)."""
    if data is None or len(data) != _INT32.size:
        return NO_GENERATION
    (generation,) = _INT32.unpack(data)
    return int(generation)


def by_topic(partitions: Iterable[_Partition]) -> Mapping[str, list[int]]:
    """Partition indexes by topic, both sorted."""
    topics: dict[str, list[int]] = {}
    for topic, partition in sorted(partitions):
        topics.setdefault(topic, []).append(partition)
    return topics


class _Reader:
    """Reads forward; nothing is taken on trust."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._position = 0

    @property
    def has_more(self) -> bool:
        return self._position < len(self._data)

    def version(self) -> int:
        version = self.int16()
        if version < 0:
            raise DecodeError(f"consumer protocol version {version}")
        return min(version, VERSION_MAX)

    def int16(self) -> int:
        (value,) = _INT16.unpack(self._take(_INT16.size))
        return int(value)

    def int32(self) -> int:
        (value,) = _INT32.unpack(self._take(_INT32.size))
        return int(value)

    def count(self, size_bytes_min: int) -> int:
        count = self.int32()
        if not 0 <= count <= (len(self._data) - self._position) // size_bytes_min:
            raise DecodeError(f"{count} elements, and {len(self._data) - self._position} bytes remain")
        return count

    def string(self) -> str:
        value = self.nullable_string()
        if value is None:
            raise DecodeError("null where a string must be")
        return value

    def nullable_string(self) -> str | None:
        length = self.int16()
        if length < -1:
            raise DecodeError(f"a string of {length} bytes")
        try:
            return None if length == -1 else self._take(length).decode()
        except UnicodeDecodeError as error:
            raise DecodeError(f"a string that is not UTF-8: {error}") from None

    def nullable_bytes(self) -> bytes | None:
        length = self.int32()
        if length < -1:
            raise DecodeError(f"{length} bytes")
        return None if length == -1 else self._take(length)

    def partitions(self) -> tuple[_Partition, ...]:
        found: list[_Partition] = []
        for _ in range(self.count(_TOPIC_SIZE_BYTES_MIN)):
            topic = self.string()
            found += [(topic, self.int32()) for _ in range(self.count(_INT32.size))]
        return tuple(found)

    def _take(self, count: int) -> bytes:
        end = self._position + count
        if end > len(self._data):
            raise DecodeError(f"{count} bytes are due, and {len(self._data) - self._position} remain")
        taken = self._data[self._position : end]
        self._position = end
        return taken


def _string(text: str) -> bytes:
    encoded = text.encode()
    return _INT16.pack(len(encoded)) + encoded


def _nullable_bytes(data: bytes | None) -> bytes:
    return _INT32.pack(-1) if data is None else _INT32.pack(len(data)) + data


def _partitions(partitions: Iterable[_Partition]) -> list[bytes]:
    topics = by_topic(partitions)
    parts = [_INT32.pack(len(topics))]
    for topic, indexes in topics.items():
        parts += [_string(topic), struct.pack(f">i{len(indexes)}i", len(indexes), *indexes)]
    return parts


__all__ = [
    "NO_GENERATION",
    "PROTOCOL_TYPE",
    "VERSION_MAX",
    "ConsumerAssignment",
    "ConsumerSubscription",
    "StickyUserData",
    "by_topic",
    "decode_assignment",
    "decode_generation",
    "decode_sticky_user_data",
    "decode_subscription",
    "encode_assignment",
    "encode_generation",
    "encode_sticky_user_data",
    "encode_subscription",
]
