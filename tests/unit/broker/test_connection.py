"""A connection's frames, order, deadlines and end, with a dispatcher of the test's own."""

import struct
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest
import trio
import trio.testing
from tests.support.memory_files import MemoryFiles
from tests.support.metadata_plane import TrioClock
from tests.support.streams import ScriptedStream

from penstock.broker.budget import ByteBudget
from penstock.broker.connection import (
    FIRST_BYTES,
    PENDING_REPLIES_MAX,
    SEND_STEP_BYTES,
    Connection,
    ConnectionLimits,
    ConnectionShared,
    Outcome,
)
from penstock.broker.replies import Parts, Reply
from penstock.protocol.errors import ProtocolError
from penstock.runtime.files import File

LIMITS = ConnectionLimits(
    frame_bytes_max=4 << 20,
    small_frame_bytes_max=1 << 20,
    idle_s=600,
    frame_deadline_s=30,
    write_deadline_s=60,
)


def frame(body: bytes, key: int = 0) -> bytes:
    payload = struct.pack(">h", key) + body
    return struct.pack(">i", len(payload)) + payload


class Promise(Reply):
    """A reply that the test resolves."""

    def __init__(self, answer: bytes, deadline: float = float("inf")) -> None:
        super().__init__(deadline)
        self.answer = answer
        self.abandoned = False

    def try_finish(self) -> Parts | None:
        return [self.answer if self.ready else b"(late)"]

    def hurry(self) -> None:
        self.resolve()

    def abandon(self) -> None:
        self.abandoned = True


class Echo:
    """Answers each frame with its own body in brackets, or as `answers` says for that body."""

    def __init__(self) -> None:
        self.seen: list[bytes] = []
        self.answers: dict[bytes, Callable[[], Outcome | Awaitable[Outcome]]] = {}

    def __call__(self, connection: Connection, request: memoryview) -> Outcome | Awaitable[Outcome]:
        request[2:] = body = bytes(request[2:])  # a batch is stamped in the frame
        self.seen.append(body)
        if body in self.answers:
            return self.answers[body]()
        return [b"[" + body[:20] + b"]"]


class Session:
    """A connection at work, and both of its ends."""

    def __init__(self, limits: ConnectionLimits = LIMITS, budget_bytes: int = 64 << 20) -> None:
        self.stream = ScriptedStream()
        self.echo = Echo()
        self.budget = ByteBudget(budget_bytes)
        self.shared = ConnectionShared(self.echo, limits, self.budget, TrioClock())
        self.connection = Connection(self.stream, "PLAINTEXT", self.shared)
        self.ended = trio.Event()

    async def run(self) -> None:
        await self.connection.serve()
        self.ended.set()

    async def settle(self) -> bytes:
        """What was sent once nothing moves any more."""
        await trio.testing.wait_all_tasks_blocked()
        return bytes(self.stream.sent)


@asynccontextmanager
async def running(limits: ConnectionLimits = LIMITS, budget_bytes: int = 64 << 20) -> AsyncGenerator[Session]:
    session = Session(limits, budget_bytes)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(session.run)
        yield session
        nursery.cancel_scope.cancel()


async def test_pipelined_requests_are_answered_in_order() -> None:
    async with running() as session:
        session.stream.feed(b"".join(frame(b"%d" % n) for n in range(50)))
        assert await session.settle() == b"".join(b"[%d]" % n for n in range(50))


async def test_frame_in_single_bytes_is_one_frame() -> None:
    async with running() as session:
        for byte in frame(b"hello"):
            session.stream.feed(bytes([byte]))
            await trio.testing.wait_all_tasks_blocked()
        assert await session.settle() == b"[hello]"
        session.stream.feed(frame(b"next"))
        assert await session.settle() == b"[hello][next]"


async def test_frames_behind_one_that_is_waited_for_may_be_written_in() -> None:
    async def settle() -> Outcome:
        await trio.lowlevel.checkpoint()
        return [b"waited"]

    async with running() as session:
        session.echo.answers = {b"wait": settle}
        session.stream.feed(frame(b"wait") + frame(b"a") + frame(b"wait") + frame(b"b"))
        assert await session.settle() == b"waited[a]waited[b]"


@pytest.mark.parametrize("size", [0, 1, 100_000, 131_066, 131_067, 131_072, 131_073, 3_000_000])
async def test_frame_of_any_size_arrives_whole(size: int) -> None:
    body = bytes(i % 251 for i in range(size % 1000)) + bytes(size - size % 1000)
    async with running() as session:
        session.stream.feed(frame(b"before") + frame(body) + frame(b"after"))
        await session.settle()
        assert session.echo.seen == [b"before", body, b"after"]
        assert session.budget.held_bytes == 0


async def test_shortest_possible_frame_is_handled_and_not_waited_on() -> None:
    async with running() as session:
        session.stream.feed(struct.pack(">i", 0))
        await session.settle()
        session.stream.feed(b"\0\0")  # half of the next length
        await session.settle()
        assert len(session.echo.seen) == 1


async def test_pending_reply_holds_back_what_comes_after_it() -> None:
    async with running() as session:
        first, third = Promise(b"1"), Promise(b"3")
        session.echo.answers = {b"a": lambda: first, b"c": lambda: third}
        session.stream.feed(frame(b"a") + frame(b"b") + frame(b"c") + frame(b"d"))
        assert await session.settle() == b""
        assert session.echo.seen == [b"a", b"b", b"c", b"d"], "requests behind a pending one are begun"
        third.resolve()
        assert await session.settle() == b""
        first.resolve()
        assert await session.settle() == b"1[b]3[d]"
        session.stream.feed(frame(b"e"))
        assert await session.settle() == b"1[b]3[d][e]"


async def test_reply_is_given_at_its_deadline(autojump_clock: trio.testing.MockClock) -> None:
    async with running() as session:
        promise = Promise(b"early", deadline=trio.current_time() + 5)
        session.echo.answers = {b"a": lambda: promise}
        session.stream.feed(frame(b"a"))
        await trio.sleep(6)
        assert bytes(session.stream.sent) == b"(late)"


async def test_awaiting_handler_does_not_see_its_frame_overwritten() -> None:
    async with running() as session:
        gate = trio.Event()

        async def slow() -> Outcome:
            await gate.wait()
            return [b"slow"]

        session.echo.answers = {b"slow": slow}
        session.stream.feed(frame(b"slow") + frame(b"rest1") + frame(b"rest2"))
        await session.settle()
        session.shared.scratch[:40] = bytes(40)  # another connection's read
        gate.set()
        assert await session.settle() == b"slow[rest1][rest2]"


async def test_none_sends_nothing() -> None:
    async with running() as session:
        session.echo.answers = {b"quiet": lambda: None}
        session.stream.feed(frame(b"quiet") + frame(b"a"))
        assert await session.settle() == b"[a]"


@pytest.mark.parametrize(
    ("bad", "why"),
    [
        (struct.pack(">i", -1) + b"\0\0", "negative"),
        (struct.pack(">i", 2**31 - 1) + b"\0\0", "two gigabytes"),
        (struct.pack(">ih", 2 << 20, 3), "a large frame that is no Produce"),
    ],
)
async def test_impossible_length_closes_before_anything_is_allocated(
    bad: bytes, why: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with running() as session:
        session.stream.feed(bad)
        await session.ended.wait()
        assert session.stream.closed
        assert session.budget.held_bytes == 0
        assert len(caplog.records) == 1, why
        assert session.echo.seen == []


async def test_claimed_length_is_not_allocated_ahead_of_the_bytes() -> None:
    async with running() as session:
        session.stream.feed(struct.pack(">ih", 4 << 20, 0) + bytes(10_000))
        await session.settle()
        assert 0 < session.budget.held_bytes <= 1 << 20


async def test_half_a_frame_then_silence_is_cut_off(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    async with running() as session:
        session.stream.feed(frame(b"a") + frame(b"bcd")[:7])
        await session.settle()
        now = trio.current_time()
        session.connection.close_if_overdue(now + 29)
        assert not session.stream.closed
        session.connection.close_if_overdue(now + 31)
        await session.ended.wait()
        assert "half a request" in caplog.text
        assert session.budget.held_bytes == 0


async def test_idle_connection_is_closed_but_not_one_that_waits_for_an_answer() -> None:
    async with running() as session:
        promise = Promise(b"x")
        session.echo.answers = {b"a": lambda: promise}
        session.stream.feed(frame(b"a"))
        await session.settle()
        late = trio.current_time() + 601
        session.connection.close_if_overdue(late)
        assert not session.stream.closed
        promise.resolve()
        await session.settle()
        session.connection.close_if_overdue(late + 601)
        await session.ended.wait()


async def test_peer_that_takes_no_response_is_cut_off() -> None:
    async with running() as session:
        session.stream.block_sends()
        session.stream.feed(frame(b"a"))
        await session.settle()
        session.connection.close_if_overdue(trio.current_time() + 61)
        assert session.stream.closed


async def test_replies_in_flight_are_bounded() -> None:
    async with running() as session:
        promises: list[Promise] = []

        def pending() -> Promise:
            promises.append(Promise(b"."))
            return promises[-1]

        session.echo.answers = {b"a" * 2000: pending}
        session.stream.feed(frame(b"a" * 2000) * 1000)
        await session.settle()
        per_read = len(session.shared.scratch) // 2006 + 1
        assert PENDING_REPLIES_MAX <= len(promises) <= PENDING_REPLIES_MAX + per_read
        while len(session.stream.sent) < 1000:
            for promise in promises:
                promise.resolve()
            await session.settle()
        assert len(promises) == 1000


async def test_peer_that_leaves_abandons_what_is_pending() -> None:
    async with running() as session:
        promise = Promise(b"x")
        session.echo.answers = {b"a": lambda: promise}
        session.stream.feed(frame(b"a"))
        await session.settle()
        session.stream.end()
        await session.ended.wait()
        assert promise.abandoned


async def test_stop_answers_what_is_in_flight_and_takes_nothing_new() -> None:
    async with running() as session:
        promise = Promise(b"x")
        session.echo.answers = {b"a": lambda: promise}
        session.stream.feed(frame(b"a"))
        await session.settle()
        session.connection.stop()
        await session.ended.wait()
        assert bytes(session.stream.sent) == b"x"
        assert session.stream.closed


async def test_stop_does_not_cut_a_response_in_two() -> None:
    async with running() as session:
        gate = session.stream.block_sends()
        session.stream.feed(frame(b"a"))
        await session.settle()
        session.connection.stop()
        await session.settle()
        gate.set()
        await session.ended.wait()
        assert bytes(session.stream.sent) == b"[a]"


async def test_stop_of_an_idle_connection_ends_it() -> None:
    async with running() as session:
        await session.settle()
        session.connection.stop()
        await session.ended.wait()


async def test_bad_bytes_close_with_one_log_line(caplog: pytest.LogCaptureFixture) -> None:
    async with running() as session:

        def refuse() -> Outcome:
            raise ProtocolError("no such\nthing")

        session.echo.answers = {b"bad": refuse}
        session.stream.feed(frame(b"bad") + frame(b"a"))
        await session.ended.wait()
        assert [record.getMessage() for record in caplog.records] == [
            "127.0.0.1:50000: closed: no such thing"
        ]


async def test_reading_waits_while_the_byte_budget_is_spent() -> None:
    async with running(budget_bytes=1 << 20) as session:
        session.budget.hold(1 << 20)
        await session.settle()
        session.stream.feed(frame(b"a"))
        first = await session.settle()  # the read that was under way may still come
        session.stream.feed(frame(b"b"))
        assert b"[b]" not in await session.settle()
        session.budget.hold(-(1 << 20))
        assert await session.settle() == b"[a][b]", first


async def test_large_claims_do_not_keep_small_requests_out() -> None:
    async with running(budget_bytes=1 << 20) as session:
        session.budget.reserve(1 << 20)
        session.stream.feed(frame(b"a") + frame(b"b")[:7])
        await session.settle()
        session.stream.feed(frame(b"b")[7:])
        assert await session.settle() == b"[a][b]"
        session.stream.feed(frame(bytes(300_000)))
        assert await session.settle() == b"[a][b]", "a large one waits for room"
        session.budget.release(1 << 20)
        assert (await session.settle()).startswith(b"[a][b][\0")


async def test_flood_of_requests_that_are_awaited_lets_others_in_and_holds_one_answer() -> None:
    async with running() as session, trio.open_nursery() as nursery:

        async def handle() -> Outcome:
            return [b"x" * 1000]

        session.echo.answers = {b"slow": handle}
        session.stream.block_sends()
        session.stream.feed(frame(b"slow") * 500)
        await session.settle()
        assert session.echo.seen.count(b"slow") == 1, "what is not taken is not asked for again"
        other = ScriptedStream()
        nursery.start_soon(Connection(other, "PLAINTEXT", session.shared).serve)
        other.feed(frame(b"b"))
        await session.settle()
        assert bytes(other.sent) == b"[b]"
        nursery.cancel_scope.cancel()


async def test_flood_whose_answers_are_taken_lets_others_in_between_its_requests() -> None:
    async with running() as session, trio.open_nursery() as nursery:
        other = ScriptedStream()
        nursery.start_soon(Connection(other, "PLAINTEXT", session.shared).serve)
        await session.settle()
        seen_by_other: list[bool] = []

        async def handle() -> Outcome:
            if not seen_by_other:
                other.feed(frame(b"b"))
            seen_by_other.append(bool(other.sent))
            return [b"x"]

        session.echo.answers = {b"slow": handle}
        session.stream.feed(frame(b"slow") * 500)
        await session.settle()
        assert len(seen_by_other) == 500
        assert seen_by_other[10], "the other one waits for a few requests, not for all"
        nursery.cancel_scope.cancel()


async def test_many_awaited_requests_in_one_read_are_answered_in_order() -> None:
    async with running() as session:
        order = iter(range(1000))

        async def handle() -> Outcome:
            number = next(order)
            await trio.lowlevel.checkpoint()
            return [b"%d," % number]

        session.echo.answers = {b"slow": handle}
        session.stream.feed(frame(b"slow") * 1000 + frame(b"end"))
        expected = b"".join(b"%d," % number for number in range(1000)) + b"[end]"
        assert await session.settle() == expected


async def test_large_frames_that_fill_the_budget_do_not_wait_for_each_other_for_ever() -> None:
    body = bytes(3 << 20)
    async with running(budget_bytes=2 * FIRST_BYTES) as session, trio.open_nursery() as nursery:
        streams = [session.stream, ScriptedStream(), ScriptedStream()]
        for stream in streams[1:]:
            nursery.start_soon(Connection(stream, "PLAINTEXT", session.shared).serve)
        await session.settle()
        for stream in streams:
            stream.feed(frame(body)[:200_000])
            await session.settle()
        for stream in streams:
            stream.feed(frame(body)[200_000:])
        await session.settle()
        assert [len(seen) for seen in session.echo.seen] == [len(body)] * 3
        assert session.budget.held_bytes == 0
        nursery.cancel_scope.cancel()


async def test_frame_that_begins_while_the_budget_is_spent_takes_nothing_and_is_not_overdue() -> None:
    async with running(budget_bytes=1 << 20) as session:
        await session.settle()
        session.budget.reserve(1 << 20)
        session.stream.feed(frame(b"a") + frame(bytes(500_000))[:100_000])
        assert await session.settle() == b"[a]", "what came before is answered"
        assert session.budget.held_bytes == 1 << 20
        session.connection.close_if_overdue(trio.current_time() + 31)
        assert not session.stream.closed, "it is the broker that keeps the peer waiting"
        session.stream.feed(frame(bytes(500_000))[100_000:])
        session.budget.release(1 << 20)
        await session.settle()
        assert [len(seen) for seen in session.echo.seen] == [1, 500_000]


async def test_batches_that_wait_for_the_disk_hold_large_frames_back() -> None:
    async with running(budget_bytes=2 << 20) as session:
        await session.settle()
        session.stream.feed(frame(bytes(3 << 20))[:1000])
        await session.settle()
        session.budget.hold(1 << 20)
        session.stream.feed(frame(bytes(3 << 20))[1000:])
        await session.settle()
        assert session.echo.seen == [], "it can wait: the disk gives bytes back"
        session.budget.hold(-(1 << 20))
        await session.settle()
        assert len(session.echo.seen) == 1


async def test_write_deadline_does_not_begin_before_there_is_a_response(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with running() as session:
        promise = Promise(b"x")
        session.echo.answers = {b"a": lambda: promise}
        session.stream.feed(frame(b"a"))
        await trio.sleep(100)
        session.stream.block_sends()
        promise.resolve()
        await session.settle()
        session.connection.close_if_overdue(trio.current_time() + 1)
        assert not session.stream.closed
        session.connection.close_if_overdue(trio.current_time() + 61)
        assert session.stream.closed


class Range:
    """A part of a file, as a log slice is."""

    def __init__(self, file: File, count: int) -> None:
        self.file = file
        self.position = 0
        self.count = count
        self.released = False

    def release(self) -> None:
        self.released = True


class SlowStream(ScriptedStream):
    """Takes a file's bytes 40 s for each call."""

    async def send_file(self, file: File, position: int, count: int) -> None:
        await trio.sleep(40)
        await super().send_file(file, position, count)


async def test_slow_peer_that_takes_a_large_response_step_by_step_is_not_cut_off(
    autojump_clock: trio.testing.MockClock,
) -> None:
    size = 2 * SEND_STEP_BYTES + 5
    file = MemoryFiles().open("log", write=True, create=True)
    file.pwrite(bytes(size), 0)
    part = Range(file, size)
    session = Session()
    session.stream = SlowStream()
    session.connection = Connection(session.stream, "PLAINTEXT", session.shared)
    session.echo.answers = {b"a": lambda: [b"head", part]}
    async with trio.open_nursery() as nursery:
        nursery.start_soon(session.run)
        session.stream.feed(frame(b"a"))
        while len(session.stream.sent) < 4 + size:
            await trio.sleep(1)
            session.connection.close_if_overdue(trio.current_time())
            assert not session.stream.closed
        assert part.released
        nursery.cancel_scope.cancel()


async def test_request_that_arrives_as_the_broker_stops_is_not_begun() -> None:
    async with running() as session:
        await session.settle()
        session.stream.feed(frame(b"a"))
        session.connection.stop()
        await session.ended.wait()
        assert session.echo.seen == [], "its response could not be sent whole"


async def test_frame_that_becomes_whole_as_the_broker_stops_is_not_begun() -> None:
    async with running() as session:
        session.stream.feed(frame(b"abc")[:7])
        await session.settle()
        session.stream.feed(frame(b"abc")[7:])
        session.connection.stop()
        await session.ended.wait()
        assert session.echo.seen == []
        assert session.budget.held_bytes == 0
