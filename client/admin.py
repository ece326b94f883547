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

from collections.abc import Iterable, Mapping, Sequence
from typing import TypeVar

from penstock.client import admin_messages, record_times
from penstock.client.admin_base import unknown_topic
from penstock.client.admin_groups import GroupCalls
from penstock.client.admin_placement import PlacementCalls
from penstock.client.admin_quotas import QuotaCalls
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
from penstock.client.connection import Connection
from penstock.client.errors import BrokerError
from penstock.client.metadata import ClusterMetadata, TopicMetadata, TopicPartition
from penstock.client.record_times import NoneYet
from penstock.protocol.api import ApiKey
from penstock.protocol.errors import ErrorCode

V = TypeVar("V")

_CREATE_TOPICS_VERSION_WITH_DEFAULTS = 4  # KIP-464: -1 asks for the broker's numbers
_LIST_OFFSETS_VERSION_WITH_MAX_TIMESTAMP = 7  # KIP-734
_READ_UNCOMMITTED, _READ_COMMITTED = 0, 1

_WRONG_CONTROLLER = frozenset({ErrorCode.NOT_CONTROLLER, ErrorCode.THROTTLING_QUOTA_EXCEEDED})


class Admin(GroupCalls, PlacementCalls, QuotaCalls):
    """An async context manager: `async with Admin("localhost:9092") as admin:`. Connects on first use."""

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
            outcomes[name] = found or unknown_topic(name)
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

    async def first_timestamps(
        self, offsets: Mapping[TopicPartition, int]
    ) -> dict[TopicPartition, int | BrokerError | None]:
        """For each partition the timestamp, in ms since 1970, of the first record at or behind an offset; None where there is none yet.

        Reads one batch of each partition, so it is dearer than the other calls. OffsetOutOfRange: the records are gone.
        """

        async def send(
            connection: Connection, entries: Mapping[TopicPartition, int]
        ) -> Mapping[TopicPartition, int | BrokerError | None]:
            outcomes: dict[TopicPartition, int | BrokerError | None] = {}
            left = dict(entries)
            while left:
                answer = await self._ask(
                    connection,
                    ApiKey.FETCH,
                    record_times.fetch_request(left),
                    at_most=record_times.FETCH_VERSION_MAX,
                    is_repeatable=True,
                )
                before = dict(left)
                for key, outcome in record_times.read_first_timestamps(answer, before).items():
                    if not isinstance(outcome, NoneYet):
                        outcomes[key] = outcome
                        del left[key]
                    elif outcome.is_at_end:
                        outcomes[key] = None
                        del left[key]
                    else:
                        left[key] = outcome.next_offset
                if left == before:  # no partition got anything: the broker has nothing to give
                    return outcomes | dict.fromkeys(left)
            return outcomes

        return await self._settle_by_leader(offsets, send)

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


def _by_node(entries: Mapping[ConfigResource, V]) -> dict[int | None, dict[ConfigResource, V]]:
    """A broker answers for its own configs only; everything else (None) can be asked of any."""
    groups: dict[int | None, dict[ConfigResource, V]] = {}
    for resource, value in entries.items():
        own = resource.kind == ResourceKind.BROKER and resource.name.isdigit()
        groups.setdefault(int(resource.name) if own else None, {})[resource] = value
    return groups


__all__ = ["Admin"]
