"""What `penstock topic describe` asks of a cluster, and how it shows it.

Owns one topic's picture: partitions with their offsets, and configs. Offsets of a partition without a leader are left blank;
one whose replicas are all offline shows as `offline`.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import click

from penstock.cli import topic_backlog
from penstock.cli.asking import counted
from penstock.cli.output import Column, print_json, print_table, topic_id_text
from penstock.cli.topic_backlog import Backlogs
from penstock.cli.topic_health import Lack, ids
from penstock.client.admin import Admin
from penstock.client.admin_values import (
    EARLIEST,
    LATEST,
    ConfigEntry,
    ConfigResource,
    ConfigSource,
    FoundOffset,
)
from penstock.client.errors import BrokerError
from penstock.client.metadata import PartitionMetadata, TopicMetadata, TopicPartition

_SOURCES = {
    ConfigSource.DYNAMIC_TOPIC_CONFIG: "topic",
    ConfigSource.DYNAMIC_BROKER_CONFIG: "broker",
    ConfigSource.DYNAMIC_DEFAULT_BROKER_CONFIG: "all brokers",
    ConfigSource.STATIC_BROKER_CONFIG: "broker at start",
    ConfigSource.DEFAULT_CONFIG: "default",
}


@dataclass(frozen=True, slots=True)
class TopicDescription:
    """One topic: log start and end offsets by partition, as far as a leader told them."""

    metadata: TopicMetadata
    start_offsets: Mapping[int, int]
    end_offsets: Mapping[int, int]
    configs: Mapping[str, ConfigEntry]
    backlogs: Backlogs
    """Of partitions whose backlog is bounded, or kept until it is consumed."""


@dataclass(frozen=True, slots=True)
class Found:
    """What was found, and what went wrong."""

    topics: Sequence[TopicDescription]
    errors: Sequence[BrokerError]


async def ask(admin: Admin, names: Iterable[str]) -> Found:
    """Ask for the named topics."""
    outcomes = list((await admin.describe_topics(names)).values())
    topics = [outcome for outcome in outcomes if isinstance(outcome, TopicMetadata)]
    errors = [outcome for outcome in outcomes if isinstance(outcome, BrokerError)]
    led = [
        TopicPartition(topic.name, partition.index)
        for topic in topics
        for partition in topic.partitions.values()
        if partition.leader >= 0
    ]
    starts = await admin.list_offsets(dict.fromkeys(led, EARLIEST))
    ends = await admin.list_offsets(dict.fromkeys(led, LATEST))
    configs = await admin.describe_configs([ConfigResource.topic(topic.name) for topic in topics])
    backlogs = await topic_backlog.ask(admin, topics)
    errors += [outcome for outcome in ends.values() if isinstance(outcome, BrokerError)]
    descriptions: list[TopicDescription] = []
    for topic in topics:
        entries = configs[ConfigResource.topic(topic.name)]
        if isinstance(entries, BrokerError):
            errors.append(entries)
            entries = {}
        first, behind = _offsets(topic.name, starts), _offsets(topic.name, ends)
        own = {place: each for place, each in backlogs.items() if place.topic == topic.name}
        descriptions.append(TopicDescription(topic, first, behind, entries, own))
    return Found(descriptions, errors)


def _offsets(topic: str, found: Mapping[TopicPartition, FoundOffset | BrokerError]) -> dict[int, int]:
    return {
        key.partition: outcome.offset
        for key, outcome in found.items()
        if key.topic == topic and isinstance(outcome, FoundOffset)
    }


def show(topics: Sequence[TopicDescription], *, all_configs: bool, as_json: bool) -> None:
    """Print each topic."""
    for position, topic in enumerate(topics):
        if as_json:
            print_json(_as_json(topic, all_configs))
            continue
        if position:
            click.echo()
        _show(topic, all_configs)


def _shown_configs(topic: TopicDescription, all_configs: bool) -> list[ConfigEntry]:
    return [entry for _, entry in sorted(topic.configs.items()) if all_configs or not entry.is_default]


def _show(topic: TopicDescription, all_configs: bool) -> None:
    metadata = topic.metadata
    topic_id = topic_id_text(metadata.topic_id)
    click.echo(f"topic {metadata.name}" + (f", id {topic_id}" if topic_id else ""))
    columns = [
        Column("PARTITION", is_number=True),
        Column("LEADER", is_number=True),
        Column("EPOCH", is_number=True),
        Column("REPLICAS"),
        Column("ISR"),
        Column("START", is_number=True),
        Column("END", is_number=True),
    ]
    partitions = [partition for _, partition in sorted(metadata.partitions.items())]
    rows = [_row(topic, partition) for partition in partitions]
    if any(partition.offline_replicas for partition in partitions):
        columns.append(Column("OFFLINE"))
        rows = [
            (*row, ids(partition.offline_replicas)) for row, partition in zip(rows, partitions, strict=True)
        ]
    print_table(columns, rows)
    lacking = [partition for partition in partitions if Lack.UNDER_REPLICATED.fits(partition, 1)]
    if lacking:
        click.echo(f"\nunder-replicated: {len(lacking)} of {counted(len(partitions), 'partition')}")
    if topic.backlogs:
        click.echo()
        print_table(*topic_backlog.table(topic.backlogs, with_topic=False))
    configs = _shown_configs(topic, all_configs)
    if configs:
        click.echo()
        print_table(
            [Column("CONFIG"), Column("VALUE"), Column("SET FOR")],
            [(entry.name, entry.value, _source(entry)) for entry in configs],
        )


def _row(topic: TopicDescription, partition: PartitionMetadata) -> Sequence[object]:
    return (
        partition.index,
        _leader(partition),
        partition.leader_epoch if partition.leader_epoch >= 0 else None,
        ids(partition.replicas),
        ids(partition.isr),
        topic.start_offsets.get(partition.index),
        topic.end_offsets.get(partition.index),
    )


def _leader(partition: PartitionMetadata) -> object:
    """The leader's id; `offline` where there is none and the replicas that could lead are offline, as after damage to a log."""
    if partition.leader >= 0:
        return partition.leader
    return "offline" if set(partition.replicas) <= set(partition.offline_replicas) else None


def _source(entry: ConfigEntry) -> str:
    return _SOURCES.get(entry.source, entry.source.name.lower())


def _as_json(topic: TopicDescription, all_configs: bool) -> dict[str, object]:
    metadata = topic.metadata
    return {
        "topic": metadata.name,
        "id": topic_id_text(metadata.topic_id),
        "internal": metadata.is_internal,
        "partitions": [
            {
                "partition": partition.index,
                "leader": partition.leader,
                "leader_epoch": partition.leader_epoch,
                "replicas": list(partition.replicas),
                "isr": list(partition.isr),
                "offline_replicas": list(partition.offline_replicas),
                "start_offset": topic.start_offsets.get(partition.index),
                "end_offset": topic.end_offsets.get(partition.index),
                "backlog": topic_backlog.as_json(
                    topic.backlogs.get(TopicPartition(metadata.name, partition.index))
                ),
            }
            for _, partition in sorted(metadata.partitions.items())
        ],
        "configs": {
            entry.name: {"value": entry.value, "source": entry.source.name.lower()}
            for entry in _shown_configs(topic, all_configs)
        },
    }


__all__ = ["Found", "TopicDescription", "ask", "show"]
