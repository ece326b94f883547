"""Records of consumer groups to bytes and back, and what a shard sees of them."""

import hypothesis.strategies as st
import pytest
from hypothesis import given

from penstock.broker.groups.consumer_group_events import (
    CurrentAssignment,
    CurrentRecord,
    GroupEpochRecord,
    MemberMetadata,
    MemberRecord,
    MemberState,
    Record,
    RegexRecord,
    TargetEpochRecord,
    TargetRecord,
)
from penstock.broker.groups.consumer_group_store import decode_record, encode_record
from penstock.protocol.consumer_group_records import KEYS, VALUES, ConsumerRecordKind
from penstock.protocol.errors import DecodeError
from penstock.protocol.message import Message

INT32 = st.integers(-(2**31), 2**31 - 1)
INT64 = st.integers(-(2**63), 2**63 - 1)
TEXT = st.text(max_size=5)
ASSIGNMENTS = st.dictionaries(
    st.binary(min_size=16, max_size=16), st.frozensets(st.integers(0, 2**31 - 1), min_size=1), max_size=3
)
METADATA = st.builds(
    MemberMetadata,
    instance_id=st.none() | TEXT,
    rack_id=st.none() | TEXT,
    client_id=TEXT,
    client_host=TEXT,
    topic_names=st.lists(TEXT).map(tuple),
    topic_regex=TEXT,
    rebalance_timeout_ms=INT32,
    server_assignor=st.none() | TEXT,
)
CURRENTS = st.builds(
    CurrentAssignment,
    member_epoch=INT32,
    previous_member_epoch=INT32,
    state=st.sampled_from(MemberState),
    assigned=ASSIGNMENTS,
    pending_revocation=ASSIGNMENTS,
)
RECORDS: st.SearchStrategy[Record] = st.one_of(
    st.builds(GroupEpochRecord, INT32, INT64),
    st.just(GroupEpochRecord(None)),
    st.builds(MemberRecord, TEXT, st.none() | METADATA),
    st.builds(TargetEpochRecord, st.none() | INT32),
    st.builds(TargetRecord, TEXT, st.none() | ASSIGNMENTS),
    st.builds(CurrentRecord, TEXT, st.none() | CURRENTS),
    st.builds(RegexRecord, TEXT, st.frozensets(TEXT), INT64),
    st.builds(RegexRecord, TEXT, st.none()),
)


@given(TEXT, RECORDS)
def test_what_is_written_is_read(group_id: str, record: Record) -> None:
    key, value = encode_record(group_id, record, 12345)
    assert decode_record(key, value) == record
    kind = ConsumerRecordKind(int.from_bytes(key[:2]))
    assert KEYS[kind].decode(key).group_id == group_id


def test_an_epoch_record_is_byte_for_byte_kafkas() -> None:
    key, value = encode_record("g", GroupEpochRecord(7, 258), 0)
    assert key == b"\0\3\0\1g"
    assert value == b"\0\0\0\0\0\7\1\0\x08\0\0\0\0\0\0\1\2"
    assert encode_record("g", GroupEpochRecord(7), 0)[1] == b"\0\0\0\0\0\7\0", "a hash of 0 is left out"


def test_a_member_without_an_expression_may_have_null_there() -> None:
    kind = ConsumerRecordKind.MEMBER_METADATA
    key = KEYS[kind].encode(kind, Message(group_id="g", member_id="m"))
    value = VALUES[kind].encode(0, Message(instance_id=None, rack_id=None, subscribed_topic_regex=None))
    record = decode_record(key, value)
    assert isinstance(record, MemberRecord)
    assert record.metadata is not None
    assert record.metadata.topic_regex == ""


def test_what_kafka_4_0_kept_of_partitions_says_nothing() -> None:
    kind = ConsumerRecordKind.PARTITION_METADATA
    key = KEYS[kind].encode(kind, Message(group_id="g"))
    assert decode_record(key, VALUES[kind].encode(0, Message())) is None
    assert decode_record(key, None) is None


@pytest.mark.parametrize("change", [slice(0, -1), slice(0, 4)])
def test_damage_is_a_decode_error(change: slice) -> None:
    key, value = encode_record("g", CurrentRecord("m", CurrentAssignment()), 0)
    assert value is not None
    with pytest.raises(DecodeError):
        decode_record(key, value[change])


def test_a_state_that_nobody_knows_is_a_decode_error() -> None:
    kind = ConsumerRecordKind.CURRENT_MEMBER_ASSIGNMENT
    key, _ = encode_record("g", CurrentRecord("m", None), 0)
    with pytest.raises(DecodeError, match="state 9"):
        decode_record(key, VALUES[kind].encode(0, Message(state=9)))
    with pytest.raises(DecodeError, match="kind 2"):
        decode_record(b"\0\2\0\1g", None)
