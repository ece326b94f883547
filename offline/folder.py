"""The folder of an export: whole files or none, and the manifest.

Owns names and the order of what is made durable: a file is written under a temporary name, synced, renamed, and its folder synced; only then may the
manifest name it. What a killed run has left behind (temporary files, and files that no manifest names) goes when the next one begins.
"""

import hashlib
import re
from collections.abc import Iterator
from contextlib import suppress

from penstock.errors import PenstockError
from penstock.offline.manifest import MANIFEST_NAME, BadManifest, Manifest, decode_manifest
from penstock.runtime.files import (
    Buffer,
    FileLock,
    FileSystem,
    StorageError,
    read_file,
    replace_file,
    write_all,
)

LOCK_NAME = ".penstock-lock"
_TEMPORARY = ".tmp"
_DATA_NAME = re.compile(r"part-([0-9]{6,18})-.+?(\.tmp)?")
_FOLDER_NAME = re.compile(r"(day|hour)=.+")


class FolderInUse(PenstockError):
    """Another export works in this folder."""


class AtomicFile:
    """A file that appears under its name when it is whole. Written front to back; a file object as pyarrow wants one."""

    def __init__(self, files: FileSystem, path: str) -> None:
        self.path = path
        self.size_bytes = 0
        self.closed = False
        self._files = files
        self._hash = hashlib.sha256()
        self._file = files.open(path + _TEMPORARY, write=True, create=True)
        self._file.truncate(0)

    def write(self, data: Buffer) -> int:
        """Append. Raises StorageError. A file that was given up takes anything: writers end theirs when they go."""
        if self.closed:
            return len(data)
        view = memoryview(data).cast("B")
        write_all(self._file, view, self.size_bytes)
        self._hash.update(view)
        self.size_bytes += len(view)
        return len(view)

    def tell(self) -> int:
        """Bytes so far."""
        return self.size_bytes

    def flush(self) -> None:
        """Nothing is held back."""

    def close(self) -> None:
        """The writer's word that it is done; `finish` or `discard` closes."""

    def readable(self) -> bool:
        """No."""
        return False

    def writable(self) -> bool:
        """Yes."""
        return True

    def seekable(self) -> bool:
        """No."""
        return False

    def finish(self) -> str:
        """Sync, and give it its name; returns the SHA-256 in hex. The name is durable once its folder is synced."""
        self._file.datasync()
        self._file.close()
        self.closed = True
        self._files.rename(self.path + _TEMPORARY, self.path)
        return self._hash.hexdigest()

    def discard(self) -> None:
        """Give it up."""
        if not self.closed:
            self.closed = True
            self._file.close()
            self._files.unlink(self.path + _TEMPORARY)


class ExportFolder:
    """One folder, for one export at a time."""

    def __init__(self, files: FileSystem, path: str) -> None:
        self.path = path
        self._files = files
        self._lock: FileLock | None = None
        self._known_folders: set[str] = set()

    def open(self) -> Manifest | None:
        """Take the folder (made if missing) and read its manifest; None: there is none. Raises FolderInUse, BadManifest, StorageError."""
        self._files.make_directories(self.path)
        self._sync_parents(self.path)
        lock = self._files.lock(f"{self.path}/{LOCK_NAME}")
        if lock is None:
            raise FolderInUse(f"{self.path}: another export works in this folder")
        self._lock = lock
        path = f"{self.path}/{MANIFEST_NAME}"
        if self._files.exists(path):
            return decode_manifest(read_file(self._files, path))
        if any(True for _ in self._data_files("")):
            raise BadManifest(f"{self.path}: there are files of an export, but no {MANIFEST_NAME}")
        return None

    def close(self) -> None:
        """Give the folder back."""
        if self._lock is not None:
            self._lock.release()
            self._lock = None

    def save(self, manifest: Manifest) -> None:
        """Put the manifest there, atomically. On return it is durable. Raises StorageError."""
        replace_file(self._files, f"{self.path}/{MANIFEST_NAME}", manifest.encode())

    def create(self, name: str) -> AtomicFile:
        """Begin a file; `name` may lie in folders, which are made."""
        folder = name.rpartition("/")[0]
        if folder and folder not in self._known_folders:
            self._files.make_directories(f"{self.path}/{folder}")
            self._known_folders.add(folder)
        return AtomicFile(self._files, f"{self.path}/{name}")

    def sync(self, names: set[str]) -> None:
        """Make the names of files durable, and of the folders that they lie in."""
        folders = {self.path}
        for name in names:
            while name := name.rpartition("/")[0]:
                folders.add(f"{self.path}/{name}")
        for folder in sorted(folders, key=len, reverse=True):
            self._files.sync_directory(folder)

    def remove_leftovers(self, next_sequence: int) -> list[str]:
        """Remove what a killed run has left: files numbered from `next_sequence` on, and temporary ones. Returns their names."""
        removed: list[str] = []
        for name, sequence, is_temporary in list(self._data_files("")):
            if is_temporary or sequence >= next_sequence:
                self._files.unlink(f"{self.path}/{name}")
                removed.append(name)
        if removed:
            self.sync(set(removed))
        return removed

    def _data_files(self, folder: str) -> Iterator[tuple[str, int, bool]]:
        """The files of an export: their names from the folder, their numbers, and whether they are temporary."""
        path = f"{self.path}/{folder}" if folder else self.path
        for name in self._files.list_directory(path):
            inner = f"{folder}/{name}" if folder else name
            if match := _DATA_NAME.fullmatch(name):
                yield inner, int(match[1]), match[2] is not None
            elif _FOLDER_NAME.fullmatch(name):
                yield from self._data_files(inner)

    def _sync_parents(self, path: str) -> None:
        parent = path.rstrip("/").rpartition("/")[0]
        with suppress(StorageError):  # it may not be ours; what matters lies within
            self._files.sync_directory(parent or ("/" if path.startswith("/") else "."))


__all__ = ["LOCK_NAME", "AtomicFile", "ExportFolder", "FolderInUse"]
