"""The batch header: what is refused, and what may be written over."""

import struct
from typing import Any

import pytest
from tests.support.batches import patched

from penstock.protocol.compression import Codec
from penstock.protocol.errors import DecodeError, ErrorCode, InvalidBatch
from penstock.protocol.record_batch import (
    ATTRIBUTES_POSITION,
    CONTROL_FLAG,
    DELETE_HORIZON_FLAG,
    HEADER_SIZE_BYTES,
    LOG_APPEND_TIME_FLAG,
    MAX_SEQUENCE,
    NO_SEQUENCE,
    TRANSACTIONAL_FLAG,
    TimestampType,
    check_produced_batch,
    iterate_batches,
    read_batch_header,
    set_log_append_time,
    stamp,
    verify_crc,
)
from penstock.protocol.records import Record, decode_records, encode_batch

RECORDS = [Record(0, 1_000, b"k", b"v" * 10), Record(1, 1_007, None, b"w" * 5, (("h", b"x"),))]
BATCH_LENGTH_POSITION, EPOCH_POSITION, MAGIC_POSITION = 8, 12, 16
LAST_OFFSET_DELTA_POSITION, PRODUCER_ID_POSITION, PRODUCER_EPOCH_POSITION = 23, 43, 51
BASE_SEQUENCE_POSITION, COUNT_POSITION = 53, 57


def a_batch(**fields: Any) -> bytes:
    return encode_batch(RECORDS, codec=Codec.NONE, **fields)


def refusal(batch: bytes) -> ErrorCode:
    with pytest.raises(InvalidBatch) as caught:
        check_produced_batch(memoryview(batch))
    return caught.value.code


def test_every_header_field_is_read_from_its_place() -> None:
    values = (2**40, 49, 7, 2, 0xFEDCBA98, 0x10, 3, 1_111, 2_222, 5, 6, 8, 4)
    header = read_batch_header(b"pad" + struct.pack(">qiibIhiqqqhii", *values), 3)
    assert values == (
        header.base_offset,
        header.batch_length,
        header.partition_leader_epoch,
        header.magic,
        header.crc,
        header.attributes,
        header.last_offset_delta,
        header.base_timestamp,
        header.max_timestamp,
        header.producer_id,
        header.producer_epoch,
        header.base_sequence,
        header.record_count,
    )
    assert (header.size_bytes, header.last_offset, header.next_offset) == (61, 2**40 + 3, 2**40 + 4)


def test_attribute_bits_mean_what_kafka_says() -> None:
    header = read_batch_header(a_batch())
    assert (header.is_transactional, header.is_control, header.delete_horizon_ms) == (False, False, None)
    assert header.timestamp_type is TimestampType.CREATE_TIME
    header = read_batch_header(
        a_batch(is_transactional=True, is_control=True, log_append_time_ms=5, delete_horizon_ms=9)
    )
    assert (header.is_transactional, header.is_control, header.delete_horizon_ms) == (True, True, 9)
    assert header.timestamp_type is TimestampType.LOG_APPEND_TIME
    assert header.attributes == 0x78
    for codec in Codec:
        assert read_batch_header(encode_batch(RECORDS, codec=codec)).codec is codec


@pytest.mark.parametrize("number", [5, 6, 7])
def test_unknown_codec_is_no_codec(number: int) -> None:
    header = read_batch_header(patched(a_batch(), ">h", ATTRIBUTES_POSITION, number))
    with pytest.raises(DecodeError):
        _ = header.codec


@pytest.mark.parametrize(
    ("base_sequence", "last_sequence"),
    [(0, 1), (MAX_SEQUENCE - 1, MAX_SEQUENCE), (MAX_SEQUENCE, 0), (NO_SEQUENCE, NO_SEQUENCE)],
)
def test_last_sequence_wraps_to_zero(base_sequence: int, last_sequence: int) -> None:
    header = read_batch_header(a_batch(producer_id=1, producer_epoch=0, base_sequence=base_sequence))
    assert header.last_sequence == last_sequence


@pytest.mark.parametrize("cut", [0, 1, 12, 17, HEADER_SIZE_BYTES - 1])
def test_short_header_is_no_header(cut: int) -> None:
    with pytest.raises(DecodeError):
        read_batch_header(a_batch()[:cut])


@pytest.mark.parametrize(
    ("form", "position", "value"),
    [(">b", MAGIC_POSITION, 1), (">b", MAGIC_POSITION, -1), (">i", BATCH_LENGTH_POSITION, 48), (">i", 8, -1)],
)
def test_impossible_header_is_refused_by_reader_and_iterator(form: str, position: int, value: int) -> None:
    batch = patched(a_batch(), form, position, value)
    with pytest.raises(DecodeError):
        read_batch_header(batch)
    with pytest.raises(DecodeError):
        list(iterate_batches(batch))


def test_good_batch_passes_the_check() -> None:
    plain = check_produced_batch(memoryview(a_batch()))
    assert plain == read_batch_header(a_batch())
    idempotent = a_batch(producer_id=0, producer_epoch=0, base_sequence=0, is_transactional=True)
    assert check_produced_batch(memoryview(idempotent)).has_producer_id


def test_sequence_without_producer_id_is_let_through_since_sarama_sends_it() -> None:
    assert not check_produced_batch(memoryview(a_batch(base_sequence=0, producer_epoch=0))).has_producer_id


@pytest.mark.parametrize(
    ("form", "position", "value", "code"),
    [
        (">q", 0, 1, ErrorCode.INVALID_RECORD),
        (">i", BATCH_LENGTH_POSITION, 48, ErrorCode.CORRUPT_MESSAGE),
        (">i", BATCH_LENGTH_POSITION, -1, ErrorCode.CORRUPT_MESSAGE),
        (">i", BATCH_LENGTH_POSITION, 2**31 - 1, ErrorCode.INVALID_RECORD),
        (">b", MAGIC_POSITION, 0, ErrorCode.INVALID_RECORD),
        (">b", MAGIC_POSITION, 1, ErrorCode.INVALID_RECORD),
        (">b", MAGIC_POSITION, 3, ErrorCode.CORRUPT_MESSAGE),
        (">h", ATTRIBUTES_POSITION, 5, ErrorCode.UNSUPPORTED_COMPRESSION_TYPE),
        (">h", ATTRIBUTES_POSITION, LOG_APPEND_TIME_FLAG, ErrorCode.INVALID_TIMESTAMP),
        (">h", ATTRIBUTES_POSITION, CONTROL_FLAG, ErrorCode.INVALID_RECORD),
        (">h", ATTRIBUTES_POSITION, DELETE_HORIZON_FLAG, ErrorCode.INVALID_RECORD),
        (">h", ATTRIBUTES_POSITION, TRANSACTIONAL_FLAG, ErrorCode.INVALID_RECORD),
        (">i", LAST_OFFSET_DELTA_POSITION, 0, ErrorCode.INVALID_RECORD),
        (">i", LAST_OFFSET_DELTA_POSITION, 2, ErrorCode.INVALID_RECORD),
        (">i", COUNT_POSITION, 0, ErrorCode.INVALID_RECORD),
        (">i", COUNT_POSITION, -1, ErrorCode.INVALID_RECORD),
        (">i", COUNT_POSITION, 2**31 - 1, ErrorCode.INVALID_RECORD),
        (">q", PRODUCER_ID_POSITION, -2, ErrorCode.INVALID_RECORD),
        (">q", PRODUCER_ID_POSITION, 4, ErrorCode.INVALID_RECORD),
    ],
)
def test_wrong_field_under_a_right_checksum_is_refused(
    form: str, position: int, value: int, code: ErrorCode
) -> None:
    assert refusal(patched(a_batch(), form, position, value)) is code


@pytest.mark.parametrize(
    ("form", "position"), [(">h", PRODUCER_EPOCH_POSITION), (">i", BASE_SEQUENCE_POSITION)]
)
def test_producer_id_without_epoch_or_sequence_is_refused(form: str, position: int) -> None:
    batch = a_batch(producer_id=4, producer_epoch=0, base_sequence=0)
    assert refusal(patched(batch, form, position, -1)) is ErrorCode.INVALID_RECORD


def test_empty_count_that_matches_an_empty_range_is_still_refused() -> None:
    empty = encode_batch([], codec=Codec.NONE, last_offset_delta=0)
    assert refusal(patched(empty, ">i", LAST_OFFSET_DELTA_POSITION, -1)) is ErrorCode.INVALID_RECORD


def test_field_that_one_batch_does_not_tile_is_refused() -> None:
    batch = a_batch()
    assert refusal(b"") is ErrorCode.INVALID_RECORD
    assert refusal(batch + batch) is ErrorCode.INVALID_RECORD
    assert refusal(batch + b"\0") is ErrorCode.INVALID_RECORD
    assert refusal(batch[: HEADER_SIZE_BYTES - 1]) is ErrorCode.CORRUPT_MESSAGE
    for cut in range(HEADER_SIZE_BYTES, len(batch)):
        assert refusal(batch[:cut]) is ErrorCode.INVALID_RECORD


@pytest.mark.parametrize("codec", Codec)
def test_every_single_flipped_bit_is_noticed(codec: Codec) -> None:
    batch = bytearray(encode_batch(RECORDS, codec=codec, producer_id=4, producer_epoch=0, base_sequence=9))
    view = memoryview(batch)
    good = check_produced_batch(view)
    for bit in range(8 * len(batch)):
        batch[bit // 8] ^= 1 << bit % 8
        try:
            header = check_produced_batch(view)
        except InvalidBatch:
            pass
        else:  # only what the broker writes over anyway; it has a field of its own
            assert EPOCH_POSITION <= bit // 8 < MAGIC_POSITION
            header.partition_leader_epoch = good.partition_leader_epoch
            assert header == good
        batch[bit // 8] ^= 1 << bit % 8


def test_stamp_changes_offset_and_epoch_and_nothing_under_the_checksum() -> None:
    batch = bytearray(a_batch())
    stamp(memoryview(batch), 2**62, 41)
    header = read_batch_header(batch)
    assert (header.base_offset, header.partition_leader_epoch) == (2**62, 41)
    assert batch[MAGIC_POSITION:] == a_batch()[MAGIC_POSITION:]
    assert verify_crc(memoryview(batch))


def test_log_append_time_gives_every_record_the_brokers_time_under_a_right_checksum() -> None:
    for now_ms in (0, 123_456):
        batch = bytearray(a_batch())
        set_log_append_time(memoryview(batch), now_ms)
        assert verify_crc(memoryview(batch))
        assert read_batch_header(batch).timestamp_type is TimestampType.LOG_APPEND_TIME
        assert read_batch_header(batch).max_timestamp == now_ms
        timestamps = [each.timestamp for each in decode_records(memoryview(batch), output_max_bytes=1_000)]
        assert timestamps == [now_ms, now_ms]


def test_torn_last_batch_ends_the_iteration() -> None:
    first, second = a_batch(), a_batch(base_offset=2)
    whole = first + second
    for cut in range(len(whole) + 1):
        found = list(iterate_batches(whole[:cut]))
        assert len(found) == (0 if cut < len(first) else 1 if cut < len(whole) else 2)
        assert b"".join(view for _, view in found) == whole[: sum(header.size_bytes for header, _ in found)]
    assert [header.base_offset for header, _ in iterate_batches(whole)] == [0, 2]


def test_checksum_of_anything_but_the_whole_batch_is_wrong() -> None:
    batch = a_batch()
    assert verify_crc(memoryview(batch))
    for wrong in (batch[:60], batch[:-1], batch[:-1] + bytes((batch[-1] ^ 1,)), batch + b"\0"):
        assert not verify_crc(memoryview(wrong))
