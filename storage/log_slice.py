"""A range of one segment's file on its way to a reader.

Owns the hold on the file, so that eviction, deletion and truncation of the segment leave the bytes readable until `release`.
"""

from typing import Self

from penstock.protocol.record_batch import LENGTH_PREFIX_SIZE_BYTES
from penstock.runtime.files import File
from penstock.storage.segment_files import SegmentFiles, SharedFile

LENGTH_POSITION = 8
"""Of a batch's length, the last of the prefix, which counts what is behind that."""
WALKED_MAX = 64


class LogSlice:
    """`count` bytes at `position` of `file`: whole batches, but for the last one where `max_bytes` cut it.

    An empty slice has count 0 and no file to send from.
    """

    __slots__ = ("_passing_from", "_pool", "_shared", "count", "position")

    def __init__(
        self,
        pool: SegmentFiles | None,
        shared: SharedFile | None,
        position: int,
        count: int,
        *,
        passing_from: int = -1,
    ) -> None:
        """`passing_from`: the page cache has all from there on for this reader only, and may forget it afterwards; -1 if it is to keep it."""
        self._pool = pool
        self._shared = shared
        self._passing_from = passing_from
        self.position = position
        self.count = count

    @property
    def file(self) -> File:
        """The open file; only while the slice is held and not empty."""
        assert self._shared is not None, "an empty or released slice has no file"
        return self._shared.file

    def read(self) -> bytes:
        """The bytes themselves, for those who don't send the file. May wait for the disk."""
        return self.file.pread(self.count, self.position) if self.count else b""

    def end_at_batch(self) -> bool:
        """Leave the last batch out where it was cut: its reader would throw it away, and ask for it again. Returns whether it was.

        A slice of more than `WALKED_MAX` batches stays as it is: what it holds of a cut one is next to nothing. Reads what is resident if the
        slice is.
        """
        position, end = self.position, self.position + self.count
        for _ in range(WALKED_MAX if self.count else 0):
            head = self.file.pread(LENGTH_PREFIX_SIZE_BYTES, position)
            next_position = (
                position + LENGTH_PREFIX_SIZE_BYTES + int.from_bytes(head[LENGTH_POSITION:], "big")
            )
            if next_position >= end:
                is_cut = next_position > end and position > self.position
                if is_cut:
                    self.count = position - self.position
                return is_cut
            position = next_position
        return False

    def release(self) -> None:
        """Let go of the file; twice is allowed."""
        shared, self._shared = self._shared, None
        if shared is not None:
            assert self._pool is not None
            if self._passing_from >= 0:
                self._pool.note_passed(shared, self._passing_from, self.position + self.count)
            self._pool.release(shared)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()


def empty_slice() -> LogSlice:
    """Nothing to read."""
    return LogSlice(None, None, 0, 0)
