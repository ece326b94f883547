"""Produce requests and responses, packed by hand: the hot path must not copy records nor build generic messages.

Owns the layout of versions 0 to 13. Versions 0 to 2 (old message formats) are laid out only so that they can be refused
in a shape that their clients read. Knows nothing of what is in a record batch.
The tables in `schemas/` describe the same bytes; the property tests compare both.
Bounds are those of the codec: every count is checked against the bytes that remain, and in total.
"""

import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby

from penstock.protocol.errors import DecodeError, ErrorCode
from penstock.protocol.primitives import (
    ONE_BYTE,
    check_count,
    decode_uvarint,
    encode_uvarint,
    read_compact_count,
    read_string,
    skip_tagged_fields,
)
from penstock.protocol.tagged import NodeEndpoint, encode_leader, encode_node_endpoints

FIRST_FLEXIBLE = 9
FIRST_WITH_TOPIC_ID = 13

_INT16 = struct.Struct(">h")
_INT32 = struct.Struct(">i")
_ACKS_TIMEOUT = struct.Struct(">hi").unpack_from
_ACKS_TIMEOUT_COUNT = struct.Struct(">hii").unpack_from
_INDEX_SIZE = struct.Struct(">ii").unpack_from
_read_int16 = _INT16.unpack_from
_read_int32 = _INT32.unpack_from


@dataclass(slots=True)
class ProducePartition:
    """The records for one partition. Up to version 12 `topic` is set, from 13 on `topic_id` (16 bytes) and `topic` is "".

    `records` is a view into the frame, None where the client sent null.
    """

    topic: str
    topic_id: bytes | None
    index: int
    records: memoryview | None


@dataclass(slots=True)
class ProduceRequest:
    """A produce request, its partitions in the order of the frame."""

    transactional_id: str | None
    acks: int
    timeout_ms: int
    partitions: list[ProducePartition]


@dataclass(slots=True)
class ProducePartitionResult:
    """What became of one partition's records. Offsets and time are -1 where unknown or refused.

    `log_append_time_ms` is -1 for topics with CreateTime. `current_leader` is (broker id, leader epoch), for versions from
    10 on; `record_errors` are (index in the batch, message).
    """

    topic: str
    topic_id: bytes | None
    index: int
    error_code: int
    base_offset: int = -1
    log_append_time_ms: int = -1
    log_start_offset: int = -1
    error_message: str | None = None
    current_leader: tuple[int, int] | None = None
    record_errors: Sequence[tuple[int, str | None]] = ()


def decode_produce_request(version: int, body: memoryview) -> ProduceRequest:
    """The request in `body`, in versions 0 to 13; DecodeError for bytes that are none. Records are not copied.

    The records of versions 0 to 2 are in formats that nothing here reads: answer with `encode_produce_refusal`.
    """
    try:
        if version >= FIRST_FLEXIBLE:
            return _decode_flexible(version, body)
        return _decode_classic(version, body)
    except (struct.error, IndexError):
        raise DecodeError("the produce request ends too early") from None
    except UnicodeDecodeError:
        raise DecodeError("a name in the produce request is not UTF-8") from None


def _decode_classic(version: int, body: memoryview) -> ProduceRequest:
    end = len(body)
    position = 0
    transactional_id = None
    if version >= 3:
        (size_bytes,) = _read_int16(body, 0)
        position = 2
        if size_bytes != -1:
            transactional_id, position = read_string(body, 2, size_bytes)
    acks, timeout_ms, topic_count = _ACKS_TIMEOUT_COUNT(body, position)
    position += 10
    check_count(topic_count, end - position, 6, 0)
    partitions: list[ProducePartition] = []
    total = topic_count
    for _ in range(topic_count):
        (size_bytes,) = _read_int16(body, position)
        topic, position = read_string(body, position + 2, size_bytes)
        (partition_count,) = _read_int32(body, position)
        position += 4
        check_count(partition_count, end - position, 8, total)
        total += partition_count
        for _ in range(partition_count):
            index, size_bytes = _INDEX_SIZE(body, position)
            position += 8
            if size_bytes == -1:
                partitions.append(ProducePartition(topic, None, index, None))
                continue
            start = position
            position += size_bytes
            if size_bytes < 0 or position > end:
                raise DecodeError(f"records of {size_bytes} bytes where {end - start} remain")
            partitions.append(ProducePartition(topic, None, index, body[start:position]))
    if position != end:
        raise DecodeError(f"{end - position} bytes behind the produce request")
    return ProduceRequest(transactional_id, acks, timeout_ms, partitions)


def _decode_flexible(version: int, body: memoryview) -> ProduceRequest:
    end = len(body)
    size_bytes = body[0]
    position = 1
    transactional_id = None
    if size_bytes:
        if size_bytes >= 128:
            size_bytes, position = decode_uvarint(body, 0)
        transactional_id, position = read_string(body, position, size_bytes - 1)
    acks, timeout_ms = _ACKS_TIMEOUT(body, position)
    position += 6
    least_size_bytes = 3 if version < FIRST_WITH_TOPIC_ID else 18
    topic_count, position = read_compact_count(body, position, least_size_bytes, 0)
    partitions: list[ProducePartition] = []
    total = topic_count
    topic = ""
    topic_id = None
    for _ in range(topic_count):
        if version >= FIRST_WITH_TOPIC_ID:
            topic_id = bytes(body[position : position + 16])
            position += 16
        else:
            size_bytes, position = decode_uvarint(body, position)
            topic, position = read_string(body, position, size_bytes - 1)
        partition_count, position = read_compact_count(body, position, 6, total)
        total += partition_count
        for _ in range(partition_count):
            (index,) = _read_int32(body, position)
            size_bytes, position = decode_uvarint(body, position + 4)
            records = None
            if size_bytes:
                start = position
                position += size_bytes - 1
                records = body[start:position]
            if body[position] == 0:  # an IndexError where the records ran past the end
                position += 1
            else:
                position, total = skip_tagged_fields(body, position, total)
            partitions.append(ProducePartition(topic, topic_id, index, records))
        if body[position] == 0:
            position += 1
        else:
            position, total = skip_tagged_fields(body, position, total)
    if body[position] == 0:
        position += 1
    else:
        position, total = skip_tagged_fields(body, position, total)
    if position != end:
        raise DecodeError(f"{end - position} bytes behind the produce request")
    return ProduceRequest(transactional_id, acks, timeout_ms, partitions)


def encode_produce_response(
    version: int,
    results: Sequence[ProducePartitionResult],
    throttle_time_ms: int,
    node_endpoints: Iterable[NodeEndpoint] = (),
) -> bytes:
    """The response's body in versions 0 to 13; consecutive results of one topic become one topic.

    Versions drop what they don't have: the error message below 8, leaders and endpoints below 10, and so on. A value out
    of its integer's range raises struct.error, which is a bug of the caller.
    """
    if version >= FIRST_FLEXIBLE:
        return _encode_flexible(version, results, throttle_time_ms, node_endpoints)
    return _encode_classic(version, results, throttle_time_ms)


def encode_produce_refusal(
    version: int, request: ProduceRequest, error_code: int = ErrorCode.UNSUPPORTED_VERSION
) -> bytes:
    """A response that gives each partition of the request one and the same error: how versions 0 to 2 are refused."""
    results = [
        ProducePartitionResult(part.topic, part.topic_id, part.index, error_code)
        for part in request.partitions
    ]
    return encode_produce_response(version, results, 0)


_PART_0 = struct.Struct(">ihq").pack
_PART_2 = struct.Struct(">ihqq").pack
_PART_5 = struct.Struct(">ihqqq").pack
_PART_9 = struct.Struct(">ihqqqBBB").pack  # no record errors, no message, no tagged fields


def _group(version: int, results: Sequence[ProducePartitionResult]) -> list[Sequence[ProducePartitionResult]]:
    if len(results) == 1:
        return [results]
    by_id = version >= FIRST_WITH_TOPIC_ID
    groups = groupby(results, lambda result: result.topic_id if by_id else result.topic)
    return [list(group) for _, group in groups]


def _encode_flexible(
    version: int,
    results: Sequence[ProducePartitionResult],
    throttle_time_ms: int,
    node_endpoints: Iterable[NodeEndpoint],
) -> bytes:
    groups = _group(version, results)
    parts = [encode_uvarint(len(groups) + 1)]
    for group in groups:
        first = group[0]
        if version >= FIRST_WITH_TOPIC_ID:
            parts.append(first.topic_id or bytes(16))
        else:
            name = first.topic.encode()
            parts.append(encode_uvarint(len(name) + 1))
            parts.append(name)
        count = len(group)
        parts.append(ONE_BYTE[count + 1] if count < 127 else encode_uvarint(count + 1))
        for r in group:
            if r.error_message is None and r.current_leader is None and not r.record_errors:
                fixed = r.base_offset, r.log_append_time_ms, r.log_start_offset
                parts.append(_PART_9(r.index, r.error_code, *fixed, 1, 0, 0))
            else:
                parts.append(_encode_refused_partition(version, r))
        parts.append(b"\0")
    parts.append(_INT32.pack(throttle_time_ms))
    parts.append(encode_node_endpoints(node_endpoints) if version >= 10 and node_endpoints else b"\0")
    return b"".join(parts)


def _encode_refused_partition(version: int, result: ProducePartitionResult) -> bytes:
    fixed = result.base_offset, result.log_append_time_ms, result.log_start_offset
    parts = [_PART_5(result.index, result.error_code, *fixed), encode_uvarint(len(result.record_errors) + 1)]
    for index, message in result.record_errors:
        parts += [_INT32.pack(index), _compact_nullable(message), b"\0"]
    parts.append(_compact_nullable(result.error_message))
    if version >= 10 and result.current_leader is not None:
        parts += [b"\1", encode_leader(0, result.current_leader)]
    else:
        parts.append(b"\0")
    return b"".join(parts)


def _compact_nullable(text: str | None) -> bytes:
    if text is None:
        return b"\0"
    encoded = text.encode()
    return encode_uvarint(len(encoded) + 1) + encoded


def _encode_classic(version: int, results: Sequence[ProducePartitionResult], throttle_time_ms: int) -> bytes:
    groups = _group(version, results)
    parts = [_INT32.pack(len(groups))]
    for group in groups:
        name = group[0].topic.encode()
        parts += [_INT16.pack(len(name)), name, _INT32.pack(len(group))]
        for r in group:
            if version >= 5:
                fixed = r.base_offset, r.log_append_time_ms, r.log_start_offset
                parts.append(_PART_5(r.index, r.error_code, *fixed))
            elif version >= 2:
                parts.append(_PART_2(r.index, r.error_code, r.base_offset, r.log_append_time_ms))
            else:
                parts.append(_PART_0(r.index, r.error_code, r.base_offset))
            if version >= 8:
                parts.append(_INT32.pack(len(r.record_errors)))
                for index, message in r.record_errors:
                    parts += [_INT32.pack(index), _classic_nullable(message)]
                parts.append(_classic_nullable(r.error_message))
    if version >= 1:
        parts.append(_INT32.pack(throttle_time_ms))
    return b"".join(parts)


def _classic_nullable(text: str | None) -> bytes:
    if text is None:
        return b"\xff\xff"
    encoded = text.encode()
    return _INT16.pack(len(encoded)) + encoded
