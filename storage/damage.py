"""Telling a torn tail from damage.

Owns the search for a good batch in bytes that do not chain. Changes nothing.

A power cut tears what was being written, at the end of the log. So bytes that are no good batch may be cut only if no good batch
follows anywhere behind them; one that does was written later, and what lies before it was lost in another way. But for one case: of
what was written since the last sync the disk may have taken the later sectors and not the earlier ones. A sector that it did not take is
zeros, since an append only ever writes behind the end of the file; damage on a disk is not. A producer's own zeros are told from these by the
checksum: where one flipped bit explains it, the rest of the batch is there.
"""

import struct

from crc32c import crc32c

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
UNWRITTEN_RUN_BYTES_MIN = 16
"""A sector's rest that is shorter says nothing: offsets and lengths begin with zeros."""
ONE_BIT_BYTES_MAX = 16 << 20

_CRC_POLYNOMIAL = 0x82F63B78
"""Of CRC-32C, lowest bit first: what the last bit of a message changes."""
_MAGIC_BYTE = bytes((MAGIC,))
_PREFIX = struct.Struct(">qi")
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


def find_unwritten_sector(files: FileSystem, path: str, start_position: int, end_position: int) -> int | None:
    """Where the first sector within the range begins that was never written: zeros, from `start_position` on or whole.

    The range goes from where a batch should begin to the next good batch: the sector that this one begins in was written with it, and
    does not count, unless the batch has nothing but zeros there (its base offset begins with them). Raises StorageError.
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
                if end - start >= UNWRITTEN_RUN_BYTES_MIN and chunk.count(0, start, end) == end - start:
                    return position + start
                start = end
            position += max(1, len(chunk))
        return None
    finally:
        file.close()


def is_one_bit_off(files: FileSystem, path: str, start_position: int, end_position: int) -> bool:
    """Whether the bytes of the range are one batch, but for one flipped bit anywhere in it. Raises StorageError.

    A CRC is linear: a flipped bit changes it by a value that depends on the bit's distance to the end alone, whatever the batch holds. Looks
    through these, up to a second for a megabyte; of a batch of more than `ONE_BIT_BYTES_MAX` it says no.
    """
    size_bytes = end_position - start_position
    if not HEADER_SIZE_BYTES <= size_bytes <= ONE_BIT_BYTES_MAX:
        return False
    file = files.open(path)
    try:
        batch = memoryview(file.pread(size_bytes, start_position))
    finally:
        file.close()
    difference = crc32c(batch[ATTRIBUTES_POSITION:]) ^ _CRC.unpack_from(batch, CRC_POSITION)[0]
    if difference.bit_count() <= 1:  # the bit is in the checksum, or in a field that it does not cover
        return True
    change = _CRC_POLYNOMIAL
    for _ in range(8 * (size_bytes - ATTRIBUTES_POSITION)):
        if change == difference:
            return True
        change = change >> 1 ^ (_CRC_POLYNOMIAL if change & 1 else 0)
    return False


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
