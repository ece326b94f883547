"""Batches with fewer records: what stays is byte for byte what it was, under a header that tells the truth."""

from dataclasses import replace

import pytest
from tests.support.compaction import keyed, marker

from penstock.protocol.compression import Codec
from penstock.protocol.errors import DecodeError
from penstock.protocol.record_batch import (
    DELETE_HORIZON_FLAG,
    HEADER_SIZE_BYTES,
    read_batch_header,
    stamp,
    verify_crc,
)
from penstock.protocol.record_filter import (
    ControlType,
    KeptRecords,
    control_type,
    empty_batch,
    keep_records,
    keep_records_until,
)
from penstock.protocol.records import (
    Record,
    decode_records,
    encode_batch,
    iterate_entries,
    recompress,
    seal_batch,
    unpack_batch,
)

MANY = 1 << 20
RECORDS = [
    Record(100 + 3 * i, 5000 - 7 * i, key, value, headers)
    for i, (key, value, headers) in enumerate(
        [
            (b"a", b"1" * 200, ()),
            (None, b"", (("h", b"x"), ("h", None))),
            (b"", None, ()),
            (b"k" * 300, b"2", (("\udcff", b""),)),
            (b"d", None, ()),
        ]
    )
]


def made(
    codec: Codec = Codec.NONE, *, log_append_time_ms: int | None = None, delete_horizon_ms: int | None = None
) -> bytearray:
    return bytearray(
        encode_batch(
            RECORDS,
            codec=codec,
            base_offset=100,
            keep_offsets=True,
            last_offset_delta=20,
            producer_id=7,
            producer_epoch=3,
            base_sequence=11,
            partition_leader_epoch=4,
            log_append_time_ms=log_append_time_ms,
            delete_horizon_ms=delete_horizon_ms,
        )
    )


def kept_of(raw: bytearray, wanted: set[int]) -> tuple[bytes, KeptRecords]:
    data, header = unpack_batch(memoryview(raw), MANY)
    kept = KeptRecords()
    for offset, timestamp, _, has_value, start, _, end in iterate_entries(data, header):
        if offset in wanted:
            kept.keep(timestamp, has_value, start, end)
    return data, kept


def test_entries_are_what_the_records_are() -> None:
    data, header = unpack_batch(memoryview(made()), MANY)
    entries = list(iterate_entries(data, header))
    told = [(r.offset, r.timestamp, r.key, r.value is not None) for r in RECORDS]
    assert [entry[:4] for entry in entries] == told
    assert entries[0][4] == 0
    assert [entry[6] for entry in entries[:-1]] == [entry[4] for entry in entries[1:]]
    assert entries[-1][6] == len(data)


def test_log_append_time_is_every_entrys_time() -> None:
    data, header = unpack_batch(memoryview(made(log_append_time_ms=99)), MANY)
    assert {entry[1] for entry in iterate_entries(data, header)} == {99}


@pytest.mark.parametrize("codec", list(Codec))
@pytest.mark.parametrize("wanted", [{100}, {103, 106}, {100, 106, 112}, {112}, {100, 103, 106, 109, 112}])
def test_what_is_kept_is_what_it_was(codec: Codec, wanted: set[int]) -> None:
    raw = made(codec)
    data, kept = kept_of(raw, wanted)
    header = read_batch_header(raw)
    for horizon_ms in (None, 10**12):
        left = memoryview(
            keep_records(data, header, kept)
            if horizon_ms is None
            else keep_records_until(data, header, kept, horizon_ms)
        )
        told = read_batch_header(left)
        assert verify_crc(left)
        assert decode_records(left, output_max_bytes=MANY) == [r for r in RECORDS if r.offset in wanted]
        assert (told.base_offset, told.last_offset_delta, told.record_count) == (100, 20, len(wanted))
        assert (told.producer_id, told.producer_epoch, told.base_sequence) == (7, 3, 11)
        assert (told.partition_leader_epoch, told.codec) == (4, codec)
        assert told.max_timestamp == max(r.timestamp for r in RECORDS if r.offset in wanted)
        assert told.delete_horizon_ms == horizon_ms
        assert kept.has_tombstone == bool(wanted & {106, 112})


def test_append_time_stays_the_time_of_what_is_kept() -> None:
    raw = made(log_append_time_ms=99)
    data, kept = kept_of(raw, {103})
    for left in (
        keep_records(data, read_batch_header(raw), kept),
        keep_records_until(data, read_batch_header(raw), kept, 10**12),
    ):
        assert [r.timestamp for r in decode_records(memoryview(left), output_max_bytes=MANY)] == [99]
        assert read_batch_header(left).max_timestamp == 99


def test_a_horizon_stays_when_more_records_go() -> None:
    raw = made()
    data, kept = kept_of(raw, {100, 106, 109})
    first = keep_records_until(data, read_batch_header(raw), kept, 10**12)
    data, kept = kept_of(first, {106, 109})
    second = keep_records(data, read_batch_header(first), kept)
    assert read_batch_header(second).delete_horizon_ms == 10**12
    told = decode_records(memoryview(second), output_max_bytes=MANY)
    assert told == [r for r in RECORDS if r.offset in {106, 109}]


def test_a_time_too_far_below_the_horizon_leaves_a_batch_that_can_be_read() -> None:
    now_ms, int64_min = 10**12, -(2**63)
    records = [
        Record(0, now_ms, b"a", b"1"),
        Record(1, now_ms + int64_min, b"b", None),
        Record(2, 5, b"c", None),
    ]
    raw = bytearray(encode_batch(records, codec=Codec.NONE))
    data, kept = kept_of(raw, {0, 1, 2})
    left = keep_records_until(data, read_batch_header(raw), kept, 2 * now_ms)
    told = decode_records(memoryview(left), output_max_bytes=MANY)
    assert told == [records[0], replace(records[1], timestamp=2 * now_ms + int64_min), records[2]]


def test_a_record_later_than_its_batch_said_does_not_put_off_its_expiry() -> None:
    made_header = read_batch_header(made())
    payload = bytes(made()[HEADER_SIZE_BYTES:])
    raw = seal_batch(replace(made_header, max_timestamp=4990), payload)  # the latest is of 5000
    data, kept = kept_of(raw, {100, 112})
    header = read_batch_header(raw)
    for left in (keep_records(data, header, kept), keep_records_until(data, header, kept, 10**12)):
        assert read_batch_header(left).max_timestamp == 4990


def test_an_emptied_batch_holds_its_place_and_its_producers_sequence() -> None:
    raw = made(Codec.ZSTD, delete_horizon_ms=5)
    left = memoryview(empty_batch(read_batch_header(raw)))
    told = read_batch_header(left)
    assert verify_crc(left)
    assert (len(left), told.record_count, told.codec) == (61, 0, Codec.NONE)
    assert not told.attributes & DELETE_HORIZON_FLAG
    assert (told.base_offset, told.last_offset, told.last_sequence) == (100, 120, 31)
    assert decode_records(left, output_max_bytes=MANY) == []
    assert list(iterate_entries(*unpack_batch(left, MANY))) == []


def test_the_type_of_a_marker_is_read_and_an_emptied_one_has_none() -> None:
    for kind in ControlType:
        raw = marker(kind, producer_id=1)
        stamp(memoryview(raw), 5, 0)
        assert control_type(memoryview(raw)) == kind
        assert control_type(memoryview(empty_batch(read_batch_header(raw)))) is None
    with pytest.raises(DecodeError):
        control_type(memoryview(keyed([(b"k", b"v")])))


def test_bytes_that_are_no_records_are_an_error_wherever_they_are_cut() -> None:
    data, header = unpack_batch(memoryview(made()), MANY)
    for length in range(len(data)):
        with pytest.raises(DecodeError):
            list(iterate_entries(data[:length], header))
    with pytest.raises(DecodeError, match="behind the last record"):
        list(iterate_entries(data + b"\0", header))


def test_a_batch_that_keeps_all_is_the_same_but_for_its_level_of_compression() -> None:
    raw = made(Codec.GZIP)
    data, kept = kept_of(raw, {r.offset for r in RECORDS})
    assert keep_records(data, read_batch_header(raw), kept) == recompress(memoryview(raw), Codec.GZIP)
