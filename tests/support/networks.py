"""The networks that the contract suite runs against. A further one is one more entry in `NETWORKS`."""

from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

import trio
from tests.support.memory_network import MemoryNetwork

from penstock.runtime.network import Listener, Network, Stream
from penstock.runtime.sockets import SocketNetwork

NETWORKS: dict[str, Callable[[], Network]] = {"memory": MemoryNetwork, "sockets": SocketNetwork}
HOST = "127.0.0.1"
LIMIT_S = 15
"""What takes longer hangs."""


@dataclass(frozen=True)
class Pair:
    """Both ends of one connection, and the listener behind it."""

    listener: Listener
    client: Stream
    server: Stream


@asynccontextmanager
async def connected(network: Network) -> AsyncGenerator[Pair, None]:
    """A connection, closed at the end. What hangs in the block fails."""
    listener = await network.listen(HOST, 0)
    client = await network.connect(*listener.address)
    server = await listener.accept()
    try:
        with trio.fail_after(LIMIT_S):
            yield Pair(listener, client, server)
    finally:
        for end in (client, server, listener):
            end.close()


async def receive_exactly(stream: Stream, count: int) -> bytes:
    """The next `count` bytes; fails at the end of the stream."""
    received = bytearray()
    buffer = bytearray(min(count, 65536) or 1)
    while len(received) < count:
        step = await stream.receive_into(memoryview(buffer)[: min(len(buffer), count - len(received))])
        assert step, f"the stream ended after {len(received)} of {count} bytes"
        received += buffer[:step]
    return bytes(received)
