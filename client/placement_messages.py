"""The admin calls about brokers, folders and moves as messages: requests from values, values from answers.

Pure. Knows no connection and no retry; what a broker refused comes out as a BrokerError in the place of the result.
"""

from collections.abc import Iterable, Mapping, Sequence

from penstock.client.admin_messages import BROKER_TIMEOUT_MS
from penstock.client.errors import BrokerError, broker_error
from penstock.client.metadata import Address, Node, TopicPartition
from penstock.client.placement_values import (
    BrokerListing,
    ClusterDescription,
    LogDirectory,
    PartitionBacklog,
    Reassignment,
)
from penstock.protocol.errors import ErrorCode
from penstock.protocol.message import Message

_BROKERS = 1  # the endpoint type of DescribeCluster
_PREFERRED, _UNCLEAN = 0, 1


def describe_cluster_request() -> Message:
    """DescribeCluster, fenced brokers too (version 2)."""
    return Message(
        include_cluster_authorized_operations=False, endpoint_type=_BROKERS, include_fenced_brokers=True
    )


def read_cluster(answer: Message) -> ClusterDescription:
    """The brokers and who controls them."""
    return ClusterDescription(
        cluster_id=answer.cluster_id,
        controller_id=answer.controller_id,
        brokers={
            entry.broker_id: BrokerListing(
                Node(entry.broker_id, Address(entry.host, entry.port), entry.rack),
                bool(getattr(entry, "is_fenced", False)),
            )
            for entry in answer.brokers
        },
    )


def describe_log_dirs_request(partitions: Iterable[TopicPartition] | None) -> Message:
    """DescribeLogDirs of these partitions, or of all."""
    if partitions is None:
        return Message(topics=None)
    return Message(
        topics=[
            Message(topic=topic, partitions=indexes)
            for topic, indexes in _indexes_by_topic(partitions).items()
        ]
    )


def read_log_dirs(answer: Message, node_id: int) -> list[LogDirectory] | BrokerError:
    """The folders of one broker; the first error there is if one of them is broken."""
    for entry in answer.results:
        if entry.error_code:
            return broker_error(entry.error_code, subject=f"broker {node_id}, {entry.log_dir}")
    return [
        LogDirectory(
            path=entry.log_dir,
            total_bytes=_size(getattr(entry, "total_bytes", -1)),
            free_bytes=_size(getattr(entry, "usable_bytes", -1)),
            sizes_bytes={
                TopicPartition(topic.name, partition.partition_index): partition.partition_size
                for topic in entry.topics
                for partition in topic.partitions
                if not partition.is_future_key
            },
            backlogs={
                TopicPartition(topic.name, partition.partition_index): _backlog(partition.backlog)
                for topic in entry.topics
                for partition in topic.partitions
                if partition.backlog is not None
            },
        )
        for entry in answer.results
    ]


def _size(told: int) -> int | None:
    return None if told < 0 else told


def _backlog(told: Message) -> PartitionBacklog:
    return PartitionBacklog(
        group=told.group,
        policy=told.policy,
        records=_size(told.records),
        max_records=_size(told.max_records),
        size_bytes=_size(told.size_bytes),
        max_bytes=_size(told.max_bytes),
        age_ms=_size(told.age_ms),
        max_age_ms=_size(told.max_age_ms),
        refused_batches=told.refused_batches,
        refused_records=told.refused_records,
        held_batches=told.held_batches,
        held_bytes=told.held_bytes,
        timed_out_batches=told.timed_out_batches,
        throttled_ms=told.throttled_ms,
        keeps_unconsumed=told.keeps_unconsumed,
        kept_segments=told.kept_segments,
        kept_bytes=told.kept_bytes,
        kept_since_ms=_size(told.kept_since_ms),
    )


def alter_reassignments_request(
    targets: Mapping[TopicPartition, Sequence[int] | None], *, may_change_factor: bool
) -> Message:
    """AlterPartitionReassignments; None cancels."""
    topics: dict[str, list[Message]] = {}
    for (topic, index), replicas in targets.items():
        chosen = None if replicas is None else list(replicas)
        topics.setdefault(topic, []).append(Message(partition_index=index, replicas=chosen))
    return Message(
        timeout_ms=BROKER_TIMEOUT_MS,
        allow_replication_factor_change=may_change_factor,
        topics=[Message(name=topic, partitions=partitions) for topic, partitions in topics.items()],
    )


def read_altered_reassignments(answer: Message) -> dict[TopicPartition, BrokerError | None]:
    """The outcome for each partition; None where the move (or its cancelling) has begun."""
    return {
        TopicPartition(topic.name, entry.partition_index): _outcome(entry, topic.name, entry.partition_index)
        for topic in answer.responses
        for entry in topic.partitions
    }


def list_reassignments_request(partitions: Iterable[TopicPartition] | None) -> Message:
    """ListPartitionReassignments of these partitions, or of all."""
    topics = None
    if partitions is not None:
        topics = [
            Message(name=topic, partition_indexes=indexes)
            for topic, indexes in _indexes_by_topic(partitions).items()
        ]
    return Message(timeout_ms=BROKER_TIMEOUT_MS, topics=topics)


def read_reassignments(answer: Message) -> dict[TopicPartition, Reassignment]:
    """The moves that are under way."""
    return {
        TopicPartition(topic.name, entry.partition_index): Reassignment(
            tuple(entry.replicas), tuple(entry.adding_replicas), tuple(entry.removing_replicas)
        )
        for topic in answer.topics
        for entry in topic.partitions
    }


def elect_leaders_request(partitions: Iterable[TopicPartition] | None, *, is_unclean: bool) -> Message:
    """ElectLeaders for these partitions, or for all."""
    topics = None
    if partitions is not None:
        topics = [
            Message(topic=topic, partitions=indexes)
            for topic, indexes in _indexes_by_topic(partitions).items()
        ]
    return Message(
        election_type=_UNCLEAN if is_unclean else _PREFERRED,
        topic_partitions=topics,
        timeout_ms=BROKER_TIMEOUT_MS,
    )


def read_elections(answer: Message) -> dict[TopicPartition, BrokerError | None]:
    """The outcome for each partition; None where the leader is as asked for, also where it was before."""
    return {
        TopicPartition(topic.topic, entry.partition_id): None
        if entry.error_code == ErrorCode.ELECTION_NOT_NEEDED
        else _outcome(entry, topic.topic, entry.partition_id)
        for topic in answer.replica_election_results
        for entry in topic.partition_result
    }


def _outcome(entry: Message, topic: str, index: int) -> BrokerError | None:
    if not entry.error_code:
        return None
    return broker_error(entry.error_code, entry.error_message, subject=f"{topic}-{index}")


def _indexes_by_topic(partitions: Iterable[TopicPartition]) -> dict[str, list[int]]:
    topics: dict[str, list[int]] = {}
    for topic, index in partitions:
        topics.setdefault(topic, []).append(index)
    return topics
