"""A Produce request like the one before it: recognised by comparing bytes instead of reading them.

A producer sends the same client id, acks, timeout, topic and partition again and again. For a request of one partition this module keeps
the bytes in front of the records, and the bytes around the numbers in the answer; comparing them costs a fraction of decoding and encoding.
Whatever does not match is left to `protocol.produce`, which alone decides what is well-formed. Knows nothing of connections.
"""

import struct

from penstock.protocol.api import ApiKey
from penstock.protocol.framing import RequestHeader, response_prefix
from penstock.protocol.produce import (
    FIRST_FLEXIBLE,
    ProducePartition,
    ProducePartitionResult,
    ProduceRequest,
    encode_produce_response,
)

FIRST_VERSION = 7
"""Below, a batch's codec has to be looked at, and the answer has other fields."""
CORRELATION_END = 8
_FLEXIBLE_TAIL = b"\0\0\0"  # no tagged fields behind the records: of the partition, the topic and the request

_read_correlation_id = struct.Struct(">i").unpack_from
_read_length = struct.Struct(">i").unpack_from
_pack_answer = struct.Struct(">hqqq").pack
_pack_head = struct.Struct(">ii").pack
_MARK = (0, 0x0102030405060708, 0x1112131415161718, 0x2122232425262728)


class RepeatedProduce:
    """What is known of the requests that one connection repeats. Made by `learn`."""

    __slots__ = (
        "_answer_head",
        "_answer_size",
        "_answer_tail",
        "_head",
        "_head_end",
        "_is_flexible",
        "_key",
        "acks",
        "index",
        "timeout_ms",
        "topic",
        "topic_id",
        "version",
    )

    def __init__(
        self, header: RequestHeader, request: ProduceRequest, entry: ProducePartition, head: bytes
    ) -> None:
        self.version = header.api_version
        self.acks = request.acks
        self.timeout_ms = request.timeout_ms
        self.topic = entry.topic
        self.topic_id = entry.topic_id
        self.index = entry.index
        self._is_flexible = header.api_version >= FIRST_FLEXIBLE
        self._key = head[:4]
        self._head = head[CORRELATION_END:]
        self._head_end = len(head)
        result = ProducePartitionResult(entry.topic, entry.topic_id, entry.index, *_MARK)
        body = encode_produce_response(header.api_version, [result], 0)
        answer = response_prefix(int(ApiKey.PRODUCE), header.api_version, 0, len(body)) + body
        before, _, self._answer_tail = answer.partition(_pack_answer(*_MARK))
        (self._answer_size,) = _read_length(answer)
        self._answer_head = before[CORRELATION_END:]

    def records_in(self, frame: memoryview) -> memoryview | None:
        """The records, if `frame` is the known request but for its correlation id and its records; else None."""
        position = self._head_end
        if bytes(frame[CORRELATION_END:position]) != self._head or bytes(frame[:4]) != self._key:
            return None
        end = len(frame)
        if not self._is_flexible:
            if end - position < 4:
                return None
            (size_bytes,) = _read_length(frame, position)
            position += 4
            return frame[position:] if size_bytes == end - position else None
        size_bytes = shift = 0
        while position < end and shift < 35:
            byte = frame[position]
            position += 1
            size_bytes |= (byte & 127) << shift
            if byte < 128:
                break
            shift += 7
        records_end = position + size_bytes - 1
        if not size_bytes or records_end + 3 != end or bytes(frame[records_end:]) != _FLEXIBLE_TAIL:
            return None
        return frame[position:records_end]

    def answer(self, frame: memoryview, result: ProducePartitionResult) -> bytes:
        """The whole response that tells of success, to the request in `frame`."""
        (correlation_id,) = _read_correlation_id(frame, 4)
        numbers = _pack_answer(0, result.base_offset, result.log_append_time_ms, result.log_start_offset)
        return b"".join(
            (_pack_head(self._answer_size, correlation_id), self._answer_head, numbers, self._answer_tail)
        )


def learn(header: RequestHeader, frame: memoryview, request: ProduceRequest) -> RepeatedProduce | None:
    """What to recognise this request's like by; None where it is of no kind that is recognised."""
    if (
        len(request.partitions) != 1
        or header.api_version < FIRST_VERSION
        or request.transactional_id is not None
    ):
        return None
    entry = request.partitions[0]
    if not entry.records:
        return None
    if header.api_version >= FIRST_FLEXIBLE:
        size_bytes = len(entry.records) + 1
        head_end = len(frame) - len(_FLEXIBLE_TAIL) - len(entry.records) - (size_bytes.bit_length() + 6) // 7
    else:
        head_end = len(frame) - len(entry.records) - 4
    known = RepeatedProduce(header, request, entry, bytes(frame[:head_end]))
    return known if known.records_in(frame) == entry.records else None
