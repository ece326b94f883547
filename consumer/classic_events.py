"""The events and actions of a member of a classic group, beyond those that both protocols have.

Owns values only.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from penstock.consumer.membership_events import (
    AbandonRequest,
    AwaitPolled,
    CallbackFinished,
    CallListener,
    End,
    ForgetCoordinator,
    LeaveWanted,
    Polled,
    RequestFailed,
    TimePassed,
)
from penstock.errors import PenstockError


class JoinedMember(NamedTuple):
    """One of the members that a leader is told of."""

    member_id: str
    group_instance_id: str | None
    metadata: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class JoinAnswered:
    """JoinGroup's answer. `members` is for the leader only."""

    request: int
    error_code: int = 0
    generation: int = -1
    protocol_name: str = ""
    leader: str = ""
    skip_assignment: bool = False
    member_id: str = ""
    members: Sequence[JoinedMember] = ()


@dataclass(frozen=True, slots=True)
class TopicsFetched:
    """The partition counts of those topics that exist."""

    request: int
    partition_counts: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class SyncAnswered:
    """SyncGroup's answer."""

    request: int
    error_code: int
    assignment: bytes = b""


@dataclass(frozen=True, slots=True)
class HeartbeatAnswered:
    """Heartbeat's answer."""

    request: int
    error_code: int


@dataclass(frozen=True, slots=True)
class LeaveAnswered:
    """LeaveGroup's answer, whatever it says."""

    request: int


@dataclass(frozen=True, slots=True)
class TopicsSeen:
    """A look at the watched topics, unasked: the partition counts of those that exist."""

    partition_counts: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class SubscriptionChanged:
    """The topics that the user wants now (those that match a pattern). None: no membership at all."""

    topics: frozenset[str] | None


@dataclass(frozen=True, slots=True)
class SubscriptionRefused:
    """A subscribed topic can never be had (a name that none can have, no authorization)."""

    error: PenstockError


@dataclass(frozen=True, slots=True, kw_only=True)
class SendJoin:
    """Answered by JoinAnswered or RequestFailed."""

    request: int
    member_id: str
    protocols: Sequence[tuple[str, bytes]]
    reason: str


@dataclass(frozen=True, slots=True)
class FetchTopics:
    """The leader needs partition counts. Answered by TopicsFetched or RequestFailed."""

    request: int
    topics: frozenset[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class SendSync:
    """Answered by SyncAnswered or RequestFailed."""

    request: int
    generation: int
    member_id: str
    protocol_name: str
    assignments: Mapping[str, bytes]


@dataclass(frozen=True, slots=True)
class SendHeartbeat:
    """Answered by HeartbeatAnswered or RequestFailed."""

    request: int
    generation: int
    member_id: str


@dataclass(frozen=True, slots=True)
class SendLeave:
    """Answered by LeaveAnswered or RequestFailed."""

    request: int
    member_id: str
    reason: str


Event = (
    JoinAnswered
    | TopicsFetched
    | SyncAnswered
    | HeartbeatAnswered
    | LeaveAnswered
    | TopicsSeen
    | SubscriptionChanged
    | SubscriptionRefused
    | RequestFailed
    | CallbackFinished
    | TimePassed
    | Polled
    | LeaveWanted
)
Action = (
    SendJoin
    | FetchTopics
    | SendSync
    | SendHeartbeat
    | SendLeave
    | CallListener
    | AwaitPolled
    | ForgetCoordinator
    | AbandonRequest
    | End
)

__all__ = [
    "Action",
    "Event",
    "FetchTopics",
    "HeartbeatAnswered",
    "JoinAnswered",
    "JoinedMember",
    "LeaveAnswered",
    "SendHeartbeat",
    "SendJoin",
    "SendLeave",
    "SendSync",
    "SubscriptionChanged",
    "SubscriptionRefused",
    "SyncAnswered",
    "TopicsFetched",
    "TopicsSeen",
]
