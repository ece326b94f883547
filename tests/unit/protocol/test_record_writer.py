"""The producer's batch writer writes what the plain encoder writes, byte for byte, whichever way the records came in."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.protocol.compression import Codec
from penstock.protocol.record_batch import check_produced_batch
from penstock.protocol.record_writer import (
    HEADER_OVERHEAD_MAX_BYTES,
    RECORD_COUNT_MAX,
    RECORD_OVERHEAD_MAX_BYTES,
    RecordWriter,
    RunKey,
    compressed,
    encode_varint,
    seal,
)
from penstock.protocol.records import Headers, Record, decode_records, encode_batch

BASE_MS = 1_700_000_000_000


def sealed(writer: RecordWriter, codec: Codec = Codec.NONE) -> bytes:
    data = writer.data if codec is Codec.NONE else compressed(writer.data, codec, None)
    seal(
        data,
        codec=codec,
        record_count=writer.record_count,
        base_timestamp_ms=writer.base_timestamp_ms,
        max_timestamp_ms=writer.max_timestamp_ms,
        producer_id=7,
        producer_epoch=2,
        base_sequence=5,
    )
    return bytes(data)


def expected(records: list[Record], codec: Codec = Codec.NONE) -> bytes:
    return encode_batch(records, codec=codec, producer_id=7, producer_epoch=2, base_sequence=5)


keys = st.none() | st.binary(max_size=3) | st.just(b"k" * 200)
values = st.none() | st.binary(max_size=3) | st.integers(0, 9000).map(bytes)
headers: st.SearchStrategy[Headers] = st.lists(
    st.tuples(st.sampled_from(["", "a", "ü" * 100]), st.none() | st.binary(max_size=200)), max_size=3
).map(tuple)
times = st.integers(0, 2**62) | st.integers(BASE_MS - 100, BASE_MS + 100)
singles = st.builds(Record, st.just(0), times, keys, values, headers).map(lambda record: [record])


def run_of(time: int, key: bytes | None, lengths: list[int]) -> list[Record]:
    return [Record(0, time, key, bytes(length)) for length in lengths]


runs = st.builds(
    run_of, times, keys, st.lists(st.sampled_from([0, 1, 55, 63, 64, 100, 5000]), min_size=1, max_size=80)
)


@given(st.lists(singles | runs, min_size=1, max_size=8), st.sampled_from(Codec))
def test_any_mixture_of_records_and_runs_is_encoded_otherwise(
    parts: list[list[Record]], codec: Codec
) -> None:
    writer = RecordWriter()
    for part in parts:
        first = part[0]
        if len(part) == 1:
            before = len(writer.data)
            writer.append(first.timestamp, first.key, first.value, first.headers)
            bound = RECORD_OVERHEAD_MAX_BYTES + len(first.key or b"") + len(first.value or b"")
            for name, content in first.headers:
                bound += HEADER_OVERHEAD_MAX_BYTES + len(name.encode()) + len(content or b"")
            assert len(writer.data) - before <= bound
        else:
            run = [record.value or b"" for record in part]
            writer.append_values(first.timestamp, RunKey(first.key), run, list(map(len, run)))
    assert sealed(writer, codec) == expected([record for part in parts for record in part], codec)


@pytest.mark.parametrize("before", [0, 1, 63, 64, 8191, 8192, 10_000])
@pytest.mark.parametrize("late_ms", [0, 3])
def test_offset_deltas_grow_by_a_byte_at_the_wrong_record(before: int, late_ms: int) -> None:
    run = [b"%d" % number for number in range(6000)]
    writer = RecordWriter()
    records = [Record(0, BASE_MS, None, b"x")] * before
    if before:
        filler = [b"x"] * before
        writer.append_values(BASE_MS, RunKey(None), filler, [1] * before)
    writer.append_values(BASE_MS + late_ms, RunKey(b"key"), run, list(map(len, run)))
    records += [Record(0, BASE_MS + late_ms, b"key", value) for value in run]
    assert sealed(writer) == expected(records)
    assert check_produced_batch(memoryview(sealed(writer))).record_count == before + 6000


def test_a_full_batch_ends_inside_its_table() -> None:
    writer = RecordWriter()
    for _ in range(RECORD_COUNT_MAX):
        writer.append(BASE_MS, None, b"", ())
    batch = sealed(writer)
    assert len(decode_records(memoryview(batch), output_max_bytes=1 << 20)) == RECORD_COUNT_MAX


@given(st.integers(-(2**63), 2**63 - 1))
def test_a_varint_is_read_as_another_number(value: int) -> None:
    encoded = encode_varint(value)
    number = sum((byte & 127) << 7 * place for place, byte in enumerate(encoded))
    assert number >> 1 ^ -(number & 1) == value
    assert all(byte > 127 for byte in encoded[:-1])
    assert encoded[-1] < 128


def test_sealing_again_leaves_the_old_checksum() -> None:
    writer = RecordWriter()
    writer.append(BASE_MS, b"k", b"v", ())
    sealed(writer)
    seal(
        writer.data,
        codec=Codec.NONE,
        record_count=1,
        base_timestamp_ms=BASE_MS,
        max_timestamp_ms=BASE_MS,
        producer_id=7,
        producer_epoch=3,
        base_sequence=0,
    )
    header = check_produced_batch(memoryview(bytes(writer.data)))
    assert (header.producer_epoch, header.base_sequence) == (3, 0)


def test_a_run_of_nothing_changes_nothing() -> None:
    writer = RecordWriter()
    for _ in range(2):
        before = bytes(writer.data)
        writer.append_values(BASE_MS, RunKey(None), [], [])
        assert writer.data == before
        writer.append_values(BASE_MS, RunKey(None), [b"v" * 100], [100])


@pytest.mark.parametrize("size", [0, 1, 5000])
def test_small_and_large_runs_behind_what_is_there_are_encoded_alike(size: int) -> None:
    writer = RecordWriter()
    values = [b"x" * 900, b"y" * 901, b"z" * size, *[b"w" * size] * 5]
    writer.append_values(BASE_MS, RunKey(None), values[:2], [900, 901])
    writer.append_values(BASE_MS, RunKey(None), values[2:3], [size])
    writer.append_values(BASE_MS, RunKey(None), values[3:], [size] * 5)
    records = [Record(n, BASE_MS, None, value) for n, value in enumerate(values)]
    assert sealed(writer) == expected(records)
