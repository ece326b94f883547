"""Fetch by hand: what goes between the bytes, and what must never be null."""

import struct

import pytest

from penstock.protocol.errors import DecodeError
from penstock.protocol.fetch import (
    EMPTY,
    FetchPartitionResult,
    decode_fetch_request,
    encode_fetch_response,
)
from penstock.protocol.tagged import NodeEndpoint


class Slice:
    """Records elsewhere."""

    def __init__(self, count: int) -> None:
        self.count = count


def result(index: int, records: Slice | None = None) -> FetchPartitionResult:
    return FetchPartitionResult("t", None, index, 0, 10, 10, 0, None, records=records or EMPTY)


@pytest.mark.parametrize("version", [4, 11, 12, 18])
def test_records_pass_through_untouched_and_in_place(version: int) -> None:
    first, second = Slice(100), Slice(200)
    size_bytes, parts = encode_fetch_response(
        version, 0, 0, 0, [result(0, first), result(1), result(2, second)]
    )
    assert [part for part in parts if not isinstance(part, bytes)] == [first, second]
    assert parts[1] is first
    assert parts[3] is second
    assert size_bytes == sum(len(part) if isinstance(part, bytes) else part.count for part in parts)


def test_empty_records_have_length_0() -> None:
    _, parts = encode_fetch_response(4, 0, 0, 0, [result(0)])
    assert len(parts) == 1
    assert isinstance(parts[0], bytes)
    assert parts[0].endswith(b"\xff\xff\xff\xff" + bytes(4))  # no aborted transactions, records of no bytes
    _, parts = encode_fetch_response(12, 0, 0, 0, [result(0)])
    assert isinstance(parts[0], bytes)
    assert parts[0].endswith(b"\0\xff\xff\xff\xff\x01\0\0\0")


def test_endpoints_are_kept_from_versions_that_have_none() -> None:
    nodes = [NodeEndpoint(1, "host", 9092)]
    assert encode_fetch_response(15, 0, 0, 0, [], nodes) == encode_fetch_response(15, 0, 0, 0, [])
    assert encode_fetch_response(16, 0, 0, 0, [], nodes) != encode_fetch_response(16, 0, 0, 0, [])


def test_error_of_the_session_is_told() -> None:
    size_bytes, parts = encode_fetch_response(7, 1, 70, 5, [])
    assert (size_bytes, parts) == (14, [struct.pack(">ihii", 1, 70, 5, 0)])


HEAD = struct.pack(">iiiibii", -1, 500, 1, 1000, 0, 0, -1)


@pytest.mark.parametrize(
    ("version", "body"),
    [
        (11, b""),
        (11, HEAD),
        (11, HEAD + struct.pack(">iih", 0, 0, -1)),
        (11, HEAD + struct.pack(">iihb", 0, 0, 0, 0)),
        (11, HEAD + struct.pack(">iih", -1, 0, 0)),
        (11, HEAD + struct.pack(">iih", 0, -1, 0)),
        (12, HEAD + b"\0\x01\x01\0"),
        (12, HEAD + b"\x01\0\x01\0"),
        (12, HEAD + b"\x01\x01\0\0"),
        (12, HEAD + b"\x01\x01\x01\0\0"),
        (12, HEAD + b"\x01\x01\x01\x01\0\x02\x05c"),
        (12, HEAD + b"\x01\x01\x01\x01\0\x02\x02\xff"),
        (15, HEAD[4:] + b"\x01\x01\x01\x01\x01\x0c" + bytes(12)),
        (15, HEAD[4:] + b"\x01\x01\x01\x01\x01\x0e" + bytes(14)),
        (
            17,
            HEAD[4:]
            + b"\x02"
            + bytes(16)
            + b"\x02"
            + bytes(32)
            + b"\x01\0\x0f"
            + bytes(15)
            + b"\0\x01\x01\0",
        ),
        (
            18,
            HEAD[4:]
            + b"\x02"
            + bytes(16)
            + b"\x02"
            + bytes(32)
            + b"\x01\x01\x07"
            + bytes(7)
            + b"\0\x01\x01\0",
        ),
    ],
)
def test_broken_request_is_refused(version: int, body: bytes) -> None:
    with pytest.raises(DecodeError):
        decode_fetch_request(version, memoryview(body))


def test_follower_is_known_by_its_replica_state() -> None:
    tags = b"\x01\x01\x0d" + struct.pack(">iqb", 7, 9, 0)
    request = decode_fetch_request(15, memoryview(HEAD[4:] + b"\x01\x01\x01" + tags))
    assert (request.replica_id, request.replica_epoch) == (7, 9)
    assert decode_fetch_request(12, memoryview(HEAD + b"\x01\x01\x01\0")).replica_id == -1
