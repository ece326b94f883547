"""Produce by hand, byte for byte, and the refusal of the versions whose record formats are gone."""

import struct

import pytest

from penstock.protocol.errors import DecodeError
from penstock.protocol.produce import (
    ProducePartition,
    ProducePartitionResult,
    ProduceRequest,
    decode_produce_request,
    encode_produce_refusal,
    encode_produce_response,
)
from penstock.protocol.tagged import NodeEndpoint

OLD_REQUEST = struct.pack(">hii", -1, 1500, 2) + b"".join(
    struct.pack(">h1sii", 1, name, 1, 4) + struct.pack(">i3s", 3, b"old") for name in (b"a", b"b")
)


@pytest.mark.parametrize("version", [0, 1, 2])
def test_topics_of_refused_versions_are_found(version: int) -> None:
    request = decode_produce_request(version, memoryview(OLD_REQUEST))
    assert (request.acks, request.timeout_ms) == (-1, 1500)
    assert [(part.topic, part.index) for part in request.partitions] == [("a", 4), ("b", 4)]


@pytest.mark.parametrize(
    ("version", "part", "tail"),
    [
        (0, struct.pack(">ihq", 4, 35, -1), b""),
        (1, struct.pack(">ihq", 4, 35, -1), bytes(4)),
        (2, struct.pack(">ihqq", 4, 35, -1, -1), bytes(4)),
    ],
)
def test_refusal_has_the_shape_of_its_version(version: int, part: bytes, tail: bytes) -> None:
    request = decode_produce_request(version, memoryview(OLD_REQUEST))
    expected = struct.pack(">i", 2) + b"".join(
        struct.pack(">h1si", 1, name, 1) + part for name in (b"a", b"b")
    )
    assert encode_produce_refusal(version, request) == expected + tail


def test_records_are_not_copied() -> None:
    frame = bytearray(
        b"\0" + struct.pack(">hi", 1, 5) + b"\x02\x02t\x02" + struct.pack(">i", 3) + b"\x04abc\0\0\0"
    )
    view = memoryview(frame)
    request = decode_produce_request(9, view)
    assert request == ProduceRequest(None, 1, 5, [ProducePartition("t", None, 3, view[16:19])])
    frame[16:19] = b"xyz"
    assert bytes(request.partitions[0].records or b"") == b"xyz"


def test_null_records_are_told_from_empty_ones() -> None:
    body = b"\0" + struct.pack(">hi", 1, 5) + b"\x02\x02t\x02" + struct.pack(">i", 3) + b"\0\0\0\0"
    assert decode_produce_request(9, memoryview(body)).partitions[0].records is None
    classic = b"\xff\xff" + struct.pack(">hiih1siii", 1, 5, 1, 1, b"t", 1, 3, -1)
    assert decode_produce_request(7, memoryview(classic)).partitions[0].records is None


@pytest.mark.parametrize(
    "body",
    [
        b"\xff\xff" + struct.pack(">hiih1siii", 1, 5, 1, 1, b"t", 1, 3, -2),
        b"\xff\xff" + struct.pack(">hiih1siii", 1, 5, 1, 1, b"t", 1, 3, 1),
        b"\xff\xff" + struct.pack(">hiih1si4i", 1, 5, 1, 1, b"t", 2, 3, -4, 4, 0),  # a way back
        b"\xff\xfe" + struct.pack(">hii", 1, 5, 0),
        b"\xff\xff" + struct.pack(">hii", 1, 5, -1),
        b"\xff\xff" + struct.pack(">hiih", 1, 5, 1, -1) + bytes(4),
        b"\xff\xff" + struct.pack(">hiib", 1, 5, 0, 0),
    ],
)
def test_broken_request_is_refused(body: bytes) -> None:
    with pytest.raises(DecodeError):
        decode_produce_request(7, memoryview(body))


def test_neighbouring_results_of_one_topic_are_one_topic() -> None:
    results = [
        ProducePartitionResult("a", None, 0, 0),
        ProducePartitionResult("a", None, 1, 0),
        ProducePartitionResult("b", None, 0, 0),
    ]
    body = encode_produce_response(3, results, 0)
    assert struct.unpack_from(">ih1si", body) == (2, 1, b"a", 2)


def test_endpoints_are_kept_from_versions_that_have_none() -> None:
    nodes = [NodeEndpoint(1, "host", 9092)]
    assert encode_produce_response(9, [], 0, nodes) == encode_produce_response(9, [], 0)
    assert encode_produce_response(10, [], 0, nodes) != encode_produce_response(10, [], 0)


def test_response_without_results_has_its_frame() -> None:
    assert encode_produce_response(9, [], 5) == b"\x01" + struct.pack(">i", 5) + b"\0"
    assert encode_produce_response(3, [], 5) == struct.pack(">ii", 0, 5)
