"""What a broker may still be for its partitions when it starts, or when a log of its own has failed. Pure.

Owns the rules by which a broker takes itself out of leadership and out of ISRs. Source: DESIGN section 7, KIP-966 (unclean shutdown).

A replica stays in sync over a restart only if its log can't have lost what it had when it was counted: it was closed cleanly, or the topic
has `write.caching=false`, so that only synced bytes counted; and it is there at all.
"""

from collections.abc import Set as AbstractSet
from dataclasses import dataclass, replace

from penstock.broker.broker_config import BrokerConfig
from penstock.broker.image import ClusterImage
from penstock.broker.keys import NO_LEADER, PartitionState
from penstock.broker.settings import topic_config_for


@dataclass(frozen=True, slots=True)
class Remains:
    """What the data directory held when the broker started."""

    partitions: AbstractSet[tuple[str, int]]
    """Topic and index of every log that is there."""
    was_clean: bool
    """Whether the last stop closed all of them."""

    def may_have_lost(self, config: BrokerConfig, image: ClusterImage, topic: str, index: int) -> bool:
        """Whether a log may lack bytes that counted."""
        if (topic, index) not in self.partitions:
            return True
        return not self.was_clean and topic_config_for(config, image, topic).write_caching


def after_restart(state: PartitionState, node_id: int) -> PartitionState | None:
    """What a partition's state becomes when broker `node_id`, the only one to elect leaders, starts anew; None if it has no part in it.

    Alone in the ISR, it leads on; among others, leadership is theirs to take.
    """
    alone = state.isr == (node_id,)
    if state.leader != node_id and not (alone and state.leader == NO_LEADER):
        return None
    return replace(state, leader=node_id if alone else NO_LEADER, leader_epoch=state.leader_epoch + 1)


def rejoined(state: PartitionState, node_id: int, *, has_lost: bool) -> PartitionState | None:
    """What a partition's state becomes when broker `node_id` of a cluster starts anew; None if it stays. The controller elects its leader."""
    left = without(state, node_id) if has_lost else state
    if left.leader == node_id:
        left = replace(left, leader=NO_LEADER, leader_epoch=left.leader_epoch + 1)
    return None if left == state else left


def without(state: PartitionState, node_id: int) -> PartitionState:
    """The state without a replica whose log can't be trusted: it leads no more, and is neither in sync nor eligible.

    The last member of the ISR gives way to the eligible leader replicas, which have all that is committed. Where there are none
    either, it stays the last: nobody knows better than it.
    """
    eligible = tuple(i for i in state.eligible_leader_replicas if i != node_id)
    isr = tuple(i for i in state.isr if i != node_id)
    if not isr:
        isr, eligible = eligible or state.isr, ()
    leaves = state.leader == node_id
    return replace(
        state,
        isr=isr,
        leader=NO_LEADER if leaves else state.leader,
        leader_epoch=state.leader_epoch + leaves,
        eligible_leader_replicas=eligible,
    )
