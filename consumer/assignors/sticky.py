"""`sticky` and `cooperative-sticky`: as even as can be, and everybody keeps what can be kept.

Owns the algorithm; the wire is that of Java's StickyAssignor and CooperativeStickyAssignor, so that members of other clients may lead or follow.

How: a partition's owner is who claims it with the highest generation (two claims of the same generation: nobody, as in Java). Where all
subscriptions are equal, each member keeps up to its share and the rest is dealt out: no assignment that is as even moves less. Otherwise what
nobody has goes to the least loaded subscriber, and then single partitions go from more to less loaded members while that evens out.

Invariants: with equal subscriptions, shares differ by at most one. `cooperative-sticky` never gives a partition to a member while another one
claims it, of whatever generation: that other one loses it first, joins again, and the partition is given then (KIP-429).
"""

from collections import Counter, deque
from collections.abc import Collection, Iterable, Mapping

from penstock.client.metadata import TopicPartition
from penstock.consumer.assignors.assignor import Assignment, GroupSubscription, subscribers_by_topic
from penstock.protocol.consumer_protocol import (
    NO_GENERATION,
    ConsumerSubscription,
    StickyUserData,
    decode_generation,
    decode_sticky_user_data,
    encode_generation,
    encode_sticky_user_data,
)

Claims = Mapping[str, tuple[int, frozenset[TopicPartition]]]
"""What each member says that it had, and in which generation."""


class StickyAssignor:
    """Eager: members say in their user data what they had."""

    name = "sticky"
    is_cooperative = False

    def user_data(self, last_assignment: Collection[TopicPartition], generation: int) -> bytes | None:
        """The last assignment and its generation; None where there was none."""
        if generation == NO_GENERATION:
            return None
        return encode_sticky_user_data(StickyUserData(tuple(last_assignment), generation))

    def assign(self, group: GroupSubscription, partition_counts: Mapping[str, int]) -> Assignment:
        """Even, with as few moves as need be."""
        claims = {member_id: self._claim(member) for member_id, member in group.members.items()}
        return assign_stickily(group, partition_counts, claims)

    def _claim(self, member: ConsumerSubscription) -> tuple[int, frozenset[TopicPartition]]:
        told = decode_sticky_user_data(member.user_data)
        return told.generation, frozenset(TopicPartition(*partition) for partition in told.partitions)


class CooperativeStickyAssignor:
    """Cooperative: members say in their subscription what they own, and keep it while they join."""

    name = "cooperative-sticky"
    is_cooperative = True

    def user_data(self, last_assignment: Collection[TopicPartition], generation: int) -> bytes | None:
        """The generation, for leaders that do not look into the subscription for it."""
        return encode_generation(generation)

    def assign(self, group: GroupSubscription, partition_counts: Mapping[str, int]) -> Assignment:
        """As `sticky`, without the partitions that are to change hands and are not free yet."""
        claims = {member_id: self._claim(member) for member_id, member in group.members.items()}
        aim = assign_stickily(group, partition_counts, claims)
        claimants = Counter(partition for _, claimed in claims.values() for partition in claimed)
        return {
            member_id: [
                partition
                for partition in partitions
                if partition in claims[member_id][1] or not claimants[partition]
            ]
            for member_id, partitions in aim.items()
        }

    def _claim(self, member: ConsumerSubscription) -> tuple[int, frozenset[TopicPartition]]:
        generation = member.generation
        if generation == NO_GENERATION:
            generation = decode_generation(member.user_data)
        return generation, frozenset(TopicPartition(*partition) for partition in member.owned)


def assign_stickily(
    group: GroupSubscription, partition_counts: Mapping[str, int], claims: Claims
) -> dict[str, list[TopicPartition]]:
    """The algorithm of both."""
    subscribers = subscribers_by_topic(group, partition_counts)
    everything = [
        TopicPartition(topic, index) for topic in subscribers for index in range(partition_counts[topic])
    ]
    kept = _kept(group, set(everything), claims)
    members = group.in_order(group.members)
    if len({frozenset(group.members[member_id].topics) for member_id in members}) <= 1:
        shares = _evenly(members, everything, kept)
    else:
        shares = _by_load(members, everything, kept, subscribers)
    return {member_id: sorted(shares[member_id]) for member_id in members}


def _kept(
    group: GroupSubscription, existing: set[TopicPartition], claims: Claims
) -> dict[str, list[TopicPartition]]:
    """What each member may keep: what it claims best, exists, and it is still subscribed to. Sorted."""
    best: dict[TopicPartition, tuple[int, str | None]] = {}
    for member_id, (generation, claimed) in claims.items():
        for partition in claimed & existing:
            other = best.get(partition)
            if other is None or other[0] < generation:
                best[partition] = (generation, member_id)
            elif other[0] == generation:
                best[partition] = (generation, None)
    kept: dict[str, list[TopicPartition]] = {member_id: [] for member_id in group.members}
    for partition in sorted(best):
        owner = best[partition][1]
        if owner is not None and partition.topic in group.members[owner].topics:
            kept[owner].append(partition)
    return kept


def _evenly(
    members: list[str], everything: list[TopicPartition], kept: Mapping[str, list[TopicPartition]]
) -> dict[str, list[TopicPartition]]:
    """Equal subscriptions: the larger shares go to those who can fill them with what they have."""
    if not members:
        return {}
    share, larger_count = divmod(len(everything), len(members))
    by_wealth = sorted(members, key=lambda member_id: -len(kept[member_id]))
    quotas = {member_id: share + (place < larger_count) for place, member_id in enumerate(by_wealth)}
    shares = {member_id: kept[member_id][: quotas[member_id]] for member_id in members}
    free = deque(_without(everything, shares.values()))
    open_places = [member_id for member_id in members if len(shares[member_id]) < quotas[member_id]]
    while free:
        # In turns, so that the partitions of one topic spread over the members.
        for member_id in open_places:
            if free:
                shares[member_id].append(free.popleft())
        open_places = [member_id for member_id in open_places if len(shares[member_id]) < quotas[member_id]]
    return shares


def _by_load(
    members: list[str],
    everything: list[TopicPartition],
    kept: Mapping[str, list[TopicPartition]],
    subscribers: Mapping[str, list[str]],
) -> dict[str, list[TopicPartition]]:
    """Unequal subscriptions."""
    shares = {member_id: list(kept[member_id]) for member_id in members}
    free = _without(everything, shares.values())
    # Who can go to few members first, so that the others can still even it out.
    for partition in sorted(free, key=lambda partition: len(subscribers[partition.topic])):
        least = min(subscribers[partition.topic], key=lambda member_id: len(shares[member_id]))
        shares[least].append(partition)
    places = {topic: frozenset(of_topic) for topic, of_topic in subscribers.items()}
    while _move_one(members, shares, places):
        pass
    return shares


def _move_one(
    members: list[str],
    shares: dict[str, list[TopicPartition]],
    subscribers: Mapping[str, frozenset[str]],
) -> bool:
    """Move one partition from a more to a less loaded member, newest first. False when nothing evens out any more.

    The sum of the squares of the loads falls with each move: it ends.
    """
    by_load = sorted(members, key=lambda member_id: len(shares[member_id]))
    for giver in reversed(by_load):
        for taker in by_load:
            if len(shares[giver]) - len(shares[taker]) < 2:
                break
            for place in reversed(range(len(shares[giver]))):
                if taker in subscribers[shares[giver][place].topic]:
                    shares[taker].append(shares[giver].pop(place))
                    return True
    return False


def _without(
    everything: list[TopicPartition], taken: Iterable[Iterable[TopicPartition]]
) -> list[TopicPartition]:
    gone = {partition for partitions in taken for partition in partitions}
    return [partition for partition in everything if partition not in gone]


__all__ = ["CooperativeStickyAssignor", "StickyAssignor", "assign_stickily"]
