"""Keys and values of __consumer_offsets: the bytes are Kafka's, and whatever else comes is refused without harm."""

import pytest

from penstock.protocol.errors import DecodeError
from penstock.protocol.group_records import (
    GROUP_METADATA_VALUE,
    OFFSET_COMMIT_VALUE,
    decode_group_key,
    decode_group_value,
    decode_offset_key,
    decode_offset_value,
    encode_group_key,
    encode_group_value,
    encode_offset_key,
    encode_offset_value,
)
from penstock.protocol.message import Message
from penstock.protocol.record_format import UnknownRecordVersion, version_of

# As Apache Kafka 4.3.1 wrote them.
KAFKA_OFFSET_KEY = b"\x00\x01\x00\x01g\x00\x01t\x00\x00\x00\x03"
KAFKA_GROUP_KEY = b"\x00\x02\x00\x01g"


def test_keys_are_byte_for_byte_kafkas() -> None:
    assert encode_offset_key("g", "t", 3) == KAFKA_OFFSET_KEY
    assert decode_offset_key(KAFKA_OFFSET_KEY) == ("g", "t", 3)
    assert encode_group_key("g") == KAFKA_GROUP_KEY
    assert decode_group_key(KAFKA_GROUP_KEY) == "g"


def test_an_offset_keeps_its_topic_id_and_one_with_a_retention_time_keeps_that() -> None:
    plain = decode_offset_value(encode_offset_value(5, 2, "m", 77, topic_id=b"x" * 16))
    assert (plain.offset, plain.leader_epoch, plain.metadata, plain.commit_timestamp) == (5, 2, "m", 77)
    assert (plain.topic_id, plain.expire_timestamp) == (b"x" * 16, -1)
    expiring = encode_offset_value(5, 2, "m", 77, expire_timestamp=99, topic_id=b"x" * 16)
    assert version_of(expiring) == 1
    assert decode_offset_value(expiring).expire_timestamp == 99


@pytest.mark.parametrize("version", range(5))
def test_every_version_of_an_offset_that_kafka_ever_wrote_is_read(version: int) -> None:
    stored = Message(offset=2**40, leader_epoch=7, metadata="é", commit_timestamp=1, expire_timestamp=2)
    read = decode_offset_value(OFFSET_COMMIT_VALUE.encode(version, stored))
    assert (read.offset, read.metadata, read.commit_timestamp) == (2**40, "é", 1)
    assert read.leader_epoch == (7 if version >= 3 else -1)
    assert read.expire_timestamp == (2 if version == 1 else -1)


@pytest.mark.parametrize("version", range(5))
def test_every_version_of_a_group_is_read_and_the_oldest_has_one_timeout_for_both(version: int) -> None:
    member = Message(member_id="m", client_id="c", client_host="/h", rebalance_timeout=9, session_timeout=5)
    stored = Message(protocol_type="consumer", generation=3, protocol=None, leader="m", members=[member])
    read = decode_group_value(GROUP_METADATA_VALUE.encode(version, stored))
    assert (read.protocol_type, read.generation, read.protocol, read.leader) == ("consumer", 3, None, "m")
    assert read.members[0].rebalance_timeout == (9 if version else 5)


def test_a_group_is_written_in_the_version_that_kafka_writes() -> None:
    assert version_of(encode_group_value(Message(protocol_type="consumer"))) == 3


@pytest.mark.parametrize(
    "data", [b"", b"\x00", b"\x00\x01\x00\x05g", KAFKA_OFFSET_KEY + b"!", b"\x00\x01\xff\xff"]
)
def test_a_damaged_key_is_an_error_and_not_a_crash(data: bytes) -> None:
    with pytest.raises(DecodeError):
        decode_offset_key(data)


def test_a_version_of_the_future_is_told_apart_from_damage() -> None:
    with pytest.raises(UnknownRecordVersion, match="version 9"):
        decode_offset_value(b"\x00\x09" + b"x" * 40)


def test_a_count_of_members_that_no_record_could_hold_allocates_nothing() -> None:
    empty = encode_group_value(Message(protocol_type="consumer"))
    with pytest.raises(DecodeError):
        decode_group_value(empty[:-4] + b"\x7f\xff\xff\xff")
