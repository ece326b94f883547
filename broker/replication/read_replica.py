"""Which replica a consumer should read: one in its own rack, if that has what it asks for (KIP-392).

Only members of the ISR are named, and only where their log has reached the fetch offset: nobody is sent where it would have to wait.
Pure. Source: Kafka's `RackAwareReplicaSelector` and `Partition.findPreferredReadReplica`.
"""

from penstock.broker.image import ClusterImage
from penstock.broker.partition_machine import PartitionMachine

NO_PREFERENCE = -1


def preferred_read_replica(
    machine: PartitionMachine, image: ClusterImage, rack: str, fetch_offset: int
) -> int:
    """The broker id of a follower to read, or -1: read here, where the partition is led.

    Of several in the rack the one that has most; the leader, when it is in the rack itself.
    """
    here = image.brokers.get(machine.broker_id)
    if here is not None and here.rack == rack:
        return NO_PREFERENCE
    best, best_end = NO_PREFERENCE, fetch_offset - 1
    for broker_id in machine.isr:
        known = image.brokers.get(broker_id)
        follower = machine.follower(broker_id)
        if known is None or follower is None or known.rack != rack or known.is_fenced:
            continue
        if follower.broker_epoch == known.create_revision and follower.end_offset > best_end:
            best, best_end = broker_id, follower.end_offset
    return best


__all__ = ["NO_PREFERENCE", "preferred_read_replica"]
