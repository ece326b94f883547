"""What an assignor is, and what several of them need.

Owns the interface that a user's own assignor has to have, too. Knows nothing of members' state or of the wire beyond what a subscription holds.

Invariants of every assignor here: a pure function of its arguments (the order of the mappings does not matter); every partition of a
subscribed topic goes to at most one member, and only to one that is subscribed to it; every member has an entry.
"""

from collections.abc import Collection, Iterable, Mapping
from typing import Protocol

from penstock.client.metadata import TopicPartition
from penstock.protocol.consumer_protocol import ConsumerSubscription

Assignment = Mapping[str, list[TopicPartition]]
"""The partitions of each member, by member id."""


class GroupSubscription:
    """The members of a group, by member id, as the leader sees them."""

    __slots__ = ("instance_ids", "members")

    def __init__(
        self,
        members: Mapping[str, ConsumerSubscription],
        instance_ids: Mapping[str, str | None] | None = None,
    ) -> None:
        self.members = members
        self.instance_ids = instance_ids or {}

    @property
    def topics(self) -> set[str]:
        """All that anybody is subscribed to."""
        return {topic for member in self.members.values() for topic in member.topics}

    def in_order(self, member_ids: Iterable[str]) -> list[str]:
        """As Java orders them: static members by their instance ids, then the others by member id."""
        return sorted(member_ids, key=self._place)

    def _place(self, member_id: str) -> tuple[bool, str, str]:
        instance_id = self.instance_ids.get(member_id)
        return (instance_id is None, instance_id or "", member_id)


class Assignor(Protocol):
    """Decides, on the leader, who gets what. One object may serve many members."""

    @property
    def name(self) -> str:
        """What members of all clients know it by; the group uses one that all its members have."""
        ...

    @property
    def is_cooperative(self) -> bool:
        """Whether members may keep partitions while they join again, which `assign` then never gives to another in the same step."""
        ...

    def user_data(self, last_assignment: Collection[TopicPartition], generation: int) -> bytes | None:
        """What a member tells the leader about its assignment of an earlier generation (-1: there was none)."""
        ...

    def assign(self, group: GroupSubscription, partition_counts: Mapping[str, int]) -> Assignment:
        """Give the partitions of the topics that exist (with their counts) to members."""
        ...


def subscribers_by_topic(
    group: GroupSubscription, partition_counts: Mapping[str, int]
) -> Mapping[str, list[str]]:
    """For each topic that exists and that somebody is subscribed to, in order, its subscribers in order."""
    subscribers: dict[str, list[str]] = {}
    for member_id in group.in_order(group.members):
        for topic in set(group.members[member_id].topics):
            subscribers.setdefault(topic, []).append(member_id)
    return {topic: subscribers[topic] for topic in sorted(subscribers) if partition_counts.get(topic, 0) > 0}


__all__ = ["Assignment", "Assignor", "GroupSubscription", "subscribers_by_topic"]
