"""Plans for replicas and leaders: whatever a cluster looks like, nothing is lost, racks are kept, all is even, and no more moves than must."""

from collections import Counter
from collections.abc import Iterable, Mapping

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.support.examples import examples

from penstock.cli.cluster_plan import Placement, Plan, PlanImpossible, Replicas, drain, rebalance
from penstock.client.metadata import TopicPartition

TRIED = settings(max_examples=examples(250), deadline=None)


@st.composite
def placements(draw: st.DrawFn, *, with_racks: bool, gone: bool = False) -> Placement:
    broker_count = draw(st.integers(1, 7))
    racks = {
        node_id: draw(st.sampled_from(["a", "b", "c", None])) if with_racks else None
        for node_id in range(1, broker_count + 1)
    }
    others = [101, 102] if gone else []
    partitions: dict[TopicPartition, Replicas] = {}
    for topic in draw(st.lists(st.sampled_from("tuv"), unique=True)):
        factor = draw(st.integers(1, min(4, broker_count)))
        crowded = draw(st.booleans())
        pool = sorted(racks)[: max(factor, 2)] if crowded else [*racks, *others]
        for index in range(draw(st.integers(1, 12))):
            chosen = draw(st.permutations(pool))[:factor]
            partitions[TopicPartition(topic, index)] = tuple(chosen)
    sizes = {partition: draw(st.integers(0, 1000)) for partition in partitions}
    return Placement(racks, partitions, sizes)


def after(placement: Placement, plan: Plan) -> Mapping[TopicPartition, Replicas]:
    return {**placement.partitions, **plan}


def held(partitions: Mapping[TopicPartition, Replicas], node_ids: Iterable[int]) -> list[int]:
    counts = Counter(node_id for replicas in partitions.values() for node_id in replicas)
    return [counts[node_id] for node_id in node_ids]


def led(partitions: Mapping[TopicPartition, Replicas], node_ids: Iterable[int]) -> list[int]:
    counts = Counter(replicas[0] for replicas in partitions.values())
    return [counts[node_id] for node_id in node_ids]


def rack_count(placement: Placement, replicas: Replicas) -> int:
    return len({placement.racks[node_id] or node_id for node_id in replicas if node_id in placement.racks})


def moved_count(placement: Placement, plan: Plan) -> int:
    return sum(len(set(plan[each]) - set(placement.partitions[each])) for each in plan)


def check_nothing_is_lost(placement: Placement, plan: Plan) -> None:
    for partition, replicas in plan.items():
        assert len(replicas) == len(placement.partitions[partition])
        assert len(set(replicas)) == len(replicas)
        assert set(replicas) - set(placement.partitions[partition]) <= set(placement.racks)


@TRIED
@given(placements(with_racks=False))
def test_without_racks_brokers_differ_by_more_than_one_or_more_moves_than_must(placement: Placement) -> None:
    plan = rebalance(placement)
    check_nothing_is_lost(placement, plan)
    counts = held(after(placement, plan), placement.racks)
    assert max(counts) - min(counts) <= 1
    before = sorted(held(placement.partitions, placement.racks), reverse=True)
    least, with_one_more = divmod(sum(before), len(before))
    allowed = [least + (index < with_one_more) for index in range(len(before))]
    assert moved_count(placement, plan) == sum(max(0, b - a) for b, a in zip(before, allowed, strict=True))
    leads = led(after(placement, plan), placement.racks)
    assert max(leads) - min(leads) <= 1 or not could_lead_more_evenly(after(placement, plan), placement.racks)


def could_lead_more_evenly(partitions: Mapping[TopicPartition, Replicas], node_ids: Iterable[int]) -> bool:
    """Whether changing the leaders of a chain of partitions would help: by trying all that a broker could hand on."""
    leads = Counter(replicas[0] for replicas in partitions.values())
    reach = {node_id: {node_id} for node_id in node_ids}
    for _ in reach:
        for replicas in partitions.values():
            for reached in reach.values():
                if replicas[0] in reached:
                    reached.update(replicas)
    return any(leads[a] >= leads[b] + 2 for a, reached in reach.items() for b in reached)


@TRIED
@given(placements(with_racks=True, gone=True))
def test_a_partition_stands_in_fewer_racks_than_it_could(placement: Placement) -> None:
    plan = rebalance(placement)
    check_nothing_is_lost(placement, plan)
    racks = len({rack or node_id for node_id, rack in placement.racks.items()})
    for replicas in after(placement, plan).values():
        assert set(replicas) <= set(placement.racks)
        assert rack_count(placement, replicas) == min(len(replicas), racks)


@TRIED
@given(placements(with_racks=True, gone=True))
def test_a_second_plan_finds_more_to_do(placement: Placement) -> None:
    balanced = Placement(placement.racks, after(placement, rebalance(placement)), placement.sizes_bytes)
    assert rebalance(balanced) == {}


@TRIED
@given(placements(with_racks=True, gone=True), st.integers(1, 7))
def test_a_drain_leaves_a_replica_moves_another_or_gives_up_a_rack(
    placement: Placement, node_id: int
) -> None:
    try:
        plan = drain(placement, node_id)
    except PlanImpossible:
        rest = set(placement.racks) - {node_id}
        assert any(
            node_id in replicas and rest <= set(replicas) for replicas in placement.partitions.values()
        )
        return
    check_nothing_is_lost(placement, plan)
    assert set(plan) == {each for each, replicas in placement.partitions.items() if node_id in replicas}
    assert moved_count(placement, plan) == len(plan)
    racks = len({rack or other for other, rack in placement.racks.items() if other != node_id})
    for partition, replicas in plan.items():
        assert node_id not in replicas
        before = rack_count(placement, placement.partitions[partition])
        assert rack_count(placement, replicas) >= min(before, racks)


def test_too_few_brokers_are_not_told() -> None:
    placement = Placement({1: None, 2: None}, {TopicPartition("t", 0): (1, 2)})
    with pytest.raises(PlanImpossible, match="t-0 has 2 replicas, and there would be 1 brokers for them"):
        drain(placement, 2)


def test_a_large_replica_moves_where_a_small_one_would_do() -> None:
    one, two = TopicPartition("t", 0), TopicPartition("t", 1)
    placement = Placement({1: None, 2: None}, {one: (1,), two: (1,)}, {one: 1000, two: 10})
    assert rebalance(placement) == {two: (2,)}


def test_a_topic_crowds_one_broker_though_another_could_give() -> None:
    partitions = {TopicPartition("z", index): (1,) for index in range(2)}
    partitions |= {TopicPartition("b", 0): (1,), TopicPartition("b", 1): (2,), TopicPartition("c", 0): (1,)}
    (moved,) = rebalance(Placement({1: None, 2: None}, partitions))
    assert moved.topic == "z"
