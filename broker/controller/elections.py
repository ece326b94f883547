"""Who leads a partition, and who is in sync, after brokers came or went. Pure.

Owns the rules of an election. Knows neither the store nor which partitions there are: one state goes in, another comes out. Sources: Kafka's
`PartitionChangeBuilder` and `ReplicationControlManager`, KIP-966.

Invariants (PROPERTIES D4, D6; a model over random histories holds them):

- Another leader, or none, comes with a higher leader epoch; the same leader keeps its epoch.
- A leader that is fit stays, unless the first replica is asked for. Another is taken from the live and unfenced of the ISR; where there is none, of the eligible leader replicas; and only where the topic
  allows an unclean election, of all replicas. Else the partition has no leader.
- The ISR is never empty. Members that are dead or fenced leave it only while there is a leader, so that whoever comes back first can lead,
  also after all have died at once.
"""

import enum
from collections.abc import Iterable
from dataclasses import dataclass, replace

from penstock.broker.image import BrokerImage
from penstock.broker.isr import with_isr
from penstock.broker.keys import NO_LEADER, PartitionState


class Election(enum.Enum):
    """What is asked of an election beyond a leader that is fit."""

    ANY = "keep a leader that is fit"
    PREFERRED = "the first replica, if it may lead"
    UNCLEAN = "any live replica rather than none"


@dataclass(frozen=True, slots=True)
class Members:
    """The brokers of the cluster: who has registered, and who of these may lead."""

    live: frozenset[int]
    fit: frozenset[int]

    @classmethod
    def of(cls, brokers: Iterable[BrokerImage]) -> "Members":
        """From the image's brokers."""
        known = tuple(brokers)
        return cls(
            frozenset(broker.node_id for broker in known),
            frozenset(broker.node_id for broker in known if not broker.is_fenced),
        )


@dataclass(frozen=True, slots=True)
class Rules:
    """What a topic's configs say about its leaders."""

    min_insync_replicas: int = 1
    is_unclean_allowed: bool = False


def settled(
    state: PartitionState, members: Members, rules: Rules, election: Election = Election.ANY
) -> PartitionState:
    """The state as it should be with these brokers; equal where nothing is to change. Leader epochs are `numbered`'s."""
    changed = _with_leader(state, members, rules, election)
    changed = _without_the_unfit(changed, members, rules)
    return _without_surplus_eligible(changed, rules)


def numbered(old: PartitionState, new: PartitionState) -> PartitionState:
    """What may be stored over `old`: another leader, or none, has the next leader epoch."""
    return replace(new, leader_epoch=old.leader_epoch + (new.leader != old.leader))


def is_preferred_possible(state: PartitionState, members: Members) -> bool:
    """Whether the first replica does not lead, but could."""
    preferred = state.replicas[0]
    return state.leader != preferred and preferred in state.isr and preferred in members.fit


def _with_leader(state: PartitionState, members: Members, rules: Rules, election: Election) -> PartitionState:
    if election is Election.PREFERRED and is_preferred_possible(state, members):
        return replace(state, leader=state.replicas[0])
    if state.leader in members.fit:
        return state
    in_sync = _first_fit(state.replicas, state.isr, members)
    if in_sync is not None:
        return replace(state, leader=in_sync)
    if state.leader in members.live:
        return state  # about to stop, and nobody can take over what it has: until then it may as well lead
    eligible = _first_fit(state.replicas, state.eligible_leader_replicas, members)
    if eligible is not None:
        alone = with_isr(state, (eligible,), min_insync_replicas=rules.min_insync_replicas)
        return replace(alone, leader=eligible)
    if rules.is_unclean_allowed or election is Election.UNCLEAN:
        unclean = _first_fit(state.replicas, state.replicas, members)
        if unclean is not None:
            return replace(state, isr=(unclean,), eligible_leader_replicas=(), leader=unclean)
    return replace(state, leader=NO_LEADER)


def _first_fit(order: Iterable[int], group: Iterable[int], members: Members) -> int | None:
    wanted = members.fit.intersection(group)
    return next((node_id for node_id in order if node_id in wanted), None)


def _without_the_unfit(state: PartitionState, members: Members, rules: Rules) -> PartitionState:
    if state.leader == NO_LEADER or members.fit.issuperset(state.isr):
        return state
    remaining = [i for i in state.isr if i in members.fit or i == state.leader]
    return with_isr(state, remaining, min_insync_replicas=rules.min_insync_replicas)


def _without_surplus_eligible(state: PartitionState, rules: Rules) -> PartitionState:
    """Empties what a lowered min.insync.replicas has made needless: as long as it is stored, the leader commits nothing."""
    if not state.eligible_leader_replicas:
        return state
    return with_isr(state, state.isr, min_insync_replicas=rules.min_insync_replicas)
