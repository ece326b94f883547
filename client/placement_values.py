"""Where replicas are: what the admin calls about brokers, folders and moves give and take.

Owns the values. Knows neither messages nor connections.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

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
class LogDirectory:
    """A data folder of a broker: bytes of the disk (None where the broker does not tell) and bytes of each replica in it."""

    path: str
    total_bytes: int | None
    free_bytes: int | None
    sizes_bytes: Mapping[TopicPartition, int]


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


__all__ = ["BrokerListing", "ClusterDescription", "LogDirectory", "Reassignment"]
