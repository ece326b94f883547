"""A frame's buffer goes back to the pool only when nothing has a view of it: who gets it next must be able to let it grow."""

import pytest
from tests.unit.broker.test_connection import frame, running

from penstock.broker.budget import BufferPool
from penstock.broker.connection import Outcome
from penstock.protocol.errors import ProtocolError

LARGE = bytes(2_000_000)


class CheckedPool(BufferPool):
    """Sees to it that what is given can grow."""

    def __init__(self) -> None:
        super().__init__()
        self.given_count = 0

    def give(self, buffer: bytearray) -> None:
        buffer.append(0)
        buffer.pop()
        self.given_count += 1
        super().give(buffer)


@pytest.mark.parametrize("sent_bytes", [100_000, 1_000_000])
async def test_buffer_of_a_frame_that_was_cut_off_can_not_grow(sent_bytes: int) -> None:
    async with running() as session:
        session.shared.pool = CheckedPool()
        session.stream.feed(frame(LARGE)[:sent_bytes])
        await session.settle()
        session.stream.end()
        await session.ended.wait()
        assert session.budget.held_bytes == 0


async def test_buffer_of_a_frame_that_was_refused_can_not_grow() -> None:
    async with running() as session:
        session.shared.pool = CheckedPool()

        def refuse() -> Outcome:
            raise ProtocolError("no such thing")

        session.echo.answers = {LARGE: refuse}
        session.stream.feed(frame(LARGE))
        await session.ended.wait()
        assert session.budget.held_bytes == 0


async def test_buffer_of_a_frame_that_was_handled_is_lost() -> None:
    async with running() as session:
        session.shared.pool = pool = CheckedPool()
        session.stream.feed(frame(LARGE) + frame(LARGE))
        await session.settle()
        assert pool.given_count == 2
