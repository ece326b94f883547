"""The open descriptors and loaded indexes of all logs of a broker, both bounded.

Owns when a segment's file is opened and closed. Knows neither offsets nor batches.

A segment's file is opened on first use. An active segment's stays open from an append until its log lets it go (who may have how many of
these open, the broker says: see `broker/open_files.py`); the others are closed least recently used first. A slice that is being sent
holds the file: evicted or deleted meanwhile, it is closed when the last slice is released.

Invariants:
    - `users`, `retired` and a segment's `shared` change under the lock only; the lock is never held across a system call.
    - Who holds an evicted file is still counted at its segment: only a segment without users may have its file cut in place.
    - Once retired, a file gets no new users.
    - Closing the last descriptor of a deleted file frees its blocks, which takes the disk's time: where the event loop gives slices back,
      `closes_later` leaves it to `close_retired` on a worker.
"""

from collections import OrderedDict, deque
from threading import Lock
from typing import Protocol

from penstock.runtime.files import File, FileSystem, TooManyOpenFiles

OPEN_FILES_MAX = 1024
INDEX_BYTES_MAX = 64 << 20
FAR_BYTES = 64 << 20
"""What lies further from its log's end is read by those who lag or look back, and by each of them once. A consumer that keeps pace is
never so far behind: at the fastest rate that one partition was seen to take this is a quarter of a second."""


class SharedFile:
    """An open file and how many hold it."""

    __slots__ = ("file", "owner", "pinned", "retired", "users")

    def __init__(self, file: File, owner: "FileOwner") -> None:
        self.file = file
        self.owner = owner
        self.users = 0
        self.pinned = False
        self.retired = False


class FileOwner(Protocol):
    """A segment, as seen from here."""

    shared: SharedFile | None
    users: int
    """Of all its files that are still open, those that were retired among them."""
    is_gone: bool
    """The path is no longer this segment's: it can't be opened any more."""
    file_generation: int
    """Raised by `retire`: a file opened before it must not be taken after it, for another may be at the path."""

    @property
    def path(self) -> str:
        """Of the log file."""
        ...

    def drop_indexes(self) -> None:
        """Forget the loaded indexes."""
        ...


class SegmentFiles:
    """Shared by all logs of a process; safe for all threads."""

    def __init__(
        self,
        files: FileSystem,
        *,
        open_files_max: int = OPEN_FILES_MAX,
        index_bytes_max: int = INDEX_BYTES_MAX,
    ) -> None:
        self.files = files
        self.open_files_max = open_files_max
        """Of those that are not pinned and that nobody holds."""
        self.held_files_max = 1 << 20
        """Of those that are not pinned, while they are held: past it no further one is opened for a reader."""
        self.closes_later = False
        self.far_bytes = FAR_BYTES
        self._passed: deque[tuple[FileOwner, int, int]] = deque()
        self._retired: deque[SharedFile] = deque()
        self._index_bytes_max = index_bytes_max
        self._lock = Lock()
        self._unpinned: OrderedDict[SharedFile, None] = OrderedDict()
        self._indexes: OrderedDict[FileOwner, int] = OrderedDict()
        self._index_bytes = 0
        self._open_count = 0
        self._pinned_count = 0

    @property
    def open_count(self) -> int:
        """Descriptors held now."""
        return self._open_count

    def acquire_open(self, owner: FileOwner) -> SharedFile | None:
        """The owner's file with one more user, if it is open; no system call. Give it back with `release`."""
        with self._lock:
            shared = owner.shared
            if shared is not None:
                shared.users += 1
                owner.users += 1
                if not shared.pinned:
                    self._unpinned.move_to_end(shared)
            return shared

    def acquire(self, owner: FileOwner) -> SharedFile:
        """The same, opened if need be.

        Raises FileNotFoundError when the segment has been deleted, TooManyOpenFiles when too many are held, StorageError.
        """
        shared = self.acquire_open(owner)
        while shared is None:
            self.close_retired()
            if self._open_count - self._pinned_count >= self.held_files_max:
                raise TooManyOpenFiles("all files that may be open are in use", path=owner.path)
            self._open(owner)
            shared = self.acquire_open(owner)
        return shared

    def pin(self, owner: FileOwner) -> File:
        """Open the owner's file to stay open until `unpin` or `retire`."""
        while True:
            shared = self.acquire_open(owner)
            if shared is None:
                self._open(owner)
                continue
            with self._lock:
                kept = not shared.retired
                if kept and not shared.pinned:
                    shared.pinned = True
                    self._pinned_count += 1
                    self._unpinned.pop(shared, None)
            self.release(shared)
            if kept:
                return shared.file

    def unpin(self, owner: FileOwner) -> None:
        """Let the file be closed when others are needed more."""
        with self._lock:
            shared = owner.shared
            if shared is None or not shared.pinned:
                return
            self._unpin(shared)
            self._unpinned[shared] = None
        self._close_surplus()

    def release(self, shared: SharedFile) -> None:
        """Give back what `acquire` gave."""
        with self._lock:
            shared.users -= 1
            shared.owner.users -= 1
            closing = shared.users == 0 and shared.retired
        if not closing:
            return
        if self.closes_later:
            self._retired.append(shared)
        else:
            self._close(shared)

    def note_passed(self, shared: SharedFile, start: int, end: int) -> None:
        """What was read into the page cache for one reader has been sent: `drop_passed` lets it go. No system call."""
        self._passed.append((shared.owner, start, end))

    def drop_passed(self) -> None:
        """Have the page cache forget what has been sent, where its file is still open. Worker.

        Later than the sending: what is on its way to a socket is in use, and would stay.
        """
        while self._passed:
            try:
                owner, start, end = self._passed.popleft()
            except IndexError:  # another worker took the last one
                return
            shared = self.acquire_open(owner)
            if shared is not None:
                try:
                    shared.file.wont_need(start, end - start)
                finally:
                    self.release(shared)

    @property
    def has_leftovers(self) -> bool:
        """Whether `close_retired` has anything to do."""
        return bool(self._retired or self._passed)

    @property
    def retired_count(self) -> int:
        """Files that nobody holds any more and that wait for `close_retired`."""
        return len(self._retired)

    def close_retired(self) -> None:
        """Close what waits for it, and `drop_passed`. Worker."""
        self.drop_passed()
        while self._retired:
            self._close(self._retired.popleft())

    def retire(self, owner: FileOwner) -> bool:
        """Close the owner's file as soon as nobody holds it; returns whether somebody holds it or one retired before.

        A later `acquire` opens the path again, unless the owner is gone.
        """
        with self._lock:
            owner.file_generation += 1
            is_held = owner.users > 0
            shared = owner.shared
            if shared is None:
                return is_held
            self._detach(shared)
            closing = shared.users == 0
        if closing:
            self._close(shared)
        return is_held

    def note_indexes(self, owner: FileOwner, size_bytes: int) -> None:
        """Count the indexes that a closed segment has loaded or used again, and drop others past the bound."""
        dropped: list[FileOwner] = []
        with self._lock:
            self._index_bytes += size_bytes - self._indexes.pop(owner, 0)
            self._indexes[owner] = size_bytes
            while self._index_bytes > self._index_bytes_max and len(self._indexes) > 1:
                other, freed = self._indexes.popitem(last=False)
                self._index_bytes -= freed
                dropped.append(other)
        for other in dropped:
            other.drop_indexes()

    def forget_indexes(self, owner: FileOwner) -> None:
        """Count the owner's indexes no longer."""
        with self._lock:
            self._index_bytes -= self._indexes.pop(owner, 0)

    def _open(self, owner: FileOwner) -> None:
        generation = owner.file_generation
        file = self.files.open(owner.path, write=True)
        with self._lock:
            surplus = owner.shared is not None or owner.is_gone or owner.file_generation != generation
            if not surplus:
                shared = owner.shared = SharedFile(file, owner)
                self._unpinned[shared] = None
                self._open_count += 1
        if surplus:
            file.close()
            if owner.is_gone:
                raise FileNotFoundError(owner.path)
        self._close_surplus()

    def _close_surplus(self) -> None:
        while True:
            with self._lock:
                if len(self._unpinned) <= self.open_files_max:
                    return
                shared = next(iter(self._unpinned))
                self._detach(shared)
                held = shared.users > 0
            if not held:
                self._close(shared)

    def _detach(self, shared: SharedFile) -> None:
        shared.owner.shared = None
        shared.retired = True
        self._unpin(shared)
        self._unpinned.pop(shared, None)

    def _unpin(self, shared: SharedFile) -> None:
        if shared.pinned:
            shared.pinned = False
            self._pinned_count -= 1

    def _close(self, shared: SharedFile) -> None:
        with self._lock:
            self._open_count -= 1
        shared.file.close()
