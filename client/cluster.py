"""The brokers of one cluster: who they are, who leads what, and the connections to each.

Owns the bootstrap, the last Metadata answer and the pool of connections. Does not know what is asked of the brokers or which
errors are worth another try.

Invariants: at most one open connection for each node and lane, and one to a bootstrap address; a lost one is replaced on the next use, never
in the background. Connections live in the nursery that the owner hands in and end with it. What any broker can answer does not depend on one
that is silent: the next one is tried beside it after a while. While a broker is silent others are asked for Metadata, and when those do not
name it any more (its session has ended, and others lead in its place), the connections to it are closed: a frozen or cut off broker costs
its session, not the request timeout. Who told what proved wrong is not asked again next: a broker that is cut off from the metadata store
goes on telling what was true before, itself as the leader perhaps.
"""

import enum
from collections import Counter
from collections.abc import Awaitable, Callable, Container, Iterable, Sequence
from contextlib import suppress
from functools import partial
from typing import TypeVar

import trio

from penstock.client.connection import Connection, ConnectionSettings, open_connection
from penstock.client.errors import BootstrapFailed, BrokerError, broker_error
from penstock.client.lifetime import Spawner
from penstock.client.metadata import Address, ClusterMetadata, Node, PartitionMetadata, read_metadata
from penstock.errors import PenstockError
from penstock.protocol.api import ApiKey
from penstock.protocol.errors import ErrorCode
from penstock.protocol.message import Message
from penstock.runtime.environment import Environment
from penstock.runtime.network import AddressError

_METADATA_VERSION_MIN = 4  # the first that can be asked not to create topics
_BOOTSTRAP_NODE = -1
HEAD_START_S = 1.0
"""How long one address is tried alone: a host that is gone answers nothing until the connect timeout."""
SILENCE_MAX_S = 7.0
"""More than a broker takes on purpose: two seconds for topics that are made by the asking, six to make and load the offsets topic."""
T = TypeVar("T")


class ConnectionLane(enum.Enum):
    """What a connection to a node is for.

    Answers come in the order of the requests: what a broker holds back on purpose needs a lane of its own, or the rest would wait behind it.
    """

    CONTROL = enum.auto()
    """Requests that are answered at once."""
    FETCH = enum.auto()
    """Long polls."""
    PRODUCE = enum.auto()
    """Writes, which wait for replicas, for the disk, or for room in a bounded backlog."""
    COORDINATOR = enum.auto()
    """JoinGroup and SyncGroup, which wait for the other members. Heartbeats and commits go by CONTROL, beside them."""


_Place = tuple[int, ConnectionLane]
_BOOTSTRAP_PLACE = (_BOOTSTRAP_NODE, ConnectionLane.CONTROL)


class Cluster:
    """Connections and metadata that one client shares between its tasks."""

    def __init__(
        self,
        environment: Environment,
        bootstrap: Sequence[Address],
        nursery: Spawner,
        settings: ConnectionSettings,
    ) -> None:
        self._environment = environment
        self._bootstrap = bootstrap
        self._nursery = nursery
        self._settings = settings
        self._nodes: dict[int, Node] = {}
        self._controller_id = _BOOTSTRAP_NODE
        self._connections: dict[_Place, Connection] = {}
        self._locks: dict[_Place, trio.Lock] = {}
        self._is_suspecting = False
        self._asked: str | None = None
        self._doubted: str | None = None

    @property
    def nodes(self) -> Sequence[Node]:
        """The brokers that the last Metadata answer named."""
        return list(self._nodes.values())

    async def any_connection(self, silent: Container[str] = ()) -> Connection:
        """An open connection to any broker: one that owes no answer, else a node that is known, else a busy one, else a bootstrap address.

        `silent` are peers to do without, if there are others.

        Raises:
            BootstrapFailed: nobody could be connected to.
        """
        open_ones = [
            connection
            for (_, lane), connection in self._connections.items()
            if lane is ConnectionLane.CONTROL and connection.is_open
        ]
        owed: Counter[str] = Counter()  # by a broker, whichever of its connections it is
        for connection in open_ones:
            owed[connection.peer] += connection.in_flight_count + (connection.peer in silent)
        if self._doubted is not None and len(self._nodes) > 1:
            owed[self._doubted] += 1
        silent_nodes: set[int] = set()
        for (node_id, lane), connection in self._connections.items():
            if lane is not ConnectionLane.COORDINATOR and connection.is_silent:
                owed[connection.peer] += 1
                silent_nodes.add(node_id)
        least_busy = min(open_ones, key=lambda one: owed[one.peer], default=None)
        if least_busy is not None and not owed[least_busy.peer]:
            return least_busy
        unused = [node for node in self._nodes.values() if not self._is_connected(node.node_id)]
        unused = sorted(
            self._shuffled(unused),
            key=lambda node: node.node_id in silent_nodes or str(node.address) == self._doubted,
        )
        connect = [partial(self.connection, node.node_id) for node in unused]
        found = await self._first_of(connect, [])
        if found is not None:
            return found
        return least_busy or await self._bootstrap_connection()

    async def ask_any(self, api_key: ApiKey, request: Message, *, at_least: int = 0) -> Message:
        """Ask what every broker can answer. One that is silent for `SILENCE_MAX_S` is left alone for another, as long as there is one.

        Raises:
            BootstrapFailed: nobody could be connected to.
            ConnectionLost, ProtocolError, UnsupportedByBroker: as for a request.
        """
        silent: set[str] = set()
        if self._doubted is not None and len(self._nodes) < 2 and api_key != ApiKey.METADATA:
            with suppress(PenstockError):  # nobody else is known; if nobody can say, it is asked again
                await self.refresh([])
        for _ in range(len(self._nodes) - 1):
            connection = await self.any_connection(silent)
            with trio.move_on_after(SILENCE_MAX_S):
                return await self._ask(connection, api_key, request, at_least)
            silent.add(connection.peer)
        connection = await self.any_connection(silent)
        return await self._ask(connection, api_key, request, at_least)

    async def _ask(self, connection: Connection, api_key: ApiKey, request: Message, at_least: int) -> Message:
        self._asked = connection.peer
        try:
            return await connection.request(api_key, request, at_least=at_least)
        except PenstockError:
            self.doubt()  # instead of whoever was doubted before
            raise

    async def connection(self, node_id: int, lane: ConnectionLane = ConnectionLane.CONTROL) -> Connection:
        """The connection to a broker that Metadata named, one for each lane, opened if need be.

        Raises:
            BrokerError: BROKER_NOT_AVAILABLE: no such node is known; refresh and ask again.
            AddressError, ConnectionLost: it could not be connected to.
        """
        place = (node_id, lane)
        if (connection := self._pooled(place)) is not None:
            return connection
        async with self._lock(place):
            if (connection := self._pooled(place)) is not None:
                return connection
            node = self._nodes.get(node_id)
            if node is None:
                raise BrokerError(ErrorCode.BROKER_NOT_AVAILABLE, f"broker {node_id} is not known")
            try:
                connection = await self._open(node.address)
            except AddressError as error:
                raise AddressError(f"broker {node_id}, as it is advertised: {error}") from error
            self._connections[place] = connection
            return connection

    async def controller(self) -> Connection:
        """The connection to the controller that Metadata names.

        Raises as `connection`, and BrokerError where there is no controller now.
        """
        if self._controller_id not in self._nodes:
            await self.refresh([])
        if self._controller_id not in self._nodes:
            raise BrokerError(ErrorCode.NOT_CONTROLLER, "the cluster has no controller now")
        return await self.connection(self._controller_id)

    def doubt(self) -> None:
        """What `ask_any` told last proved wrong, or out of date: ask another broker next time."""
        self._doubted = self._asked

    async def refresh(self, topics: Iterable[str] | None, *, creates_topics: bool = False) -> ClusterMetadata:
        """Ask a broker for Metadata of these topics (None: all of them; empty: only the brokers).

        `creates_topics`: those that are missing are made, where the broker does that (auto.create.topics.enable).

        Raises:
            BootstrapFailed: nobody could be connected to.
            ConnectionLost, ProtocolError, UnsupportedByBroker: as for a request.
        """
        named = None if topics is None else [Message(name=topic) for topic in topics]
        request = Message(topics=named, allow_auto_topic_creation=creates_topics)
        answer = await self.ask_any(ApiKey.METADATA, request, at_least=_METADATA_VERSION_MIN)
        if getattr(answer, "error_code", 0):
            raise broker_error(answer.error_code, subject="Metadata")
        metadata = read_metadata(answer)
        self._learn(metadata)
        return metadata

    async def leader(self, partition: PartitionMetadata) -> Connection:
        """The connection to a partition's leader. Raises as `connection`, and BrokerError LEADER_NOT_AVAILABLE."""
        if partition.leader < 0:
            raise BrokerError(ErrorCode.LEADER_NOT_AVAILABLE, "the partition has no leader now")
        return await self.connection(partition.leader)

    def learn_node(self, node: Node) -> None:
        """Take in a broker that another answer than Metadata told of (FindCoordinator); connections to an old address of its are closed."""
        known = self._nodes.get(node.node_id)
        if known is not None and known.address == node.address:
            return
        self._close_node(node.node_id)
        self._nodes[node.node_id] = node

    def close(self) -> None:
        """Close all connections at once."""
        for connection in self._connections.values():
            connection.close()
        self._connections.clear()

    def _learn(self, metadata: ClusterMetadata) -> None:
        if not metadata.nodes:
            return  # a broker that is just starting; what we knew is better
        for node_id, known in self._nodes.items():
            now = metadata.nodes.get(node_id)
            if now is None or now.address != known.address:
                self._close_node(node_id)
        self._nodes = dict(metadata.nodes)
        self._controller_id = metadata.controller_id

    def _close_node(self, node_id: int) -> None:
        peers: set[str] = set()
        for place in [place for place in self._connections if place[0] == node_id]:
            connection = self._connections.pop(place)
            peers.add(connection.peer)
            connection.close()
        bootstrap = self._connections.get(_BOOTSTRAP_PLACE)
        if bootstrap is not None and bootstrap.peer in peers:  # the same broker, which may be as silent there
            del self._connections[_BOOTSTRAP_PLACE]
            bootstrap.close()

    async def _bootstrap_connection(self) -> Connection:
        reasons: list[str] = []
        async with self._lock(_BOOTSTRAP_PLACE):
            if (connection := self._pooled(_BOOTSTRAP_PLACE)) is not None:
                return connection
            connect = [partial(self._open, address) for address in self._shuffled(self._bootstrap)]
            connection = await self._first_of(connect, reasons)
            if connection is not None:
                self._connections[_BOOTSTRAP_PLACE] = connection
                return connection
        raise BootstrapFailed("no broker to be reached: " + "; ".join(reasons))

    async def _first_of(
        self, connect: Sequence[Callable[[], Awaitable[Connection]]], reasons: list[str]
    ) -> Connection | None:
        """The first connection that is had: each is begun when the one before has failed, or has taken long. The others are given up.

        What failed is added to `reasons`; None where all did.
        """
        found: list[Connection] = []
        async with trio.open_nursery() as nursery:

            async def attempt(open_one: Callable[[], Awaitable[Connection]], failed: trio.Event) -> None:
                try:
                    found.append(await open_one())
                except PenstockError as error:  # whatever listens there: another one may do
                    reasons.append(str(error))
                    failed.set()
                else:
                    nursery.cancel_scope.cancel()

            for open_one in connect:
                failed = trio.Event()
                nursery.start_soon(attempt, open_one, failed)
                with trio.move_on_after(HEAD_START_S):
                    await failed.wait()
        for spare in found[1:]:
            if spare not in self._connections.values():
                spare.close()
        return found[0] if found else None

    def _is_connected(self, node_id: int) -> bool:
        return self._pooled((node_id, ConnectionLane.CONTROL)) is not None

    async def _open(self, address: Address) -> Connection:
        connection = await open_connection(
            self._nursery, self._environment.network, address.host, address.port, self._settings
        )
        connection.on_silence = self._suspect
        return connection

    def _suspect(self) -> None:
        """A broker owes an answer and is silent: ask another who is there, be it the one that told of this one and of no other."""
        if self._is_suspecting:
            return
        peers = {connection.peer for connection in self._connections.values() if connection.is_open}
        if len(self._nodes) > 1 or len(peers) > 1:
            self._is_suspecting = True
            self._nursery.start_soon(self._look_around)

    async def _look_around(self) -> None:
        try:
            with suppress(PenstockError):
                await self.refresh([])
        finally:
            self._is_suspecting = False

    def _pooled(self, place: _Place) -> Connection | None:
        connection = self._connections.get(place)
        return connection if connection is not None and connection.is_open else None

    def _lock(self, place: _Place) -> trio.Lock:
        return self._locks.setdefault(place, trio.Lock())

    def _shuffled(self, items: Iterable[T]) -> list[T]:
        """In random order, so that many clients don't all start at the same broker."""
        left = list(items)
        randrange = self._environment.random.randrange
        return [left.pop(randrange(0, len(left))) for _ in range(len(left))]


__all__ = ["Cluster", "ConnectionLane"]
