"""The leader's machine against the store and the followers as they really are, in any order of events (PROPERTIES D3, D4, D5).

The world of a run: what is stored (the truth), how far each broker's log really counts, which registrations are current, and what may
still reach the store (a transaction whose reply was lost may be applied at any later time, as its compares allow, or never). The machine
sees only what it is told, late. After every event the properties are checked literally:

- D3: the high watermark never falls; a leader's never passes what counts on any member of the ISR that is stored or may yet be; and it does
  not move while the ISR, as stored or as asked, is too small, while somebody outside of it may be elected, or past the deadline.
- D5: who is asked to join has all up to max(high watermark, start of the epoch), under its present registration.
- An ISR change is asked one at a time, keeps the leader, and is stored only on the state that it was asked on.
- D1, D7: whoever is elected by the rules has all that this leader ever called committed; following it cuts nothing of that.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import hypothesis.strategies as st
from hypothesis import example, given, settings

from penstock.broker.isr import with_isr
from penstock.broker.keys import NO_LEADER, PartitionState
from penstock.broker.partition_machine import (
    AdvanceHighWatermark,
    Appended,
    BecomeLeader,
    ChangeIsr,
    EpochStarted,
    Event,
    FollowerFetched,
    IsrChangeFailed,
    LeaderTold,
    LogTruncated,
    PartitionMachine,
    Role,
    SettingsChanged,
    StateLearned,
    Synced,
    TimePassed,
)

ME, REPLICAS = 1, (1, 2, 3)
LAG_MS = 1000


@dataclass
class World:
    """Everything outside the machine."""

    min_insync: int
    state: PartitionState = field(default_factory=lambda: PartitionState(REPLICAS, REPLICAS, NO_LEADER, 0))
    partition_epoch: int = 1
    seen: PartitionState | None = None
    news: list[tuple[PartitionState, int, int]] = field(default_factory=list[tuple[PartitionState, int, int]])
    """What the watch has yet to bring: the state, its partition epoch, and where the log of its leader ended then."""
    history: list[tuple[PartitionState, int]] = field(default_factory=list[tuple[PartitionState, int]])
    other_epoch: int = 0
    """The latest epoch that another broker was elected in."""
    registered: dict[int, int] = field(default_factory=lambda: {2: 1, 3: 1})
    counted: dict[int, int] = field(default_factory=lambda: {2: 0, 3: 0})
    """What each follower's log really has of the leader's."""
    cut_to: int | None = None
    """Where this log will end when the worker is done that cuts it for the leader before; None if none does."""
    uncut: dict[int, int] = field(default_factory=dict[int, int])
    """What each follower's log has of this one as it was before that cut."""
    log_end: int = 0
    durable_end: int = 0
    epoch_start: int = 0
    now_ms: float = 0
    asked: ChangeIsr | None = None
    """As it was sent; it may be applied until another state is stored."""
    is_answered: bool = True


class Trial:
    """The machine in its world."""

    def __init__(self, min_insync: int, isr: tuple[int, ...]) -> None:
        self.world = World(min_insync)
        self.world.state = with_isr(self.world.state, isr, min_insync_replicas=1)
        self.machine = PartitionMachine(
            ME, write_caching=False, min_insync_replicas=min_insync, replica_lag_time_max_ms=LAG_MS
        )
        self.must_start_epoch = False
        self.elect(ME)
        self.see_news()

    # What the machine is told

    def step(self, event: Event) -> None:
        before = self.machine.high_watermark
        could_commit = self.could_commit()
        for action in self.machine.step(event):
            if isinstance(action, AdvanceHighWatermark):
                assert action.high_watermark > before, "D3: it never falls"
                if self.machine.role is Role.LEADER:
                    assert could_commit or self.could_commit(), (event, "D3, KIP-966, M2")
                    self.check_committed()
            elif isinstance(action, BecomeLeader):
                self.must_start_epoch = True
                if self.world.cut_to is None:
                    self.start_epoch()
            elif isinstance(action, ChangeIsr):
                self.check_asked(action)
        assert self.machine.high_watermark >= before
        assert self.machine.high_watermark <= self.world.durable_end

    def start_epoch(self) -> None:
        self.must_start_epoch = False
        self.world.epoch_start = self.world.log_end
        self.step(EpochStarted(self.world.log_end))

    def could_commit(self) -> bool:
        """Whether the high watermark may move by what the machine knows."""
        machine, world = self.machine, self.world
        seen = world.seen
        return (
            seen is not None
            and len(machine.isr) >= world.min_insync
            and (machine.asked is None or len(machine.asked.isr) >= world.min_insync)
            and not seen.eligible_leader_replicas
            and not machine.is_fenced
        )

    def check_committed(self) -> None:
        """Everybody who is in the ISR as it really is, or may yet be, has it."""
        world, machine = self.world, self.machine
        members = set(world.state.isr)
        if world.asked is not None and self.may_be_applied(world.asked):
            members |= set(world.asked.isr)
        for broker in members - {ME}:
            assert world.counted[broker] >= machine.high_watermark, (broker, "D3")

    def check_asked(self, change: ChangeIsr) -> None:
        world, machine = self.world, self.machine
        assert world.is_answered, "one at a time"
        assert machine.role is Role.LEADER
        assert not machine.is_fenced, "M2"
        assert ME in change.isr
        assert len(set(change.isr)) == len(change.isr)
        joining = set(change.isr) - set(machine.isr)
        assert joining == {broker for broker, _ in change.joining}
        for broker, epoch in change.joining:
            if epoch == world.registered.get(broker):
                assert world.counted[broker] >= max(machine.high_watermark, world.epoch_start), "D5"
        world.asked, world.is_answered = change, False

    # What happens

    def append(self) -> None:
        world = self.world
        if world.cut_to is not None:
            return  # it queues behind the cut
        if self.machine.role is not Role.LEADER:
            if world.news:
                return
            world.counted.update(
                dict.fromkeys(world.counted, world.log_end + 1)
            )  # somebody else's, and all have it
        world.log_end += 1
        self.step(Appended(self.world.log_end))

    def sync(self) -> None:
        self.world.durable_end = self.world.log_end
        self.step(Synced(self.world.durable_end))

    def replicate(self, broker: int, share: float) -> None:
        """The follower gets some of what it lacks, and says so with its next fetch."""
        if self.is_followed() and self.world.cut_to is None:
            missing = self.world.log_end - self.world.counted[broker]
            self.world.counted[broker] += round(missing * share)
            self.fetch(broker)

    def is_followed(self) -> bool:
        """Whether it believes in this machine's epoch: all others learn of an election at once."""
        machine = self.machine
        return machine.role is Role.LEADER and self.world.other_epoch <= machine.leader_epoch

    def fetch(self, broker: int) -> None:
        """Tell what the follower has; of a log that is not cut yet that may be more than what will count."""
        world = self.world
        if self.is_followed():
            has = world.counted if world.cut_to is None else world.uncut
            self.step(FollowerFetched(broker, world.registered[broker], has[broker], world.now_ms))

    def restart(self, broker: int, *, loses: bool) -> None:
        """A follower starts anew; one that may have lost something is out of the ISR first."""
        world = self.world
        if loses and world.state.isr != (broker,) and world.state.leader != broker:
            isr = tuple(i for i in world.state.isr if i != broker)
            eligible = tuple(i for i in world.state.eligible_leader_replicas if i != broker)
            if isr:
                self.store(replace(world.state, isr=isr, eligible_leader_replicas=eligible))
                world.counted[broker] //= 2
                world.uncut[broker] = world.counted[broker]
        world.registered[broker] = world.registered.get(broker, 0) + 1

    def pass_time(self, ms: float) -> None:
        self.world.now_ms += ms
        self.step(TimePassed(self.world.now_ms))

    def fence(self, is_fenced: bool) -> None:
        self.machine.is_fenced = is_fenced

    def change_min_insync(self, count: int) -> None:
        self.world.min_insync = count
        self.step(SettingsChanged(write_caching=False, min_insync_replicas=count))

    def tell(self) -> None:
        """The leader says what is committed: all of its ISR, this replica in it or not, has that much."""
        world = self.world
        if self.machine.role is Role.FOLLOWER and not world.news and world.cut_to is None:
            self.step(LeaderTold(min(world.counted[i] for i in world.state.isr if i != ME)))

    # The store

    def store(self, state: PartitionState) -> None:
        self.world.state = state
        self.world.partition_epoch += 1
        end = self.world.counted.get(state.leader, 0)
        self.world.news.append((state, self.world.partition_epoch, end))

    def elect(self, leader: int) -> None:
        """The controller elects, from the ISR or the eligible; who follows gets what the leader has."""
        world = self.world
        state = world.state
        if leader not in (*state.isr, *state.eligible_leader_replicas):
            return
        isr = state.isr if leader in state.isr else (leader,)
        eligible = state.eligible_leader_replicas if leader in state.isr else ()
        if leader != ME:
            world.other_epoch = state.leader_epoch + 1
            for broker, end in world.counted.items():
                world.counted[broker] = min(end, world.counted[leader])
        self.store(
            replace(
                state,
                leader=leader,
                isr=isr,
                eligible_leader_replicas=eligible,
                leader_epoch=state.leader_epoch + 1,
            )
        )

    def apply_asked(self) -> None:
        """The transaction reaches the store, if it was not there before; nobody is told but by the watch."""
        world = self.world
        if world.asked is not None and self.may_be_applied(world.asked):
            self.store(with_isr(world.state, world.asked.isr, min_insync_replicas=world.min_insync))
            world.asked = None

    def may_be_applied(self, change: ChangeIsr) -> bool:
        """Whether its compares hold, now and so perhaps later."""
        return change.partition_epoch == self.world.partition_epoch and all(
            self.world.registered.get(broker) == epoch for broker, epoch in change.joining
        )

    def refuse_asked(self) -> None:
        """The leader finds out for certain that it was not and will not be stored."""
        world = self.world
        if world.asked is None or world.is_answered:
            return
        failed, world.asked, world.is_answered = world.asked, None, True
        self.step(IsrChangeFailed(failed.partition_epoch))

    def see_news(self, *, cuts_later: bool = False) -> None:
        """The watch brings the next state. What another leader does not have is cut at once, or by a worker that takes its time."""
        world = self.world
        if not world.news:
            return
        state, partition_epoch, end = world.news.pop(0)
        world.seen = state
        if world.asked is None or partition_epoch > world.asked.partition_epoch:
            world.is_answered = True
        if state.leader not in (ME, NO_LEADER) and state.leader_epoch > self.machine.leader_epoch:
            self.end_cut()
            if cuts_later and end < world.log_end:
                world.cut_to = end
            else:
                self.follow(end)
        self.learn(state, partition_epoch)
        world.history.append((state, partition_epoch))
        assert self.machine.leader_epoch == state.leader_epoch

    def follow(self, end_offset: int) -> None:
        """This log becomes the elected one's, which ended there."""
        world = self.world
        world.log_end = world.durable_end = end_offset
        assert world.log_end >= self.machine.high_watermark, "D1, D7"

    def end_cut(self) -> None:
        """The worker is done; an epoch that has begun meanwhile begins behind the cut."""
        world = self.world
        if world.cut_to is not None:
            self.follow(world.cut_to)
            world.cut_to = None
            if self.must_start_epoch:
                self.start_epoch()
            self.step(LogTruncated(world.log_end, world.durable_end, 0))

    def return_uncut(self, other: int) -> None:
        """Another leads for a moment; this one is elected again before a worker has cut what the other does not have."""
        world = self.world
        if world.state.leader == ME and other in world.state.isr and not world.news and world.cut_to is None:
            world.uncut = dict(world.counted)
            self.elect(other)
            self.see_news(cuts_later=True)
            self.elect(ME)
            self.see_news()

    def learn(self, state: PartitionState, partition_epoch: int) -> None:
        world = self.world
        self.step(
            StateLearned(
                state.leader,
                state.leader_epoch,
                state.isr,
                state.replicas,
                partition_epoch,
                world.log_end,
                world.durable_end,
                world.now_ms,
                eligible_leader_replicas=state.eligible_leader_replicas,
            )
        )

    def repeat_news(self, back: int) -> None:
        """A state that was seen before is told again: the latest or an older one. Nothing follows from it."""
        if back <= len(self.world.history):
            before = (self.machine.role, self.machine.asked, self.machine.isr, self.machine.leader_epoch)
            self.learn(*self.world.history[-back])
            assert before == (
                self.machine.role,
                self.machine.asked,
                self.machine.isr,
                self.machine.leader_epoch,
            )

    def refuse_late(self) -> None:
        """News of an older change, which has long been decided."""
        asked = self.machine.asked
        self.step(IsrChangeFailed(self.world.partition_epoch - 1000))
        assert self.machine.asked is asked


class Move(NamedTuple):
    """One thing that happens; shown by its name when a run fails."""

    name: str
    act: Callable[[Trial], object]

    def __repr__(self) -> str:
        return self.name


def move(name: str, act: Callable[[Trial], object], weight: int = 1) -> list[Move]:
    """A move, as often as it is to be likely."""
    return [Move(name, act)] * weight


def _moves() -> list[Move]:
    """The first is what a failing run is shrunk to; the likelier ones are named more than once."""
    moves = [
        *move("nothing", lambda t: None),
        *move("append", Trial.append, 4),
        *move("sync", Trial.sync, 4),
        *move("news", Trial.see_news, 4),
        *move("applied", Trial.apply_asked, 2),
        *move("refused", Trial.refuse_asked),
        *move("refused late", Trial.refuse_late),
        *move("news again", lambda t: t.repeat_news(1)),
        *move("old news", lambda t: t.repeat_news(2)),
        *move("lag", lambda t: t.pass_time(LAG_MS + 1), 2),
        *move("tick", lambda t: t.pass_time(LAG_MS / 2)),
        *move("fenced", lambda t: t.fence(True)),
        *move("unfenced", lambda t: t.fence(False), 2),
        *move("min isr 1", lambda t: t.change_min_insync(1)),
        *move("min isr 2", lambda t: t.change_min_insync(2)),
        *move("told", Trial.tell, 2),
        *move("elect me", lambda t: t.elect(ME), 2),
        *move("cut ends", Trial.end_cut, 2),
    ]
    return [*moves, *_moves_of(2), *_moves_of(3)]


def _moves_of(broker: int) -> list[Move]:
    return [
        *move(f"{broker} has all", lambda t: t.replicate(broker, 1), 3),
        *move(f"{broker} gets half", lambda t: t.replicate(broker, 0.5)),
        *move(f"{broker} fetches", lambda t: t.fetch(broker)),
        *move(f"{broker} restarts", lambda t: t.restart(broker, loses=False)),
        *move(f"{broker} loses", lambda t: t.restart(broker, loses=True)),
        *move(f"elect {broker}", lambda t: t.elect(broker)),
        *move(f"back uncut after {broker}", lambda t: t.return_uncut(broker)),
    ]


def named(*names: str) -> list[Move]:
    """These moves in this order."""
    moves = {one.name: one for one in _moves()}
    return [moves[name] for name in names]


A_WORD_BEFORE_THE_CUT = named(
    "append", "2 has all", "back uncut after 3", "2 fetches", "cut ends", "append", "sync", "3 has all"
)
"""2 tells of the tail, which 3 never had; then it is cut, and what comes there is on 3 alone."""


@example(2, REPLICAS, A_WORD_BEFORE_THE_CUT)
@settings(max_examples=250, deadline=None)
@given(
    st.sampled_from([1, 2]),
    st.sampled_from([REPLICAS, (1, 2), (1,)]),
    st.lists(st.sampled_from(_moves()), min_size=40, max_size=80),
)
def test_high_watermark_and_isr_are_safe_in_any_order(
    min_insync: int, isr: tuple[int, ...], moves: list[Move]
) -> None:
    trial = Trial(min_insync, isr)
    for one in moves:
        one.act(trial)
