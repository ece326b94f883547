"""Record batches: any records come back, and any bytes give our errors and no others."""

import contextlib
import struct
from collections.abc import Callable

import crc32c
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.support.examples import examples

from penstock.protocol.compression import Codec, compress, decompress
from penstock.protocol.errors import DecodeError, InvalidBatch
from penstock.protocol.record_batch import (
    CRC_POSITION,
    HEADER,
    HEADER_SIZE_BYTES,
    check_produced_batch,
    iterate_batches,
    read_batch_header,
    verify_crc,
)
from penstock.protocol.records import (
    Record,
    decode_records,
    encode_batch,
    iterate_timestamps,
    recompress,
)

MAX_BYTES = 1 << 20
CODECS = st.sampled_from(Codec)
TIMESTAMPS = st.one_of(
    st.integers(0, 20_000),
    st.just(-1),
    st.integers(0, 2**63 - 2),
    st.integers(1_700_000_000_000, 1_700_000_200_000),
)
VALUES = st.one_of(st.none(), st.binary(max_size=200), st.builds(bytes, st.integers(0, 20_000)))
HEADERS = st.lists(st.tuples(st.text(max_size=80), st.one_of(st.none(), st.binary(max_size=80))), max_size=4)
RECORDS = st.lists(
    st.builds(Record, st.just(0), TIMESTAMPS, VALUES, VALUES, st.builds(tuple, HEADERS)),
    min_size=1,
    max_size=80,
)


def tried(count: int) -> settings:
    """How many; a busy machine may take its time over them."""
    return settings(max_examples=examples(count), deadline=None, suppress_health_check=[HealthCheck.too_slow])


def numbered(records: list[Record], offsets: list[int]) -> list[Record]:
    return [
        Record(offset, each.timestamp, each.key, each.value, each.headers)
        for offset, each in zip(offsets, records, strict=True)
    ]


@given(RECORDS, CODECS, st.integers(0, 2**62))
@tried(150)
def test_any_records_come_back(records: list[Record], codec: Codec, base_offset: int) -> None:
    batch = encode_batch(records, codec=codec, base_offset=base_offset)
    expected = numbered(records, list(range(base_offset, base_offset + len(records))))
    assert decode_records(memoryview(batch), output_max_bytes=10 * MAX_BYTES) == expected
    timestamps = iterate_timestamps(memoryview(batch), output_max_bytes=10 * MAX_BYTES)
    assert list(timestamps) == [(each.offset, each.timestamp) for each in expected]
    header = read_batch_header(batch)
    assert (header.size_bytes, header.record_count, header.codec) == (len(batch), len(records), codec)
    assert header.max_timestamp == max(each.timestamp for each in records)
    assert verify_crc(memoryview(batch))


@given(RECORDS, st.data())
@tried(50)
def test_any_gaps_between_offsets_come_back(records: list[Record], data: st.DataObject) -> None:
    gaps = data.draw(st.lists(st.integers(1, 10**6), min_size=len(records), max_size=len(records)))
    offsets = [5_000_000_000 + sum(gaps[: place + 1]) for place in range(len(records))]
    kept = numbered(records, offsets)
    batch = encode_batch(kept, codec=Codec.NONE, base_offset=5_000_000_000, keep_offsets=True)
    assert decode_records(memoryview(batch), output_max_bytes=10 * MAX_BYTES) == kept


@given(st.binary(max_size=5_000), CODECS, st.integers(1, 40))
@tried(150)
def test_any_bytes_survive_a_codec_within_exactly_their_size(data: bytes, codec: Codec, times: int) -> None:
    repeated = data * times
    assert decompress(codec, compress(codec, repeated), output_max_bytes=len(repeated)) == repeated


@given(st.binary(max_size=300), CODECS)
@tried(300)
def test_any_bytes_into_a_codec_give_bytes_or_our_error(data: bytes, codec: Codec) -> None:
    with contextlib.suppress(DecodeError):
        assert len(decompress(codec, data, output_max_bytes=MAX_BYTES)) <= MAX_BYTES


def feed_to_all_readers(batch: bytes) -> None:
    """Every reader of batches; whatever leaves here is not one of our errors."""
    readers: tuple[Callable[[memoryview], object], ...] = (
        read_batch_header,
        check_produced_batch,
        verify_crc,
        lambda view: list(iterate_batches(view)),
        lambda view: decode_records(view, output_max_bytes=MAX_BYTES),
        lambda view: list(iterate_timestamps(view, output_max_bytes=MAX_BYTES)),
        lambda view: recompress(view, Codec.LZ4, output_max_bytes=MAX_BYTES),
    )
    for reader in readers:
        with contextlib.suppress(DecodeError, InvalidBatch):
            reader(memoryview(batch))


@given(st.binary(max_size=200))
@tried(200)
def test_any_bytes_give_our_errors_and_no_others(data: bytes) -> None:
    feed_to_all_readers(data)


def sealed(header: tuple[int, ...], payload: bytes) -> bytes:
    """A batch whose length, magic and checksum are right, so that the readers get past them."""
    fields = list(header)
    fields[1], fields[3], fields[4] = HEADER_SIZE_BYTES - 12 + len(payload), 2, 0
    batch = bytearray(HEADER.pack(*fields) + payload)
    struct.pack_into(">I", batch, CRC_POSITION, crc32c.crc32c(bytes(batch[21:])))
    return bytes(batch)


INT8, INT16, INT32, INT64 = (
    st.one_of(st.integers(-2, 3), st.integers(-(1 << bits - 1), (1 << bits - 1) - 1))
    for bits in (8, 16, 32, 64)
)
ANY_HEADER = st.tuples(
    INT64, st.just(0), INT32, st.just(2), st.just(0), INT16, INT32, INT64, INT64, INT64, INT16, INT32, INT32
)


@given(ANY_HEADER, st.binary(max_size=100))
@tried(300)
def test_any_header_fields_under_a_right_checksum_give_our_errors(
    header: tuple[int, ...], payload: bytes
) -> None:
    feed_to_all_readers(sealed(header, payload))


@given(RECORDS.map(lambda records: records[:5]), CODECS, st.data())
@tried(300)
def test_any_damage_under_a_right_checksum_gives_our_errors(
    records: list[Record], codec: Codec, data: st.DataObject
) -> None:
    batch = encode_batch(records, codec=codec)
    payload = bytearray(batch[HEADER_SIZE_BYTES:])
    for _ in range(data.draw(st.integers(1, 3))):
        payload[data.draw(st.integers(0, len(payload) - 1))] = data.draw(st.integers(0, 255))
    cut = data.draw(st.one_of(st.just(len(payload)), st.integers(0, len(payload))))
    feed_to_all_readers(sealed(HEADER.unpack_from(batch), bytes(payload[:cut])))


@given(RECORDS.map(lambda records: records[:5]), st.data())
@tried(200)
def test_any_damage_to_the_records_themselves_gives_our_errors(
    records: list[Record], data: st.DataObject
) -> None:
    batch = encode_batch(records, codec=Codec.NONE)
    payload = bytearray(batch[HEADER_SIZE_BYTES:])
    start = data.draw(st.integers(0, min(len(payload), 40)))
    payload[start : start + data.draw(st.integers(0, 6))] = data.draw(st.binary(max_size=12))
    feed_to_all_readers(sealed(HEADER.unpack_from(batch), bytes(payload)))
