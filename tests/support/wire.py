"""A raw Kafka connection: what is sent is what the test says, and nothing is hidden by a client's good will."""

import socket
import struct
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from types import TracebackType
from typing import Any, Self

from tests.support import schema_codec
from tests.support.schema_codec import API_KEYS

TIMEOUT_S = 20.0
CLIENT_ID = "raw"


class ConnectionEnded(AssertionError):
    """The broker closed the connection where an answer was due."""


def request_header(api_key: int, version: int, correlation_id: int, *, is_flexible: bool) -> bytes:
    """Request header v1, or v2 for a flexible version."""
    fixed = struct.pack(">hhih", api_key, version, correlation_id, len(CLIENT_ID)) + CLIENT_ID.encode()
    return fixed + b"\0" if is_flexible else fixed


def frame(content: bytes) -> bytes:
    """Content behind its length."""
    return struct.pack(">i", len(content)) + content


class Connection:
    """One TCP connection, blocking, with a limit on every wait. Numbers its requests from 1."""

    def __init__(self, address: tuple[str, int], *, receive_buffer_bytes: int | None = None) -> None:
        self.socket = socket.socket()
        self.socket.settimeout(TIMEOUT_S)
        if receive_buffer_bytes is not None:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer_bytes)
        try:
            self.socket.connect(address)
        except OSError:
            self.socket.close()
            raise
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.correlation_id = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close, without a word to the broker."""
        self.socket.close()

    def send_bytes(self, data: bytes) -> None:
        """Send bytes as they are."""
        self.socket.sendall(data)

    def send_body(self, api: str, version: int, body: bytes) -> int:
        """Send a frame with a right header and any body; returns the correlation id."""
        self.correlation_id += 1
        header = request_header(
            API_KEYS[api],
            version,
            self.correlation_id,
            is_flexible=schema_codec.is_flexible(api, version),
        )
        self.send_bytes(frame(header + body))
        return self.correlation_id

    def send(self, api: str, version: int, values: Mapping[str, Any]) -> int:
        """Send a request; returns the correlation id."""
        return self.send_body(api, version, schema_codec.encode_request(api, version, values))

    def receive_frame(self) -> bytes | None:
        """The next frame's content; None when the broker closed the connection before it (also by a reset)."""
        try:
            prefix = self._receive(4)
            return None if prefix is None else self._receive(struct.unpack(">i", prefix)[0])
        except (ConnectionResetError, BrokenPipeError):
            return None

    def _receive(self, count: int) -> bytes | None:
        parts: list[bytes] = []
        while count > 0:
            part = self.socket.recv(min(count, 1 << 20))
            if not part:
                return None
            parts.append(part)
            count -= len(part)
        return b"".join(parts)

    def receive(self, api: str, version: int, correlation_id: int) -> Any:
        """The next response, which must be of this request."""
        content = self.receive_frame()
        if content is None:
            raise ConnectionEnded(f"closed instead of an answer to {api} v{version}")
        (answered,) = struct.unpack_from(">i", content)
        assert answered == correlation_id, f"answer to request {answered}, not to {correlation_id}"
        start = 4
        if schema_codec.is_flexible(api, version) and api != "api_versions":
            assert content[4] == 0, "the response header has tagged fields"
            start = 5
        return schema_codec.decode_response(api, version, content[start:])

    def request(self, api: str, version: int, /, **values: Any) -> Any:
        """Send a request and wait for its response."""
        return self.receive(api, version, self.send(api, version, values))

    def is_closed_by_peer(self) -> bool:
        """Wait for the broker to end the connection; an answer is an error."""
        return self.receive_frame() is None


@contextmanager
def connect(bootstrap: str) -> Generator[Connection]:
    """A connection to `host:port`."""
    with Connection(address_of(bootstrap)) as connection:
        yield connection


def address_of(bootstrap: str) -> tuple[str, int]:
    """`host:port` as a pair."""
    host, _, port = bootstrap.rpartition(":")
    return host, int(port)
