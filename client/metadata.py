"""What a Metadata answer says, as typed values, and addresses as people write them.

Owns no state and does no I/O.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from penstock.client.errors import BrokerError, broker_error
from penstock.errors import PenstockError
from penstock.protocol.message import Message

DEFAULT_PORT = 9092
NO_TOPIC_ID = bytes(16)


class Address(NamedTuple):
    """Where a broker listens."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


class InvalidAddress(PenstockError):
    """A bootstrap string that is not `host[:port]`, several of them separated by commas."""


class TopicPartition(NamedTuple):
    """A partition's name."""

    topic: str
    partition: int

    def __str__(self) -> str:
        return f"{self.topic}-{self.partition}"


@dataclass(frozen=True, slots=True)
class Node:
    """A broker as clients see it."""

    node_id: int
    address: Address
    rack: str | None = None


@dataclass(frozen=True, slots=True)
class PartitionMetadata:
    """One partition. `leader` is -1 while there is none, `leader_epoch` -1 where the broker does not tell."""

    index: int
    leader: int
    leader_epoch: int
    replicas: Sequence[int]
    isr: Sequence[int]
    offline_replicas: Sequence[int]


@dataclass(frozen=True, slots=True)
class TopicMetadata:
    """One topic, its partitions by index. `topic_id` is sixteen bytes, None where the broker has no topic ids."""

    name: str
    topic_id: bytes | None
    is_internal: bool
    partitions: Mapping[int, PartitionMetadata]

    @property
    def replication_factor(self) -> int:
        """Replicas of the partition that has the most (they differ only while replicas are moved)."""
        return max((len(partition.replicas) for partition in self.partitions.values()), default=0)


@dataclass(frozen=True, slots=True)
class ClusterMetadata:
    """One Metadata answer. `controller_id` is -1 while there is none. `topic_errors` has the topics that were asked for in vain."""

    cluster_id: str | None
    controller_id: int
    nodes: Mapping[int, Node]
    topics: Mapping[str, TopicMetadata]
    topic_errors: Mapping[str, BrokerError]


def parse_address(text: str) -> Address:
    """Read `host`, `host:port`, `[v6]:port`. Raises InvalidAddress."""
    host, separator, port_text = text.strip().rpartition(":")
    if not separator or text.rstrip().endswith("]"):
        host, port_text = text.strip(), str(DEFAULT_PORT)
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host:
        raise InvalidAddress(f"{text!r}: write an IPv6 address as [address]:port")
    if not host or any(character.isspace() or character in "/[]" for character in host):
        raise InvalidAddress(f"{text!r} is no address of the form host:port")
    if not (port_text.isascii() and port_text.isdigit() and 0 < int(port_text) < 65536):
        raise InvalidAddress(f"{text!r}: {port_text!r} is no port")
    return Address(host, int(port_text))


def parse_bootstrap(text: object) -> list[Address]:
    """Read a text of addresses separated by commas. Raises InvalidAddress, also when there is none, and for what is no text."""
    if not isinstance(text, str):
        raise InvalidAddress(f"{text!r} is no text; write addresses as 'host:port,host:port'")
    addresses = [parse_address(part) for part in text.split(",") if part.strip()]
    if not addresses:
        raise InvalidAddress("no bootstrap address")
    return addresses


def read_metadata(answer: Message) -> ClusterMetadata:
    """Take a Metadata answer (version 1 or later) to typed values."""
    topics, errors = _read_topics(answer.topics)
    return ClusterMetadata(
        cluster_id=answer.cluster_id,
        controller_id=answer.controller_id,
        nodes={
            broker.node_id: Node(broker.node_id, Address(broker.host, broker.port), broker.rack)
            for broker in answer.brokers
        },
        topics=topics,
        topic_errors=errors,
    )


def _read_topics(
    entries: Iterable[Message],
) -> tuple[dict[str, TopicMetadata], dict[str, BrokerError]]:
    topics: dict[str, TopicMetadata] = {}
    errors: dict[str, BrokerError] = {}
    for entry in entries:
        if entry.error_code:
            errors[entry.name] = broker_error(entry.error_code, subject=f"topic {entry.name}")
            continue
        topics[entry.name] = TopicMetadata(
            name=entry.name,
            topic_id=None if entry.topic_id == NO_TOPIC_ID else entry.topic_id,
            is_internal=entry.is_internal,
            partitions={
                partition.partition_index: _read_partition(partition) for partition in entry.partitions
            },
        )
    return topics, errors


def _read_partition(entry: Message) -> PartitionMetadata:
    # The entry's own error code (no leader, a replica that is down) says nothing that the fields don't.
    return PartitionMetadata(
        index=entry.partition_index,
        leader=entry.leader_id,
        leader_epoch=entry.leader_epoch,
        replicas=tuple(entry.replica_nodes),
        isr=tuple(entry.isr_nodes),
        offline_replicas=tuple(entry.offline_replicas),
    )


__all__ = [
    "DEFAULT_PORT",
    "Address",
    "ClusterMetadata",
    "InvalidAddress",
    "Node",
    "PartitionMetadata",
    "TopicMetadata",
    "TopicPartition",
    "parse_address",
    "parse_bootstrap",
    "read_metadata",
]
