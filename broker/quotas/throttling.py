"""Holds clients to their quotas: measures each request, tells throttle_time_ms and mutes the connection for that long (KIP-219).

Stands in the dispatcher's place while any quota is set, and only then: without quotas no request pays anything. What was asked for is done
first and counted then, so a request is never refused; the next one waits. The answer goes out at once. A consumer over its rate gets the
offsets without records, and at most what the rate gives in a second by one fetch. Followers' fetches are not measured.

Request time is the CPU time that the event loop spends on a client's requests, from the whole frame to the encoded answer: 100 % is one core,
which is all that a broker has for them. Workers' time is not in it, nor the receiving and sending. Source: Kafka's `ClientQuotaManager`, `ClientRequestQuotaManager`.
"""

import math
from collections.abc import Awaitable, Callable, Generator
from typing import TYPE_CHECKING, Any, TypeVar, cast

from penstock.broker.api.fetch import fetch
from penstock.broker.context import ANONYMOUS, RequestContext, user_name
from penstock.broker.dispatch import Dispatcher
from penstock.broker.pending_response import PendingResponse, encode_parts
from penstock.broker.quotas.bucket import BURST_S
from penstock.broker.quotas.meters import UNMEASURED, ClientMeters, Meters
from penstock.broker.replies import Parts, Reply
from penstock.protocol.api import ApiKey
from penstock.protocol.framing import RequestHeader, read_request_header
from penstock.protocol.message import Message
from penstock.protocol.throttle import tell_produce_throttled

if TYPE_CHECKING:
    from penstock.broker.broker import Broker
    from penstock.broker.connection import Connection, Outcome

T = TypeVar("T")
_PRODUCE = int(ApiKey.PRODUCE)
_FETCH = int(ApiKey.FETCH)
_USER = user_name(ANONYMOUS)
_HEADER_FIXED_BYTES = 10
"""API key, version, correlation id, and the length of the client id."""


class ThrottlingDispatcher(Dispatcher):
    """A dispatcher that measures."""

    def __init__(self, broker: "Broker", meters: Meters) -> None:
        super().__init__(broker)
        self._meters = meters
        self._monotonic = broker.clock.monotonic
        self._thread_time = broker.clock.thread_time

    def __call__(self, connection: "Connection", frame: memoryview) -> "Outcome | Awaitable[Outcome]":
        """Begin one request; what its client is over its quotas by, the connection is muted for."""
        now = self._monotonic()
        client = self._meters.client(_USER, _client_id(frame), now)
        if client is UNMEASURED:
            return super().__call__(connection, frame)
        key = int.from_bytes(frame[:2], "big")
        if key not in (_PRODUCE, _FETCH):
            return self._begin(connection, frame, client, now)
        if key == _FETCH:
            return self._fetch(connection, frame, client)
        version = int.from_bytes(frame[2:4], "big")
        wait_s = 0.0
        if client.produce is not None:
            wait_s = self._meters.charge(client.produce, len(frame), now)
        started = 0.0 if client.request is None else self._thread_time()
        outcome = super().__call__(connection, frame)
        assert outcome is None or isinstance(outcome, list | Reply)
        if client.request is not None:
            wait_s = max(wait_s, self._meters.charge(client.request, self._thread_time() - started, now))
        if not wait_s:
            return outcome
        connection.mute_until(now + wait_s)
        return _told(outcome, version, _milliseconds(wait_s))

    def _begin(
        self, connection: "Connection", frame: memoryview, client: ClientMeters, now: float
    ) -> "Outcome | Awaitable[Outcome]":
        """Any other request: counts its decoding; the rest is counted where it is handled."""
        if client.request is None:
            return super().__call__(connection, frame)
        started = self._thread_time()
        outcome = super().__call__(connection, frame)
        self._meters.charge(client.request, self._thread_time() - started, now)
        return outcome

    def _fetch(
        self, connection: "Connection", frame: memoryview, client: ClientMeters
    ) -> "Outcome | Awaitable[Outcome]":
        started = self._thread_time()
        header = read_request_header(frame)
        toll = FetchToll(self._meters, client, connection, self._monotonic)
        outcome = fetch(self._broker, header, frame, ANONYMOUS, connection.listener, toll, connection)
        if toll.is_exempt:
            return outcome
        if client.request is not None:
            toll.charge_time(self._thread_time() - started)
            if isinstance(outcome, Reply):
                outcome = TimedReply(outcome, self._thread_time, toll.charge_time)
        return _later(outcome) if toll.is_muted else outcome

    async def _handle(
        self, connection: "Connection", header: RequestHeader, context: RequestContext, request: Message
    ) -> "Parts | PendingResponse":
        client_id = (header.client_id or "").encode()
        client = self._meters.client(user_name(context.principal), client_id, self._monotonic())
        if client.request is None:
            return await super()._handle(connection, header, context, request)
        handling = Timed(self._handler(header.api_key)(self._broker, context, request), self._thread_time)
        response = await handling
        started = self._thread_time()
        answer = encode_parts(context, response) if isinstance(response, Message) else response
        now = self._monotonic()
        spent_s = handling.spent_s + self._thread_time() - started
        wait_s = self._meters.charge(client.request, spent_s, now)
        if wait_s:
            connection.mute_until(now + wait_s)
            context.throttle_time_ms = _milliseconds(wait_s)
            if isinstance(response, Message):
                answer = encode_parts(context, response)  # again, with the time in it
        return answer


class FetchToll:
    """What one fetch of a consumer costs its client."""

    __slots__ = ("_client", "_connection", "_meters", "_monotonic", "is_exempt", "is_muted")

    def __init__(
        self, meters: Meters, client: ClientMeters, connection: "Connection", monotonic: Callable[[], float]
    ) -> None:
        self._meters = meters
        self._client = client
        self._connection = connection
        self._monotonic = monotonic
        self.is_exempt = False
        """Set where the fetch turns out to be a follower's."""
        self.is_muted = False

    @property
    def is_over(self) -> bool:
        """Whether the client gets no records now: others with its quota have used more than there was."""
        consume = self._client.consume
        return consume is not None and consume.bucket.wait_s(self._monotonic()) > 0

    def limit(self, max_bytes: int) -> int:
        """How many bytes of records one answer may have."""
        consume = self._client.consume
        if consume is None:
            return max_bytes
        return max(1, min(max_bytes, int(consume.bucket.rate * BURST_S)))

    def charge(self, size_bytes: int) -> int:
        """Count the records of an answer, and mute the connection for what it is over; returns the throttle_time_ms to be told."""
        now = self._monotonic()
        wait_s = 0.0
        if self._client.consume is not None:
            wait_s = self._meters.charge(self._client.consume, size_bytes, now)
        if self._client.request is not None:
            wait_s = max(wait_s, self._client.request.bucket.wait_s(now))
        self._mute(wait_s, now)
        return _milliseconds(wait_s)

    def charge_time(self, spent_s: float) -> None:
        """Count what the event loop has spent on the fetch."""
        if self._client.request is not None:
            now = self._monotonic()
            self._mute(self._meters.charge(self._client.request, spent_s, now), now)

    def _mute(self, wait_s: float, now: float) -> None:
        if wait_s > 0:
            self.is_muted = True
            self._connection.mute_until(now + wait_s)


class ThrottledProduce(Reply):
    """A produce response that is waited for, and will tell a throttle time."""

    __slots__ = ("_inner", "_throttle_time_ms", "_version")

    def __init__(self, inner: Reply, version: int, throttle_time_ms: int) -> None:
        super().__init__(inner.deadline)
        self._inner = inner
        self._version = version
        self._throttle_time_ms = throttle_time_ms
        _follow(inner, self)

    def hurry(self) -> None:
        """The broker stops."""
        self._inner.hurry()

    def try_finish(self) -> Parts | None:
        """The response."""
        parts = self._inner.try_finish()
        return None if parts is None else _tell(parts, self._version, self._throttle_time_ms)

    async def finish(self) -> Parts:
        """The same."""
        return _tell(await self._inner.finish(), self._version, self._throttle_time_ms)

    def abandon(self) -> None:
        """Nobody is there to be answered."""
        self._inner.abandon()


class TimedReply(Reply):
    """A reply that costs time when it is finished."""

    __slots__ = ("_charge", "_inner", "_thread_time")

    def __init__(
        self, inner: Reply, thread_time: Callable[[], float], charge: Callable[[float], None]
    ) -> None:
        super().__init__(inner.deadline)
        self._inner = inner
        self._thread_time = thread_time
        self._charge = charge
        _follow(inner, self)

    def hurry(self) -> None:
        """The broker stops."""
        self._inner.hurry()

    def try_finish(self) -> Parts | None:
        """The response, if it takes no waiting."""
        started = self._thread_time()
        parts = self._inner.try_finish()
        self._charge(self._thread_time() - started)
        return parts

    async def finish(self) -> Parts:
        """The response."""
        finishing = Timed(self._inner.finish(), self._thread_time)
        try:
            return await finishing
        finally:
            self._charge(finishing.spent_s)

    def abandon(self) -> None:
        """Nobody is there to be answered."""
        self._inner.abandon()


class Timed(Awaitable[T]):
    """Awaits a coroutine, and counts how long its steps take; waiting between them is not counted."""

    __slots__ = ("_inner", "_thread_time", "spent_s")

    def __init__(self, inner: Awaitable[T], thread_time: Callable[[], float]) -> None:
        self._inner = inner
        self._thread_time = thread_time
        self.spent_s = 0.0

    def __await__(self) -> Generator[Any, Any, T]:
        """Every step is made here, so that it can be timed."""
        steps = self._inner.__await__()
        value: Any = None
        thrown: BaseException | None = None
        while True:
            started = self._thread_time()
            try:
                asked = steps.send(value) if thrown is None else steps.throw(thrown)
            except StopIteration as end:
                return cast(T, end.value)
            finally:
                self.spent_s += self._thread_time() - started
            value = thrown = None
            try:
                value = yield asked
            except BaseException as error:  # noqa: BLE001 - passed on: it is the coroutine that is to see it
                thrown = error


def _follow(inner: Reply, outer: Reply) -> None:
    """Let the outer reply be ready when the inner one is."""
    if inner.ready:
        outer.ready = True
    else:
        inner.on_ready(outer.resolve)


def _told(outcome: "Outcome", version: int, throttle_time_ms: int) -> "Awaitable[Outcome]":
    """The outcome of a Produce, telling a throttle time."""
    if isinstance(outcome, Reply):
        return _later(ThrottledProduce(outcome, version, throttle_time_ms))
    return _later(None if outcome is None else _tell(outcome, version, throttle_time_ms))


def _tell(parts: Parts, version: int, throttle_time_ms: int) -> Parts:
    (response,) = parts
    assert isinstance(response, bytes)
    return [tell_produce_throttled(version, response, throttle_time_ms)]


async def _later(outcome: "Outcome") -> "Outcome":
    """What is awaited is settled by the connection before it reads on, and so it comes to be muted right behind this request."""
    return outcome


def _milliseconds(wait_s: float) -> int:
    return math.ceil(wait_s * 1000 - 1e-3)


def _client_id(frame: memoryview) -> bytes:
    """As it stands in the header; nothing where it is null, or the frame too short for what it claims (it will be refused)."""
    if len(frame) < _HEADER_FIXED_BYTES:
        return b""
    size_bytes = int.from_bytes(frame[8:10], "big", signed=True)
    return bytes(frame[_HEADER_FIXED_BYTES : _HEADER_FIXED_BYTES + max(size_bytes, 0)])
