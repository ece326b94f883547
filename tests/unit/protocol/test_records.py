"""Single records: the exact bytes, what Kafka's own classes wrote, and lies about lengths and counts."""

import struct
from dataclasses import replace
from pathlib import Path

import pytest

from penstock.protocol.compression import Codec, DecompressionTooLarge
from penstock.protocol.errors import DecodeError, ErrorCode, InvalidBatch
from penstock.protocol.record_batch import (
    HEADER_SIZE_BYTES,
    NO_TIMESTAMP,
    check_produced_batch,
    read_batch_header,
    verify_crc,
)
from penstock.protocol.records import (
    Record,
    decode_records,
    encode_batch,
    iterate_records,
    iterate_timestamps,
    recompress,
)

DATA = Path(__file__).parents[2] / "data"
MAX_BYTES = 1 << 20
INT64_MAX = 2**63 - 1

# The worked example of docs/on-disk-format.md.
EXAMPLE_RECORDS = [
    Record(1000, 1_700_000_000_000, b"42", b"hello"),
    Record(1001, 1_700_000_000_005, None, b"", (("trace", b"\x01"), ("empty", None))),
]
EXAMPLE_BATCH = bytes.fromhex(
    """
    00000000000003e8 00000055 00000007 02 e5365d41 0000 00000001 0000018bcfe56800 0000018bcfe56805
    ffffffffffffffff ffff ffffffff 00000002
    1a 00 00 00 04 3432 0a 68656c6c6f 00
    2a 00 0a 02 01 00 04 0a 7472616365 02 01 0a 656d707479 01
    """
)


def decode(batch: bytes | bytearray, output_max_bytes: int = MAX_BYTES) -> list[Record]:
    return decode_records(memoryview(batch), output_max_bytes=output_max_bytes)


def with_records(payload: bytes, count: int = 1, **header_fields: int) -> bytes:
    """A batch whose records are `payload`; no checksum is needed to decode."""
    fields = {"base_offset": 0, "last_offset_delta": count - 1, "base_timestamp": 0, **header_fields}
    return (
        struct.pack(
            ">qiibIhiqqqhii",
            fields["base_offset"],
            len(payload) + HEADER_SIZE_BYTES - 12,
            *(0, 2, 0, 0),
            fields["last_offset_delta"],
            fields["base_timestamp"],
            *(0, -1, -1, -1),
            count,
        )
        + payload
    )


def test_bytes_are_those_of_the_format_document() -> None:
    batch = encode_batch(EXAMPLE_RECORDS, codec=Codec.NONE, base_offset=1000, partition_leader_epoch=7)
    assert batch == EXAMPLE_BATCH
    assert decode(EXAMPLE_BATCH) == EXAMPLE_RECORDS
    assert verify_crc(memoryview(EXAMPLE_BATCH))


def records_of_the_java_program(count: int) -> list[Record]:
    log = (DATA / "loghub" / "Zookeeper_2k.log").read_bytes()
    return [
        Record(
            offset=i,
            timestamp=1_700_000_000_000 + i * 7,
            key=None if i % 3 == 0 else b"k%d" % i,
            value=None if i % 5 == 0 else log[i % 20 * 90 :][:90],
            headers=(("hé", b"\1\2"), ("n", None)) if i % 4 == 0 else (),
        )
        for i in range(count)
    ]


@pytest.mark.parametrize("path", sorted((DATA / "kafka_batches").glob("*.bin")), ids=lambda path: path.stem)
def test_what_kafkas_java_classes_wrote_is_read(path: Path) -> None:
    batch = path.read_bytes()
    header = check_produced_batch(memoryview(batch))
    assert decode(batch) == records_of_the_java_program(header.record_count)
    assert header.codec.name.lower() == path.stem.split("-")[0]
    assert (header.producer_id, header.producer_epoch, header.partition_leader_epoch) == (77, 3, 5)
    assert header.last_sequence == header.record_count - 3  # it began two before the wrap


def test_bytes_are_those_of_kafkas_java_classes() -> None:
    batch = encode_batch(
        records_of_the_java_program(40),
        codec=Codec.NONE,
        producer_id=77,
        producer_epoch=3,
        base_sequence=2**31 - 2,
        partition_leader_epoch=5,
    )
    assert batch == (DATA / "kafka_batches" / "none.bin").read_bytes()


@pytest.mark.parametrize("codec", Codec)
def test_extreme_records_come_back(codec: Codec) -> None:
    records = [
        Record(5, INT64_MAX, None, None),
        Record(6, 0, b"", b""),
        Record(7, INT64_MAX, b"k" * 300, b"v" * 70_000, (("", b""), ("h" * 200, None), ("", b"x" * 20_000))),
        Record(8, 0, b"k" * 63, b"v" * 64, (("Zürich", "水".encode()),) * 70),
        Record(9, INT64_MAX - 1, b"k" * 64, b"v" * 8_191),
        Record(10, INT64_MAX - 64, None, b"v" * 8_192),
        Record(11, INT64_MAX - 8_192, None, b"v" * 1_048_576),
    ]
    batch = encode_batch(records, codec=codec, base_offset=5)
    assert decode(batch, 1 << 21) == records
    timestamps = list(iterate_timestamps(memoryview(batch), output_max_bytes=1 << 21))
    assert timestamps == [(record.offset, record.timestamp) for record in records]
    assert check_produced_batch(memoryview(encode_batch(records, codec=codec))).max_timestamp == INT64_MAX


def test_header_key_that_is_not_utf8_comes_out_as_it_went_in() -> None:
    alien = bytes.fromhex("14 00 00 00 01 01 02 04 fffe 01")
    records = decode(with_records(alien))
    assert encode_batch(records, codec=Codec.NONE)[HEADER_SIZE_BYTES:] == alien


def test_compacted_batch_keeps_its_offsets_and_its_last_one() -> None:
    kept = [Record(1003, 5, b"a", b"1"), Record(1007, 6, b"b", b"2")]
    batch = encode_batch(kept, codec=Codec.LZ4, base_offset=1000, keep_offsets=True, last_offset_delta=9)
    assert decode(batch) == kept
    assert read_batch_header(batch).next_offset == 1010
    assert decode(encode_batch(kept, codec=Codec.NONE, base_offset=1000)) == [
        replace(record, offset=1000 + place) for place, record in enumerate(kept)
    ]


def test_batch_that_compaction_emptied_holds_its_place() -> None:
    batch = encode_batch([], codec=Codec.NONE, base_offset=1000, last_offset_delta=9)
    assert decode(batch) == []
    header = read_batch_header(batch)
    assert (header.record_count, header.next_offset, header.max_timestamp) == (0, 1010, NO_TIMESTAMP)


def test_delete_horizon_takes_the_base_timestamps_place_and_leaves_the_records_times() -> None:
    batch = encode_batch(EXAMPLE_RECORDS, codec=Codec.NONE, base_offset=1000, delete_horizon_ms=77)
    assert read_batch_header(batch).delete_horizon_ms == 77
    assert decode(batch) == EXAMPLE_RECORDS


@pytest.mark.parametrize("now_ms", [0, 5])
def test_log_append_time_overrides_the_records_times(now_ms: int) -> None:
    batch = encode_batch(EXAMPLE_RECORDS, codec=Codec.GZIP, log_append_time_ms=now_ms)
    assert [record.timestamp for record in decode(batch)] == [now_ms, now_ms]
    found = iterate_timestamps(memoryview(batch), output_max_bytes=MAX_BYTES)
    assert list(found) == [(0, now_ms), (1, now_ms)]


@pytest.mark.parametrize(
    ("payload", "count"),
    [
        ("", 1),  # nothing there
        ("0c 00 00 00 01 01 00", 2),  # fewer than claimed
        ("0c 00 00 00 01 01 00" * 2, 1),  # more than claimed
        ("0c 00 00 00 01 01 00", -1),
        ("0c 00 00 00 01 01 00", 2**31 - 1),
        ("0e 00 00 00 01 01 00 00", 1),  # a byte left over in the record
        ("0a 00 00 00 01 01 00", 1),  # a record longer than its length
        ("0d 00 00 00 01 01 00", 1),  # negative length
        ("0c 00 00 00 02 01 00", 1),  # the key reaches past the record
        ("0c 00 00 00 fe ff ff ff 0f 01 00", 1),  # the key is 2 GB long
        ("0c 00 00 00 01 fe ff ff ff 0f 00", 1),  # the value is
        ("fe ff ff ff 0f 00 00 00 01 01 00", 1),  # the record is
        ("16 00 00 00 01 01 fe ff ff ff 0f", 1),  # 2^31-1 headers
        ("0c 00 00 00 01 01 01", 1),  # -1 headers
        ("10 00 00 00 01 01 02 01 00", 1),  # a header without a key
        ("0e 00 00 00 01 01 02 01 0c 00 00 02 01 01 00", 2),  # the same, with the byte read twice
        ("10 00 00 00 01 01 02 04 61", 1),  # a header key past the end
        ("0c 00 00 02 01 01 00", 1),  # offset past the last one
        ("0c 00 00 01 01 01 00", 1),  # offset before the first one
        ("0c 00 00 00 01 01 00" * 2, 2),  # the same offset twice
        ("8c 80 80 80 80 00 00 00 00 01 01 00", 1),  # six bytes for a length
        ("16 00 00 00 01 fe ff ff ff 7f 00", 1),  # a length of more than 32 bits
        ("14 00 00 00 81 80 80 80 10 01 00", 1),  # that of null, if only 32 bits are looked at
        ("20 00 ff ff ff ff ff ff ff ff ff 7f 00 01 01 00 00", 1),  # a time of more than 64 bits
    ],
)
def test_records_that_lie_are_a_decode_error(payload: str, count: int) -> None:
    batch = with_records(bytes.fromhex(payload), count)
    with pytest.raises(DecodeError):
        decode(batch)


def test_smallest_record_is_read() -> None:
    assert decode(with_records(bytes.fromhex("0c 00 00 00 01 01 00"))) == [Record(0, 0, None, None)]


@pytest.mark.parametrize(
    "fields",
    [
        {"base_offset": -1},
        {"base_offset": INT64_MAX},
        {"last_offset_delta": -1},
        {"base_timestamp": -(2**63)},  # the record's delta is -1
    ],
)
def test_header_that_records_cannot_follow_is_a_decode_error(fields: dict[str, int]) -> None:
    payload = bytes.fromhex("0c 00 01 00 01 01 00")
    assert len(decode(with_records(payload))) == 1
    batch = memoryview(with_records(payload, **fields))
    with pytest.raises(DecodeError):
        decode_records(batch, output_max_bytes=100)
    with pytest.raises(DecodeError):
        list(iterate_timestamps(batch, output_max_bytes=100))


def test_anything_but_one_whole_batch_is_a_decode_error() -> None:
    for wrong in (EXAMPLE_BATCH[:-1], EXAMPLE_BATCH + b"\0", EXAMPLE_BATCH[:60], b""):
        with pytest.raises(DecodeError):
            decode(wrong)


def test_records_are_bounded_before_the_first_comes_out() -> None:
    payload_bytes = len(EXAMPLE_BATCH) - HEADER_SIZE_BYTES
    assert decode(EXAMPLE_BATCH, payload_bytes) == EXAMPLE_RECORDS
    with pytest.raises(DecompressionTooLarge):
        iterate_records(memoryview(EXAMPLE_BATCH), output_max_bytes=payload_bytes - 1)


@pytest.mark.parametrize("source", Codec)
@pytest.mark.parametrize("target", Codec)
def test_recompressed_batch_differs_in_codec_alone(source: Codec, target: Codec) -> None:
    batch = encode_batch(
        EXAMPLE_RECORDS, codec=source, producer_id=7, producer_epoch=1, base_sequence=3, is_transactional=True
    )
    changed = recompress(memoryview(batch), target)
    before, after = check_produced_batch(memoryview(batch)), check_produced_batch(memoryview(changed))
    assert after.codec is target
    assert decode(changed) == decode(batch)
    for field in ("batch_length", "crc", "attributes"):
        setattr(after, field, getattr(before, field))
    assert after == before


def test_recompressing_refuses_what_it_cannot_read() -> None:
    batch = bytearray(encode_batch(EXAMPLE_RECORDS, codec=Codec.ZSTD))
    with pytest.raises(InvalidBatch) as caught:
        recompress(memoryview(batch), Codec.NONE, output_max_bytes=10)
    assert caught.value.code is ErrorCode.MESSAGE_TOO_LARGE
    batch[HEADER_SIZE_BYTES] ^= 1
    for broken in (batch, batch[:-1], batch[:60]):
        with pytest.raises(InvalidBatch) as caught:
            recompress(memoryview(broken), Codec.NONE)
        assert caught.value.code is ErrorCode.CORRUPT_MESSAGE


def test_what_the_format_cannot_hold_is_a_value_error() -> None:
    one, two = Record(1, 0, None, b""), Record(2, 0, None, b"")
    with pytest.raises(ValueError, match="last offset delta"):
        encode_batch([], codec=Codec.NONE)
    with pytest.raises(ValueError, match="last offset delta"):
        encode_batch([one, two], codec=Codec.NONE, last_offset_delta=0)
    with pytest.raises(ValueError, match="offset delta"):
        encode_batch([two, one], codec=Codec.NONE, keep_offsets=True, last_offset_delta=5)
    with pytest.raises(ValueError, match="offset delta"):
        encode_batch(
            [Record(0, 0, None, b"")], codec=Codec.NONE, base_offset=1, keep_offsets=True, last_offset_delta=5
        )
    with pytest.raises(ValueError, match="offset delta"):
        encode_batch([Record(2**31, 0, None, b"")], codec=Codec.NONE, keep_offsets=True)
    for timestamp in (2**63, -(2**63) - 1):
        with pytest.raises(ValueError, match="timestamp"):
            encode_batch([Record(0, timestamp, None, b"")], codec=Codec.NONE)
    with pytest.raises(ValueError, match="timestamp"):
        encode_batch([Record(0, INT64_MAX, None, b""), Record(1, -1_000, None, b"")], codec=Codec.NONE)
    with pytest.raises(ValueError, match="can't hold"):
        encode_batch([one], codec=Codec.NONE, base_offset=2**63)
    with pytest.raises(ValueError, match="can't hold"):
        encode_batch([one], codec=Codec.NONE, producer_epoch=2**15)
