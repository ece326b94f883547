"""A muted connection (KIP-219) is answered, and handles nothing more until its time is over."""

import trio
import trio.testing
from tests.support.streams import ScriptedStream
from tests.unit.broker.test_connection import Promise, frame, running

from penstock.broker.connection import Connection, Outcome


async def test_request_behind_one_that_mutes_is_handled_at_once(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with running() as session:

        async def mute() -> Outcome:
            session.connection.mute_until(trio.current_time() + 5)
            return [b"(muted)"]

        session.echo.answers = {b"mute": mute}
        session.stream.feed(frame(b"mute") + frame(b"a") + frame(b"mute") + frame(b"b"))
        await trio.sleep(1)
        assert bytes(session.stream.sent) == b"(muted)"
        session.stream.feed(frame(b"c"))
        await trio.sleep(4.5)
        assert bytes(session.stream.sent) == b"(muted)[a](muted)"
        await trio.sleep(5)
        assert bytes(session.stream.sent) == b"(muted)[a](muted)[b][c]"


async def test_large_request_behind_one_that_mutes_is_handled_at_once(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with running() as session:

        async def mute() -> Outcome:
            session.connection.mute_until(trio.current_time() + 5)
            return [b"(muted)"]

        large = bytes(3_000_000)
        session.echo.answers = {large: mute}
        session.stream.feed(frame(large) + frame(b"a"))
        await trio.sleep(4)
        assert bytes(session.stream.sent) == b"(muted)"
        await trio.sleep(2)
        assert bytes(session.stream.sent) == b"(muted)[a]"


async def test_connection_muted_while_it_waits_for_bytes_handles_them(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with running() as session, trio.open_nursery() as nursery:
        other = ScriptedStream()
        nursery.start_soon(Connection(other, "PLAINTEXT", session.shared).serve)
        promise = Promise(b"x")
        session.echo.answers = {b"wait": lambda: promise}
        session.stream.feed(frame(b"wait"))
        await session.settle()
        session.connection.mute_until(trio.current_time() + 5)
        promise.resolve()
        session.stream.feed(frame(b"a"))
        await trio.sleep(2)
        session.connection.mute_until(trio.current_time() + 6)  # it gets longer while it is sat out
        assert bytes(session.stream.sent) == b"x", "what was asked before is answered"
        session.connection.mute_until(trio.current_time() + 1)  # and never shorter
        other.feed(frame(b"others write into the scratch"))
        await trio.sleep(5)
        assert bytes(session.stream.sent) == b"x"
        await trio.sleep(2)
        assert bytes(session.stream.sent) == b"x[a]"
        nursery.cancel_scope.cancel()


async def test_connection_muted_within_a_large_request_handles_it(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with running() as session:
        large = frame(bytes(3_000_000))
        session.stream.feed(large[:1_000_000])
        await trio.sleep(1)
        session.connection.mute_until(trio.current_time() + 5)
        session.stream.feed(large[1_000_000:] + frame(b"a"))
        await trio.sleep(4.5)
        assert session.echo.seen == []
        await trio.sleep(1)
        assert len(session.echo.seen) == 2


async def test_stop_waits_for_a_muted_connection(autojump_clock: trio.testing.MockClock) -> None:
    async with running() as session:
        session.connection.mute_until(trio.current_time() + 50)
        session.stream.feed(frame(b"a"))
        await trio.sleep(1)
        session.connection.stop()
        with trio.fail_after(1):
            await session.ended.wait()
        assert bytes(session.stream.sent) == b""
