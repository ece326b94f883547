"""Replica assignment: spread evenly, no replica twice."""

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from penstock.broker.assignment import assign_replicas


def test_one_broker_gets_everything() -> None:
    assert assign_replicas(3, 1, [7], start=0) == [(7,), (7,), (7,)]


@given(st.integers(1, 40), st.integers(1, 6), st.integers(0, 5), st.data())
def test_leaders_are_spread_and_replicas_differ(
    partition_count: int, broker_count: int, start: int, data: st.DataObject
) -> None:
    factor = data.draw(st.integers(1, broker_count))
    node_ids = list(range(10, 10 + broker_count))
    assignments = assign_replicas(partition_count, factor, node_ids, start=start % broker_count)
    assert len(assignments) == partition_count
    for replicas in assignments:
        assert len(replicas) == len(set(replicas)) == factor
        assert set(replicas) <= set(node_ids)
    leaders = Counter(replicas[0] for replicas in assignments)
    assert max(leaders.values()) - min(leaders.get(node_id, 0) for node_id in node_ids) <= 1


def test_followers_of_one_leader_differ_from_round_to_round() -> None:
    assignments = assign_replicas(6, 2, [1, 2, 3], start=0)
    followers = {replicas[1] for replicas in assignments if replicas[0] == 1}
    assert followers == {2, 3}


def test_added_partitions_go_on_where_the_first_ones_ended() -> None:
    assert assign_replicas(4, 2, [1, 2, 3], start=0)[2:] == assign_replicas(
        2, 2, [1, 2, 3], start=0, first_index=2
    )
