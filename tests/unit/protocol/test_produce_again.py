"""A repeated Produce is recognised only if it is exactly that, and answered exactly as the encoder would."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.support.examples import examples

from penstock.protocol.api import ApiKey
from penstock.protocol.codec import encode_request
from penstock.protocol.framing import read_request_header, response_prefix
from penstock.protocol.message import Message
from penstock.protocol.produce import ProducePartitionResult, decode_produce_request, encode_produce_response
from penstock.protocol.produce_again import RepeatedProduce, learn

PRODUCE = int(ApiKey.PRODUCE)
VERSIONS = range(7, 14)
TOPIC_ID = bytes(range(16))


def frame_of(
    version: int, records: bytes, *, correlation_id: int = 1, acks: int = -1, index: int = 3, **more: Any
) -> memoryview:
    topic = Message(name="orders", topic_id=TOPIC_ID, partition_data=[Message(index=index, records=records)])
    body = encode_request(PRODUCE, version, Message(acks=acks, timeout_ms=5000, topic_data=[topic], **more))
    head = PRODUCE.to_bytes(2, "big") + version.to_bytes(2, "big") + correlation_id.to_bytes(4, "big")
    return memoryview(bytearray(head + b"\0\6client" + (b"\0" if version >= 9 else b"") + body))


def learned(frame: memoryview) -> RepeatedProduce | None:
    header = read_request_header(frame)
    return learn(header, frame, decode_produce_request(header.api_version, frame[header.body_position :]))


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("size", [1, 100, 126, 127, 128, 16_383, 16_384, 100_000])
def test_like_request_of_another_size_is_recognised(version: int, size: int) -> None:
    known = learned(frame_of(version, b"first"))
    assert known is not None
    records = known.records_in(frame_of(version, b"r" * size, correlation_id=77))
    assert records is not None
    assert bytes(records) == b"r" * size
    assert (known.acks, known.timeout_ms, known.index, known.version) == (-1, 5000, 3, version)
    assert (known.topic, known.topic_id) == (("orders", None) if version < 13 else ("", TOPIC_ID))


@pytest.mark.parametrize("version", VERSIONS)
def test_answer_is_what_the_encoder_makes(version: int) -> None:
    frame = frame_of(version, b"records", correlation_id=0x01020304)
    known = learned(frame)
    assert known is not None
    topic_id = TOPIC_ID if version >= 13 else None
    result = ProducePartitionResult("orders", topic_id, 3, 0, 2**40 + 5, 2**41 + 7, 9)
    body = encode_produce_response(version, [result], 0)
    expected = response_prefix(PRODUCE, version, 0x01020304, len(body)) + body
    assert known.answer(frame, result) == expected


@pytest.mark.parametrize("version", VERSIONS)
def test_request_that_differs_is_not_recognised(version: int) -> None:
    known = learned(frame_of(version, b"first"))
    assert known is not None
    assert known.records_in(frame_of(version, b"first", acks=1)) is None
    assert known.records_in(frame_of(version, b"first", index=4)) is None
    other = frame_of(version, b"first")
    other[3] ^= 1  # the version
    assert known.records_in(other) is None


@settings(max_examples=examples(300), deadline=None)
@given(st.sampled_from(VERSIONS), st.binary(max_size=300), st.data())
def test_damage_is_left_to_the_decoder_or_read_as_the_decoder_reads_it(
    version: int, records: bytes, data: st.DataObject
) -> None:
    known = learned(frame_of(version, b"first"))
    assert known is not None
    frame = frame_of(version, records)
    place = data.draw(st.integers(0, len(frame) - 1))
    frame[place] = data.draw(st.integers(0, 255))
    cut = frame[: data.draw(st.integers(len(frame) - 4, len(frame)))]
    found = known.records_in(cut)
    if found is not None:
        header = read_request_header(cut)
        (entry,) = decode_produce_request(header.api_version, cut[header.body_position :]).partitions
        assert entry.records == found
        assert (entry.topic, entry.index) == (known.topic, known.index)


def test_what_is_not_simple_is_not_learned() -> None:
    assert learned(frame_of(9, b"")) is None
    assert learned(frame_of(6, b"records")) is None
    assert learned(frame_of(9, b"records", transactional_id="t")) is None
