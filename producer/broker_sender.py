"""Two tasks for one broker: one puts Produce requests on the wire, the other takes their answers, in the same order.

Owns the requests in flight to the broker. What may be sent is the accumulator's to say, what an answer means is in `verdicts`.

Invariants: at most `max_in_flight` requests wait for an answer; every batch that was taken from the accumulator is given back to it: acked, refused,
split, or put back; a request whose connection was lost is of unknown outcome, unless it never got into the line.
"""

from collections import deque
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

import trio

from penstock.client.cluster import ConnectionLane
from penstock.client.connection import Connection, PendingAnswer
from penstock.client.errors import DeliveryFailed, UnsupportedByBroker
from penstock.client.metadata import Address, Node
from penstock.errors import PenstockError
from penstock.producer.accumulator import NEVER, prepare
from penstock.producer.batch import Batch, Outcome, delivery_failed
from penstock.producer.partition_queue import PartitionQueue
from penstock.producer.verdicts import Verdict, produce_error, verdict
from penstock.protocol.api import ApiKey
from penstock.protocol.compression import Codec
from penstock.protocol.errors import ProtocolError
from penstock.protocol.produce import FIRST_WITH_TOPIC_ID, ProducePartitionResult
from penstock.protocol.produce_client import (
    VERSION_MIN,
    OutgoingBatch,
    decode_produce_response,
    encode_produce_request,
)

if TYPE_CHECKING:
    from penstock.producer.sender import Sender

_FIRST_WITH_ZSTD: Final = 7
_ANSWER_SLACK_MS: Final = 5_000
"""How much longer than the broker may wait for replicas its answer may take."""

ROUNDING_S: Final = 1e-6
"""Slept longer, so that after it the time in milliseconds has come, too."""

_ON_LOOP_MAX_BYTES: Final = {Codec.GZIP: 4 * 1024}
_ON_LOOP_MAX_BYTES_OTHERS: Final = 32 * 1024


_ELSEWHERE: Final = frozenset({Verdict.RETRY_ELSEWHERE, Verdict.RETRY_ELSEWHERE_UNCLEAR})
_UNCLEAR: Final = frozenset({Verdict.RETRY_UNCLEAR, Verdict.RETRY_ELSEWHERE_UNCLEAR})
_RETRIED: Final = _ELSEWHERE | _UNCLEAR | {Verdict.RETRY}


class _InFlight:
    """A request that waits for its answer."""

    __slots__ = ("answer", "batches", "connection", "version")

    def __init__(
        self, batches: Sequence[Batch], connection: Connection, version: int, answer: PendingAnswer
    ) -> None:
        self.batches = batches
        self.connection = connection
        self.version = version
        self.answer = answer


class BrokerSender:
    """What goes to one broker and what it says to it."""

    def __init__(self, sender: "Sender", node_id: int) -> None:
        self._sender = sender
        self._accumulator = sender.accumulator
        self._options = sender.options
        self._node_id = node_id
        self._in_flight: deque[_InFlight] = deque()
        self._wake = trio.Event()
        self._begun = trio.lowlevel.ParkingLot()
        self._failure_count = 0
        self._throttled_until_ms = 0.0

    def wake(self) -> None:
        """Look again at what may be sent."""
        self._wake.set()

    async def run(self) -> None:
        """Send and receive until cancelled."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._receive)
            await self._send()

    async def _send(self) -> None:
        while True:
            if self._wake.is_set():
                self._wake = trio.Event()
            now_ms = self._sender.now_ms()
            if self._accumulator.needs_identity and self._accumulator.active(self._node_id):
                if not await self._sender.ensure_identity():
                    await self._pause()
                continue
            ready_at_ms = self._ready_at_ms(now_ms)
            if ready_at_ms > now_ms:
                with trio.move_on_at(ready_at_ms / 1000 + ROUNDING_S):
                    await self._wake.wait()
                continue
            connection = await self._connect()
            if connection is not None:
                batches = self._accumulator.collect(self._node_id, self._sender.now_ms())
                if batches:
                    await self._send_batches(connection, batches)

    def _ready_at_ms(self, now_ms: float) -> float:
        if len(self._in_flight) >= self._options.max_in_flight or self._sender.failure is not None:
            return NEVER
        return max(self._accumulator.ready_at_ms(self._node_id, now_ms), self._throttled_until_ms)

    async def _pause(self) -> None:
        self._failure_count += 1
        await trio.sleep(self._sender.backoff_ms(self._failure_count) / 1000)

    async def _connect(self) -> Connection | None:
        """The broker's connection; None where there is none now: then its partitions have been sent to look for their leaders."""
        try:
            connection = await self._sender.cluster.connection(self._node_id, ConnectionLane.PRODUCE)
        except PenstockError as error:
            self._failure_count += 1
            retry_at_ms = self._sender.now_ms() + self._sender.backoff_ms(self._failure_count)
            for queue in self._accumulator.active(self._node_id):
                queue.retry_at_ms = max(queue.retry_at_ms, retry_at_ms)
                for batch in queue.waiting:
                    batch.last_error = error
                self._sender.lost_leader(queue)
            return None
        self._failure_count = 0
        return connection

    async def _send_batches(self, connection: Connection, batches: Sequence[Batch]) -> None:
        for batch in batches:
            await self._prepare(batch)
        if self._sender.failure is not None:
            return
        try:
            version, body = self._encode(connection, batches)
        except UnsupportedByBroker as error:
            self._settle_all(batches, error)
            return
        try:
            if self._options.acks == 0:
                for batch in batches:
                    batch.was_sent = True
                await connection.send_unanswered(ApiKey.PRODUCE, version, body)
                self._settle_unanswered(batches)
                return
            answer = connection.begin(ApiKey.PRODUCE, version, body)
        except PenstockError as error:
            if self._options.acks == 0:
                self._settle_all(batches, error)
            else:
                self._put_back(batches, error, may_be_appended=False)
            return
        for batch in batches:
            batch.was_sent = True
        self._in_flight.append(_InFlight(batches, connection, version, answer))
        self._begun.unpark()

    async def _prepare(self, batch: Batch) -> None:
        codec, level = self._options.codec, self._options.compression_level
        if codec is Codec.NONE or batch.is_compressed:
            prepare(batch, Codec.NONE if codec is Codec.NONE else codec, level)
            return
        if len(batch.writer.data) <= _ON_LOOP_MAX_BYTES.get(codec, _ON_LOOP_MAX_BYTES_OTHERS):
            prepare(batch, codec, level)
        else:
            await self._sender.environment.threads.run(prepare, batch, codec, level)
        if batch.charged_bytes:
            self._accumulator.shrunk(batch)
            self._sender.released()

    def _encode(
        self, connection: Connection, batches: Sequence[Batch]
    ) -> tuple[int, list[bytes | bytearray | memoryview]]:
        outgoing: list[OutgoingBatch] = []
        knows_ids = True
        for batch in batches:
            topic_id = self._accumulator.queue(batch.topic, batch.partition).topic_id
            knows_ids = knows_ids and topic_id is not None
            outgoing.append(OutgoingBatch(batch.topic, topic_id, batch.partition, batch.writer.data))
        if len(outgoing) > 1:
            outgoing.sort(key=lambda one: one.topic)
        version = connection.version(
            ApiKey.PRODUCE,
            at_least=_FIRST_WITH_ZSTD if self._options.codec is Codec.ZSTD else VERSION_MIN,
            at_most=None if knows_ids else FIRST_WITH_TOPIC_ID - 1,
        )
        body = encode_produce_request(
            version, outgoing, acks=self._options.acks, timeout_ms=self._options.request_timeout_ms
        )
        return version, body

    async def _receive(self) -> None:
        while True:
            while not self._in_flight:
                await self._begun.park()
            request = self._in_flight[0]
            try:
                body = await request.connection.finish(
                    request.answer, ApiKey.PRODUCE, request.version, broker_wait_ms=_ANSWER_SLACK_MS
                )
                results, throttle_time_ms, endpoints = decode_produce_response(request.version, body)
            except PenstockError as error:
                if isinstance(error, ProtocolError):
                    request.connection.close()
                self._in_flight.popleft()
                self._put_back(request.batches, error, may_be_appended=True)
            else:
                self._in_flight.popleft()
                if throttle_time_ms > 0:
                    self._throttled_until_ms = self._sender.now_ms() + throttle_time_ms
                for told in endpoints:
                    address = Address(told.host, told.port)
                    self._sender.cluster.learn_node(Node(told.node_id, address, told.rack))
                self._settle_answered(request, results)
            self._sender.released()
            self._wake.set()

    def _settle_answered(self, request: _InFlight, results: Sequence[ProducePartitionResult]) -> None:
        if self._sender.failure is not None:
            return
        by_id = request.version >= FIRST_WITH_TOPIC_ID
        found = {((one.topic_id if by_id else one.topic), one.index): one for one in results}
        for batch in request.batches:
            queue = self._accumulator.queue(batch.topic, batch.partition)
            result = found.get((queue.topic_id if by_id else batch.topic, batch.partition))
            if result is None and by_id and len(request.batches) == len(results) == 1:
                result = results[0]  # the topic got another id while the request was under way
            if result is None:
                error = ProtocolError(
                    f"{request.connection.peer}: no result for {batch.topic}-{batch.partition}"
                )
                self._put_back([batch], error, may_be_appended=True)
            else:
                self._settle(batch, queue, result)
                if self._sender.failure is not None:
                    return
                if queue.node_id != self._node_id:  # its new leader's turn may have waited for this answer
                    self._sender.wake(queue)

    def _settle(self, batch: Batch, queue: PartitionQueue, result: ProducePartitionResult) -> None:
        kind = verdict(result.error_code)
        if kind is Verdict.DELIVERED:
            self._accumulator.acked(batch, Outcome(result.base_offset, result.log_append_time_ms))
            return
        subject = f"{batch.topic}-{batch.partition}"
        error = produce_error(result.error_code, result.error_message, subject)
        if kind is Verdict.SPLIT and batch.record_count > 1 and not batch.may_be_appended:
            self._accumulator.split(batch, self._options.codec, self._options.compression_level)
        elif kind is Verdict.RESEQUENCE and batch.identity is not None:
            # Behind a refusal that is no news, and waiting would only keep the next one from being told.
            retry_at_ms = self._sender.now_ms() if queue.has_gap else self._retry_at_ms(batch)
            self._accumulator.out_of_order(batch, error=error, retry_at_ms=retry_at_ms)
        elif kind is Verdict.FATAL:
            batch.was_sent = batch.may_be_appended  # by an attempt before; this one was refused
            self._sender.fail(error)
        elif kind in _RETRIED:
            self._retry(batch, kind, error, result.current_leader)
        elif batch.may_be_appended:  # by an attempt before this one
            self._accumulator.refused(batch, delivery_failed(str(error), batch, error))
        else:
            self._accumulator.refused(batch, error)

    def _retry(
        self, batch: Batch, kind: Verdict, error: PenstockError, leader: tuple[int, int] | None
    ) -> None:
        """Have a batch sent again: after a while, or at once to the leader that the broker has named, if that is news."""
        batch.may_be_appended = batch.may_be_appended or kind in _UNCLEAR
        queue = self._accumulator.queue(batch.topic, batch.partition)
        if leader is not None and self._sender.learn_leader(queue, *leader):
            self._accumulator.put_back(batch, error=error, retry_at_ms=self._sender.now_ms())
            self._sender.wake(queue)
            return
        was_told = leader is not None and queue.node_id == leader[0] != self._node_id
        self._accumulator.put_back(batch, error=error, retry_at_ms=self._retry_at_ms(batch))
        if was_told:  # by the answer to the batch before it
            self._sender.wake(queue)
        elif kind in _ELSEWHERE:
            self._sender.lost_leader(queue)

    def _retry_at_ms(self, batch: Batch) -> float:
        queue = self._accumulator.queue(batch.topic, batch.partition)
        queue.failure_count += 1
        return self._sender.now_ms() + self._sender.backoff_ms(queue.failure_count)

    def _put_back(self, batches: Sequence[Batch], error: PenstockError, *, may_be_appended: bool) -> None:
        if self._sender.failure is not None:
            return
        for batch in batches:
            batch.may_be_appended = batch.may_be_appended or may_be_appended
            self._accumulator.put_back(batch, error=error, retry_at_ms=self._retry_at_ms(batch))
            self._sender.lost_leader(self._accumulator.queue(batch.topic, batch.partition))

    def _settle_unanswered(self, batches: Sequence[Batch]) -> None:
        """With acks="none" a batch is done when the system has it."""
        if self._sender.failure is None:
            for batch in batches:
                self._accumulator.acked(batch, Outcome())
            self._sender.released()

    def _settle_all(self, batches: Sequence[Batch], error: PenstockError) -> None:
        if self._sender.failure is not None:
            return
        for batch in batches:
            failed: PenstockError = error
            if not isinstance(error, UnsupportedByBroker | DeliveryFailed):
                batch.may_be_appended = batch.was_sent
                failed = delivery_failed(f"{batch.topic}-{batch.partition}: {error}", batch, error)
            self._accumulator.refused(batch, failed)
        self._sender.released()


__all__ = ["ROUNDING_S", "BrokerSender"]
