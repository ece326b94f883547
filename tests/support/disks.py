"""A tiny file system for a test: a tmpfs that is mounted for it and unmounted after it."""

import ctypes
import errno
import os
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from tests.support.requirements import need

_libc = ctypes.CDLL(None, use_errno=True)
MNT_DETACH = 2


@contextmanager
def tiny_disk(folder: Path, size_bytes: int) -> Generator[Path]:
    """Mount a tmpfs of `size_bytes` at `folder`; skips where the user may not mount."""
    folder.mkdir(parents=True, exist_ok=True)
    options = f"size={size_bytes}".encode()
    failed = _libc.mount(b"tmpfs", os.fsencode(folder), b"tmpfs", 0, options) != 0
    need(not failed, f"the right to mount a tmpfs ({os.strerror(ctypes.get_errno())})")
    try:
        yield folder
    finally:
        _libc.umount2(os.fsencode(folder), MNT_DETACH)


def free_bytes(folder: Path) -> int:
    """Bytes that can still be written."""
    told = os.statvfs(folder)
    return told.f_bavail * told.f_frsize


def fill_up(path: Path, *, leave_bytes: int = 0) -> None:
    """Write a file that leaves `leave_bytes` on its file system (less, where others write there meanwhile)."""
    with path.open("wb") as file:
        while True:
            size = file.seek(0, os.SEEK_END) + free_bytes(path.parent) - leave_bytes
            try:
                if size > 0:
                    os.posix_fallocate(file.fileno(), 0, size)
            except OSError as error:
                if error.errno != errno.ENOSPC:
                    raise
            else:
                return
