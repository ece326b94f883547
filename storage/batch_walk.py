"""Walking along the batches of a segment's file.

Owns reading headers and batches in chunks, and the checks that one batch after another must pass. Knows neither indexes nor logs.

The CRC of a batch does not cover its base offset, length, leader epoch and magic. So a batch is good only if its base offset
follows on the one before (where compaction has been: is not below it), its length leads to the next, and its epoch is the one that the
leader-epoch checkpoint names for that offset (PROPERTIES D10).
"""

from collections.abc import Callable, Iterator
from threading import Lock
from typing import NamedTuple, TypeVar

from penstock.protocol.compression import DecompressionTooLarge
from penstock.protocol.errors import DecodeError
from penstock.protocol.record_batch import (
    HEADER_SIZE_BYTES,
    BatchHeader,
    read_batch_header,
    verify_crc,
)
from penstock.runtime.files import File
from penstock.storage.errors import CorruptBatch, NotResident

HEADER_CHUNK_BYTES = 4096
BATCH_CHUNK_BYTES = 1 << 20
UNPACKED_AT_ONCE_BYTES = 8 << 20
"""What any worker may unpack of a batch that a client has sent: few take more."""
LARGE_UNPACKING = Lock()
"""Held by the one worker that unpacks more."""

T = TypeVar("T")


class ChainRules(NamedTuple):
    """What holds from batch to batch in one log, and how dense its indexes are."""

    gaps_below: int
    """Offsets below this one may be missing, for compaction has been there; from it on each batch follows on the one before."""
    epoch_at: Callable[[int], int] | None
    """The leader epoch of the batch at an offset; None where nothing knows."""
    index_interval_bytes: int


def unpack_in_turn(work: Callable[[int], T], bytes_max: int) -> T:
    """What `work` makes of a batch that it unpacks, given to how many bytes it may: few at first, `bytes_max` when it is its turn.

    A few bytes unpack to a thousand times as many, so no two workers of a process unpack large batches at once. Waits for its turn: on
    workers only. `work` raises DecompressionTooLarge where it may not have as many as it needs, and so does this over `bytes_max`.
    """
    try:
        return work(min(UNPACKED_AT_ONCE_BYTES, bytes_max))
    except DecompressionTooLarge:
        if bytes_max <= UNPACKED_AT_ONCE_BYTES:
            raise
    with LARGE_UNPACKING:
        return work(bytes_max)


def walk_headers(
    file: File, position: int, end_position: int, *, resident_only: bool = False
) -> Iterator[tuple[int, BatchHeader]]:
    """(position, header) of each batch from `position` (a batch's start) to `end_position` (exclusive), without checksums.

    Raises CorruptBatch at what can't be a header or reaches past `end_position`; NotResident if asked not to wait for the disk.
    """
    chunk = b""
    chunk_position = position
    while position < end_position:
        start = position - chunk_position
        if start + HEADER_SIZE_BYTES > len(chunk):
            count = min(HEADER_CHUNK_BYTES, end_position - position)
            if resident_only and not file.is_resident(position, count):
                raise NotResident(f"{file.path}: headers at {position}")
            chunk, chunk_position, start = file.pread(count, position), position, 0
        header = _read_header(file, chunk, start, position, end_position)
        yield position, header
        position += header.size_bytes


def walk_batches(
    file: File, position: int, end_position: int
) -> Iterator[tuple[int, BatchHeader, memoryview]]:
    """(position, header, bytes) of each whole batch, read in chunks of about a megabyte. Checksums are the caller's.

    Raises CorruptBatch like `walk_headers`.
    """
    chunk = memoryview(b"")
    chunk_position = position
    while position < end_position:
        start = position - chunk_position
        if start + HEADER_SIZE_BYTES > len(chunk):
            chunk, chunk_position, start = _read_chunk(file, position, BATCH_CHUNK_BYTES, end_position)
        header = _read_header(file, chunk, start, position, end_position)
        if start + header.size_bytes > len(chunk):
            size = max(BATCH_CHUNK_BYTES, header.size_bytes)
            chunk, chunk_position, start = _read_chunk(file, position, size, end_position)
            if header.size_bytes > len(chunk):
                raise CorruptBatch(file.path, position, "the file ends inside the batch")
        yield position, header, chunk[start : start + header.size_bytes]
        position += header.size_bytes


def check_batch(
    path: str, position: int, header: BatchHeader, batch: memoryview, expected_offset: int, rules: ChainRules
) -> None:
    """Raise CorruptBatch unless the batch follows on `expected_offset` and its checksum is right."""
    reason = chain_fault(header, expected_offset, rules)
    if reason is None and not verify_crc(batch):
        reason = "the CRC-32C is wrong"
    if reason is not None:
        raise CorruptBatch(path, position, reason)


def chain_fault(header: BatchHeader, expected_offset: int, rules: ChainRules) -> str | None:
    """What is wrong with a header where `expected_offset` (-1: anything) comes next; None if nothing is."""
    base_offset = header.base_offset
    if base_offset < 0 or header.last_offset_delta < 0:
        return f"offsets {base_offset} to {header.last_offset}"
    if expected_offset >= 0 and not follows_on(base_offset, expected_offset, rules):
        return f"base offset {base_offset} where {expected_offset} comes next"
    if rules.epoch_at is not None:
        epoch = rules.epoch_at(base_offset)
        if header.partition_leader_epoch != epoch:
            return f"leader epoch {header.partition_leader_epoch} where the checkpoint says {epoch}"
    return None


def follows_on(base_offset: int, expected_offset: int, rules: ChainRules) -> bool:
    """Whether a batch or segment may begin there: at the offset that comes next, or behind a gap that compaction has left."""
    return base_offset == expected_offset or expected_offset < base_offset <= rules.gaps_below


def _read_chunk(file: File, position: int, count: int, end_position: int) -> tuple[memoryview, int, int]:
    return memoryview(file.pread(min(count, end_position - position), position)), position, 0


def _read_header(
    file: File, chunk: bytes | memoryview, start: int, position: int, end_position: int
) -> BatchHeader:
    if end_position - position < HEADER_SIZE_BYTES or len(chunk) - start < HEADER_SIZE_BYTES:
        raise CorruptBatch(file.path, position, f"{end_position - position} bytes are less than a header")
    try:
        header = read_batch_header(chunk, start)
    except DecodeError as error:
        raise CorruptBatch(file.path, position, str(error)) from None
    if position + header.size_bytes > end_position:
        raise CorruptBatch(file.path, position, f"a batch of {header.size_bytes} bytes reaches past the end")
    return header
