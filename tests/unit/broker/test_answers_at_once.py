"""A reply that becomes ready is sent on the spot where that disturbs nobody, and in its place in the order always."""

import pytest
import trio
from tests.support.memory_files import MemoryFiles
from tests.unit.broker.test_connection import Promise, Session, frame, running

from penstock.broker.connection import ANSWER_AT_ONCE_MAX_BYTES, ANSWERS_AT_ONCE_MAX
from penstock.broker.replies import Parts
from penstock.runtime.files import File


class Slice:
    """A range of a file, as a log gives it."""

    def __init__(self, file: File, position: int, count: int) -> None:
        self.file, self.position, self.count = file, position, count
        self.release_count = 0

    def release(self) -> None:
        self.release_count += 1


class Fetched(Promise):
    """A reply with a range of a file behind its head."""

    def __init__(self, part: Slice) -> None:
        super().__init__(b"")
        self.part = part

    def try_finish(self) -> Parts | None:
        return [b"<", self.part, b">"]


class Broken(Promise):
    """Meets a bug when it is to be answered."""

    def try_finish(self) -> Parts | None:
        raise ZeroDivisionError


def slice_of(data: bytes, position: int, count: int) -> Slice:
    files = MemoryFiles()
    files.make_directories("/d")
    file = files.open("/d/f", write=True, create=True)
    file.pwrite(data, 0)
    return Slice(file, position, count)


async def waiting(session: Session, *promises: Promise) -> None:
    """Have the connection wait for these."""
    names = [b"%d" % index for index in range(len(promises))]
    answers = dict(zip(names, promises, strict=True))
    session.echo.answers = {name: lambda name=name: answers[name] for name in names}  # type: ignore[misc]
    session.stream.feed(b"".join(map(frame, names)))
    await session.settle()


async def test_a_ready_reply_waits_for_its_writers_turn() -> None:
    async with running() as session:
        promise = Promise(b"here")
        await waiting(session, promise)
        promise.resolve()
        assert session.stream.sent == b"here", "sent before anything else ran"
        assert await session.settle() == b"here", "and not sent again by the writer"
        session.stream.feed(frame(b"next"))
        assert await session.settle() == b"here[next]"


async def test_a_reply_that_was_just_asked_for_waits_for_its_writer_to_begin() -> None:
    async with running() as session:
        promise = Promise(b"here")

        def ask() -> Promise:
            trio.lowlevel.current_trio_token().run_sync_soon(promise.resolve)
            return promise

        session.echo.answers = {b"0": ask}
        session.stream.feed(frame(b"0") + frame(b"1"))
        assert await session.settle() == b"here[1]"


async def test_a_ready_reply_overtakes_one_before_it() -> None:
    async with running() as session:
        first, second = Promise(b"1"), Promise(b"2")
        await waiting(session, first, second)
        second.resolve()
        assert session.stream.sent == b""
        first.resolve()
        assert await session.settle() == b"12"


async def test_one_that_is_not_ready_is_answered_with_the_one_before_it() -> None:
    async with running() as session:
        first, second = Promise(b"1"), Promise(b"2")
        await waiting(session, first, second)
        first.resolve()
        assert await session.settle() == b"1"
        second.resolve()
        assert await session.settle() == b"12"


async def test_a_reply_that_was_given_up_becomes_ready_while_nothing_is_left_to_send() -> None:
    async with running() as session:
        late = Promise(b"late", deadline=trio.current_time() - 1)
        await waiting(session, late)
        prompt = Promise(b"prompt")
        await waiting(session, prompt)
        prompt.resolve()
        late.resolve()  # the writer has not run yet
        assert await session.settle() == b"(late)prompt"


async def test_a_ready_reply_is_sent_into_the_middle_of_another() -> None:
    async with running() as session:
        gate = session.stream.block_sends()
        session.stream.takes_now_while_blocked = True
        first, second = Promise(b"first"), Promise(b"second")
        await waiting(session, first, second)
        session.shared.answers_at_once_left = 0
        first.resolve()
        await session.settle()
        session.shared.answers_at_once_left = ANSWERS_AT_ONCE_MAX
        second.resolve()
        assert session.stream.sent == b"", "the writer is about to send what comes first"
        gate.set()
        assert await session.settle() == b"firstsecond"


@pytest.mark.parametrize("taken_bytes", [0, 1, 3])
async def test_what_the_socket_does_not_take_is_lost(taken_bytes: int) -> None:
    async with running() as session:
        session.stream.taken_at_once_bytes = taken_bytes
        promise = Promise(b"here")
        await waiting(session, promise)
        promise.resolve()
        assert session.stream.sent == b"here"[:taken_bytes]
        assert await session.settle() == b"here"


async def test_hundreds_that_wait_for_the_same_record_hold_up_the_one_who_wrote_it() -> None:
    async with running() as session:
        promises = [Promise(b"%d;" % index) for index in range(20)]
        await waiting(session, *promises)
        for promise in promises:
            promise.resolve()
        assert session.stream.sent.count(b";") == ANSWERS_AT_ONCE_MAX
        assert await session.settle() == b"".join(b"%d;" % index for index in range(20))


@pytest.mark.parametrize("count", [10, ANSWER_AT_ONCE_MAX_BYTES])
async def test_a_range_of_a_log_is_sent_twice_or_held_for_ever(count: int) -> None:
    async with running() as session:
        data = bytes(range(256)) * 100
        part = slice_of(data, 5, count)
        reply = Fetched(part)
        await waiting(session, reply)
        reply.resolve()
        assert bool(session.stream.sent) == (count == 10), "a large one is the writer's"
        assert await session.settle() == b"<" + data[5 : 5 + count] + b">"
        assert part.release_count == 1


async def test_a_range_that_ends_early_is_sent_shorter_than_promised() -> None:
    async with running() as session:
        part = slice_of(b"short", 0, 10)
        reply = Fetched(part)
        await waiting(session, reply)
        reply.resolve()
        await session.ended.wait()
        assert session.stream.closed
        assert part.release_count == 1


async def test_a_bug_of_one_reply_hurts_whoever_made_it_ready() -> None:
    session = Session()
    with pytest.RaisesGroup(pytest.RaisesGroup(ZeroDivisionError)):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(session.run)
            reply = Broken(b"")
            await waiting(session, reply)
            reply.resolve()  # raises nothing here
            await trio.sleep_forever()


async def test_a_reply_that_was_given_up_and_comes_after_all_is_sent() -> None:
    async with running() as session:
        late = Promise(b"late", deadline=trio.current_time() - 1)
        await waiting(session, late)
        assert await session.settle() == b"(late)"
        late.resolve()
        assert await session.settle() == b"(late)"


async def test_a_stop_answers_all_that_wait_in_order() -> None:
    async with running() as session:
        promises = [Promise(b"%d" % index) for index in range(6)]
        await waiting(session, *promises)
        session.connection.stop()
        await session.ended.wait()
        assert session.stream.sent == b"012345"
