"""Fetch requests and responses, packed by hand: record bytes go from the log to the socket and are never touched here.

Owns the layout of versions 4 to 18. Knows nothing of files: the records of a response are anything with a `count` of
bytes, which the connection sends in its own way between the bytes that are made here.
The tables in `schemas/` describe the same bytes; the property tests compare both.
Bounds are those of the codec: every count is checked against the bytes that remain, and in total.
Invariants: empty records have length 0, never null; a request's unknown tagged fields are skipped.
"""

import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Protocol

from penstock.protocol.errors import DecodeError
from penstock.protocol.primitives import (
    ONE_BYTE,
    check_count,
    decode_uvarint,
    encode_uvarint,
    read_compact_count,
    read_string,
    read_tagged_fields,
    skip_tagged_fields,
)
from penstock.protocol.tagged import (
    NodeEndpoint,
    encode_diverging_epoch,
    encode_leader,
    encode_node_endpoints,
    encode_snapshot_id,
)

FIRST_FLEXIBLE = 12
FIRST_WITH_TOPIC_ID = 13

_INT16 = struct.Struct(">h")
_INT32 = struct.Struct(">i")
_read_int16 = _INT16.unpack_from
_read_int32 = _INT32.unpack_from


class Records(Protocol):
    """Record bytes that somebody else will put on the wire."""

    @property
    def count(self) -> int:
        """Bytes, whole batches only."""
        ...


@dataclass(slots=True, frozen=True)
class NoRecords:
    """Records of no bytes."""

    count: int = 0


EMPTY = NoRecords()


@dataclass(slots=True)
class FetchPartition:
    """One partition that is asked for. Up to version 12 `topic` is set, from 13 on `topic_id` and `topic` is "".

    Epochs are -1 where the client gave none; `log_start_offset` and `replica_directory_id` are set by followers.
    """

    topic: str
    topic_id: bytes | None
    index: int
    current_leader_epoch: int
    fetch_offset: int
    last_fetched_epoch: int
    log_start_offset: int
    max_bytes: int
    replica_directory_id: bytes | None = None


@dataclass(slots=True)
class FetchRequest:
    """A fetch request, its partitions in the order of the frame (which matters: they are served in that order).

    `forgotten` are the (topic, topic id, partition index) that leave the fetch session. `replica_id` is -1 for consumers.
    """

    replica_id: int
    replica_epoch: int
    max_wait_ms: int
    min_bytes: int
    max_bytes: int
    isolation_level: int
    session_id: int
    session_epoch: int
    partitions: list[FetchPartition]
    forgotten: list[tuple[str, bytes | None, int]]
    rack_id: str
    cluster_id: str | None


@dataclass(slots=True)
class FetchPartitionResult:
    """The answer for one partition; `records` may be EMPTY.

    `aborted_transactions` are (producer id, first offset), None unless the request was read_committed. The tagged pairs
    are (epoch, end offset), (broker id, leader epoch) and (end offset, epoch), sent from version 12 on.
    """

    topic: str
    topic_id: bytes | None
    index: int
    error_code: int
    high_watermark: int
    last_stable_offset: int = -1
    log_start_offset: int = -1
    aborted_transactions: Sequence[tuple[int, int]] | None = None
    preferred_read_replica: int = -1
    diverging_epoch: tuple[int, int] | None = None
    current_leader: tuple[int, int] | None = None
    snapshot_id: tuple[int, int] | None = None
    records: Records = EMPTY


_HEAD_4 = struct.Struct(">iiiib").unpack_from
_HEAD_7 = struct.Struct(">iiiibii").unpack_from
_HEAD_15 = struct.Struct(">iiibii").unpack_from
_PARTITION_4 = struct.Struct(">iqi")
_PARTITION_5 = struct.Struct(">iqqi")
_PARTITION_9 = struct.Struct(">iiqqi")
_PARTITION_12 = struct.Struct(">iiqiqi")


def decode_fetch_request(version: int, body: memoryview) -> FetchRequest:
    """The request in `body`, in versions 4 to 18; DecodeError for bytes that are none."""
    try:
        if version >= FIRST_FLEXIBLE:
            return _decode_flexible(version, body)
        return _decode_classic(version, body)
    except (struct.error, IndexError):
        raise DecodeError("the fetch request ends too early") from None
    except UnicodeDecodeError:
        raise DecodeError("a name in the fetch request is not UTF-8") from None


def _decode_classic(version: int, body: memoryview) -> FetchRequest:
    if version >= 7:
        *head, session_id, session_epoch = _HEAD_7(body, 0)
        position = 25
    else:
        head = list(_HEAD_4(body, 0))
        session_id, session_epoch = 0, -1
        position = 17
    replica_id, max_wait_ms, min_bytes, max_bytes, isolation_level = head
    partitions, position, total = _classic_partitions(version, body, position)
    forgotten: list[tuple[str, bytes | None, int]] = []
    rack_id = ""
    if version >= 7:
        forgotten, position = _classic_forgotten(body, position, total)
    if version >= 11:
        (size_bytes,) = _read_int16(body, position)
        rack_id, position = read_string(body, position + 2, size_bytes)
    if position != len(body):
        raise DecodeError(f"{len(body) - position} bytes behind the fetch request")
    session = isolation_level, session_id, session_epoch, partitions, forgotten, rack_id, None
    return FetchRequest(replica_id, -1, max_wait_ms, min_bytes, max_bytes, *session)


def _classic_partitions(
    version: int, body: memoryview, position: int
) -> tuple[list[FetchPartition], int, int]:
    layout = _PARTITION_9 if version >= 9 else _PARTITION_5 if version >= 5 else _PARTITION_4
    unpack, size = layout.unpack_from, layout.size
    end = len(body)
    (topic_count,) = _read_int32(body, position)
    position += 4
    check_count(topic_count, end - position, 6, 0)
    total = topic_count
    partitions: list[FetchPartition] = []
    for _ in range(topic_count):
        (size_bytes,) = _read_int16(body, position)
        topic, position = read_string(body, position + 2, size_bytes)
        (count,) = _read_int32(body, position)
        position += 4
        check_count(count, end - position, size, total)
        total += count
        for _ in range(count):
            fields = unpack(body, position)
            position += size
            if version >= 9:
                index, epoch, offset, start, limit = fields
            elif version >= 5:
                (index, offset, start, limit), epoch = fields, -1
            else:
                (index, offset, limit), epoch, start = fields, -1, -1
            partitions.append(FetchPartition(topic, None, index, epoch, offset, -1, start, limit))
    return partitions, position, total


def _classic_forgotten(
    body: memoryview, position: int, total: int
) -> tuple[list[tuple[str, bytes | None, int]], int]:
    (topic_count,) = _read_int32(body, position)
    position += 4
    check_count(topic_count, len(body) - position, 6, total)
    total += topic_count
    forgotten: list[tuple[str, bytes | None, int]] = []
    for _ in range(topic_count):
        (size_bytes,) = _read_int16(body, position)
        topic, position = read_string(body, position + 2, size_bytes)
        (count,) = _read_int32(body, position)
        position += 4
        check_count(count, len(body) - position, 4, total)
        total += count
        forgotten += [(topic, None, _read_int32(body, position + 4 * i)[0]) for i in range(count)]
        position += 4 * count
    return forgotten, position


def _decode_flexible(version: int, body: memoryview) -> FetchRequest:
    if version >= 15:
        max_wait_ms, min_bytes, max_bytes, isolation_level, session_id, session_epoch = _HEAD_15(body, 0)
        replica_id = -1
        position = 21
    else:
        *head, session_id, session_epoch = _HEAD_7(body, 0)
        replica_id, max_wait_ms, min_bytes, max_bytes, isolation_level = head
        position = 25
    partitions, position, total = _flexible_partitions(version, body, position)
    forgotten: list[tuple[str, bytes | None, int]] = []
    if body[position] == 1:
        position += 1
    else:
        forgotten, position, total = _flexible_forgotten(version, body, position, total)
    size_bytes, position = decode_uvarint(body, position)
    rack_id, position = read_string(body, position, size_bytes - 1) if size_bytes != 1 else ("", position)
    session = isolation_level, session_id, session_epoch, partitions, forgotten, rack_id, None
    request = FetchRequest(replica_id, -1, max_wait_ms, min_bytes, max_bytes, *session)
    if body[position] == 0:
        position += 1
    else:
        position = _request_tags(version, request, body, position, total)
    if position != len(body):
        raise DecodeError(f"{len(body) - position} bytes behind the fetch request")
    return request


def _flexible_partitions(
    version: int, body: memoryview, position: int
) -> tuple[list[FetchPartition], int, int]:
    unpack, size = _PARTITION_12.unpack_from, _PARTITION_12.size
    topic_count, position = read_compact_count(body, position, 18 if version >= FIRST_WITH_TOPIC_ID else 3, 0)
    total = topic_count
    partitions: list[FetchPartition] = []
    for _ in range(topic_count):
        topic, topic_id, position = _topic(version, body, position)
        count, position = read_compact_count(body, position, size + 1, total)
        total += count
        for _ in range(count):
            index, epoch, offset, last_epoch, start, limit = unpack(body, position)
            position += size
            partition = FetchPartition(topic, topic_id, index, epoch, offset, last_epoch, start, limit)
            if body[position] == 0:
                position += 1
            else:
                position, total = _partition_tags(version, partition, body, position, total)
            partitions.append(partition)
        if body[position] == 0:
            position += 1
        else:
            position, total = skip_tagged_fields(body, position, total)
    return partitions, position, total


def _flexible_forgotten(
    version: int, body: memoryview, position: int, total: int
) -> tuple[list[tuple[str, bytes | None, int]], int, int]:
    topic_count, position = read_compact_count(
        body, position, 18 if version >= FIRST_WITH_TOPIC_ID else 3, total
    )
    total += topic_count
    forgotten: list[tuple[str, bytes | None, int]] = []
    for _ in range(topic_count):
        topic, topic_id, position = _topic(version, body, position)
        count, position = read_compact_count(body, position, 4, total)
        total += count
        forgotten += [(topic, topic_id, _read_int32(body, position + 4 * i)[0]) for i in range(count)]
        position, total = skip_tagged_fields(body, position + 4 * count, total)
    return forgotten, position, total


def _topic(version: int, body: memoryview, position: int) -> tuple[str, bytes | None, int]:
    if version >= FIRST_WITH_TOPIC_ID:
        return "", bytes(body[position : position + 16]), position + 16
    size_bytes, position = decode_uvarint(body, position)
    topic, position = read_string(body, position, size_bytes - 1)
    return topic, None, position


def _partition_tags(
    version: int, partition: FetchPartition, body: memoryview, position: int, total: int
) -> tuple[int, int]:
    fields, position, total = read_tagged_fields(body, position, total)
    for tag, start, stop in fields:
        if tag == 0 and version >= 17:
            if stop - start != 16:
                raise DecodeError(f"a replica directory id of {stop - start} bytes")
            partition.replica_directory_id = bytes(body[start:stop])
        elif tag == 1 and version >= 18 and stop - start != 8:  # the follower's high watermark: unused here
            raise DecodeError(f"a high watermark of {stop - start} bytes")
    return position, total


def _request_tags(version: int, request: FetchRequest, body: memoryview, position: int, total: int) -> int:
    fields, position, total = read_tagged_fields(body, position, total)
    for tag, start, stop in fields:
        if tag == 0:
            size_bytes, start = decode_uvarint(body, start)
            if start + max(size_bytes - 1, 0) != stop:
                raise DecodeError("a cluster id that does not fill its field")
            request.cluster_id = str(body[start:stop], "utf-8") if size_bytes else None
        elif tag == 1 and version >= 15:
            request.replica_id, request.replica_epoch = _REPLICA_STATE(body, start)
            if skip_tagged_fields(body[:stop], start + 12, total)[0] != stop:
                raise DecodeError("a replica state that does not fill its field")
    return position


_REPLICA_STATE = struct.Struct(">iq").unpack_from


def encode_fetch_response(
    version: int,
    throttle_time_ms: int,
    error_code: int,
    session_id: int,
    results: Sequence[FetchPartitionResult],
    node_endpoints: Iterable[NodeEndpoint] = (),
) -> tuple[int, list[bytes | Records]]:
    """The response's body in versions 4 to 18: its size in bytes, and its parts in the order of the wire.

    A part is either bytes or the `records` of a result, which is passed through as it is; empty records are no part.
    Consecutive results of one topic become one topic. Versions drop what they don't have. A value out of its integer's
    range raises struct.error, which is a bug of the caller.
    """
    flexible = version >= FIRST_FLEXIBLE
    count = _compact_length if flexible else _INT32.pack
    body = _Body()
    add = body.pending.append
    add(
        _THROTTLE_SESSION(throttle_time_ms, error_code, session_id)
        if version >= 7
        else _INT32.pack(throttle_time_ms)
    )
    groups = _group(version, results)
    add(count(len(groups)))
    for group in groups:
        add(_encode_topic(version, group[0]))
        add(count(len(group)))
        for result in group:
            if flexible:
                _add_flexible(version, result, body)
            else:
                _add_classic(version, result, body)
        if flexible:
            add(b"\0")
    if flexible:
        add(encode_node_endpoints(node_endpoints) if version >= 16 else b"\0")
    return body.finish()


_THROTTLE_SESSION = struct.Struct(">ihi").pack
_RESULT_4 = struct.Struct(">ihqq").pack
_RESULT_5 = struct.Struct(">ihqqq").pack
_RESULT_12 = struct.Struct(">ihqqqBi").pack  # with no aborted transactions
_TRANSACTION = struct.Struct(">qq").pack
_TRANSACTION_12 = struct.Struct(">qqx").pack


class _Body:
    """Parts in the making: adjoining bytes become one part, records stay what they are."""

    __slots__ = ("parts", "pending", "size_bytes")

    def __init__(self) -> None:
        self.parts: list[bytes | Records] = []
        self.pending: list[bytes] = []
        self.size_bytes = 0

    def add_records(self, records: Records) -> None:
        joined = b"".join(self.pending)
        self.pending.clear()
        self.parts += (joined, records)
        self.size_bytes += len(joined) + records.count

    def finish(self) -> tuple[int, list[bytes | Records]]:
        joined = b"".join(self.pending)
        self.parts.append(joined)
        return self.size_bytes + len(joined), self.parts


def _compact_length(length: int) -> bytes:
    return ONE_BYTE[length + 1] if length < 127 else encode_uvarint(length + 1)


def _group(version: int, results: Sequence[FetchPartitionResult]) -> list[Sequence[FetchPartitionResult]]:
    if len(results) == 1:
        return [results]
    by_id = version >= FIRST_WITH_TOPIC_ID
    groups = groupby(results, lambda result: result.topic_id if by_id else result.topic)
    return [list(group) for _, group in groups]


def _encode_topic(version: int, result: FetchPartitionResult) -> bytes:
    if version >= FIRST_WITH_TOPIC_ID:
        return result.topic_id or bytes(16)
    name = result.topic.encode()
    if version >= FIRST_FLEXIBLE:
        return _compact_length(len(name)) + name
    return _INT16.pack(len(name)) + name


def _add_flexible(version: int, r: FetchPartitionResult, body: _Body) -> None:
    add = body.pending.append
    offsets = r.high_watermark, r.last_stable_offset, r.log_start_offset
    if r.aborted_transactions is None:
        add(_RESULT_12(r.index, r.error_code, *offsets, 0, r.preferred_read_replica))
    else:
        add(_RESULT_5(r.index, r.error_code, *offsets))
        add(_compact_length(len(r.aborted_transactions)))
        for producer_id, first_offset in r.aborted_transactions:
            add(_TRANSACTION_12(producer_id, first_offset))
        add(_INT32.pack(r.preferred_read_replica))
    size_bytes = r.records.count
    add(_compact_length(size_bytes))
    if size_bytes:
        body.add_records(r.records)
    if r.diverging_epoch is None and r.current_leader is None and r.snapshot_id is None:
        add(b"\0")
    else:
        add(_encode_result_tags(r))


def _encode_result_tags(result: FetchPartitionResult) -> bytes:
    fields: list[bytes] = []
    if result.diverging_epoch is not None:
        fields.append(encode_diverging_epoch(0, result.diverging_epoch))
    if result.current_leader is not None:
        fields.append(encode_leader(1, result.current_leader))
    if result.snapshot_id is not None:
        fields.append(encode_snapshot_id(2, result.snapshot_id))
    return ONE_BYTE[len(fields)] + b"".join(fields)


def _add_classic(version: int, r: FetchPartitionResult, body: _Body) -> None:
    add = body.pending.append
    if version >= 5:
        offsets = r.high_watermark, r.last_stable_offset, r.log_start_offset
        add(_RESULT_5(r.index, r.error_code, *offsets))
    else:
        add(_RESULT_4(r.index, r.error_code, r.high_watermark, r.last_stable_offset))
    if r.aborted_transactions is None:
        add(b"\xff\xff\xff\xff")
    else:
        add(_INT32.pack(len(r.aborted_transactions)))
        for producer_id, first_offset in r.aborted_transactions:
            add(_TRANSACTION(producer_id, first_offset))
    if version >= 11:
        add(_INT32.pack(r.preferred_read_replica))
    size_bytes = r.records.count
    add(_INT32.pack(size_bytes))
    if size_bytes:
        body.add_records(r.records)
