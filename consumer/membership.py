"""What group membership and the consumer's core ask of each other.

Owns the contract only: the values, `GroupListener` (the core implements it) and `Membership` (`classic_membership` and `consumer_membership`
implement it). Neither side knows more of the other than stands here.

Invariants: the listener is called by one task, one call at a time. A partition is `assign`ed before it is anything else, and `revoke`d or
`lose`d once before it can be assigned again. Until `revoke` has returned, no other member is given the partition; `lose` may come
too late for that, since the broker has decided already. A `lose` cancels a `revoke` or an `assign` that is under way.
"""

import enum
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Never, Protocol

from penstock.client.cluster import Cluster
from penstock.client.coordinator import Coordinators
from penstock.client.metadata import TopicPartition
from penstock.consumer.subscription import Subscription
from penstock.errors import PenstockError
from penstock.runtime.environment import Environment

if TYPE_CHECKING:
    from penstock.consumer.assignors.assignor import Assignor

NO_GENERATION = -1


class GroupProtocol(enum.StrEnum):
    """How members and coordinator speak: Kafka's `group.protocol`."""

    CLASSIC = "classic"
    CONSUMER = "consumer"  # KIP-848

    @classmethod
    def _missing_(cls, value: object) -> Never:
        raise ValueError(f"group_protocol={value!r}: it is one of {', '.join(cls)}")


@dataclass(frozen=True, slots=True)
class GroupIdentity:
    """Who commits. Without a member id: somebody outside of the group's membership, who may commit while the group has no members."""

    group_id: str
    member_id: str = ""
    epoch: int = NO_GENERATION
    """The generation (classic) or the member epoch (KIP-848)."""
    group_instance_id: str | None = None
    protocol: GroupProtocol = GroupProtocol.CLASSIC
    is_out: bool = False
    """Of a membership that is not in the group now: it has nothing to commit for."""
    is_rebalancing: bool = field(default=False, compare=False)
    """Whether the generation may be over already, and the next one not yet known (classic)."""

    @property
    def is_member(self) -> bool:
        """Whether it is a member of the group now."""
        return self.epoch > NO_GENERATION and bool(self.member_id)


@dataclass(frozen=True, slots=True, kw_only=True)
class MembershipOptions:
    """How a member behaves; Kafka's defaults."""

    group_instance_id: str | None = None
    """Makes it a static member (KIP-345): it keeps its partitions over a restart within the session timeout."""
    session_timeout_ms: int = 45_000
    """Classic only; a KIP-848 group has its own on the broker, and there it is the time after which a member without an answer gives up."""
    heartbeat_interval_ms: int = 3_000
    """Classic only: the KIP-848 coordinator tells the interval."""
    max_poll_interval_ms: int = 300_000
    """How long a user may have records in hand, and how long a rebalance waits for that (`rebalance.timeout.ms`)."""
    assignors: Sequence["Assignor"] = ()
    """In order of preference; empty: range and cooperative-sticky. Classic only."""
    server_assignor: str | None = None
    """KIP-848: `uniform` or `range`; None: the group's own choice."""
    rack: str | None = None
    metadata_max_age_ms: int = 300_000
    """How often subscribed topics are looked at for new partitions."""
    pattern_max_age_ms: int = 30_000
    """How often it is looked for new topics that match a pattern (classic only)."""
    retry_backoff_ms: int = 100
    retry_backoff_max_ms: int = 1_000


class GroupListener(Protocol):
    """The consumer's core, as its membership sees it.

    The coroutines are awaited by the membership's own task, beside which heartbeats go on. They must not raise PenstockErrors or errors of the
    user's callbacks (keep those for the user's next call); anything that they raise ends `Membership.run`.
    """

    async def revoke(self, partitions: frozenset[TopicPartition]) -> None:
        """About to be given up: stop handing out, wait until nothing is in hand, commit (if auto_commit), await on_revoked.

        Cancelled when it lasts longer than the rebalance timeout or the partitions are lost meanwhile: then `lose` follows.
        """
        ...

    async def lose(self, partitions: frozenset[TopicPartition]) -> None:
        """Gone already (fenced, expired): stop handing out at once, forget, commit nothing, await on_lost."""
        ...

    async def assign(self, partitions: frozenset[TopicPartition]) -> None:
        """Newly ours: await on_assigned, then consume from the committed offsets. Cancelled when they are lost meanwhile."""
        ...

    def fail(self, error: PenstockError) -> None:
        """The membership ended for good; nothing is owned any more. To be raised by the user's next call, also one that waits now."""
        ...

    @property
    def ms_since_poll(self) -> float | None:
        """Milliseconds that the user has had records in hand; None: nothing is in hand. Fast."""
        ...

    async def wait_polled(self) -> None:
        """Return when nothing is in hand: at once, or when the user has come back for more."""
        ...


class Membership(Protocol):
    """One member of one group."""

    async def run(self) -> None:
        """Join, heartbeat, rebalance, until `leave` is done, a failure for good (told by `GroupListener.fail`), or cancelled.

        Cancellation: no task is left; the group is not told (it finds out by the session timeout), no callback is made. For a clean end
        call `leave` first.
        """
        ...

    @property
    def identity(self) -> GroupIdentity:
        """Who it is now; changes with each rebalance. To be read anew for each commit."""
        ...

    @property
    def failure(self) -> PenstockError | None:
        """Why it ended for good, if it did."""
        ...

    @property
    def is_settled(self) -> bool:
        """In the group, with no rebalance under way that it knows of."""
        ...

    async def wait_settled(self) -> None:
        """Return when the member is not between two generations: for a commit that was refused with RebalanceInProgress.

        Calls of the listener may be under way then, also a revoke that waits for the very user who wants to commit; and all may be lost.
        """
        ...

    def change_subscription(self, subscription: Subscription) -> None:
        """Take effect soon: a rebalance follows. An empty one leaves the group until there is another."""
        ...

    async def leave(self) -> None:
        """Revoke all, leave the group (static members: without telling), end `run`. Returns when that is done; at once if `run` has ended.

        Bounded in time but for the listener's `revoke`. Cancellation: it goes on in `run`; cancel that as well.
        """
        ...


def make_membership(
    *,
    protocol: GroupProtocol,
    group_id: str,
    subscription: Subscription,
    listener: GroupListener,
    cluster: Cluster,
    coordinators: Coordinators,
    environment: Environment,
    options: MembershipOptions,
) -> Membership:
    """A membership that has not begun: start `run` in the consumer's nursery."""
    if protocol is GroupProtocol.CLASSIC:
        from penstock.consumer.classic_membership import ClassicMembership

        return ClassicMembership(
            group_id, subscription, listener, cluster, coordinators, environment, options
        )
    from penstock.consumer.consumer_membership import ConsumerMembership

    return ConsumerMembership(group_id, subscription, listener, cluster, coordinators, environment, options)


__all__ = [
    "NO_GENERATION",
    "GroupIdentity",
    "GroupListener",
    "GroupProtocol",
    "Membership",
    "MembershipOptions",
    "make_membership",
]
