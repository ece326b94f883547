"""The leader/follower state machine of one partition: pure.

Owns the role, the leader epoch, the ISR as it is stored and as it was asked for, what each follower has, and the high watermark. Knows
no log, no clock, no network: `step(event)` takes what happened and returns what to do, and the shell (`broker/partition.py`) does it.

Invariants (PROPERTIES D3 to D5, DESIGN section 6):

- the high watermark never falls. A leader's is at most the lowest *counted* end offset of the maximal ISR: what is stored and what was
  asked for, until the outcome is known;
- a leader's advances only while |ISR| >= min.insync.replicas (KIP-966), in what is stored and in what was asked for, while no eligible
  leader replica is stored (it has all that is committed, whatever min.insync.replicas becomes), not while the broker is fenced, and not
  before it is known where its epoch begins: until then a worker may be cutting the log for the leader before, and what followers have said
  to have above is worth nothing;
- a follower's is at most what its leader told it and its own counted end offset;
- a follower is taken into the ISR only when its counted end offset has reached the high watermark and the start of this leader's epoch;
- one ISR change at a time, on the partition epoch that is known; none while the broker is fenced.

Source: Kafka's `Partition` and `Replica` (its `lastCaughtUpTimeMs`), KIP-497, KIP-903, KIP-966.
"""

import enum
import math
from collections.abc import Iterable

from penstock.broker.partition_events import (
    Action,
    AdvanceHighWatermark,
    Appended,
    BecomeFollower,
    BecomeLeader,
    ChangeIsr,
    Closed,
    EpochStarted,
    Event,
    FollowerFetched,
    GoOffline,
    IsrChangeFailed,
    LeaderTold,
    LogFailed,
    LogTruncated,
    RefuseWaiting,
    SettingsChanged,
    StateLearned,
    Synced,
    TimePassed,
)

REPLICA_LAG_TIME_MAX_MS = 30_000
UNKNOWN_OFFSET = -1
_NOTHING: tuple[Action, ...] = ()


class Role(enum.Enum):
    """What this broker is for the partition."""

    OFFLINE = "offline"
    LEADER = "leader"
    FOLLOWER = "follower"


class FollowerState:
    """What a leader knows of one follower in its present epoch."""

    __slots__ = (
        "broker_epoch",
        "caught_up_ms",
        "end_offset",
        "last_fetch_ms",
        "leader_end_at_fetch",
        "log_start_offset",
        "may_join",
    )

    def __init__(self, caught_up_ms: float) -> None:
        self.end_offset = UNKNOWN_OFFSET
        self.log_start_offset = UNKNOWN_OFFSET
        self.broker_epoch = -1
        self.caught_up_ms = caught_up_ms
        """When it last had everything that this log had at that time."""
        self.last_fetch_ms = -math.inf
        self.leader_end_at_fetch = UNKNOWN_OFFSET
        self.may_join = False

    def fetched(self, event: FollowerFetched, leader_end_offset: int) -> None:
        """Take its word. It was caught up now if it has all, or at its last fetch if it has all that there was then."""
        if event.end_offset >= leader_end_offset:
            self.caught_up_ms = max(self.caught_up_ms, event.now_ms)
        elif event.end_offset >= self.leader_end_at_fetch:
            self.caught_up_ms = max(self.caught_up_ms, self.last_fetch_ms)
        self.end_offset = event.end_offset
        self.log_start_offset = event.log_start_offset
        self.broker_epoch = event.broker_epoch
        self.last_fetch_ms = event.now_ms
        self.leader_end_at_fetch = leader_end_offset
        self.may_join = event.may_join


class PartitionMachine:
    """One partition as this broker sees it."""

    def __init__(
        self,
        broker_id: int,
        *,
        write_caching: bool,
        min_insync_replicas: int,
        high_watermark: int = 0,
        replica_lag_time_max_ms: float = REPLICA_LAG_TIME_MAX_MS,
    ) -> None:
        self.broker_id = broker_id
        self.role = Role.OFFLINE
        self.leader = -1
        self.leader_epoch = -1
        self.partition_epoch = -1
        self.isr: tuple[int, ...] = ()
        """As it is stored."""
        self.asked: ChangeIsr | None = None
        """The ISR change whose outcome is not known yet."""
        self.replicas: tuple[int, ...] = ()
        self._adding_replicas: tuple[int, ...] = ()
        self._eligible_leader_replicas: tuple[int, ...] = ()
        self.high_watermark = high_watermark
        self.write_caching = write_caching
        self.min_insync_replicas = min_insync_replicas
        self.has_enough_replicas = False
        """Whether acks=all may be taken: |ISR| >= min.insync.replicas, which never asks for more than there are replicas."""
        self.is_fenced = False
        """Set by the shell, by the clock, before each step: past its deadline a broker decides nothing as a leader (PROPERTIES M2)."""
        self.epoch_start_offset: int | None = None
        """Where this leader's epoch begins; None until that is known, and for a follower."""
        self._lag_time_max_ms = replica_lag_time_max_ms
        self._log_end_offset = 0
        self._durable_end_offset = 0
        self._followers: dict[int, FollowerState] = {}
        self._counted: tuple[FollowerState, ...] = ()
        """Of the maximal ISR, without this broker."""
        self._may_commit = False
        self.told_high_watermark = UNKNOWN_OFFSET
        """What this follower's leader said last in its epoch."""
        self._ended = False

    @property
    def counted_end_offset(self) -> int:
        """How far the local replica counts: durable, or appended where caching is on."""
        return self._log_end_offset if self.write_caching else self._durable_end_offset

    @property
    def has_caught_up(self) -> bool:
        """Whether this follower counts up to what its leader said last was committed, and has heard it in its epoch."""
        return UNKNOWN_OFFSET < self.told_high_watermark <= self.counted_end_offset

    @property
    def maximal_isr(self) -> tuple[int, ...]:
        """Everybody who may be in the ISR as it is stored at this moment."""
        if self.asked is None:
            return self.isr
        return self.isr + tuple(broker for broker in self.asked.isr if broker not in self.isr)

    def follower(self, broker_id: int) -> FollowerState | None:
        """What is known of a follower; None if this broker does not lead, or that one holds no replica."""
        return self._followers.get(broker_id)

    def step(self, event: Event) -> tuple[Action, ...]:
        """Take one event; returns the actions to do, in order."""
        if isinstance(event, Appended):  # the hot ones first
            self._log_end_offset = event.log_end_offset
            return self._advance() if self.write_caching else _NOTHING
        if isinstance(event, Synced):
            self._durable_end_offset = event.durable_end_offset
            return _NOTHING if self.write_caching else self._advance()
        if isinstance(event, FollowerFetched):
            return self._take_fetch(event)
        if isinstance(event, LeaderTold):
            self.told_high_watermark = event.high_watermark
            return self._advance()
        match event:
            case StateLearned():
                return self._learn(event)
            case EpochStarted(start_offset):
                return self._start_epoch(start_offset)
            case LogTruncated():
                return self._take_truncation(event)
            case TimePassed(now_ms):
                return self._look_around(now_ms)
            case IsrChangeFailed(partition_epoch):
                return self._take_failure(partition_epoch)
            case SettingsChanged(write_caching, min_insync_replicas):
                self.write_caching = write_caching
                self.min_insync_replicas = min_insync_replicas
                return (*self._count_replicas(), *self._advance(), *self._clear_eligible())
            case LogFailed() | Closed():
                self._ended = True
                return self._rest(Role.OFFLINE, GoOffline())

    # Roles

    def _learn(self, state: StateLearned) -> tuple[Action, ...]:
        if (
            self._ended
            or state.leader_epoch < self.leader_epoch
            or state.partition_epoch < self.partition_epoch
        ):
            return _NOTHING
        self._log_end_offset = state.log_end_offset
        self._durable_end_offset = state.durable_end_offset
        is_new_epoch = state.leader_epoch > self.leader_epoch
        if state.partition_epoch > self.partition_epoch or is_new_epoch:
            self.asked = None  # stored, or refused for ever: it was asked for on an older partition epoch
        self.leader, self.leader_epoch, self.partition_epoch = (
            state.leader,
            state.leader_epoch,
            state.partition_epoch,
        )
        self._forget_words_of(broker for broker in self.isr if broker not in state.isr)
        self.isr, self.replicas = state.isr, state.replicas
        self._adding_replicas = state.adding_replicas
        self._eligible_leader_replicas = state.eligible_leader_replicas
        if state.leader == self.broker_id:
            return self._learn_leading(state, is_new_epoch)
        if is_new_epoch:
            self.told_high_watermark = UNKNOWN_OFFSET
        if state.leader < 0:
            return self._rest(Role.OFFLINE, GoOffline())
        if self.role is Role.FOLLOWER and not is_new_epoch:
            return _NOTHING
        return self._rest(Role.FOLLOWER, BecomeFollower(state.leader, state.leader_epoch))

    def _learn_leading(self, state: StateLearned, is_new_epoch: bool) -> tuple[Action, ...]:
        if not is_new_epoch and self.role is Role.LEADER:
            self._meet_followers(state.now_ms)
            return (*self._count_replicas(), *self._advance(), *self._clear_eligible())
        led_before, self.role = self.role is Role.LEADER, Role.LEADER
        self.epoch_start_offset = None
        self._followers.clear()
        self._meet_followers(state.now_ms)
        refused = self._count_replicas()
        return (
            BecomeLeader(state.leader_epoch),
            *(refused if led_before else ()),
            *self._clear_eligible(),
        )

    def _start_epoch(self, start_offset: int) -> tuple[Action, ...]:
        """The log ends where the epoch begins; what was known of it before may be older than a cut that a worker was making."""
        self.epoch_start_offset = self._log_end_offset = start_offset
        self._durable_end_offset = min(self._durable_end_offset, start_offset)
        for follower in self._followers.values():
            if follower.end_offset > start_offset:  # it spoke of what was cut: other records come there
                follower.end_offset = UNKNOWN_OFFSET
        self._count_replicas()
        return self._advance()

    def _rest(self, role: Role, action: Action) -> tuple[Action, ...]:
        """Lead no more."""
        self.role = role
        self.asked = None
        self.epoch_start_offset = None
        self._followers.clear()
        self._count_replicas()
        return (action,)

    def _meet_followers(self, now_ms: float) -> None:
        """Know the replicas. Who is in the ISR has the benefit of the doubt for the lag time; who is not was never caught up."""
        for broker in self.replicas:
            if broker != self.broker_id and broker not in self._followers:
                self._followers[broker] = FollowerState(now_ms if broker in self.isr else -math.inf)
        for broker in [broker for broker in self._followers if broker not in self.replicas]:
            del self._followers[broker]

    def _forget_words_of(self, left: Iterable[int]) -> None:
        """Who has left the ISR may come back when it fetches again: it may have left by itself, since the log of which it told is lost."""
        for broker in left:
            if broker in self._followers:
                self._followers[broker].may_join = False

    # The high watermark

    def _count_replicas(self) -> tuple[Action, ...]:
        """Work out anew who counts, and whether they are enough; says whom to refuse if they are enough no more."""
        wanted = min(self.min_insync_replicas, len(self.replicas) - len(self._adding_replicas))
        had_enough, self.has_enough_replicas = self.has_enough_replicas, len(self.isr) >= wanted
        leads = self.role is Role.LEADER
        self._may_commit = (
            leads
            and self.epoch_start_offset is not None
            and self.has_enough_replicas
            and not self._eligible_leader_replicas
            and (self.asked is None or len(self.asked.isr) >= wanted)
        )
        self._counted = (
            tuple(self._followers[broker] for broker in self.maximal_isr if broker != self.broker_id)
            if leads
            else ()
        )
        return (RefuseWaiting(),) if leads and had_enough and not self.has_enough_replicas else _NOTHING

    def _advance(self) -> tuple[Action, ...]:
        end = self.counted_end_offset
        if self._may_commit:
            if self.is_fenced:
                return _NOTHING
            for follower in self._counted:
                end = min(end, follower.end_offset)
        elif self.role is Role.FOLLOWER:
            end = min(end, self.told_high_watermark)
        else:
            return _NOTHING
        if end <= self.high_watermark:
            return _NOTHING
        self.high_watermark = end
        return (AdvanceHighWatermark(end),)

    def _take_truncation(self, event: LogTruncated) -> tuple[Action, ...]:
        self._log_end_offset = event.log_end_offset
        self._durable_end_offset = event.durable_end_offset
        if event.log_start_offset <= self.high_watermark:
            return _NOTHING
        self.high_watermark = event.log_start_offset  # what the leader has deleted was committed
        return (AdvanceHighWatermark(event.log_start_offset),)

    # The ISR

    def _take_fetch(self, event: FollowerFetched) -> tuple[Action, ...]:
        follower = self._followers.get(event.broker_id)
        if follower is None:
            return _NOTHING
        follower.fetched(event, self._log_end_offset)
        advanced = self._advance()
        if event.broker_id in self.isr or not self._may_join(follower):
            return advanced
        return advanced + self._ask((*self.isr, event.broker_id), ((event.broker_id, event.broker_epoch),))

    def _may_join(self, follower: FollowerState) -> bool:
        """Whether it has all that is committed, and all that was before this leader (PROPERTIES D5)."""
        return (
            self.epoch_start_offset is not None
            and follower.may_join
            and follower.end_offset >= max(self.high_watermark, self.epoch_start_offset)
        )

    def _look_around(self, now_ms: float) -> tuple[Action, ...]:
        """Put out who lags; else take in whoever has caught up since it was refused."""
        if self.role is not Role.LEADER:
            return _NOTHING
        advanced = self._advance() + self._clear_eligible()  # a fence may have held them back
        lagging = [
            broker
            for broker, follower in self._followers.items()
            if broker in self.isr
            and follower.end_offset != self._log_end_offset
            and now_ms - follower.caught_up_ms > self._lag_time_max_ms
        ]
        if lagging:
            return advanced + self._ask(tuple(broker for broker in self.isr if broker not in lagging), ())
        joining = tuple(
            (broker, follower.broker_epoch)
            for broker, follower in self._followers.items()
            if broker not in self.isr
            and self._may_join(follower)
            and now_ms - follower.last_fetch_ms <= self._lag_time_max_ms
        )
        if not joining:
            return advanced
        return advanced + self._ask((*self.isr, *(broker for broker, _ in joining)), joining)

    def _clear_eligible(self) -> tuple[Action, ...]:
        """With enough in the ISR (min.insync.replicas was lowered, say), nobody else is to be eligible before more is committed."""
        if self.has_enough_replicas and self._eligible_leader_replicas and self.role is Role.LEADER:
            return self._ask(self.isr, ())
        return _NOTHING

    def _ask(self, isr: tuple[int, ...], joining: tuple[tuple[int, int], ...]) -> tuple[Action, ...]:
        """Ask for another ISR, unless an answer is still out; from now on all of both count."""
        if self.asked is not None or self.is_fenced:
            return _NOTHING
        self.asked = ChangeIsr(isr, self.partition_epoch, self.leader_epoch, joining)
        self._count_replicas()
        return (self.asked,)

    def _take_failure(self, partition_epoch: int) -> tuple[Action, ...]:
        if self.asked is None or self.asked.partition_epoch != partition_epoch:
            return _NOTHING  # it has been decided meanwhile
        self.asked = None
        self._count_replicas()
        return self._advance()


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
    "FollowerState",
    "GoOffline",
    "IsrChangeFailed",
    "LeaderTold",
    "LogFailed",
    "LogTruncated",
    "PartitionMachine",
    "RefuseWaiting",
    "Role",
    "SettingsChanged",
    "StateLearned",
    "Synced",
    "TimePassed",
]
