"""The leader/follower state machine of one partition: pure.

Owns the role, the leader epoch, the ISR and the high watermark. Knows no log, no clock, no network: `step(event)` takes what
happened and returns what to do, and the shell (`broker/partition.py`) does it. Invariants (PROPERTIES D3, DESIGN section 6):

- the high watermark is the lowest *counted* end offset among the ISR and never falls within an epoch;
- counted is the durable end offset, or the log end offset where `write.caching` is on;
- it advances only while this replica leads and |ISR| >= min.insync.replicas (KIP-966).

One broker has ISR = {itself}; a follower's end offset enters by `FollowerAdvanced`, which replication will send.
"""

import enum
from dataclasses import dataclass


class Role(enum.Enum):
    """What this broker is for the partition."""

    OFFLINE = "offline"
    LEADER = "leader"
    FOLLOWER = "follower"


@dataclass(frozen=True, slots=True)
class StateLearned:
    """The store's state of the partition (seen by the watch), with the log's end offsets at this moment."""

    leader: int
    leader_epoch: int
    isr: tuple[int, ...]
    replica_count: int
    log_end_offset: int
    durable_end_offset: int


@dataclass(slots=True)
class Appended:
    """The local log grew: its new end offset (exclusive)."""

    log_end_offset: int


@dataclass(slots=True)
class Synced:
    """A sync completed: everything below is on disk (exclusive)."""

    durable_end_offset: int


@dataclass(frozen=True, slots=True)
class FollowerAdvanced:
    """A follower has everything below this offset (its own counted end offset)."""

    broker_id: int
    end_offset: int


@dataclass(frozen=True, slots=True)
class SettingsChanged:
    """The topic's durability settings, with the present end offsets."""

    write_caching: bool
    min_insync_replicas: int


@dataclass(frozen=True, slots=True)
class LogFailed:
    """The local log can't be used any more."""


@dataclass(frozen=True, slots=True)
class Closed:
    """This broker serves the partition no more: it stops, or the topic is deleted."""


Event = Appended | Synced | StateLearned | FollowerAdvanced | SettingsChanged | LogFailed | Closed


@dataclass(slots=True)
class AdvanceHighWatermark:
    """Everything below (exclusive) is committed: acks and reads up to here."""

    high_watermark: int


@dataclass(frozen=True, slots=True)
class BecomeLeader:
    """Start leading in this epoch: note where it starts, take appends."""

    leader_epoch: int


@dataclass(frozen=True, slots=True)
class BecomeFollower:
    """Stop taking appends; answer those that wait with NOT_LEADER_OR_FOLLOWER."""

    leader: int
    leader_epoch: int


@dataclass(frozen=True, slots=True)
class GoOffline:
    """Serve nothing: no leader is known, or the log failed."""


Action = AdvanceHighWatermark | BecomeLeader | BecomeFollower | GoOffline

_NOTHING: tuple[Action, ...] = ()


class PartitionMachine:
    """One partition as this broker sees it."""

    def __init__(
        self, broker_id: int, *, write_caching: bool, min_insync_replicas: int, high_watermark: int = 0
    ) -> None:
        self.broker_id = broker_id
        self.role = Role.OFFLINE
        self.leader = -1
        self.leader_epoch = -1
        self.isr: tuple[int, ...] = ()
        self.high_watermark = high_watermark
        self.write_caching = write_caching
        self.min_insync_replicas = min_insync_replicas
        self.has_enough_replicas = False
        """Whether acks=all may be taken: |ISR| >= min.insync.replicas, which never asks for more than there are replicas."""
        self._log_end_offset = 0
        self._durable_end_offset = 0
        self._replica_count = 1
        self._follower_end_offsets: dict[int, int] = {}
        self._ended = False

    @property
    def counted_end_offset(self) -> int:
        """How far the local replica counts: durable, or appended where caching is on (exclusive)."""
        return self._log_end_offset if self.write_caching else self._durable_end_offset

    def step(self, event: Event) -> tuple[Action, ...]:
        """Take one event; returns the actions to do, in order."""
        if isinstance(event, Appended):  # the two hot ones first
            self._log_end_offset = event.log_end_offset
            return self._advance() if self.write_caching else _NOTHING
        if isinstance(event, Synced):
            self._durable_end_offset = event.durable_end_offset
            return _NOTHING if self.write_caching else self._advance()
        match event:
            case StateLearned():
                return self._learn(event)
            case FollowerAdvanced(broker_id, end_offset):
                self._follower_end_offsets[broker_id] = end_offset
                return self._advance()
            case SettingsChanged(write_caching, min_insync_replicas):
                self.write_caching = write_caching
                self.min_insync_replicas = min_insync_replicas
                self._count_replicas()
                return self._advance()
            case LogFailed() | Closed():
                self._ended = True
                self.role = Role.OFFLINE
                return (GoOffline(),)

    def _learn(self, state: StateLearned) -> tuple[Action, ...]:
        if self._ended or state.leader_epoch < self.leader_epoch:
            return _NOTHING
        self._log_end_offset = state.log_end_offset
        self._durable_end_offset = state.durable_end_offset
        self._replica_count = state.replica_count
        new_epoch = state.leader_epoch > self.leader_epoch
        was_leader = self.role is Role.LEADER
        self.leader, self.leader_epoch, self.isr = state.leader, state.leader_epoch, state.isr
        self._count_replicas()
        if state.leader == self.broker_id:
            self.role = Role.LEADER
            if not new_epoch and was_leader:
                return self._advance()
            self._follower_end_offsets.clear()
            return (BecomeLeader(state.leader_epoch), *self._advance())
        if state.leader < 0:
            self.role = Role.OFFLINE
            return (GoOffline(),)
        self.role = Role.FOLLOWER
        return (BecomeFollower(state.leader, state.leader_epoch),)

    def _count_replicas(self) -> None:
        self.has_enough_replicas = len(self.isr) >= min(self.min_insync_replicas, self._replica_count)

    def _advance(self) -> tuple[Action, ...]:
        if self.role is not Role.LEADER or not self.has_enough_replicas:
            return _NOTHING
        end = self.counted_end_offset
        if len(self.isr) > 1:
            others = (self._follower_end_offsets.get(i, 0) for i in self.isr if i != self.broker_id)
            end = min(end, min(others))
        if end <= self.high_watermark:
            return _NOTHING
        self.high_watermark = end
        return (AdvanceHighWatermark(end),)


__all__ = [
    "Action",
    "AdvanceHighWatermark",
    "Appended",
    "BecomeFollower",
    "BecomeLeader",
    "Closed",
    "Event",
    "FollowerAdvanced",
    "GoOffline",
    "LogFailed",
    "PartitionMachine",
    "Role",
    "SettingsChanged",
    "StateLearned",
    "Synced",
]
