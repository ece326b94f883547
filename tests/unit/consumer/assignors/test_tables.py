"""The results of Java's RangeAssignor and RoundRobinAssignor, by the tables of their documentation and tests."""

from collections.abc import Mapping, Sequence

import pytest

from penstock.client.metadata import TopicPartition
from penstock.consumer.assignors.assignor import Assignor, GroupSubscription
from penstock.consumer.assignors.range_assignor import RangeAssignor
from penstock.consumer.assignors.registry import find_assignors
from penstock.consumer.assignors.round_robin import RoundRobinAssignor
from penstock.protocol.consumer_protocol import ConsumerSubscription

Table = tuple[Mapping[str, Sequence[str]], Mapping[str, int], Mapping[str, str]]

RANGE: dict[str, Table] = {
    "nobody has anything where there is no topic": ({"C0": ["t0"]}, {}, {"C0": ""}),
    "one member has it all": ({"C0": ["t0"]}, {"t0": 3}, {"C0": "t0-0 t0-1 t0-2"}),
    "only the topics of the subscription": (
        {"C0": ["t0"]},
        {"t0": 3, "other": 3},
        {"C0": "t0-0 t0-1 t0-2"},
    ),
    "more members than partitions": ({"C0": ["t0"], "C1": ["t0"]}, {"t0": 1}, {"C0": "t0-0", "C1": ""}),
    "the documented case: the first members have one more of each topic": (
        {"C0": ["t0", "t1"], "C1": ["t0", "t1"]},
        {"t0": 3, "t1": 3},
        {"C0": "t0-0 t0-1 t1-0 t1-1", "C1": "t0-2 t1-2"},
    ),
    "unequal subscriptions": (
        {"C0": ["t0"], "C1": ["t0", "t1"], "C2": ["t0"]},
        {"t0": 3, "t1": 2},
        {"C0": "t0-0", "C1": "t0-1 t1-0 t1-1", "C2": "t0-2"},
    ),
    "members in the order of their ids, whatever order they came in": (
        {"C2": ["t0"], "C10": ["t0"], "C1": ["t0"]},
        {"t0": 3},
        {"C1": "t0-0", "C10": "t0-1", "C2": "t0-2"},
    ),
}
ROUND_ROBIN: dict[str, Table] = {
    "one member has it all": ({"C0": ["t0"]}, {"t0": 3}, {"C0": "t0-0 t0-1 t0-2"}),
    "more members than partitions": ({"C0": ["t0"], "C1": ["t0"]}, {"t0": 1}, {"C0": "t0-0", "C1": ""}),
    "the documented case with equal subscriptions": (
        {"C0": ["t0", "t1"], "C1": ["t0", "t1"]},
        {"t0": 3, "t1": 3},
        {"C0": "t0-0 t0-2 t1-1", "C1": "t0-1 t1-0 t1-2"},
    ),
    "the documented case with unequal subscriptions": (
        {"C0": ["t0"], "C1": ["t0", "t1"], "C2": ["t0", "t1", "t2"]},
        {"t0": 1, "t1": 2, "t2": 3},
        {"C0": "t0-0", "C1": "t1-0", "C2": "t1-1 t2-0 t2-1 t2-2"},
    ),
    "a topic that does not exist is passed over": (
        {"C0": ["t0", "missing"], "C1": ["missing"]},
        {"t0": 2},
        {"C0": "t0-0 t0-1", "C1": ""},
    ),
}


def check(assignor: Assignor, table: Table) -> None:
    subscriptions, counts, expected = table
    members = {name: ConsumerSubscription(tuple(topics)) for name, topics in subscriptions.items()}
    found = assignor.assign(GroupSubscription(members), counts)
    assert {name: " ".join(map(str, partitions)) for name, partitions in found.items()} == expected


@pytest.mark.parametrize("case", RANGE)
def test_range_as_java(case: str) -> None:
    check(RangeAssignor(), RANGE[case])


@pytest.mark.parametrize("case", ROUND_ROBIN)
def test_roundrobin_as_java(case: str) -> None:
    check(RoundRobinAssignor(), ROUND_ROBIN[case])


@pytest.mark.parametrize("assignor", [RangeAssignor(), RoundRobinAssignor()], ids=lambda a: str(a.name))
def test_static_members_come_first_in_the_order_of_their_instance_ids(assignor: Assignor) -> None:
    members = {name: ConsumerSubscription(("t",)) for name in ("a", "b", "y", "z")}
    group = GroupSubscription(members, {"z": "1", "y": "2", "a": None, "b": None})
    found = assignor.assign(group, {"t": 4})
    assert {name: partitions[0].partition for name, partitions in found.items()} == {
        "z": 0,
        "y": 1,
        "a": 2,
        "b": 3,
    }


def test_range_gives_a_member_the_same_partitions_of_topics_that_are_alike() -> None:
    members = {name: ConsumerSubscription(("orders", "payments")) for name in "abc"}
    for partitions in (
        RangeAssignor().assign(GroupSubscription(members), {"orders": 7, "payments": 7}).values()
    ):
        by_topic = {
            topic: [tp.partition for tp in partitions if tp.topic == topic]
            for topic in ("orders", "payments")
        }
        assert by_topic["orders"] == by_topic["payments"]


def test_assignors_are_found_by_name_and_own_ones_are_taken() -> None:
    own = RangeAssignor()
    assert [assignor.name for assignor in find_assignors(["cooperative-sticky", own])] == [
        "cooperative-sticky",
        "range",
    ]
    with pytest.raises(ValueError, match="no assignor 'fair'"):
        find_assignors(["fair"])
    with pytest.raises(ValueError, match="another name"):
        find_assignors(["range", own])
    with pytest.raises(ValueError, match="at least one"):
        find_assignors([])


def test_partitions_are_topic_partitions() -> None:
    found = RangeAssignor().assign(GroupSubscription({"a": ConsumerSubscription(("t",))}), {"t": 1})
    assert found["a"] == [TopicPartition("t", 0)]
