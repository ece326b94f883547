"""One connection to a broker: requests go out, answers come back in the same order.

Owns correlation ids, pipelining, the choice of versions and the end of the connection. Does not know which broker of a cluster
this is, nor what to do when it is lost: `cluster` does.

Invariants: answers are matched by order and checked by correlation id; an answer nobody waits for any more is dropped;
once something went wrong on the wire the connection is closed and every waiting request fails.
Source: KIP-35 (ApiVersions), KIP-511 (client software, fall-back to version 0).
"""

import math
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import trio

from penstock import __version__
from penstock.client.errors import UnsupportedByBroker, broker_error
from penstock.client.frames import AnswerReader, request_prefix
from penstock.client.lifetime import Spawner
from penstock.errors import PenstockError
from penstock.protocol.api import ApiKey, is_flexible, response_header_version
from penstock.protocol.codec import decode_response, encode_request
from penstock.protocol.errors import ErrorCode, ProtocolError
from penstock.protocol.message import Message
from penstock.protocol.primitives import skip_tagged_fields
from penstock.protocol.schema import table_versions
from penstock.runtime.files import Buffer
from penstock.runtime.network import AddressError, ConnectionLost, Network, Stream

_MIB = 1024 * 1024
_CORRELATION_ID_LIMIT = 2**31
SILENCE_S = 2.0
"""How long a broker that owes an answer may say nothing before somebody else is asked whether it is still there."""
SILENCE_INTERVAL_S = 1.0
SILENCE_GROWTH = 1.25
SILENCE_INTERVAL_MAX_S = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class ConnectionSettings:
    """What all connections of a client have in common."""

    client_id: str = "penstock"
    response_max_bytes: int = 128 * _MIB
    connect_timeout_ms: int = 10_000
    """For the TCP connection and the ApiVersions exchange together."""
    request_timeout_ms: int = 30_000
    """A broker that is silent for longer than this, though it owes an answer, counts as lost."""


class PendingAnswer:
    """The place of one request in the line of answers; made by `Connection.begin`, for `Connection.finish`."""

    __slots__ = ("correlation_id", "failure", "frame", "patience_s", "ready", "sent_at", "taken_by")

    def __init__(self, patience_s: float) -> None:
        self.correlation_id = -1
        self.patience_s = patience_s
        self.sent_at = trio.current_time()
        self.ready = trio.Event()
        self.frame: memoryview | None = None
        self.failure: PenstockError | None = None
        self.taken_by: Callable[[PendingAnswer], bool] | None = None
        """Called as soon as the frame is there, in the connection's reader; where it returns True, whoever waits goes on waiting (`again`)."""


class Connection:
    """An open connection; made by `open_connection`. Any number of tasks may use it at once."""

    def __init__(self, stream: Stream, settings: ConnectionSettings) -> None:
        self._stream = stream
        self._settings = settings
        self._client_id = settings.client_id.encode()
        self._next_correlation_id = 0
        self._unanswered: deque[PendingAnswer] = deque()
        self._outgoing: list[Buffer] = []
        self._outgoing_lot = trio.lowlevel.ParkingLot()
        self._flushed = trio.Event()
        self._is_sending = False
        self._failure: PenstockError | None = None
        self._api_versions: Mapping[int, tuple[int, int]] = {}
        self._heard_at = 0.0
        self.on_silence: Callable[[], None] = _do_nothing
        """Called now and then, and before a further request, while the broker owes an answer and says nothing: it may be dead for the
        rest of the cluster."""

    @property
    def peer(self) -> str:
        """`host:port` of the broker."""
        return self._stream.peer

    @property
    def is_open(self) -> bool:
        """False once the connection was lost or closed."""
        return self._failure is None

    @property
    def in_flight_count(self) -> int:
        """Requests that wait for their answer, those given up by their callers included."""
        return len(self._unanswered)

    @property
    def is_silent(self) -> bool:
        """Whether the broker has owed an answer for `SILENCE_S`, and has said nothing in that time."""
        return bool(self._unanswered) and self._silent_s(trio.current_time()) >= SILENCE_S

    @property
    def api_versions(self) -> Mapping[int, tuple[int, int]]:
        """The lowest and highest version of each API key that the broker serves."""
        return self._api_versions

    def version(self, api_key: ApiKey, *, at_least: int = 0, at_most: int | None = None) -> int:
        """The highest version of an API that both sides speak, within the given bounds (both inclusive).

        Raises:
            UnsupportedByBroker: there is none.
        """
        ours = table_versions(api_key)
        theirs = self._api_versions.get(api_key)
        low, high = max(ours[0], at_least), ours[-1] if at_most is None else min(ours[-1], at_most)
        if theirs is not None and max(theirs[0], low) <= min(theirs[1], high):
            return min(theirs[1], high)
        offer = f"versions {theirs[0]} to {theirs[1]}" if theirs else "nothing"
        raise UnsupportedByBroker(
            f"{self.peer}: {api_key.name} is needed in versions {low} to {high}, the broker serves {offer}"
        )

    async def request(
        self,
        api_key: ApiKey,
        request: Message,
        *,
        at_least: int = 0,
        at_most: int | None = None,
        broker_wait_ms: int = 0,
    ) -> Message:
        """Send a request in the highest common version and return the decoded answer.

        `at_least` and `at_most` are the lowest and highest versions that can say what `request` asks for. `broker_wait_ms` is how long
        the broker may take on purpose (a long poll, a rebalance); it is added to the request timeout.

        Raises:
            UnsupportedByBroker: no common version; nothing was sent.
            ConnectionLost: the connection was lost or the broker stayed silent. The broker may have done what was asked.
            ProtocolError: the answer makes no sense; the connection is closed.

        Cancellation: the request may or may not have been sent; its answer is thrown away and the connection lives on.
        """
        version = self.version(api_key, at_least=at_least, at_most=at_most)
        body = encode_request(api_key, version, request)
        answer = await self.exchange(api_key, version, [body], broker_wait_ms=broker_wait_ms)
        try:
            return decode_response(api_key, version, answer)
        except ProtocolError as error:
            self._fail(error)
            raise

    async def exchange(
        self, api_key: ApiKey, version: int, body: Sequence[Buffer], *, broker_wait_ms: int = 0
    ) -> memoryview:
        """Send an encoded body (its parts in order, none copied) and return the body of the answer.

        The parts must not change until the answer is there, nor after a cancellation while the connection is open. Errors and
        cancellation as for `request`.
        """
        return await self.finish(
            self.begin(api_key, version, body), api_key, version, broker_wait_ms=broker_wait_ms
        )

    def begin(
        self, api_key: ApiKey, version: int, body: Sequence[Buffer], *, at_once: bool = False
    ) -> PendingAnswer:
        """Put a request into the line, behind all that were begun before; the first half of `exchange`.

        `at_once` hands it to the system right here, where the rest of a turn's requests would go with it in one call.

        Raises:
            ConnectionLost: the connection was lost, or the broker has been silent for the request timeout; nobody is answered.
        """
        answer = PendingAnswer(self._settings.request_timeout_ms / 1000)
        if self._unanswered and answer.sent_at - self._unanswered[0].sent_at >= SILENCE_S:
            self._look_for_silence(answer.sent_at)
        answer.correlation_id = self._put(api_key, version, body, at_once=at_once)
        self._unanswered.append(answer)
        return answer

    def again(self, answer: PendingAnswer, api_key: ApiKey, version: int, body: Sequence[Buffer]) -> None:
        """From `taken_by`: send a further request at once, whose answer is the one that is waited for now. Raises as `begin`."""
        answer.correlation_id = self._put(api_key, version, body, at_once=True)
        answer.sent_at, answer.frame = trio.current_time(), None
        self._unanswered.append(answer)

    async def finish(
        self, answer: PendingAnswer, api_key: ApiKey, version: int, *, broker_wait_ms: int = 0
    ) -> memoryview:
        """Wait for the answer to what was begun and return its body; the request timeout counts from `begin`.

        Returns without a checkpoint where the answer is there. Errors and cancellation as for `request`.
        """
        if not answer.ready.is_set():
            answer.patience_s = (self._settings.request_timeout_ms + broker_wait_ms) / 1000
            await self._wait(answer)
        if answer.frame is None:
            if answer.failure is None:
                answer.failure = ConnectionLost(f"{self.peer}: no answer to {api_key.name} in time")
                self._fail(answer.failure)
            raise _copy_of(answer.failure)
        return self.body_of(answer.frame, api_key, version)

    def body_of(self, frame: memoryview, api_key: ApiKey, version: int) -> memoryview:
        """What follows the header of an answer. Raises ProtocolError; the connection is closed."""
        return frame[self._answer_header_size_bytes(api_key, version, frame) :]

    def _silent_s(self, now: float) -> float:
        """For how long the broker has owed an answer and said nothing; there is one that it owes."""
        return now - max(self._unanswered[0].sent_at, self._heard_at)

    def _look_for_silence(self, now: float) -> None:
        """What `_wait` does for the oldest request, whose caller may have given it up: where all are impatient nobody waits for long."""
        silent_s = self._silent_s(now)
        if silent_s >= self._unanswered[0].patience_s:
            self._fail(ConnectionLost(f"{self.peer}: no answer in time to what was asked before"))
        elif silent_s >= SILENCE_S:
            self.on_silence()

    async def _wait(self, answer: PendingAnswer) -> None:
        """Wait for an answer for so long since it was asked for, and say so while the broker is silent, less and less often."""
        sent_at, patience_s = -math.inf, answer.patience_s
        interval_s = look_at = 0.0
        while True:
            if answer.sent_at != sent_at:
                sent_at, interval_s = answer.sent_at, SILENCE_INTERVAL_S
                look_at = sent_at + SILENCE_S
            with trio.move_on_at(min(look_at, sent_at + patience_s)):
                await answer.ready.wait()
                return
            if answer.sent_at != sent_at:
                continue  # it has been answered meanwhile, and something else was asked
            if trio.current_time() >= sent_at + patience_s:
                return
            if self.is_silent:
                self.on_silence()
            look_at = trio.current_time() + interval_s
            interval_s = min(interval_s * SILENCE_GROWTH, SILENCE_INTERVAL_MAX_S)

    async def send_unanswered(self, api_key: ApiKey, version: int, body: Sequence[Buffer]) -> None:
        """Send a request that gets no answer (Produce with acks=0); returns when it is handed to the system.

        Raises:
            ConnectionLost: the connection was lost; the broker may have got it.

        Cancellation: the request may or may not be sent; the connection lives on.
        """
        self._put(api_key, version, body)
        await self._flushed.wait()
        self._check_open()

    def close(self) -> None:
        """Close at once; requests under way fail with ConnectionLost. Safe to call twice."""
        self._fail(ConnectionLost(f"{self.peer}: the connection was closed here"))

    async def negotiate(self) -> None:
        """Learn the broker's versions, falling back to an older ApiVersions where the broker asks for it.

        Raises as `request`, and BrokerError where the broker refuses.
        """
        request = Message(client_software_name="penstock", client_software_version=__version__)
        version = table_versions(ApiKey.API_VERSIONS)[-1]
        answer = await self._ask_for_versions(version, request)
        if answer.error_code == ErrorCode.UNSUPPORTED_VERSION:
            ranges = _version_ranges(answer)
            version = min(version - 1, ranges.get(ApiKey.API_VERSIONS, (0, 0))[1])
            answer = await self._ask_for_versions(version, request)
        if answer.error_code:
            raise broker_error(answer.error_code, subject=f"{self.peer}: ApiVersions")
        self._api_versions = _version_ranges(answer)

    async def run(self) -> None:
        """The background work: writes and reads until the connection ends. For the nursery that owns the connection."""
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._write, nursery.cancel_scope)
                nursery.start_soon(self._read, nursery.cancel_scope)
        finally:
            self.close()

    async def _ask_for_versions(self, version: int, request: Message) -> Message:
        body = encode_request(ApiKey.API_VERSIONS, version, request)
        answer = await self.exchange(ApiKey.API_VERSIONS, version, [body])
        refused = bytes(answer[:2]) == ErrorCode.UNSUPPORTED_VERSION.to_bytes(2, "big")
        return decode_response(ApiKey.API_VERSIONS, 0 if refused else version, answer)

    def _check_open(self) -> None:
        if self._failure is not None:
            raise _copy_of(self._failure)

    def _put(self, api_key: ApiKey, version: int, body: Sequence[Buffer], *, at_once: bool = False) -> int:
        self._check_open()
        correlation_id = self._next_correlation_id
        self._next_correlation_id = (correlation_id + 1) % _CORRELATION_ID_LIMIT
        prefix = request_prefix(
            api_key,
            version,
            correlation_id,
            self._client_id,
            is_flexible=is_flexible(api_key, version),
            body_size_bytes=sum(map(len, body)),
        )
        may_go = at_once and not self._outgoing and not self._is_sending
        self._outgoing.append(prefix)
        self._outgoing.extend(body)
        if may_go:
            self._send_now()
        else:
            self._outgoing_lot.unpark()
        return correlation_id

    def _send_now(self) -> None:
        """Send what is outgoing as far as the system takes it now; the writer sends the rest. Raises ConnectionLost."""
        data = b"".join(self._outgoing)
        try:
            sent = self._stream.send_now((data,))
        except ConnectionLost as error:
            self._fail(error)
            raise
        self._outgoing = []
        if sent < len(data):
            self._outgoing.append(data[sent:])
            self._outgoing_lot.unpark()

    def _answer_header_size_bytes(self, api_key: ApiKey, version: int, frame: memoryview) -> int:
        if response_header_version(api_key, version) == 0:
            return 4
        try:
            position, _ = skip_tagged_fields(frame, 4, 0)
        except ProtocolError as error:
            self._fail(error)
            raise
        return position

    def _fail(self, failure: PenstockError) -> None:
        if self._failure is not None:
            return
        self._failure = failure
        self._stream.close()
        self._outgoing.clear()
        self._outgoing_lot.unpark_all()
        self._flushed.set()
        for answer in self._unanswered:
            answer.failure = failure
            answer.ready.set()
        self._unanswered.clear()

    async def _write(self, both: trio.CancelScope) -> None:
        while self.is_open:
            if not self._outgoing:
                await self._outgoing_lot.park()
                continue
            batch, self._outgoing = self._outgoing, []
            flushed, self._flushed = self._flushed, trio.Event()
            self._is_sending = True
            try:
                await self._stream.send_all(batch)
            except ConnectionLost as error:
                self._fail(error)
            finally:
                self._is_sending = False
                flushed.set()
        both.cancel()

    async def _read(self, both: trio.CancelScope) -> None:
        reader = AnswerReader(self._stream, self._settings.response_max_bytes)
        try:
            while (frame := await reader.next_frame()) is not None:
                self._deliver(frame)
            self._fail(ConnectionLost(f"{self.peer}: the broker closed the connection"))
        except (ConnectionLost, ProtocolError) as error:
            self._fail(error)
        both.cancel()

    def _deliver(self, frame: memoryview) -> None:
        correlation_id = int.from_bytes(frame[:4], "big", signed=True)
        if not self._unanswered:
            raise ProtocolError(f"{self.peer}: an answer that nothing was asked for")
        answer = self._unanswered[0]
        if answer.correlation_id != correlation_id:
            raise ProtocolError(f"{self.peer}: answer {correlation_id} where {answer.correlation_id} was due")
        self._unanswered.popleft()
        self._heard_at = trio.current_time()
        answer.frame = frame
        if answer.taken_by is None or not answer.taken_by(answer):
            answer.ready.set()


async def open_connection(
    nursery: Spawner, network: Network, host: str, port: int, settings: ConnectionSettings
) -> Connection:
    """Connect to a broker and learn its versions. The connection's background work runs in `nursery` until it ends.

    Raises:
        AddressError: nobody could be connected to there, or not within the connect timeout.
        ConnectionLost, ProtocolError, BrokerError: what listens there does not speak the protocol.

    Cancellation: nothing is left behind.
    """
    connection: Connection | None = None
    try:
        with trio.move_on_after(settings.connect_timeout_ms / 1000):
            connection = Connection(await network.connect(host, port), settings)
            nursery.start_soon(connection.run)
            await connection.negotiate()
            opened, connection = connection, None
            return opened
        raise AddressError(f"{host}:{port}: no answer within {settings.connect_timeout_ms} ms")
    finally:
        if connection is not None:
            connection.close()


def _do_nothing() -> None:
    """Nobody minds silence."""


def _version_ranges(answer: Message) -> dict[int, tuple[int, int]]:
    return {api.api_key: (api.min_version, api.max_version) for api in answer.api_keys}


def _copy_of(failure: PenstockError) -> PenstockError:
    """An exception of its own for each task that raises it, so that tracebacks don't grow into each other."""
    kind = type(failure)
    copy = kind.__new__(kind, *failure.args)  # not by its constructor, which may want something else
    copy.__dict__.update(failure.__dict__)
    copy.__cause__ = failure
    return copy


__all__ = ["Connection", "ConnectionSettings", "PendingAnswer", "open_connection"]
