"""A stream for tests: what the peer sends is put in by hand, what it gets is collected."""

from collections.abc import Sequence

import trio

from penstock.runtime.files import Buffer, File
from penstock.runtime.network import ConnectionLost


class ScriptedStream:
    """One end of a connection. `feed` and `end` play the peer; `sent` is what it has been sent."""

    def __init__(self, peer: str = "127.0.0.1:50000") -> None:
        self.peer = peer
        self.sent = bytearray()
        self.closed = False
        self.read_sizes: list[int] = []
        self.sending = trio.Event()
        self.taken_at_once_bytes = 1 << 40
        """The most that one `send_now` takes."""
        self.takes_now_while_blocked = False
        """Whether `send_now` gets through while `block_sends` holds: what a sender in the middle of its bytes must not see."""
        self._incoming = bytearray()
        self._ended = False
        self._wake = trio.Event()
        self._gate: trio.Event | None = None

    def feed(self, data: bytes) -> None:
        """The peer sends."""
        self._incoming += data
        self._notify()

    def end(self) -> None:
        """The peer leaves."""
        self._ended = True
        self._notify()

    def block_sends(self) -> trio.Event:
        """The peer takes nothing until the event that this returns is set."""
        self._gate = trio.Event()
        return self._gate

    def _notify(self) -> None:
        self._wake.set()
        self._wake = trio.Event()

    async def receive_into(self, buffer: bytearray | memoryview) -> int:
        while True:
            if self.closed:
                raise ConnectionLost("closed")
            count = min(len(buffer), len(self._incoming))
            if count:
                buffer[:count] = self._incoming[:count]
                del self._incoming[:count]
                self.read_sizes.append(count)
                return count
            if self._ended:
                return 0
            await self._wake.wait()

    async def send_all(self, buffers: Sequence[Buffer], *, more: bool = False) -> None:
        self.sending.set()
        if self._gate is not None:
            await self._gate.wait()
        if self.closed:
            raise ConnectionLost("closed")
        for buffer in buffers:
            self.sent += buffer

    def send_now(self, buffers: Sequence[Buffer]) -> int:
        if self.closed:
            raise ConnectionLost("closed")
        if self._gate is not None and not self._gate.is_set() and not self.takes_now_while_blocked:
            return 0
        data = b"".join(bytes(buffer) for buffer in buffers)[: self.taken_at_once_bytes]
        self.sent += data
        return len(data)

    async def send_file(self, file: File, position: int, count: int) -> None:
        data = file.pread(count, position)
        if len(data) < count:
            raise ConnectionLost("the file ended early")
        await self.send_all([data])

    def close(self) -> None:
        self.closed = True
        self._notify()
