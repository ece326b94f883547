"""Admin calls as messages: requests from values, values from answers.

Pure. Knows no connection and no retry; what a broker refused comes out as a BrokerError in the place of the result.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import TypeVar

from penstock.client.admin_values import (
    ConfigChange,
    ConfigEntry,
    ConfigResource,
    ConfigSource,
    CreatedTopic,
    FoundOffset,
    NewTopic,
    ResourceKind,
)
from penstock.client.errors import BrokerError, broker_error
from penstock.client.metadata import NO_TOPIC_ID, TopicPartition
from penstock.protocol.message import Message

BROKER_TIMEOUT_MS = 15_000
"""How long a broker may take for a change before it answers REQUEST_TIMED_OUT; below the connection's own patience."""
CONSUMER_REPLICA_ID = -1
UNKNOWN_EPOCH = -1
V = TypeVar("V")


def create_topics_request(topics: Iterable[NewTopic], *, validate_only: bool) -> Message:
    """CreateTopics; -1 for the broker's default needs version 4."""
    return Message(
        topics=[
            Message(
                name=topic.name,
                num_partitions=-1 if topic.partition_count is None else topic.partition_count,
                replication_factor=-1 if topic.replication_factor is None else topic.replication_factor,
                assignments=[
                    Message(partition_index=index, broker_ids=list(nodes))
                    for index, nodes in topic.assignments.items()
                ],
                configs=[Message(name=name, value=value) for name, value in topic.configs.items()],
            )
            for topic in topics
        ],
        timeout_ms=BROKER_TIMEOUT_MS,
        validate_only=validate_only,
    )


def read_created_topics(answer: Message) -> dict[str, CreatedTopic | BrokerError]:
    """The outcome for each topic."""
    return {entry.name: _created_topic(entry) for entry in answer.topics}


def _created_topic(entry: Message) -> CreatedTopic | BrokerError:
    if entry.error_code:
        return broker_error(entry.error_code, entry.error_message, subject=f"topic {entry.name}")
    return CreatedTopic(
        name=entry.name,
        topic_id=None if entry.topic_id == NO_TOPIC_ID else entry.topic_id,
        partition_count=None if entry.num_partitions < 0 else entry.num_partitions,
        replication_factor=None if entry.replication_factor < 0 else entry.replication_factor,
    )


def delete_topics_request(names: Sequence[str]) -> Message:
    """DeleteTopics by name: the field of versions up to 5 and that of later ones."""
    return Message(
        topic_names=list(names),
        topics=[Message(name=name) for name in names],
        timeout_ms=BROKER_TIMEOUT_MS,
    )


def create_partitions_request(counts: Mapping[str, int], *, validate_only: bool) -> Message:
    """CreatePartitions, replicas placed by the controller."""
    return Message(
        topics=[Message(name=name, count=count, assignments=None) for name, count in counts.items()],
        timeout_ms=BROKER_TIMEOUT_MS,
        validate_only=validate_only,
    )


def read_topic_errors(entries: Iterable[Message]) -> dict[str, BrokerError | None]:
    """The outcome for each topic of DeleteTopics and CreatePartitions; None where it went well."""
    return {
        entry.name: broker_error(entry.error_code, entry.error_message, subject=f"topic {entry.name}")
        if entry.error_code
        else None
        for entry in entries
    }


def describe_configs_request(resources: Iterable[ConfigResource], *, with_documentation: bool) -> Message:
    """DescribeConfigs of all configs of each resource."""
    return Message(
        resources=[
            Message(resource_type=int(kind), resource_name=name, configuration_keys=None)
            for kind, name in resources
        ],
        include_synonyms=False,
        include_documentation=with_documentation,
    )


def read_configs(answer: Message) -> dict[ConfigResource, dict[str, ConfigEntry] | BrokerError]:
    """The configs of each resource, by name."""
    outcomes: dict[ConfigResource, dict[str, ConfigEntry] | BrokerError] = {}
    for result in answer.results:
        resource = ConfigResource(ResourceKind(result.resource_type), result.resource_name)
        if result.error_code:
            outcomes[resource] = broker_error(result.error_code, result.error_message, subject=str(resource))
        else:
            outcomes[resource] = {entry.name: _config_entry(entry) for entry in result.configs}
    return outcomes


def _config_entry(entry: Message) -> ConfigEntry:
    known = entry.config_source in ConfigSource.__members__.values()
    return ConfigEntry(
        name=entry.name,
        value=entry.value,
        source=ConfigSource(entry.config_source) if known else ConfigSource.UNKNOWN,
        is_read_only=entry.read_only,
        is_sensitive=entry.is_sensitive,
        documentation=entry.documentation,
    )


def alter_configs_request(
    changes: Mapping[ConfigResource, Sequence[ConfigChange]], *, validate_only: bool
) -> Message:
    """IncrementalAlterConfigs."""
    return Message(
        resources=[
            Message(
                resource_type=int(resource.kind),
                resource_name=resource.name,
                configs=[
                    Message(name=change.name, config_operation=int(change.operation), value=change.value)
                    for change in resource_changes
                ],
            )
            for resource, resource_changes in changes.items()
        ],
        validate_only=validate_only,
    )


def read_altered_configs(answer: Message) -> dict[ConfigResource, BrokerError | None]:
    """The outcome for each resource; None where it went well."""
    outcomes: dict[ConfigResource, BrokerError | None] = {}
    for entry in answer.responses:
        resource = ConfigResource(ResourceKind(entry.resource_type), entry.resource_name)
        failed = entry.error_code != 0
        outcomes[resource] = (
            broker_error(entry.error_code, entry.error_message, subject=str(resource)) if failed else None
        )
    return outcomes


def list_offsets_request(timestamps_ms: Mapping[TopicPartition, int], *, isolation_level: int) -> Message:
    """ListOffsets. The current leader epoch is not told: a stale leader says so by itself."""
    return Message(
        replica_id=CONSUMER_REPLICA_ID,
        isolation_level=isolation_level,
        topics=[
            Message(
                name=topic,
                partitions=[
                    Message(partition_index=index, current_leader_epoch=UNKNOWN_EPOCH, timestamp=timestamp_ms)
                    for index, timestamp_ms in partitions
                ],
            )
            for topic, partitions in _by_topic(timestamps_ms).items()
        ],
        timeout_ms=BROKER_TIMEOUT_MS,
    )


def read_offsets(answer: Message) -> dict[TopicPartition, FoundOffset | BrokerError]:
    """The outcome for each partition."""
    return {
        TopicPartition(topic.name, entry.partition_index): broker_error(
            entry.error_code, subject=f"{topic.name}-{entry.partition_index}"
        )
        if entry.error_code
        else FoundOffset(entry.offset, entry.timestamp, entry.leader_epoch)
        for topic in answer.topics
        for entry in topic.partitions
    }


def delete_records_request(offsets: Mapping[TopicPartition, int]) -> Message:
    """DeleteRecords: all below the offset of each partition."""
    return Message(
        topics=[
            Message(
                name=topic,
                partitions=[Message(partition_index=index, offset=offset) for index, offset in partitions],
            )
            for topic, partitions in _by_topic(offsets).items()
        ],
        timeout_ms=BROKER_TIMEOUT_MS,
    )


def read_deleted_records(answer: Message) -> dict[TopicPartition, int | BrokerError]:
    """The new log start offset of each partition."""
    return {
        TopicPartition(topic.name, entry.partition_index): broker_error(
            entry.error_code, subject=f"{topic.name}-{entry.partition_index}"
        )
        if entry.error_code
        else entry.low_watermark
        for topic in answer.topics
        for entry in topic.partitions
    }


def _by_topic(values: Mapping[TopicPartition, V]) -> dict[str, list[tuple[int, V]]]:
    topics: dict[str, list[tuple[int, V]]] = {}
    for (topic, partition), value in values.items():
        topics.setdefault(topic, []).append((partition, value))
    return topics
