import contextlib
import io
import struct
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st
from kio.schema.consumer_protocol_assignment.v3.data import ConsumerProtocolAssignment as KioAssignment
from kio.schema.consumer_protocol_assignment.v3.data import TopicPartition as KioAssigned
from kio.schema.consumer_protocol_subscription.v3.data import ConsumerProtocolSubscription as KioSubscription
from kio.schema.consumer_protocol_subscription.v3.data import TopicPartition as KioOwned
from kio.serial import entity_writer
from kio.static.primitive import i32

from penstock.protocol.consumer_protocol import (
    ConsumerAssignment,
    ConsumerSubscription,
    StickyUserData,
    decode_assignment,
    decode_generation,
    decode_sticky_user_data,
    decode_subscription,
    encode_assignment,
    encode_generation,
    encode_sticky_user_data,
    encode_subscription,
)
from penstock.protocol.errors import DecodeError

FULL = ConsumerSubscription(
    topics=("a", "b"),
    user_data=b"\x00\x01",
    owned=(("a", 0), ("a", 3), ("b", 1)),
    generation=7,
    rack="r1",
)
topic_names = st.sampled_from(["a", "b", "topic-ö", "c" * 40])
owned_partitions = st.sets(st.tuples(topic_names, st.integers(0, 2**31 - 1)), max_size=8).map(
    lambda partitions: tuple(sorted(partitions))
)


def written_by_kio(value: Any) -> bytes:
    buffer = io.BytesIO()
    kind = cast(Any, type(value))
    entity_writer(kind)(buffer, value)
    return buffer.getvalue()


def grouped(partitions: tuple[tuple[str, int], ...], kind: Any) -> tuple[Any, ...]:
    topics = sorted({topic for topic, _ in partitions})
    return tuple(
        kind(topic=topic, partitions=tuple(i32(index) for name, index in partitions if name == topic))
        for topic in topics
    )


@given(
    topics=st.sets(topic_names).map(lambda names: tuple(sorted(names))),
    user_data=st.none() | st.binary(max_size=20),
    owned=owned_partitions,
    generation=st.integers(-1, 2**31 - 1),
    rack=st.none() | st.text(max_size=10),
)
def test_a_subscription_is_written_as_kafka_has_it_and_read_back(
    topics: tuple[str, ...],
    user_data: bytes | None,
    owned: tuple[tuple[str, int], ...],
    generation: int,
    rack: str | None,
) -> None:
    subscription = ConsumerSubscription(topics, user_data, owned, generation, rack)
    kio = KioSubscription(
        topics=topics,
        user_data=user_data,
        owned_partitions=grouped(owned, KioOwned),
        generation_id=i32(generation),
        rack_id=rack,
    )
    data = encode_subscription(subscription)
    assert data == struct.pack(">h", 3) + written_by_kio(kio)
    assert decode_subscription(data) == subscription


@given(partitions=owned_partitions, user_data=st.none() | st.binary(max_size=20))
def test_an_assignment_is_written_as_kafka_has_it_and_read_back(
    partitions: tuple[tuple[str, int], ...], user_data: bytes | None
) -> None:
    assignment = ConsumerAssignment(partitions, user_data)
    kio = KioAssignment(assigned_partitions=grouped(partitions, KioAssigned), user_data=user_data)
    assert encode_assignment(assignment) == struct.pack(">h", 3) + written_by_kio(kio)
    assert decode_assignment(encode_assignment(assignment)) == assignment


@pytest.mark.parametrize(
    ("version", "expected"),
    [
        (0, ConsumerSubscription(("a", "b"), FULL.user_data)),
        (1, ConsumerSubscription(("a", "b"), FULL.user_data, FULL.owned)),
        (2, ConsumerSubscription(("a", "b"), FULL.user_data, FULL.owned, 7)),
        (3, FULL),
    ],
)
def test_each_version_has_its_fields(version: int, expected: ConsumerSubscription) -> None:
    assert decode_subscription(encode_subscription(FULL, version)) == expected


def test_a_version_of_the_future_is_read_as_the_last_one_that_is_known() -> None:
    future = struct.pack(">h", 9) + encode_subscription(FULL)[2:] + b"what comes after"
    assert decode_subscription(future) == FULL
    assignment = ConsumerAssignment((("a", 1),), b"x")
    assert decode_assignment(struct.pack(">h", 9) + encode_assignment(assignment)[2:] + b"more") == assignment


@pytest.mark.parametrize("version", [1, 2, 3])
def test_a_client_that_claims_a_version_and_writes_an_older_one_is_understood(version: int) -> None:
    old = struct.pack(">h", version) + encode_subscription(FULL, 0)[2:]
    assert decode_subscription(old) == ConsumerSubscription(("a", "b"), FULL.user_data)


def test_a_negative_version_is_refused() -> None:
    with pytest.raises(DecodeError):
        decode_subscription(b"\xff\xff" + encode_subscription(FULL)[2:])


def test_no_bytes_are_an_empty_assignment() -> None:
    assert decode_assignment(b"") == ConsumerAssignment(())


@pytest.mark.parametrize("count", [2**31 - 1, 1000, -1, -(2**31)])
def test_a_count_that_the_bytes_cannot_hold_is_refused(count: int) -> None:
    with pytest.raises(DecodeError, match="elements"):
        decode_subscription(struct.pack(">hi", 3, count) + bytes(20))
    with pytest.raises(DecodeError, match="elements"):
        decode_assignment(struct.pack(">hi", 3, count) + bytes(20))


@given(data=st.binary(max_size=60))
def test_any_bytes_are_read_or_refused(data: bytes) -> None:
    for decode in (decode_subscription, decode_assignment):
        with contextlib.suppress(DecodeError):
            decode(data)


@given(cut=st.integers(0, len(encode_subscription(FULL)) - 1))
def test_a_subscription_cut_short_is_refused_or_ends_at_a_field(cut: int) -> None:
    data = encode_subscription(FULL)[:cut]
    try:
        found = decode_subscription(data)
    except DecodeError:
        return
    assert found.topics == FULL.topics
    assert found.user_data == FULL.user_data


def test_the_user_data_of_sticky_members_is_java_s() -> None:
    told = StickyUserData((("a", 0), ("a", 1), ("b", 2)), 5)
    # count of topics, "a", [0, 1], "b", [2], generation
    expected = bytes.fromhex("00000002 000161 00000002 00000000 00000001 000162 00000001 00000002 00000005")
    assert encode_sticky_user_data(told) == expected
    assert decode_sticky_user_data(expected) == told
    assert decode_sticky_user_data(expected[:-4]) == StickyUserData(told.partitions, -1), "version 0"


@pytest.mark.parametrize("nonsense", [None, b"", b"\x00", b"\x7f\xff\xff\xff", b"garbage"])
def test_user_data_that_makes_no_sense_counts_as_none(nonsense: bytes | None) -> None:
    assert decode_sticky_user_data(nonsense) == StickyUserData(())


def test_a_generation_is_four_bytes_and_nothing_else() -> None:
    assert encode_generation(5) == b"\x00\x00\x00\x05"
    assert decode_generation(b"\x00\x00\x00\x05") == 5
    assert decode_generation(b"\x00\x00\x00\x05\x00") == -1
    assert decode_generation(None) == -1
