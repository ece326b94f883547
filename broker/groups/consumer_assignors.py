"""The assignors that run on the broker: `uniform` and `range` (KIP-848).

Owns who gets which partition of what the members of a group are subscribed to. Pure: the same input gives the same output, in whatever
order the members came. Knows no epochs and no ownership: the result is a target, and the machine walks towards it.

`uniform` is balanced and sticky. Where all want the same topics, the numbers of partitions differ by at most one and no partition moves
that balance does not force to move. Where they want different topics, no chain of moves could make it more balanced.
`range` gives each member of a topic a run of neighbouring partitions, the same ones in every topic that has as many partitions and
members; it is not sticky.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

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
    for topic_id, count in partition_counts.items():
        subscribers = [member_id for member_id in order if topic_id in members[member_id].topic_ids]
        begin = 0
        for place, member_id in enumerate(subscribers):
            size = count // len(subscribers) + (place < count % len(subscribers))
            if size:
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
    else:
        _fill_least_loaded(kept, free, members)
        _level(kept, members)
    return {member_id: _by_topic(partitions) for member_id, partitions in kept.items()}


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


def _fill_least_loaded(
    kept: dict[str, list[Partition]], free: Sequence[Partition], members: Mapping[str, AssignedMember]
) -> None:
    """Each free partition to the one of its subscribers that has least; those with few subscribers first."""
    subscribers = _subscribers(members)
    for topic_id, index in sorted(free, key=lambda partition: (len(subscribers[partition[0]]), partition)):
        taker = min(subscribers[topic_id], key=lambda member_id: (len(kept[member_id]), member_id))
        kept[taker].append((topic_id, index))


def _level(kept: dict[str, list[Partition]], members: Mapping[str, AssignedMember]) -> None:
    """Move partitions along chains of members until nobody is connected to somebody who has two fewer.

    Each chain takes one partition from its first member and gives one to its last: the sum of the squares falls, so it ends, and an
    assignment without such a chain is the most balanced that there is.
    """
    subscribers = _subscribers(members)
    order = deque(sorted(kept, key=lambda member_id: (-len(kept[member_id]), member_id)))
    while order:
        giver = order[0]
        chain = _chain(giver, kept, subscribers)
        if chain is None:
            order.popleft()
            continue
        for source, topic_id, taker in chain:
            partition = max(partition for partition in kept[source] if partition[0] == topic_id)
            kept[source].remove(partition)
            kept[taker].append(partition)
        order = deque(sorted(kept, key=lambda member_id: (-len(kept[member_id]), member_id)))


def _chain(
    giver: str, kept: Mapping[str, Sequence[Partition]], subscribers: Mapping[bytes, Sequence[str]]
) -> list[tuple[str, bytes, str]] | None:
    """The shortest chain of (source, topic, taker) from `giver` to a member that has at least two fewer."""
    enough = len(kept[giver]) - 2
    came_from: dict[str, tuple[str, bytes]] = {}
    seen_topics: set[bytes] = set()
    queue = deque([giver])
    while queue:
        source = queue.popleft()
        for topic_id in sorted({partition[0] for partition in kept[source]} - seen_topics):
            seen_topics.add(topic_id)
            for taker in subscribers[topic_id]:
                if taker == giver or taker in came_from:
                    continue
                came_from[taker] = (source, topic_id)
                if len(kept[taker]) <= enough:
                    return _walk_back(taker, giver, came_from)
                queue.append(taker)
    return None


def _walk_back(
    last: str, giver: str, came_from: Mapping[str, tuple[str, bytes]]
) -> list[tuple[str, bytes, str]]:
    chain: list[tuple[str, bytes, str]] = []
    taker = last
    while taker != giver:
        source, topic_id = came_from[taker]
        chain.append((source, topic_id, taker))
        taker = source
    return chain


def _subscribers(members: Mapping[str, AssignedMember]) -> dict[bytes, list[str]]:
    subscribers: dict[bytes, list[str]] = {}
    for member_id in sorted(members):
        for topic_id in members[member_id].topic_ids:
            subscribers.setdefault(topic_id, []).append(member_id)
    return subscribers


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
