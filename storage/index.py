"""The two sparse indexes of a segment, in memory and as Kafka's bytes.

Owns the entries and their encoding. Knows no files: `Segment` reads and writes them. Never trusted over the log: whoever follows an
entry checks the batch it finds there.

`.index`: for about every `index.interval.bytes` of log one entry (relative offset of the *last* record of a batch int32, position of
that batch int32). `.timeindex`: (largest timestamp so far int64, relative offset of the last record of the batch it is in int32),
written together with an offset entry if the largest timestamp has grown, and once more when the segment is closed.

Invariants:
    - Relative offsets, positions and timestamps rise strictly.
    - Entries are only added at the end while an index is in use, so other threads may look up meanwhile; to cut one, make a new one.

Source: Kafka's `OffsetIndex`, `TimeIndex`.
"""

import itertools
import sys
from array import array
from bisect import bisect_left, bisect_right

from penstock.storage.layout import INDEX_ENTRY_SIZE_BYTES, TIME_INDEX_ENTRY_SIZE_BYTES

_SWAP = sys.byteorder == "little"


class OffsetIndex:
    """Relative offset to position."""

    __slots__ = ("positions", "relative_offsets")

    def __init__(
        self, relative_offsets: "array[int] | None" = None, positions: "array[int] | None" = None
    ) -> None:
        self.relative_offsets: array[int] = array("i") if relative_offsets is None else relative_offsets
        self.positions: array[int] = array("i") if positions is None else positions

    def __len__(self) -> int:
        return len(self.relative_offsets)

    @property
    def size_bytes(self) -> int:
        """Size of the file."""
        return len(self.relative_offsets) * INDEX_ENTRY_SIZE_BYTES

    def append(self, relative_offset: int, position: int) -> None:
        """Add an entry: the position first, so that a reader that sees the offset finds it."""
        self.positions.append(position)
        self.relative_offsets.append(relative_offset)

    def floor(self, relative_offset: int) -> int:
        """The number of the last entry at or below `relative_offset`; -1 if there is none."""
        return bisect_right(self.relative_offsets, relative_offset) - 1

    def encode(self) -> bytes:
        """The file's bytes."""
        count = len(self.relative_offsets)
        both = array("i", bytes(INDEX_ENTRY_SIZE_BYTES * count))
        both[0::2] = self.relative_offsets[:count]
        both[1::2] = self.positions[:count]
        if _SWAP:
            both.byteswap()
        return both.tobytes()

    @staticmethod
    def decode(data: bytes) -> "OffsetIndex":
        """Entries from a file's bytes; a torn last entry is left out."""
        both = array("i", data[: len(data) - len(data) % INDEX_ENTRY_SIZE_BYTES])
        if _SWAP:
            both.byteswap()
        return OffsetIndex(both[0::2], both[1::2])

    def is_plausible(self, segment_size_bytes: int) -> bool:
        """Whether the entries rise strictly and lie within the segment."""
        if not self.relative_offsets:
            return True
        return (
            self.relative_offsets[0] >= 0
            and self.positions[0] >= 0
            and self.positions[-1] < segment_size_bytes
            and _rises(self.relative_offsets)
            and _rises(self.positions)
        )

    def truncated(self, count: int) -> "OffsetIndex":
        """A new index of the first `count` entries."""
        return OffsetIndex(self.relative_offsets[:count], self.positions[:count])

    def count_below_position(self, position: int) -> int:
        """How many entries point below `position`."""
        return bisect_left(self.positions, position)


class TimeIndex:
    """Timestamp to relative offset."""

    __slots__ = ("relative_offsets", "timestamps")

    def __init__(
        self, timestamps: "array[int] | None" = None, relative_offsets: "array[int] | None" = None
    ) -> None:
        self.timestamps: array[int] = array("q") if timestamps is None else timestamps
        self.relative_offsets: array[int] = array("i") if relative_offsets is None else relative_offsets

    def __len__(self) -> int:
        return len(self.timestamps)

    @property
    def size_bytes(self) -> int:
        """Size of the file."""
        return len(self.timestamps) * TIME_INDEX_ENTRY_SIZE_BYTES

    def append_if_larger(self, timestamp: int, relative_offset: int) -> None:
        """Add an entry if its timestamp is above the last one's (and none is added for -1, "no timestamp")."""
        if timestamp > (self.timestamps[-1] if self.timestamps else -1):
            self.relative_offsets.append(relative_offset)
            self.timestamps.append(timestamp)

    def encode(self) -> bytes:
        """The file's bytes."""
        count = len(self.timestamps)
        timestamps = self.timestamps[:count]
        relative_offsets = self.relative_offsets[:count]
        if _SWAP:
            timestamps.byteswap()
            relative_offsets.byteswap()
        halves = array("i", timestamps.tobytes())
        words = array("i", bytes(TIME_INDEX_ENTRY_SIZE_BYTES * count))
        words[0::3] = halves[0::2]
        words[1::3] = halves[1::2]
        words[2::3] = relative_offsets
        return words.tobytes()

    @staticmethod
    def decode(data: bytes) -> "TimeIndex":
        """Entries from a file's bytes; a torn last entry is left out."""
        words = array("i", data[: len(data) - len(data) % TIME_INDEX_ENTRY_SIZE_BYTES])
        halves = array("i", bytes(8 * (len(words) // 3)))
        halves[0::2] = words[0::3]
        halves[1::2] = words[1::3]
        timestamps = array("q", halves.tobytes())
        relative_offsets = words[2::3]
        if _SWAP:
            timestamps.byteswap()
            relative_offsets.byteswap()
        return TimeIndex(timestamps, relative_offsets)

    def is_plausible(self) -> bool:
        """Whether timestamps rise strictly, offsets don't fall, and none is negative."""
        if not self.timestamps:
            return True
        return (
            self.timestamps[0] >= 0
            and self.relative_offsets[0] >= 0
            and _rises(self.timestamps)
            and _rises(self.relative_offsets)
        )

    def count_below_timestamp(self, timestamp: int) -> int:
        """How many entries name a timestamp below `timestamp`."""
        return bisect_left(self.timestamps, timestamp)

    def count_below_offset(self, relative_offset: int) -> int:
        """How many entries name an offset below `relative_offset`."""
        # an append on another thread adds the offset first: an entry without its timestamp is none yet
        return bisect_left(self.relative_offsets, relative_offset, 0, len(self.timestamps))

    def truncated(self, count: int) -> "TimeIndex":
        """A new index of the first `count` entries."""
        return TimeIndex(self.timestamps[:count], self.relative_offsets[:count])


def _rises(numbers: "array[int]") -> bool:
    return all(a < b for a, b in itertools.pairwise(numbers))
