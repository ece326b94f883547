"""What happens to a group of the KIP-848 protocol, and what the group wants done: the values that cross the border of the machine.

Owns the events that `ConsumerGroup.step` takes besides those that both kinds of group share (`StoreFinished`, `TimePassed`,
`GroupClosed` of `classic_events`), the actions that it returns, and the records that its state is made of. Knows no bytes of
records, no wire, no clock. A `Token` is the shell's name for a waiting request: each one comes out with exactly one reply.
"""

import enum
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from penstock.broker.groups.classic_events import (
    GroupClosed,
    OffsetCommitted,
    StoreFinished,
    TimePassed,
    Token,
    TokenAbandoned,
)
from penstock.protocol.errors import ErrorCode

Assignment = Mapping[bytes, frozenset[int]]
"""Partitions by topic id. No topic has an empty set; never changed once made."""

NOTHING: Assignment = {}

JOIN_EPOCH = 0
LEAVE_EPOCH = -1
STATIC_LEAVE_EPOCH = -2


class ConsumerGroupState(enum.Enum):
    """Where a group is; the value is Kafka's name in ListGroups and ConsumerGroupDescribe."""

    EMPTY = "Empty"
    ASSIGNING = "Assigning"
    RECONCILING = "Reconciling"
    STABLE = "Stable"
    DEAD = "Dead"


class MemberState(enum.IntEnum):
    """How far a member is on the way to its target; the number is what the record holds."""

    STABLE = 0
    """It has its target, as of its epoch."""
    UNREVOKED_PARTITIONS = 1
    """It was told to give partitions up and has not said yet that it did."""
    UNRELEASED_PARTITIONS = 2
    """It waits for partitions that others have not given up yet."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ConsumerGroupLimits:
    """The broker's settings that a group goes by, with Kafka's defaults."""

    session_timeout_ms: int = 45_000
    max_size: int = 2**31 - 1
    assignors: tuple[str, ...] = ("uniform", "range")
    """What members may ask for; the first is what a group gets whose members ask for nothing."""


@dataclass(frozen=True, slots=True)
class SubscribedTopic:
    """A topic as an assignor must know it."""

    name: str
    topic_id: bytes
    partition_count: int


class Topics(Protocol):
    """The topics of the cluster, at the moment of the question."""

    @property
    def revision(self) -> int:
        """Which state of the cluster this is; grows with every change."""
        ...

    def topic(self, name: str) -> SubscribedTopic | None:
        """The topic of that name."""
        ...

    def names(self) -> Iterable[str]:
        """All names that a regular expression may match."""
        ...

    def match(self, regex: str) -> frozenset[str]:
        """The topics whose whole name the RE2 expression matches. Raises InvalidRegularExpression."""
        ...


# Events.


@dataclass(frozen=True, slots=True, kw_only=True)
class ConsumerHeartbeat:
    """ConsumerGroupHeartbeat. None (and -1 for the timeout) means: as you know it already."""

    token: Token
    member_id: str
    """Never empty: the shell makes one up for clients of version 0."""
    member_epoch: int
    instance_id: str | None = None
    rack_id: str | None = None
    rebalance_timeout_ms: int = -1
    client_id: str = ""
    client_host: str = ""
    topic_names: tuple[str, ...] | None = None
    topic_regex: str | None = None
    """The empty string takes a regular expression back."""
    server_assignor: str | None = None
    owned: Assignment | None = None

    @property
    def is_full(self) -> bool:
        """Whether the member tells all that it has: on joining, and after it missed an answer."""
        subscribes = self.topic_names is not None or self.topic_regex is not None
        return self.member_epoch == JOIN_EPOCH or (
            self.rebalance_timeout_ms != -1 and subscribes and self.owned is not None
        )


@dataclass(frozen=True, slots=True)
class TopicsChanged:
    """Topics came, went or grew: the next heartbeat looks whether that concerns the group."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DescribeRequested:
    """Somebody wants to see the group; answered with what is committed."""

    token: Token


Event = (
    ConsumerHeartbeat
    | TopicsChanged
    | DescribeRequested
    | StoreFinished
    | TimePassed
    | GroupClosed
    | OffsetCommitted
    | TokenAbandoned
)


# What is stored.


@dataclass(frozen=True, slots=True, kw_only=True)
class MemberMetadata:
    """A member as it has introduced itself."""

    instance_id: str | None = None
    rack_id: str | None = None
    client_id: str = ""
    client_host: str = ""
    topic_names: tuple[str, ...] = ()
    """Sorted, each once."""
    topic_regex: str = ""
    """Empty for none."""
    rebalance_timeout_ms: int = -1
    server_assignor: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class CurrentAssignment:
    """What a member has now. It may use `assigned`; `pending_revocation` is still its own until it says that it has let go."""

    member_epoch: int = JOIN_EPOCH
    previous_member_epoch: int = -1
    state: MemberState = MemberState.STABLE
    assigned: Assignment = field(default_factory=lambda: NOTHING)
    pending_revocation: Assignment = field(default_factory=lambda: NOTHING)


@dataclass(frozen=True, slots=True)
class GroupEpochRecord:
    """The group's epoch and the hash of its topics; epoch None: the group is deleted."""

    epoch: int | None
    metadata_hash: int = 0


@dataclass(frozen=True, slots=True)
class MemberRecord:
    """A member; None: it is gone."""

    member_id: str
    metadata: MemberMetadata | None


@dataclass(frozen=True, slots=True)
class TargetEpochRecord:
    """The group epoch that the target assignment was made for; None: the group is deleted."""

    epoch: int | None


@dataclass(frozen=True, slots=True)
class TargetRecord:
    """What a member is to get; None: it is gone."""

    member_id: str
    assignment: Assignment | None


@dataclass(frozen=True, slots=True)
class CurrentRecord:
    """What a member has; None: it is gone, and its partitions are free."""

    member_id: str
    current: CurrentAssignment | None


@dataclass(frozen=True, slots=True)
class RegexRecord:
    """The topics that a regular expression meant at a revision of the cluster; None: nobody subscribes to it any more."""

    regex: str
    topic_names: frozenset[str] | None
    revision: int = 0


Record = GroupEpochRecord | MemberRecord | TargetEpochRecord | TargetRecord | CurrentRecord | RegexRecord


# Actions.


@dataclass(frozen=True, slots=True, kw_only=True)
class ConsumerHeartbeatReply:
    """Answer to ConsumerHeartbeat; `assignment` None: as the member knows it already."""

    token: Token
    error_code: ErrorCode = ErrorCode.NONE
    error_message: str | None = None
    member_id: str | None = None
    member_epoch: int = 0
    assignment: Assignment | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class DescribedMember:
    """A member for ConsumerGroupDescribe."""

    member_id: str
    metadata: MemberMetadata
    member_epoch: int
    assigned: Assignment
    target: Assignment


@dataclass(frozen=True, slots=True, kw_only=True)
class DescribeReply:
    """Answer to DescribeRequested."""

    token: Token
    error_code: ErrorCode = ErrorCode.NONE
    state: ConsumerGroupState = ConsumerGroupState.DEAD
    group_epoch: int = 0
    target_epoch: int = 0
    assignor: str = ""
    members: tuple[DescribedMember, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreRecords:
    """Append these in this order and tell with `StoreFinished` how it went.

    Where they don't fit into one batch, any prefix of them is a state that the group may be restored from.
    """

    store_token: int
    records: tuple[Record, ...]


Reply = ConsumerHeartbeatReply | DescribeReply
Action = ConsumerHeartbeatReply | DescribeReply | StoreRecords


def error_reply(
    token: Token, what: ConsumerHeartbeat | DescribeRequested | Reply, code: ErrorCode, message: str | None
) -> Reply:
    """The answer to `what`, or instead of it, where it fails."""
    if isinstance(what, DescribeRequested | DescribeReply):
        return DescribeReply(token=token, error_code=code)
    return ConsumerHeartbeatReply(
        token=token,
        error_code=code,
        error_message=message,
    )
