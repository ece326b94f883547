"""Varints and tagged fields at their bounds."""

import pytest

from penstock.protocol.errors import DecodeError
from penstock.protocol.primitives import decode_uvarint, encode_uvarint, read_tagged_fields

EDGES = [0, 1, 127, 128, 16_383, 16_384, (1 << 31) - 1, 1 << 31, (1 << 32) - 1]


@pytest.mark.parametrize("value", EDGES)
def test_varint_round_trips_at_its_edges(value: int) -> None:
    encoded = encode_uvarint(value)
    assert len(encoded) <= 5
    assert decode_uvarint(b"\xff" + encoded + b"\xff", 1) == (value, 1 + len(encoded))


@pytest.mark.parametrize("value", [-1, 1 << 32])
def test_varint_out_of_range_is_not_written(value: int) -> None:
    with pytest.raises(ValueError, match="does not fit"):
        encode_uvarint(value)


@pytest.mark.parametrize(
    "data", [b"", b"\x80", b"\xff\xff\xff\xff", b"\xff\xff\xff\xff\x10", b"\x80" * 5 + b"\0"]
)
def test_varint_without_end_or_of_33_bits_is_refused(data: bytes) -> None:
    with pytest.raises(DecodeError):
        decode_uvarint(data, 0)


def test_tagged_field_that_runs_past_the_end_is_refused() -> None:
    assert read_tagged_fields(b"\x02\x01\x02ab\x09\0", 0, 5) == ([(1, 3, 5), (9, 7, 7)], 7, 7)
    for data in (b"\x01\x01\x03ab", b"\x02\x01\0", b"\x01\x80", b"\x01\x01\x80"):
        with pytest.raises(DecodeError):
            read_tagged_fields(data, 0, 0)
