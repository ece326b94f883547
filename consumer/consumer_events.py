"""The events and actions of a member of a KIP-848 group, beyond those that both protocols have.

Owns values only. Topics go by their ids (sixteen bytes) here.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

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
from penstock.consumer.subscription import Subscription

PartitionsById = Mapping[bytes, Sequence[int]]


@dataclass(frozen=True, slots=True, kw_only=True)
class HeartbeatAnswered:
    """ConsumerGroupHeartbeat's answer. `assignment` None: as before."""

    request: int
    error_code: int = 0
    error_message: str | None = None
    member_epoch: int = 0
    heartbeat_interval_ms: int = 0
    assignment: PartitionsById | None = None


@dataclass(frozen=True, slots=True)
class TopicNamesFetched:
    """The names of topic ids, of all topics that may be assigned."""

    request: int
    names: Mapping[bytes, str]


@dataclass(frozen=True, slots=True)
class SubscriptionChanged:
    """What the user wants now. None: no membership at all."""

    subscription: Subscription | None


@dataclass(frozen=True, slots=True, kw_only=True)
class SendHeartbeat:
    """Answered by HeartbeatAnswered or RequestFailed. A None (and a rebalance timeout of -1) means: as told before."""

    request: int
    member_epoch: int
    rebalance_timeout_ms: int = -1
    topics: Sequence[str] | None = None
    pattern: str | None = None
    is_full: bool = False
    """Tells everything, the rack and the assignor too."""
    owned: PartitionsById | None = None


@dataclass(frozen=True, slots=True)
class FetchTopicNames:
    """Some topic ids are not known. Answered by TopicNamesFetched or RequestFailed."""

    request: int
    subscription: Subscription


Event = (
    HeartbeatAnswered
    | TopicNamesFetched
    | SubscriptionChanged
    | RequestFailed
    | CallbackFinished
    | TimePassed
    | Polled
    | LeaveWanted
)
Action = (
    SendHeartbeat | FetchTopicNames | CallListener | AwaitPolled | ForgetCoordinator | AbandonRequest | End
)

__all__ = [
    "Action",
    "Event",
    "FetchTopicNames",
    "HeartbeatAnswered",
    "PartitionsById",
    "SendHeartbeat",
    "SubscriptionChanged",
    "TopicNamesFetched",
]
