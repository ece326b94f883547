import struct
import tracemalloc
from collections.abc import Sequence

import pytest
from tests.support.scripted_broker import ScriptedStream

from penstock.client.errors import ResponseTooLarge
from penstock.client.frames import AnswerReader, request_prefix
from penstock.protocol.errors import ProtocolError
from penstock.runtime.network import ConnectionLost

MIB = 1024 * 1024


def stream_of(*chunks: bytes, at_end: bool = True) -> ScriptedStream:
    stream = ScriptedStream("peer:1")
    for chunk in chunks:
        stream.feed(chunk)
    if at_end:
        stream.end()
    return stream


class DripStream(ScriptedStream):
    """Gives at most `step_bytes` at a time."""

    def __init__(self, data: bytes, step_bytes: int) -> None:
        super().__init__("peer:1")
        self.feed(data)
        self.end()
        self.step_bytes = step_bytes

    async def receive_into(self, buffer: bytearray | memoryview) -> int:
        return await super().receive_into(memoryview(buffer)[: self.step_bytes])


def framed(*bodies: bytes) -> bytes:
    return b"".join(struct.pack(">i", len(body)) + body for body in bodies)


async def read_all(stream: ScriptedStream, answer_max_bytes: int = MIB) -> Sequence[bytes]:
    reader = AnswerReader(stream, answer_max_bytes)
    frames: list[bytes] = []
    while (frame := await reader.next_frame()) is not None:
        frames.append(bytes(frame))
    return frames


@pytest.mark.parametrize("step_bytes", [1, 3, 4, 5, 100, 65_536, 10**9])
async def test_frames_are_whole_however_the_bytes_arrive(step_bytes: int) -> None:
    size = 3_000 if step_bytes < 100 else 300_000
    bodies = [b"abcd", bytes(range(256)) * (size // 256), b"tail", b"x" * 65_532, b"12345678"]
    assert await read_all(DripStream(framed(*bodies), step_bytes)) == bodies


async def test_a_prefix_that_is_cut_by_the_end_of_the_buffer_is_put_together() -> None:
    first = b"x" * (65_536 - 4 - 2)  # leaves two bytes of the chunk for the next prefix
    assert await read_all(stream_of(framed(first, b"second"))) == [first, b"second"]


async def test_a_frame_that_was_handed_out_is_never_written_over() -> None:
    stream = stream_of(framed(b"first", b"other"))
    reader = AnswerReader(stream, MIB)
    first = await reader.next_frame()
    await reader.next_frame()
    assert first is not None
    assert bytes(first) == b"first"


@pytest.mark.parametrize("length", [-1, -(2**31), 0, 3])
async def test_a_length_that_can_not_be_is_an_error(length: int) -> None:
    with pytest.raises(ProtocolError, match=f"an answer of {length} bytes"):
        await read_all(stream_of(struct.pack(">i", length) + bytes(8)))


async def test_an_answer_over_the_bound_is_refused_before_it_is_read() -> None:
    with pytest.raises(ResponseTooLarge, match="2147483647 bytes, over the bound of 1048576"):
        await read_all(stream_of(struct.pack(">i", 2**31 - 1), at_end=False))


async def test_memory_grows_with_the_bytes_that_arrive_and_not_with_the_length_claimed() -> None:
    stream = stream_of(struct.pack(">i", 1000 * MIB) + bytes(1000))
    tracemalloc.start()
    with pytest.raises(ConnectionLost, match="closed inside an answer"):
        await read_all(stream, 2000 * MIB)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < MIB


async def test_what_has_come_whole_before_is_the_most_that_a_claimed_length_gets_at_once() -> None:
    whole = bytes(3 * MIB)
    stream = stream_of(framed(whole) + struct.pack(">i", 1000 * MIB) + bytes(1000))
    reader = AnswerReader(stream, 2000 * MIB)
    frame = await reader.next_frame()
    assert frame is not None
    assert bytes(frame) == whole
    tracemalloc.start()
    with pytest.raises(ConnectionLost, match="closed inside an answer"):
        await reader.next_frame()
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 4 * MIB


@pytest.mark.parametrize("data", [b"\0", b"\0\0\0", b"\0\0\0\x09abc"])
async def test_an_end_inside_a_frame_is_a_lost_connection(data: bytes) -> None:
    with pytest.raises(ConnectionLost, match="closed inside an answer"):
        await read_all(stream_of(data))


def test_a_request_header_has_the_tagged_fields_of_flexible_versions_only() -> None:
    plain = request_prefix(3, 8, 7, b"me", is_flexible=False, body_size_bytes=5)
    assert plain == struct.pack(">ihhih", 8 + 4 + 5, 3, 8, 7, 2) + b"me"
    flexible = request_prefix(3, 9, 7, None, is_flexible=True, body_size_bytes=5)
    assert flexible == struct.pack(">ihhih", 8 + 3 + 5, 3, 9, 7, -1) + b"\0"
