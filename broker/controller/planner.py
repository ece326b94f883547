"""Which partitions need another state now. Pure.

Owns the walk over the image: cheap for partitions that are as they should be, which are nearly all. What a state becomes is decided in
`elections.py` and `reassignments.py`. Does not know whether this broker is the controller, nor how changes are stored.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from penstock.broker.controller.elections import (
    Election,
    Members,
    Rules,
    is_preferred_possible,
    numbered,
    settled,
)
from penstock.broker.controller.reassignments import completed
from penstock.broker.image import ClusterImage, PartitionImage
from penstock.broker.keys import NO_LEADER, PartitionState

RulesOf = Callable[[str], Rules]
"""The rules of a topic, by its name."""


@dataclass(frozen=True, slots=True)
class Change:
    """What a partition is to become, if it still is as it was."""

    partition: PartitionImage
    state: PartitionState

    @property
    def moves_leadership(self) -> bool:
        """Whether clients wait for it."""
        return self.state.leader != self.partition.leader

    @property
    def is_unclean(self) -> bool:
        """Whether the new leader may lack what is committed."""
        known = (NO_LEADER, *self.partition.isr, *self.partition.eligible_leader_replicas)
        return self.moves_leadership and self.state.leader not in known


def next_state(
    state: PartitionState, members: Members, rules: Rules, election: Election = Election.ANY
) -> PartitionState:
    """What a state becomes with these brokers: a move that is done ends, a leader is found, who is gone leaves the ISR."""
    return numbered(state, settled(completed(state, members, rules), members, rules, election))


def plan(
    image: ClusterImage, partitions: Iterable[PartitionImage], members: Members, rules_of: RulesOf
) -> list[Change]:
    """The changes of these partitions, those that move leadership first."""
    changes: list[Change] = []
    for partition in partitions:
        if not _may_need_change(partition, members):
            continue
        topic = image.topic_by_id(partition.topic_id)
        if topic is None:
            continue
        old = partition.state
        new = next_state(old, members, rules_of(topic.name))
        if new != old:
            changes.append(Change(partition, new))
    changes.sort(key=lambda change: not change.moves_leadership)
    return changes


def plan_preferred(
    image: ClusterImage, members: Members, rules_of: RulesOf, *, count_max: int
) -> list[Change]:
    """The changes that give leadership back to first replicas, at most `count_max`."""
    changes: list[Change] = []
    for topic in image.topics.values():
        for partition in image.partitions(topic.topic_id):
            if partition.leader == partition.replicas[0]:
                continue
            old = partition.state
            if is_preferred_possible(old, members):
                changes.append(
                    Change(partition, next_state(old, members, rules_of(topic.name), Election.PREFERRED))
                )
                if len(changes) == count_max:
                    return changes
    return changes


def is_relieved(image: ClusterImage, node_id: int) -> bool:
    """Whether a broker that is about to stop has nothing left to be rid of.

    It leads nothing that another could lead, one that is in sync and not about to stop itself, and no other leader has it in its ISR.
    """
    fit = Members.of(image.brokers.values()).fit
    for topic in image.topics.values():
        for partition in image.partitions(topic.topic_id):
            if partition.leader == node_id:
                if not fit.isdisjoint(partition.isr):
                    return False
            elif node_id in partition.isr and partition.leader in fit:
                return False
    return True


def _may_need_change(partition: PartitionImage, members: Members) -> bool:
    return (
        partition.leader not in members.fit
        or not members.fit.issuperset(partition.isr)
        or bool(partition.adding_replicas)
        or bool(partition.removing_replicas)
        or bool(partition.eligible_leader_replicas)
    )
