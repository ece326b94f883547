"""The brokers of one cluster: who they are, who leads what, and one connection to each.

Owns the bootstrap, the last Metadata answer and the pool of connections. Does not know what is asked of the brokers or which
errors are worth another try.

Invariants: at most one open connection for each node, and one to a bootstrap address; a lost one is replaced on the next use, never in the
background. Connections live in the nursery that the owner hands in and end with it.
"""

from collections.abc import Iterable, Sequence
from contextlib import suppress
from typing import TypeVar

import trio

from penstock.client.connection import Connection, ConnectionSettings, open_connection
from penstock.client.errors import BootstrapFailed, BrokerError, broker_error
from penstock.client.metadata import Address, ClusterMetadata, Node, PartitionMetadata, read_metadata
from penstock.errors import PenstockError
from penstock.protocol.api import ApiKey
from penstock.protocol.errors import ErrorCode
from penstock.protocol.message import Message
from penstock.runtime.environment import Environment
from penstock.runtime.network import AddressError, ConnectionLost

_METADATA_VERSION_MIN = 4  # the first that can be asked not to create topics
_BOOTSTRAP_NODE = -1
T = TypeVar("T")


class Cluster:
    """Connections and metadata that one client shares between its tasks."""

    def __init__(
        self,
        environment: Environment,
        bootstrap: Sequence[Address],
        nursery: trio.Nursery,
        settings: ConnectionSettings,
    ) -> None:
        self._environment = environment
        self._bootstrap = bootstrap
        self._nursery = nursery
        self._settings = settings
        self._nodes: dict[int, Node] = {}
        self._controller_id = _BOOTSTRAP_NODE
        self._connections: dict[int, Connection] = {}
        self._locks: dict[int, trio.Lock] = {}

    @property
    def nodes(self) -> Sequence[Node]:
        """The brokers that the last Metadata answer named."""
        return list(self._nodes.values())

    async def any_connection(self) -> Connection:
        """An open connection to any broker: one that is there, else a known node, else a bootstrap address.

        Raises:
            BootstrapFailed: nobody could be connected to.
        """
        for connection in self._connections.values():
            if connection.is_open:
                return connection
        for node in self._shuffled(self._nodes.values()):
            with suppress(AddressError, ConnectionLost):
                return await self.connection(node.node_id)
        return await self._bootstrap_connection()

    async def connection(self, node_id: int) -> Connection:
        """The connection to a broker that Metadata named, opened if need be.

        Raises:
            BrokerError: BROKER_NOT_AVAILABLE: no such node is known; refresh and ask again.
            AddressError, ConnectionLost: it could not be connected to.
        """
        if (connection := self._pooled(node_id)) is not None:
            return connection
        async with self._lock(node_id):
            if (connection := self._pooled(node_id)) is not None:
                return connection
            node = self._nodes.get(node_id)
            if node is None:
                raise BrokerError(ErrorCode.BROKER_NOT_AVAILABLE, f"broker {node_id} is not known")
            try:
                connection = await self._open(node.address)
            except AddressError as error:
                raise AddressError(f"broker {node_id}, as it is advertised: {error}") from error
            self._connections[node_id] = connection
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

    async def refresh(self, topics: Iterable[str] | None, *, creates_topics: bool = False) -> ClusterMetadata:
        """Ask a broker for Metadata of these topics (None: all of them; empty: only the brokers).

        `creates_topics`: those that are missing are made, where the broker does that (auto.create.topics.enable).

        Raises:
            BootstrapFailed: nobody could be connected to.
            ConnectionLost, ProtocolError, UnsupportedByBroker: as for a request.
        """
        named = None if topics is None else [Message(name=topic) for topic in topics]
        request = Message(topics=named, allow_auto_topic_creation=creates_topics)
        connection = await self.any_connection()
        answer = await connection.request(ApiKey.METADATA, request, at_least=_METADATA_VERSION_MIN)
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

    def close(self) -> None:
        """Close all connections at once."""
        for connection in self._connections.values():
            connection.close()
        self._connections.clear()

    def _learn(self, metadata: ClusterMetadata) -> None:
        if not metadata.nodes:
            return  # a broker that is just starting; what we knew is better
        for node_id, connection in list(self._connections.items()):
            known, now = self._nodes.get(node_id), metadata.nodes.get(node_id)
            if known is not None and (now is None or now.address != known.address):
                connection.close()
                del self._connections[node_id]
        self._nodes = dict(metadata.nodes)
        self._controller_id = metadata.controller_id

    async def _bootstrap_connection(self) -> Connection:
        reasons: list[str] = []
        async with self._lock(_BOOTSTRAP_NODE):
            if (connection := self._pooled(_BOOTSTRAP_NODE)) is not None:
                return connection
            for address in self._shuffled(self._bootstrap):
                try:
                    connection = await self._open(address)
                except PenstockError as error:
                    reasons.append(str(error))
                    continue
                self._connections[_BOOTSTRAP_NODE] = connection
                return connection
        raise BootstrapFailed("no broker to be reached: " + "; ".join(reasons))

    async def _open(self, address: Address) -> Connection:
        return await open_connection(
            self._nursery, self._environment.network, address.host, address.port, self._settings
        )

    def _pooled(self, node_id: int) -> Connection | None:
        connection = self._connections.get(node_id)
        return connection if connection is not None and connection.is_open else None

    def _lock(self, node_id: int) -> trio.Lock:
        return self._locks.setdefault(node_id, trio.Lock())

    def _shuffled(self, items: Iterable[T]) -> list[T]:
        """In random order, so that many clients don't all start at the same broker."""
        left = list(items)
        randrange = self._environment.random.randrange
        return [left.pop(randrange(0, len(left))) for _ in range(len(left))]


__all__ = ["Cluster"]
