"""The file-system port: the only way to disk.

Everything is synchronous and blocks; who may call what on the event loop is the caller's business (DESIGN section 5).
`OSError` is mapped here and nowhere else: `DiskFull` for ENOSPC and EDQUOT, `TooManyOpenFiles` for EMFILE and ENFILE,
`DiskError` for the rest; a missing file stays `FileNotFoundError`, an existing one `FileExistsError`.
"""

from collections.abc import Sequence
from typing import Protocol

from penstock.errors import PenstockError

Buffer = bytes | bytearray | memoryview


class StorageError(PenstockError):
    """The disk did not do what was asked. Subclasses say why."""

    def __init__(self, message: str, *, path: str = "") -> None:
        super().__init__(f"{path}: {message}" if path else message)
        self.path = path


class DiskFull(StorageError):
    """ENOSPC or EDQUOT: the write is refused, what was there stays."""


class TooManyOpenFiles(StorageError):
    """EMFILE or ENFILE."""


class DiskError(StorageError):
    """EIO and every other error of the operating system."""


class File(Protocol):
    """One open file, without a position of its own."""

    @property
    def path(self) -> str:
        """The path it was opened by."""
        ...

    def fileno(self) -> int:
        """The descriptor, for sendfile; -1 where there is none (a simulated disk)."""
        ...

    def size(self) -> int:
        """Bytes in the file now."""
        ...

    def pread(self, count: int, position: int) -> bytes:
        """Read up to `count` bytes at `position`; shorter only at the end of the file."""
        ...

    def pread_into(self, buffer: bytearray | memoryview, position: int) -> int:
        """Fill `buffer` from `position`; returns the bytes read, fewer only at the end of the file."""
        ...

    def pwrite(self, data: Buffer, position: int) -> int:
        """Write at `position`; returns the bytes written, which may be fewer than given (a short write is no error)."""
        ...

    def truncate(self, size: int) -> None:
        """Cut or extend with zeros to `size` bytes."""
        ...

    def datasync(self) -> None:
        """`fdatasync`. A failure is final for this file: never call it again and believe it (PROPERTIES D11)."""
        ...

    def is_resident(self, position: int, count: int) -> bool:
        """Whether the range is likely in the page cache: a probe of a few microseconds that never waits for the disk."""
        ...

    def will_need(self, position: int, count: int) -> None:
        """Have the range read into the page cache, as one piece. A hint: nothing follows from it, and no error does. On workers only."""
        ...

    def wont_need(self, position: int, count: int) -> None:
        """Let the page cache forget the whole pages of the range that nobody uses at this moment. A hint as well; loses no data."""
        ...

    def close(self) -> None:
        """Close; further use is an error. Closing twice is allowed."""
        ...


class FileSystem(Protocol):
    """The operations on names. Paths are absolute or relative to the process; `str` throughout."""

    def open(self, path: str, *, write: bool = False, create: bool = False) -> File:
        """Open for reading, or for reading and writing.

        `create` makes the file if it is missing; its directory entry is durable only after `sync_directory`.
        """
        ...

    def exists(self, path: str) -> bool:
        """Whether a file or directory of that name is there."""
        ...

    def list_directory(self, path: str) -> list[str]:
        """The names in a directory, sorted."""
        ...

    def make_directories(self, path: str) -> None:
        """Make the directory and its parents; no error if it is there."""
        ...

    def rename(self, source: str, target: str) -> None:
        """Atomic; replaces a file at `target`. Durable only after `sync_directory` of the parents."""
        ...

    def unlink(self, path: str) -> None:
        """Remove a file; no error if it is missing."""
        ...

    def remove_tree(self, path: str) -> None:
        """Remove a directory and all below it; no error if it is missing."""
        ...

    def sync_directory(self, path: str) -> None:
        """Fsync of a directory: makes creations, renames and removals in it durable."""
        ...

    def free_bytes(self, path: str) -> int:
        """Bytes that an ordinary user can still write to the file system of `path`."""
        ...

    def total_bytes(self, path: str) -> int:
        """Size in bytes of the file system of `path`."""
        ...

    def lock(self, path: str) -> "FileLock | None":
        """Take an exclusive advisory lock on `path` (made if missing); None when another process holds it."""
        ...


class FileLock(Protocol):
    """A lock that is held until `release` or the end of the process."""

    def release(self) -> None:
        """Give the lock back."""
        ...


def write_all(file: File, data: Buffer, position: int) -> None:
    """Write all of `data`, going on after short writes. Raises what `pwrite` raises; a part may be written then."""
    view = memoryview(data)
    written = file.pwrite(view, position)
    while written < len(view):
        step = file.pwrite(view[written:], position + written)
        if step == 0:
            raise DiskError("wrote nothing", path=file.path)
        written += step


def read_file(files: FileSystem, path: str) -> bytes:
    """The whole content of a small file."""
    file = files.open(path)
    try:
        return file.pread(file.size(), 0)
    finally:
        file.close()


def replace_file(files: FileSystem, path: str, data: Buffer) -> None:
    """Put `data` at `path` atomically and durably: temporary file, sync, rename, sync of the directory.

    On return the new content survives a power cut; before that the old one does.
    """
    temporary = path + ".tmp"
    file = files.open(temporary, write=True, create=True)
    try:
        file.truncate(0)
        write_all(file, data, 0)
        file.datasync()
    finally:
        file.close()
    files.rename(temporary, path)
    files.sync_directory(path.rpartition("/")[0] or ".")


__all__: Sequence[str] = [
    "Buffer",
    "DiskError",
    "DiskFull",
    "File",
    "FileLock",
    "FileSystem",
    "StorageError",
    "TooManyOpenFiles",
    "read_file",
    "replace_file",
    "write_all",
]
