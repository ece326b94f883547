"""TCP on the standard library's non-blocking sockets.

Owns the mapping of socket errors. Not on `trio.socket`, for speed: every call tries the system first and asks trio to wait only when that
would block, so that an answer to a small request costs one system call and no checkpoint. Knows nothing of Kafka.

Invariants: every socket is non-blocking; a descriptor is announced to trio (`notify_closing`) before it is closed, so that nobody waits
on a number that the kernel gives to the next connection.
"""

import contextlib
import errno
import os
import socket
from collections.abc import Sequence
from typing import Any, NoReturn

import trio
from trio.lowlevel import checkpoint, notify_closing, wait_readable, wait_writable

from penstock.runtime.files import Buffer, File, TooManyOpenFiles
from penstock.runtime.network import AddressError, ConnectionLost

SEND_FILE_STEP_BYTES = 1024 * 1024
"""The most that one `sendfile` may take; between two of them other tasks get their turn."""
SEND_BUFFER_BYTES = 256 * 1024
"""Of accepted connections; Kafka's `socket.send.buffer.bytes` is 100 KiB."""
KEEPALIVE_IDLE_S = 60
KEEPALIVE_INTERVAL_S = 10
KEEPALIVE_PROBE_COUNT = 6

_BUFFERS_PER_CALL_MAX = min(1024, os.sysconf("SC_IOV_MAX"))
_MORE: int = getattr(socket, "MSG_MORE", 0)
_SHARED_PORT_ATTEMPT_COUNT = 16

# accept(2): what went wrong with one waiting connection says nothing about the next.
_ACCEPT_AGAIN = frozenset(
    {
        errno.ECONNABORTED,
        errno.EPERM,
        errno.EPROTO,
        errno.ENETDOWN,
        errno.ENOPROTOOPT,
        errno.EHOSTDOWN,
        errno.EHOSTUNREACH,
        errno.EOPNOTSUPP,
        errno.ENETUNREACH,
    }
)
# Want of memory passes in the same way as want of descriptors: wait a little, accept again.
_ACCEPT_LATER = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS})
# The machine has no IPv6 (or no IPv4) though the name has an address of it.
_FAMILY_MISSING = frozenset({errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL})

_SocketAddress = tuple[Any, ...]


class SocketStream:
    """One TCP connection. Made by `SocketNetwork`."""

    __slots__ = ("_descriptor", "_socket", "peer")

    def __init__(self, connected: socket.socket, peer: str) -> None:
        self._socket = connected
        self._descriptor = connected.fileno()
        self.peer = peer

    def fileno(self) -> int:
        """The descriptor; -1 after `close`."""
        return self._descriptor

    async def receive_into(self, buffer: bytearray | memoryview) -> int:
        """Read at least one byte into `buffer`; returns the count, 0 at the end of the stream."""
        while True:
            try:
                return self._socket.recv_into(buffer)
            except BlockingIOError:
                pass
            except OSError as error:
                self._lost(error)
            try:
                await wait_readable(self._descriptor)
            except trio.ClosedResourceError as error:
                self._lost(error)

    async def send_all(self, buffers: Sequence[Buffer], *, more: bool = False) -> None:
        """Send the buffers (bytes, or views of bytes) in order.

        After `more` something must follow, or the kernel keeps the end back for 200 ms.
        """
        if len(buffers) == 1:
            await self._send(buffers[0], _MORE if more else 0)
            return
        total_bytes = sum(map(len, buffers))
        sent_bytes = 0
        if len(buffers) <= _BUFFERS_PER_CALL_MAX:
            try:
                sent_bytes = self._socket.sendmsg(buffers, (), _MORE if more else 0)
            except BlockingIOError:
                pass
            except OSError as error:
                self._lost(error)
        if sent_bytes < total_bytes:
            await self._send_rest(buffers, sent_bytes, more)

    def send_now(self, buffers: Sequence[Buffer]) -> int:
        """Send what the socket takes without waiting; returns how many bytes that was."""
        try:
            return self._socket.sendmsg(buffers[:_BUFFERS_PER_CALL_MAX])
        except BlockingIOError:
            return 0
        except OSError as error:
            self._lost(error)

    async def _send(self, buffer: Buffer, flags: int) -> None:
        sent_bytes = 0
        view = buffer
        while True:
            try:
                sent_bytes = self._socket.send(view, flags)
            except BlockingIOError:
                sent_bytes = 0
            except OSError as error:
                self._lost(error)
            if sent_bytes == len(view):
                return
            view = memoryview(view)[sent_bytes:]
            await self._writable()

    async def _send_rest(self, buffers: Sequence[Buffer], skip_bytes: int, more: bool) -> None:
        """The part of `send_all` for a full socket buffer or a very long list: everything after `skip_bytes`."""
        parts = _without_first_bytes(buffers, skip_bytes)
        while parts:
            batch = parts[:_BUFFERS_PER_CALL_MAX]
            flags = _MORE if more or len(batch) < len(parts) else 0
            try:
                sent_bytes = self._socket.sendmsg(batch, (), flags)
            except BlockingIOError:
                await self._writable()
                continue
            except OSError as error:
                self._lost(error)
            parts = _without_first_bytes(batch, sent_bytes) + parts[_BUFFERS_PER_CALL_MAX:]

    async def send_file(self, file: File, position: int, count: int) -> None:
        """Send exactly `count` bytes of `file` from `position`; by copies if the file has no descriptor.

        Up to 1 MiB goes without a checkpoint if the socket takes it.
        """
        source = file.fileno()
        if source < 0:
            await self._send_copies(file, position, count)
            return
        while count > 0:
            try:
                sent_bytes = os.sendfile(self._descriptor, source, position, min(count, SEND_FILE_STEP_BYTES))
            except BlockingIOError:
                await self._writable()
                continue
            except OSError as error:
                self._lost(error)
            if sent_bytes == 0:
                raise ConnectionLost(f"{self.peer}: {file.path} ended {count} bytes early, at {position}")
            position += sent_bytes
            count -= sent_bytes
            if count and sent_bytes == SEND_FILE_STEP_BYTES:
                await checkpoint()

    async def _send_copies(self, file: File, position: int, count: int) -> None:
        while count > 0:
            data = file.pread(min(count, SEND_FILE_STEP_BYTES), position)
            if not data:
                raise ConnectionLost(f"{self.peer}: {file.path} ended {count} bytes early, at {position}")
            await self._send(data, 0)
            position += len(data)
            count -= len(data)
            if count:
                await checkpoint()

    async def _writable(self) -> None:
        try:
            await wait_writable(self._descriptor)
        except trio.ClosedResourceError as error:
            self._lost(error)

    def _lost(self, error: Exception) -> NoReturn:
        if self._descriptor < 0:
            raise ConnectionLost(f"{self.peer}: closed on this side") from error
        reason = error.strerror if isinstance(error, OSError) else None
        raise ConnectionLost(f"{self.peer}: {reason or error}") from error

    def close(self) -> None:
        """Close at once; what waits on the stream gets ConnectionLost."""
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            notify_closing(descriptor)
            self._socket.close()


def _without_first_bytes(buffers: Sequence[Buffer], count: int) -> list[Buffer]:
    rest: list[Buffer] = []
    for buffer in buffers:
        if count >= len(buffer):
            count -= len(buffer)
        elif count:
            rest.append(memoryview(buffer)[count:])
            count = 0
        else:
            rest.append(buffer)
    return rest


class SocketListener:
    """One port on every address of a name (`localhost` is 127.0.0.1 and ::1)."""

    __slots__ = ("_address", "_backlog", "_is_open", "_next", "_sockets")

    def __init__(
        self, address: tuple[str, int], sockets: Sequence[socket.socket], backlog: int = 1024
    ) -> None:
        self._address = address
        self._sockets = list(sockets)
        self._backlog = backlog
        self._is_open = False
        self._next = 0

    @property
    def address(self) -> tuple[str, int]:
        """The host as asked for, and the real port."""
        return self._address

    def open(self) -> None:
        """Take connections from now on; a port that is only held refuses them."""
        if self._is_open:
            return
        try:
            for listening in self._sockets:
                listening.listen(self._backlog)
        except OSError as error:
            # With SO_REUSEADDR several may hold a port, until one of them opens it.
            raise _cannot_listen(self._address, error) from error
        self._is_open = True

    async def accept(self) -> SocketStream:
        """The next connection, from all addresses in turn."""
        while True:
            stream = self._accept_waiting()
            if stream is not None:
                return stream
            await self._wait()

    def _accept_waiting(self) -> SocketStream | None:
        for _ in range(len(self._sockets)):
            listening = self._sockets[self._next % len(self._sockets)]
            self._next += 1
            try:
                connected, address = listening.accept()
            except BlockingIOError:
                continue
            except OSError as error:
                self._accept_failed(error)
                continue
            try:
                return _new_stream(connected, address)
            except OSError:
                # It was gone before it was looked at.
                connected.close()
        if not self._sockets:
            raise ConnectionLost(f"{_name(self._address)}: the listener was closed")
        return None

    def _accept_failed(self, error: OSError) -> None:
        if error.errno in _ACCEPT_LATER:
            raise TooManyOpenFiles(error.strerror or str(error), path=_name(self._address)) from error
        if error.errno not in _ACCEPT_AGAIN:
            raise ConnectionLost(f"{_name(self._address)}: {error.strerror or error}") from error

    async def _wait(self) -> None:
        """Until one of the sockets may have a connection, or all were closed."""
        if len(self._sockets) == 1:
            with contextlib.suppress(trio.ClosedResourceError):
                await wait_readable(self._sockets[0])
            return
        async with trio.open_nursery() as nursery:

            async def wait_for(listening: socket.socket) -> None:
                with contextlib.suppress(trio.ClosedResourceError):
                    # It may have been closed since this task was asked for.
                    if listening.fileno() >= 0:
                        await wait_readable(listening)
                nursery.cancel_scope.cancel()

            for listening in self._sockets:
                nursery.start_soon(wait_for, listening)

    def close(self) -> None:
        """Stop listening; a task in `accept` gets ConnectionLost. Connections that nobody accepted are reset."""
        sockets, self._sockets = self._sockets, []
        for listening in sockets:
            notify_closing(listening)
            listening.close()


class SocketNetwork:
    """The machine's TCP."""

    __slots__ = ()

    async def listen(
        self, host: str, port: int, *, backlog: int = 1024, is_open: bool = True
    ) -> SocketListener:
        """Listen on every address of `host`; the empty name means every address of the machine, IPv4 and IPv6."""
        addresses = await _resolve(host, port, socket.AI_PASSIVE)
        for attempt in range(_SHARED_PORT_ATTEMPT_COUNT):
            try:
                sockets = _bind_to_all(addresses, port)
            except OSError as error:
                # Port 0: the number that the first address got may be taken on the second; the next draw is another one.
                if port == 0 and error.errno == errno.EADDRINUSE and attempt + 1 < _SHARED_PORT_ATTEMPT_COUNT:
                    continue
                raise _cannot_listen((host, port), error) from error
            listener = SocketListener((host, sockets[0].getsockname()[1]), sockets, backlog)
            if is_open:
                _open_or_close(listener)
            return listener
        raise AssertionError("the last attempt returns or raises")

    async def connect(self, host: str, port: int) -> SocketStream:
        """Open a TCP connection, to the addresses of `host` one after the other. Cancellation leaves nothing open."""
        failure: OSError | None = None
        for family, address in await _resolve(host, port, 0):
            try:
                return await _connect(family, address)
            except OSError as error:
                failure = error
        reason = (failure.strerror or str(failure)) if failure else "the name has no address"
        raise AddressError(f"can't connect to {_name((host, port))}: {reason}") from failure


async def _resolve(host: str, port: int, flags: int) -> list[tuple[socket.AddressFamily, _SocketAddress]]:
    """The addresses of a name, the system's favourite first. Only names go to a thread: for numbers the call never blocks."""
    if not 0 <= port <= 65535:
        raise AddressError(f"not a port: {port}")
    try:
        try:
            found = _address_info(host, port, flags | socket.AI_NUMERICHOST)
        except socket.gaierror:
            found = await trio.to_thread.run_sync(_address_info, host, port, flags, abandon_on_cancel=True)
    except (OSError, UnicodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else None
        raise AddressError(f"can't resolve {_name((host, port))}: {reason or error}") from error
    return list(dict.fromkeys(found))


def _address_info(host: str, port: int, flags: int) -> list[tuple[socket.AddressFamily, _SocketAddress]]:
    found = socket.getaddrinfo(host or None, port, type=socket.SOCK_STREAM, flags=flags)
    return [(family, address) for family, _, _, _, address in found]


def _cannot_listen(address: tuple[str, int], error: OSError) -> AddressError:
    return AddressError(f"can't listen on {_name(address)}: {error.strerror or error}")


def _open_or_close(listener: SocketListener) -> None:
    try:
        listener.open()
    except AddressError:
        listener.close()
        raise


def _bind_to_all(
    addresses: Sequence[tuple[socket.AddressFamily, _SocketAddress]], port: int
) -> list[socket.socket]:
    """A bound socket for each address, all on one port. Addresses of a family that the machine lacks are left out."""
    sockets: list[socket.socket] = []
    only_v6 = any(family != socket.AF_INET6 for family, _ in addresses)
    missing: OSError | None = None
    try:
        for family, address in addresses:
            try:
                listening = _bind(family, (address[0], port, *address[2:]), only_v6)
            except OSError as error:
                if error.errno not in _FAMILY_MISSING:
                    raise
                missing = error
                continue
            sockets.append(listening)
            port = listening.getsockname()[1]
    except BaseException:
        for listening in sockets:
            listening.close()
        raise
    if not sockets:
        raise missing or OSError(errno.EADDRNOTAVAIL, "the name has no address")
    return sockets


def _bind(family: socket.AddressFamily, address: _SocketAddress, only_v6: bool) -> socket.socket:
    listening = socket.socket(family, socket.SOCK_STREAM)
    try:
        listening.setblocking(False)
        # A restarted broker must not wait a minute for the connections of the last one to be forgotten.
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            listening.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, int(only_v6))
        # Accepted connections inherit it. The grown buffers of auto-tuning cost a fetch of 1 MB a third more CPU.
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER_BYTES)
        listening.bind(address)
    except BaseException:
        listening.close()
        raise
    return listening


async def _connect(family: socket.AddressFamily, address: _SocketAddress) -> SocketStream:
    connecting = socket.socket(family, socket.SOCK_STREAM)
    try:
        connecting.setblocking(False)
        try:
            connecting.connect(address)
        except BlockingIOError:
            await wait_writable(connecting)
            code = connecting.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            if code:
                raise OSError(code, os.strerror(code)) from None
        # TCP lets a socket meet itself when its own port is the one it calls; nobody listens there then.
        if connecting.getsockname() == connecting.getpeername():
            raise OSError(errno.ECONNREFUSED, os.strerror(errno.ECONNREFUSED))
        return _new_stream(connecting, address)
    except BaseException:
        connecting.close()
        raise


def _new_stream(connected: socket.socket, address: _SocketAddress) -> SocketStream:
    """Set the options that every connection has. Raises OSError when the peer is gone already."""
    connected.setblocking(False)
    connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    connected.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in _KEEPALIVE_OPTIONS:
        connected.setsockopt(socket.IPPROTO_TCP, option, value)
    return SocketStream(connected, _name((str(address[0]), int(address[1]))))


def _keepalive_options() -> list[tuple[int, int]]:
    named = {
        "TCP_KEEPIDLE": KEEPALIVE_IDLE_S,
        "TCP_KEEPINTVL": KEEPALIVE_INTERVAL_S,
        "TCP_KEEPCNT": KEEPALIVE_PROBE_COUNT,
    }
    return [(getattr(socket, name), value) for name, value in named.items() if hasattr(socket, name)]


_KEEPALIVE_OPTIONS = _keepalive_options()


def _name(address: tuple[str, int]) -> str:
    """`host:port` as in a URL. An IPv4 client of an IPv6 socket is named by its IPv4 address."""
    host = address[0].removeprefix("::ffff:")
    return f"[{host}]:{address[1]}" if ":" in host else f"{host}:{address[1]}"


__all__ = ["SEND_FILE_STEP_BYTES", "SocketListener", "SocketNetwork", "SocketStream"]
