"""A group as its shard keeps it: an id, committed offsets, and a membership of either kind or none.

Owns what holds for both kinds: since when the group is at rest, which offsets are under way, whether it may go. Knows no records and no requests.
A group that only commits by hand ("simple consumer") has no membership.
"""

import enum
from collections import Counter
from sys import getsizeof
from typing import TYPE_CHECKING, Any, Protocol

from penstock.broker.groups.offset_table import OffsetTable
from penstock.protocol.errors import ErrorCode

if TYPE_CHECKING:
    from penstock.broker.groups.shard import GroupShard


GROUP_BYTES = 1_000


class Membership(Protocol):
    """What `ClassicGroup` and `ConsumerGroup` have in common. Its driver (`membership_driver`) knows the rest."""

    @property
    def deadline_ms(self) -> int | None:
        """When it wants `TimePassed` at the latest (monotonic ms)."""
        ...

    @property
    def state(self) -> enum.Enum:
        """Where it is in its life; the value is Kafka's name."""
        ...

    @property
    def empty_since_ms(self) -> int | None:
        """Since when it has had no member (monotonic ms); None while it has one, or never had any."""
        ...

    def step(self, event: Any, now_ms: int) -> tuple[Any, ...]:
        """Take one event; returns what to do."""
        ...

    def check_commit(
        self,
        member_id: str,
        generation: int,
        group_instance_id: str | None,
        *,
        is_transactional: bool = False,
    ) -> ErrorCode:
        """Whether such a member may commit now."""
        ...

    def is_subscribed_to(self, topic: str) -> bool:
        """Whether a member may be subscribed to the topic."""
        ...


class Group:
    """One group of a shard. `membership` may be exchanged for one of the other kind while it has no members."""

    __slots__ = (
        "group_id",
        "leftovers",
        "membership",
        "offsets",
        "pending_offsets",
        "scheduled_ms",
        "shard",
        "stored_kinds",
    )

    def __init__(self, group_id: str, shard: "GroupShard") -> None:
        self.group_id = group_id
        self.shard = shard
        self.membership: Membership | None = None
        self.leftovers: tuple[bytes, ...] = ()
        """Keys of records that the log may hold of a membership before the present one. They are deleted at the head of the next store of the
        present one, or with the group, and stay here until that is committed."""
        self.offsets = OffsetTable()
        self.pending_offsets: Counter[tuple[str, int]] = Counter()
        """Commits that are appended and not yet committed: a deletion must name them, too."""
        self.scheduled_ms: int | None = None
        self.stored_kinds: set[int] = set()
        """Kinds of records that the log may hold of the present membership."""

    @property
    def deadline_ms(self) -> int | None:
        """When the membership wants to be stepped; None while nothing can expire."""
        return None if self.membership is None else self.membership.deadline_ms

    def has_offset(self, topic: str, partition: int) -> bool:
        """Whether something is committed, or about to be."""
        return self.offsets.get(topic, partition) is not None or (topic, partition) in self.pending_offsets

    @property
    def held_bytes(self) -> int:
        """What the group takes in memory, about."""
        members: int = getattr(self.membership, "held_bytes", 0)
        leftovers = sum(map(getsizeof, self.leftovers))
        return GROUP_BYTES + 2 * len(self.group_id) + self.offsets.held_bytes + members + leftovers

    @property
    def has_records(self) -> bool:
        """Whether the log may hold anything of it besides offsets."""
        return bool(self.stored_kinds or self.leftovers)

    def offset_keys(self) -> list[tuple[str, int]]:
        """All partitions for which something is committed, or about to be."""
        keys = {(topic, index): None for topic, index, _ in self.offsets}
        keys.update(dict.fromkeys(self.pending_offsets))
        return list(keys)
