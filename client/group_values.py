"""What the calls about groups and their offsets take and give.

Owns the values and Kafka's names for states and kinds of groups. Knows neither messages nor connections. Consumer and admin client share
`OffsetAndMetadata`.
"""

import enum
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Self

from penstock.client.metadata import TopicPartition


@dataclass(frozen=True, slots=True)
class OffsetAndMetadata:
    """What a group has committed for a partition, or is to commit.

    `offset` is that of the next record to consume, not of the last one consumed. `leader_epoch` is that of the last one consumed, -1 where
    nobody told. `metadata` is any text of the consumer's own.
    """

    offset: int
    metadata: str = ""
    leader_epoch: int = -1


class _NamedByBroker(enum.StrEnum):
    """Names that a broker may write in any case, and that a newer broker may add to."""

    @classmethod
    def _missing_(cls, value: object) -> "Self | None":
        name = str(value).lower()
        return next((member for member in cls if member.value.lower() == name), None)

    @classmethod
    def read(cls, name: str) -> Self:
        """The member of that name; UNKNOWN where there is none."""
        try:
            return cls(name)
        except ValueError:
            return cls("Unknown")


class GroupState(_NamedByBroker):
    """The state of a group under Kafka's name for it. The last two are of KIP-848 groups only."""

    UNKNOWN = "Unknown"
    EMPTY = "Empty"
    PREPARING_REBALANCE = "PreparingRebalance"
    COMPLETING_REBALANCE = "CompletingRebalance"
    STABLE = "Stable"
    DEAD = "Dead"
    ASSIGNING = "Assigning"
    RECONCILING = "Reconciling"


class GroupKind(_NamedByBroker):
    """The protocol that a group's members speak."""

    UNKNOWN = "Unknown"
    CLASSIC = "classic"
    CONSUMER = "consumer"
    SHARE = "share"
    STREAMS = "streams"


@dataclass(frozen=True, slots=True)
class GroupListing:
    """A group in a list. What older brokers do not tell is UNKNOWN (`state` before Kafka 2.6, `kind` before 3.8)."""

    group_id: str
    protocol_type: str
    """"consumer" for groups of consumers; empty for one that has committed offsets and no members."""
    state: GroupState
    kind: GroupKind


@dataclass(frozen=True, slots=True)
class GroupMember:
    """A member of a group, and which partitions are its own."""

    member_id: str
    group_instance_id: str | None
    """The id of a static member, else None."""
    client_id: str
    client_host: str
    """The address that the broker sees it come from."""
    assignment: Sequence[TopicPartition]
    """Sorted. Empty where the group's protocol is none of a consumer's."""
    target_assignment: Sequence[TopicPartition] | None = None
    """What it shall have once it has caught up (KIP-848); None in a classic group."""
    epoch: int | None = None
    """Its member epoch (KIP-848); None in a classic group."""


@dataclass(frozen=True, slots=True)
class GroupDescription:
    """A group with its members, whichever protocol they speak."""

    group_id: str
    kind: GroupKind
    state: GroupState
    protocol_type: str
    protocol: str
    """The name of the assignor; empty while there is none."""
    members: Sequence[GroupMember]
    coordinator: str
    """`host:port` of the broker that answered."""
    epoch: int | None = None
    """The group epoch (KIP-848); None in a classic group."""

    @property
    def owners(self) -> Mapping[TopicPartition, GroupMember]:
        """Who has which partition."""
        return {partition: member for member in self.members for partition in member.assignment}


__all__ = [
    "GroupDescription",
    "GroupKind",
    "GroupListing",
    "GroupMember",
    "GroupState",
    "OffsetAndMetadata",
]
