"""Produce and Fetch requests as bytes, made once and sent many times, and just enough reading of the answers.

Owns a small encoder of its own on purpose: the load must not change when the code under measurement does, and the check of one by the
other is worth having. Produce version 9 and Fetch version 12: the first flexible ones and the last with topic names, which the bare
loop, Penstock and Apache Kafka all serve.
"""

import random
import struct
import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count, islice

import crc32c

CLIENT_ID = b"bench"
PRODUCE_VERSION = 9
FETCH_VERSION = 12
BATCH_HEADER_SIZE_BYTES = 61
CORRELATION_ID_POSITION = 8

_BATCH_LENGTHS = struct.Struct(">qi")
_LAST_OFFSET_DELTA_POSITION = 23
_SIZE = struct.Struct(">i")


def varint(value: int) -> bytes:
    """An unsigned varint."""
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def zigzag(value: int) -> bytes:
    """A signed varint of a number that is not negative, or of -1."""
    return varint(value << 1) if value >= 0 else varint(1)


@dataclass(frozen=True, slots=True)
class Batch:
    """One encoded record batch, not idempotent, not compressed."""

    data: bytes
    record_count: int
    value_size_bytes: int


def make_batch(record_count: int, value_size_bytes: int) -> Batch:
    """A batch of records without key and headers, whose values are random bytes (the same in every run)."""
    return _batch(list(islice(_records(value_size_bytes), record_count)), value_size_bytes)


def make_batch_of_size(size_bytes_max: int, value_size_bytes: int) -> Batch:
    """The largest such batch that is not over `size_bytes_max`, header and all; one record at least."""
    records: list[bytes] = []
    room = size_bytes_max - BATCH_HEADER_SIZE_BYTES
    for record in _records(value_size_bytes):
        room -= len(record)
        if room < 0 and records:
            break
        records.append(record)
    return _batch(records, value_size_bytes)


def _records(value_size_bytes: int) -> Iterator[bytes]:
    """Encoded records with ever higher offset deltas."""
    values = random.Random(1)
    for index in count():
        body = b"\0\0" + zigzag(index) + zigzag(-1) + zigzag(value_size_bytes)
        body += values.randbytes(value_size_bytes) + b"\0"
        yield zigzag(len(body)) + body


def _batch(records: list[bytes], value_size_bytes: int) -> Batch:
    return Batch(_seal(b"".join(records), len(records)), len(records), value_size_bytes)


def _seal(records: bytes, record_count: int) -> bytes:
    now_ms = time.time_ns() // 1_000_000
    checked = (
        struct.pack(">hiqqqhii", 0, record_count - 1, now_ms, now_ms, -1, -1, -1, record_count) + records
    )
    crc = crc32c.crc32c(checked)
    return struct.pack(">qiibI", 0, 9 + len(checked), -1, 2, crc) + checked


def _request(api_key: int, version: int, body: bytes) -> bytes:
    head = struct.pack(">hhih", api_key, version, 0, len(CLIENT_ID)) + CLIENT_ID + b"\0"
    return _SIZE.pack(len(head) + len(body)) + head + body


def _compact(text: bytes) -> bytes:
    return varint(len(text) + 1) + text


def produce_request(
    topic: str, batch: bytes, *, acks: int = -1, timeout_ms: int = 30_000, partition: int = 0
) -> bytes:
    """One batch for one partition of a topic; correlation id 0."""
    head = b"\0" + struct.pack(">hi", acks, timeout_ms)
    entry = struct.pack(">i", partition) + varint(len(batch) + 1) + batch + b"\0"
    return _request(0, PRODUCE_VERSION, head + b"\2" + _compact(topic.encode()) + b"\2" + entry + b"\0\0")


@dataclass(frozen=True, slots=True)
class ProduceAnswer:
    """Where the fields of an answer to `produce_request` are; all answers for one topic have one layout and size."""

    size_bytes: int
    fields: struct.Struct

    def check(self, buffer: bytes | bytearray | memoryview, position: int, correlation_id: int) -> None:
        """Raise ValueError unless the answer at `position` is a success and carries this correlation id."""
        answered_id, error_code, base_offset = self.fields.unpack_from(buffer, position)
        if answered_id != correlation_id:
            raise ValueError(f"answer {answered_id} where {correlation_id} was due")
        if error_code != 0 or base_offset < 0:
            raise ValueError(f"Produce was answered with error code {error_code}")


def produce_answer(topic: str, size_bytes: int) -> ProduceAnswer:
    """The layout of answers of `size_bytes` in all."""
    # Length; correlation id; tags, topics, name, partitions, index; error code, base offset.
    gap = 1 + 1 + len(_compact(topic.encode())) + 1 + 4
    return ProduceAnswer(size_bytes, struct.Struct(f">4xi{gap}xhq"))


def fetch_request(topic: str, *, partition_bytes_max: int, wait_ms_max: int = 500) -> tuple[bytearray, int]:
    """A sessionless Fetch of partition 0, and the position in it of the fetch offset (int64), to be packed over."""
    limits = struct.pack(">iiiibii", -1, wait_ms_max, 1, 0x7FFFFFFF, 0, 0, -1)
    before = limits + b"\2" + _compact(topic.encode()) + b"\2" + struct.pack(">ii", 0, -1)
    after = struct.pack(">iqi", -1, -1, partition_bytes_max) + b"\0\0\1\1\0"
    frame = _request(1, FETCH_VERSION, before + bytes(8) + after)
    return bytearray(frame), len(frame) - len(after) - 8


class FetchAnswer:
    """Reads answers to `fetch_request`: finds the records and the offset after the last whole batch."""

    def __init__(self, topic: str) -> None:
        # Length, correlation id, tags, throttle time; error code; session; topics, name, partitions, index; error code, high
        # watermark; last stable offset, log start offset.
        name_size = len(_compact(topic.encode()))
        self._fields = struct.Struct(f">4x4xx4xh4xx{name_size}xx4xhq16x")

    def read(self, answer: memoryview, fetch_offset: int) -> tuple[int, int, int]:
        """The next offset to fetch, the bytes of whole batches, and the high watermark. Raises ValueError."""
        error_code, partition_error_code, high_watermark = self._fields.unpack_from(answer)
        if error_code or partition_error_code:
            raise ValueError(f"Fetch was answered with error codes {error_code} and {partition_error_code}")
        position = self._fields.size
        aborted_count = answer[position]  # null or empty outside transactions
        if aborted_count > 1:
            raise ValueError("aborted transactions in a topic without any")
        size, position = _read_varint(answer, position + 1 + 4)
        return *_walk(answer, position, position + max(0, size - 1), fetch_offset), high_watermark


def _walk(answer: memoryview, position: int, end: int, fetch_offset: int) -> tuple[int, int]:
    """Step over whole batches by their headers, as a consumer must; the bytes of the records are not touched."""
    whole_bytes = 0
    while end - position >= BATCH_HEADER_SIZE_BYTES:
        base_offset, length = _BATCH_LENGTHS.unpack_from(answer, position)
        if position + 12 + length > end:
            break
        (delta,) = _SIZE.unpack_from(answer, position + _LAST_OFFSET_DELTA_POSITION)
        fetch_offset = base_offset + delta + 1
        position += 12 + length
        whole_bytes += 12 + length
    return fetch_offset, whole_bytes


def _read_varint(view: memoryview, position: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = view[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
        shift += 7
