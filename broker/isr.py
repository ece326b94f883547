"""What an in-sync replica set becomes, with the eligible leader replicas beside it. Pure.

Owns the one rule of KIP-966 that everybody who changes an ISR must keep (the leader, the controller, a broker that starts), and who may
join one. Source: Kafka's `PartitionChangeBuilder.maybePopulateTargetElr`.

Why it is safe: the high watermark advances only while |ISR| >= min.insync.replicas *and* no eligible leader replica is stored. So whoever is
in `eligible_leader_replicas` has all that is committed, also where two brokers see different values of min.insync.replicas for a moment.
"""

from collections.abc import Collection
from dataclasses import replace

from penstock.broker.image import ClusterImage
from penstock.broker.keys import PartitionState


def effective_min_insync(min_insync_replicas: int, state: PartitionState) -> int:
    """How many in-sync replicas it takes to commit: the config, but never more than there are replicas."""
    return min(min_insync_replicas, len(state.replicas) - len(state.adding_replicas))


def with_isr(state: PartitionState, isr: Collection[int], *, min_insync_replicas: int) -> PartitionState:
    """The state with another ISR, a not empty part of its replicas; the members keep the order of `replicas`.

    Who leaves an ISR that is below min.insync.replicas afterwards stays eligible to lead; when there are enough, nobody else is.
    """
    members = tuple(node_id for node_id in state.replicas if node_id in isr)
    assert 0 < len(members) == len(isr), (state, isr)
    eligible: tuple[int, ...] = ()
    if len(members) < effective_min_insync(min_insync_replicas, state):
        known = {*state.isr, *state.eligible_leader_replicas}
        eligible = tuple(i for i in state.replicas if i in known and i not in members)
    return replace(state, isr=members, eligible_leader_replicas=eligible)


def may_join(image: ClusterImage, broker_id: int, broker_epoch: int) -> bool:
    """Whether a follower may be taken into an ISR: registered with exactly this broker epoch, and not fenced."""
    broker = image.brokers.get(broker_id)
    return broker is not None and broker.create_revision == broker_epoch and not broker.is_fenced
