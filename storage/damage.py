"""Telling a torn tail from damage.

Owns the search for a good batch in bytes that do not chain. Changes nothing.

A power cut tears what was being written, at the end of the log. So bytes that are no good batch may be cut only if no good batch
follows anywhere behind them; one that does was written later, and what lies before it was lost in another way. But for one case: of
what was written since the last sync the disk may have taken the later sectors and not the earlier ones. A sector that it did not take is
zeros, since an append only ever writes behind the end of the file, what was cut off again is durably gone before, and a short write is
completed sector by sector; damage on a disk is not. A producer's own zeros are told from these by what one flipped bit could have done:
where setting one bit right makes a good batch, it is damage, and never cut.

Invariant: of a batch that was whole and had one bit flipped since, `was_never_written` says no, whatever the batch holds.
"""

import struct
from math import isqrt

from penstock.protocol.checksum import crc32c
from penstock.protocol.record_batch import (
    ATTRIBUTES_POSITION,
    CRC_POSITION,
    HEADER_SIZE_BYTES,
    LENGTH_PREFIX_SIZE_BYTES,
    MAGIC,
    MAGIC_POSITION,
)
from penstock.runtime.files import File, FileSystem

CHUNK_BYTES = 4 << 20
OFFSET_SPAN_MAX = 2**31
"""How far above the expected offset a batch may lie and still be taken for one of this log."""

SECTOR_SIZE_BYTES = 512
"""The least that a disk writes or does not write."""
_OFFSET_SIZE_BYTES = 8
ONE_BIT_BYTES_MAX = 1 << 27
"""No batch is larger: a frame holds at most 100 MiB."""

_CRC_POLYNOMIAL = 0x82F63B78
"""Of CRC-32C, lowest bit first: what the last bit of a message changes."""
_MAGIC_BYTE = bytes((MAGIC,))
_PREFIX = struct.Struct(">qi")
_UNSIGNED_PREFIX = struct.Struct(">QI")
_CRC = struct.Struct(">I")


def find_valid_batch(
    files: FileSystem, path: str, start_position: int, end_position: int, expected_offset: int
) -> int | None:
    """The position of the first whole batch with a right checksum at or after `start_position`; None if there is none.

    Its base offset must be at or above `expected_offset`. Raises StorageError.
    """
    file = files.open(path)
    try:
        position = start_position
        while position + HEADER_SIZE_BYTES <= end_position:
            count = min(CHUNK_BYTES, end_position - position)
            chunk = file.pread(count, position)
            found = _search_chunk(file, chunk, position, end_position, expected_offset)
            if found is not None:
                return found
            position += max(1, count - HEADER_SIZE_BYTES + 1)
        return None
    finally:
        file.close()


def was_never_written(
    files: FileSystem,
    path: str,
    start_position: int,
    good_position: int,
    expected_offset: int,
    *,
    may_have_gaps: bool = False,
) -> bool:
    """Whether what lies between is there because the power went before the disk had taken it, and not because it was damaged later.

    `start_position` is where a batch should begin, with `expected_offset` (or a higher one if there may be gaps), and none that is good
    does; `good_position` is where the next good one begins. If so, nothing from `start_position` on was ever synced. Raises StorageError.
    """
    if find_unwritten_sector(files, path, start_position, good_position, expected_offset) is None:
        return False
    return not is_one_bit_off(files, path, start_position, None if may_have_gaps else expected_offset)


def find_unwritten_sector(
    files: FileSystem, path: str, start_position: int, end_position: int, expected_offset: int
) -> int | None:
    """Where the first sector within the range begins that was never written: zeros, from `start_position` on or whole.

    The range goes from where a batch should begin, with `expected_offset` or a higher one, to the next good batch: the sector that this one
    begins in was written with it, and does not count, unless the batch has nothing but zeros there (its base offset begins with them).
    Raises StorageError.
    """
    file = files.open(path)
    try:
        rest = file.pread(-end_position % SECTOR_SIZE_BYTES, end_position)
        if not any(rest):
            end_position += len(rest)
        position = start_position
        while position < end_position:
            count = CHUNK_BYTES - position % SECTOR_SIZE_BYTES
            chunk = file.pread(min(count, end_position - position), position)
            start = 0
            while start < len(chunk):
                end = start + SECTOR_SIZE_BYTES - (position + start) % SECTOR_SIZE_BYTES
                if end > len(chunk):
                    break
                if chunk.count(0, start, end) == end - start and _says_something(
                    end - start, expected_offset
                ):
                    return position + start
                start = end
            position += max(1, len(chunk))
        return None
    finally:
        file.close()


def _says_something(zero_count: int, expected_offset: int) -> bool:
    """Whether a batch never begins with so many zeros: its length, behind its base offset, is none, and the base offset is known."""
    if zero_count >= LENGTH_PREFIX_SIZE_BYTES:
        return True
    return expected_offset >> 8 * max(0, _OFFSET_SIZE_BYTES - zero_count) != 0


def is_one_bit_off(files: FileSystem, path: str, position: int, expected_offset: int | None) -> bool:
    """Whether there is a good batch at `position` but for one flipped bit, anywhere in it. Raises StorageError.

    `expected_offset` is its base offset; None where that is not known. Leader epoch and magic may hold anything.

    Each field says where the bit may be. With more than one wrong bit in the base offset it is none; with one, all else must be right. If the
    length is right, so is the checksum over as many bytes, but for one bit in them or in it; if it is not, with one of its bits set right.
    """
    file = files.open(path)
    try:
        header = file.pread(HEADER_SIZE_BYTES, position)
        if len(header) < HEADER_SIZE_BYTES:
            return False
        base_offset, batch_length = _UNSIGNED_PREFIX.unpack_from(header)
        offset_bits = 0 if expected_offset is None else (base_offset ^ expected_offset).bit_count()
        if offset_bits > 1:
            return False
        difference = _crc_difference(file, header, position, batch_length)
        if difference == 0:  # the bit is in a field that the checksum does not cover
            return True
        if offset_bits:
            return False
        if difference is not None:
            covered_bytes = LENGTH_PREFIX_SIZE_BYTES + batch_length - ATTRIBUTES_POSITION
            if difference.bit_count() == 1 or _is_change_of_one_bit(difference, 8 * covered_bytes):
                return True
        return any(_crc_difference(file, header, position, batch_length ^ 1 << bit) == 0 for bit in range(32))
    finally:
        file.close()


def _crc_difference(file: File, header: bytes, position: int, batch_length: int) -> int | None:
    """By what the checksum of a batch of that length is not the one in its header; None if no batch of that length can be there."""
    end_position = position + LENGTH_PREFIX_SIZE_BYTES + batch_length
    if not HEADER_SIZE_BYTES <= end_position - position <= ONE_BIT_BYTES_MAX or end_position > file.size():
        return None
    crc = 0
    at = position + ATTRIBUTES_POSITION
    while at < end_position:
        chunk = file.pread(min(CHUNK_BYTES, end_position - at), at)
        if not chunk:
            return None
        crc = crc32c(chunk, crc)
        at += len(chunk)
    found: int = _CRC.unpack_from(header, CRC_POSITION)[0]
    return crc ^ found


def _is_change_of_one_bit(difference: int, bit_count: int) -> bool:
    """Whether flipping one of the last `bit_count` bits of a message changes its CRC-32C by `difference`.

    A CRC is linear: a flipped bit changes it by a value that depends on the bit's distance to the end alone, whatever the message holds, and
    each distance's value follows from the one before. These are gone through in strides, since n steps back from a value is linear, too: the
    distance is a number of strides and a rest ("baby steps, giant steps"). Some milliseconds for a megabyte.
    """
    stride = isqrt(bit_count) + 1
    rests: set[int] = set()
    change = _CRC_POLYNOMIAL
    for _ in range(stride):
        rests.add(change)
        change = change >> 1 ^ (_CRC_POLYNOMIAL if change & 1 else 0)
    columns = [_steps_back(1 << bit, stride) for bit in range(32)]
    for _ in range(stride):
        if difference in rests:
            return True
        back = 0
        for column in columns:
            if difference & 1:
                back ^= column
            difference >>= 1
        difference = back
    return False


def _steps_back(change: int, count: int) -> int:
    for _ in range(count):
        change = (change ^ _CRC_POLYNOMIAL) << 1 | 1 if change >> 31 else change << 1
    return change


def _search_chunk(
    file: File, chunk: bytes, chunk_position: int, end_position: int, expected_offset: int
) -> int | None:
    """Look at every byte that could be a batch's magic."""
    at = chunk.find(_MAGIC_BYTE, MAGIC_POSITION)
    while at >= 0:
        start = at - MAGIC_POSITION
        if start + HEADER_SIZE_BYTES > len(chunk):
            return None
        base_offset, batch_length = _PREFIX.unpack_from(chunk, start)
        position = chunk_position + start
        if (
            0 <= base_offset - expected_offset <= OFFSET_SPAN_MAX
            and batch_length >= HEADER_SIZE_BYTES - LENGTH_PREFIX_SIZE_BYTES
            and position + LENGTH_PREFIX_SIZE_BYTES + batch_length <= end_position
        ):
            batch = memoryview(file.pread(LENGTH_PREFIX_SIZE_BYTES + batch_length, position))
            if crc32c(batch[ATTRIBUTES_POSITION:]) == _CRC.unpack_from(batch, CRC_POSITION)[0]:
                return position
        at = chunk.find(_MAGIC_BYTE, at + 1)
    return None
