"""Whatever bytes come in: DecodeError or a message, never another exception, and never much memory or time."""

import functools
import time
import tracemalloc
from collections.abc import Callable

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.support.examples import examples
from tests.support.messages import all_versions, messages, sample

from penstock.protocol.api import ApiKey
from penstock.protocol.codec import decode_request, decode_response, encode_request, encode_response
from penstock.protocol.errors import DecodeError
from penstock.protocol.fetch import decode_fetch_request
from penstock.protocol.framing import read_request_header
from penstock.protocol.produce import decode_produce_request
from penstock.protocol.schema import load_schema

Decoder = Callable[[memoryview], object]
FUZZ = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
VERSIONS = st.sampled_from(all_versions())
PATCHES = st.sampled_from(
    [b"\0", b"\x01", b"\x7f", b"\x80", b"\xff", b"\xff\xff\xff\xff\x0f", b"\x7f\xff\xff\xff"]
)


def decode_or_refuse(decode: Decoder, data: bytes) -> None:
    """The whole of the promise."""
    try:
        decode(memoryview(data))
    except DecodeError as error:
        assert str(error)  # noqa: PT017


@st.composite
def mutated(draw: st.DrawFn, valid: bytes) -> bytes:
    """A valid message with a few bytes changed, put in, cut out or off."""
    data = bytearray(valid)
    for _ in range(draw(st.integers(1, 4))):
        position = draw(st.integers(0, len(data)))
        patch = draw(st.one_of(PATCHES, st.binary(min_size=1, max_size=4)))
        match draw(st.integers(0, 3)):
            case 0:
                data[position : position + len(patch)] = patch
            case 1:
                data[position:position] = patch
            case 2:
                del data[position : position + len(patch)]
            case _:
                del data[position:]
    return bytes(data)


@settings(FUZZ, max_examples=examples(300))
@given(data=st.binary(max_size=64))
def test_garbage_header_is_a_decode_error(data: bytes) -> None:
    decode_or_refuse(read_request_header, data)


@settings(FUZZ, max_examples=examples(400))
@given(api=VERSIONS, data=st.binary(max_size=200))
def test_garbage_body_is_a_decode_error(api: tuple[int, int], data: bytes) -> None:
    decode_or_refuse(lambda body: decode_request(*api, body), data)
    decode_or_refuse(lambda body: decode_response(*api, body), data)


@settings(FUZZ, max_examples=examples(600))
@given(api=VERSIONS, data=st.data())
def test_damaged_request_is_a_decode_error_at_worst(api: tuple[int, int], data: st.DataObject) -> None:
    valid = encode_request(*api, data.draw(messages(load_schema(*api, request=True), 2)))
    decode_or_refuse(lambda body: decode_request(*api, body), data.draw(mutated(valid)))


@settings(FUZZ, max_examples=examples(400))
@given(api=VERSIONS, data=st.data())
def test_damaged_response_is_a_decode_error_at_worst(api: tuple[int, int], data: st.DataObject) -> None:
    valid = encode_response(*api, data.draw(messages(load_schema(*api, request=False), 2)))
    decode_or_refuse(lambda body: decode_response(*api, body), data.draw(mutated(valid)))


HOT: dict[ApiKey, tuple[range, Callable[[int, memoryview], object]]] = {
    ApiKey.PRODUCE: (range(14), decode_produce_request),
    ApiKey.FETCH: (range(4, 19), decode_fetch_request),
}


@pytest.mark.parametrize("key", HOT, ids=lambda key: key.name.lower())
@settings(FUZZ, max_examples=examples(400))
@given(data=st.data())
def test_damaged_hot_request_is_a_decode_error_at_worst(key: ApiKey, data: st.DataObject) -> None:
    versions, decode = HOT[key]
    version = data.draw(st.sampled_from(versions))
    valid = b"\0" * 20
    if key is not ApiKey.PRODUCE or version >= 3:
        valid = encode_request(key, version, data.draw(messages(load_schema(key, version, request=True), 2)))
    damaged = data.draw(mutated(valid))
    decode_or_refuse(lambda body: decode(version, body), damaged)
    decode_or_refuse(lambda body: decode(version, body), data.draw(st.binary(max_size=100)))


@settings(FUZZ, max_examples=examples(200))
@given(api=VERSIONS, data=st.data())
def test_cut_request_is_a_decode_error(api: tuple[int, int], data: st.DataObject) -> None:
    valid = encode_request(*api, sample(load_schema(*api, request=True)))
    cut = data.draw(st.integers(0, max(len(valid) - 1, 0)))
    if valid:
        with pytest.raises(DecodeError):
            decode_request(*api, memoryview(valid)[:cut])


@pytest.mark.parametrize("filler", [b"\0", b"\x01", b"\x02", b"\x7f", b"\xff"])
def test_one_mebibyte_of_the_same_byte_is_soon_dealt_with(filler: bytes) -> None:
    body = filler * (1 << 20)
    for key, version in all_versions():
        started = time.process_time()
        decode_or_refuse(functools.partial(decode_request, key, version), body)
        assert time.process_time() - started < 1.0, (key, version)


def test_most_elements_that_a_request_may_have_take_bounded_memory() -> None:
    body = memoryview(b"\xa1\x8d\x06" + (bytes(16) + b"\x01\0") * 100_000 + b"\0\0\0")
    tracemalloc.start()
    try:
        decode_or_refuse(lambda data: decode_request(ApiKey.METADATA, 12, data), bytes(body))
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak_bytes < 100 << 20
