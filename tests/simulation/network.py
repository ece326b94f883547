"""Simulated TCP between hosts: latency, jitter, cut and slow links in either direction, resets, and peers that vanish without a word.

    network = SimulatedNetwork(kernel)
    view = network.attach("10.0.0.1", process)      what the environment of that process is given
    network.link("10.0.0.1", "10.0.0.2").cut()      nothing gets from the first to the second
    network.link(...).mend()
    network.reset_all("10.0.0.1")                   its connections break, and both sides learn of it

Invariants: the bytes of a connection arrive in order, or it breaks. What can't get through is sent again, ever less often, and after `GIVE_UP_S` the
sender's side breaks while the other side knows nothing (half-open). A killed process resets its connections; a machine without power says nothing, and
resets them when it is asked after it has come back. A frozen process takes connections and bytes as long as its kernel has room for them.
"""

import zlib
from collections import deque
from collections.abc import Sequence
from random import Random

import trio
from tests.simulation.kernel import Incarnation, Kernel

from penstock.runtime.files import Buffer, File, TooManyOpenFiles
from penstock.runtime.network import AddressError, ConnectionLost

CAPACITY_BYTES = 256 * 1024
RETRY_FIRST_S = 0.2
RETRY_MAX_S = 3.0
GIVE_UP_S = 15.0
CONNECT_GIVE_UP_S = 8.0
FIRST_PORT = 40_000
SHORT_READ_CHANCE = 0.01


class Link:
    """One direction between two hosts."""

    __slots__ = ("_cuts", "_random", "bytes_per_s", "delay_s", "jitter_s")

    def __init__(self, random: Random) -> None:
        self._random = random
        self._cuts = 0
        self.delay_s = 0.0002
        self.jitter_s = 0.0006
        self.bytes_per_s = 0.0
        """0: no bound."""

    @property
    def is_cut(self) -> bool:
        """Whether nothing gets through."""
        return self._cuts > 0

    def cut(self) -> None:
        """Let nothing through, until mended as often as cut."""
        self._cuts += 1

    def mend(self) -> None:
        self._cuts -= 1

    def transit_s(self, size_bytes: int) -> float:
        """How long so many bytes take."""
        transit_s = self.delay_s + self.jitter_s * self._random.random()
        return transit_s + size_bytes / self.bytes_per_s if self.bytes_per_s else transit_s


class _Machine:
    """A host as the network knows it."""

    def __init__(self, address: str) -> None:
        self.address = address
        self.process: Incarnation | None = None
        """None: no power."""
        self.has_descriptors = True
        self.listeners: dict[int, SimulatedListener] = {}
        self.streams: dict[int, SimulatedStream] = {}


class _Pipe:
    """One direction of a connection."""

    __slots__ = (
        "arrived",
        "first_try",
        "has_ended",
        "in_flight",
        "in_flight_bytes",
        "last_due",
        "link",
        "reader",
        "retry_s",
        "writer",
    )

    def __init__(self, link: Link) -> None:
        self.link = link
        self.in_flight: deque[tuple[float, bytes | None]] = deque()
        self.in_flight_bytes = 0
        self.arrived = bytearray()
        self.has_ended = False
        self.last_due = 0.0
        self.retry_s = 0.0
        self.first_try = 0.0
        self.reader: SimulatedStream
        self.writer: SimulatedStream


class SimulatedStream:
    """One end of a connection."""

    def __init__(
        self,
        network: "SimulatedNetwork",
        number: int,
        machine: _Machine,
        peer: str,
        incoming: _Pipe,
        outgoing: _Pipe,
    ) -> None:
        self.peer = peer
        self.number = number
        self.machine = machine
        assert machine.process is not None
        self.process = machine.process
        self.broken = ""
        """Why it can't be used any more."""
        self._network = network
        self._incoming = incoming
        self._outgoing = outgoing
        incoming.reader = self
        outgoing.writer = self
        self._readable = trio.lowlevel.ParkingLot()
        self._writable = trio.lowlevel.ParkingLot()
        machine.streams[number] = self

    async def receive_into(self, buffer: bytearray | memoryview) -> int:
        pipe = self._incoming
        while not pipe.arrived:
            self._check()
            if pipe.has_ended:
                return 0
            await self._readable.park()
        self._check()
        count = min(len(buffer), len(pipe.arrived))
        if count > 1 and self._network.random.random() < SHORT_READ_CHANCE:
            count = self._network.random.randrange(1, count)
        buffer[:count] = pipe.arrived[:count]
        del pipe.arrived[:count]
        pipe.writer.wake_writer()
        return count

    async def send_all(self, buffers: Sequence[Buffer], *, more: bool = False) -> None:
        for buffer in buffers:
            data = memoryview(buffer)
            while True:
                self._check()
                room = self._room()
                if room > 0:
                    self._put(data[:room])
                    data = data[room:]
                    if not len(data):
                        break
                else:
                    await self._writable.park()

    def send_now(self, buffers: Sequence[Buffer]) -> int:
        self._check()
        sent = 0
        for buffer in buffers:
            room = self._room()
            data = memoryview(buffer)[: max(room, 0)]
            if len(data):
                self._put(data)
            sent += len(data)
            if len(data) < len(buffer):
                break
        return sent

    async def send_file(self, file: File, position: int, count: int) -> None:
        data = file.pread(count, position)
        await self.send_all([data])
        if len(data) < count:
            raise ConnectionLost(f"{self.peer}: the file ended early")

    def close(self) -> None:
        if self.broken:
            return
        self.break_off("closed")
        self._network.put(self._outgoing, None)

    def break_off(self, reason: str) -> None:
        """From now on this side can't use it; those who wait on it learn so."""
        if not self.broken:
            self.broken = reason
            del self.machine.streams[self.number]
        self._readable.unpark_all()
        self._writable.unpark_all()

    def reset(self) -> None:
        """Break both sides off; the other one learns of it if a packet gets through."""
        if self.broken:
            return
        self.break_off("reset")
        other = self._outgoing.reader
        link = self._outgoing.link
        self._network.kernel.after(
            link.transit_s(0), lambda: None if link.is_cut else other.break_off("reset by the peer")
        )

    def wake_reader(self) -> None:
        self._readable.unpark_all()

    def wake_writer(self) -> None:
        self._writable.unpark_all()

    def _room(self) -> int:
        pipe = self._outgoing
        return CAPACITY_BYTES - pipe.in_flight_bytes - len(pipe.arrived)

    def _put(self, data: memoryview) -> None:
        self._network.put(self._outgoing, bytes(data))

    def _check(self) -> None:
        if self.broken or self.process.is_dead:
            raise ConnectionLost(f"{self.peer}: {self.broken or 'this process is dead'}")


class SimulatedListener:
    """A port that is listened on."""

    def __init__(self, machine: _Machine, address: tuple[str, int]) -> None:
        self.address = address
        self._machine = machine
        self._waiting: deque[SimulatedStream] = deque()
        self._lot = trio.lowlevel.ParkingLot()
        self._is_closed = False

    def open(self) -> None:
        """It is, from the beginning: that a starting broker's port leaves callers waiting is the harder case."""

    def offer(self, stream: SimulatedStream) -> None:
        """Somebody connected."""
        self._waiting.append(stream)
        self._lot.unpark()

    async def accept(self) -> SimulatedStream:
        await trio.lowlevel.checkpoint()
        while not self._waiting or self._is_closed:
            if self._is_closed:
                raise ConnectionLost("the listener was closed")
            await self._lot.park()
        if not self._machine.has_descriptors:
            raise TooManyOpenFiles("accept: told to fail")
        return self._waiting.popleft()

    def close(self) -> None:
        if self._is_closed:
            return
        self._is_closed = True
        if self._machine.listeners.get(self.address[1]) is self:
            del self._machine.listeners[self.address[1]]
        for stream in self._waiting:
            stream.reset()
        self._lot.unpark_all()


class SimulatedNetwork:
    """See the module."""

    def __init__(self, kernel: Kernel) -> None:
        self.kernel = kernel
        self.random = kernel.random("network")
        self._machines: dict[str, _Machine] = {}
        self._links: dict[tuple[str, str], Link] = {}
        self._next_port = FIRST_PORT

    # What is done to it

    def link(self, source: str, target: str) -> Link:
        """The direction from one address to another."""
        link = self._links.get((source, target))
        if link is None:
            link = self._links[source, target] = Link(self.random)
        return link

    def attach(self, address: str, process: Incarnation) -> "NetworkView":
        """A process starts on that machine, which has power from now on."""
        machine = self.machine(address)
        machine.process = process
        return NetworkView(self, machine, process)

    def machine(self, address: str) -> _Machine:
        """The one with that address."""
        machine = self._machines.get(address)
        if machine is None:
            machine = self._machines[address] = _Machine(address)
        return machine

    def end(self, address: str, *, is_silent: bool) -> None:
        """The process there is no more: its peers are told, or (no power) not."""
        machine = self.machine(address)
        for listener in tuple(machine.listeners.values()):
            listener.close()
        for stream in tuple(machine.streams.values()):
            if is_silent:
                stream.break_off("dead")
            else:
                stream.reset()
        if is_silent:
            machine.process = None

    def reset_all(self, address: str) -> None:
        """Break every connection of a host."""
        for stream in tuple(self.machine(address).streams.values()):
            stream.reset()

    # Connections

    async def connect_from(self, view: "NetworkView", host: str, port: int) -> SimulatedStream:
        """A new connection; waits for as long as the way there and back takes."""
        kernel = self.kernel
        there, back = self.link(view.machine.address, host), self.link(host, view.machine.address)
        ends_at = kernel.now + CONNECT_GIVE_UP_S
        retry_s = RETRY_FIRST_S
        while True:
            await trio.sleep(there.transit_s(0) + back.transit_s(0))
            view.check()
            machine = self.machine(host)
            if not there.is_cut and not back.is_cut and machine.process is not None:
                listener = machine.listeners.get(port)
                if listener is None or machine.process.is_dead:
                    raise AddressError(f"{host}:{port}: connection refused")
                return self._establish(view, machine, listener, port)
            if kernel.now + retry_s > ends_at:
                raise AddressError(f"{host}:{port}: timed out")
            await trio.sleep(retry_s)
            view.check()
            retry_s = min(retry_s * 2, RETRY_MAX_S)

    def _establish(
        self, view: "NetworkView", machine: _Machine, listener: SimulatedListener, port: int
    ) -> SimulatedStream:
        mine, theirs = view.machine.address, machine.address
        there, back = _Pipe(self.link(mine, theirs)), _Pipe(self.link(theirs, mine))
        number = self.new_port()
        stream = SimulatedStream(self, number, view.machine, f"{theirs}:{port}", back, there)
        listener.offer(SimulatedStream(self, number, machine, f"{mine}:{number}", there, back))
        self.kernel.note(f"connect {mine}:{number} {theirs}:{port}")
        return stream

    def new_port(self) -> int:
        self._next_port += 1
        return self._next_port

    # Bytes on their way

    def put(self, pipe: _Pipe, data: bytes | None) -> None:
        """Send bytes, or (None) the end."""
        kernel = self.kernel
        size_bytes = len(data) if data else 0
        if data:
            writer = pipe.writer
            kernel.note(f"send {writer.machine.address} {writer.peer} {size_bytes} {zlib.crc32(data)}")
        due = pipe.last_due = max(pipe.last_due, kernel.now + pipe.link.transit_s(size_bytes))
        is_idle = not pipe.in_flight
        pipe.in_flight.append((due, data))
        pipe.in_flight_bytes += size_bytes
        if is_idle:
            pipe.first_try = due
            pipe.retry_s = RETRY_FIRST_S
            kernel.at(due, lambda: self._arrive(pipe))

    def _arrive(self, pipe: _Pipe) -> None:
        """The oldest bytes in flight are due, or are sent again."""
        kernel = self.kernel
        reader = pipe.reader
        if pipe.link.is_cut or reader.machine.process is None:
            self._send_again(pipe)
            return
        if reader.broken or reader.process.is_dead:
            pipe.in_flight.clear()
            pipe.writer.break_off("reset by the peer")
            return
        in_flight = pipe.in_flight
        pipe.retry_s = RETRY_FIRST_S
        while in_flight and in_flight[0][0] <= kernel.now:
            _, data = in_flight.popleft()
            if data is None:
                pipe.has_ended = True
            else:
                pipe.arrived += data
                pipe.in_flight_bytes -= len(data)
        reader.wake_reader()
        if in_flight:
            pipe.first_try = in_flight[0][0]
            kernel.at(in_flight[0][0], lambda: self._arrive(pipe))

    def _send_again(self, pipe: _Pipe) -> None:
        kernel = self.kernel
        if kernel.now - pipe.first_try > GIVE_UP_S or (pipe.writer.broken and pipe.writer.broken != "closed"):
            pipe.in_flight.clear()
            pipe.writer.break_off("timed out")
            return
        kernel.after(pipe.retry_s, lambda: self._arrive(pipe))
        pipe.retry_s = min(pipe.retry_s * 2, RETRY_MAX_S)


class NetworkView:
    """The network as one process has it."""

    def __init__(self, network: SimulatedNetwork, machine: _Machine, process: Incarnation) -> None:
        self.machine = machine
        self._network = network
        self._process = process

    async def listen(
        self, host: str, port: int, *, backlog: int = 1024, is_open: bool = True
    ) -> SimulatedListener:
        await trio.lowlevel.checkpoint()
        self.check()
        port = port or self._network.new_port()
        if port in self.machine.listeners:
            raise AddressError(f"{host}:{port} is in use")
        listener = self.machine.listeners[port] = SimulatedListener(
            self.machine, (self.machine.address, port)
        )
        return listener

    async def connect(self, host: str, port: int) -> SimulatedStream:
        await trio.lowlevel.checkpoint()
        self.check()
        return await self._network.connect_from(self, host, port)

    def check(self) -> None:
        """A dead process connects nowhere."""
        if self._process.is_dead:
            raise AddressError("this process is dead")


__all__ = ["Link", "NetworkView", "SimulatedNetwork", "SimulatedStream"]
