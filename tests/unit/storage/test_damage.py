"""The search for a good batch behind bytes that are none: what it overlooks would be cut off."""

import pytest
from tests.support.logs import batch, stored
from tests.support.memory_files import MemoryFiles

from penstock.storage.damage import (
    CHUNK_BYTES,
    find_unwritten_sector,
    find_valid_batch,
    is_one_bit_off,
    was_never_written,
)

PATH = "/data/log"
GOOD = stored(batch([b"x" * 300]), 100)


def search(content: bytes, start: int = 0, expected_offset: int = 50) -> int | None:
    files = MemoryFiles()
    files.make_directories("/data")
    files.replace(PATH, content)
    return find_valid_batch(files, PATH, start, len(content), expected_offset)


@pytest.mark.parametrize("filler", [b"\0", b"\2", b"\xff", GOOD[:50]])
@pytest.mark.parametrize("distance", [0, 1, 16, 60, 61, 5000])
def test_a_good_batch_is_found_behind_any_rubbish(filler: bytes, distance: int) -> None:
    rubbish = (filler * distance)[:distance]
    assert search(rubbish + GOOD) == distance
    assert search(rubbish + GOOD + rubbish) == distance


@pytest.mark.parametrize("back", [0, 1, 15, 16, 17, 60, 61, 62, 200, 361])
def test_a_batch_across_two_chunks_is_found(back: int) -> None:
    distance = CHUNK_BYTES - back
    assert search(bytes(distance) + GOOD) == distance


def test_a_batch_before_the_start_is_not_meant() -> None:
    assert search(GOOD + GOOD, start=1) == len(GOOD)
    assert search(GOOD, start=1) is None


def test_torn_and_damaged_batches_are_no_good_batches() -> None:
    for length in range(len(GOOD)):
        assert search(GOOD[:length]) is None
    for position in range(21, len(GOOD)):
        damaged = bytearray(GOOD)
        damaged[position] ^= 4
        assert search(bytes(damaged)) is None


def test_a_batch_of_another_place_is_not_of_this_log() -> None:
    assert search(GOOD, expected_offset=100) == 0
    assert search(GOOD, expected_offset=101) is None
    assert search(stored(batch(), 2**33), expected_offset=0) is None


def hole(content: bytes, start: int = 0, expected_offset: int = 3) -> int | None:
    files = MemoryFiles()
    files.make_directories("/data")
    files.replace(PATH, content)
    return find_unwritten_sector(files, PATH, start, len(content), expected_offset)


def test_a_sector_of_zeros_is_overlooked() -> None:
    for sector in (0, 1, 7, CHUNK_BYTES // 512 - 1, CHUNK_BYTES // 512):
        content = bytearray(b"x" * (CHUNK_BYTES + 1024))
        content[sector * 512 : sector * 512 + 512] = bytes(512)
        assert hole(bytes(content)) == sector * 512
        assert hole(bytes(content), start=100) == (100 if sector == 0 else sector * 512)
        content[sector * 512 + 511] = 1
        assert hole(bytes(content)) is None


def test_zeros_that_a_batch_begins_with_are_taken_for_a_sector_that_was_not_written() -> None:
    for expected_offset, zero_count_max in ((0, 11), (1, 7), (255, 7), (256, 6), (2**24, 4), (2**56, 0)):
        for zero_count in range(1, 20):
            start = 512 - zero_count
            content = b"x" * start + bytes(zero_count) + b"x" * 512
            found = hole(content, start=start, expected_offset=expected_offset)
            assert found == (start if zero_count > zero_count_max else None), (expected_offset, zero_count)


def test_the_sector_in_which_the_next_good_batch_begins_is_taken_for_unwritten() -> None:
    assert hole(b"x" * 512 + bytes(511)) is None
    assert hole(b"x" * 512 + bytes(512)) == 512


def test_the_leading_zeros_of_a_good_batch_are_taken_for_a_sector_that_was_written() -> None:
    """A small base offset begins with zeros, so a batch whose first bytes the disk never took can be whole all the same."""
    files = MemoryFiles()
    files.make_directories("/data")
    for batch_position, found in ((1024 - 7, 512), (1024 - 8, None)):
        files.replace(PATH, b"x" * 512 + bytes(batch_position - 512) + GOOD)
        assert find_unwritten_sector(files, PATH, 0, batch_position, 50) == found


def is_off(content: bytes, expected_offset: int | None = 100) -> bool:
    files = MemoryFiles()
    files.make_directories("/data")
    files.replace(PATH, b"before" + content + b"after")
    return is_one_bit_off(files, PATH, 6, expected_offset)


def flipped(content: bytes, position: int, bit: int) -> bytes:
    damaged = bytearray(content)
    damaged[position] ^= 1 << bit
    return bytes(damaged)


def test_a_flipped_bit_anywhere_is_taken_for_more() -> None:
    for position in range(len(GOOD)):
        for bit in range(8):
            damaged = flipped(GOOD, position, bit)
            assert is_off(damaged), (position, bit)
            assert bit != position % 8 or is_off(damaged, expected_offset=None), (position, bit)


def test_a_flipped_bit_of_a_large_batch_is_taken_for_more() -> None:
    large = stored(batch([bytes(3 << 20)]), 100)
    for position in (0, 9, 11, 17, 21, 61, 1 << 20, len(large) - 1):
        assert is_off(flipped(large, position, position % 8)), position
    assert not is_off(flipped(flipped(large, 70, 1), 1 << 20, 1))


def test_more_than_a_flipped_bit_is_taken_for_one() -> None:
    for position in range(61, len(GOOD) - 1):
        assert not is_off(flipped(flipped(GOOD, position, 0), position + 1, 0)), position
        assert not is_off(GOOD[:position] + bytes(len(GOOD) - position)), position
    assert not is_off(GOOD[:60])
    for position in range(12):  # what the checksum does not cover
        assert not is_off(flipped(flipped(GOOD, position, 0), position, 1)), position
        assert not is_off(flipped(flipped(GOOD, position, 0), 70, 1)), position
    assert not is_off(bytes(12) + GOOD[12:])


OFFSETS = (1, 2, 3, 128, 255, 256, 257, 511, 768, 2**16, 2**24 + 2**23, 2**40 + 1, 2**56)


@pytest.mark.parametrize("base_offset", OFFSETS)
def test_a_lost_sector_of_which_a_batch_has_a_few_bytes_is_told_from_a_flipped_bit(base_offset: int) -> None:
    """Only where the sector held no more than one bit of the batch that is set, in its base offset, nobody can tell the two apart."""
    lost = stored(batch([b"x" * 700]), base_offset)
    following = stored(batch([b"good"]), base_offset + 1)
    files = MemoryFiles()
    files.make_directories("/data")
    for count in range(1, 24):
        start = 512 - count
        remaining = bytes(count) + lost[count:]
        files.replace(PATH, b"x" * start + remaining + following)
        lost_bits = int.from_bytes(lost[: min(count, 12)]).bit_count()
        told = was_never_written(files, PATH, start, start + len(lost), base_offset)
        assert told == (lost_bits > 1), count
        assert not lost_bits or remaining != lost


@pytest.mark.parametrize(
    ("base_offset", "may_have_gaps"), [(1, False), (1, True), (256, False), (2**24 + 2**23, False)]
)
def test_a_flipped_bit_of_a_batch_that_looks_like_an_unwritten_sector_is_cut(
    base_offset: int, may_have_gaps: bool
) -> None:
    """Zeros, and a batch of another log, are in the records; and it begins at every place near a sector's end."""
    inner = stored(batch([b"of another log"]), base_offset + 5)
    whole = stored(batch([bytes(1700) + inner + b"x" * 7]), base_offset)
    following = stored(batch([b"good"]), base_offset + 1)
    files = MemoryFiles()
    files.make_directories("/data")
    bits = [bit for bit in range(8 * 61) if bit < 8 * 21 or bit % 5 == 0] + [8 * len(whole) - 1, 8 * 900]
    for bit in bits:
        start = 512 - (1 + bit % 23)
        damaged = flipped(whole, bit // 8, bit % 8)
        files.replace(PATH, b"x" * start + damaged + following)
        good = find_valid_batch(files, PATH, start + 1, start + len(whole) + len(following), base_offset)
        assert good is not None
        assert good < start + len(whole)
        for position in (good, start + len(whole)):
            assert find_unwritten_sector(files, PATH, start, position, base_offset) is not None
            assert not was_never_written(
                files, PATH, start, position, base_offset, may_have_gaps=may_have_gaps
            ), bit
