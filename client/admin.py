"""The admin client: topics, configs, offsets and records of a cluster.

Owns where a call goes (controller, leader, any broker) and when it is tried again. Knows neither the fields of messages
(`admin_messages`) nor connections (`cluster`).

Tried again, a bounded number of times with growing waits: what was refused because it came to the wrong broker or too early, and what only
reads or can be done twice with the same result when the connection is lost. Nothing else: a change whose answer was lost raises
RequestOutcomeUnknown.

Every call takes many entries and returns an outcome for each: the result, or the BrokerError in its place. What concerns the whole
call is raised: BootstrapFailed, AddressError, ConnectionLost, UnsupportedByBroker, ProtocolError. Cancellation of any call: it may or may
not have been carried out; the client stays usable. Use cancel scopes for deadlines.
"""

from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from types import TracebackType
from typing import Self, TypeVar

from penstock.client import admin_messages
from penstock.client.admin_values import (
    MAX_TIMESTAMP,
    ConfigChange,
    ConfigEntry,
    ConfigOperation,
    ConfigResource,
    CreatedTopic,
    FoundOffset,
    NewTopic,
    ResourceKind,
)
from penstock.client.backoff import RetryPolicy, retry
from penstock.client.cluster import Cluster
from penstock.client.connection import Connection, ConnectionSettings
from penstock.client.errors import BrokerError, RequestOutcomeUnknown, broker_error
from penstock.client.lifetime import OwnedNursery
from penstock.client.metadata import (
    ClusterMetadata,
    PartitionMetadata,
    TopicMetadata,
    TopicPartition,
    parse_bootstrap,
)
from penstock.errors import PenstockError
from penstock.protocol.api import ApiKey
from penstock.protocol.errors import ErrorCode
from penstock.protocol.message import Message
from penstock.runtime.environment import Environment
from penstock.runtime.network import AddressError, ConnectionLost

K = TypeVar("K")
V = TypeVar("V")
R = TypeVar("R")

_CREATE_TOPICS_VERSION_WITH_DEFAULTS = 4  # KIP-464: -1 asks for the broker's numbers
_LIST_OFFSETS_VERSION_WITH_MAX_TIMESTAMP = 7  # KIP-734
_READ_UNCOMMITTED, _READ_COMMITTED = 0, 1

_WRONG_CONTROLLER = frozenset({ErrorCode.NOT_CONTROLLER, ErrorCode.THROTTLING_QUOTA_EXCEEDED})
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


class Admin:
    """An async context manager: `async with Admin("localhost:9092") as admin:`. Connects on first use."""

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
        self._policy = retry_policy or RetryPolicy()
        self._background = OwnedNursery()
        self._opened: Cluster | None = None

    async def __aenter__(self) -> Self:
        nursery = await self._background.open()
        self._opened = Cluster(self._environment, self._bootstrap, nursery, self._settings)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._cluster.close()
        self._opened = None
        await self._background.close(kind, error, traceback)

    async def describe_cluster(self) -> ClusterMetadata:
        """The cluster's id, brokers and controller (`topics` is empty)."""
        return await self._metadata([])

    async def list_topics(self) -> list[TopicMetadata]:
        """All topics that the principal may see, internal ones too, sorted by name."""
        metadata = await self._metadata(None)
        return [metadata.topics[name] for name in sorted(metadata.topics)]

    async def describe_topics(self, names: Iterable[str]) -> dict[str, TopicMetadata | BrokerError]:
        """Partitions, leaders and replicas of the named topics. Never creates one."""
        wanted = list(dict.fromkeys(names))
        metadata = await self._metadata(wanted) if wanted else None
        outcomes: dict[str, TopicMetadata | BrokerError] = {}
        for name in wanted:
            assert metadata is not None
            found = metadata.topics.get(name) or metadata.topic_errors.get(name)
            outcomes[name] = found or _unknown_topic(name)
        return outcomes

    async def create_topics(
        self, topics: Iterable[NewTopic], *, validate_only: bool = False
    ) -> dict[str, CreatedTopic | BrokerError]:
        """Make topics. A topic in the outcome exists and its creation is as durable as the cluster's metadata.

        `validate_only`: check only, make nothing.

        Raises:
            RequestOutcomeUnknown: the answer was lost (not with `validate_only`).
        """

        async def send(entries: Mapping[str, NewTopic]) -> Mapping[str, CreatedTopic | BrokerError]:
            with_defaults = any(topic.takes_defaults for topic in entries.values())
            answer = await self._ask(
                await self._cluster.controller(),
                ApiKey.CREATE_TOPICS,
                admin_messages.create_topics_request(entries.values(), validate_only=validate_only),
                at_least=_CREATE_TOPICS_VERSION_WITH_DEFAULTS if with_defaults else 1,
                is_repeatable=validate_only,
            )
            return admin_messages.read_created_topics(answer)

        return await self._settle({topic.name: topic for topic in topics}, send, _WRONG_CONTROLLER)

    async def delete_topics(self, names: Iterable[str]) -> dict[str, BrokerError | None]:
        """Delete topics with all their records. None: the topic is gone for clients; its files go soon after.

        Raises:
            RequestOutcomeUnknown: the answer was lost.
        """

        async def send(entries: Mapping[str, None]) -> Mapping[str, BrokerError | None]:
            answer = await self._ask(
                await self._cluster.controller(),
                ApiKey.DELETE_TOPICS,
                admin_messages.delete_topics_request(list(entries)),
                is_repeatable=False,
            )
            return admin_messages.read_topic_errors(answer.responses)

        return await self._settle(dict.fromkeys(names), send, _WRONG_CONTROLLER)

    async def create_partitions(
        self, counts: Mapping[str, int], *, validate_only: bool = False
    ) -> dict[str, BrokerError | None]:
        """Let topics grow to `counts` partitions each (in all; never fewer than now).

        Raises:
            RequestOutcomeUnknown: the answer was lost (not with `validate_only`).
        """

        async def send(entries: Mapping[str, int]) -> Mapping[str, BrokerError | None]:
            answer = await self._ask(
                await self._cluster.controller(),
                ApiKey.CREATE_PARTITIONS,
                admin_messages.create_partitions_request(entries, validate_only=validate_only),
                is_repeatable=validate_only,
            )
            return admin_messages.read_topic_errors(answer.results)

        return await self._settle(counts, send, _WRONG_CONTROLLER)

    async def describe_configs(
        self, resources: Iterable[ConfigResource], *, with_documentation: bool = False
    ) -> dict[ConfigResource, dict[str, ConfigEntry] | BrokerError]:
        """All configs of each resource, by name. Documentation comes from brokers that have it (version 3 and later)."""

        async def send(
            entries: Mapping[ConfigResource, None],
        ) -> Mapping[ConfigResource, dict[str, ConfigEntry] | BrokerError]:
            outcomes: dict[ConfigResource, dict[str, ConfigEntry] | BrokerError] = {}
            for node_id, group in _by_node(entries).items():
                request = admin_messages.describe_configs_request(
                    group, with_documentation=with_documentation
                )
                connection = await self._node_or_any(node_id)
                answer = await self._ask(
                    connection, ApiKey.DESCRIBE_CONFIGS, request, at_least=1, is_repeatable=True
                )
                outcomes |= admin_messages.read_configs(answer)
            return outcomes

        return await self._settle(dict.fromkeys(resources), send, _WRONG_CONTROLLER)

    async def alter_configs(
        self, changes: Mapping[ConfigResource, Sequence[ConfigChange]], *, validate_only: bool = False
    ) -> dict[ConfigResource, BrokerError | None]:
        """Change configs one by one, the others stay as they are (IncrementalAlterConfigs; Kafka 2.3 and later).

        The changes of one resource are made together or not at all.

        Raises:
            RequestOutcomeUnknown: the answer was lost (only if something is appended or subtracted).
        """
        is_repeatable = validate_only or all(
            change.operation in (ConfigOperation.SET, ConfigOperation.DELETE)
            for resource_changes in changes.values()
            for change in resource_changes
        )

        async def send(
            entries: Mapping[ConfigResource, Sequence[ConfigChange]],
        ) -> Mapping[ConfigResource, BrokerError | None]:
            outcomes: dict[ConfigResource, BrokerError | None] = {}
            for node_id, group in _by_node(entries).items():
                request = admin_messages.alter_configs_request(group, validate_only=validate_only)
                connection = await (
                    self._cluster.controller() if node_id is None else self._node_or_any(node_id)
                )
                answer = await self._ask(
                    connection, ApiKey.INCREMENTAL_ALTER_CONFIGS, request, is_repeatable=is_repeatable
                )
                outcomes |= admin_messages.read_altered_configs(answer)
            return outcomes

        return await self._settle(changes, send, _WRONG_CONTROLLER)

    async def list_offsets(
        self, timestamps_ms: Mapping[TopicPartition, int], *, read_committed: bool = False
    ) -> dict[TopicPartition, FoundOffset | BrokerError]:
        """For each partition the first offset whose record is not older than a timestamp, or what EARLIEST, LATEST or MAX_TIMESTAMP name."""
        isolation_level = _READ_COMMITTED if read_committed else _READ_UNCOMMITTED

        async def send(
            connection: Connection, entries: Mapping[TopicPartition, int]
        ) -> Mapping[TopicPartition, FoundOffset | BrokerError]:
            special = MAX_TIMESTAMP in entries.values()
            answer = await self._ask(
                connection,
                ApiKey.LIST_OFFSETS,
                admin_messages.list_offsets_request(entries, isolation_level=isolation_level),
                at_least=_LIST_OFFSETS_VERSION_WITH_MAX_TIMESTAMP if special else 2,
                is_repeatable=True,
            )
            return admin_messages.read_offsets(answer)

        return await self._settle_by_leader(timestamps_ms, send)

    async def delete_records(
        self, before_offsets: Mapping[TopicPartition, int]
    ) -> dict[TopicPartition, int | BrokerError]:
        """Delete all records below an offset (HIGH_WATERMARK: all that are there). The outcome is the new log start offset."""

        async def send(
            connection: Connection, entries: Mapping[TopicPartition, int]
        ) -> Mapping[TopicPartition, int | BrokerError]:
            # With HIGH_WATERMARK a repetition may delete more than was there when the call was made.
            answer = await self._ask(
                connection,
                ApiKey.DELETE_RECORDS,
                admin_messages.delete_records_request(entries),
                is_repeatable=min(entries.values()) >= 0,
            )
            return admin_messages.read_deleted_records(answer)

        return await self._settle_by_leader(before_offsets, send)

    @property
    def _cluster(self) -> Cluster:
        if self._opened is None:
            raise RuntimeError("an Admin is used inside its `async with` block")
        return self._opened

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
    ) -> Message:
        try:
            answer = await connection.request(api_key, request, at_least=at_least)
        except ConnectionLost as error:
            if is_repeatable:
                raise
            raise RequestOutcomeUnknown(
                f"{api_key.name}: {error}; it may or may not have been done"
            ) from error
        code = getattr(answer, "error_code", 0)
        if code:
            raise broker_error(code, getattr(answer, "error_message", None), subject=api_key.name)
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
            if isinstance(error, BrokerError):
                return error.code in wrong_place
            return isinstance(error, AddressError | ConnectionLost)

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


def _unknown_topic(name: str) -> BrokerError:
    return broker_error(ErrorCode.UNKNOWN_TOPIC_OR_PARTITION, subject=f"topic {name}")


def _partition_of(metadata: ClusterMetadata, key: TopicPartition) -> PartitionMetadata | BrokerError:
    topic = metadata.topics.get(key.topic)
    if topic is None:
        return metadata.topic_errors.get(key.topic) or _unknown_topic(key.topic)
    unknown = broker_error(ErrorCode.UNKNOWN_TOPIC_OR_PARTITION, subject=f"partition {key}")
    return topic.partitions.get(key.partition, unknown)


def _by_node(entries: Mapping[ConfigResource, V]) -> dict[int | None, dict[ConfigResource, V]]:
    """A broker answers for its own configs only; everything else (None) can be asked of any."""
    groups: dict[int | None, dict[ConfigResource, V]] = {}
    for resource, value in entries.items():
        own = resource.kind == ResourceKind.BROKER and resource.name.isdigit()
        groups.setdefault(int(resource.name) if own else None, {})[resource] = value
    return groups


__all__ = ["Admin"]
