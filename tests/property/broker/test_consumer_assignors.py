"""The server-side assignors: everything assigned once, as evenly as can be, and nothing moved without need."""

import time
from collections import Counter
from collections.abc import Mapping

import hypothesis.strategies as st
import pytest
from hypothesis import given, settings
from tests.support.consumer_group_members import Partition, flat
from tests.support.examples import examples

from penstock.broker.groups.consumer_assignors import (
    ASSIGNORS,
    AssignedMember,
    Assignor,
    assign_range,
    assign_uniform,
)
from penstock.broker.groups.consumer_group_events import NOTHING, Assignment

TOPICS = [bytes([number]) * 16 for number in range(1, 5)]
COUNTS = st.dictionaries(st.sampled_from(TOPICS), st.integers(1, 9), min_size=1)
MEMBER_IDS = [f"m{number}" for number in range(8)]


@st.composite
def groups(draw: st.DrawFn, *, alike: bool) -> tuple[dict[str, AssignedMember], dict[bytes, int]]:
    """Members and topics; with targets of before that may be anything, also nonsense."""
    counts = draw(COUNTS)
    ids = draw(st.lists(st.sampled_from(MEMBER_IDS), min_size=1, unique=True))
    wanted = st.just(frozenset(counts)) if alike else st.frozensets(st.sampled_from(sorted(counts)))
    places = st.sets(st.tuples(st.sampled_from(TOPICS), st.integers(0, 10)), max_size=12)
    members = {
        member_id: AssignedMember(topic_ids=draw(wanted), target=by_topic(draw(places))) for member_id in ids
    }
    subscribed = {topic_id for member in members.values() for topic_id in member.topic_ids}
    return members, {topic_id: count for topic_id, count in counts.items() if topic_id in subscribed}


def by_topic(places: set[Partition]) -> Assignment:
    """Partitions as an assignment."""
    return {
        topic_id: frozenset(index for topic, index in places if topic == topic_id)
        for topic_id in {topic for topic, _ in places}
    }


def check_complete(
    result: Mapping[str, Assignment], members: Mapping[str, AssignedMember], counts: Mapping[bytes, int]
) -> None:
    """Every partition once, to somebody who wants it."""
    assert result.keys() == members.keys()
    given = Counter(partition for assignment in result.values() for partition in flat(assignment))
    assert given == Counter((topic_id, index) for topic_id, count in counts.items() for index in range(count))
    for member_id, assignment in result.items():
        assert assignment.keys() <= members[member_id].topic_ids
        assert all(assignment.values()), "a topic without partitions"


@pytest.mark.parametrize("assignor", ASSIGNORS.values(), ids=list(ASSIGNORS))
@given(group=groups(alike=False) | groups(alike=True))
def test_every_partition_has_one_member_that_wants_it(
    assignor: Assignor, group: tuple[dict[str, AssignedMember], dict[bytes, int]]
) -> None:
    members, counts = group
    check_complete(assignor(members, counts), members, counts)


@given(groups(alike=False) | groups(alike=True))
def test_the_order_of_members_does_not_matter(
    group: tuple[dict[str, AssignedMember], dict[bytes, int]],
) -> None:
    members, counts = group
    turned = dict(reversed(members.items()))
    for assignor in ASSIGNORS.values():
        assert assignor(members, counts) == assignor(turned, dict(reversed(counts.items())))


@given(groups(alike=True))
def test_uniform_differs_by_one_at_most_where_all_want_the_same(
    group: tuple[dict[str, AssignedMember], dict[bytes, int]],
) -> None:
    sizes = [len(flat(assignment)) for assignment in assign_uniform(*group).values()]
    assert max(sizes) - min(sizes) <= 1


def best_squares(members: Mapping[str, AssignedMember], counts: Mapping[bytes, int]) -> int:
    """The least sum of squares of the sizes, by trying all splits of one topic after the other."""
    ids = sorted(members)
    states = {(0,) * len(ids)}
    for topic_id, count in counts.items():
        takers = [place for place, member_id in enumerate(ids) if topic_id in members[member_id].topic_ids]
        for _ in range(count):
            states = {
                tuple(size + (place == taker) for place, size in enumerate(state))
                for state in states
                for taker in takers
            }
    return min(sum(size * size for size in state) for state in states)


@settings(max_examples=examples(60), deadline=None)
@given(st.data())
def test_uniform_is_as_even_as_can_be_where_they_want_different_things(data: st.DataObject) -> None:
    counts = data.draw(st.dictionaries(st.sampled_from(TOPICS[:3]), st.integers(1, 4), min_size=1))
    wanted = st.frozensets(st.sampled_from(sorted(counts)), min_size=1)
    targets = st.sets(st.tuples(st.sampled_from(TOPICS[:3]), st.integers(0, 3)), max_size=12)
    members = {
        member_id: AssignedMember(topic_ids=data.draw(wanted), target=by_topic(data.draw(targets)))
        for member_id in MEMBER_IDS[: data.draw(st.integers(1, 4))]
    }
    subscribed = {topic_id for member in members.values() for topic_id in member.topic_ids}
    counts = {topic_id: count for topic_id, count in counts.items() if topic_id in subscribed}
    result = assign_uniform(members, counts)
    assert sum(len(flat(assignment)) ** 2 for assignment in result.values()) == best_squares(members, counts)


def again(
    members: Mapping[str, AssignedMember], targets: Mapping[str, Assignment]
) -> dict[str, AssignedMember]:
    """The members with what they were given."""
    return {
        member_id: AssignedMember(topic_ids=member.topic_ids, target=targets.get(member_id, NOTHING))
        for member_id, member in members.items()
    }


@given(groups(alike=True) | groups(alike=False))
def test_uniform_changes_nothing_when_nothing_changed(
    group: tuple[dict[str, AssignedMember], dict[bytes, int]],
) -> None:
    members, counts = group
    first = assign_uniform(members, counts)
    assert assign_uniform(again(members, first), counts) == first


@given(groups(alike=True))
def test_a_new_member_is_all_that_partitions_move_to(
    group: tuple[dict[str, AssignedMember], dict[bytes, int]],
) -> None:
    members, counts = group
    before = assign_uniform(members, counts)
    joined = {**again(members, before), "new": AssignedMember(topic_ids=frozenset(counts))}
    after = assign_uniform(joined, counts)
    for member_id in members:
        assert flat(after[member_id]) <= flat(before[member_id])
    total = sum(counts.values())
    assert len(flat(after["new"])) in (total // len(joined), -(-total // len(joined)))


@given(groups(alike=True))
def test_only_what_a_leaving_member_had_moves(
    group: tuple[dict[str, AssignedMember], dict[bytes, int]],
) -> None:
    members, counts = group
    if len(members) < 2:
        return
    before = assign_uniform(members, counts)
    gone = min(members)
    rest = {member_id: member for member_id, member in again(members, before).items() if member_id != gone}
    after = assign_uniform(rest, counts)
    for member_id in rest:
        assert flat(before[member_id]) <= flat(after[member_id])


@given(groups(alike=True) | groups(alike=False))
def test_range_gives_runs_in_the_order_of_members(
    group: tuple[dict[str, AssignedMember], dict[bytes, int]],
) -> None:
    members, counts = group
    result = assign_range(members, counts)
    for topic_id, count in counts.items():
        subscribers = [member_id for member_id in sorted(members) if topic_id in members[member_id].topic_ids]
        shares = [sorted(result[member_id].get(topic_id, ())) for member_id in subscribers]
        assert [index for share in shares for index in share] == list(range(count))
        sizes = [len(share) for share in shares]
        assert sizes == sorted(sizes, reverse=True)
        assert sizes[0] - sizes[-1] <= 1


def test_range_puts_static_members_first_by_their_instance_id() -> None:
    wanted = frozenset({TOPICS[0]})
    members = {
        "a": AssignedMember(topic_ids=wanted),
        "z": AssignedMember(topic_ids=wanted, instance_id="1"),
        "b": AssignedMember(topic_ids=wanted, instance_id="2"),
    }
    result = assign_range(members, {TOPICS[0]: 3})
    assert [result[member_id][TOPICS[0]] for member_id in "zba"] == [{0}, {1}, {2}]
    assert assign_range({}, {}) == assign_uniform({}, {}) == {}


@pytest.mark.parametrize("kept_by", [0, 1, 500])
def test_a_thousand_members_of_two_kinds_hold_up_the_broker_for_no_long_time(kept_by: int) -> None:
    topic_ids = [number.to_bytes(16, "big") for number in range(1, 1001)]
    kinds = (frozenset(topic_ids), frozenset(topic_ids[:500]))
    counts = dict.fromkeys(topic_ids, 10)
    members: dict[str, AssignedMember] = {}
    for place in range(1000):
        mine = topic_ids[:500][place::kept_by] if place < kept_by else []
        target = {topic_id: frozenset(range(10)) for topic_id in mine}
        members[f"m{place:04}"] = AssignedMember(topic_ids=kinds[place % 2], target=target)
    begin = time.process_time()
    result = assign_uniform(members, counts)
    assert time.process_time() - begin < 5, (
        "it took 20 seconds when each member was looked at for each partition"
    )
    assert {len(flat(assignment)) for assignment in result.values()} == {10}
