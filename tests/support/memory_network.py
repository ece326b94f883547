"""A network in memory: whole programs talk to each other in one trio run, in virtual time, and are cut off when a test says so.

    network = MemoryNetwork(latency_s=0.001)
    away = network.host("member-3")     the network as one machine sees it: hand this to its environment
    away.freeze()                       nothing goes in or out of it, nothing is lost (SIGSTOP; a cable pulled for a while)
    away.thaw()
    away.crash()                        its connections break without a word to anybody on it, and it never connects again

Invariants: a connection's bytes arrive in order, each way after `latency_s`; a sender waits while CAPACITY_BYTES are on their way.
"""

from collections import deque
from collections.abc import Sequence

import trio

from penstock.runtime.files import Buffer, File
from penstock.runtime.network import AddressError, ConnectionLost

CAPACITY_BYTES = 256 * 1024
FIRST_PORT = 40_000


class _Pipe:
    """One direction of a connection."""

    def __init__(self, latency_s: float) -> None:
        self.latency_s = latency_s
        self.chunks: deque[tuple[float, bytearray]] = deque()
        self.size_bytes = 0
        self.has_ended = False
        """The sender closed: the reader gets what is left, then the end."""
        self.is_dead = False
        """The reader is gone: whoever sends learns so."""
        self.changed = trio.lowlevel.ParkingLot()

    def wake(self) -> None:
        self.changed.unpark_all()


class MemoryStream:
    """One end."""

    def __init__(self, peer: str, incoming: _Pipe, outgoing: _Pipe, host: "Host | None") -> None:
        self.peer = peer
        self._incoming = incoming
        self._outgoing = outgoing
        self._host = host
        self._is_closed = False

    async def receive_into(self, buffer: bytearray | memoryview) -> int:
        pipe = self._incoming
        while True:
            self._check_open()
            if self._host is not None and self._host.is_frozen:
                await self._host.wait_thawed()
                continue
            if pipe.chunks:
                due, chunk = pipe.chunks[0]
                if due > trio.current_time():
                    await self._wait(due)
                    continue
                return self._take(chunk, buffer)
            if pipe.has_ended:
                return 0
            await pipe.changed.park()

    async def _wait(self, due: float) -> None:
        """Until then, or something happens. Apart from who has a buffer: what ends the wait has its frames in hand for a while."""
        with trio.move_on_at(due):
            await self._incoming.changed.park()

    def _take(self, chunk: bytearray, buffer: bytearray | memoryview) -> int:
        count = min(len(buffer), len(chunk))
        buffer[:count] = chunk[:count]
        del chunk[:count]
        if not chunk:
            self._incoming.chunks.popleft()
        self._incoming.size_bytes -= count
        self._incoming.wake()
        return count

    async def send_all(self, buffers: Sequence[Buffer], *, more: bool = False) -> None:
        for buffer in buffers:
            data = memoryview(buffer)
            while True:
                data = data[await self._send_some(data) :]
                if not len(data):
                    break

    def send_now(self, buffers: Sequence[Buffer]) -> int:
        self._check_open()
        if self._outgoing.is_dead:
            raise ConnectionLost(f"{self.peer}: the other side is gone")
        sent = 0
        for buffer in buffers:
            if self._host is not None and self._host.is_frozen:
                break
            count = self._put(memoryview(buffer))
            sent += count
            if count < len(buffer):
                break
        return sent

    async def _send_some(self, data: memoryview) -> int:
        pipe = self._outgoing
        while True:
            self._check_open()
            if self._host is not None and self._host.is_frozen:
                await self._host.wait_thawed()
            elif pipe.is_dead:
                raise ConnectionLost(f"{self.peer}: the other side is gone")
            elif pipe.size_bytes < CAPACITY_BYTES:
                break
            else:
                await pipe.changed.park()
        return self._put(data)

    def _put(self, data: memoryview) -> int:
        pipe = self._outgoing
        count = min(len(data), CAPACITY_BYTES - pipe.size_bytes)
        if count:
            pipe.chunks.append((trio.current_time() + pipe.latency_s, bytearray(data[:count])))
            pipe.size_bytes += count
            pipe.wake()
        return count

    async def send_file(self, file: File, position: int, count: int) -> None:
        data = file.pread(count, position)
        await self.send_all([data])
        if len(data) < count:  # the stream is good only for closing now, by whoever owns it
            raise ConnectionLost(f"{self.peer}: the file ended early")

    def close(self) -> None:
        if self._is_closed:
            return
        self._is_closed = True
        if self._host is not None:
            self._host.streams.discard(self)
        self._outgoing.has_ended = True
        self._incoming.is_dead = True
        self.wake()

    def belong_to(self, host: "Host") -> None:
        """This end, which was accepted, is that machine's: what happens to it happens here."""
        self._host = host
        host.streams.add(self)

    def wake(self) -> None:
        """Let both sides look again."""
        self._outgoing.wake()
        self._incoming.wake()

    def _check_open(self) -> None:
        if self._is_closed:
            raise ConnectionLost(f"{self.peer}: closed")


class MemoryListener:
    """A port that is listened on."""

    def __init__(self, network: "MemoryNetwork", address: tuple[str, int], is_open: bool) -> None:
        self.address = address
        self.is_open = is_open
        self._network = network
        self._waiting: deque[MemoryStream] = deque()
        self._lot = trio.lowlevel.ParkingLot()
        self._is_closed = False

    def open(self) -> None:
        self.is_open = True

    def offer(self, stream: MemoryStream) -> None:
        """Somebody connected."""
        self._waiting.append(stream)
        self._lot.unpark()

    async def accept(self) -> MemoryStream:
        await trio.lowlevel.checkpoint()
        while not self._waiting or self._is_closed:
            if self._is_closed:
                raise ConnectionLost("the listener was closed")
            await self._lot.park()
        return self._waiting.popleft()

    def close(self) -> None:
        self._is_closed = True
        self._network.forget(self)
        for stream in self._waiting:
            stream.close()
        self._lot.unpark_all()


class MemoryNetwork:
    """See the module. As a `Network` itself it is a host that nothing ever happens to."""

    def __init__(self, *, latency_s: float = 0.0) -> None:
        self._latency_s = latency_s
        self._listeners: dict[tuple[str, int], MemoryListener] = {}
        self._next_port = FIRST_PORT

    def host(self, name: str) -> "Host":
        """The network as one machine sees it; `name` is for messages."""
        return Host(self, name)

    async def listen(
        self, host: str, port: int, *, backlog: int = 1024, is_open: bool = True
    ) -> MemoryListener:
        await trio.lowlevel.checkpoint()
        address = (host, port or self._new_port())
        if address in self._listeners:
            raise AddressError(f"{host}:{port} is in use")
        listener = self._listeners[address] = MemoryListener(self, address, is_open)
        return listener

    async def connect(self, host: str, port: int) -> MemoryStream:
        return await self.connect_from(None, host, port)

    async def connect_from(self, origin: "Host | None", host: str, port: int) -> MemoryStream:
        """A connection whose client side belongs to `origin`."""
        await trio.lowlevel.checkpoint()
        listener = self._listeners.get((host, port))
        if listener is None or not listener.is_open:
            raise AddressError(f"{host}:{port}: nobody listens there")
        there, back = _Pipe(self._latency_s), _Pipe(self._latency_s)
        listener.offer(MemoryStream(f"{host}:{self._new_port()}", there, back, None))
        return MemoryStream(f"{host}:{port}", back, there, origin)

    def forget(self, listener: MemoryListener) -> None:
        """It was closed."""
        if self._listeners.get(listener.address) is listener:
            del self._listeners[listener.address]

    def _new_port(self) -> int:
        self._next_port += 1
        return self._next_port


class Host:
    """One machine's view."""

    def __init__(self, network: MemoryNetwork, name: str) -> None:
        self.streams: set[MemoryStream] = set()
        self._network = network
        self._name = name
        self._thawed = trio.Event()
        self._thawed.set()
        self._has_crashed = False

    @property
    def is_frozen(self) -> bool:
        """Whether nothing goes in or out now."""
        return not self._thawed.is_set()

    async def wait_thawed(self) -> None:
        """Return when it is over."""
        await self._thawed.wait()

    def freeze(self) -> None:
        """Hold everything from now on."""
        self._thawed = trio.Event()
        for stream in self.streams:
            stream.wake()

    def thaw(self) -> None:
        """Let everything go on."""
        self._thawed.set()

    def crash(self) -> None:
        """Break all connections, and never connect again."""
        self._has_crashed = True
        for stream in tuple(self.streams):
            stream.close()
        self.thaw()

    async def listen(
        self, host: str, port: int, *, backlog: int = 1024, is_open: bool = True
    ) -> MemoryListener:
        return await self._network.listen(host, port, backlog=backlog, is_open=is_open)

    async def connect(self, host: str, port: int) -> MemoryStream:
        await self.wait_thawed()
        if self._has_crashed:
            raise AddressError(f"{self._name} has crashed")
        stream = await self._network.connect_from(self, host, port)
        self.streams.add(stream)
        return stream
