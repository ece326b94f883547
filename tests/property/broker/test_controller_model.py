"""Whatever brokers die, come back, lose their logs, shrink and grow ISRs or are moved: no epoch has two leaders, and no leader lacks what is committed.

One partition on five brokers. Each broker acts on the state that it saw last, which may be old; every write is a compare-and-swap on the
store's state; replies may be lost. Logs are lists of (epoch, number); followers copy their leader's. What is committed is what D1 is about: it is
remembered here, outside of all brokers.
"""

import os
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.broker.controller.elections import Members, Rules, numbered, settled
from penstock.broker.controller.planner import next_state
from penstock.broker.controller.reassignments import begun, cancelled, completed, is_reassigning
from penstock.broker.isr import effective_min_insync, with_isr
from penstock.broker.keys import NO_LEADER, PartitionState
from penstock.broker.rejoining import rejoined

BROKERS = (1, 2, 3, 4, 5)
LEAST_FACTOR = 2
EXAMPLES = int(os.environ.get("CONTROLLER_EXAMPLES", "400"))
Log = list[tuple[int, int]]


@dataclass
class Node:
    """A broker: what it has, and what it believes."""

    log: Log = field(default_factory=Log)
    is_alive: bool = True
    is_fenced: bool = False
    incarnation: int = 0
    seen: PartitionState | None = None
    seen_revision: int = 0
    min_insync: int = 2
    joined: set[int] = field(default_factory=set[int])
    """Members that this leader asked to be taken in: counted from that moment on."""
    positions: dict[int, tuple[int, int]] = field(default_factory=dict[int, "tuple[int, int]"])
    """As a leader: incarnation and end offset of each follower, of this epoch."""


class Model:
    """The store, the brokers, and what may happen to them. Operations that make no sense at the moment do nothing."""

    def __init__(self) -> None:
        self.state: PartitionState = PartitionState((1, 2, 3), (1, 2, 3), 1, 0)
        self.revision: int = 1
        self.nodes = {i: Node() for i in BROKERS}
        self.leaders = {0: 1}
        self.committed: Log = []
        self.min_insync = 2
        self.number = 0
        for node in self.nodes.values():
            self._show(node)
        self.controller_seen = self.state
        self.controller_revision: int = self.revision

    # The store.

    def _put(self, new: PartitionState, revision: int, by_controller: bool = False) -> None:
        if revision != self.revision or new == self.state:
            return
        old, self.state = self.state, new
        self.revision += 1
        assert new.isr
        assert set(new.isr) <= set(new.replicas)
        assert not set(new.isr) & set(new.eligible_leader_replicas)
        assert new.leader_epoch - old.leader_epoch == (new.leader != old.leader)
        if new.leader == old.leader:
            return
        if new.leader != NO_LEADER:
            assert by_controller
            assert new.leader in {*old.isr, *old.eligible_leader_replicas}, "D6"
            assert self.leaders.setdefault(new.leader_epoch, new.leader) == new.leader, "D4"
            log = self.nodes[new.leader].log
            assert log[: len(self.committed)] == self.committed, "D1: the new leader lacks what is committed"

    def _show(self, node: Node) -> None:
        if node.seen is None or node.seen.leader_epoch != self.state.leader_epoch:
            node.positions.clear()
        node.seen, node.seen_revision = self.state, self.revision
        node.joined.clear()
        node.min_insync = self.min_insync

    # What leaders and followers do.

    def _led(self, a: int) -> Node | None:
        node = self.nodes[a]
        is_leader = node.seen is not None and node.seen.leader == a
        return node if node.is_alive and is_leader else None

    def append(self, a: int, b: int) -> None:
        leader = self._led(a)
        if leader is not None and leader.seen is not None:
            self.number += 1
            leader.log.append((leader.seen.leader_epoch, self.number))

    def fetch(self, a: int, b: int) -> None:
        leader, follower = self._led(a), self.nodes[b]
        if leader is None or a == b or not follower.is_alive or leader.seen is None or follower.seen is None:
            return
        if b not in leader.seen.replicas or follower.seen.leader_epoch != leader.seen.leader_epoch:
            return
        follower.log = list(leader.log)
        leader.positions[b] = (follower.incarnation, len(follower.log))

    def commit(self, a: int, b: int) -> None:
        leader = self._led(a)
        if leader is None or leader.seen is None:
            return
        seen = leader.seen
        if len(seen.isr) < effective_min_insync(leader.min_insync, seen) or seen.eligible_leader_replicas:
            return
        others = ({*seen.isr} | leader.joined) - {a}
        end = min([len(leader.log), *(leader.positions.get(i, (0, 0))[1] for i in others)])
        reached = leader.log[:end]
        shorter = min(len(reached), len(self.committed))
        assert reached[:shorter] == self.committed[:shorter], "D2: an offset was committed twice"
        if len(reached) > len(self.committed):
            self.committed = reached

    def shrink(self, a: int, b: int) -> None:
        leader = self._led(a)
        if leader is None or leader.seen is None or b == a or b not in leader.seen.isr:
            return
        isr = [i for i in leader.seen.isr if i != b]
        self._put(with_isr(leader.seen, isr, min_insync_replicas=leader.min_insync), leader.seen_revision)

    def expand(self, a: int, b: int) -> None:
        leader, follower = self._led(a), self.nodes[b]
        if leader is None or leader.seen is None or b in leader.seen.isr or b not in leader.seen.replicas:
            return
        incarnation, end = leader.positions.get(b, (-1, 0))
        is_current = incarnation == follower.incarnation and follower.is_alive and not follower.is_fenced
        epoch_start = sum(entry[0] < leader.seen.leader_epoch for entry in leader.log)
        if not is_current or end < max(epoch_start, len(self.committed)):
            return
        leader.joined.add(b)
        self._put(
            with_isr(leader.seen, [*leader.seen.isr, b], min_insync_replicas=leader.min_insync),
            leader.seen_revision,
        )

    def see(self, a: int, b: int) -> None:
        if self.nodes[a].is_alive:
            self._show(self.nodes[a])

    # What befalls brokers.

    def die(self, a: int, b: int) -> None:
        self.nodes[a].is_alive = False
        self.nodes[a].seen = None

    def start(self, a: int, b: int) -> None:
        """Come back, every second time with a shorter log: then it was an unclean stop."""
        node = self.nodes[a]
        if node.is_alive:
            return
        safe = {*self.state.isr, *self.state.eligible_leader_replicas}
        has_lost = b % 2 == 0 and (len(safe) >= LEAST_FACTOR or a not in safe)
        if has_lost:
            del node.log[len(node.log) // 2 :]
        node.is_alive = node.is_fenced = True
        node.incarnation += 1
        node.positions.clear()
        state = rejoined(self.state, a, has_lost=has_lost)
        if state is not None:
            self._put(state, self.revision)
        self._show(node)

    def unfence(self, a: int, b: int) -> None:
        self.nodes[a].is_fenced = False

    def fence(self, a: int, b: int) -> None:
        self.nodes[a].is_fenced = True

    # What the controller does.

    def _members(self) -> Members:
        live = frozenset(i for i, node in self.nodes.items() if node.is_alive)
        return Members(live, frozenset(i for i in live if not self.nodes[i].is_fenced))

    def control(self, a: int, b: int) -> None:
        """Elect and so on, from the state that the controller saw last; the reply is lost, or comes."""
        new = next_state(self.controller_seen, self._members(), Rules(self.min_insync))
        self._put(new, self.controller_revision, by_controller=True)
        if a % 2:
            self.control_sees(a, b)

    def control_sees(self, a: int, b: int) -> None:
        self.controller_seen, self.controller_revision = self.state, self.revision

    def reassign(self, a: int, b: int) -> None:
        target = tuple(dict.fromkeys((a, b, (a + b) % 5 + 1)))
        if len(target) >= LEAST_FACTOR:
            self._move(begun(self.state, target))

    def cancel(self, a: int, b: int) -> None:
        undone = cancelled(self.state) if is_reassigning(self.state) else None
        if undone is not None:
            self._move(undone)

    def _move(self, new: PartitionState) -> None:
        members, rules = self._members(), Rules(self.min_insync)
        moved = numbered(self.state, settled(completed(new, members, rules), members, rules))
        if moved.leader != NO_LEADER and moved.leader not in {
            *self.state.isr,
            *self.state.eligible_leader_replicas,
        }:
            raise AssertionError("D6")
        self._put(moved, self.revision, by_controller=True)

    def configure(self, a: int, b: int) -> None:
        """Another min.insync.replicas: brokers see it when they see something."""
        self.min_insync = LEAST_FACTOR + a % 2

    # Stretches in which things go well, so that there is something to lose.

    def work(self, a: int, b: int) -> None:
        """The leader appends, everybody alive but `b` fetches, it commits and takes in who is there."""
        for i in BROKERS:
            self.see(i, b)
        leader = self.state.leader
        if leader == NO_LEADER:
            return
        self.append(leader, b)
        for i in self.state.replicas:
            if i != b:
                self.fetch(leader, i)
                self.expand(leader, i)
        self.see(leader, b)
        self.commit(leader, b)

    def heal(self, a: int, b: int) -> None:
        """One broker comes back, and the controller sees everything and does what there is to do."""
        self.start(a, b)
        self.unfence(a, b)
        for _ in range(2):
            self.control_sees(a, b)
            self.control(a, b)


OPERATIONS: list[Callable[[Model, int, int], None]] = [
    Model.append,
    Model.fetch,
    Model.fetch,
    Model.commit,
    Model.shrink,
    Model.expand,
    Model.expand,
    Model.see,
    Model.see,
    Model.die,
    Model.start,
    Model.unfence,
    Model.fence,
    Model.control,
    Model.control,
    Model.control_sees,
    Model.reassign,
    Model.cancel,
    Model.configure,
    Model.work,
    Model.work,
    Model.work,
    Model.heal,
    Model.heal,
    Model.heal,
]
steps = st.tuples(st.sampled_from(OPERATIONS), st.sampled_from(BROKERS), st.sampled_from(BROKERS))


@settings(max_examples=EXAMPLES)
@given(st.lists(steps, max_size=120))
def test_no_epoch_has_two_leaders_and_no_leader_lacks_what_is_committed(
    history: list[tuple[Callable[[Model, int, int], None], int, int]],
) -> None:
    model = Model()
    for operation, a, b in history:
        operation(model, a, b)
    assert replace(model.state) == model.state
