"""The network port: byte streams, and files sent down them.

Streams are made for a loop that answers many small requests: a call which can be met at once returns *without a trio
checkpoint*. Whoever loops over one stream must yield now and then by itself.
`OSError` is mapped here: `ConnectionLost` for whatever ends a connection, `AddressError` where listening or connecting fails.
"""

from collections.abc import Sequence
from typing import Protocol

from penstock.errors import PenstockError
from penstock.runtime.files import Buffer, File


class ConnectionLost(PenstockError):
    """The peer is gone, or the stream was closed here while in use."""


class AddressError(PenstockError):
    """Could not listen on, resolve or connect to an address; the message names it and the reason."""


class Stream(Protocol):
    """One connection. One task may receive while another sends; two may not do the same."""

    @property
    def peer(self) -> str:
        """`host:port` of the other side, for log lines and limits for each address."""
        ...

    async def receive_into(self, buffer: bytearray | memoryview) -> int:
        """Read at least one byte into `buffer`; returns the count, 0 at the end of the stream.

        Raises:
            ConnectionLost: the connection broke.

        Cancellation: nothing was read.
        """
        ...

    async def send_all(self, buffers: Sequence[Buffer], *, more: bool = False) -> None:
        """Send the buffers in order. `more` hints that a file follows at once (MSG_MORE).

        Cancellation: an unknown part was sent; the stream is good only for closing.
        """
        ...

    def send_now(self, buffers: Sequence[Buffer]) -> int:
        """Send what the connection takes without waiting, in order, and return how many bytes that was; 0 where it takes none.

        For a task that may not wait, while no other task is sending. What was not taken is the caller's to send later.

        Raises:
            ConnectionLost: the connection broke.
        """
        ...

    async def send_file(self, file: File, position: int, count: int) -> None:
        """Send exactly `count` bytes of `file` from `position` (sendfile where the system has it).

        Raises:
            ConnectionLost: the connection broke, or the file ended before `count` bytes.
        """
        ...

    def close(self) -> None:
        """Close at once; safe to call twice, and wakes tasks that wait on the stream with `ConnectionLost`."""
        ...


class Listener(Protocol):
    """An address that is held, and listened on once it is open."""

    @property
    def address(self) -> tuple[str, int]:
        """Host and port that it is bound to (the real port where 0 was asked for)."""
        ...

    def open(self) -> None:
        """Take connections from now on; before it they are refused at once. Does nothing where it is open.

        Raises:
            AddressError: another process has opened the same address meanwhile.
        """
        ...

    async def accept(self) -> Stream:
        """The next connection; only where it is open.

        Raises:
            TooManyOpenFiles: EMFILE or ENFILE; wait a little and accept again.
            ConnectionLost: the listener was closed.
        """
        ...

    def close(self) -> None:
        """Stop listening."""
        ...


class Network(Protocol):
    """Where streams come from."""

    async def listen(self, host: str, port: int, *, backlog: int = 1024, is_open: bool = True) -> Listener:
        """Listen on a TCP address, or only hold it until `open`; port 0 takes a free one. Raises AddressError."""
        ...

    async def connect(self, host: str, port: int) -> Stream:
        """Open a TCP connection (all addresses of the name in turn). Raises AddressError."""
        ...
