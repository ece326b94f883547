"""A segment's index files held against its log: loading, rebuilding, and going on where they end.

Owns the rule that an index is never trusted over the log. Knows the batches' headers, not what is in the batches.

Invariant: indexes are published in the segment as a whole, when they are complete, so that two threads may load them at once.
"""

from penstock.runtime.files import File
from penstock.storage.batch_walk import ChainRules, chain_fault, walk_headers
from penstock.storage.errors import CorruptBatch
from penstock.storage.layout import RELATIVE_OFFSET_MAX
from penstock.storage.segment import Indexes, Segment


def ensure_indexes(segment: Segment, rules: ChainRules) -> Indexes:
    """The indexes of a closed segment, loaded or, where missing or senseless, rebuilt from the log and written.

    Waits for the disk. Raises CorruptBatch when a rebuild meets a header that can't be one or doesn't follow on the last, StorageError.
    """
    indexes = segment.indexes
    if indexes is None:
        indexes = segment.read_indexes()
        if indexes is None:
            return rebuild_indexes(segment, rules)
        _publish(segment, indexes)
    segment.pool.note_indexes(segment, indexes.size_bytes)
    return indexes


def rebuild_indexes(segment: Segment, rules: ChainRules) -> Indexes:
    """Make the indexes of a closed segment anew from its batches' headers, and write them. Raises like `ensure_indexes`."""
    scratch = Segment(segment.pool, segment.directory, segment.base_offset, segment.size_bytes)
    scratch.reset_bookkeeping()
    shared = segment.pool.acquire(segment)
    try:
        book_to_end(scratch, shared.file, 0, segment.size_bytes, rules)
    finally:
        segment.pool.release(shared)
    if not segment.is_gone:  # else the paths may be another's by now
        scratch.write_indexes()
    assert scratch.indexes is not None
    _publish(segment, scratch.indexes)
    segment.pool.note_indexes(segment, scratch.indexes.size_bytes)
    return scratch.indexes


def _publish(segment: Segment, indexes: Indexes) -> None:
    if indexes.by_time.timestamps:
        segment.largest_timestamp_ms = indexes.by_time.timestamps[-1]
        segment.largest_timestamp_last_offset = segment.base_offset + indexes.by_time.relative_offsets[-1]
    segment.indexes = indexes


def batch_ends_with(
    file: File, position: int, end_position: int, last_offset: int, *, resident_only: bool = False
) -> bool:
    """Whether at `position` there is the header of a batch with that last offset. Raises NotResident if asked not to wait."""
    try:
        _, header = next(walk_headers(file, position, end_position, resident_only=resident_only))
    except CorruptBatch:
        return False
    return header.last_offset == last_offset


def resume_indexes(
    segment: Segment, file: File, indexes: Indexes | None, end_position: int, below_offset: int
) -> tuple[int, bool]:
    """Take over the index entries of batches that end below `below_offset` and lie before `end_position`, for a walk from there.

    Returns the position to walk from (a batch whose entry is already made, or 0) and whether the entries could be taken: False says that
    there are none, or that the log does not bear the last one out.
    """
    if indexes is not None:
        by_offset = indexes.by_offset
        relative_max = min(below_offset - segment.base_offset - 1, RELATIVE_OFFSET_MAX)
        count = min(by_offset.floor(relative_max) + 1, by_offset.count_below_position(end_position))
        if count > 0:
            last_offset = segment.base_offset + by_offset.relative_offsets[count - 1]
            if batch_ends_with(file, by_offset.positions[count - 1], end_position, last_offset):
                return segment.resume_bookkeeping(indexes, count), True
    segment.reset_bookkeeping()
    return 0, False


def book_to_end(
    segment: Segment, file: File, position: int, end_position: int, rules: ChainRules
) -> tuple[int, int]:
    """Book every batch from `position` on by its header.

    Returns the offset after the last one and that one's position; the base offset and -1 without any. Raises CorruptBatch where the chain
    breaks.
    """
    expected = segment.base_offset if position == 0 else -1
    last_position = -1
    for batch_position, header in walk_headers(file, position, end_position):
        fault = chain_fault(header, expected, rules)
        if fault is not None:
            raise CorruptBatch(segment.path, batch_position, fault)
        segment.book_header(batch_position, header, rules.index_interval_bytes)
        expected = header.next_offset
        last_position = batch_position
    return max(expected, segment.base_offset), last_position
