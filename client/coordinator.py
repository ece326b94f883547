"""Which broker coordinates a group, and the connection to it.

Owns FindCoordinator, its retries and what it said last. Does not know what the coordinator is asked; whoever gets NOT_COORDINATOR or loses
the connection says `forget`, and the next call asks again.

Invariants: callers who look for the same group at the same time share one search. Source: KIP-699 (several keys in one request).
"""

import trio

from penstock.client.backoff import ELECTION_ATTEMPTS_MAX, RetryPolicy, retry
from penstock.client.cluster import Cluster, ConnectionLane
from penstock.client.connection import Connection
from penstock.client.errors import BootstrapFailed, BrokerError, broker_error
from penstock.client.metadata import Address, Node
from penstock.errors import PenstockError
from penstock.protocol.api import ApiKey
from penstock.protocol.errors import ErrorCode
from penstock.protocol.message import Message
from penstock.runtime.environment import Environment
from penstock.runtime.network import AddressError, ConnectionLost

_GROUP = 0  # the key type; 1 is a transaction
COORDINATOR_LOST = frozenset(
    {
        ErrorCode.COORDINATOR_NOT_AVAILABLE,
        ErrorCode.NOT_COORDINATOR,
    }
)
"""Codes after which the coordinator must be looked for again."""


class Coordinators:
    """The coordinators of the groups that one client deals with. Needs no task of its own."""

    def __init__(
        self, cluster: Cluster, environment: Environment, retry_policy: RetryPolicy | None = None
    ) -> None:
        self._cluster = cluster
        self._environment = environment
        self._policy = retry_policy or RetryPolicy(attempts_max=ELECTION_ATTEMPTS_MAX)
        self._node_ids: dict[str, int] = {}
        self._locks: dict[str, trio.Lock] = {}

    async def connection(self, group_id: str, lane: ConnectionLane = ConnectionLane.CONTROL) -> Connection:
        """The connection to a group's coordinator, which is looked for if it is not known.

        Raises:
            BrokerError: the cluster has no coordinator for the group now, after several attempts (COORDINATOR_NOT_AVAILABLE), or refuses to
                name it (AuthorizationFailed, INVALID_GROUP_ID).
            BootstrapFailed, AddressError, ConnectionLost: nobody, or not the coordinator, could be reached in several attempts (some seconds).

        Cancellation: nothing is changed.
        """
        return await retry(
            lambda: self.connection_once(group_id, lane),
            is_worth_retrying=is_worth_looking_again,
            policy=self._policy,
            random=self._environment.random,
        )

    async def connection_once(
        self, group_id: str, lane: ConnectionLane = ConnectionLane.CONTROL
    ) -> Connection:
        """As `connection`, in one attempt."""
        node_id = self._node_ids.get(group_id)
        if node_id is None:
            async with self._locks.setdefault(group_id, trio.Lock()):
                node_id = self._node_ids.get(group_id)
                if node_id is None:
                    node_id = self._node_ids[group_id] = await self._find(group_id)
        try:
            return await self._cluster.connection(node_id, lane)
        except PenstockError:
            self.forget(group_id)
            raise

    def forget(self, group_id: str) -> None:
        """The coordinator proved to be none (any more), or cannot be reached: look for it anew on the next use."""
        if self._node_ids.pop(group_id, None) is not None:
            self._cluster.doubt()

    async def _find(self, group_id: str) -> int:
        request = Message(key=group_id, key_type=_GROUP, coordinator_keys=[group_id])
        answer = await self._cluster.ask_any(ApiKey.FIND_COORDINATOR, request)
        found = answer.coordinators[0] if answer.coordinators else answer
        if found.error_code:
            raise broker_error(found.error_code, found.error_message, subject=f"group {group_id}")
        self._cluster.learn_node(Node(found.node_id, Address(found.host, found.port)))
        return int(found.node_id)


def is_worth_looking_again(error: PenstockError) -> bool:
    """Whether an error of a search, or of a request to a coordinator, may be gone at the next attempt."""
    if isinstance(error, BrokerError):
        return error.is_retriable or error.code == ErrorCode.BROKER_NOT_AVAILABLE
    return isinstance(error, ConnectionLost | AddressError | BootstrapFailed)


__all__ = ["COORDINATOR_LOST", "Coordinators", "is_worth_looking_again"]
