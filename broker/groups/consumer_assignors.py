"""The assignors that run on the broker: `uniform` and `range` (KIP-848).

Owns who gets which partition of what the members of a group are subscribed to. Pure: the same input gives the same output, in whatever
order the members came. Knows no epochs and no ownership: the result is a target, and the machine walks towards it.

`uniform` is balanced and sticky. Where all want the same topics, the numbers of partitions differ by at most one and no partition moves
that balance does not force to move. Where they want different topics, no chain of moves could make it more balanced.
`range` gives each member of a topic a run of neighbouring partitions, the same ones in every topic that has as many partitions and
members; it is not sticky.
"""

from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from heapq import heapify, heappop, heappush, heapreplace

from penstock.broker.groups.consumer_group_events import NOTHING, Assignment

Partition = tuple[bytes, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class AssignedMember:
    """A member as an assignor sees it."""

    topic_ids: frozenset[bytes]
    """What it wants, of what exists."""
    instance_id: str | None = None
    target: Assignment = field(default_factory=lambda: NOTHING)
    """What it was to get until now."""


Assignor = Callable[[Mapping[str, AssignedMember], Mapping[bytes, int]], dict[str, Assignment]]
"""From members, and the partition counts of all topics that some member wants, to each member's partitions."""


def assign_range(
    members: Mapping[str, AssignedMember], partition_counts: Mapping[bytes, int]
) -> dict[str, Assignment]:
    """A run of each topic for each of its members, static members first by their instance id."""
    shares: dict[str, dict[bytes, frozenset[int]]] = {member_id: {} for member_id in members}
    order = sorted(members, key=lambda member_id: _range_order(member_id, members[member_id]))
    alike = len({member.topic_ids for member in members.values()}) == 1
    for topic_id, count in partition_counts.items():
        subscribers = order
        if not alike:
            subscribers = [member_id for member_id in order if topic_id in members[member_id].topic_ids]
        begin = 0
        for place, member_id in enumerate(subscribers):
            size = count // len(subscribers) + (place < count % len(subscribers))
            if not size:
                break
            shares[member_id][topic_id] = frozenset(range(begin, begin + size))
            begin += size
    return dict(shares)


def _range_order(member_id: str, member: AssignedMember) -> tuple[bool, str]:
    return (member.instance_id is None, member.instance_id or member_id)


def assign_uniform(
    members: Mapping[str, AssignedMember], partition_counts: Mapping[bytes, int]
) -> dict[str, Assignment]:
    """As evenly as can be, with as few moves as can be."""
    if not members:
        return {}
    kept = _kept(members, partition_counts)
    held = {partition for partitions in kept.values() for partition in partitions}
    free = [partition for partition in _all(partition_counts) if partition not in held]
    if len({member.topic_ids for member in members.values()}) == 1:
        _fill_alike(kept, free)
        return {member_id: _by_topic(partitions) for member_id, partitions in kept.items()}
    levelling = _Levelling(kept, members)
    levelling.fill(free)
    levelling.level()
    return levelling.shares()


def _kept(
    members: Mapping[str, AssignedMember], partition_counts: Mapping[bytes, int]
) -> dict[str, list[Partition]]:
    """What each member may keep: what it wants still and what exists still."""
    taken: set[Partition] = set()
    kept: dict[str, list[Partition]] = {}
    for member_id in sorted(members):
        member = members[member_id]
        kept[member_id] = [
            partition
            for partition in _sorted(member.target)
            if partition[0] in member.topic_ids
            and partition[1] < partition_counts.get(partition[0], 0)
            and partition not in taken
        ]
        taken.update(kept[member_id])
    return kept


def _fill_alike(kept: dict[str, list[Partition]], free: list[Partition]) -> None:
    """All want the same: who has too much gives, who has too little takes. The odd ones stay with who has them already."""
    total = len(free) + sum(map(len, kept.values()))
    least, odd = divmod(total, len(kept))
    order = sorted(kept, key=lambda member_id: (-len(kept[member_id]), member_id))
    quotas = {member_id: least + (place < odd) for place, member_id in enumerate(order)}
    free = list(free)
    for member_id, partitions in kept.items():
        free += partitions[quotas[member_id] :]
        del partitions[quotas[member_id] :]
    hungry = deque(member_id for member_id in sorted(kept) if len(kept[member_id]) < quotas[member_id])
    for partition in sorted(free):  # in turn, so that each topic is spread over the members
        member_id = hungry.popleft()
        kept[member_id].append(partition)
        if len(kept[member_id]) < quotas[member_id]:
            hungry.append(member_id)


class _Levelling:
    """Members that want different topics: who may get what, and how much each has.

    Members with one subscription are a *class*: what one of them may take, all of them may, so chains are looked for between classes. A
    thousand members of two kinds cost as much as two.
    """

    def __init__(
        self, kept: Mapping[str, Sequence[Partition]], members: Mapping[str, AssignedMember]
    ) -> None:
        numbers: dict[frozenset[bytes], int] = {}
        self._class_of = {
            member_id: numbers.setdefault(members[member_id].topic_ids, len(numbers)) for member_id in kept
        }
        self._classes: dict[bytes, list[int]] = {}
        for topic_ids, number in numbers.items():
            for topic_id in topic_ids:
                self._classes.setdefault(topic_id, []).append(number)
        sizes = Counter(self._class_of.values())
        self._reach = {
            topic_id: sum(sizes[number] for number in classes) for topic_id, classes in self._classes.items()
        }
        self._loads = {member_id: len(partitions) for member_id, partitions in kept.items()}
        self._held: dict[str, dict[bytes, list[int]]] = {member_id: {} for member_id in kept}
        self._holders: list[dict[bytes, dict[str, None]]] = [{} for _ in numbers]
        self._least: list[list[tuple[int, str]]] = [[] for _ in numbers]
        for member_id, partitions in kept.items():
            for topic_id, index in partitions:
                self._take(member_id, topic_id, index)
            self._least[self._class_of[member_id]].append((len(partitions), member_id))
        for heap in self._least:
            heapify(heap)

    def _take(self, member_id: str, topic_id: bytes, index: int) -> None:
        self._held[member_id].setdefault(topic_id, []).append(index)
        self._holders[self._class_of[member_id]].setdefault(topic_id, {})[member_id] = None

    def _give(self, member_id: str, topic_id: bytes) -> int:
        """What it got last, so that what it has long had stays."""
        indexes = self._held[member_id][topic_id]
        index = indexes.pop()
        if not indexes:
            del self._held[member_id][topic_id]
            holders = self._holders[self._class_of[member_id]]
            del holders[topic_id][member_id]
            if not holders[topic_id]:
                del holders[topic_id]
        return index

    def _add_load(self, member_id: str, more: int) -> None:
        self._loads[member_id] += more
        heappush(self._least[self._class_of[member_id]], (self._loads[member_id], member_id))

    def _least_loaded(self, number: int) -> tuple[int, str]:
        """Load and id of the member of a class that has least."""
        heap = self._least[number]
        while self._loads[heap[0][1]] != heap[0][0]:
            heappop(heap)
        return heap[0]

    def fill(self, free: Iterable[Partition]) -> None:
        """Each free partition to the one of its subscribers that has least; those with few subscribers first."""
        by_topic: dict[bytes, list[int]] = {}
        for topic_id, index in sorted(free):
            by_topic.setdefault(topic_id, []).append(index)
        for topic_id in sorted(by_topic, key=lambda topic_id: (self._reach[topic_id], topic_id)):
            takers = [(*self._least_loaded(number), number) for number in self._classes[topic_id]]
            heapify(takers)
            for index in by_topic[topic_id]:
                _, taker, number = takers[0]
                self._take(taker, topic_id, index)
                self._add_load(taker, 1)
                heapreplace(takers, (*self._least_loaded(number), number))

    def level(self) -> None:
        """Move partitions along chains of members until nobody is connected to somebody who has two fewer.

        Each chain takes one partition from its first member and gives one to its last: the sum of the squares falls, so it ends, and an
        assignment without such a chain is the most balanced that there is. Who has most begins. Where no chain begins with it, it and
        all whom it is connected to are as level as can be, and no other chain can end there: they are not looked at again.
        """
        settled: set[int] = set()
        seen_topics: set[bytes] = set()
        givers = [(-load, member_id) for member_id, load in self._loads.items()]
        heapify(givers)
        while givers:
            load, giver = heappop(givers)
            if -load != self._loads[giver] or self._class_of[giver] in settled:
                continue
            if -load < 2:
                return
            found = self._chain(giver, settled, seen_topics)
            if isinstance(found, str):
                heappush(givers, (-self._loads[giver], giver))
                heappush(givers, (-self._loads[found], found))
            else:
                settled |= found

    def _chain(self, giver: str, settled: set[int], seen_topics: set[bytes]) -> str | set[int]:
        """Move partitions along the shortest chain from `giver` to a member that has two fewer, and return that one.

        Else the classes that it is connected to; their topics are added to `seen_topics`.
        """
        enough = self._loads[giver] - 2
        came_from: dict[int, tuple[int | None, bytes]] = {}
        topics = set(seen_topics)
        queue: deque[int | None] = deque([None])
        while queue:
            source = queue.popleft()
            held: Mapping[bytes, object] = self._held[giver] if source is None else self._holders[source]
            for topic_id in sorted(held.keys() - topics):
                topics.add(topic_id)
                for number in self._classes[topic_id]:
                    if number in came_from or number in settled:
                        continue
                    came_from[number] = (source, topic_id)
                    load, taker = self._least_loaded(number)
                    if load <= enough:
                        self._move(giver, taker, number, came_from)
                        return taker
                    queue.append(number)
        seen_topics |= topics
        return set(came_from)

    def _move(
        self, giver: str, taker: str, number: int, came_from: Mapping[int, tuple[int | None, bytes]]
    ) -> None:
        receiver = taker
        source, topic_id = came_from[number]
        while source is not None:
            between = next(iter(self._holders[source][topic_id]))
            self._take(receiver, topic_id, self._give(between, topic_id))
            receiver = between
            source, topic_id = came_from[source]
        self._take(receiver, topic_id, self._give(giver, topic_id))
        self._add_load(giver, -1)
        self._add_load(taker, 1)

    def shares(self) -> dict[str, Assignment]:
        """Who has what."""
        return {
            member_id: {topic_id: frozenset(indexes) for topic_id, indexes in held.items()}
            for member_id, held in self._held.items()
        }


def _all(partition_counts: Mapping[bytes, int]) -> Iterator[Partition]:
    for topic_id in sorted(partition_counts):
        for index in range(partition_counts[topic_id]):
            yield topic_id, index


def _sorted(assignment: Assignment) -> list[Partition]:
    return sorted((topic_id, index) for topic_id, indexes in assignment.items() for index in indexes)


def _by_topic(partitions: Iterable[Partition]) -> Assignment:
    shares: dict[bytes, set[int]] = {}
    for topic_id, index in partitions:
        shares.setdefault(topic_id, set()).add(index)
    return {topic_id: frozenset(indexes) for topic_id, indexes in shares.items()}


ASSIGNORS: Mapping[str, Assignor] = {"uniform": assign_uniform, "range": assign_range}
"""By the name that members ask with and that `group.consumer.assignors` lists."""
