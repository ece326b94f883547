"""Files of a POSIX system, by descriptor and position.

Owns the mapping of `OSError`. Keeps no state but the descriptor: no buffer, no position, no cache of sizes. Knows nothing of logs.
Whether a range is resident is the kernel's guess (`preadv` with `RWF_NOWAIT`, Linux 4.14): pages may be dropped between the probe and the
read, and a hole between two probed bytes goes unseen. A wrong yes costs one slow read, never a wrong one.
"""

import errno
import fcntl
import os
import stat
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress

from penstock.runtime.files import Buffer, DiskError, DiskFull, StorageError, TooManyOpenFiles

RESIDENCE_PROBE_DISTANCE_BYTES = 64 * 1024
"""The smallest readahead window that Linux commonly uses: what is read at all comes in such pieces."""
RESIDENCE_PROBE_COUNT_MAX = 32

_PAGE_SIZE_BYTES = os.sysconf("SC_PAGESIZE")
_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})
_TOO_MANY_OPEN = frozenset({errno.EMFILE, errno.ENFILE})

# 0 where the system has no such probe (macOS): see `PosixFile.is_resident`.
_READ_WITHOUT_WAITING: int = getattr(os, "RWF_NOWAIT", 0)
_DIRECTORY_ONLY: int = getattr(os, "O_DIRECTORY", 0)
_WILL_NEED: int | None = getattr(os, "POSIX_FADV_WILLNEED", None)
_WONT_NEED: int | None = getattr(os, "POSIX_FADV_DONTNEED", None)
# macOS calls a plain fsync done when the data has reached the drive's volatile cache.
_FULL_SYNC: int | None = getattr(fcntl, "F_FULLFSYNC", None)


def storage_error(error: OSError, path: str) -> StorageError:
    """The StorageError that stands for an error of the operating system."""
    reason = error.strerror or str(error)
    if error.errno in _FULL:
        return DiskFull(reason, path=path)
    if error.errno in _TOO_MANY_OPEN:
        return TooManyOpenFiles(reason, path=path)
    return DiskError(reason, path=path)


@contextmanager
def _mapped(path: str) -> Generator[None, None, None]:
    """Map errors of the calls on names; the calls on open files do it in place, where it costs nothing."""
    try:
        yield
    except (FileNotFoundError, FileExistsError):
        raise
    except OSError as error:
        raise storage_error(error, path) from error


def _data_sync_function() -> Callable[[int], object]:
    if _FULL_SYNC is not None:
        command = _FULL_SYNC
        return lambda descriptor: fcntl.fcntl(descriptor, command)
    return os.fdatasync


_data_sync = _data_sync_function()


class PosixFile:
    """One descriptor. Calls may come from several threads at once, but for `close`."""

    __slots__ = ("_descriptor", "_path")

    def __init__(self, path: str, descriptor: int) -> None:
        self._path = path
        self._descriptor = descriptor

    @property
    def path(self) -> str:
        """The path it was opened by."""
        return self._path

    def fileno(self) -> int:
        """The descriptor; -1 after `close`."""
        return self._descriptor

    def size(self) -> int:
        """Bytes in the file now."""
        try:
            return os.fstat(self._descriptor).st_size
        except OSError as error:
            raise storage_error(error, self._path) from error

    def pread(self, count: int, position: int) -> bytes:
        """Read up to `count` bytes at `position`; shorter only at the end of the file."""
        try:
            data = os.pread(self._descriptor, count, position)
            if len(data) == count or not data:
                return data
            parts = [data]
            missing = count - len(data)
            while missing and data:
                data = os.pread(self._descriptor, missing, position + count - missing)
                parts.append(data)
                missing -= len(data)
            return b"".join(parts)
        except OSError as error:
            raise storage_error(error, self._path) from error

    def pread_into(self, buffer: bytearray | memoryview, position: int) -> int:
        """Fill `buffer` from `position`; returns the bytes read, fewer only at the end of the file."""
        try:
            done = os.preadv(self._descriptor, [buffer], position)
            if done == len(buffer) or done == 0:
                return done
            view = memoryview(buffer)
            while done < len(view):
                step = os.preadv(self._descriptor, [view[done:]], position + done)
                if step == 0:
                    break
                done += step
            return done
        except OSError as error:
            raise storage_error(error, self._path) from error

    def pwrite(self, data: Buffer, position: int) -> int:
        """Write at `position` straight from the buffer; returns the bytes written."""
        try:
            return os.pwrite(self._descriptor, data, position)
        except OSError as error:
            raise storage_error(error, self._path) from error

    def truncate(self, size: int) -> None:
        """Cut or extend with zeros to `size` bytes."""
        try:
            os.ftruncate(self._descriptor, size)
        except OSError as error:
            raise storage_error(error, self._path) from error

    def datasync(self) -> None:
        """Put data and size on the disk. A failure is final for this file."""
        if self._descriptor < 0:
            # Alone among the calls, this one takes a bad descriptor for a bad argument.
            raise DiskError(os.strerror(errno.EBADF), path=self._path)
        try:
            _data_sync(self._descriptor)
        except OSError as error:
            raise storage_error(error, self._path) from error

    def is_resident(self, position: int, count: int) -> bool:
        """Probe the first byte, the last, and between them one each 64 KiB, at most 32 in all.

        A file system or kernel without the probe (EOPNOTSUPP) answers no: the caller then reads in a worker, which is slower and
        always right, while a false yes would stop the loop for as long as the disk takes.
        """
        if count <= 0:
            return True
        if not _READ_WITHOUT_WAITING:
            return False
        target = bytearray(1)
        last = position + count - 1
        if position // _PAGE_SIZE_BYTES == last // _PAGE_SIZE_BYTES:
            # One page is there or it is not.
            position = last
        distance = max(RESIDENCE_PROBE_DISTANCE_BYTES, -(-count // (RESIDENCE_PROBE_COUNT_MAX - 1)))
        probe = position
        try:
            while probe < last:
                os.preadv(self._descriptor, (target,), probe, _READ_WITHOUT_WAITING)
                probe += distance
            os.preadv(self._descriptor, (target,), last, _READ_WITHOUT_WAITING)
        except BlockingIOError:
            return False
        except OSError as error:
            if error.errno in (errno.EOPNOTSUPP, errno.ENOSYS):
                return False
            raise storage_error(error, self._path) from error
        return True

    def will_need(self, position: int, count: int) -> None:
        """POSIX_FADV_WILLNEED; nothing where the system has no such call (macOS)."""
        self._advise(position, count, _WILL_NEED)

    def wont_need(self, position: int, count: int) -> None:
        """POSIX_FADV_DONTNEED: pages that are dirty, mapped, or on their way to a socket stay."""
        self._advise(position, count, _WONT_NEED)

    def _advise(self, position: int, count: int, advice: int | None) -> None:
        if advice is not None and count > 0:
            with suppress(OSError):  # advice that is not taken changes nothing
                os.posix_fadvise(self._descriptor, position, count, advice)

    def close(self) -> None:
        """Close; closing twice is allowed."""
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor < 0:
            return
        try:
            os.close(descriptor)
        except OSError as error:
            raise storage_error(error, self._path) from error


class PosixFileLock:
    """A `flock` on a file of its own: the kernel gives it back when the process dies, however it dies."""

    __slots__ = ("_descriptor",)

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def release(self) -> None:
        """Give the lock back; twice is allowed. The file stays: removing it would let two processes lock two files of one name."""
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)


class PosixFileSystem:
    """The machine's file systems. Stateless; usable from every thread."""

    __slots__ = ()

    def open(self, path: str, *, write: bool = False, create: bool = False) -> PosixFile:
        """Open for reading, or for reading and writing. Not inherited by child processes."""
        flags = (os.O_RDWR if write else os.O_RDONLY) | (os.O_CREAT if create else 0) | os.O_CLOEXEC
        with _mapped(path):
            return PosixFile(path, os.open(path, flags, 0o644))

    def exists(self, path: str) -> bool:
        """Whether a file or directory of that name is there."""
        try:
            os.stat(path)
        except (FileNotFoundError, NotADirectoryError):
            return False
        except OSError as error:
            raise storage_error(error, path) from error
        return True

    def list_directory(self, path: str) -> list[str]:
        """The names in a directory, sorted."""
        with _mapped(path):
            return sorted(os.listdir(path))

    def make_directories(self, path: str) -> None:
        """Make the directory and its parents; no error if it is there."""
        with _mapped(path):
            os.makedirs(path, exist_ok=True)

    def rename(self, source: str, target: str) -> None:
        """Atomic; replaces a file at `target`. Durable only after `sync_directory` of the parents."""
        with _mapped(source):
            os.replace(source, target)

    def unlink(self, path: str) -> None:
        """Remove a file; no error if it is missing."""
        try:
            os.unlink(path)
        except FileNotFoundError:
            return
        except OSError as error:
            raise storage_error(error, path) from error

    def remove_tree(self, path: str) -> None:
        """Remove a directory and all below it, never following links; no error if it is missing."""
        with _mapped(path):
            try:
                if not stat.S_ISDIR(os.lstat(path).st_mode):
                    raise DiskError("not a directory, so not removed", path=path)
            except FileNotFoundError:
                return
            _remove_tree(path)

    def sync_directory(self, path: str) -> None:
        """Fsync of a directory: makes creations, renames and removals in it durable."""
        with _mapped(path):
            descriptor = os.open(path, os.O_RDONLY | _DIRECTORY_ONLY | os.O_CLOEXEC)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)

    def free_bytes(self, path: str) -> int:
        """Bytes that an ordinary user can still write to the file system of `path`."""
        with _mapped(path):
            status = os.statvfs(path)
        return status.f_bavail * status.f_frsize

    def total_bytes(self, path: str) -> int:
        """Size in bytes of the file system of `path`."""
        with _mapped(path):
            status = os.statvfs(path)
        return status.f_blocks * status.f_frsize

    def lock(self, path: str) -> PosixFileLock | None:
        """Take an exclusive lock on `path`; None when it is held, by another process or by this one."""
        with _mapped(path):
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(descriptor)
                return None
            except BaseException:
                os.close(descriptor)
                raise
            return PosixFileLock(descriptor)


def _remove_tree(path: str) -> None:
    with os.scandir(path) as entries:
        found = list(entries)
    for entry in found:
        if entry.is_dir(follow_symlinks=False):
            _remove_tree(entry.path)
        else:
            with suppress(FileNotFoundError):
                os.unlink(entry.path)
    os.rmdir(path)


__all__ = [
    "RESIDENCE_PROBE_COUNT_MAX",
    "RESIDENCE_PROBE_DISTANCE_BYTES",
    "PosixFile",
    "PosixFileLock",
    "PosixFileSystem",
    "storage_error",
]
