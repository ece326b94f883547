"""Where replicas and leaders should be: plans for spreading them over all brokers, and for emptying one. Pure.

Owns what a good placement is, in this order:
1. every partition keeps its number of replicas, on different brokers that are alive;
2. its replicas stand in as many racks as there can be, never in fewer than before;
3. brokers hold equally many replicas, within one, and then are the preferred leader (first replica) of equally many partitions, within one,
   as far as racks allow;
4. of all ways to get there, the fewest replicas move; among those that may move, small ones of topics that crowd a broker go first.
A change of the preferred leader alone moves no data. Does not know how a plan is carried out.
"""

from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from penstock.client.metadata import TopicPartition
from penstock.errors import PenstockError

Replicas = tuple[int, ...]


class PlanImpossible(PenstockError):
    """There are not enough brokers for what was asked; the message says for which partition."""


@dataclass(frozen=True, slots=True)
class Placement:
    """What a plan starts from. `partitions` have the replicas they will have when all moves under way are done."""

    racks: Mapping[int, str | None]
    """By id, the brokers that may hold replicas."""
    partitions: Mapping[TopicPartition, Replicas]
    sizes_bytes: Mapping[TopicPartition, int] = field(default_factory=dict[TopicPartition, int])

    def size(self, partition: TopicPartition) -> int:
        """Bytes of one replica, 0 where it is not known."""
        return self.sizes_bytes.get(partition, 0)


Plan = dict[TopicPartition, Replicas]
"""The new replicas, the preferred leader first, of the partitions that change."""


def rebalance(placement: Placement) -> Plan:
    """Spread replicas and leaders over all brokers. Raises PlanImpossible."""
    work = _Work(placement)
    work.leave_brokers_that_are_gone()
    work.spread_over_racks()
    work.even_out_replicas()
    work.even_out_leaders()
    return work.changes()


def drain(placement: Placement, node_id: int) -> Plan:
    """Move everything off one broker, which `racks` may still have, and nothing else. Raises PlanImpossible."""
    racks = {other: rack for other, rack in placement.racks.items() if other != node_id}
    work = _Work(Placement(racks, placement.partitions, placement.sizes_bytes))
    work.leave_brokers_that_are_gone(only=node_id)
    return work.changes()


def replaced(replicas: Replicas, old: int, new: int) -> Replicas:
    """The same replicas with one broker in the place of another."""
    return tuple(new if node_id == old else node_id for node_id in replicas)


class _Work:
    """A placement that changes step by step."""

    def __init__(self, placement: Placement) -> None:
        self._placement = placement
        self._racks = placement.racks
        self._now = dict(placement.partitions)
        self._held = Counter(node for replicas in self._now.values() for node in replicas)
        self._topic_held = Counter(
            (partition.topic, node) for partition, replicas in self._now.items() for node in replicas
        )

    def changes(self) -> Plan:
        before = self._placement.partitions
        return {partition: now for partition, now in self._now.items() if now != before[partition]}

    # Steps.

    def leave_brokers_that_are_gone(self, only: int | None = None) -> None:
        """Give each replica on a broker that may hold none (or on `only`) to the one that fits best."""
        for partition in self._by_size(largest_first=True):
            for old in self._now[partition]:
                if old in self._racks or (only is not None and old != only):
                    continue
                self._move(partition, old, self._best_for(partition, old))

    def spread_over_racks(self) -> None:
        """Where two replicas share a rack and another rack has none, move one there."""
        for partition in self._by_size(largest_first=False):
            while (step := self._step_to_another_rack(partition)) is not None:
                self._move(partition, *step)

    def even_out_replicas(self) -> None:
        """Move replicas from brokers that hold more than others, until they differ by one, or racks forbid it."""
        for _ in range(
            self._held.total()
        ):  # each replica moves once at most; racks might have a chain of moves go round
            path = _uneven_path(self._racks, self._held, self._may_give)
            for giver, taker in path:
                partition = self._best_to_give(giver, taker)
                if partition is None:  # an earlier step of the chain has used up what racks allow
                    break
                self._move(partition, giver, taker)
            if not path:
                return

    def even_out_leaders(self) -> None:
        """Change preferred leaders only: the order of replicas."""
        leaders = [(partition.topic, replicas[0]) for partition, replicas in self._now.items() if replicas]
        led, topic_led = Counter(node_id for _, node_id in leaders), Counter(leaders)
        while path := _uneven_path(self._racks, led, self._may_lead_instead):
            for giver, taker in path:
                partition = min(
                    self._leadable(giver, taker),
                    key=lambda each: (topic_led[each.topic, taker] - topic_led[each.topic, giver], each),
                )
                others = [node for node in self._now[partition] if node != taker]
                self._now[partition] = (taker, *others)
                for node_id, by in ((giver, -1), (taker, 1)):
                    led[node_id] += by
                    topic_led[partition.topic, node_id] += by

    # What a step goes by.

    def _move(self, partition: TopicPartition, old: int, new: int) -> None:
        self._now[partition] = replaced(self._now[partition], old, new)
        self._held[old] -= 1
        self._held[new] += 1
        self._topic_held[partition.topic, old] -= 1
        self._topic_held[partition.topic, new] += 1

    def _by_size(self, *, largest_first: bool) -> list[TopicPartition]:
        size = self._placement.size
        return sorted(self._now, key=lambda each: (-size(each) if largest_first else size(each), each))

    def _rack_of(self, node_id: int) -> object:
        """Brokers without a rack, and those that nothing is known of, each stand alone."""
        rack = self._racks.get(node_id)
        return node_id if rack is None else rack

    def _rack_count(self, replicas: Iterable[int]) -> int:
        return len({self._rack_of(node_id) for node_id in replicas if node_id in self._racks})

    def _best_for(self, partition: TopicPartition, old: int) -> int:
        replicas = self._now[partition]
        free = [node_id for node_id in self._racks if node_id not in replicas]
        if not free:
            raise PlanImpossible(
                f"{partition} has {len(replicas)} replicas, and there would be {len(self._racks)} brokers for them"
            )
        return min(
            free,
            key=lambda node_id: (
                -self._rack_count(replaced(replicas, old, node_id)),
                self._held[node_id],
                self._topic_held[partition.topic, node_id],
                node_id,
            ),
        )

    def _step_to_another_rack(self, partition: TopicPartition) -> tuple[int, int] | None:
        replicas = self._now[partition]
        if not set(replicas) <= self._racks.keys():
            return None
        count = self._rack_count(replicas)
        steps = [
            (old, new)
            for old in replicas
            for new in self._racks
            if new not in replicas and self._rack_count(replaced(replicas, old, new)) > count
        ]
        return min(
            steps,
            key=lambda step: (self._held[step[1]] - self._held[step[0]], step[0] == replicas[0], step),
            default=None,
        )

    def _givable(self, giver: int, taker: int) -> Iterator[TopicPartition]:
        for partition, replicas in self._now.items():
            if giver in replicas and taker not in replicas:
                moved = replaced(replicas, giver, taker)
                if self._rack_count(moved) >= self._rack_count(replicas):
                    yield partition

    def _may_give(self, giver: int, taker: int) -> bool:
        return next(self._givable(giver, taker), None) is not None

    def _best_to_give(self, giver: int, taker: int) -> TopicPartition | None:
        def cost(partition: TopicPartition) -> tuple[int, int, TopicPartition]:
            topic = partition.topic
            crowding = self._topic_held[topic, taker] - self._topic_held[topic, giver]
            return crowding, self._placement.size(partition), partition

        return min(self._givable(giver, taker), key=cost, default=None)

    def _leadable(self, giver: int, taker: int) -> Iterator[TopicPartition]:
        for partition, replicas in self._now.items():
            if replicas and replicas[0] == giver and taker in replicas:
                yield partition

    def _may_lead_instead(self, giver: int, taker: int) -> bool:
        return next(self._leadable(giver, taker), None) is not None


def _uneven_path(
    node_ids: Iterable[int], counts: Mapping[int, int], may_give: Callable[[int, int], bool]
) -> Sequence[tuple[int, int]]:
    """A shortest chain of givers and takers from a broker with two or more above another to that one; empty: all is even, or can't be."""
    ordered = sorted(node_ids, key=lambda node_id: (counts.get(node_id, 0), node_id))
    for start in reversed(ordered):
        poorest = counts.get(ordered[0], 0)
        if counts.get(start, 0) < poorest + 2:
            return []
        came_from: dict[int, int] = {start: start}
        queue = deque([start])
        while queue:
            giver = queue.popleft()
            for taker in ordered:
                if taker in came_from or not may_give(giver, taker):
                    continue
                came_from[taker] = giver
                if counts.get(taker, 0) <= counts.get(start, 0) - 2:
                    return _path_to(taker, came_from)
                queue.append(taker)
    return []


def _path_to(end: int, came_from: Mapping[int, int]) -> list[tuple[int, int]]:
    steps: list[tuple[int, int]] = []
    while came_from[end] != end:
        steps.append((came_from[end], end))
        end = came_from[end]
    return steps[::-1]


__all__ = ["Placement", "Plan", "PlanImpossible", "drain", "rebalance", "replaced"]
