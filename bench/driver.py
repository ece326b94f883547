"""The load: sends frames made beforehand down one blocking socket and reads the answers, at the least cost of its own.

Owns one connection for the length of a call. Knows nothing of who answers. Answers come in the order of the requests, so frames carry
correlation ids 0 to window - 1 again and again and nothing is encoded while the clock runs. Every answer is checked for its
correlation id and error code.
"""

import socket
import struct
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from time import perf_counter, sleep

from bench.frames import (
    CORRELATION_ID_POSITION,
    Batch,
    FetchAnswer,
    ProduceAnswer,
    fetch_request,
    produce_answer,
    produce_request,
)
from bench.processes import Meter

Address = tuple[str, int]

SOCKET_TIMEOUT_S = 60
_SIZE = struct.Struct(">i")
_OFFSET = struct.Struct(">q")


@dataclass(frozen=True, slots=True)
class Limits:
    """When a measurement ends: at the first of these."""

    seconds: float
    bytes_max: int
    requests_max: int = 1 << 62


@dataclass(frozen=True, slots=True)
class Load:
    """What was done, and what it took.

    `size_bytes` counts record batches where frames are sent, and values where records are. `latencies_s` has one entry for each
    answer. A `request_count` of 0 means that the client does not tell.
    """

    request_count: int
    record_count: int
    size_bytes: int
    latencies_s: Sequence[float]
    meter: Meter


class LoadFailed(Exception):
    """The server closed the connection or answered with an error."""


def produce(
    address: Address, topic: str, batch: Batch, *, window: int, limits: Limits, server_pid: int = 0
) -> Load:
    """Send one batch over and over to partition 0, `window` requests in flight, all answered at the end.

    Raises:
        LoadFailed: an error in an answer, or the connection was lost.
    """
    frame = produce_request(topic, batch.data)
    request_count_max = max(window, min(limits.requests_max, limits.bytes_max // len(batch.data)))
    with _connect(address) as connection:
        run = _ProduceRun(connection, topic, frame, window)
        with Meter(server_pid) as meter:
            run.run(perf_counter() + limits.seconds, request_count_max)
    count = len(run.latencies_s)
    return Load(count, count * batch.record_count, count * len(batch.data), run.latencies_s, meter)


class _ProduceRun:
    def __init__(self, connection: socket.socket, topic: str, frame: bytes, window: int) -> None:
        self._connection = connection
        self._topic = topic
        self._window = window
        self._frame_size = len(frame)
        frames = bytearray(frame * window)
        for index in range(window):
            _SIZE.pack_into(frames, index * len(frame) + CORRELATION_ID_POSITION, index)
        self._frames = memoryview(frames)
        self._sent_count = 0
        self._send_times: deque[float] = deque()
        self.latencies_s: list[float] = []

    def run(self, deadline: float, request_count_max: int) -> None:
        buffer = memoryview(bytearray(64 * 1024))
        have = 0
        answer: ProduceAnswer | None = None
        self._send(self._window)
        while self._send_times:
            count = self._connection.recv_into(buffer[have:])
            now = perf_counter()
            if count == 0:
                raise LoadFailed("the server closed the connection")
            have += count
            if answer is None:
                if have < 4:
                    continue
                answer = produce_answer(self._topic, 4 + _SIZE.unpack_from(buffer)[0])
            answered = self._take(answer, buffer, have, now)
            taken = answered * answer.size_bytes
            have -= taken
            if have:
                buffer[:have] = buffer[taken : taken + have]
            if now < deadline:
                self._send(min(answered, request_count_max - self._sent_count))

    def _take(self, answer: ProduceAnswer, buffer: memoryview, have: int, now: float) -> int:
        answered = have // answer.size_bytes
        first = len(self.latencies_s)
        for index in range(answered):
            try:
                answer.check(buffer, index * answer.size_bytes, (first + index) % self._window)
            except ValueError as error:
                raise LoadFailed(str(error)) from None
            self.latencies_s.append(now - self._send_times.popleft())
        return answered

    def _send(self, count: int) -> None:
        """Send the next `count` frames: in one call, or two where the ring of frames ends."""
        while count > 0:
            start = self._sent_count % self._window
            step = min(count, self._window - start)
            self._send_times.extend([perf_counter()] * step)
            self._connection.sendall(
                self._frames[start * self._frame_size : (start + step) * self._frame_size]
            )
            self._sent_count += step
            count -= step


def fetch(
    address: Address,
    topic: str,
    *,
    start_offset: int = 0,
    end_offset: int,
    limits: Limits,
    partition_bytes_max: int = 1024 * 1024,
    server_pid: int = 0,
) -> Load:
    """Read partition 0 from `start_offset` to `end_offset` (exclusive), one request at a time, as consumers do.

    `record_count` is where it stands then.

    Raises:
        LoadFailed: an error in an answer, an answer without progress, or the connection was lost.
    """
    with _connect(address) as connection:
        run = _FetchRun(connection, topic, partition_bytes_max)
        run.offset = start_offset
        with Meter(server_pid) as meter:
            deadline = perf_counter() + limits.seconds
            while run.offset < end_offset and run.size_bytes < limits.bytes_max and perf_counter() < deadline:
                run.step()
    return Load(len(run.latencies_s), run.offset, run.size_bytes, run.latencies_s, meter)


class _FetchRun:
    def __init__(self, connection: socket.socket, topic: str, partition_bytes_max: int) -> None:
        self._connection = connection
        self._request, self._offset_position = fetch_request(topic, partition_bytes_max=partition_bytes_max)
        self._answer = FetchAnswer(topic)
        self._buffer = memoryview(bytearray(2 * partition_bytes_max + 64 * 1024))
        self.offset = 0
        self.size_bytes = 0
        self.latencies_s: list[float] = []

    def step(self) -> None:
        """One request, its answer, and the offset after it."""
        _OFFSET.pack_into(self._request, self._offset_position, self.offset)
        sent = perf_counter()
        self._connection.sendall(self._request)
        received = _receive_answer(self._connection, self._buffer)
        self.latencies_s.append(perf_counter() - sent)
        try:
            offset, size_bytes, high_watermark = self._answer.read(self._buffer[:received], self.offset)
        except ValueError as error:
            raise LoadFailed(str(error)) from None
        if offset <= self.offset:
            raise LoadFailed(
                f"a fetch at offset {offset}, below the high watermark {high_watermark}, brought nothing"
            )
        self.offset = offset
        self.size_bytes += size_bytes


def wait_for_topic(address: Address, topic: str, timeout_s: float) -> None:
    """Fetch from partition 0 until that is answered without an error: a topic is made before its leader serves it.

    Raises:
        LoadFailed: `timeout_s` passed.
    """
    request, _ = fetch_request(topic, partition_bytes_max=1, wait_ms_max=0)
    deadline = perf_counter() + timeout_s
    reason = ""
    while perf_counter() < deadline:
        with _connect(address) as connection:
            connection.sendall(request)
            buffer = memoryview(bytearray(64 * 1024))
            try:
                FetchAnswer(topic).read(buffer[: _receive_answer(connection, buffer)], 0)
            except ValueError as error:
                reason = str(error)
                sleep(0.02)
                continue
            return
    raise LoadFailed(f"topic {topic} is not served after {timeout_s} s: {reason}")


def _receive_answer(connection: socket.socket, buffer: memoryview) -> int:
    """One whole answer into the start of `buffer`; returns its size with the length prefix."""
    have, need = 0, 4
    while have < need:
        count = connection.recv_into(buffer[have:])
        if count == 0:
            raise LoadFailed("the server closed the connection")
        have += count
        if need == 4 and have >= 4:
            need = 4 + _SIZE.unpack_from(buffer)[0]
            if need > len(buffer):
                raise LoadFailed(f"an answer of {need} bytes")
    return have


def _connect(address: Address) -> socket.socket:
    connection = socket.create_connection(address, timeout=SOCKET_TIMEOUT_S)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return connection
