"""Where replicas are: what the admin calls about brokers, folders and moves give and take.

Owns the values. Knows neither messages nor connections.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from penstock.client.metadata import Node, TopicPartition


@dataclass(frozen=True, slots=True)
class BrokerListing:
    """A registered broker. A fenced one answers, but leads nothing: it starts, or is about to stop."""

    node: Node
    is_fenced: bool = False


@dataclass(frozen=True, slots=True)
class ClusterDescription:
    """The brokers of a cluster by id. `controller_id` is -1 while there is none."""

    cluster_id: str
    controller_id: int
    brokers: Mapping[int, BrokerListing]


@dataclass(frozen=True, slots=True)
class PartitionBacklog:
    """What bounds the backlog of a partition, as its leader tells: how full it is, what was refused, and what is kept for whom.

    None is what is not bounded, not known, or not there. Counts are since this leader has the bounds.
    """

    group: str | None
    """The slowest of the groups that count."""
    policy: str
    records: int | None
    max_records: int | None
    size_bytes: int | None
    max_bytes: int | None
    age_ms: int | None
    max_age_ms: int | None
    refused_batches: int
    refused_records: int
    held_batches: int
    held_bytes: int
    timed_out_batches: int
    """Held until their producer's patience had ended."""
    throttled_ms: int
    keeps_unconsumed: bool
    kept_segments: int
    """What retention would have deleted when it looked last, were it not for that group."""
    kept_bytes: int
    kept_since_ms: int | None
    """ms since 1970."""


@dataclass(frozen=True, slots=True)
class LogDirectory:
    """A data folder of a broker: bytes of the disk (None where the broker does not tell) and bytes of each replica in it."""

    path: str
    total_bytes: int | None
    free_bytes: int | None
    sizes_bytes: Mapping[TopicPartition, int]
    backlogs: Mapping[TopicPartition, PartitionBacklog] = field(
        default_factory=dict[TopicPartition, PartitionBacklog]
    )
    """Of partitions with a bounded backlog that this broker leads; only Penstock tells it."""


@dataclass(frozen=True, slots=True)
class Reassignment:
    """A move that is under way. `replicas` are those that come and those that go together."""

    replicas: Sequence[int]
    adding: Sequence[int]
    removing: Sequence[int]

    @property
    def target(self) -> tuple[int, ...]:
        """The replicas when it is done, the preferred leader first."""
        return tuple(node_id for node_id in self.replicas if node_id not in self.removing)

    @property
    def origin(self) -> tuple[int, ...]:
        """The replicas when it is cancelled."""
        return tuple(node_id for node_id in self.replicas if node_id not in self.adding)


__all__ = ["BrokerListing", "ClusterDescription", "LogDirectory", "PartitionBacklog", "Reassignment"]
