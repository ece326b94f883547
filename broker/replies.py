"""Responses on their way: parts to send, and promises of parts.

A handler that can answer at once returns the parts. One that must wait (for a sync, for data, for the disk) returns a `Reply`,
which keeps its place in the connection's order. Knows nothing of sockets: the connection sends.
"""

from collections.abc import Callable
from typing import Protocol

from penstock.runtime.files import File


class FileRange(Protocol):
    """Bytes of a file that are sent as they are (`storage.log.LogSlice`)."""

    @property
    def file(self) -> File:
        """Where they are."""
        ...

    @property
    def position(self) -> int:
        """Where they begin."""
        ...

    @property
    def count(self) -> int:
        """How many."""
        ...

    def release(self) -> None:
        """They have been sent, or won't be."""
        ...


Part = bytes | FileRange
Parts = list[Part]


class Reply:
    """A response that is not there yet.

    `ready` turns true once, by `resolve`; the connection's writer is woken then. Past `deadline` (monotonic seconds) the writer
    asks for the answer all the same, and `finish` says what there is to say.
    """

    __slots__ = ("_wake", "deadline", "ready")

    def __init__(self, deadline: float) -> None:
        self.deadline = deadline
        self.ready = False
        self._wake: Callable[[], None] | None = None

    def on_ready(self, wake: Callable[[], None]) -> None:
        """Call `wake` when the reply becomes ready."""
        self._wake = wake

    def resolve(self) -> None:
        """The answer can be given now. Safe to call again."""
        if not self.ready:
            self.ready = True
            if self._wake is not None:
                self._wake()

    def hurry(self) -> None:
        """The broker stops: answer now if that is honest (a long poll does; an ack waits for what it promises)."""

    def try_finish(self) -> Parts | None:
        """The whole response, length prefix included, if it takes no waiting; None sends the caller to `finish`.

        Called when ready or past the deadline. After a response was returned, neither is called again.
        """
        raise NotImplementedError

    async def finish(self) -> Parts:
        """The same, waiting for the disk where it must. Cancellation: the owner calls `abandon` then."""
        raise NotImplementedError

    def abandon(self) -> None:
        """The connection is gone: forget everything that waits or is held for it."""


def release(parts: Parts) -> None:
    """Let go of the log slices among parts that won't be sent."""
    for part in parts:
        if not isinstance(part, bytes):
            part.release()
