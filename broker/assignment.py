"""Which brokers get the replicas of a new partition. Pure.

Source: Kafka's `AdminUtils.assignReplicasToBrokers`. Leaders go round robin over the brokers from a random one on, and the followers of each
round are shifted one further, so that the load of a dead broker falls on many. Where every broker has a rack, the brokers are taken in
an order that alternates between racks, and a partition has two replicas in one rack only if it has one in each.
"""

from collections.abc import Mapping
from itertools import chain, zip_longest


def assign_replicas(
    partition_count: int,
    replication_factor: int,
    racks: Mapping[int, str | None],
    *,
    start: int,
    first_index: int = 0,
) -> list[tuple[int, ...]]:
    """Replicas for the partitions from `first_index` on, the preferred leader first.

    `racks` has the rack of each broker (None: it has none), at least `replication_factor` of them; `start` (from 0 to their number,
    exclusive) is drawn once for a topic. As in Kafka, racks count only if all brokers have one.
    """
    count = len(racks)
    assert 1 <= replication_factor <= count, (replication_factor, count)
    known = {node_id: rack for node_id, rack in racks.items() if rack is not None}
    if len(known) == count:
        return _assign_by_racks(partition_count, replication_factor, known, start, first_index)
    node_ids = sorted(racks)
    assignments: list[tuple[int, ...]] = []
    for index in range(first_index, first_index + partition_count):
        leader = (start + index) % count
        shift = start + index // count
        followers = (_follower(leader, shift, n, count) for n in range(replication_factor - 1))
        assignments.append((node_ids[leader], *(node_ids[follower] for follower in followers)))
    return assignments


def _follower(leader: int, shift: int, number: int, count: int) -> int:
    """The place of a leader's follower: any but the leader's own, each once as `number` goes from 0 to `count` - 2."""
    return (leader + 1 + (shift + number) % (count - 1)) % count if count > 1 else leader


def _assign_by_racks(
    partition_count: int, replication_factor: int, racks: Mapping[int, str], start: int, first_index: int
) -> list[tuple[int, ...]]:
    node_ids = _alternating(racks)
    count, rack_count = len(node_ids), len(set(racks.values()))
    assignments: list[tuple[int, ...]] = []
    for index in range(first_index, first_index + partition_count):
        leader = (start + index) % count
        shift = (start + index // count) * rack_count
        replicas = [node_ids[leader]]
        used_racks = {racks[replicas[0]]}
        number = 0
        while len(replicas) < replication_factor:
            node_id = node_ids[_follower(leader, shift, number, count)]
            number += 1
            is_new_rack = racks[node_id] not in used_racks
            if node_id not in replicas and (is_new_rack or len(used_racks) == rack_count):
                replicas.append(node_id)
                used_racks.add(racks[node_id])
        assignments.append(tuple(replicas))
    return assignments


def _alternating(racks: Mapping[int, str]) -> list[int]:
    """The brokers, one of each rack in turn."""
    by_rack: dict[str, list[int]] = {}
    for node_id in sorted(racks):
        by_rack.setdefault(racks[node_id], []).append(node_id)
    turns = zip_longest(*(by_rack[rack] for rack in sorted(by_rack)))
    return [node_id for node_id in chain.from_iterable(turns) if node_id is not None]
