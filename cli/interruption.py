"""Ctrl-C and SIGTERM for commands that have something to bring to an end: the first asks for it, the second takes it.

Owns which signals count. Knows no command.
"""

import signal
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager

import trio

from penstock.client.lifetime import OwnedNursery


class Interruption:
    """What signals do to a command: the first ends its work, the second `everything`."""

    def __init__(self) -> None:
        self.everything = trio.CancelScope()
        self.exit_code: int | None = None
        """What a shell expects of a process that a signal ended; None while there was none."""
        self._work: list[trio.CancelScope] = []

    def work(self) -> trio.CancelScope:
        """A scope for what the first signal is to end. Each is for one `with` block."""
        scope = trio.CancelScope()
        if self.exit_code is not None:
            scope.cancel()
        self._work.append(scope)
        return scope

    def stop(self, exit_code: int) -> None:
        """What a signal does."""
        if self.exit_code is not None:
            self.everything.cancel()
        self.exit_code = exit_code
        for scope in self._work:
            scope.cancel()


async def _watch(signals: AsyncIterator[int], interruption: Interruption) -> None:
    async for number in signals:
        interruption.stop(128 + number)


@asynccontextmanager
async def interruptible() -> AsyncGenerator[Interruption, None]:
    """Signals are the command's own business within the block. Errors of the block leave it as they are."""
    interruption = Interruption()
    watching = OwnedNursery()
    with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        nursery = await watching.open()
        nursery.start_soon(_watch, signals, interruption)
        try:
            with interruption.everything:
                yield interruption
        except BaseException as error:
            await watching.close(type(error), error, error.__traceback__)
            raise
        await watching.close(None, None, None)


__all__ = ["Interruption", "interruptible"]
