"""A file system in memory, for tests of storage: it keeps what was written apart from what was synced, and fails when told to.

Owns files, directories and the plan of faults. The contract suite of the file-system port runs against it as against the real one.

    files = MemoryFiles()
    files.fail("pwrite", DiskFull, call=3)       the third write from now on raises DiskFull
    files.short_write_bytes = 10                 no write takes more than 10 bytes
    files.power_cut()                            all that was not synced is gone, names and bytes; open files are dead

Invariants:
    - Bytes are durable after `datasync` of their file, names after `sync_directory` of their directory, as POSIX has it and no better.
    - A file that has lost its name lives on for those who have it open.
"""

from collections import Counter
from collections.abc import Callable

from penstock.runtime.files import Buffer, DiskError, DiskFull, StorageError


class Inode:
    """One file's bytes: as written, and as they are after a power cut."""

    def __init__(self) -> None:
        self.written = bytearray()
        self.synced = b""


class MemoryFiles:
    """See the module. The root and every path above a made directory exist and are durable."""

    def __init__(self, *, capacity_bytes: int = 1 << 40) -> None:
        self.capacity_bytes = capacity_bytes
        self.short_write_bytes = 0
        """The most that one write takes; 0: all."""
        self.resident = True
        """What residency probes answer, for ranges up to `resident_bytes_max`."""
        self.resident_bytes_max = 1 << 40
        self.calls: Counter[str] = Counter()
        self.open_count = 0
        self._files: dict[str, Inode] = {}
        self._durable_files: dict[str, Inode] = {}
        self._directories: set[str] = {"", ".", "/"}
        self._durable_directories: set[str] = {"", ".", "/"}
        self._locked: set[str] = set()
        self._faults: list[tuple[str, int, Callable[[str], Exception]]] = []
        self._life = 0

    # Faults

    def fail(self, operation: str, error: type[StorageError], *, call: int = 1) -> None:
        """Let the `call`-th `operation` from now on raise `error`; "any" counts all operations that change something."""
        at = self.calls[operation] + call
        self._faults.append((operation, at, lambda path: error("injected", path=path)))

    def heal(self) -> None:
        """Forget all planned faults."""
        self._faults.clear()

    def note(self, operation: str, path: str, *, changes: bool = False) -> None:
        """Count an operation, and fail it if that was planned."""
        self.calls[operation] += 1
        if changes:
            self.calls["any"] += 1
        for fault in self._faults:
            name, at, make = fault
            if (name == operation or (changes and name == "any")) and self.calls[name] == at:
                self._faults.remove(fault)
                raise make(path)

    def power_cut(self) -> None:
        """Lose everything that was not synced. All open files are dead, all locks free."""
        for inode in self._durable_files.values():
            inode.written = bytearray(inode.synced)
        self._directories = set(self._durable_directories)
        self._durable_files = {
            name: inode
            for name, inode in self._durable_files.items()
            if name.rpartition("/")[0] in self._directories
        }
        self._files = dict(self._durable_files)
        self.kill()

    def kill(self) -> None:
        """End the process that had files open: nothing written is lost."""
        self._life += 1
        self._locked.clear()
        self.open_count = 0
        self._faults.clear()

    @property
    def life(self) -> int:
        """Raised by each `kill` and `power_cut`."""
        return self._life

    def content(self, path: str) -> bytes:
        """The bytes of a file as written."""
        return bytes(self._inode(path).written)

    def change(self, path: str, position: int, data: bytes) -> None:
        """Overwrite bytes behind everybody's back, on the disk too."""
        inode = self._inode(path)
        inode.written[position : position + len(data)] = data
        inode.synced = bytes(inode.written)

    def replace(self, path: str, data: bytes) -> None:
        """Put a whole content behind everybody's back, on the disk too."""
        inode = self._files[path] = self._durable_files[path] = Inode()
        inode.written = bytearray(data)
        inode.synced = data

    def copy(self) -> "MemoryFiles":
        """The same disk once more, as it is written now and all of it durable, without faults or open files."""
        other = MemoryFiles(capacity_bytes=self.capacity_bytes)
        for path, inode in self._files.items():
            other.replace(path, bytes(inode.written))
        other._directories = set(self._directories)
        other._durable_directories = set(self._directories)
        return other

    def used_bytes(self) -> int:
        """Bytes in all files that have a name."""
        return sum(len(inode.written) for inode in self._files.values())

    # The port

    def open(self, path: str, *, write: bool = False, create: bool = False) -> "MemoryFile":
        self.note("open", path)
        inode = self._files.get(path)
        if inode is None:
            if path in self._directories:
                raise DiskError("is a directory", path=path)
            if not create:
                raise FileNotFoundError(path)
            self._require_directory(path)
            self.note("create", path, changes=True)
            inode = self._files[path] = Inode()
        self.open_count += 1
        return MemoryFile(self, path, inode, write)

    def exists(self, path: str) -> bool:
        return path in self._files or path in self._directories

    def list_directory(self, path: str) -> list[str]:
        if path not in self._directories:
            raise FileNotFoundError(path)
        prefix = path + "/"
        rest = (
            name[len(prefix) :]
            for name in (*self._files, *self._directories)
            if name.startswith(prefix) and len(name) > len(prefix)
        )
        return sorted({name for name in rest if "/" not in name})

    def make_directories(self, path: str) -> None:
        if path in self._files:
            raise FileExistsError(path)
        parts = path.split("/")
        missing = [
            "/".join(parts[:count])
            for count in range(1, len(parts) + 1)
            if "/".join(parts[:count]) not in self._directories
        ]
        if missing:
            self.note("make_directories", path, changes=True)
            self._directories.update(missing)
            self._durable_directories.update(missing[:-1])

    def rename(self, source: str, target: str) -> None:
        self.note("rename", source, changes=True)
        if source in self._files:
            self._require_directory(target)
            if target in self._directories:
                raise DiskError("is a directory", path=source)
            self._files[target] = self._files.pop(source)
        elif source in self._directories:
            if target in self._files or (target in self._directories and self.list_directory(target)):
                raise DiskError("the target is in the way", path=source)
            self._rename_directory(source, target)
        else:
            raise FileNotFoundError(source)

    def unlink(self, path: str) -> None:
        if path in self._directories:
            raise DiskError("is a directory", path=path)
        self.note("unlink", path, changes=True)
        self._files.pop(path, None)

    def remove_tree(self, path: str) -> None:
        if path in self._files:
            raise DiskError("not a directory, so not removed", path=path)
        self.note("remove_tree", path, changes=True)
        prefix = path + "/"
        self._files = {name: inode for name, inode in self._files.items() if not name.startswith(prefix)}
        self._directories = {n for n in self._directories if n != path and not n.startswith(prefix)}

    def sync_directory(self, path: str) -> None:
        path = path.rstrip("/")
        if path not in self._directories:
            raise FileNotFoundError(path)
        self.note("sync_directory", path, changes=True)

        def is_within(name: str) -> bool:
            return name.rpartition("/")[0] == path or (path == "." and "/" not in name)

        kept = {name: inode for name, inode in self._durable_files.items() if not is_within(name)}
        kept.update({name: inode for name, inode in self._files.items() if is_within(name)})
        self._durable_files = kept
        gone = {n for n in self._durable_directories if is_within(n) and n not in self._directories}
        for name in gone:
            self._forget_durable_directory(name)
        self._durable_directories |= {name for name in self._directories if is_within(name)}

    def free_bytes(self, path: str) -> int:
        return max(0, self.capacity_bytes - self.used_bytes())

    def total_bytes(self, path: str) -> int:
        return self.capacity_bytes

    def lock(self, path: str) -> "MemoryLock | None":
        if path in self._locked:
            return None
        if path not in self._files:
            self.open(path, create=True).close()
        self._locked.add(path)
        return MemoryLock(self._locked, path)

    def _inode(self, path: str) -> Inode:
        inode = self._files.get(path)
        if inode is None:
            raise FileNotFoundError(path)
        return inode

    def _require_directory(self, path: str) -> None:
        if path.rpartition("/")[0] not in self._directories:
            raise FileNotFoundError(path)

    def _rename_directory(self, source: str, target: str) -> None:
        def moved(name: str) -> str:
            return target + name[len(source) :] if name == source or name.startswith(source + "/") else name

        self._files = {moved(name): inode for name, inode in self._files.items()}
        self._directories = {moved(name) for name in self._directories}
        # What was durable inside moves along; that the directory has moved is durable only with its parent.
        for name, inode in list(self._durable_files.items()):
            if name.startswith(source + "/"):
                self._durable_files[moved(name)] = inode

    def _forget_durable_directory(self, path: str) -> None:
        prefix = path + "/"
        self._durable_files = {n: i for n, i in self._durable_files.items() if not n.startswith(prefix)}
        self._durable_directories = {
            n for n in self._durable_directories if n != path and not n.startswith(prefix)
        }


class MemoryFile:
    """One open file."""

    def __init__(self, files: MemoryFiles, path: str, inode: Inode, write: bool) -> None:
        self._files = files
        self._path = path
        self._inode = inode
        self._write = write
        self._open = True
        self._life = files.life

    @property
    def path(self) -> str:
        return self._path

    def fileno(self) -> int:
        return -1

    def size(self) -> int:
        self._check("size")
        return len(self._inode.written)

    def pread(self, count: int, position: int) -> bytes:
        self._check("pread")
        return bytes(self._inode.written[position : position + count])

    def pread_into(self, buffer: bytearray | memoryview, position: int) -> int:
        data = self.pread(len(buffer), position)
        memoryview(buffer)[: len(data)] = data
        return len(data)

    def pwrite(self, data: Buffer, position: int) -> int:
        self._check("pwrite", changes=True)
        if not self._write:
            raise DiskError("not open for writing", path=self._path)
        taken = bytes(data)
        if self._files.short_write_bytes:
            taken = taken[: self._files.short_write_bytes]
        grows = max(0, position + len(taken) - len(self._inode.written))
        free = self._files.free_bytes(self._path)
        if grows > free:
            taken = taken[: len(taken) - (grows - free)]
            if not taken:
                raise DiskFull("No space left on device", path=self._path)
        written = self._inode.written
        if position > len(written):
            written.extend(bytes(position - len(written)))
        written[position : position + len(taken)] = taken
        return len(taken)

    def truncate(self, size: int) -> None:
        self._check("truncate", changes=True)
        if not self._write:
            raise DiskError("not open for writing", path=self._path)
        written = self._inode.written
        if size < len(written):
            del written[size:]
        else:
            written.extend(bytes(size - len(written)))

    def datasync(self) -> None:
        self._check("datasync", changes=True)
        self._inode.synced = bytes(self._inode.written)

    def is_resident(self, position: int, count: int) -> bool:
        self._check("is_resident")
        return self._files.resident and count <= self._files.resident_bytes_max

    def close(self) -> None:
        if self._open:
            self._open = False
            if self._life == self._files.life:
                self._files.open_count -= 1

    def _check(self, operation: str, *, changes: bool = False) -> None:
        if not self._open:
            raise DiskError("the file is closed", path=self._path)
        if self._life != self._files.life:
            raise DiskError("the process that opened this file is dead", path=self._path)
        self._files.note(operation, self._path, changes=changes)


class MemoryLock:
    """A held lock."""

    def __init__(self, locked: set[str], path: str) -> None:
        self._locked = locked
        self._path = path

    def release(self) -> None:
        self._locked.discard(self._path)
