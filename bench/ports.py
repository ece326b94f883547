"""Loopback ports for servers of tests and benches, which nobody else here takes while the server is dead or not yet born.

A port from `bind(0)` is of the range from which the kernel also serves every connection that somebody opens (32768 and up on Linux: to
`bind` the odd ones, to `connect` the even ones), so one that was free a moment ago may not be now. These lie below it.
"""

import functools
import itertools
import socket
from collections.abc import Iterator

_HOST = "127.0.0.1"
_PORTS = range(15_000, 32_000)
_BLOCK_SIZE = 250


def free_ports(count: int) -> list[int]:
    """Different ports on which a server could listen now; no other process is given the same ones. A process comes back to a port after 248 others.

    Raises:
        RuntimeError: no block is left, or not enough of this process's own ports are free.
    """
    ports = list(
        itertools.islice(filter(is_free_port, itertools.islice(_own_ports(), _BLOCK_SIZE - 1)), count)
    )
    if len(ports) < count:
        raise RuntimeError(f"{count} free ports are wanted, and only {len(ports)} are left")
    return ports


def neighbouring_ports(count: int) -> int:
    """The first of `count` free ports in a row. Raises RuntimeError as `free_ports` does."""
    for _ in range(_BLOCK_SIZE):
        ports = free_ports(count)
        if ports[-1] - ports[0] == count - 1:
            return ports[0]
    raise RuntimeError(f"no {count} free ports in a row are left")


def is_free_port(port: int) -> bool:
    """Whether a server could listen there now."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((_HOST, port))
        except OSError:
            return False
        return True


@functools.cache
def _own_ports() -> Iterator[int]:
    """The ports of this process, in turn: those of the first block that no other process has."""
    for first in _PORTS[::_BLOCK_SIZE]:
        if _is_claimed(first):
            return itertools.cycle(range(first + 1, first + _BLOCK_SIZE))
    raise RuntimeError(f"all ports from {_PORTS.start} to {_PORTS.stop} are taken by other processes")


_claims: list[socket.socket] = []


def _is_claimed(first: int) -> bool:
    """Whether this process has the block from now on, until it ends: it listens on the block's first port, which only one can."""
    claim = socket.socket()
    try:
        claim.bind((_HOST, first))
        claim.listen()
    except OSError:
        claim.close()
        return False
    _claims.append(claim)
    return True
