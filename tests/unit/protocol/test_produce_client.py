"""Produce from the client's side, held against the generated codec in every version."""

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.protocol.api import ApiKey
from penstock.protocol.codec import decode_request, encode_response
from penstock.protocol.errors import DecodeError
from penstock.protocol.message import Message
from penstock.protocol.produce import ProducePartitionResult, encode_produce_response
from penstock.protocol.produce_client import (
    OutgoingBatch,
    decode_produce_response,
    encode_produce_request,
)
from penstock.protocol.tagged import NodeEndpoint

VERSIONS = range(3, 14)
ID_A, ID_B = bytes(range(16)), bytes(range(16, 32))
BATCHES = [
    OutgoingBatch("a", ID_A, 0, bytearray(b"first" * 50)),
    OutgoingBatch("a", ID_A, 3, b""),
    OutgoingBatch("bé", ID_B, 200, memoryview(b"third")),
]


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("batches", [BATCHES, BATCHES[:1], []])
@pytest.mark.parametrize("transactional_id", [None, "tx"])
def test_a_request_is_read_as_another(
    version: int, batches: list[OutgoingBatch], transactional_id: str | None
) -> None:
    parts = encode_produce_request(
        version, batches, acks=-1, timeout_ms=1234, transactional_id=transactional_id
    )
    request = decode_request(ApiKey.PRODUCE, version, memoryview(b"".join(parts)))
    assert (request.acks, request.timeout_ms) == (-1, 1234)
    assert request.transactional_id == transactional_id
    found = [
        (topic.topic_id if version >= 13 else topic.name, part.index, bytes(part.records))
        for topic in request.topic_data
        for part in topic.partition_data
    ]
    assert found == [
        (one.topic_id if version >= 13 else one.topic, one.index, bytes(one.records)) for one in batches
    ]
    assert all(any(part is batch.records for part in parts) for batch in batches), "a batch was copied"


def test_a_topic_without_an_id_goes_out_in_a_version_that_needs_one() -> None:
    with pytest.raises(ValueError, match="no id"):
        encode_produce_request(13, [OutgoingBatch("a", None, 0, b"")], acks=1, timeout_ms=1)


results = st.builds(
    ProducePartitionResult,
    topic=st.sampled_from(["a", "bé"]),
    topic_id=st.sampled_from([ID_A, ID_B]),
    index=st.integers(0, 300),
    error_code=st.integers(-1, 130),
    base_offset=st.integers(-1, 2**62),
    log_append_time_ms=st.integers(-1, 2**62),
    log_start_offset=st.integers(-1, 2**62),
    error_message=st.none() | st.text(max_size=200),
    current_leader=st.none() | st.tuples(st.integers(-1, 9), st.integers(-1, 9)),
    record_errors=st.lists(st.tuples(st.integers(0, 9), st.none() | st.just("bad")), max_size=2),
)


endpoints = st.builds(
    NodeEndpoint,
    node_id=st.integers(0, 9),
    host=st.text(max_size=200),
    port=st.integers(1, 65535),
    rack=st.none() | st.text(max_size=9),
)


@given(
    st.sampled_from(VERSIONS),
    st.lists(results, max_size=4),
    st.integers(0, 10_000),
    st.lists(endpoints, max_size=2),
)
def test_an_answer_is_read_as_another(
    version: int, sent: list[ProducePartitionResult], throttle_time_ms: int, endpoints: list[NodeEndpoint]
) -> None:
    body = encode_produce_response(version, sent, throttle_time_ms, endpoints)
    found, throttled, nodes = decode_produce_response(version, memoryview(body))
    assert throttled == throttle_time_ms
    assert list(nodes) == (endpoints if version >= 10 else [])
    assert [one.index for one in found] == [one.index for one in sent]
    for one, other in zip(found, sent, strict=True):
        assert (one.error_code, one.base_offset) == (other.error_code, other.base_offset)
        assert one.log_append_time_ms == other.log_append_time_ms
        assert (one.topic_id == other.topic_id) if version >= 13 else (one.topic == other.topic)
        if version >= 8:
            assert one.error_message == other.error_message
            assert list(one.record_errors) == list(other.record_errors)
        if version >= 10:
            assert one.current_leader == other.current_leader


def test_new_leaders_endpoints_are_read_from_the_tables_form() -> None:
    answer = Message(
        responses=[],
        throttle_time_ms=3,
        node_endpoints=[Message(node_id=1, host="h", port=9, rack=None)],
    )
    body = encode_response(ApiKey.PRODUCE, 10, answer)
    assert decode_produce_response(10, memoryview(body)) == ([], 3, [NodeEndpoint(1, "h", 9)])
    for size in range(len(body)):
        with pytest.raises(DecodeError):
            decode_produce_response(10, memoryview(body)[:size])


@given(st.sampled_from(VERSIONS), st.binary(max_size=80))
def test_garbage_is_an_error_and_nothing_else(version: int, garbage: bytes) -> None:
    with contextlib.suppress(DecodeError):
        decode_produce_response(version, memoryview(garbage))


@pytest.mark.parametrize("version", VERSIONS)
def test_a_cut_answer_is_believed(version: int) -> None:
    result = ProducePartitionResult("a", ID_A, 1, 2, 3, error_message="why", record_errors=[(0, "bad")])
    body = encode_produce_response(version, [result], 1)
    for size in range(len(body)):
        with pytest.raises(DecodeError):
            decode_produce_response(version, memoryview(body)[:size])
    with pytest.raises(DecodeError):
        decode_produce_response(version, memoryview(body + b"\0"))
