"""Frames of a connection, from the client's side: requests packed, answers cut out of the stream.

Owns the request header and the reader of length-prefixed answers. Knows no bodies and no correlation: `connection` does.

Invariants: an answer's buffer is never used again for another (decoded records may point into it); no more is allocated, whatever length a
frame claims, than `_GROWTH_FACTOR` times the bytes of it that have arrived, or than the largest answer that has come whole.
"""

import struct

import trio

from penstock.client.errors import ResponseTooLarge
from penstock.protocol.errors import ProtocolError
from penstock.runtime.network import ConnectionLost, Stream

_CHUNK_SIZE_BYTES = 64 * 1024
_BYTES_WITHOUT_YIELD_MAX = 1024 * 1024  # the stream may never wait while the peer keeps up
_COUNTED_FOR_A_CALL_BYTES = (
    8 * 1024
)  # small answers take their time, too: what is done with them may be done in the reader
_GROWTH_FACTOR = 2
_PREFIX = struct.Struct(">i")
_HEADER = struct.Struct(">ihhi")  # length, API key, API version, correlation id
_NULL_STRING = b"\xff\xff"
_NO_TAGGED_FIELDS = b"\x00"


def request_prefix(
    api_key: int,
    api_version: int,
    correlation_id: int,
    client_id: bytes | None,
    *,
    is_flexible: bool,
    body_size_bytes: int,
) -> bytes:
    """The length prefix and the request header (version 2 where the API version is flexible, else 1)."""
    tail = _NULL_STRING if client_id is None else len(client_id).to_bytes(2, "big") + client_id
    if is_flexible:
        tail += _NO_TAGGED_FIELDS
    length = _HEADER.size - _PREFIX.size + len(tail) + body_size_bytes
    return _HEADER.pack(length, api_key, api_version, correlation_id) + tail


class AnswerReader:
    """Cuts a stream into frames. One task at a time."""

    def __init__(self, stream: Stream, answer_max_bytes: int) -> None:
        self._stream = stream
        self._answer_max_bytes = answer_max_bytes
        self._chunk = memoryview(bytearray(_CHUNK_SIZE_BYTES))
        self._start: int = 0
        self._end: int = 0
        self._unyielded_bytes = 0
        self._whole_max_bytes = _CHUNK_SIZE_BYTES

    async def next_frame(self) -> memoryview | None:
        """The next frame without its length prefix; None where the stream ends between two frames.

        Raises:
            ConnectionLost: the stream broke or ended inside a frame.
            ResponseTooLarge, ProtocolError: the length is over the bound or negative.

        Cancellation: the reader is good only for being thrown away.
        """
        while self._end - self._start < _PREFIX.size:
            if not await self._fill():
                if self._end > self._start:
                    raise ConnectionLost(f"{self._stream.peer}: closed inside an answer")
                return None
        (length,) = _PREFIX.unpack_from(self._chunk, self._start)
        self._check_length(length)
        self._start += _PREFIX.size
        return await self._take(length)

    def _check_length(self, length: int) -> None:
        if length < 4:
            raise ProtocolError(f"{self._stream.peer}: an answer of {length} bytes")
        if length > self._answer_max_bytes:
            raise ResponseTooLarge(
                f"{self._stream.peer}: an answer of {length} bytes, over the bound of "
                f"{self._answer_max_bytes}; is that a Kafka listener, without TLS?"
            )

    async def _fill(self) -> int:
        if self._start == self._end:
            self._start = self._end = 0
        elif self._end == len(self._chunk):
            rest = bytes(self._chunk[self._start : self._end])
            self._start, self._end = 0, len(rest)
            self._chunk[: len(rest)] = rest
        count = await self._receive(self._chunk[self._end :])
        self._end += count
        return count

    async def _receive(self, buffer: memoryview) -> int:
        if self._unyielded_bytes > _BYTES_WITHOUT_YIELD_MAX:
            self._unyielded_bytes = 0
            await trio.lowlevel.checkpoint()
        count = await self._stream.receive_into(buffer)
        self._unyielded_bytes += count + _COUNTED_FOR_A_CALL_BYTES
        return count

    async def _take(self, length: int) -> memoryview:
        at_hand = min(length, self._end - self._start)
        if at_hand == length:
            self._start += length
            return memoryview(bytes(self._chunk[self._start - length : self._start]))
        # A buffer that grows is copied with each step; what came whole before may as well come again.
        frame = bytearray(min(length, max(self._whole_max_bytes, _GROWTH_FACTOR * at_hand)))
        frame[:at_hand] = self._chunk[self._start : self._start + at_hand]
        self._start = self._end = 0
        filled = at_hand
        while filled < length:
            if filled == len(frame):
                frame.extend(bytes(min(length - filled, (_GROWTH_FACTOR - 1) * filled)))
            with memoryview(frame) as view, view[filled:] as rest:
                count = await self._receive(rest)
            if count == 0:
                raise ConnectionLost(f"{self._stream.peer}: closed inside an answer")
            filled += count
        self._whole_max_bytes = max(self._whole_max_bytes, length)
        return memoryview(frame)


__all__ = ["AnswerReader", "request_prefix"]
