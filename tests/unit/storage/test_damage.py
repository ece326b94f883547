"""The search for a good batch behind bytes that are none: what it overlooks would be cut off."""

import pytest
from tests.support.logs import batch, stored
from tests.support.memory_files import MemoryFiles

from penstock.storage.damage import CHUNK_BYTES, find_unwritten_sector, find_valid_batch, is_one_bit_off

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


def hole(content: bytes, start: int = 0) -> int | None:
    files = MemoryFiles()
    files.make_directories("/data")
    files.replace(PATH, content)
    return find_unwritten_sector(files, PATH, start, len(content))


def test_a_sector_of_zeros_is_overlooked() -> None:
    for sector in (0, 1, 7, CHUNK_BYTES // 512 - 1, CHUNK_BYTES // 512):
        content = bytearray(b"x" * (CHUNK_BYTES + 1024))
        content[sector * 512 : sector * 512 + 512] = bytes(512)
        assert hole(bytes(content)) == sector * 512
        assert hole(bytes(content), start=100) == (100 if sector == 0 else sector * 512)
        content[sector * 512 + 511] = 1
        assert hole(bytes(content)) is None


def test_a_few_zeros_at_the_end_of_a_sector_are_taken_for_one_that_was_not_written() -> None:
    assert hole(b"x" * 500 + bytes(12) + b"x" * 512, start=500) is None
    assert hole(b"x" * 496 + bytes(16) + b"x" * 512, start=496) == 496


def test_the_sector_in_which_the_next_good_batch_begins_is_taken_for_unwritten() -> None:
    assert hole(b"x" * 512 + bytes(511)) is None
    assert hole(b"x" * 512 + bytes(512)) == 512


def test_the_leading_zeros_of_a_good_batch_are_taken_for_a_sector_that_was_written() -> None:
    """A small base offset begins with zeros, so a batch whose first bytes the disk never took can be whole all the same."""
    files = MemoryFiles()
    files.make_directories("/data")
    for batch_position, found in ((1024 - 7, 512), (1024 - 8, None)):
        files.replace(PATH, b"x" * 512 + bytes(batch_position - 512) + GOOD)
        assert find_unwritten_sector(files, PATH, 0, batch_position) == found


def is_off(content: bytes) -> bool:
    files = MemoryFiles()
    files.make_directories("/data")
    files.replace(PATH, b"before" + content + b"after")
    return is_one_bit_off(files, PATH, 6, 6 + len(content))


def test_a_flipped_bit_anywhere_is_taken_for_more() -> None:
    for position in range(len(GOOD)):
        for bit in range(8):
            damaged = bytearray(GOOD)
            damaged[position] ^= 1 << bit
            assert is_off(bytes(damaged)), (position, bit)


def test_more_than_a_flipped_bit_is_taken_for_one() -> None:
    for position in range(61, len(GOOD) - 1):
        damaged = bytearray(GOOD)
        damaged[position] ^= 1
        damaged[position + 1] ^= 1
        assert not is_off(bytes(damaged)), position
        assert not is_off(GOOD[:position] + bytes(len(GOOD) - position)), position
    assert not is_off(GOOD[:60])
