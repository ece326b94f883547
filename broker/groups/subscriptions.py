"""The topics in a consumer's subscription: the one thing that the coordinator reads of a member's metadata.

Owns the prefix that all versions of the consumer protocol share (version 0: a version, then an array of topic names). Knows nothing
of what follows it: that is between the members. Source: Kafka's ConsumerProtocol, `ClassicGroup.computeSubscribedTopics`.
"""

import struct

from penstock.protocol.errors import DecodeError

CONSUMER_PROTOCOL_TYPE = "consumer"
"""The protocol type whose metadata is a subscription; of other types (connect, ...) the coordinator reads nothing."""

_VERSION_AND_COUNT = struct.Struct(">hi")
_LENGTH = struct.Struct(">h")


def read_subscribed_topics(metadata: bytes) -> frozenset[str]:
    """Return the topics of a subscription of any version; DecodeError where the bytes are none."""
    try:
        version, count = _VERSION_AND_COUNT.unpack_from(metadata)
    except struct.error:
        raise DecodeError("a subscription of less than six bytes") from None
    position = _VERSION_AND_COUNT.size
    if version < 0 or not 0 <= count <= (len(metadata) - position) // _LENGTH.size:
        raise DecodeError(f"a subscription of version {version} with {count} topics in {len(metadata)} bytes")
    topics: set[str] = set()
    for _ in range(count):
        topic, position = _read_topic(metadata, position)
        topics.add(topic)
    return frozenset(topics)


def _read_topic(metadata: bytes, position: int) -> tuple[str, int]:
    try:
        (size_bytes,) = _LENGTH.unpack_from(metadata, position)
    except struct.error:
        raise DecodeError("the subscription ends inside its topics") from None
    end = position + _LENGTH.size + size_bytes
    if size_bytes < 0 or end > len(metadata):
        raise DecodeError(f"a topic name of {size_bytes} bytes in a subscription of {len(metadata)}")
    try:
        return metadata[position + _LENGTH.size : end].decode(), end
    except UnicodeDecodeError:
        raise DecodeError("a topic name that is no UTF-8") from None
