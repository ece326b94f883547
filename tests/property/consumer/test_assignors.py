"""What every assignor must hold for any group, and what the sticky ones hold over several generations."""

from collections.abc import Mapping

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.support.examples import examples

from penstock.client.metadata import TopicPartition
from penstock.consumer.assignors.assignor import Assignment, Assignor, GroupSubscription
from penstock.consumer.assignors.range_assignor import RangeAssignor
from penstock.consumer.assignors.round_robin import RoundRobinAssignor
from penstock.consumer.assignors.sticky import CooperativeStickyAssignor, StickyAssignor
from penstock.protocol.consumer_protocol import ConsumerSubscription

TOPICS = ["t0", "t1", "t2", "t3"]
STICKY, COOPERATIVE = StickyAssignor(), CooperativeStickyAssignor()
ALL: list[Assignor] = [RangeAssignor(), RoundRobinAssignor(), STICKY, COOPERATIVE]

counts_of_topics = st.dictionaries(st.sampled_from(TOPICS), st.integers(0, 9))
member_ids = st.sampled_from([f"m{number}" for number in range(8)])
any_subscriptions = st.dictionaries(member_ids, st.sets(st.sampled_from(TOPICS)), min_size=1)
Subscriptions = Mapping[str, set[str]]
Owned = Mapping[str, frozenset[TopicPartition]]


def everything(counts: Mapping[str, int], topics: set[str]) -> set[TopicPartition]:
    return {TopicPartition(topic, index) for topic in topics for index in range(counts.get(topic, 0))}


def topics_of(subscriptions: Subscriptions) -> set[str]:
    return {topic for topics in subscriptions.values() for topic in topics}


def group_of(
    subscriptions: Subscriptions, owned: Owned, assignor: Assignor, generation: int = 1
) -> GroupSubscription:
    """The members as they join: cooperative ones tell what they own, sticky ones what they had."""
    return GroupSubscription(
        {
            member_id: ConsumerSubscription(
                tuple(topics),
                assignor.user_data(owned.get(member_id, frozenset()), generation),
                tuple(owned.get(member_id, ())) if assignor.is_cooperative else (),
                generation if assignor.is_cooperative else -1,
            )
            for member_id, topics in subscriptions.items()
        }
    )


def frozen(assignment: Assignment) -> dict[str, frozenset[TopicPartition]]:
    return {member_id: frozenset(partitions) for member_id, partitions in assignment.items()}


def check_valid(
    assignment: Assignment, subscriptions: Subscriptions, *, expected: set[TopicPartition]
) -> None:
    assert assignment.keys() == subscriptions.keys()
    given_out = [partition for partitions in assignment.values() for partition in partitions]
    assert len(given_out) == len(set(given_out)), "a partition was given twice"
    assert set(given_out) == expected
    for member_id, partitions in assignment.items():
        assert {partition.topic for partition in partitions} <= subscriptions[member_id]


def settle(subscriptions: Subscriptions, counts: Mapping[str, int], owned: Owned) -> tuple[Owned, int]:
    """Cooperative steps until nothing moves any more; each must be safe. Returns the outcome and the number of steps."""
    for step in range(1, 10):
        outcome = frozen(COOPERATIVE.assign(group_of(subscriptions, owned, COOPERATIVE, step), counts))
        for member_id, partitions in outcome.items():
            for other, theirs in owned.items():
                assert other == member_id or not (partitions - owned.get(member_id, frozenset())) & theirs
        if outcome == owned:
            return outcome, step
        owned = outcome
    raise AssertionError("it does not come to rest")


@pytest.mark.parametrize("assignor", ALL, ids=lambda assignor: str(assignor.name))
@given(subscriptions=any_subscriptions, counts=counts_of_topics)
def test_each_partition_goes_to_one_subscriber(
    assignor: Assignor, subscriptions: dict[str, set[str]], counts: dict[str, int]
) -> None:
    found = assignor.assign(group_of(subscriptions, {}, assignor), counts)
    check_valid(found, subscriptions, expected=everything(counts, topics_of(subscriptions)))
    # The leader's order of members is chance, and must not matter.
    backwards = dict(reversed(list(subscriptions.items())))
    assert assignor.assign(group_of(backwards, {}, assignor), counts) == found


@given(names=st.sets(member_ids, min_size=1), counts=counts_of_topics, data=st.data())
def test_with_equal_subscriptions_shares_differ_by_one_at_most_and_nothing_moves_in_vain(
    names: set[str], counts: dict[str, int], data: st.DataObject
) -> None:
    before = frozen(STICKY.assign(group_of({key: set(TOPICS) for key in names}, {}, STICKY), counts))
    after_names = data.draw(st.sets(member_ids, min_size=1))
    found = frozen(STICKY.assign(group_of({key: set(TOPICS) for key in after_names}, before, STICKY), counts))
    sizes = [len(partitions) for partitions in found.values()]
    assert max(sizes) - min(sizes) <= 1
    # The most that can be kept: the members with the most are given the larger shares.
    share, larger = divmod(sum(sizes), len(sizes))
    had = sorted((len(before.get(name, frozenset())) for name in after_names), reverse=True)
    can_keep = sum(min(count, share + (place < larger)) for place, count in enumerate(had))
    kept = sum(len(found[name] & before.get(name, frozenset())) for name in after_names)
    assert kept == can_keep


@given(subscriptions=any_subscriptions, counts=counts_of_topics, data=st.data())
def test_with_unequal_subscriptions_no_single_move_evens_anything_out(
    subscriptions: dict[str, set[str]], counts: dict[str, int], data: st.DataObject
) -> None:
    before = frozen(STICKY.assign(group_of(data.draw(any_subscriptions), {}, STICKY), counts))
    found = STICKY.assign(group_of(subscriptions, before, STICKY), counts)
    check_valid(found, subscriptions, expected=everything(counts, topics_of(subscriptions)))
    for giver, partitions in found.items():
        for taker, topics in subscriptions.items():
            if any(partition.topic in topics for partition in partitions):
                assert len(partitions) - len(found[taker]) <= 1, f"{giver} could give to {taker}"


@given(subscriptions=any_subscriptions, counts=counts_of_topics)
def test_an_unchanged_group_keeps_everything(
    subscriptions: dict[str, set[str]], counts: dict[str, int]
) -> None:
    before = frozen(STICKY.assign(group_of(subscriptions, {}, STICKY), counts))
    assert frozen(STICKY.assign(group_of(subscriptions, before, STICKY), counts)) == before


@settings(max_examples=examples(200))
@given(
    first=any_subscriptions,
    second=any_subscriptions,
    counts=counts_of_topics,
    later_counts=counts_of_topics,
)
def test_cooperative_members_never_hand_over_in_one_step_and_come_to_rest(
    first: dict[str, set[str]],
    second: dict[str, set[str]],
    counts: dict[str, int],
    later_counts: dict[str, int],
) -> None:
    owned, _ = settle(first, counts, {})
    # Members keep what they have of topics that they are still subscribed to; who left has nothing.
    owned = {
        member_id: frozenset(tp for tp in owned.get(member_id, ()) if tp.topic in topics)
        for member_id, topics in second.items()
    }
    counts = {topic: max(count, later_counts.get(topic, 0)) for topic, count in counts.items()}
    outcome, steps = settle(second, counts, owned)
    given_out = {partition for partitions in outcome.values() for partition in partitions}
    assert given_out == everything(counts, topics_of(second))
    if len({frozenset(topics) for topics in second.values()}) == 1:
        sizes = [len(partitions) for partitions in outcome.values()]
        assert max(sizes) - min(sizes) <= 1
        assert steps <= 3, "one step to give up, one to take, one in which nothing changes"


@given(
    generations=st.tuples(st.integers(-1, 3), st.integers(-1, 3)),
    counts=st.just({"t0": 4}),
)
def test_of_two_claims_the_newer_one_counts(generations: tuple[int, int], counts: dict[str, int]) -> None:
    claimed = frozenset({TopicPartition("t0", 0), TopicPartition("t0", 1)})
    old, new = sorted(generations)
    members = {
        name: ConsumerSubscription(("t0",), STICKY.user_data(claimed, generation))
        for name, generation in (("stale", old), ("recent", new))
    }
    found = frozen(STICKY.assign(GroupSubscription(members), counts))
    assert len(found["stale"]) == len(found["recent"]) == 2
    if old < new:
        assert found["recent"] == claimed


def test_a_partition_that_somebody_claims_of_whatever_generation_is_not_given_to_another() -> None:
    claimed = tuple(TopicPartition("t0", index) for index in range(4))
    members = {
        "stale": ConsumerSubscription(("t0",), None, claimed, 1),
        "recent": ConsumerSubscription(("t0",), None, claimed[:1], 2),
        "fresh": ConsumerSubscription(("t0",), None, (), -1),
    }
    found = frozen(COOPERATIVE.assign(GroupSubscription(members), {"t0": 4}))
    assert found["recent"] == {claimed[0]}, "what it claims itself it keeps"
    assert not found["fresh"], "all the others are still claimed"
