"""Columns are what decoding record by record finds, for whole batches, broken ones and parts of them."""

from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.support.batches import encode_batch

from penstock.client.metadata import TopicPartition
from penstock.consumer.batch import ConsumerBatch, RawBatch, TimeWindow
from penstock.consumer.errors import CorruptRecords
from penstock.offline.arrow_tables import CannotWrite, record_table, rows_of
from penstock.offline.columns import decode_columns
from penstock.protocol.compression import Codec
from penstock.protocol.errors import DecodeError
from penstock.protocol.record_batch import iterate_batches
from penstock.protocol.records import Record
from penstock.protocol.records import encode_batch as encode_records

PARTITION = TopicPartition("t", 3)
Row = tuple[int, int, bytes | None, bytes | None, tuple[tuple[str, bytes | None], ...]]

data = st.none() | st.binary(max_size=200)
headers = st.lists(st.tuples(st.text(max_size=3), st.none() | st.binary(max_size=3)), max_size=2)
records = st.tuples(st.integers(1, 70), st.integers(-70, 20_000), data, data, st.just([]) | headers)


def raw_of(base_offset: int, fields: Sequence[tuple[int, int, bytes | None, bytes | None, Any]]) -> RawBatch:
    offset = base_offset - 1
    made: list[Record] = []
    for step, time_ms, key, value, named in fields:
        offset += step
        made.append(Record(offset, 1_000_000 + time_ms, key, value, tuple(named)))
    (found,) = iterate_batches(
        memoryview(encode_records(made, codec=Codec.NONE, keep_offsets=True, base_offset=made[0].offset))
    )
    raw = RawBatch(*found)
    raw.open()
    return raw


def by_columns(batch: ConsumerBatch) -> list[Row]:
    found: list[Row] = []
    for columns in decode_columns(batch):
        for row in rows_of(record_table(columns)):
            named = tuple((each["name"], each["value"]) for each in row["headers"])
            found.append((row["offset"], row["timestamp"], row["key"], row["value"], named))
    return found


def by_records(batch: ConsumerBatch) -> list[Row]:
    return [(r.offset, r.timestamp_ms, r.key, r.value, r.headers) for r in batch]


@given(
    st.lists(st.lists(records, min_size=1, max_size=8), min_size=1, max_size=3),
    st.integers(0, 200),
    st.integers(0, 900),
    st.none() | st.tuples(st.integers(-70, 20_000), st.integers(0, 20_000)),
)
def test_columns_and_records_agree(
    lists: list[list[Any]], start: int, length: int, window: tuple[int, int] | None
) -> None:
    raws: list[RawBatch] = []
    base = 0
    for fields in lists:
        raws.append(raw_of(base, fields))
        base = raws[-1].next_offset
    chosen = None if window is None else TimeWindow(1_000_000 + window[0], 1_000_000 + sum(window))
    batch = ConsumerBatch(PARTITION, raws, start, start + length, chosen)
    assert by_columns(batch) == by_records(batch)


def test_batches_of_records_that_are_all_alike() -> None:
    values = [b"%05d" % number for number in range(300)]
    parts = [values[:64], values[64:65], values[65:]]  # two widths of the offset's varint, and a lone one
    base, data = 0, b""
    for part in parts:
        data += encode_batch(part, base_offset=base, timestamps_ms=[7] * len(part))
        base += len(part)
    raws = [RawBatch(*found) for found in iterate_batches(memoryview(data))]
    for raw in raws:
        raw.open()
    batch = ConsumerBatch(PARTITION, raws, 0, base)
    assert by_columns(batch) == by_records(batch)
    assert [row[3] for row in by_columns(batch)] == values


@given(
    st.lists(records, min_size=1, max_size=5),
    st.lists(st.tuples(st.integers(0, 1 << 16), st.integers(0, 255)), min_size=1, max_size=3),
    st.integers(-2, 2),
)
def test_broken_bytes_are_refused_as_by_records(
    fields: list[Any], changes: list[tuple[int, int]], cut: int
) -> None:
    raw = raw_of(0, fields)
    assert raw.records is not None
    broken = bytearray(raw.records)
    for place, byte in changes:
        broken[place % len(broken)] = byte
    raw.records = bytes(broken[:cut] if cut < 0 else broken + bytes(cut))
    batch = ConsumerBatch(PARTITION, [raw], 0, 1 << 40)
    try:
        expected: list[Row] | None = by_records(batch)
    except CorruptRecords:
        expected = None
    try:
        found: list[Row] | None = by_columns(batch)
    except (CorruptRecords, DecodeError) as error:
        if "negative length" in str(error):
            return  # decoding by records takes its absolute value
        found = None
    except CannotWrite:
        return
    if expected is not None and any(not -(1 << 62) < row[1] < 1 << 62 for row in expected):
        return  # a timestamp that 64 bits do not hold
    assert found == expected


def test_a_header_name_that_is_no_text_is_told() -> None:
    record = Record(5, 1, None, b"v", (("\udcff", b"x"),))
    (found,) = iterate_batches(
        memoryview(encode_records([record], codec=Codec.NONE, keep_offsets=True, base_offset=5))
    )
    raw = RawBatch(*found)
    raw.open()
    (columns,) = decode_columns(ConsumerBatch(PARTITION, [raw], 0, 9))
    with pytest.raises(CannotWrite, match="t-3, offset 5"):
        record_table(columns)
