"""The consumer's decoding against the protocol's own, and against garbage."""

from collections.abc import Callable
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.consumer.decoding import (
    Progress,
    Source,
    decode_records,
    decode_some,
    decode_values,
    record_starts,
)
from penstock.consumer.record import ConsumerRecord
from penstock.protocol.compression import Codec
from penstock.protocol.errors import DecodeError
from penstock.protocol.record_batch import HEADER_SIZE_BYTES, TimestampType
from penstock.protocol.records import Record, encode_batch
from penstock.protocol.records import decode_records as decode_by_protocol

maybe_bytes = st.none() | st.binary(max_size=200)
headers = st.lists(st.tuples(st.text(max_size=5), maybe_bytes), max_size=3).map(tuple)
offsets = st.lists(st.integers(0, 20_000), unique=True, min_size=1, max_size=20).map(sorted)
times = st.integers(-(2**40), 2**40)


def source_of(base_offset: int, last_delta: int, base_timestamp: int, count: int) -> Source:
    kind = TimestampType.CREATE_TIME
    return Source("t", 3, kind, 5, base_offset, last_delta, base_timestamp, None, count)


@given(st.data(), offsets, st.integers(0, 2**40))
def test_every_record_comes_out_as_the_protocol_decodes_it(
    data: st.DataObject, deltas: list[int], base_offset: int
) -> None:
    records = [
        Record(
            base_offset + delta,
            data.draw(times),
            data.draw(maybe_bytes),
            data.draw(maybe_bytes),
            data.draw(headers),
        )
        for delta in deltas
    ]
    batch = encode_batch(records, codec=Codec.NONE, base_offset=base_offset, keep_offsets=True)
    wanted = decode_by_protocol(memoryview(batch), output_max_bytes=1 << 30)
    start = base_offset + data.draw(st.integers(0, 20_001))
    end = start + data.draw(st.integers(0, 20_001))
    chosen = [record for record in wanted if start <= record.offset < end]
    source = source_of(base_offset, deltas[-1], records[0].timestamp, len(records))
    body = batch[HEADER_SIZE_BYTES:]
    found = list(decode_records(body, source, start, end))
    assert [(r.offset, r.timestamp_ms, r.key, r.value, r.headers) for r in found] == [
        (r.offset, r.timestamp, r.key, r.value, r.headers) for r in chosen
    ]
    assert all(record[:2] == ("t", 3) and record.leader_epoch == 5 for record in found)
    assert decode_values(body, source, start, end) == [record.value for record in chosen]


@given(st.data(), st.binary(min_size=7, max_size=120), st.integers(1, 8))
def test_garbage_is_a_decode_error_or_records_that_tile_it(
    data: st.DataObject, body: bytes, count: int
) -> None:
    if data.draw(st.booleans()):
        good = encode_batch([Record(n, n, b"k", b"v" * 9) for n in range(count)], codec=Codec.NONE)
        changed = bytearray(good[HEADER_SIZE_BYTES:])
        changed[data.draw(st.integers(0, len(changed) - 1))] = data.draw(st.integers(0, 255))
        body = bytes(changed)
    source = source_of(0, count - 1, 0, count)
    with suppress(DecodeError):
        found = list(decode_records(body, source, 0, 1 << 60))
        assert len(found) == count
        assert [record.offset for record in found] == list(range(count))
    with suppress(DecodeError):
        assert len(decode_values(body, source, 0, 1 << 60)) == count


stretches = st.lists(
    st.tuples(
        st.integers(1, 150),  # records
        st.sampled_from([None, b"", b"k", b"key" * 30]),
        st.sampled_from([None, 0, 1, 7, 63, 64, 100, 9000]),  # bytes of a value
        st.integers(0, 3),  # ms from record to record
        st.sampled_from([0, 0, 0, 1, 7000]),  # offsets left out before
        st.booleans(),  # one record with headers in the middle
    ),
    min_size=1,
    max_size=5,
)


def records_of(chosen: list[tuple[int, bytes | None, int | None, int, int, bool]]) -> list[Record]:
    records: list[Record] = []
    offset, time = 0, 1000
    for count, key, size, step, gap, has_headers in chosen:
        offset += gap
        for index in range(count):
            value = (
                None if size is None else bytes(((index + n) & 255) for n in range(min(size, 3))).ljust(size)
            )
            headers = (("h", b"v"),) if has_headers and index == count // 2 else ()
            records.append(Record(offset, time, key, value, headers))
            offset += 1
            time += step
    return records


@given(stretches, st.integers(0, 40_000), st.integers(0, 40_000))
def test_runs_of_records_of_one_shape_come_out_as_the_protocol_decodes_them(
    chosen: list[tuple[int, bytes | None, int | None, int, int, bool]], start: int, length: int
) -> None:
    records = records_of(chosen)
    batch = encode_batch(records, codec=Codec.NONE, base_offset=0, keep_offsets=True)
    source = source_of(0, records[-1].offset, records[0].timestamp, len(records))
    body = batch[HEADER_SIZE_BYTES:]
    for first, end in ((0, 1 << 60), (start, start + length)):
        wanted = [record for record in records if first <= record.offset < end]
        found = list(decode_records(body, source, first, end))
        assert [(r.offset, r.timestamp_ms, r.key, r.value, r.headers) for r in found] == [
            (r.offset, r.timestamp, r.key, r.value, r.headers) for r in wanted
        ]
        assert decode_values(body, source, first, end) == [record.value for record in wanted]


small_stretches = st.lists(
    st.tuples(
        st.integers(16, 40),
        st.sampled_from([None, b"k"]),
        st.sampled_from([None, 0, 2]),
        st.integers(0, 9),
        st.sampled_from([0, 1]),
        st.just(False),
    ),
    min_size=1,
    max_size=2,
)


@given(small_stretches, st.data())
def test_a_changed_run_is_read_or_refused_as_record_by_record(
    chosen: list[tuple[int, bytes | None, int | None, int, int, bool]], data: st.DataObject
) -> None:
    records = records_of(chosen)
    batch = encode_batch(records, codec=Codec.NONE, base_offset=0, keep_offsets=True)
    body = bytearray(batch[HEADER_SIZE_BYTES:])
    for _ in range(data.draw(st.integers(0, 2))):
        at = data.draw(st.integers(0, min(len(body), 60) - 1) | st.integers(0, len(body) - 1))
        body[at] = data.draw(st.sampled_from([0, 1, 2, 127, 128, 255]) | st.integers(0, 255))
    times = data.draw(st.integers(1, 2))  # twice: the offsets begin again
    last_delta = records[-1].offset + data.draw(st.integers(-3, 1))
    source = source_of(0, last_delta, records[0].timestamp, len(records) * times)
    found = outcome_of(lambda: list(decode_records(bytes(body) * times, source, 0, 1 << 60)))
    assert found == outcome_of(lambda: one_by_one(bytes(body) * times, source))


@pytest.mark.parametrize(
    ("at", "byte"),
    [
        pytest.param(0, 0x0E, id="a longer record"),
        pytest.param(2, 0x80, id="a timestamp of two bytes"),
        pytest.param(6, 0x02, id="a header that is not there"),
    ],
)
@pytest.mark.parametrize("first", [0, 20])
def test_a_field_that_is_no_more_where_it_was_ends_the_run(at: int, byte: int, first: int) -> None:
    body = bytearray(body_of(range(40)))
    for place in range(first, 40):
        body[place * 7 + at] = byte
        with pytest.raises(DecodeError):
            list(decode_records(bytes(body), source_of(0, 39, 0, 40), 0, 99))


def test_a_run_that_begins_at_the_last_offset_of_the_run_before_is_refused() -> None:
    body = body_of(range(20)) + body_of(range(19, 39))
    with pytest.raises(DecodeError):
        list(decode_records(body, source_of(0, 99, 0, 40), 0, 99))


@pytest.mark.parametrize("last_delta", [16, 1, 0, -3])
def test_a_run_far_behind_the_last_offset_of_its_batch_is_refused(last_delta: int) -> None:
    with pytest.raises(DecodeError):
        list(decode_records(body_of(range(20, 60)), source_of(0, last_delta, 0, 40), 0, 99))


mixed_records = st.lists(
    st.tuples(maybe_bytes, st.sampled_from([None, b"", b"v", b"v" * 70, b"v" * 9000]), headers),
    min_size=1,
    max_size=40,
)


@given(mixed_records, st.integers(1, 20), st.data())
def test_a_record_of_negative_length_is_read_by_one_and_refused_by_another(
    fields: list[tuple[bytes | None, bytes | None, tuple[tuple[str, bytes | None], ...]]],
    times: int,
    data: st.DataObject,
) -> None:
    records = [Record(number, number, *field) for number, field in enumerate(fields * times)]
    body = bytearray(encode_batch(records, codec=Codec.NONE)[HEADER_SIZE_BYTES:])
    starts = record_starts(bytes(body), len(records))
    assert readers_of(bytes(body), len(records)) == ALL_READERS
    body[data.draw(st.sampled_from(starts))] ^= 1  # the sign of its length, all else as it was
    assert readers_of(bytes(body), len(records)) == set()


@given(mixed_records, st.data())
def test_a_damaged_record_is_read_by_one_and_refused_by_another(
    fields: list[tuple[bytes | None, bytes | None, tuple[tuple[str, bytes | None], ...]]],
    data: st.DataObject,
) -> None:
    records = [Record(number, number, *field) for number, field in enumerate(fields)]
    body = bytearray(encode_batch(records, codec=Codec.NONE)[HEADER_SIZE_BYTES:])
    start = data.draw(st.sampled_from(record_starts(bytes(body), len(records))))
    for _ in range(data.draw(st.integers(1, 2))):
        at = min(start + data.draw(st.integers(0, 12)), len(body) - 1)
        body[at] = data.draw(st.sampled_from([0, 1, 2, 3, 127, 128, 255]) | st.integers(0, 255))
    found = readers_of(bytes(body), len(records))
    # whoever looks at less refuses less
    assert found in (ALL_READERS, {"values", "lengths"}, {"lengths"}, set()), found


ALL_READERS = {"records", "the protocol", "values", "lengths"}


def readers_of(body: bytes, count: int) -> set[str]:
    """Which of those that read records take these for `count` of them."""
    source = source_of(0, count - 1, 0, count)
    header = bytearray(encode_batch([Record(0, 0, None, None)], codec=Codec.NONE)[:HEADER_SIZE_BYTES])
    header[8:12] = (HEADER_SIZE_BYTES - 12 + len(body)).to_bytes(4)
    header[23:27], header[57:61] = (count - 1).to_bytes(4), count.to_bytes(4)
    batch = memoryview(bytes(header) + body)
    readers: dict[str, Callable[[], object]] = {
        "records": lambda: decode_records(body, source, 0, 1 << 60),
        "the protocol": lambda: decode_by_protocol(batch, output_max_bytes=1 << 30),
        "values": lambda: decode_values(body, source, 0, 1 << 60),
        "lengths": lambda: record_starts(body, count),
    }
    found: set[str] = set()
    for name, read in readers.items():
        with suppress(DecodeError):
            read()
            found.add(name)
    return found


def body_of(offsets: range) -> bytes:
    records = [Record(offset, 0, None, None) for offset in offsets]
    return encode_batch(records, codec=Codec.NONE, base_offset=0, keep_offsets=True)[HEADER_SIZE_BYTES:]


def one_by_one(body: bytes, source: Source) -> list[ConsumerRecord]:
    progress = Progress(0, -1, source.record_count)
    try:
        found = decode_some(body, source, progress, source.record_count, range(1 << 60))
    except IndexError:
        raise DecodeError("too short") from None
    if progress.position != len(body):
        raise DecodeError("bytes behind")
    return found


def outcome_of(decode: Callable[[], list[ConsumerRecord]]) -> list[ConsumerRecord] | None:
    try:
        return decode()
    except DecodeError:
        return None
