"""Produce, versions 3 to 13 (0 to 2 are advertised and refused: librdkafka stops compressing without them, KIP-896).

Appends each partition's batch and answers when what `acks` asks for has come true: at once for acks=0 (no response at all) and for
`write.caching`, otherwise when the sync that covers the batch has completed and the high watermark has reached it. A timeout
answers REQUEST_TIMED_OUT; the batch may still be kept, as in Kafka. Partitions of one request succeed or fail each by itself.

The hot path of the broker: no await, no copy of record bytes. KIP-98, KIP-467 (messages), KIP-516 (topic ids, v13), KIP-951.
"""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from penstock.broker.leader_hints import FIRST_PRODUCE_VERSION, PRODUCE_CODES, tell_leaders
from penstock.broker.replies import Parts, Reply
from penstock.protocol.api import ApiKey
from penstock.protocol.compression import Codec
from penstock.protocol.errors import ErrorCode, ProtocolError
from penstock.protocol.framing import RequestHeader, read_request_header, response_prefix
from penstock.protocol.produce import (
    ProducePartitionResult,
    ProduceRequest,
    decode_produce_request,
    encode_produce_refusal,
    encode_produce_response,
)
from penstock.protocol.produce_again import RepeatedProduce, learn
from penstock.protocol.record_batch import ATTRIBUTES_POSITION, CODEC_MASK, HEADER_SIZE_BYTES
from penstock.protocol.tagged import NodeEndpoint

if TYPE_CHECKING:
    from penstock.broker.broker import Broker
    from penstock.broker.connection import Connection
    from penstock.broker.partition import Partition

_KEY = int(ApiKey.PRODUCE)
FIRST_SERVED_VERSION = 3
REPEAT_MISSES_MAX = 64
"""A connection whose requests are seldom like the one before (several partitions in turn) is not learned from any more."""
FIRST_VERSION_WITH_ZSTD = 7
_ACKS = (-1, 0, 1)
REFUSED_WITHOUT_ACKS = "a Produce with acks=0 was refused, which only closing the connection can tell"


_Asked = tuple["Broker", "Connection | None"]
"""Who was asked, and by which connection."""


class PendingProduce(Reply):
    """A produce response that waits for acks."""

    __slots__ = ("_asked", "_correlation_id", "_outstanding", "_results", "_version", "throttle_time_ms")

    def __init__(self, asked: _Asked, version: int, correlation_id: int) -> None:
        super().__init__(math.inf)
        self._asked = asked
        self._version = version
        self._correlation_id = correlation_id
        self._results: list[ProducePartitionResult] = []
        self._outstanding = 0
        self.throttle_time_ms = 0
        """What the response tells."""

    def wait_for(self, results: list[ProducePartitionResult], outstanding: int, deadline: float) -> None:
        """All partitions were begun; `outstanding` of them call `one_done` later."""
        self.deadline = deadline
        self._results = results
        self._outstanding += outstanding
        if self._outstanding == 0:
            self.resolve()

    def one_done(self) -> None:
        """One partition's result is final."""
        self._outstanding -= 1
        if self._outstanding == 0:
            self.resolve()

    def answer_to(self, results: list[ProducePartitionResult]) -> Parts:
        """The response to a request that came to its end at once."""
        response = _response(self._asked, self._version, self._correlation_id, results)
        if self.throttle_time_ms:
            from penstock.protocol.throttle import (
                tell_produce_throttled,  # loaded where producers are slowed down
            )

            response = tell_produce_throttled(self._version, response, self.throttle_time_ms)
        return [response]

    def try_finish(self) -> Parts | None:
        """The response. The results of partitions that are still open stand at REQUEST_TIMED_OUT."""
        return self.answer_to(self._results)


def _response(
    asked: _Asked, version: int, correlation_id: int, results: list[ProducePartitionResult]
) -> bytes:
    endpoints: Sequence[NodeEndpoint] = ()
    for result in results:
        if result.error_code == ErrorCode.NOT_LEADER_OR_FOLLOWER:
            endpoints = _tell_leaders(asked, version, results)
            break
    body = encode_produce_response(version, results, 0, endpoints)
    return response_prefix(_KEY, version, correlation_id, len(body)) + body


def _tell_leaders(
    asked: _Asked, version: int, results: list[ProducePartitionResult]
) -> Sequence[NodeEndpoint]:
    broker, connection = asked
    if connection is None or version < FIRST_PRODUCE_VERSION:
        return ()
    return tell_leaders(broker.image, broker.config.node_id, connection.listener, results, PRODUCE_CODES)


def produce(
    broker: "Broker", header: RequestHeader, frame: memoryview, connection: "Connection | None" = None
) -> Parts | Reply | None:
    """Handle one Produce frame. Returns None for acks=0; raises ProtocolError where the connection must be closed.

    `connection` is given when the next frame that is like this one may go to `produce_again`.
    """
    version = header.api_version
    request = decode_produce_request(version, frame[header.body_position :])
    if version < FIRST_SERVED_VERSION:
        if request.acks == 0:
            raise ProtocolError(f"Produce version {version} with acks=0 can't be refused but by closing")
        body = encode_produce_refusal(version, request)
        return [response_prefix(_KEY, version, header.correlation_id, len(body)) + body]
    refusal = _refusal(request)
    if connection is not None and not refusal and connection.repeat_misses < REPEAT_MISSES_MAX:
        connection.repeat_misses += 1
        connection.repeated_produce = learn(header, frame, request)
    results: list[ProducePartitionResult] = []
    pending: PendingProduce | None = None
    outstanding = refused = 0
    for entry in request.partitions:
        result = ProducePartitionResult(entry.topic, entry.topic_id, entry.index, refusal)
        results.append(result)
        if refusal:
            refused += 1
            continue
        if entry.topic_id is None:
            partition = broker.partitions.by_name(entry.topic, entry.index)
        else:
            partition = broker.partitions.by_id(entry.topic_id, entry.index)
        if partition is None:
            result.error_code = broker.partitions.refuse_absent(entry.topic, entry.topic_id, entry.index)
        elif entry.records is None:
            result.error_code = ErrorCode.INVALID_RECORD
            result.error_message = "no records"
        elif version < FIRST_VERSION_WITH_ZSTD and _is_zstd(entry.records):
            result.error_code = ErrorCode.UNSUPPORTED_COMPRESSION_TYPE
            result.error_message = f"zstd needs Produce version {FIRST_VERSION_WITH_ZSTD} (KIP-110)"
        else:
            if pending is None:
                pending = PendingProduce((broker, connection), version, header.correlation_id)
            is_final = partition.produce(
                entry.records, request.acks, result, pending.one_done, request.timeout_ms
            )
            gate = partition.gate
            if gate is not None and (gate.held or gate.throttles) and connection is not None:
                _hold_back(broker, connection, partition, pending, request.timeout_ms)
            if not is_final:
                outstanding += 1
                continue
        if result.error_code:
            refused += 1
    if request.acks == 0:
        if refused:
            raise ProtocolError(REFUSED_WITHOUT_ACKS)
        return None
    if outstanding:
        assert pending is not None
        deadline = broker.clock.monotonic() + max(request.timeout_ms, 0) / 1000
        pending.wait_for(results, outstanding, deadline)
        return pending
    if pending is not None and pending.throttle_time_ms:
        return pending.answer_to(results)
    return [_response((broker, connection), version, header.correlation_id, results)]


def produce_again(
    broker: "Broker",
    known: RepeatedProduce,
    frame: memoryview,
    records: memoryview,
    connection: "Connection | None" = None,
) -> Parts | Reply | None:
    """Handle a frame that is like an earlier one of its connection; `records` are those in it. Same answers as `produce`."""
    if known.topic_id is None:
        partition = broker.partitions.by_name(known.topic, known.index)
    else:
        partition = broker.partitions.by_id(known.topic_id, known.index)
    if partition is None:
        return produce(broker, read_request_header(frame), frame, connection)
    result = ProducePartitionResult(known.topic, known.topic_id, known.index, 0)
    correlation_id = int.from_bytes(frame[4:8], "big", signed=True)
    pending = PendingProduce((broker, connection), known.version, correlation_id)
    is_final = partition.produce(records, known.acks, result, pending.one_done, known.timeout_ms)
    gate = partition.gate
    if gate is not None and (gate.held or gate.throttles) and connection is not None:
        _hold_back(broker, connection, partition, pending, known.timeout_ms)
    if not is_final:
        if known.acks == 0:
            return None
        deadline = broker.clock.monotonic() + max(known.timeout_ms, 0) / 1000
        pending.wait_for([result], 1, deadline)
        return pending
    if known.acks == 0:
        if result.error_code:
            raise ProtocolError(REFUSED_WITHOUT_ACKS)
        return None
    if result.error_code or pending.throttle_time_ms:
        return pending.answer_to([result])
    return [known.answer(frame, result)]


def _hold_back(
    broker: "Broker",
    connection: "Connection",
    partition: "Partition",
    pending: PendingProduce,
    timeout_ms: int,
) -> None:
    """Read on from whoever produces to a bounded partition as its backlog allows: later, or when fewer batches wait for room."""
    assert partition.gate is not None
    if partition.gate.is_crowded:
        connection.is_crowded_by = partition.gate.held_bytes
    throttle_s = partition.gate.producer_wait_s()
    if throttle_s:
        now = broker.clock.monotonic()
        until = connection.mute_for(throttle_s, now + max(timeout_ms, 0) / 2000)
        pending.throttle_time_ms = max(math.ceil((until - now) * 1000), 0)


def _is_zstd(records: memoryview) -> bool:
    return len(records) >= HEADER_SIZE_BYTES and records[ATTRIBUTES_POSITION + 1] & CODEC_MASK == Codec.ZSTD


def _refusal(request: ProduceRequest) -> ErrorCode:
    """The code that refuses the whole request, or NONE."""
    if request.acks not in _ACKS:
        return ErrorCode.INVALID_REQUIRED_ACKS
    if request.transactional_id is not None:
        return ErrorCode.TRANSACTIONAL_ID_AUTHORIZATION_FAILED
    return ErrorCode.NONE
