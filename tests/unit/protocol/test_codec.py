"""What a handler relies on: defaults, dropped fields, refused mistakes; and what a peer can't get past the reader."""

import struct
from array import array

import pytest

from penstock.protocol.api import ApiKey
from penstock.protocol.codec import decode_request, decode_response, encode_request, encode_response
from penstock.protocol.errors import DecodeError, ErrorCode
from penstock.protocol.message import Message


def test_api_versions_0_carries_error_35_and_the_range_of_key_18() -> None:
    refusal = Message(
        error_code=ErrorCode.UNSUPPORTED_VERSION,
        api_keys=[Message(api_key=18, min_version=0, max_version=4)],
        throttle_time_ms=0,
    )
    assert encode_response(ApiKey.API_VERSIONS, 0, refusal) == struct.pack(">hihhh", 35, 1, 18, 0, 4)


def test_field_of_a_later_version_holds_its_default() -> None:
    request = decode_request(ApiKey.METADATA, 0, b"\0\0\0\x01\0\x01t")
    assert request.allow_auto_topic_creation is True
    assert request.topics[0].topic_id == bytes(16)
    fetch = decode_request(ApiKey.FETCH, 4, struct.pack(">iiiibi", -1, 5, 1, 9, 0, 0))
    assert (fetch.session_epoch, fetch.rack_id, fetch.cluster_id) == (-1, "", None)
    assert fetch.replica_state == Message(replica_id=-1, replica_epoch=-1)
    assert fetch.forgotten_topics_data == []


def test_mutable_default_is_not_shared() -> None:
    first, second = (decode_request(ApiKey.FETCH, 4, struct.pack(">iiiibi", -1, 5, 1, 9, 0, 0)) for _ in "12")
    assert first.forgotten_topics_data is not second.forgotten_topics_data
    assert first.replica_state is not second.replica_state


def test_field_of_another_version_is_dropped() -> None:
    topic = Message(name="t", topic_id=b"i" * 16, is_internal=True)
    response = Message(throttle_time_ms=7, cluster_id="c", topics=[topic], error_code=3)
    oldest = decode_response(ApiKey.METADATA, 0, encode_response(ApiKey.METADATA, 0, response))
    assert (oldest.throttle_time_ms, oldest.cluster_id, oldest.error_code) == (0, None, 0)
    assert (oldest.topics[0].topic_id, oldest.topics[0].is_internal) == (bytes(16), False)
    newest = decode_response(ApiKey.METADATA, 13, encode_response(ApiKey.METADATA, 13, response))
    assert (newest.throttle_time_ms, newest.cluster_id, newest.error_code) == (7, "c", 3)
    assert (newest.topics[0].topic_id, newest.topics[0].is_internal) == (b"i" * 16, True)


@pytest.mark.parametrize("version", [0, 13])
def test_misspelt_field_is_refused(version: int) -> None:
    with pytest.raises(TypeError, match=r"MetadataResponse .*topic\b"):
        encode_response(ApiKey.METADATA, version, Message(topic=[]))
    with pytest.raises(TypeError, match=r"MetadataResponseTopic .*partition\b"):
        encode_response(ApiKey.METADATA, version, Message(topics=[Message(name="t", partition=[])]))


@pytest.mark.parametrize(
    ("version", "fields"),
    [(0, {"topics": None}), (9, {"topics": [Message(name=None)]}), (12, {"brokers": None})],
)
def test_null_is_not_sent_where_the_version_has_none(version: int, fields: dict[str, object]) -> None:
    with pytest.raises(TypeError, match="null"):
        encode_response(ApiKey.METADATA, version, Message(**fields))


@pytest.mark.parametrize("value", [1 << 31, -(1 << 31) - 1, "1", None, 1.5])
def test_integer_out_of_range_is_not_sent(value: object) -> None:
    with pytest.raises(ValueError, match="METADATA version 5"):
        encode_response(ApiKey.METADATA, 5, Message(throttle_time_ms=value))


@pytest.mark.parametrize("version", [8, 12])
def test_string_past_kafkas_bound_is_neither_sent_nor_read(version: int) -> None:
    longest = Message(cluster_id="ü" * 16_383 + "x")
    body = encode_response(ApiKey.METADATA, version, longest)
    assert decode_response(ApiKey.METADATA, version, body).cluster_id == longest.cluster_id
    with pytest.raises(ValueError, match="32768 bytes"):
        encode_response(ApiKey.METADATA, version, Message(cluster_id="x" * 32_768))
    too_long = encode_response(ApiKey.METADATA, 12, longest).replace(b"\x80\x80\x02", b"\x81\x80\x02")
    with pytest.raises(DecodeError, match="cluster_id: 32768"):
        decode_response(ApiKey.METADATA, 12, too_long.replace(b"ux", b"uux") + b"\0")


def test_uuid_of_another_size_is_not_sent() -> None:
    with pytest.raises(ValueError, match="UUID of 15"):
        encode_response(ApiKey.METADATA, 12, Message(topics=[Message(name="t", topic_id=bytes(15))]))


def test_structure_that_can_not_be_null_is_not_sent_as_null() -> None:
    described = Message(groups=[Message(members=[Message(assignment=None)])])
    with pytest.raises(TypeError, match="assignment can't be null"):
        encode_response(ApiKey.CONSUMER_GROUP_DESCRIBE, 0, described)


def test_view_of_wider_items_is_counted_in_bytes() -> None:
    view = memoryview(array("H", [0, 0]))
    assert encode_request(ApiKey.SASL_AUTHENTICATE, 0, Message(auth_bytes=view)) == b"\0\0\0\x04" + bytes(4)


def test_text_is_not_sent_as_bytes() -> None:
    with pytest.raises(TypeError, match="needs bytes"):
        encode_request(ApiKey.SASL_AUTHENTICATE, 0, Message(auth_bytes="secret"))


def test_arrays_that_java_wants_empty_are_not_null() -> None:
    created = Message(topics=[Message(name="t")])
    decoded = decode_response(ApiKey.CREATE_TOPICS, 7, encode_response(ApiKey.CREATE_TOPICS, 7, created))
    assert decoded.topics[0].configs == []
    assert decoded.topics[0].error_message is None
    described = Message(topics=[Message(name="t", partitions=[Message(partition_index=0)])])
    body = encode_response(ApiKey.DESCRIBE_TOPIC_PARTITIONS, 0, described)
    partition = decode_response(ApiKey.DESCRIBE_TOPIC_PARTITIONS, 0, body).topics[0].partitions[0]
    assert (partition.eligible_leader_replicas, partition.last_known_elr) == ([], [])


def test_records_that_nobody_gave_are_empty_and_not_null() -> None:
    response = Message(responses=[Message(topic="t", partitions=[Message()])])
    decoded = decode_response(ApiKey.FETCH, 11, encode_response(ApiKey.FETCH, 11, response))
    assert decoded.responses[0].partitions[0].records == b""


def test_null_structure_round_trips() -> None:
    for cursor in (None, Message(topic_name="t", partition_index=3)):
        body = encode_request(ApiKey.DESCRIBE_TOPIC_PARTITIONS, 0, Message(cursor=cursor))
        assert decode_request(ApiKey.DESCRIBE_TOPIC_PARTITIONS, 0, body).cursor == cursor


def test_tagged_field_at_its_default_is_not_sent() -> None:
    empty = encode_request(ApiKey.FETCH, 15, Message())
    same = Message(cluster_id=None, replica_state=Message(replica_epoch=-1))
    assert encode_request(ApiKey.FETCH, 15, same) == empty
    assert empty.endswith(b"\x01\0")  # the rack id, and no tagged fields
    assert (
        len(encode_request(ApiKey.FETCH, 15, Message(replica_state=Message(replica_id=5)))) == len(empty) + 15
    )


def test_unknown_tagged_field_is_skipped() -> None:
    body = encode_request(ApiKey.FETCH, 12, Message(rack_id="r", cluster_id="c"))
    assert body.endswith(b"\x01\0\x02\x02c")
    with_unknown = body[:-5] + b"\x03\x00\x02\x02c\x05\x03abc\x81\x01\x00"
    assert decode_request(ApiKey.FETCH, 12, with_unknown) == decode_request(ApiKey.FETCH, 12, body)


def test_tagged_field_that_claims_another_size_than_it_has_is_refused() -> None:
    body = encode_request(ApiKey.FETCH, 12, Message(cluster_id="c"))
    with pytest.raises(DecodeError, match="cluster_id"):
        decode_request(ApiKey.FETCH, 12, body[:-3] + b"\x03\x02cx")


CLASSIC_TOPIC = b"\0\0\0\x01\0\x01t"


@pytest.mark.parametrize(
    ("version", "body"),
    [
        (1, CLASSIC_TOPIC[:-1]),
        (1, b""),
        (0, b"\xff\xff\xff\xff"),
        (1, b"\xff\xff\xff\xfe"),
        (1, b"\0\0\0\x01\xff\xff"),
        (1, b"\0\0\0\x01\xff\xfet"),
        (1, b"\0\0\0\x01\0\x01\xff"),
        (1, b"\0\0\0\x01\0\x03\xed\xa0\x80"),
        (9, b"\x02\x00\0\x01\0\0\0"),
        (9, b"\x02\x02\xff\0\x01\0\0\0"),
        (9, b"\x80\x80\x80\x80\x80\0\x01\0\0\0"),
        (9, b"\x01\x01\0\0\x01\0"),
    ],
)
def test_broken_body_is_refused(version: int, body: bytes) -> None:
    with pytest.raises(DecodeError):
        decode_request(ApiKey.METADATA, version, body)


def test_bytes_behind_a_request_are_ignored_since_librdkafka_sends_some() -> None:
    null_list_in_four_bytes = bytes.fromhex("00000000010000")
    request = decode_request(ApiKey.METADATA, 13, null_list_in_four_bytes)
    assert request.topics is None
    assert decode_request(ApiKey.METADATA, 1, CLASSIC_TOPIC + b"x").topics[0].name == "t"


def test_bytes_behind_a_response_are_refused() -> None:
    body = encode_response(ApiKey.METADATA, 1, Message(brokers=[], topics=[]))
    with pytest.raises(DecodeError, match="behind"):
        decode_response(ApiKey.METADATA, 1, body + b"x")


def test_records_are_views_and_other_bytes_are_copies() -> None:
    produced = Message(topic_data=[Message(name="t", partition_data=[Message(index=0, records=b"rrr")])])
    body = memoryview(bytearray(encode_request(ApiKey.PRODUCE, 7, produced)))
    records = decode_request(ApiKey.PRODUCE, 7, body).topic_data[0].partition_data[0].records
    assert isinstance(records, memoryview)
    assert records.obj is body.obj
    token = decode_request(ApiKey.SASL_AUTHENTICATE, 0, memoryview(b"\0\0\0\x02ab")).auth_bytes
    assert type(token) is bytes


@pytest.mark.parametrize(("key", "version"), [(ApiKey.METADATA, 99), (ApiKey.PRODUCE, 2), (4, 0)])
def test_version_without_a_table_is_a_mistake_of_ours(key: int, version: int) -> None:
    with pytest.raises(ValueError, match=r"no schema|not a valid"):
        decode_request(key, version, b"")


def test_message_compares_by_value_and_knows_no_misspelt_attribute() -> None:
    message = Message(name="t")
    assert message == Message(name="t")
    assert message != Message(name="u")
    assert repr(message) == "Message(name='t')"
    with pytest.raises(AttributeError):
        _ = message.nmae
