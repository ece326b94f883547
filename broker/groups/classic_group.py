"""One group of the classic protocol: signatures; the machine follows in the next commits."""

from penstock.broker.groups.classic_events import (
    Action,
    ClassicLimits,
    ClassicState,
    Event,
    GroupSnapshot,
    SnapshotMember,
)
from penstock.protocol.errors import ErrorCode


class ClassicGroup:
    """One consumer group as its coordinator sees it."""

    def __init__(self, group_id: str, limits: ClassicLimits) -> None:
        self.group_id = group_id
        self.limits = limits
        self.state = ClassicState.EMPTY
        self.generation = 0
        self.protocol_type: str | None = None
        self.protocol_name: str | None = None
        self.leader: str | None = None
        self.deadline_ms: int | None = None
        """When the group wants to be stepped at the latest (monotonic ms); None while nothing can expire."""
        self.empty_since_ms: int | None = None
        """Since when the group is EMPTY (monotonic ms); None while it is not, or never had a member."""

    @classmethod
    def restore(
        cls,
        group_id: str,
        limits: ClassicLimits,
        snapshot: GroupSnapshot,
        now_ms: int,
        *,
        state_age_ms: int = 0,
    ) -> "ClassicGroup":
        """Make the group anew from its last record, written `state_age_ms` ago by the wall clock."""
        raise NotImplementedError

    def step(self, event: Event, now_ms: int) -> tuple[Action, ...]:
        """Take one event; returns what to do, in order."""
        raise NotImplementedError

    def members(self) -> tuple[SnapshotMember, ...]:
        """Return the members for DescribeGroups: metadata and assignments only while STABLE, as Kafka shows them."""
        raise NotImplementedError

    def check_commit(
        self,
        member_id: str,
        generation: int,
        group_instance_id: str | None,
        *,
        is_transactional: bool = False,
    ) -> ErrorCode:
        """Say whether such a member may commit offsets now: OffsetCommit's fencing, or TxnOffsetCommit's."""
        raise NotImplementedError

    def is_subscribed_to(self, topic: str) -> bool:
        """Say whether some member may be subscribed to the topic: what can't be parsed counts as subscribed."""
        raise NotImplementedError
