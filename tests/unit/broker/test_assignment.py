"""Replica assignment: spread evenly, no replica twice."""

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from penstock.broker.assignment import assign_replicas


def test_one_broker_gets_everything() -> None:
    assert assign_replicas(3, 1, {7: None}, start=0) == [(7,), (7,), (7,)]


@given(st.integers(1, 40), st.integers(1, 6), st.integers(0, 5), st.data())
def test_leaders_are_spread_and_replicas_differ(
    partition_count: int, broker_count: int, start: int, data: st.DataObject
) -> None:
    factor = data.draw(st.integers(1, broker_count))
    node_ids = list(range(10, 10 + broker_count))
    assignments = assign_replicas(
        partition_count, factor, dict.fromkeys(node_ids), start=start % broker_count
    )
    assert len(assignments) == partition_count
    for replicas in assignments:
        assert len(replicas) == len(set(replicas)) == factor
        assert set(replicas) <= set(node_ids)
    leaders = Counter(replicas[0] for replicas in assignments)
    assert max(leaders.values()) - min(leaders.get(node_id, 0) for node_id in node_ids) <= 1


def test_followers_of_one_leader_differ_from_round_to_round() -> None:
    assignments = assign_replicas(6, 2, dict.fromkeys((1, 2, 3)), start=0)
    followers = {replicas[1] for replicas in assignments if replicas[0] == 1}
    assert followers == {2, 3}


def test_added_partitions_go_on_where_the_first_ones_ended() -> None:
    assert assign_replicas(4, 2, dict.fromkeys((1, 2, 3)), start=0)[2:] == assign_replicas(
        2, 2, dict.fromkeys((1, 2, 3)), start=0, first_index=2
    )


# Racks.


def test_racks_give_what_kafka_documents() -> None:
    racks = {0: "rack1", 1: "rack3", 2: "rack3", 3: "rack2", 4: "rack2", 5: "rack1"}
    assert assign_replicas(12, 3, racks, start=0) == [
        (0, 3, 1),
        (3, 1, 5),
        (1, 5, 4),
        (5, 4, 2),
        (4, 2, 0),
        (2, 0, 3),
        (0, 4, 2),
        (3, 2, 0),
        (1, 0, 3),
        (5, 3, 1),
        (4, 1, 5),
        (2, 5, 4),
    ], "the example in the comment of AdminUtils"


def test_brokers_without_a_rack_make_all_racks_count_for_nothing() -> None:
    mixed: dict[int, str | None] = {1: "a", 2: "a", 3: None}
    assert assign_replicas(6, 2, mixed, start=0) == assign_replicas(6, 2, dict.fromkeys(mixed), start=0)


@given(
    st.lists(st.sampled_from("abcd"), min_size=1, max_size=9),
    st.integers(1, 40),
    st.integers(0, 8),
    st.data(),
)
def test_a_partition_is_twice_in_a_rack_only_if_it_is_in_all(
    rack_of: list[str], partition_count: int, start: int, data: st.DataObject
) -> None:
    racks: dict[int, str | None] = dict(enumerate(rack_of))
    factor = data.draw(st.integers(1, len(racks)))
    rack_count = len(set(rack_of))
    assignments = assign_replicas(partition_count, factor, racks, start=start % len(racks))
    for replicas in assignments:
        assert len(set(replicas)) == factor
        assert len({racks[node_id] for node_id in replicas}) == min(factor, rack_count)
    leaders = Counter(replicas[0] for replicas in assignments)
    assert max(leaders.values()) - min(leaders.get(node_id, 0) for node_id in racks) <= 1
