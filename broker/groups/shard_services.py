"""What all shards of a coordinator share. Only data; there before any shard is."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from penstock.broker.backlog.registry import BacklogRegistry
from penstock.broker.groups.deadlines import Deadlines
from penstock.runtime.clock import Clock

if TYPE_CHECKING:
    from penstock.broker.groups.group import Group
    from penstock.broker.groups.membership_driver import MembershipDriver


class ShardServices:
    """What all shards of a coordinator share."""

    def __init__(
        self,
        clock: Clock,
        group_max_count: int,
        backlogs: BacklogRegistry | None = None,
    ) -> None:
        self.clock = clock
        self.drivers: Sequence[MembershipDriver] = ()
        """One for each kind of membership. There from the first shard on (`serving`)."""
        self.group_max_count = group_max_count
        self.group_count = 0
        """Groups of all shards."""
        self.backlogs = backlogs or BacklogRegistry()
        """Told of each commit in the step in which it becomes visible, and of each deletion when it is committed."""
        self.last_token = 0
        self.wake_timer: Callable[[], None] = lambda: None
        self.deadlines: Deadlines[Group] = Deadlines(lambda: self.wake_timer())

    def now_ms(self) -> int:
        """Monotonic ms, as the machines take it."""
        return int(self.clock.monotonic() * 1000)


__all__ = ["ShardServices"]
