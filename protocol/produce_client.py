"""Produce from the client's side: requests built around record batches, which are not copied, and responses read.

Owns the layout of versions 3 to 13 as a client writes and reads them; `produce` has the broker's side and the shared value types. Knows
nothing of what is in a batch. Bounds when reading are those of all decoders: no count is believed.
"""

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

from penstock.protocol.errors import DecodeError
from penstock.protocol.primitives import (
    check_count,
    decode_uvarint,
    encode_uvarint,
    read_compact_count,
    read_string,
    read_tagged_fields,
    skip_tagged_fields,
)
from penstock.protocol.produce import FIRST_FLEXIBLE, FIRST_WITH_TOPIC_ID, ProducePartitionResult
from penstock.protocol.tagged import NodeEndpoint, decode_node_endpoints

Buffer = bytes | bytearray | memoryview
ProduceAnswer = tuple[list[ProducePartitionResult], int, Sequence[NodeEndpoint]]
"""The partitions' results in the order of the body, throttle_time_ms, and where new leaders that the results name listen."""

VERSION_MIN = 3
"""The first with record batches of magic 2, in Kafka 0.11."""

_FIRST_WITH_RECORD_ERRORS = 8
_FIRST_WITH_LEADERS = 10
_FIRST_WITH_LOG_START_OFFSET = 5

_ACKS_TIMEOUT = struct.Struct(">hi").pack
_INT32 = struct.Struct(">i")
_INDEX_SIZE = struct.Struct(">ii").pack
_PART_2 = struct.Struct(">ihqq")
_PART_5 = struct.Struct(">ihqqq")
_LEADER = struct.Struct(">ii")


@dataclass(slots=True)
class OutgoingBatch:
    """A sealed batch and where it goes. `topic_id` (16 bytes) is needed from version 13 on, `topic` below."""

    topic: str
    topic_id: bytes | None
    index: int
    records: Buffer


def encode_produce_request(
    version: int,
    batches: Sequence[OutgoingBatch],
    *,
    acks: int,
    timeout_ms: int,
    transactional_id: str | None = None,
) -> list[Buffer]:
    """The body in versions 3 to 13 as buffers to be sent in order; the batches are among them as they are.

    Batches of one topic that stand together become one topic; a partition must not come twice.
    """
    by_id = version >= FIRST_WITH_TOPIC_ID
    groups = groupby(batches, lambda batch: batch.topic_id if by_id else batch.topic)
    topics = [list(group) for _, group in groups]
    if version >= FIRST_FLEXIBLE:
        return _encode_flexible(version, topics, acks, timeout_ms, transactional_id)
    return _encode_classic(topics, acks, timeout_ms, transactional_id)


def _encode_classic(
    topics: Sequence[Sequence[OutgoingBatch]], acks: int, timeout_ms: int, transactional_id: str | None
) -> list[Buffer]:
    parts: list[Buffer] = []
    between = _classic_nullable(transactional_id) + _ACKS_TIMEOUT(acks, timeout_ms) + _INT32.pack(len(topics))
    for topic in topics:
        name = topic[0].topic.encode()
        between += len(name).to_bytes(2, "big") + name + _INT32.pack(len(topic))
        for batch in topic:
            parts += (between + _INDEX_SIZE(batch.index, len(batch.records)), batch.records)
            between = b""
    if between:
        parts.append(between)
    return parts


def _encode_flexible(
    version: int,
    topics: Sequence[Sequence[OutgoingBatch]],
    acks: int,
    timeout_ms: int,
    transactional_id: str | None,
) -> list[Buffer]:
    parts: list[Buffer] = []
    between = _compact_nullable(transactional_id) + _ACKS_TIMEOUT(acks, timeout_ms)
    between += encode_uvarint(len(topics) + 1)
    for topic in topics:
        if version >= FIRST_WITH_TOPIC_ID:
            topic_id = topic[0].topic_id
            if topic_id is None or len(topic_id) != 16:
                raise ValueError(f"topic {topic[0].topic} has no id, which version {version} needs")
            between += topic_id
        else:
            name = topic[0].topic.encode()
            between += encode_uvarint(len(name) + 1) + name
        between += encode_uvarint(len(topic) + 1)
        for batch in topic:
            between += _INT32.pack(batch.index) + encode_uvarint(len(batch.records) + 1)
            parts += (between, batch.records)
            between = b"\x00"  # no tagged fields of the partition
        between += b"\x00"
    parts.append(between + b"\x00")
    return parts


def _classic_nullable(text: str | None) -> bytes:
    if text is None:
        return b"\xff\xff"
    encoded = text.encode()
    return len(encoded).to_bytes(2, "big") + encoded


def _compact_nullable(text: str | None) -> bytes:
    if text is None:
        return b"\x00"
    encoded = text.encode()
    return encode_uvarint(len(encoded) + 1) + encoded


def decode_produce_response(version: int, body: memoryview) -> ProduceAnswer:
    """What the body says. DecodeError for bytes that are no such response.

    From version 13 on a result has `topic_id` and its `topic` is "". Leaders and their endpoints come from version 10 on.
    """
    try:
        if version >= FIRST_FLEXIBLE:
            return _decode_flexible(version, body)
        return _decode_classic(version, body)
    except (struct.error, IndexError):
        raise DecodeError("the produce response ends too early") from None
    except UnicodeDecodeError:
        raise DecodeError("a text in the produce response is not UTF-8") from None


def _decode_classic(version: int, body: memoryview) -> ProduceAnswer:
    end = len(body)
    least_bytes = 22 if version < _FIRST_WITH_LOG_START_OFFSET else 30
    (topic_count,) = _INT32.unpack_from(body, 0)
    position = 4
    check_count(topic_count, end - position, 6, 0)
    results: list[ProducePartitionResult] = []
    total: int = topic_count
    for _ in range(topic_count):
        topic, position = _read_classic_string(body, position)
        (count,) = _INT32.unpack_from(body, position)
        position += 4
        check_count(count, end - position, least_bytes, total)
        total += count
        for _ in range(count):
            result, position = _read_fixed(version, body, position, topic or "", None)
            if version >= _FIRST_WITH_RECORD_ERRORS:
                total, position = _read_classic_errors(body, position, total, result)
            results.append(result)
    (throttle_time_ms,) = _INT32.unpack_from(body, position)
    _check_end(position + 4, end)
    return results, throttle_time_ms, ()


def _read_fixed(
    version: int, body: memoryview, position: int, topic: str, topic_id: bytes | None
) -> tuple[ProducePartitionResult, int]:
    if version >= _FIRST_WITH_LOG_START_OFFSET:
        fixed = _PART_5.unpack_from(body, position)
        return ProducePartitionResult(topic, topic_id, *fixed), position + _PART_5.size
    fixed = _PART_2.unpack_from(body, position)
    return ProducePartitionResult(topic, topic_id, *fixed), position + _PART_2.size


def _read_classic_errors(
    body: memoryview, position: int, total: int, result: ProducePartitionResult
) -> tuple[int, int]:
    (count,) = _INT32.unpack_from(body, position)
    position += 4
    check_count(count, len(body) - position, 6, total)
    errors: list[tuple[int, str | None]] = []
    for _ in range(count):
        (index,) = _INT32.unpack_from(body, position)
        message, position = _read_classic_string(body, position + 4)
        errors.append((index, message))
    result.record_errors = errors
    result.error_message, position = _read_classic_string(body, position)
    return total + count, position


def _read_classic_string(body: memoryview, position: int) -> tuple[str | None, int]:
    size_bytes = int.from_bytes(body[position : position + 2], "big", signed=True)
    if position + 2 > len(body):
        raise DecodeError("the produce response ends inside a string")
    if size_bytes == -1:
        return None, position + 2
    return read_string(body, position + 2, size_bytes)


def _decode_flexible(version: int, body: memoryview) -> ProduceAnswer:
    by_id = version >= FIRST_WITH_TOPIC_ID
    topic_count, position = read_compact_count(body, 0, 18 if by_id else 3, 0)
    results: list[ProducePartitionResult] = []
    total = topic_count
    topic: str | None = ""
    topic_id = None
    for _ in range(topic_count):
        if by_id:
            topic_id = bytes(body[position : position + 16])
            position += 16
        else:
            topic, position = _read_compact_string(body, position)
        count, position = read_compact_count(body, position, 33, total)
        total += count
        for _ in range(count):
            result, position = _read_fixed(version, body, position, topic or "", topic_id)
            total, position = _read_compact_errors(body, position, total, result)
            if body[position] == 0:
                position += 1
            else:
                total, position = _read_partition_tags(version, body, position, total, result)
            results.append(result)
        position, total = skip_tagged_fields(body, position, total)
    (throttle_time_ms,) = _INT32.unpack_from(body, position)
    position += 4
    endpoints: Sequence[NodeEndpoint] = ()
    if body[position] == 0:
        position += 1
    else:
        endpoints, position = _read_endpoints(version, body, position, total)
    _check_end(position, len(body))
    return results, throttle_time_ms, endpoints


def _read_endpoints(
    version: int, body: memoryview, position: int, total: int
) -> tuple[Sequence[NodeEndpoint], int]:
    fields, position, total = read_tagged_fields(body, position, total)
    endpoints: Sequence[NodeEndpoint] = ()
    for tag, start, end in fields:
        if tag == 0 and version >= _FIRST_WITH_LEADERS:
            endpoints, total = decode_node_endpoints(body[start:end], total)
    return endpoints, position


def _read_compact_errors(
    body: memoryview, position: int, total: int, result: ProducePartitionResult
) -> tuple[int, int]:
    if body[position] == 1 and body[position + 1] == 0:  # no record errors and no message
        return total, position + 2
    count, position = read_compact_count(body, position, 6, total)
    total += count
    errors: list[tuple[int, str | None]] = []
    for _ in range(count):
        (index,) = _INT32.unpack_from(body, position)
        message, position = _read_compact_string(body, position + 4)
        position, total = skip_tagged_fields(body, position, total)
        errors.append((index, message))
    result.record_errors = errors
    result.error_message, position = _read_compact_string(body, position)
    return total, position


def _read_partition_tags(
    version: int, body: memoryview, position: int, total: int, result: ProducePartitionResult
) -> tuple[int, int]:
    fields, position, total = read_tagged_fields(body, position, total)
    for tag, start, end in fields:
        if tag == 0 and version >= _FIRST_WITH_LEADERS:
            if end - start < _LEADER.size:
                raise DecodeError(f"a current leader of {end - start} bytes")
            result.current_leader = _LEADER.unpack_from(body, start)
    return total, position


def _read_compact_string(body: memoryview, position: int) -> tuple[str | None, int]:
    size_bytes, position = decode_uvarint(body, position)
    if size_bytes == 0:
        return None, position
    return read_string(body, position, size_bytes - 1)


def _check_end(position: int, end: int) -> None:
    if position != end:
        raise DecodeError(f"{end - position} bytes behind the produce response")


__all__ = [
    "VERSION_MIN",
    "OutgoingBatch",
    "ProduceAnswer",
    "decode_produce_response",
    "encode_produce_request",
]
