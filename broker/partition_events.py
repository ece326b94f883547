"""What can happen to a partition, and what is to be done about it: the words of `partition_machine`. Only data.

All times are monotonic milliseconds; the wall clock decides nothing about replication (PROPERTIES D14). End offsets are exclusive.
A *counted* end offset is the durable one, or the log end offset where `write.caching` is on (DESIGN section 6).
"""

from dataclasses import dataclass

# Events


@dataclass(frozen=True, slots=True)
class StateLearned:
    """The store's state of the partition (seen by the watch), with the local log's end offsets at this moment.

    `partition_epoch` is the mod revision of the partition's key: of two states the one with the higher number is the later one.
    """

    leader: int
    leader_epoch: int
    isr: tuple[int, ...]
    replicas: tuple[int, ...]
    partition_epoch: int
    log_end_offset: int
    durable_end_offset: int
    now_ms: float = 0
    adding_replicas: tuple[int, ...] = ()
    eligible_leader_replicas: tuple[int, ...] = ()


@dataclass(slots=True)
class Appended:
    """The local log grew: its new end offset."""

    log_end_offset: int


@dataclass(slots=True)
class Synced:
    """A sync completed: everything below is on disk."""

    durable_end_offset: int


@dataclass(frozen=True, slots=True)
class LogTruncated:
    """The local log of a follower was cut, or emptied to start elsewhere; never below the high watermark, but for an emptied one."""

    log_end_offset: int
    durable_end_offset: int
    log_start_offset: int


@dataclass(frozen=True, slots=True)
class EpochStarted:
    """This replica's epoch as leader begins at this offset, where its log ends now."""

    start_offset: int


@dataclass(slots=True)
class FollowerFetched:
    """A fetch of a follower that is believed: everything below `end_offset` counts there, and is what stands in this log.

    `broker_epoch` is the create revision of the follower's registration, with which it fetched. `may_join`: the ISR may take it in (it is
    not about to stop). `log_start_offset` is where the follower's log begins, -1 where it did not say.
    """

    broker_id: int
    broker_epoch: int
    end_offset: int
    now_ms: float
    may_join: bool = True
    log_start_offset: int = -1


@dataclass(slots=True)
class LeaderTold:
    """This replica follows: its leader said how far everything is committed."""

    high_watermark: int


@dataclass(frozen=True, slots=True)
class TimePassed:
    """Time for a leader to look who lags. Sent every half of `replica.lag.time.max.ms`, and after a fence was lifted."""

    now_ms: float


@dataclass(frozen=True, slots=True)
class IsrChangeFailed:
    """The ISR change asked for on `partition_epoch` was not stored and never will be: what is stored holds."""

    partition_epoch: int


@dataclass(frozen=True, slots=True)
class SettingsChanged:
    """The topic's durability settings."""

    write_caching: bool
    min_insync_replicas: int


@dataclass(frozen=True, slots=True)
class LogFailed:
    """The local log can't be used any more."""


@dataclass(frozen=True, slots=True)
class Closed:
    """This broker serves the partition no more: it stops, or the topic is deleted."""


Event = (
    Appended
    | Synced
    | FollowerFetched
    | LeaderTold
    | StateLearned
    | EpochStarted
    | LogTruncated
    | TimePassed
    | IsrChangeFailed
    | SettingsChanged
    | LogFailed
    | Closed
)

# Actions


@dataclass(slots=True)
class AdvanceHighWatermark:
    """Everything below is committed: acks and reads up to here."""

    high_watermark: int


@dataclass(frozen=True, slots=True)
class BecomeLeader:
    """Start leading in this epoch: note where it starts and say so by `EpochStarted`, before which nothing is committed; take appends."""

    leader_epoch: int


@dataclass(frozen=True, slots=True)
class BecomeFollower:
    """Stop taking appends; answer those that wait with NOT_LEADER_OR_FOLLOWER."""

    leader: int
    leader_epoch: int


@dataclass(frozen=True, slots=True)
class GoOffline:
    """Serve nothing: no leader is known, or the log failed."""


@dataclass(frozen=True, slots=True)
class ChangeIsr:
    """Have this ISR stored, if the partition still stands at these epochs. `isr` names this broker.

    `joining` are (broker id, broker epoch) of those who come in: each only if it is registered with exactly that epoch. The outcome is
    seen by the watch (`StateLearned`), or is told by `IsrChangeFailed` when it is certain that nothing was or will be stored.
    """

    isr: tuple[int, ...]
    partition_epoch: int
    leader_epoch: int
    joining: tuple[tuple[int, int], ...]


@dataclass(frozen=True, slots=True)
class RefuseWaiting:
    """The ISR has shrunk below min.insync.replicas: whoever waits for the high watermark is told NOT_ENOUGH_REPLICAS_AFTER_APPEND."""


Action = AdvanceHighWatermark | BecomeLeader | BecomeFollower | GoOffline | ChangeIsr | RefuseWaiting


__all__ = [
    "Action",
    "AdvanceHighWatermark",
    "Appended",
    "BecomeFollower",
    "BecomeLeader",
    "ChangeIsr",
    "Closed",
    "EpochStarted",
    "Event",
    "FollowerFetched",
    "GoOffline",
    "IsrChangeFailed",
    "LeaderTold",
    "LogFailed",
    "LogTruncated",
    "RefuseWaiting",
    "SettingsChanged",
    "StateLearned",
    "Synced",
    "TimePassed",
]
