"""What happens to a classic consumer group, and what the group wants done: the values that cross the border of the machine.

Owns the events that `ClassicGroup.step` takes, the actions that it returns, and the snapshot that a GroupMetadataValue holds.
Knows no bytes of records, no wire, no clock. A `Token` is the shell's name for a waiting request: each token that goes in with an event
comes out with exactly one reply, at once or in a later step. Times are monotonic ms; wall time never gets in here.
"""

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field

from penstock.protocol.errors import ErrorCode

Token = int


class ClassicState(enum.Enum):
    """Where a group is in its life; the value is Kafka's name in ListGroups and DescribeGroups."""

    EMPTY = "Empty"
    PREPARING_REBALANCE = "PreparingRebalance"
    COMPLETING_REBALANCE = "CompletingRebalance"
    STABLE = "Stable"
    DEAD = "Dead"


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassicLimits:
    """The broker's settings that a group goes by, with Kafka's defaults but for the initial delay."""

    group_min_session_timeout_ms: int = 6_000
    group_max_session_timeout_ms: int = 1_800_000
    group_initial_rebalance_delay_ms: int = 100
    group_max_size: int = 2**31 - 1
    new_member_join_timeout_ms: int = 300_000
    """How long a member whose client does not know its id yet may wait in a rebalance (Kafka: five minutes, no setting)."""
    pending_member_max_count: int = 10_000
    """Ids given out by MEMBER_ID_REQUIRED that nobody has come back with: past this, the oldest is forgotten."""


# Events.


@dataclass(frozen=True, slots=True, kw_only=True)
class JoinRequested:
    """JoinGroup: `member_id` is empty for a client that has none; `fresh_member_id` is what it would get (the shell's chance)."""

    token: Token
    member_id: str
    fresh_member_id: str
    group_instance_id: str | None = None
    client_id: str = ""
    client_host: str = ""
    session_timeout_ms: int
    rebalance_timeout_ms: int
    protocol_type: str
    protocols: tuple[tuple[str, bytes], ...]
    """Name and metadata, the most wanted first."""
    requires_known_member_id: bool = False
    """Version >= 4: a dynamic member without an id is sent back with MEMBER_ID_REQUIRED (KIP-394)."""
    can_skip_assignment: bool = False
    """Version >= 9: the reply can tell a returning static leader to assign nothing (KIP-814)."""
    reason: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class SyncRequested:
    """SyncGroup; protocol type and name are None below version 5. `assignments` (member id to bytes) counts from the leader only."""

    token: Token
    generation: int
    member_id: str
    group_instance_id: str | None = None
    protocol_type: str | None = None
    protocol_name: str | None = None
    assignments: Mapping[str, bytes] = field(default_factory=dict[str, bytes])


@dataclass(frozen=True, slots=True, kw_only=True)
class HeartbeatReceived:
    """Heartbeat."""

    token: Token
    generation: int
    member_id: str
    group_instance_id: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class LeavingMember:
    """Who is to leave: by member id, or by instance id with an empty member id (what an administrator sends)."""

    member_id: str
    group_instance_id: str | None = None
    reason: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class LeaveRequested:
    """LeaveGroup (below version 3: one member)."""

    token: Token
    members: tuple[LeavingMember, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreFinished:
    """The record of a `Store` is committed (NONE), or will never be: the coordinator's code that clients are to see."""

    store_token: int
    error_code: ErrorCode = ErrorCode.NONE


@dataclass(frozen=True, slots=True)
class TimePassed:
    """`deadline_ms` may have come. After any other event the group looks at the time, too."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OffsetCommitted:
    """A member's commit was admitted by `check_commit`: as good as a heartbeat. An unknown member is passed over."""

    member_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenAbandoned:
    """The connection behind the token is gone. Ignored, as Kafka does: its reply still comes, and the timeouts see to its member."""

    token: Token


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupClosed:
    """The group is deleted, or its shard leaves this broker: whoever waits gets this code, and the group is DEAD."""

    error_code: ErrorCode = ErrorCode.NOT_COORDINATOR


Event = (
    JoinRequested
    | SyncRequested
    | HeartbeatReceived
    | LeaveRequested
    | StoreFinished
    | TimePassed
    | OffsetCommitted
    | TokenAbandoned
    | GroupClosed
)


# Actions.


@dataclass(frozen=True, slots=True, kw_only=True)
class JoinedMember:
    """A member as the leader gets to see it, with its metadata for the chosen protocol."""

    member_id: str
    group_instance_id: str | None
    metadata: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class JoinReply:
    """Answer to JoinRequested; `members` is filled for the leader only."""

    token: Token
    error_code: ErrorCode = ErrorCode.NONE
    generation: int = -1
    protocol_type: str | None = None
    protocol_name: str | None = None
    """None with an error: versions below 7 have no null and take the empty string."""
    leader: str = ""
    skip_assignment: bool = False
    member_id: str = ""
    members: tuple[JoinedMember, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class SyncReply:
    """Answer to SyncRequested."""

    token: Token
    error_code: ErrorCode = ErrorCode.NONE
    protocol_type: str | None = None
    protocol_name: str | None = None
    assignment: bytes = b""


@dataclass(frozen=True, slots=True, kw_only=True)
class HeartbeatReply:
    """Answer to HeartbeatReceived."""

    token: Token
    error_code: ErrorCode = ErrorCode.NONE


@dataclass(frozen=True, slots=True, kw_only=True)
class LeftMember:
    """What became of one of the members that were to leave."""

    member_id: str
    group_instance_id: str | None
    error_code: ErrorCode


@dataclass(frozen=True, slots=True, kw_only=True)
class LeaveReply:
    """Answer to LeaveRequested: the members in the order asked for. Below version 3 the one member's code is the answer's."""

    token: Token
    error_code: ErrorCode = ErrorCode.NONE
    members: tuple[LeftMember, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class SnapshotMember:
    """A member as it is stored: metadata for the chosen protocol and its assignment."""

    member_id: str
    group_instance_id: str | None
    client_id: str
    client_host: str
    rebalance_timeout_ms: int
    session_timeout_ms: int
    subscription: bytes
    assignment: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupSnapshot:
    """What a GroupMetadataValue holds, but for its timestamp: the shell stamps that with the wall clock."""

    protocol_type: str
    generation: int
    protocol_name: str | None
    leader: str | None
    members: tuple[SnapshotMember, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Store:
    """Append this as the group's record and tell with `StoreFinished` how it went. The order of stores is their order in the log."""

    store_token: int
    snapshot: GroupSnapshot


Action = JoinReply | SyncReply | HeartbeatReply | LeaveReply | Store
