"""Both indexes as bytes and in memory."""

from array import array

import pytest

from penstock.storage.index import OffsetIndex, TimeIndex


def offset_index(*entries: tuple[int, int]) -> OffsetIndex:
    index = OffsetIndex()
    for relative_offset, position in entries:
        index.append(relative_offset, position)
    return index


def time_index(*entries: tuple[int, int]) -> TimeIndex:
    return TimeIndex(array("q", [e[0] for e in entries]), array("i", [e[1] for e in entries]))


def test_the_offset_index_is_kafkas_byte_for_byte() -> None:
    data = offset_index((5, 0x0102), (0x7FFFFFFF, 0x01020304)).encode()
    assert data.hex(" ") == "00 00 00 05 00 00 01 02 7f ff ff ff 01 02 03 04"
    again = OffsetIndex.decode(data)
    assert list(again.relative_offsets) == [5, 0x7FFFFFFF]
    assert list(again.positions) == [0x0102, 0x01020304]


def test_the_time_index_is_kafkas_byte_for_byte() -> None:
    data = time_index((0x0102030405060708, 9)).encode()
    assert data.hex(" ") == "01 02 03 04 05 06 07 08 00 00 00 09"
    again = TimeIndex.decode(data)
    assert list(again.timestamps) == [0x0102030405060708]
    assert list(again.relative_offsets) == [9]


def test_a_torn_last_entry_is_left_out() -> None:
    assert len(OffsetIndex.decode(offset_index((1, 2), (3, 4)).encode()[:-1])) == 1
    assert len(TimeIndex.decode(time_index((1, 2), (3, 4)).encode()[:-1])) == 1


@pytest.mark.parametrize(("offset", "entry"), [(0, -1), (4, -1), (5, 0), (8, 0), (9, 1), (10**9, 1)])
def test_the_floor_of_an_offset(offset: int, entry: int) -> None:
    assert offset_index((5, 0), (9, 100)).floor(offset) == entry


def test_a_timestamp_that_did_not_grow_gets_no_entry() -> None:
    index = TimeIndex()
    for timestamp, offset in ((-1, 0), (0, 1), (5, 2), (5, 3), (4, 4), (6, 5)):
        index.append_if_larger(timestamp, offset)
    assert list(zip(index.timestamps, index.relative_offsets, strict=True)) == [(0, 1), (5, 2), (6, 5)]


@pytest.mark.parametrize(
    "entries",
    [((1, 0), (1, 5)), ((2, 0), (1, 5)), ((1, 5), (2, 5)), ((1, 5), (2, 100)), ((-1, 5),), ((1, -5),)],
)
def test_an_offset_index_that_does_not_rise_or_leaves_the_segment_makes_no_sense(
    entries: tuple[tuple[int, int], ...],
) -> None:
    assert not offset_index(*entries).is_plausible(100)
    assert offset_index((1, 5), (2, 99)).is_plausible(100)


@pytest.mark.parametrize(
    "entries", [((1, 1), (1, 2)), ((2, 1), (1, 2)), ((1, 2), (2, 1)), ((-1, 2),), ((1, -2),)]
)
def test_a_time_index_that_does_not_rise_makes_no_sense(entries: tuple[tuple[int, int], ...]) -> None:
    assert not time_index(*entries).is_plausible()
    assert time_index((0, 1), (1, 2)).is_plausible()


def test_an_entry_that_an_append_has_half_made_is_not_counted() -> None:
    index = time_index((10, 0), (20, 5))
    index.relative_offsets.append(9)
    assert index.count_below_offset(100) == len(index) == 2
