"""Which leader epoch began at which offset: the truth about where two replicas part.

Owns the entries in memory; `Log` decides when they reach `leader-epoch-checkpoint`. Knows neither leaders nor replicas.

Invariants:
    - Epochs and start offsets both rise strictly from entry to entry.
    - Entries are one tuple that is replaced as a whole, so any thread may read while another assigns or truncates.
    - An epoch is on disk before the first batch that bears it (see `Log`), so on recovery each batch's epoch can be checked.

Source: KIP-101, KIP-279; Kafka's `LeaderEpochFileCache`.
"""

import itertools
from bisect import bisect_right
from collections.abc import Sequence
from threading import Lock

NO_EPOCH = -1
NO_OFFSET = -1

Entry = tuple[int, int]


class EpochCache:
    """The (epoch, start offset) entries of one log."""

    __slots__ = ("_entries", "_lock")

    def __init__(self, entries: Sequence[Entry] = ()) -> None:
        self._entries: tuple[Entry, ...] = tuple(entries)
        self._lock = Lock()

    @property
    def entries(self) -> tuple[Entry, ...]:
        """All entries, oldest first."""
        return self._entries

    @property
    def latest(self) -> int:
        """The highest epoch; -1 without any."""
        entries = self._entries
        return entries[-1][0] if entries else NO_EPOCH

    def is_consistent(self) -> bool:
        """Whether epochs and offsets rise as they must; asked of entries that come from a file."""
        entries = self._entries
        return all(a[0] < b[0] and a[1] < b[1] for a, b in itertools.pairwise(entries))

    def assign(self, epoch: int, start_offset: int) -> bool:
        """Let `epoch` begin at `start_offset`; False if nothing changed.

        Epochs that began at that offset or above had no batch, and go. An epoch at or below the latest changes nothing.
        """
        with self._lock:
            if epoch <= self.latest:
                return False
            kept = tuple(entry for entry in self._entries if entry[1] < start_offset)
            self._entries = (*kept, (epoch, start_offset))
            return True

    def epoch_at(self, offset: int) -> int:
        """The epoch of the batch at `offset`; -1 if it lies before the first entry."""
        entries = self._entries
        index = bisect_right(entries, offset, key=_start_offset) - 1
        return entries[index][0] if index >= 0 else NO_EPOCH

    def end_offset_for(self, epoch: int, log_end_offset: int) -> tuple[int, int]:
        """The largest epoch at or below `epoch`, and the offset where it ends (exclusive).

        (-1, -1) where the epoch is unknown: above the latest, or none at all. For an epoch below the oldest entry: that
        epoch itself, and the start of the oldest. For the latest: the log end offset.
        """
        entries = self._entries
        if epoch < 0 or not entries or epoch > entries[-1][0]:
            return NO_EPOCH, NO_OFFSET
        if epoch == entries[-1][0]:
            return epoch, log_end_offset
        higher = bisect_right(entries, epoch, key=_epoch)
        if higher == 0:
            return epoch, entries[0][1]
        return entries[higher - 1][0], entries[higher][1]

    def truncate_from_end(self, end_offset: int) -> bool:
        """Drop the epochs that begin at or above `end_offset`; False if there were none."""
        with self._lock:
            kept = tuple(entry for entry in self._entries if entry[1] < end_offset)
            changed = len(kept) != len(self._entries)
            self._entries = kept
            return changed

    def truncate_from_start(self, start_offset: int) -> bool:
        """Drop the epochs that end at or below `start_offset`; the one it lies in begins there now. False if nothing changed."""
        with self._lock:
            entries = self._entries
            index = bisect_right(entries, start_offset, key=_start_offset) - 1
            if index < 0:
                return False
            kept = ((entries[index][0], start_offset), *entries[index + 1 :])
            self._entries = kept
            return kept != entries

    def clear(self) -> None:
        """Forget all."""
        with self._lock:
            self._entries = ()


def _epoch(entry: Entry) -> int:
    return entry[0]


def _start_offset(entry: Entry) -> int:
    return entry[1]
