"""A broker made of functions, behind the network port: what it answers is what the test says, in the same task.

Requests are decoded as they are sent and answered before `send_all` returns, so that nothing runs beside the test. A handler may
also return `SILENCE` (no answer comes) or `HANG_UP` (the connection ends).
"""

import dataclasses
import enum
import struct
from collections.abc import Callable, Mapping, Sequence

import trio

from penstock.protocol.api import SERVED, ApiKey
from penstock.protocol.codec import decode_request, encode_response
from penstock.protocol.errors import ErrorCode
from penstock.protocol.framing import UnsupportedVersion, read_request_header, response_prefix
from penstock.protocol.message import Message
from penstock.runtime.environment import Environment
from penstock.runtime.files import Buffer, File
from penstock.runtime.network import AddressError, ConnectionLost, Listener, Stream
from penstock.runtime.production import production_environment
from penstock.runtime.system_clock import SystemRandom


class Instead(enum.Enum):
    """What a broker may do instead of answering."""

    SILENCE = enum.auto()
    HANG_UP = enum.auto()


SILENCE, HANG_UP = Instead.SILENCE, Instead.HANG_UP
Handler = Callable[[int, Message], Message | Instead]


class ScriptedStream:
    """The client's end of a connection. What the client sends goes to `on_sent`; what it is to receive is fed."""

    def __init__(self, peer: str, on_sent: Callable[["ScriptedStream", bytes], None] | None = None) -> None:
        self.peer = peer
        self.sent = bytearray()
        self.is_closed = False
        self.send_gate: trio.Event | None = None
        """When set, sending waits for it."""
        self.takes_now = False
        """Whether `send_now` gets through all the same: what a sender in the middle of its bytes must not see."""
        self.send_failure: ConnectionLost | None = None
        self._on_sent = on_sent
        self._incoming = bytearray()
        self._at_end = False
        self._waiting = trio.lowlevel.ParkingLot()

    def feed(self, data: bytes) -> None:
        """Let the client receive these bytes."""
        self._incoming += data
        self._waiting.unpark_all()

    def end(self) -> None:
        """The broker closes its side."""
        self._at_end = True
        self._waiting.unpark_all()

    async def receive_into(self, buffer: bytearray | memoryview) -> int:
        while not self._incoming:
            if self.is_closed:
                raise ConnectionLost(f"{self.peer}: closed on this side")
            if self._at_end:
                return 0
            await self._waiting.park()
        count = min(len(buffer), len(self._incoming))
        buffer[:count] = self._incoming[:count]
        del self._incoming[:count]
        return count

    def send_now(self, buffers: Sequence[Buffer]) -> int:
        if self.send_gate is not None and not self.send_gate.is_set() and not self.takes_now:
            return 0
        self._take(buffers)
        return sum(map(len, buffers))

    async def send_all(self, buffers: Sequence[Buffer], *, more: bool = False) -> None:
        if self.send_gate is not None:
            await self.send_gate.wait()
        self._take(buffers)

    def _take(self, buffers: Sequence[Buffer]) -> None:
        if self.send_failure is not None:
            raise self.send_failure
        if self.is_closed:
            raise ConnectionLost(f"{self.peer}: closed on this side")
        data = b"".join(buffers)
        self.sent += data
        if self._on_sent is not None:
            self._on_sent(self, data)

    async def send_file(self, file: File, position: int, count: int) -> None:
        raise NotImplementedError

    def close(self) -> None:
        self.is_closed = True
        self._waiting.unpark_all()


@dataclasses.dataclass
class Request:
    """One request that a broker got."""

    api_key: ApiKey
    version: int
    body: Message


class ScriptedBroker:
    """Handlers by API; ApiVersions is answered from `versions`."""

    def __init__(
        self,
        handlers: Mapping[ApiKey, Handler] | None = None,
        versions: Mapping[ApiKey, tuple[int, int]] | None = None,
    ) -> None:
        self.handlers: dict[ApiKey, Handler] = {
            ApiKey.API_VERSIONS: self._api_versions,
            **(handlers or {}),
        }
        self.versions: Mapping[ApiKey, tuple[int, int]] = versions or {
            ApiKey(key): (api.versions[0], api.versions[-1]) for key, api in SERVED.items()
        }
        self.requests: list[Request] = []
        self.streams: list[ScriptedStream] = []

    def bodies(self, api_key: ApiKey) -> list[Message]:
        """What came in for one API."""
        return [request.body for request in self.requests if request.api_key == api_key]

    def connect(self, peer: str) -> ScriptedStream:
        """A new connection to this broker."""
        pending = bytearray()

        def on_sent(stream: ScriptedStream, data: bytes) -> None:
            pending.extend(data)
            while len(pending) >= 4:
                (length,) = struct.unpack_from(">i", pending)
                if len(pending) < 4 + length:
                    return
                frame = bytes(pending[4 : 4 + length])
                del pending[: 4 + length]
                self._answer(stream, memoryview(frame))

        stream = ScriptedStream(peer, on_sent)
        self.streams.append(stream)
        return stream

    def _answer(self, stream: ScriptedStream, frame: memoryview) -> None:
        try:
            header = read_request_header(frame)
        except UnsupportedVersion as refused:
            self.requests.append(Request(ApiKey(refused.api_key), refused.api_version, Message()))
            body = encode_response(refused.api_key, 0, self._refused_versions())
            stream.feed(response_prefix(refused.api_key, 0, refused.correlation_id, len(body)) + body)
            return
        key, version = ApiKey(header.api_key), header.api_version
        request = decode_request(key, version, frame[header.body_position :])
        self.requests.append(Request(key, version, request))
        if key == ApiKey.API_VERSIONS and version > self.versions.get(key, (0, 99))[1]:
            answer: Message | Instead = self._refused_versions()
            version = 0
        else:
            answer = self.handlers[key](version, request)
        if answer is HANG_UP:
            stream.end()
        elif isinstance(answer, Message):
            if key == ApiKey.API_VERSIONS and answer.error_code == ErrorCode.UNSUPPORTED_VERSION:
                version = 0  # the one form that everybody can read
            body = encode_response(key, version, answer)
            stream.feed(response_prefix(key, version, header.correlation_id, len(body)) + body)

    def _refused_versions(self) -> Message:
        answer = self._api_versions(0, Message())
        answer.error_code = ErrorCode.UNSUPPORTED_VERSION
        return answer

    def _api_versions(self, version: int, request: Message) -> Message:
        return Message(
            error_code=0,
            api_keys=[
                Message(api_key=int(key), min_version=low, max_version=high)
                for key, (low, high) in self.versions.items()
            ],
        )


class Lowest(SystemRandom):
    """Always draws the lowest."""

    def randrange(self, start: int, stop: int | None = None, step: int = 1) -> int:
        return start


class ScriptedNetwork:
    """A network of scripted brokers by (host, port). Nobody listens anywhere else."""

    def __init__(self, brokers: Mapping[tuple[str, int], ScriptedBroker]) -> None:
        self.brokers = dict(brokers)
        self.attempts: list[tuple[str, int]] = []

    async def connect(self, host: str, port: int) -> Stream:
        await trio.lowlevel.checkpoint()
        self.attempts.append((host, port))
        if (host, port) not in self.brokers:
            raise AddressError(f"can't connect to {host}:{port}: Connection refused")
        return self.brokers[host, port].connect(f"{host}:{port}")

    async def listen(self, host: str, port: int, *, backlog: int = 1024, is_open: bool = True) -> Listener:
        raise NotImplementedError


def scripted_environment(network: ScriptedNetwork) -> Environment:
    """The real ports but for the network, and no chance: bootstrap addresses are tried in their order."""
    return dataclasses.replace(production_environment(), network=network, random=Lowest())


def metadata_answer(
    nodes: Mapping[int, tuple[str, int]],
    topics: Mapping[str, Sequence[int]] | None = None,
    *,
    controller_id: int = 1,
) -> Message:
    """A Metadata answer: node addresses, and for each topic the leader of each partition."""
    return Message(
        brokers=[Message(node_id=node, host=host, port=port) for node, (host, port) in nodes.items()],
        cluster_id="scripted",
        controller_id=controller_id,
        topics=[
            Message(
                name=name,
                topic_id=b"0123456789abcdef",
                partitions=[
                    Message(
                        partition_index=index,
                        leader_id=leader,
                        leader_epoch=3,
                        replica_nodes=[1],
                        isr_nodes=[1],
                    )
                    for index, leader in enumerate(leaders)
                ],
            )
            for name, leaders in (topics or {}).items()
        ],
    )
