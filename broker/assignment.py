"""Which brokers get the replicas of a new partition. Pure.

Source: Kafka's `AdminUtils.assignReplicasToBrokers`, without racks: leaders go round robin over the brokers from a random one on, and the
followers of each round are shifted one further, so that the load of a dead broker falls on many.
"""

from collections.abc import Sequence


def assign_replicas(
    partition_count: int,
    replication_factor: int,
    node_ids: Sequence[int],
    *,
    start: int,
    first_index: int = 0,
) -> list[tuple[int, ...]]:
    """Replicas for the partitions from `first_index` on, the preferred leader first.

    `node_ids` holds at least `replication_factor` different ids; `start` (from 0 to their number, exclusive) is drawn once for a topic.
    """
    count = len(node_ids)
    assert 1 <= replication_factor <= count, (replication_factor, count)
    assignments: list[tuple[int, ...]] = []
    for index in range(first_index, first_index + partition_count):
        leader = (start + index) % count
        shift = start + index // count
        followers = ((leader + 1 + (shift + n) % (count - 1)) % count for n in range(replication_factor - 1))
        assignments.append((node_ids[leader], *(node_ids[follower] for follower in followers)))
    return assignments
