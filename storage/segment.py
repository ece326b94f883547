"""One segment: a file of batches, its two indexes, and what is known of both.

Owns the position bookkeeping of one `.log` file and the files of its indexes. Knows neither the other segments nor what offsets mean
to the log. A segment is *active* (the last one, appended to) or closed.

Invariants:
    - `size_bytes` is the end of the last whole batch; whatever lies behind it in the file is not part of the log.
    - Indexes of the active segment are always loaded; those of a closed one come and go (`SegmentFiles` bounds them).
    - Bytes from `trusted_from` on were written or verified by this process; before it, `checked` is the one range that was.

Source: Kafka's `LogSegment`.
"""

from array import array
from bisect import bisect_right

from penstock.protocol.record_batch import BatchHeader
from penstock.runtime.files import File, FileSystem, read_file, write_all
from penstock.storage.batch_walk import walk_headers
from penstock.storage.index import OffsetIndex, TimeIndex
from penstock.storage.layout import (
    INDEX_ENTRY_SIZE_BYTES,
    INDEX_SUFFIX,
    LOG_SUFFIX,
    TIME_INDEX_ENTRY_SIZE_BYTES,
    TIME_INDEX_SUFFIX,
    segment_file_name,
)
from penstock.storage.segment_files import SegmentFiles, SharedFile

TAIL_BATCHES_MIN = 256
"""How many of the latest batches are found without the index; trimmed when twice as many have come."""
NO_TIMESTAMP = -1


class HotTail:
    """Where the latest batches of a segment lie: reads near the end need nothing else.

    Parallel arrays, only ever added to, position before end offset; trimmed by making a new one.
    """

    __slots__ = ("end_offsets", "first_offset", "positions")

    def __init__(self, first_offset: int) -> None:
        self.first_offset = first_offset
        self.end_offsets: array[int] = array("q")
        """Of each batch, exclusive."""
        self.positions: array[int] = array("i")

    def trimmed(self) -> "HotTail":
        """A new one with the latest `TAIL_BATCHES_MIN`."""
        drop = len(self.end_offsets) - TAIL_BATCHES_MIN
        tail = HotTail(self.end_offsets[drop - 1])
        tail.end_offsets = self.end_offsets[drop:]
        tail.positions = self.positions[drop:]
        return tail

    def find(self, offset: int) -> int:
        """The number of the first batch that ends above `offset`, which must be at or above `first_offset`."""
        return bisect_right(self.end_offsets, offset)


class Indexes:
    """Both indexes of a segment."""

    __slots__ = ("by_offset", "by_time")

    def __init__(self, by_offset: OffsetIndex | None = None, by_time: TimeIndex | None = None) -> None:
        self.by_offset = OffsetIndex() if by_offset is None else by_offset
        self.by_time = TimeIndex() if by_time is None else by_time

    @property
    def size_bytes(self) -> int:
        """Of both files."""
        return self.by_offset.size_bytes + self.by_time.size_bytes


class Segment:
    """See the module."""

    __slots__ = (
        "base_offset",
        "bytes_since_index_entry",
        "checked",
        "directory",
        "file",
        "file_generation",
        "indexes",
        "is_gone",
        "largest_timestamp_last_offset",
        "largest_timestamp_ms",
        "passing",
        "path",
        "pool",
        "rolling_timestamp_ms",
        "saved_bytes",
        "shared",
        "size_bytes",
        "tail",
        "trusted_from",
        "users",
    )

    def __init__(self, pool: SegmentFiles, directory: str, base_offset: int, size_bytes: int = 0) -> None:
        self.pool = pool
        self.directory = directory
        self.base_offset = base_offset
        self.path = f"{directory}/{segment_file_name(base_offset, LOG_SUFFIX)}"
        self.size_bytes = size_bytes
        self.trusted_from = size_bytes
        self.saved_bytes = 0
        """Up to where the index files were complete when they were last written while the segment was active."""
        self.checked: tuple[int, int] = (0, 0)
        self.passing: tuple[int, int] = (-1, -1)
        """The range of the latest reads, one behind the other, that came from the disk and were far from the log's end; -1 without any."""
        self.shared: SharedFile | None = None
        self.file: File | None = None
        """The pinned file of the active segment once it has been appended to."""
        self.users = 0
        self.is_gone = False
        self.file_generation = 0
        self.indexes: Indexes | None = None
        self.tail: HotTail | None = None
        self.bytes_since_index_entry = 0
        self.largest_timestamp_ms = NO_TIMESTAMP
        """-1 also in a closed segment that has not loaded its indexes since opening."""
        self.largest_timestamp_last_offset = base_offset
        """The last offset of the batch that holds the largest timestamp."""
        self.rolling_timestamp_ms: int | None = None
        """The largest timestamp of the first batch, from which `segment.ms` counts; None: not loaded."""

    # Appending

    def open_for_append(self) -> File:
        """The file, opened to stay open. Raises StorageError."""
        self.file = self.pool.pin(self)
        return self.file

    def note_appended(
        self, end_position: int, size_bytes: int, last_offset: int, max_timestamp_ms: int, interval_bytes: int
    ) -> None:
        """Book a batch that has been written and ends at `end_position`: index entries, largest timestamp. Not `size_bytes`."""
        relative_offset = last_offset - self.base_offset
        position = end_position - size_bytes
        if max_timestamp_ms > self.largest_timestamp_ms:
            self.largest_timestamp_ms = max_timestamp_ms
            self.largest_timestamp_last_offset = last_offset
        if position == 0:
            self.rolling_timestamp_ms = max_timestamp_ms
        if self.bytes_since_index_entry > interval_bytes:
            indexes = self.indexes
            assert indexes is not None
            indexes.by_offset.append(relative_offset, position)
            indexes.by_time.append_if_larger(
                self.largest_timestamp_ms, self.largest_timestamp_last_offset - self.base_offset
            )
            self.bytes_since_index_entry = 0
        self.bytes_since_index_entry += size_bytes

    def first_timestamp_ms(self) -> int:
        """The largest timestamp of the first batch, -1 without one; reads a header from the disk once."""
        if self.rolling_timestamp_ms is None and self.size_bytes > 0:
            shared = self.pool.acquire(self)
            try:
                _, header = next(walk_headers(shared.file, 0, self.size_bytes))
            finally:
                self.pool.release(shared)
            self.rolling_timestamp_ms = header.max_timestamp
        return NO_TIMESTAMP if self.rolling_timestamp_ms is None else self.rolling_timestamp_ms

    def is_verified(self, position: int, count: int) -> bool:
        """Whether a range was written or verified by this process."""
        start, checked_end = self.checked
        end = min(position + count, self.trusted_from)
        return position >= end or (start <= position and end <= checked_end)

    # Indexes

    def drop_indexes(self) -> None:
        """Forget the loaded indexes of a closed segment."""
        self.indexes = None

    def write_indexes(self, *, name_suffix: str = "") -> None:
        """Write both index files in full, with the last entry of the time index; durable on return (but for their names).

        `name_suffix` stands behind the names of a segment that is not in its place yet.

        They could be rebuilt, but nothing shows that a time index has lost its last entries.
        """
        indexes = self.indexes
        assert indexes is not None
        indexes.by_time.append_if_larger(
            self.largest_timestamp_ms, self.largest_timestamp_last_offset - self.base_offset
        )
        self._write(INDEX_SUFFIX + name_suffix, indexes.by_offset.encode())
        self._write(TIME_INDEX_SUFFIX + name_suffix, indexes.by_time.encode())

    def write_index_copies(self, suffix: str) -> list[tuple[str, str]]:
        """Write both indexes as they are now to files of other names, durably; returns each one's path and the path it is meant for.

        Runs beside appends. The time index has what belongs to the entries of the offset index, and not the last entry that closing adds.
        """
        indexes = self.indexes
        assert indexes is not None
        moves: list[tuple[str, str]] = []
        for name, data in (
            (INDEX_SUFFIX, indexes.by_offset.encode()),
            (TIME_INDEX_SUFFIX, indexes.by_time.encode()),
        ):
            path = self.file_path(name)
            write_durably(self.pool.files, path + suffix, data)
            moves.append((path + suffix, path))
        return moves

    def read_indexes(self) -> Indexes | None:
        """The index files as they are on disk; None if one is missing or makes no sense by itself.

        A time index has at least the entry that closing adds, so an empty one is a lost one.
        """
        files = self.pool.files
        try:
            raw_offsets = read_file(files, self.file_path(INDEX_SUFFIX))
            raw_times = read_file(files, self.file_path(TIME_INDEX_SUFFIX))
        except FileNotFoundError:
            return None
        if len(raw_offsets) % INDEX_ENTRY_SIZE_BYTES or len(raw_times) % TIME_INDEX_ENTRY_SIZE_BYTES:
            return None
        indexes = Indexes(OffsetIndex.decode(raw_offsets), TimeIndex.decode(raw_times))
        if not indexes.by_offset.is_plausible(self.size_bytes) or not indexes.by_time.is_plausible():
            return None
        if self.size_bytes > 0 and not indexes.by_time.timestamps:
            return None
        return indexes

    def book_header(self, position: int, header: BatchHeader, interval_bytes: int) -> None:
        """Book a batch that was found in the file, as `note_appended` books one that was written."""
        self.note_appended(
            position + header.size_bytes,
            header.size_bytes,
            header.last_offset,
            header.max_timestamp
            if header.record_count
            else NO_TIMESTAMP,  # of no record, so of no use to anybody
            interval_bytes,
        )

    def reset_bookkeeping(self) -> None:
        """Begin anew with empty indexes, to walk the file from its start."""
        self.indexes = Indexes()
        self.bytes_since_index_entry = 0
        self.largest_timestamp_ms = NO_TIMESTAMP
        self.largest_timestamp_last_offset = self.base_offset
        self.rolling_timestamp_ms = None

    def resume_bookkeeping(self, indexes: Indexes, offset_count: int) -> int:
        """Go on after the first `offset_count` offset entries; returns the position of the last one's batch, to walk from.

        Time entries up to that batch stay. The batch itself is walked again, and its entry is made again by no one: it stays.
        """
        by_offset = indexes.by_offset.truncated(offset_count)
        last_relative = by_offset.relative_offsets[-1]
        by_time = indexes.by_time.truncated(indexes.by_time.count_below_offset(last_relative + 1))
        self.indexes = Indexes(by_offset, by_time)
        self.bytes_since_index_entry = 0
        self.rolling_timestamp_ms = None
        self.largest_timestamp_ms = NO_TIMESTAMP
        self.largest_timestamp_last_offset = self.base_offset
        if by_time.timestamps:
            self.largest_timestamp_ms = by_time.timestamps[-1]
            self.largest_timestamp_last_offset = self.base_offset + by_time.relative_offsets[-1]
        return by_offset.positions[-1]

    def file_path(self, suffix: str) -> str:
        """The path of the file with that suffix."""
        return f"{self.directory}/{segment_file_name(self.base_offset, suffix)}"

    def _write(self, suffix: str, data: bytes) -> None:
        write_durably(self.pool.files, self.file_path(suffix), data)


def write_durably(files: FileSystem, path: str, data: bytes) -> None:
    """Make `data` the content of a file, in place; durable on return, but for the name of a new file. Raises StorageError."""
    file = files.open(path, write=True, create=True)
    try:
        write_all(file, data, 0)
        file.truncate(len(data))
        file.datasync()
    finally:
        file.close()


__all__ = ["HotTail", "Indexes", "Segment", "write_durably"]
