"""What all admin calls share: the client's life, and where a call goes until every entry has its outcome.

Owns the choice of the broker (leader, any) and the second tries. Knows no call by name: those are in `admin` and `admin_groups`.
"""

from collections.abc import Awaitable, Callable, Iterable, Mapping
from types import TracebackType
from typing import Self, TypeVar

from penstock.client.backoff import ELECTION_ATTEMPTS_MAX, RetryPolicy, retry
from penstock.client.cluster import Cluster
from penstock.client.connection import Connection, ConnectionSettings
from penstock.client.coordinator import Coordinators
from penstock.client.errors import BrokerError, RequestOutcomeUnknown, broker_error
from penstock.client.lifetime import OwnedNursery
from penstock.client.metadata import ClusterMetadata, PartitionMetadata, TopicPartition, parse_bootstrap
from penstock.errors import PenstockError
from penstock.protocol.api import ApiKey
from penstock.protocol.errors import ErrorCode
from penstock.protocol.message import Message
from penstock.runtime.environment import Environment
from penstock.runtime.network import AddressError, ConnectionLost

K = TypeVar("K")
V = TypeVar("V")
R = TypeVar("R")

ALONE_ATTEMPTS_MAX = 10
_WRONG_LEADER = frozenset(
    {
        ErrorCode.NOT_LEADER_OR_FOLLOWER,
        ErrorCode.UNKNOWN_TOPIC_OR_PARTITION,  # of a leader: it does not know yet what Metadata tells already
        ErrorCode.LEADER_NOT_AVAILABLE,
        ErrorCode.REPLICA_NOT_AVAILABLE,
        ErrorCode.FENCED_LEADER_EPOCH,
        ErrorCode.UNKNOWN_LEADER_EPOCH,
        ErrorCode.OFFSET_NOT_AVAILABLE,
        ErrorCode.BROKER_NOT_AVAILABLE,
    }
)


class AdminBase:
    """The life of an admin client, and the ways a call can go."""

    def __init__(
        self,
        bootstrap: str,
        environment: Environment | None = None,
        *,
        client_id: str = "penstock-admin",
        retry_policy: RetryPolicy | None = None,
    ) -> None:
        self._bootstrap = parse_bootstrap(bootstrap)
        self._environment = environment or _production_environment()
        self._settings = ConnectionSettings(client_id=client_id)
        self._policy = retry_policy or RetryPolicy(attempts_max=ELECTION_ATTEMPTS_MAX)
        self._background = OwnedNursery()
        self._opened: Cluster | None = None
        self._known_coordinators: Coordinators | None = None

    async def __aenter__(self) -> Self:
        nursery = await self._background.open()
        self._opened = Cluster(self._environment, self._bootstrap, nursery, self._settings)
        self._known_coordinators = Coordinators(self._opened, self._environment)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._cluster.close()
        self._opened = self._known_coordinators = None
        await self._background.close(kind, error, traceback)

    @property
    def _cluster(self) -> Cluster:
        if self._opened is None:
            raise RuntimeError("an Admin is used inside its `async with` block")
        return self._opened

    @property
    def _coordinators(self) -> Coordinators:
        if self._known_coordinators is None:
            raise RuntimeError("an Admin is used inside its `async with` block")
        return self._known_coordinators

    async def _metadata(self, topics: Iterable[str] | None) -> ClusterMetadata:
        return await retry(
            lambda: self._cluster.refresh(topics),
            is_worth_retrying=lambda error: isinstance(error, ConnectionLost),
            policy=self._policy,
            random=self._environment.random,
        )

    async def _ask(
        self,
        connection: Connection,
        api_key: ApiKey,
        request: Message,
        *,
        is_repeatable: bool,
        at_least: int = 0,
        at_most: int | None = None,
        subject: str = "",
    ) -> Message:
        try:
            answer = await connection.request(api_key, request, at_least=at_least, at_most=at_most)
        except ConnectionLost as error:
            if is_repeatable:
                raise
            raise RequestOutcomeUnknown(
                f"{api_key.name}: {error}; it may or may not have been done"
            ) from error
        code = getattr(answer, "error_code", 0)
        if code:
            raise broker_error(code, getattr(answer, "error_message", None), subject=subject or api_key.name)
        return answer

    async def _node_or_any(self, node_id: int | None) -> Connection:
        if node_id is None:
            return await self._cluster.any_connection()
        if not any(node.node_id == node_id for node in self._cluster.nodes):
            await self._cluster.refresh([])
        return await self._cluster.connection(node_id)

    async def _settle(
        self,
        entries: Mapping[K, V],
        send: Callable[[Mapping[K, V]], Awaitable[Mapping[K, R | BrokerError]]],
        wrong_place: frozenset[ErrorCode],
    ) -> dict[K, R | BrokerError]:
        """Send the entries until each has an outcome that is not about the place it was sent to, or the attempts are used up."""
        outcomes: dict[K, R | BrokerError] = {}
        left: Mapping[K, V] = dict(entries)
        is_first = True
        unreachable_count = 0

        async def attempt() -> None:
            nonlocal left, is_first
            if not is_first:
                await self._cluster.refresh([])
            is_first = False
            outcomes.update(await send(left))
            misplaced = {
                key: outcome
                for key in left
                if isinstance(outcome := outcomes.get(key), BrokerError) and outcome.code in wrong_place
            }
            left = {key: entries[key] for key in misplaced}
            for error in misplaced.values():
                raise error

        def is_worth_retrying(error: PenstockError) -> bool:
            nonlocal unreachable_count
            if isinstance(error, BrokerError):
                return error.code in wrong_place
            unreachable_count += 1
            # In a cluster somebody else takes over; of a single broker it is soon said that it is not there.
            is_patient = len(self._cluster.nodes) > 1 or unreachable_count < ALONE_ATTEMPTS_MAX
            return is_patient and isinstance(error, AddressError | ConnectionLost)

        if not left:
            return outcomes
        try:
            await retry(
                attempt,
                is_worth_retrying=is_worth_retrying,
                policy=self._policy,
                random=self._environment.random,
            )
        except BrokerError as error:
            if error not in outcomes.values():
                raise
        return outcomes

    async def _settle_by_leader(
        self,
        entries: Mapping[TopicPartition, V],
        send: Callable[
            [Connection, Mapping[TopicPartition, V]], Awaitable[Mapping[TopicPartition, R | BrokerError]]
        ],
    ) -> dict[TopicPartition, R | BrokerError]:
        unknown: dict[TopicPartition, BrokerError] = {}

        async def send_to_leaders(
            left: Mapping[TopicPartition, V],
        ) -> Mapping[TopicPartition, R | BrokerError]:
            metadata = await self._cluster.refresh({topic for topic, _ in left})
            outcomes: dict[TopicPartition, R | BrokerError] = {}
            by_leader: dict[int, dict[TopicPartition, V]] = {}
            for key, value in left.items():
                partition = _partition_of(metadata, key)
                if isinstance(partition, BrokerError):
                    unknown[key] = partition
                elif partition.leader < 0:
                    outcomes[key] = broker_error(ErrorCode.LEADER_NOT_AVAILABLE, subject=f"partition {key}")
                else:
                    by_leader.setdefault(partition.leader, {})[key] = value
            for node_id, group in by_leader.items():
                outcomes |= await send(await self._cluster.connection(node_id), group)
            return outcomes

        return {**await self._settle(entries, send_to_leaders, _WRONG_LEADER), **unknown}


def _production_environment() -> Environment:
    # Imported here: who brings an environment of their own needs none of the real ports.
    from penstock.runtime.production import production_environment

    return production_environment()


def unknown_topic(name: str) -> BrokerError:
    """The outcome for a topic that the cluster does not name."""
    return broker_error(ErrorCode.UNKNOWN_TOPIC_OR_PARTITION, subject=f"topic {name}")


def _partition_of(metadata: ClusterMetadata, key: TopicPartition) -> PartitionMetadata | BrokerError:
    topic = metadata.topics.get(key.topic)
    if topic is None:
        return metadata.topic_errors.get(key.topic) or unknown_topic(key.topic)
    unknown = broker_error(ErrorCode.UNKNOWN_TOPIC_OR_PARTITION, subject=f"partition {key}")
    return topic.partitions.get(key.partition, unknown)


__all__ = ["AdminBase", "unknown_topic"]
