"""What a group is subscribed to, as far as its coordinator can tell."""

import contextlib
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.support.classic_groups import GroupBench

from penstock.broker.groups.subscriptions import read_subscribed_topics
from penstock.protocol.errors import DecodeError


def subscription(*topics: str, version: int = 0, rest: bytes = b"\xff\xff\xff\xff") -> bytes:
    names = b"".join(struct.pack(">h", len(topic.encode())) + topic.encode() for topic in topics)
    return struct.pack(">hi", version, len(topics)) + names + rest


@pytest.mark.parametrize(
    ("metadata", "topics"),
    [
        (subscription("a", "b"), {"a", "b"}),
        (subscription(), set[str]()),
        (subscription("a", rest=b""), {"a"}),
        (subscription("a", version=3, rest=b"what comes later"), {"a"}),
        (subscription("a", version=32767), {"a"}),
    ],
)
def test_topics_of_any_version(metadata: bytes, topics: set[str]) -> None:
    assert read_subscribed_topics(metadata) == topics


@pytest.mark.parametrize(
    "metadata",
    [
        b"",
        b"\x00\x00\x00\x00\x00",
        subscription("a", version=-1),
        struct.pack(">hi", 0, -1),
        struct.pack(">hi", 0, 2**31 - 1),
        struct.pack(">hih", 0, 1, -1),
        struct.pack(">hih", 0, 1, 5) + b"four",
        struct.pack(">hihh", 0, 2, 0, 1),
        struct.pack(">hih", 0, 1, 1) + b"\xff",
    ],
)
def test_what_is_no_subscription_is_refused(metadata: bytes) -> None:
    with pytest.raises(DecodeError):
        read_subscribed_topics(metadata)


@given(st.binary(max_size=40))
def test_garbage_is_a_decode_error_or_topics(metadata: bytes) -> None:
    with contextlib.suppress(DecodeError):
        read_subscribed_topics(metadata)


def group_of(*members: bytes, protocol_type: str = "consumer") -> GroupBench:
    bench = GroupBench()
    for i, metadata in enumerate(members):
        bench.join(fresh=f"m{i}", protocols=(("range", metadata),), protocol_type=protocol_type, version=3)
    bench.finish_joining()
    return bench


def test_a_group_is_subscribed_to_what_its_members_are() -> None:
    group = group_of(subscription("a"), subscription("b")).group
    assert [group.is_subscribed_to(topic) for topic in "abc"] == [True, True, False]


def test_a_group_with_a_subscription_that_nobody_understands_counts_as_subscribed() -> None:
    assert group_of(subscription("a"), b"?").group.is_subscribed_to("z")


def test_a_group_of_another_protocol_is_subscribed_to_nothing() -> None:
    assert not group_of(subscription("a"), protocol_type="connect").group.is_subscribed_to("a")


def test_a_group_that_waits_for_its_first_generation_counts_as_subscribed() -> None:
    bench = GroupBench()
    bench.join(protocols=(("range", subscription("a")),), version=3)
    assert bench.group.is_subscribed_to("z")


def test_an_empty_group_is_subscribed_to_nothing() -> None:
    bench = group_of(subscription("a"))
    bench.leave("m0")
    assert not bench.group.is_subscribed_to("a")
    assert not GroupBench().group.is_subscribed_to("a")


def test_a_changed_subscription_is_seen() -> None:
    bench = group_of(subscription("a"))
    assert bench.group.is_subscribed_to("a")
    bench.join("m0", protocols=(("range", subscription("b")),))
    assert [bench.group.is_subscribed_to(topic) for topic in "ab"] == [False, True]


def test_a_subscription_is_known_after_a_restart() -> None:
    bench = group_of(subscription("a"))
    bench.sync("m0", {"m0": b"1"})
    bench.finish_store()
    bench.restart()
    assert [bench.group.is_subscribed_to(topic) for topic in "ab"] == [True, False]
