"""A count that the message can't hold must be refused before anything is allocated, in every array of every message.

kio's reader aborts the process on these: a count of 2^32 - 2 in a Metadata request of 20 bytes.
"""

import struct
import tracemalloc
from collections.abc import Callable, Iterator

import pytest
from tests.support.messages import all_versions, each, reference, sample, varint

from penstock.protocol.api import ApiKey
from penstock.protocol.codec import decode_request, decode_response, encode_request, encode_response
from penstock.protocol.errors import DecodeError
from penstock.protocol.fetch import decode_fetch_request
from penstock.protocol.limits import REQUEST_ELEMENT_COUNT_MAX
from penstock.protocol.produce import decode_produce_request
from penstock.protocol.schema import load_schema

ALLOWED_BYTES = 64 << 10
FLEXIBLE_COUNTS = [varint(count) for count in ((1 << 32) - 1, (1 << 31) + 1, 1 << 31, (1 << 31) - 1, 1001)]
CLASSIC_COUNTS = [struct.pack(">I", count) for count in ((1 << 32) - 2, 1 << 31, (1 << 31) - 1, 1000)]


def forgeries(key: int, version: int, *, request: bool) -> Iterator[tuple[str, bytes]]:
    """(field, message) for each array of the message and each impossible count."""
    schema = load_schema(key, version, request=request)
    valid = reference(schema, sample(schema))
    for name, start, end in valid.counts:
        for count in FLEXIBLE_COUNTS if schema.flexible else CLASSIC_COUNTS:
            yield name, bytes(valid.data[:start] + count + valid.data[end:])


def refuse(decode: Callable[[bytes], object], name: str, forged: bytes) -> None:
    tracemalloc.reset_peak()
    before, _ = tracemalloc.get_traced_memory()
    with pytest.raises(DecodeError, match=r"elements claimed|an array of"):
        decode(forged)
    _, peak = tracemalloc.get_traced_memory()
    assert peak - before < ALLOWED_BYTES, name


@pytest.fixture(autouse=True)
def traced() -> Iterator[None]:
    tracemalloc.start()
    yield
    tracemalloc.stop()


@each(all_versions())
def test_impossible_count_in_a_request_is_refused_before_allocation(api_key: int, version: int) -> None:
    schema = load_schema(api_key, version, request=True)
    valid = bytes(reference(schema, sample(schema)).data)
    assert encode_request(api_key, version, decode_request(api_key, version, valid)) == valid
    for name, forged in forgeries(api_key, version, request=True):
        refuse(lambda body: decode_request(api_key, version, body), name, forged)


@each(all_versions())
def test_impossible_count_in_a_response_is_refused_before_allocation(api_key: int, version: int) -> None:
    schema = load_schema(api_key, version, request=False)
    valid = bytes(reference(schema, sample(schema)).data)
    assert encode_response(api_key, version, decode_response(api_key, version, valid)) == valid
    for name, forged in forgeries(api_key, version, request=False):
        refuse(lambda body: decode_response(api_key, version, body), name, forged)


@each([(0, version) for version in range(3, 14)])
def test_impossible_count_in_a_hand_read_produce_request_is_refused_before_allocation(
    api_key: int, version: int
) -> None:
    found = list(forgeries(api_key, version, request=True))
    assert {name for name, _ in found} == {"topic_data", "partition_data"}
    for name, forged in found:
        refuse(lambda body: decode_produce_request(version, memoryview(body)), name, forged)


@each([(1, version) for version in range(4, 19)])
def test_impossible_count_in_a_hand_read_fetch_request_is_refused_before_allocation(
    api_key: int, version: int
) -> None:
    found = list(forgeries(api_key, version, request=True))
    assert {name for name, _ in found} >= {"topics", "partitions"}
    for name, forged in found:
        refuse(lambda body: decode_fetch_request(version, memoryview(body)), name, forged)


def test_one_element_more_than_the_cap_is_refused() -> None:
    def body(count: int) -> bytes:
        return struct.pack(">i", count) + b"\0\x01t" * count

    accepted = decode_request(ApiKey.METADATA, 0, body(REQUEST_ELEMENT_COUNT_MAX))
    assert len(accepted.topics) == REQUEST_ELEMENT_COUNT_MAX
    with pytest.raises(DecodeError, match="too many"):
        decode_request(ApiKey.METADATA, 0, body(REQUEST_ELEMENT_COUNT_MAX + 1))


def test_cap_counts_the_elements_of_all_arrays_together() -> None:
    name = b"\0\x01t"
    half = REQUEST_ELEMENT_COUNT_MAX // 2
    topic = name + struct.pack(">i", half) + b"\0\0\0\0\xff\xff\xff\xff" * half
    body = b"\xff\xff" + struct.pack(">hii", 1, 0, 2) + topic * 2
    with pytest.raises(DecodeError, match="more than"):
        decode_produce_request(7, memoryview(body))
    with pytest.raises(DecodeError, match="too many"):
        decode_request(ApiKey.PRODUCE, 7, body)


def test_cap_counts_unknown_tagged_fields() -> None:
    count = REQUEST_ELEMENT_COUNT_MAX + 1
    tags = varint(count) + b"\x63\0" * count
    with pytest.raises(DecodeError, match="too many"):
        decode_request(ApiKey.API_VERSIONS, 3, b"\x01\x01" + tags)
    with pytest.raises(DecodeError, match="more than"):
        decode_produce_request(9, memoryview(b"\0" + struct.pack(">hi", 1, 0) + b"\x01" + tags))
