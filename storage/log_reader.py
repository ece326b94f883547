"""From an offset to the bytes: where a read starts and ends in a segment's file.

Owns the lookup and the check of ranges that this process has neither written nor verified yet. Changes nothing but what a segment
remembers as checked. Knows neither consumers nor high watermarks: the end of what may be read is handed in.

Two ways lead to a position. The hot tail of the segment, arrays in memory, makes no system call as long as it is near the log's end. Everything else goes through the
sparse index and the headers from there on, with a residency probe before each read if the caller must not wait.

Invariants:
    - A slice begins at a batch, holds at least one whole batch, and no byte at or past the end offset.
    - A range that is far from the log's end and not resident is passing: read as one piece, and forgotten by the page cache when it was
      sent. What another reader has there already stays, and so does all that is near the end.
    - A range of a file that was not written by this process is served only after its batches' checksums and chain were verified once,
      and so is each range that has to come from the disk again (PROPERTIES D10).
"""

from bisect import bisect_right
from typing import NamedTuple

from penstock.runtime.files import File
from penstock.storage.batch_walk import (
    ChainRules,
    chain_fault,
    check_batch,
    follows_on,
    walk_batches,
    walk_headers,
)
from penstock.storage.errors import CorruptBatch, NotResident
from penstock.storage.log_slice import LogSlice, empty_slice
from penstock.storage.segment import HotTail, Indexes, Segment
from penstock.storage.segment_files import SharedFile
from penstock.storage.segment_indexes import batch_ends_with, ensure_indexes, rebuild_indexes

Segments = tuple[Segment, ...]


class ReadRequest(NamedTuple):
    """What to read, with the state of the log at one moment."""

    offset: int
    max_bytes: int
    end_offset: int
    ends_at_size: int
    """The active segment's size if `end_offset` is the log end offset; -1 otherwise."""
    resident_only: bool
    rules: ChainRules


class _Located(NamedTuple):
    position: int
    first_end: int
    """Where the first batch ends."""
    expected_offset: int
    """What offset the first batch begins with at the least; -1 unknown."""


PASSING_GAP_BYTES = 256 * 1024
"""A read that begins so near to where one from the disk ended goes on with it: the kernel reads ahead, so what it finds resident is not hot."""

FOLIO_BYTES_MAX = 2 << 20
"""The page cache forgets whole folios only, and Linux makes them as large as this where it reads on and on."""


def is_far(segments: Segments, offset: int, far_bytes: int) -> bool:
    """Whether more than `far_bytes` of log, roughly, lie behind `offset`: by what is in memory, without a system call.

    A closed segment whose indexes are not loaded counts as if `offset` were at its end.
    """
    behind_bytes = 0
    for segment in reversed(segments):
        if offset >= segment.base_offset:
            return behind_bytes + segment.size_bytes - _rough_position(segment, offset) > far_bytes
        behind_bytes += segment.size_bytes
        if behind_bytes > far_bytes:
            return True
    return False


def _rough_position(segment: Segment, offset: int) -> int:
    """At or a little before the batch that holds `offset`; the segment's end if that is not known without its index files."""
    tail, indexes = segment.tail, segment.indexes
    if tail is not None and offset >= tail.first_offset:
        batch = tail.find(offset)
        return tail.positions[batch] if batch < len(tail.end_offsets) else segment.size_bytes
    if indexes is None:
        return segment.size_bytes
    entry = indexes.by_offset.floor(offset - segment.base_offset)
    return indexes.by_offset.positions[entry] if entry >= 0 else 0


def floor_segment(segments: Segments, offset: int) -> int:
    """The number of the segment that holds `offset`: the last one that begins at or below it, at least 0."""
    return max(0, bisect_right(segments, offset, key=_base_offset) - 1)


def read_slice(segments: Segments, request: ReadRequest) -> LogSlice:
    """The slice for a request whose offset lies below its end offset.

    Raises NotResident (only if asked to), CorruptBatch, StorageError, FileNotFoundError when a segment went meanwhile.
    """
    last = len(segments) - 1
    number = last
    if request.offset < segments[last].base_offset:
        number = floor_segment(segments, request.offset)
    while number <= last:
        found = _slice_of_segment(segments, number, request)
        if found is not None:
            return found
        number += 1
        if number <= last and not follows_on(segments[number].base_offset, request.offset, request.rules):
            before = segments[number - 1]
            raise CorruptBatch(
                before.path,
                before.size_bytes,
                f"the segment ends below offset {request.offset}, and the next begins at {segments[number].base_offset}",
            )
    return empty_slice()


def locate_end(segment: Segment, offset: int, rules: ChainRules) -> tuple[int, int]:
    """Where a segment ends if everything at `offset` and above is cut off: the offset and the position of the first batch that goes.

    The offset is that batch's base offset, or `offset` itself where it falls into a gap or behind the last batch. Waits for the disk.
    """
    if segment.size_bytes == 0 or offset <= segment.base_offset:
        return min(offset, segment.base_offset), 0
    request = ReadRequest(offset, 0, offset, -1, False, rules)
    shared = segment.pool.acquire(segment)
    try:
        found = locate(segment, shared.file, offset, request)
        if found is None:
            return offset, segment.size_bytes
        _, header = next(walk_headers(shared.file, found.position, segment.size_bytes))
        return min(offset, header.base_offset), found.position
    finally:
        segment.pool.release(shared)


def _slice_of_segment(segments: Segments, number: int, request: ReadRequest) -> LogSlice | None:
    segment = segments[number]
    tail = segment.tail
    if tail is None or request.offset < tail.first_offset:
        return _cold_slice(segments, number, request)
    positions = tail.positions
    batch = tail.find(request.offset)
    if batch == len(tail.end_offsets):
        return None
    position = positions[batch]
    limit = _end_in_tail(segments, number, tail, request)
    if position >= limit:
        return None
    first_end = positions[batch + 1] if batch + 1 < len(positions) else limit
    found = _Located(position, min(first_end, limit), -1)
    if segment.size_bytes - position <= segment.pool.far_bytes and (
        number + 1 == len(segments) or not is_far(segments, request.offset, segment.pool.far_bytes)
    ):
        return _make_slice(segment, request, found, limit, hot=True)
    # where it lies is known, and not whether it is resident still
    shared = _acquire(segment, resident_only=request.resident_only)
    try:
        passing_from = _passing_from(segments, number, shared.file, request)
    finally:
        segment.pool.release(shared)
    return _make_passing_slice(segment, request, found, limit, passing_from)


def _end_in_tail(segments: Segments, number: int, tail: HotTail, request: ReadRequest) -> int:
    """The position of the end offset, which lies in the tail or above it.

    `tail` is the one that the caller looked at: an append may have put one in its place that begins above the end offset.
    """
    segment = segments[number]
    if number + 1 < len(segments):
        if request.end_offset >= segments[number + 1].base_offset:
            return segment.size_bytes
    elif request.ends_at_size >= 0:
        return request.ends_at_size
    end = tail.find(request.end_offset)
    return tail.positions[end] if end < len(tail.positions) else segment.size_bytes


def _make_slice(
    segment: Segment,
    request: ReadRequest,
    found: _Located,
    limit: int,
    *,
    hot: bool = False,
    passing_from: int = -1,
) -> LogSlice:
    count = min(max(request.max_bytes, found.first_end - found.position), limit - found.position)
    shared = _acquire(segment, resident_only=request.resident_only)
    try:
        if not request.resident_only:
            segment.pool.drop_passed()
            if passing_from >= 0:
                shared.file.will_need(found.position, count + PASSING_GAP_BYTES)
            _verify(segment, shared.file, found, count, limit, request.rules)
        elif not hot:
            _require_served_before(segment, found.position, count)
            if not shared.file.is_resident(found.position, count):
                raise NotResident(f"{segment.path}: {count} bytes at {found.position}")
    except BaseException:
        segment.pool.release(shared)
        raise
    return LogSlice(segment.pool, shared, found.position, count, passing_from=passing_from)


def _acquire(segment: Segment, *, resident_only: bool) -> SharedFile:
    if not resident_only:
        return segment.pool.acquire(segment)
    shared = segment.pool.acquire_open(segment)
    if shared is None:
        raise NotResident(f"{segment.path} is not open")
    return shared


# The way through the index


def _cold_slice(segments: Segments, number: int, request: ReadRequest) -> LogSlice | None:
    segment = segments[number]
    if segment.size_bytes == 0:
        return None
    shared = _acquire(segment, resident_only=request.resident_only)
    try:
        passing_from = _passing_from(segments, number, shared.file, request)
        found = locate(segment, shared.file, request.offset, request)
        if found is None:
            return None
        limit = _end_position(segments, number, shared.file, found, request)
    finally:
        segment.pool.release(shared)
    if found.position >= limit:
        return None
    return _make_passing_slice(segment, request, found, limit, passing_from)


def _make_passing_slice(
    segment: Segment, request: ReadRequest, found: _Located, limit: int, passing_from: int
) -> LogSlice:
    """A slice that is perhaps not resident; `passing_from` as `_passing_from` has said before the first read."""
    if passing_from < 0:
        return _make_slice(segment, request, found, limit)
    start = max(passing_from, found.position - FOLIO_BYTES_MAX)
    part = _make_slice(segment, request, found, limit, passing_from=start)
    segment.passing = (passing_from, part.position + part.count)
    return part


def _passing_from(segments: Segments, number: int, file: File, request: ReadRequest) -> int:
    """Where the reads began that have the disk read for this reader only; -1 for any other read. To be asked before a byte is read.

    The event loop, which reads what is resident, only asks whether it is behind such a read: a worker is to go on with that (NotResident).
    """
    segment = segments[number]
    start, end = segment.passing
    if request.resident_only and start < 0:
        return -1
    _loaded_indexes(segment, request)
    position = _rough_position(segment, request.offset)
    if not is_far(segments, request.offset, segment.pool.far_bytes):
        return -1
    if start >= 0 and abs(position - end) <= PASSING_GAP_BYTES:
        if request.resident_only:
            raise NotResident(f"{segment.path}: a worker reads on at {position}")
        return start
    count = min(request.max_bytes, segment.size_bytes - position)
    if request.resident_only or file.is_resident(position, max(count, 1)):
        return -1
    return position


def locate(segment: Segment, file: File, offset: int, request: ReadRequest) -> _Located | None:
    """The first batch of the segment that ends above `offset`; None if there is none."""
    size_bytes = segment.size_bytes
    start = _checked_floor(segment, file, offset, request)
    expected = segment.base_offset if start == 0 else -1
    for position, header in walk_headers(file, start, size_bytes, resident_only=request.resident_only):
        if header.next_offset > offset:
            return _Located(position, position + header.size_bytes, expected)
        fault = chain_fault(header, expected, request.rules)
        if fault is not None:
            raise CorruptBatch(file.path, position, fault)
        expected = header.next_offset
    return None


def _checked_floor(segment: Segment, file: File, offset: int, request: ReadRequest) -> int:
    """Where to start looking for `offset`: an indexed batch that does lie where the index says, or the start of the segment."""
    indexes = _loaded_indexes(segment, request)
    while True:
        entry = indexes.by_offset.floor(offset - segment.base_offset)
        if entry < 0:
            return 0
        position = indexes.by_offset.positions[entry]
        expected = segment.base_offset + indexes.by_offset.relative_offsets[entry]
        if batch_ends_with(file, position, segment.size_bytes, expected, resident_only=request.resident_only):
            return position
        if request.resident_only:
            raise NotResident(f"{segment.path}: the index needs to be rebuilt")
        if segment.tail is not None:
            return 0
        rebuilt = rebuild_indexes(segment, request.rules)
        if rebuilt.by_offset.positions == indexes.by_offset.positions:
            return 0
        indexes = rebuilt


def _loaded_indexes(segment: Segment, request: ReadRequest) -> Indexes:
    if segment.indexes is not None:
        return segment.indexes
    if request.resident_only:
        raise NotResident(f"{segment.path}: the indexes are not loaded")
    return ensure_indexes(segment, request.rules)


def _end_position(segments: Segments, number: int, file: File, found: _Located, request: ReadRequest) -> int:
    """The position of the end offset in this segment, or a lower bound of it that lies past what `max_bytes` asks for."""
    segment = segments[number]
    if number + 1 < len(segments):
        if request.end_offset >= segments[number + 1].base_offset:
            return segment.size_bytes
    elif request.ends_at_size >= 0:
        return request.ends_at_size
    tail = segment.tail
    if tail is not None and request.end_offset >= tail.first_offset:
        return _end_in_tail(segments, number, tail, request)
    wanted = max(found.position + request.max_bytes, found.first_end)
    floor = _checked_floor(segment, file, request.end_offset - 1, request)
    if floor >= wanted:
        return floor
    size_bytes = segment.size_bytes
    for position, header in walk_headers(
        file, max(floor, found.position), size_bytes, resident_only=request.resident_only
    ):
        if header.next_offset > request.end_offset or position >= wanted:
            return position
    return size_bytes


# Ranges that were not written by this process


def _require_served_before(segment: Segment, position: int, count: int) -> None:
    if not segment.is_verified(position, count):
        raise NotResident(f"{segment.path}: {count} bytes at {position} are not verified yet")


def _verify(segment: Segment, file: File, found: _Located, count: int, limit: int, rules: ChainRules) -> None:
    """Read the range through, to the end of the last batch it touches, and check every batch. Raises CorruptBatch."""
    end = found.position + count
    expected = found.expected_offset
    position = found.position
    for position, header, batch in walk_batches(file, found.position, limit):
        if position >= end:
            break
        check_batch(file.path, position, header, batch, expected, rules)
        expected = header.next_offset
        position += header.size_bytes
    start, checked_end = segment.checked
    if start <= found.position <= checked_end:
        segment.checked = (start, max(checked_end, position))
    else:
        segment.checked = (found.position, position)


def _base_offset(segment: Segment) -> int:
    return segment.base_offset
