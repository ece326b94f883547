"""Putting one segment in the place of several: the last step of compaction, and what is left to do of it after a crash.

Owns the order of renames and directory syncs, and the names `*.cleaned` and `*.swap`. Knows nothing of keys or records: the new segment's
files are there, whole and synced, when this begins.

    orders-0/00000000000000000000.log.cleaned    being written: worth nothing, removed at opening
    orders-0/00000000000000000000.log.swap       durable in the directory: from here on it is the log, and those it was made of are not

The steps: 1. indexes, then log: `.cleaned` to `.swap`; sync. 2. the old segments, newest first: to `.deleted`; sync. 3. indexes, then log: `.swap` to
the final name; sync. A power cut may undo any of the renames since the last sync. In step 1 that leaves the old segments with or without a `.swap`
log; in step 2 the `.swap` log and any of the old; in step 3 the new log under either name, and the old ones durably gone. Opening looks for the
`.swap` log alone: it is there, so the old ones go and it takes its place; or it is not, so what else is called so is a leftover.

Invariants:
    - There is at any moment, and after any crash, the old segments or the new one: never neither, never both (PROPERTIES K2).
    - A `.swap` log is verified from end to end before opening removes what it stands for.
    - The lock of the log is held during the swap alone. Who reads meanwhile reads the old files, or waits for the new one.

Source: Kafka's `LocalLog.replaceSegments`, `LogLoader.removeTempFilesAndCollectSwapFiles`; KAFKA-4254, KAFKA-6264.
"""

from collections.abc import Sequence

from penstock.protocol.record_batch import verify_crc
from penstock.runtime.files import DiskError, DiskFull, FileSystem, StorageError, TooManyOpenFiles
from penstock.storage.batch_walk import walk_batches
from penstock.storage.errors import CorruptBatch, LogChanged, missing_is_disk_error
from penstock.storage.layout import (
    CLEANED_SUFFIX,
    DELETED_SUFFIX,
    INDEX_SUFFIX,
    LOG_SUFFIX,
    SEGMENT_SUFFIXES,
    SWAP_SUFFIX,
    TIME_INDEX_SUFFIX,
    TRANSACTION_INDEX_SUFFIX,
    parse_segment_file_name,
    segment_file_name,
)
from penstock.storage.log_follower import LogFollower
from penstock.storage.segment import Segment

LOG_LAST = (INDEX_SUFFIX, TIME_INDEX_SUFFIX, TRANSACTION_INDEX_SUFFIX, LOG_SUFFIX)
"""The order in which files are renamed: the log's own name is what counts."""


class SegmentSwapper(LogFollower):
    """The part of `Log` that compaction calls. Workers."""

    def known_producer_batches(self) -> dict[int, tuple[int, tuple[int, ...]]]:
        """Of each producer that is remembered its epoch, and the last offsets of its last batches. Safe beside appends."""
        return self._producers.known_batches()

    @property
    def gaps_below(self) -> int:
        """Offsets below this one may be missing."""
        return self._gaps_below

    def replace_segments(self, old: Sequence[Segment], new: Segment, *, gaps_below_offset: int = 0) -> None:
        """Put `new`, whose `.cleaned` files are written and synced, in the place of `old`, which follow on each other. Durable on return.

        Offsets below the end of `new` may be missing then, and so may those below `gaps_below_offset`: said once for many swaps, it is written
        once. Runs beside appends and reads; slices of the old segments stay readable.

        Raises:
            LogChanged: `old` are not closed segments of this log any more; nothing was changed.
            DiskFull, StorageError: nothing was changed. The `.cleaned` files are the caller's to remove, in both cases.
            LogFailed: the disk failed half-way: the log is offline, and opening it finishes the swap.
        """
        with self._worker_lock:
            self._check_usable()
            number = self._number_of(old)
            self._allow_gaps(max(gaps_below_offset, self._segments[number + len(old)].base_offset))
            self._commit_swap(new)
            try:
                with missing_is_disk_error():
                    put_aside = self._take_place(old, new)
            except StorageError as error:
                self._fail(error)
            self._publish((*self._segments[:number], new, *self._segments[number + len(old) :]))
            assert new.indexes is not None
            self._pool.note_indexes(new, new.indexes.size_bytes)
            self._snapshots.keep(segment.base_offset for segment in self._segments)
        for path in put_aside:
            self._files.unlink(path)

    def _number_of(self, old: Sequence[Segment]) -> int:
        for number, segment in enumerate(self._segments):
            if segment is old[0]:
                end = number + len(old)
                found = self._segments[number:end]
                if end < len(self._segments) and all(a is b for a, b in zip(found, old, strict=True)):
                    return number
                break
        raise LogChanged("the segments were truncated or deleted meanwhile", path=self.directory)

    def _commit_swap(self, new: Segment) -> None:
        """Step 1. What leaves no doubt about the disk is undone after an error; after anything else the log goes offline."""
        try:
            for suffix in LOG_LAST:
                source = new.file_path(suffix) + CLEANED_SUFFIX
                if self._files.exists(source):
                    self._files.rename(source, new.file_path(suffix) + SWAP_SUFFIX)
        except (DiskFull, FileNotFoundError) as error:
            self._undo_swap(new)
            raise DiskError(f"missing: {error}") if isinstance(error, FileNotFoundError) else error from None
        except StorageError as error:
            self._fail(error)
        try:
            self._files.sync_directory(self.directory)
        except TooManyOpenFiles:
            self._undo_swap(new)
            raise
        except StorageError as error:
            self._fail(error)

    def _undo_swap(self, new: Segment) -> None:
        try:
            for suffix in reversed(LOG_LAST):
                self._files.unlink(new.file_path(suffix) + SWAP_SUFFIX)
            self._files.sync_directory(self.directory)
        except StorageError as error:
            self._fail(error)

    def _take_place(self, old: Sequence[Segment], new: Segment) -> list[str]:
        """Steps 2 and 3. Returns the files that are left to be removed."""
        put_aside: list[str] = []
        for segment in old:
            segment.is_gone = True
            self._pool.retire(segment)
            self._pool.forget_indexes(segment)
        for segment in reversed(old):
            for suffix in SEGMENT_SUFFIXES:
                path = segment.file_path(suffix)
                if self._files.exists(path):
                    put_aside.append(self._put_aside(path))
        self._files.sync_directory(self.directory)
        _rename_to_final(self._files, self.directory, new.base_offset)
        self._files.sync_directory(self.directory)
        return put_aside

    def _put_aside(self, path: str) -> str:
        """Out of the way by rename, since removing a large file takes its time; at once where a full disk has no room for the longer name."""
        try:
            self._files.rename(path, path + DELETED_SUFFIX)
        except DiskFull:
            self._files.unlink(path)
        return path + DELETED_SUFFIX


def remove_cleaned(files: FileSystem, new: Segment) -> None:
    """Remove what was written of a segment that will not be put in place. Raises StorageError."""
    for suffix in LOG_LAST:
        files.unlink(new.file_path(suffix) + CLEANED_SUFFIX)


def finish_swaps(files: FileSystem, directory: str, names: Sequence[str]) -> list[str]:
    """Bring a partition's directory to where no swap is under way; returns what was done, nothing if there was none. Durable on return.

    Raises CorruptBatch where a segment that was to take the place of others is damaged, with nothing removed; StorageError.
    """
    swaps = sorted(
        parsed[0]
        for name in names
        if name.endswith(SWAP_SUFFIX)
        and (parsed := parse_segment_file_name(name.removesuffix(SWAP_SUFFIX))) is not None
        and parsed[1] == LOG_SUFFIX
    )
    ends = [_end_of_swap(files, directory, base) for base in swaps]
    if swaps:
        # A killed process may have renamed it and not synced: a power cut must not take the new one back and leave the old ones removed.
        files.sync_directory(directory)
    notes: list[str] = []
    for base, end in zip(swaps, ends, strict=True):
        _finish_swap(files, directory, names, base, end)
        notes.append(f"the compaction of the segments from {base} to {end} was finished")
    leftovers = [name for name in names if name.endswith(CLEANED_SUFFIX)]
    leftovers += [
        name for name in names if name.endswith(SWAP_SUFFIX) and files.exists(f"{directory}/{name}")
    ]
    for name in leftovers:
        files.unlink(f"{directory}/{name}")
    return notes


def _end_of_swap(files: FileSystem, directory: str, base_offset: int) -> int:
    """The offset behind the last batch, once all of them are known to be good."""
    path = f"{directory}/{segment_file_name(base_offset, LOG_SUFFIX)}{SWAP_SUFFIX}"
    expected = base_offset
    position = 0
    file = files.open(path)
    try:
        for position, header, batch in walk_batches(file, 0, file.size()):
            if header.base_offset < expected or not verify_crc(batch):
                raise CorruptBatch(path, position, "the segment that compaction made is damaged")
            expected = header.next_offset
    finally:
        file.close()
    if expected == base_offset:
        raise CorruptBatch(path, position, "the segment that compaction made is empty")
    return expected


def _finish_swap(
    files: FileSystem, directory: str, names: Sequence[str], base_offset: int, end_offset: int
) -> None:
    for name in names:
        parsed = parse_segment_file_name(name)
        if parsed is None or parsed[1] not in SEGMENT_SUFFIXES or parsed == (base_offset, LOG_SUFFIX):
            continue  # the old log of that name is replaced by the rename
        if base_offset <= parsed[0] < end_offset:
            files.unlink(f"{directory}/{name}")
    files.sync_directory(directory)
    _rename_to_final(files, directory, base_offset)
    files.sync_directory(directory)


def _rename_to_final(files: FileSystem, directory: str, base_offset: int) -> None:
    for suffix in LOG_LAST:
        path = f"{directory}/{segment_file_name(base_offset, suffix)}"
        if files.exists(path + SWAP_SUFFIX):
            files.rename(path + SWAP_SUFFIX, path)


__all__ = ["SegmentSwapper", "finish_swaps", "remove_cleaned"]
