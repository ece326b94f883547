"""Partitions that lack something, as Kafka's `kafka-topics --describe --under-replicated-partitions` and its sisters pick them.

Owns what each filter means and how a picked partition is shown. Source: Kafka's `TopicCommand`.
"""

import enum
from collections.abc import Iterable, Mapping, Sequence

from penstock.cli.output import Column, print_json, print_table
from penstock.client.admin import Admin
from penstock.client.admin_values import ConfigResource
from penstock.client.errors import BrokerError
from penstock.client.metadata import PartitionMetadata, TopicMetadata

MIN_ISR_CONFIG = "min.insync.replicas"


class Lack(enum.Enum):
    """What a partition may lack; the value is the option's name."""

    UNDER_REPLICATED = "under-replicated-partitions"
    UNAVAILABLE = "unavailable-partitions"
    UNDER_MIN_ISR = "under-min-isr-partitions"
    AT_MIN_ISR = "at-min-isr-partitions"

    def fits(self, partition: PartitionMetadata, min_isr: int) -> bool:
        """Whether the partition lacks this. `min_isr` is its topic's min.insync.replicas, never more than it has replicas."""
        in_sync = len(partition.isr)
        wanted = min(min_isr, len(partition.replicas))
        match self:
            case Lack.UNDER_REPLICATED:
                return in_sync < len(partition.replicas)
            case Lack.UNAVAILABLE:
                return partition.leader < 0
            case Lack.UNDER_MIN_ISR:
                return in_sync < wanted
            case Lack.AT_MIN_ISR:
                return in_sync == wanted


Picked = Sequence[tuple[str, PartitionMetadata]]


async def pick(
    admin: Admin, names: Sequence[str], lacks: Iterable[Lack]
) -> tuple[Picked, Sequence[BrokerError]]:
    """The partitions of these topics (of all, if none is named) that lack any of these things, and what went wrong."""
    wanted = frozenset(lacks)
    found = list((await admin.describe_topics(names)).values()) if names else list(await admin.list_topics())
    topics = [outcome for outcome in found if isinstance(outcome, TopicMetadata)]
    min_isrs: Mapping[str, int] = {}
    if wanted & {Lack.UNDER_MIN_ISR, Lack.AT_MIN_ISR}:
        min_isrs = await _min_isrs(admin, [topic.name for topic in topics])
    picked = [
        (topic.name, partition)
        for topic in topics
        for _, partition in sorted(topic.partitions.items())
        if any(lack.fits(partition, min_isrs.get(topic.name, 1)) for lack in wanted)
    ]
    return picked, [outcome for outcome in found if isinstance(outcome, BrokerError)]


async def _min_isrs(admin: Admin, names: Iterable[str]) -> dict[str, int]:
    configs = await admin.describe_configs([ConfigResource.topic(name) for name in names])
    return {
        resource.name: int(entries[MIN_ISR_CONFIG].value or 1)
        for resource, entries in configs.items()
        if not isinstance(entries, BrokerError) and MIN_ISR_CONFIG in entries
    }


def show(picked: Picked, *, as_json: bool) -> None:
    """Print the picked partitions."""
    if as_json:
        for topic, partition in picked:
            print_json(
                {
                    "topic": topic,
                    "partition": partition.index,
                    "leader": partition.leader,
                    "replicas": list(partition.replicas),
                    "isr": list(partition.isr),
                    "offline_replicas": list(partition.offline_replicas),
                }
            )
        return
    if not picked:
        return
    columns = [
        Column("TOPIC"),
        Column("PARTITION", is_number=True),
        Column("LEADER", is_number=True),
        Column("REPLICAS"),
        Column("ISR"),
        Column("OFFLINE"),
    ]
    print_table(
        columns,
        [
            (
                topic,
                partition.index,
                partition.leader if partition.leader >= 0 else None,
                ids(partition.replicas),
                ids(partition.isr),
                ids(partition.offline_replicas),
            )
            for topic, partition in picked
        ],
    )


def ids(node_ids: Iterable[int]) -> str:
    """Node ids with commas."""
    return ",".join(map(str, node_ids))


__all__ = ["Lack", "ids", "pick", "show"]
