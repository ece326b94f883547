"""The frame reader against any bytes in any pieces: every whole frame once, in order, or a closed connection; nothing is kept."""

import itertools
import struct
from typing import cast

import trio
import trio.testing
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.support.examples import examples
from tests.support.streams import ScriptedStream

from penstock.broker.broker import Broker
from penstock.broker.budget import ByteBudget
from penstock.broker.connection import Connection, ConnectionLimits, ConnectionShared
from penstock.broker.dispatch import Dispatcher
from penstock.broker.replies import Parts
from penstock.protocol.errors import ProtocolError
from penstock.runtime.system_clock import SystemClock

SMALL_MAX, LARGE_MAX = 200_000, 300_000
LIMITS = ConnectionLimits(
    frame_bytes_max=LARGE_MAX,
    small_frame_bytes_max=SMALL_MAX,
    idle_s=600,
    frame_deadline_s=30,
    write_deadline_s=60,
)
PRODUCE_KEY = b"\0\0"

bodies = st.one_of(
    st.binary(max_size=40),
    st.integers(0, LARGE_MAX - 2).map(bytes),  # around and above the size of one read
    st.sampled_from([131_066, 131_067, 131_068, 131_069, 131_070, 131_071, 131_072]).map(bytes),
)


def cut(data: bytes, places: list[int]) -> list[bytes]:
    """`data` in pieces, cut at `places` (taken modulo its length)."""
    edges = sorted({0, len(data), *(place % (len(data) + 1) for place in places)})
    return [data[start:end] for start, end in itertools.pairwise(edges)]


def talk(pieces: list[bytes], dispatch: "Recorder | Dispatcher") -> tuple[ScriptedStream, ByteBudget]:
    """Send the pieces one after the other to a connection, then leave."""
    stream = ScriptedStream()
    budget = ByteBudget(64 << 20)

    async def main() -> None:
        connection = Connection(
            stream, "PLAINTEXT", ConnectionShared(dispatch, LIMITS, budget, SystemClock())
        )
        async with trio.open_nursery() as nursery:
            nursery.start_soon(connection.serve)
            for piece in pieces:
                stream.feed(piece)
                await trio.testing.wait_all_tasks_blocked()
            stream.end()

    trio.run(main)
    return stream, budget


class Recorder:
    """Notes every frame, and answers with its length."""

    def __init__(self) -> None:
        self.frames: list[bytes] = []

    def __call__(self, connection: Connection, frame: memoryview) -> Parts:
        self.frames.append(bytes(frame))
        return [struct.pack(">i", len(frame))]


@settings(max_examples=examples(60), deadline=None)
@given(st.lists(bodies, max_size=6), st.lists(st.integers(0, 2_000_000), max_size=8))
def test_any_cut_of_frames_gives_each_frame_once_and_in_order(frames: list[bytes], places: list[int]) -> None:
    frames = [PRODUCE_KEY + body for body in frames]
    recorder = Recorder()
    sent = b"".join(struct.pack(">i", len(frame)) + frame for frame in frames)
    stream, budget = talk(cut(sent, places), recorder)
    assert recorder.frames == frames
    assert bytes(stream.sent) == b"".join(struct.pack(">i", len(frame)) for frame in frames)
    assert budget.held_bytes == 0


@settings(max_examples=examples(150), deadline=None)
@given(st.lists(st.binary(max_size=60), min_size=1, max_size=6))
def test_any_bytes_end_in_frames_or_a_closed_connection(pieces: list[bytes]) -> None:
    recorder = Recorder()
    stream, budget = talk(pieces, recorder)
    assert stream.closed
    assert budget.held_bytes == 0
    data = b"".join(pieces)
    for frame in recorder.frames:
        assert frame in data


@settings(max_examples=examples(150), deadline=None)
@given(st.lists(st.binary(max_size=80), min_size=1, max_size=4))
def test_any_request_is_refused_by_the_dispatcher_before_it_needs_a_broker(requests: list[bytes]) -> None:
    """Header and body decoders behind the reader: garbage closes the connection, with no exception of another kind."""
    sent = b"".join(struct.pack(">i", len(request)) + request for request in requests)
    stream, budget = talk([sent], Dispatcher(cast(Broker, _NoBroker())))
    assert stream.closed
    assert budget.held_bytes == 0


class _NoBroker:
    """Garbage hardly ever gets as far as this; what does is well-formed, and ends here."""

    def __getattr__(self, name: str) -> object:
        raise ProtocolError(f"well-formed as far as {name}")
