"""Headers of requests and responses."""

import struct

import pytest

from penstock.protocol.api import SERVED, ApiKey
from penstock.protocol.errors import DecodeError
from penstock.protocol.framing import (
    RequestHeader,
    UnknownApi,
    UnsupportedVersion,
    read_request_header,
    response_prefix,
)


def header(key: int, version: int, client_id: bytes | None = b"me", tail: bytes = b"") -> memoryview:
    size_bytes = -1 if client_id is None else len(client_id)
    return memoryview(struct.pack(">hhih", key, version, 77, size_bytes) + (client_id or b"") + tail)


@pytest.mark.parametrize(("client_id", "expected"), [(b"me", "me"), (b"", ""), (None, None)])
def test_classic_header_ends_before_the_body(client_id: bytes | None, expected: str | None) -> None:
    frame = header(ApiKey.METADATA, 8, client_id, b"body")
    position = 10 + len(client_id or b"")
    assert read_request_header(frame) == RequestHeader(3, 8, 77, expected, position)
    assert bytes(frame[position:]) == b"body"


@pytest.mark.parametrize("tags", [b"\0", b"\x01\x05\x03abc", b"\x02\0\0\x81\x01\x01x"])
def test_tagged_fields_of_the_header_are_not_taken_for_the_body(tags: bytes) -> None:
    frame = header(ApiKey.METADATA, 9, b"me", tags + b"body")
    assert bytes(frame[read_request_header(frame).body_position :]) == b"body"


def test_api_versions_request_of_the_future_can_be_answered_without_its_body() -> None:
    with pytest.raises(UnsupportedVersion) as caught:
        read_request_header(header(ApiKey.API_VERSIONS, 99, b"me", b"\xff\xff\xff\xff"))
    error = caught.value
    assert (error.api_key, error.api_version, error.correlation_id, error.client_id) == (18, 99, 77, "me")


@pytest.mark.parametrize("key", [-1, 4, 7, 17, 24, 1000])
def test_unserved_api_is_refused(key: int) -> None:
    with pytest.raises(UnknownApi):
        read_request_header(header(key, 0))


@pytest.mark.parametrize("key", SERVED)
def test_version_beside_the_range_is_refused(key: int) -> None:
    versions = SERVED[key].versions
    for version in (versions.start - 1, versions.stop, 32_767, -32_768):
        with pytest.raises(UnsupportedVersion):
            read_request_header(header(key, version))
    for version in versions:
        assert read_request_header(header(key, version, b"me", b"\0")).api_version == version


@pytest.mark.parametrize(
    "frame",
    [
        b"",
        b"\0\x03\0\x09\0\0\0\x01\0",
        bytes(header(ApiKey.METADATA, 8, b"me"))[:-1],
        struct.pack(">hhih", 3, 8, 1, -2),
        struct.pack(">hhih", 3, 8, 1, 32_767),
        bytes(header(ApiKey.METADATA, 8, b"\xff\xfe")),
        bytes(header(ApiKey.METADATA, 9, b"me")),
        bytes(header(ApiKey.METADATA, 9, b"me", b"\xff\xff\xff\xff\x0f")),
        bytes(header(ApiKey.METADATA, 9, b"me", b"\xff\xff\xff\xff\xff\x01")),
        bytes(header(ApiKey.METADATA, 9, b"me", b"\x01\0\x7f")),
    ],
)
def test_broken_header_is_a_plain_decode_error(frame: bytes) -> None:
    with pytest.raises(DecodeError) as caught:
        read_request_header(memoryview(frame))
    assert not isinstance(caught.value, UnknownApi | UnsupportedVersion)


def test_prefix_counts_the_header_and_ends_in_a_tag_section_where_flexible() -> None:
    assert response_prefix(ApiKey.METADATA, 8, 7, 10) == struct.pack(">ii", 14, 7)
    assert response_prefix(ApiKey.METADATA, 9, 7, 10) == struct.pack(">iib", 15, 7, 0)
    assert response_prefix(ApiKey.API_VERSIONS, 4, 7, 10) == struct.pack(">ii", 14, 7)
