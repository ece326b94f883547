"""Standard input and output of a process, off the event loop.

Owns the waiting: nothing here blocks the loop, however slow the other end of a pipe is, and every wait can be cancelled. What the system can
wait for (pipes, terminals, sockets) is waited for; plain files never make anybody wait for long, and are read and written by a worker.

Invariants: the descriptors stay in the mode that they were handed over in (they may be shared with other processes); to what is waited for,
no more is written at once than a pipe that has room at all takes without blocking (POSIX: PIPE_BUF).
"""

import os
import stat
from typing import Protocol

import trio

from penstock.errors import PenstockError
from penstock.runtime.files import Buffer
from penstock.runtime.posix_files import storage_error
from penstock.runtime.threads import Threads

_PIPE_WRITE_MAX_BYTES = 4096


class ReaderGone(PenstockError):
    """Nobody reads what is written any more: the other end of the pipe was closed."""


class Output(Protocol):
    """Where bytes go, as far as there is room."""

    async def write_some(self, data: Buffer) -> int:
        """Write the beginning of `data`; returns how many bytes. See `StandardOutput`."""
        ...


class StandardInput:
    """Reads a descriptor from where it stands: standard input, or what was opened by a `name` and may be a pipe."""

    def __init__(self, descriptor: int, threads: Threads, name: str = "standard input") -> None:
        self._name = name
        self._descriptor = descriptor
        self._threads = threads
        self._waits = _can_wait(descriptor)

    async def read(self, count: int) -> bytes:
        """What is there, at least one byte and at most `count`; nothing at the end. Waits until something is there.

        Raises StorageError. Cancellation: nothing was taken.
        """
        try:
            if not self._waits:
                return await self._threads.run(os.read, self._descriptor, count)
            await trio.lowlevel.wait_readable(self._descriptor)
            return os.read(self._descriptor, count)
        except OSError as error:
            raise storage_error(error, self._name) from error


class StandardOutput:
    """Writes to a descriptor."""

    def __init__(self, descriptor: int, threads: Threads) -> None:
        self._descriptor = descriptor
        self._threads = threads
        self._waits = _can_wait(descriptor)

    async def write_some(self, data: Buffer) -> int:
        """Write the beginning of `data`; returns how many bytes, at least one (none of no data). Waits until there is room.

        Raises ReaderGone, and StorageError (DiskFull among them). Cancellation: nothing was written.
        """
        if not data:
            return 0
        try:
            if not self._waits:
                return await self._threads.run(os.write, self._descriptor, data)
            await trio.lowlevel.wait_writable(self._descriptor)
            return os.write(self._descriptor, memoryview(data)[:_PIPE_WRITE_MAX_BYTES])
        except (BrokenPipeError, ConnectionResetError) as error:
            raise ReaderGone("nobody reads the output any more") from error
        except OSError as error:
            raise storage_error(error, "standard output") from error


def _can_wait(descriptor: int) -> bool:
    mode = os.fstat(descriptor).st_mode
    return stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode) or os.isatty(descriptor)


__all__ = ["Output", "ReaderGone", "StandardInput", "StandardOutput"]
