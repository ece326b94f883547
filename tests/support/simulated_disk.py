"""A disk in memory, for tests of what a crash or a failing disk leaves: what was written is kept apart from what was synced.

Owns names, open files, and the two ways in which a broker ends without being asked. `disk_state` owns what survives, `disk_faults` what
fails. The contract suite of the file-system port runs against it as against the real one.

    disk.fail("pwrite", DiskFull, call=3)        the third write from now on raises DiskFull
    disk.fail("every", DiskError, call=17)       whatever the 17th call from now on is, it fails
    disk.write_shortly(10, call=2)               the second write from now on takes 10 bytes
    disk.kill()                                  the process is gone, what it wrote is not
    disk.power_cut()                             all that was not synced is gone, names and bytes
    disk.power_cut(random_survival(disk.unsynced(), random))     or some of it is there after all
    disk.before_change = look                    called before each call that changes something
    disk.fork()                                  the same disk once more, to crash it in another way

Invariants:
    - Bytes are durable after `datasync` of their file, names after `sync_directory` of their directory, as POSIX has it and no better.
    - A sync of a file that fails leaves pages that look written and are not on the disk, and no later sync brings them there ("fsyncgate").
      A sync of a directory that fails may be tried again: names go through the journal, and a file system that loses that stops.
    - A file that has lost its name lives on for those who have it open. After a kill or a power cut all open files are dead.
"""

from collections import deque
from collections.abc import Iterator
from typing import NamedTuple, Self

from tests.support.disk_faults import CallsThatFail
from tests.support.disk_state import (
    NOTHING,
    DirectoryNode,
    FileNode,
    NameChange,
    Node,
    Resize,
    Survival,
    Write,
    pieces,
    with_dependencies,
)

from penstock.runtime.files import Buffer, DiskError, DiskFull, StorageError

UNBOUNDED_BYTES = 1 << 40
ROOT = 0


class Unsynced(NamedTuple):
    """What a power cut may take, oldest first."""

    changes: tuple[Write | Resize | NameChange, ...]

    @property
    def numbers(self) -> list[int]:
        return [change.number for change in self.changes]


class SimulatedDisk(CallsThatFail):
    """See the module. The root exists and is durable; paths may begin with `/` or not."""

    def __init__(self, *, capacity_bytes: int = UNBOUNDED_BYTES) -> None:
        super().__init__()
        self.capacity_bytes = capacity_bytes
        self.resident = True
        """What residency probes answer, for ranges up to `resident_bytes_max`."""
        self.resident_bytes_max = UNBOUNDED_BYTES
        self.advice: deque[tuple[str, int, int]] = deque(maxlen=1000)
        """The latest hints about the page cache: what, position, count."""
        self.failed_sync_keeps = NOTHING
        """What a sync that fails has brought to the disk all the same."""
        self.open_count = 0
        self._nodes: dict[int, Node] = {ROOT: DirectoryNode()}
        self._next_node = ROOT + 1
        self._next_number = 0
        self._name_changes: list[NameChange] = []
        self._locked: set[int] = set()
        self._life = 0

    # Ends

    def kill(self) -> None:
        """End the process that had files open: nothing written is lost."""
        self._life += 1
        self._locked.clear()
        self.open_count = 0
        self.heal()
        self.before_change = None

    def power_cut(self, survival: Survival = NOTHING) -> None:
        """Lose everything that was not synced, but for what `survival` names."""
        for change in with_dependencies(self._name_changes, survival.kept):
            self._commit(change)
        self._name_changes = []
        reached: dict[int, Node] = {}
        for number, node in self._durable_nodes(ROOT):
            reached[number] = node
            if isinstance(node, FileNode):
                node.lose(survival)
            else:
                node.entries = node.durable.copy()
        self._nodes = reached
        self.kill()

    def _durable_nodes(self, number: int) -> Iterator[tuple[int, Node]]:
        node = self._nodes[number]
        yield number, node
        if isinstance(node, DirectoryNode):
            for child in node.durable.values():
                yield from self._durable_nodes(child)

    def unsynced(self) -> Unsynced:
        """What a power cut would take now."""
        found: list[Write | Resize | NameChange] = list(self._name_changes)
        for node in self._nodes.values():
            if isinstance(node, FileNode):
                found += node.pending
        found.sort(key=lambda change: change.number)
        return Unsynced(tuple(found))

    @property
    def life(self) -> int:
        """Raised by each `kill` and `power_cut`."""
        return self._life

    def fork(self) -> Self:
        """The same disk once more, synced and unsynced; without faults, open files and locks."""
        other = type(self)(capacity_bytes=self.capacity_bytes)
        other._nodes = {number: node.clone() for number, node in self._nodes.items()}
        other._next_node = self._next_node
        other._next_number = self._next_number
        other._name_changes = self._name_changes.copy()
        return other

    def copy(self) -> Self:
        """The same disk once more, as it is written now and all of it durable; without faults, open files and locks."""
        other = self.fork()
        for node in other._nodes.values():
            if isinstance(node, FileNode):
                node.replace(bytes(node.view()))
            else:
                node.durable = node.entries.copy()
        other._name_changes = []
        return other

    # Behind everybody's back

    def content(self, path: str) -> bytes:
        """The bytes of a file as written."""
        return bytes(self._file(path).view())

    def image(self) -> dict[str, bytes]:
        """The bytes of all files as written, by path; a directory's path ends in `/`."""
        return dict(self._walk(ROOT, ""))

    def _walk(self, number: int, path: str) -> Iterator[tuple[str, bytes]]:
        node = self._nodes[number]
        if isinstance(node, FileNode):
            yield path, bytes(node.view())
            return
        yield path + "/", b""
        for name, child in node.entries.items():
            yield from self._walk(child, f"{path}/{name}")

    def change(self, path: str, position: int, data: bytes) -> None:
        """Overwrite bytes of a file, on the disk too."""
        content = bytearray(self.content(path))
        content[position : position + len(data)] = data
        self._file(path).replace(bytes(content))

    def flip(self, path: str, bit: int) -> None:
        """Flip a bit of a file, counted from the highest of its first byte, on the disk too."""
        byte = self.content(path)[bit // 8]
        self.change(path, bit // 8, bytes([byte ^ (0x80 >> bit % 8)]))

    def fail_sync(self, path: str) -> None:
        """Do to a file's unsynced bytes what a failing `datasync` does."""
        self._file(path).fail_sync(self.failed_sync_keeps)

    def replace(self, path: str, data: bytes) -> None:
        """Put a whole content at a path, on the disk too."""
        directory, name = self._parent(path)
        node = self._directory_node(directory)
        number = self._new_node(FileNode(data))
        node.entries[name] = node.durable[name] = number

    def used_bytes(self) -> int:
        """Bytes in all files that have a name."""
        return sum(len(content) for content in self.image().values())

    # The port

    def open(self, path: str, *, write: bool = False, create: bool = False) -> "SimulatedFile":
        self.note("open", path)
        node = self._find(path)
        if isinstance(node, DirectoryNode):
            raise DiskError("is a directory", path=path)
        if node is None:
            if not create:
                raise FileNotFoundError(path)
            directory, name = self._parent(path)
            self.note("create", path, changes=True)
            node = FileNode()
            number = self._new_node(node)
            self._change_names(number, (directory, name, number))
        self.open_count += 1
        return SimulatedFile(self, path, node, write)

    def exists(self, path: str) -> bool:
        self.note("exists", path)
        return self._find(path) is not None

    def list_directory(self, path: str) -> list[str]:
        self.note("list_directory", path)
        number = self._lookup(path)
        if number is None:
            raise FileNotFoundError(path)
        return sorted(self._directory_node(number, path).entries)

    def make_directories(self, path: str) -> None:
        at = ROOT
        for name in _parts(path):
            node = self._nodes[at]
            if not isinstance(node, DirectoryNode):
                break
            number = node.entries.get(name)
            if number is None:
                self.note("make_directories", path, changes=True)
                number = self._new_node(DirectoryNode())
                self._change_names(number, (at, name, number))
            at = number
        if not isinstance(self._nodes[at], DirectoryNode):
            raise FileExistsError(path)

    def rename(self, source: str, target: str) -> None:
        self.note("rename", source, changes=True)
        number = self._lookup(source)
        if number is None:
            raise FileNotFoundError(source)
        replaced = self._find(target)
        is_file = isinstance(self._nodes[number], FileNode)
        if isinstance(replaced, DirectoryNode) and (is_file or replaced.entries):
            raise DiskError("is a directory", path=source)
        if isinstance(replaced, FileNode) and not is_file:
            raise DiskError("the target is in the way", path=source)
        self._change_names(number, (*self._parent(source), None), (*self._parent(target), number))

    def unlink(self, path: str) -> None:
        if isinstance(self._find(path), DirectoryNode):
            raise DiskError("is a directory", path=path)
        self.note("unlink", path, changes=True)
        number = self._lookup(path)
        if number is not None:
            self._change_names(number, (*self._parent(path), None))

    def remove_tree(self, path: str) -> None:
        number = self._lookup(path)
        if number is None:
            return
        if isinstance(self._nodes[number], FileNode):
            raise DiskError("not a directory, so not removed", path=path)
        self._remove_tree(path, number)

    def _remove_tree(self, path: str, number: int) -> None:
        node = self._nodes[number]
        if isinstance(node, DirectoryNode):
            for name, child in list(node.entries.items()):
                self._remove_tree(f"{path}/{name}", child)
        self.note("remove_tree", path, changes=True)
        self._change_names(number, (*self._parent(path), None))

    def sync_directory(self, path: str) -> None:
        directory = self._lookup(path)
        if directory is None:
            raise FileNotFoundError(path)
        self.note("sync_directory", path, changes=True)
        mine = frozenset(
            change.number
            for change in self._name_changes
            if any(where == directory for where, _, _ in change.entries)
        )
        done = with_dependencies(self._name_changes, mine)
        for change in done:
            self._commit(change)
        self._name_changes = [change for change in self._name_changes if change not in done]

    def free_bytes(self, path: str) -> int:
        return max(0, self.capacity_bytes - self.used_bytes())

    def total_bytes(self, path: str) -> int:
        return self.capacity_bytes

    def lock(self, path: str) -> "SimulatedLock | None":
        number = self._lookup(path)
        if number is None:
            self.open(path, write=True, create=True).close()
            number = self._lookup(path)
            assert number is not None
        if number in self._locked:
            return None
        self._locked.add(number)
        return SimulatedLock(self, number)

    def unlock(self, number: int, life: int) -> None:
        """Give back a lock that was taken in that life."""
        if life == self._life:
            self._locked.discard(number)

    # Numbers and names

    def new_changes(self, count: int = 1) -> int:
        """Numbers for changes: the first of `count`."""
        self._next_number += count
        return self._next_number - count

    def _new_node(self, node: Node) -> int:
        number = self._next_node
        self._next_node += 1
        self._nodes[number] = node
        return number

    def _change_names(self, node: int, *entries: tuple[int, str, int | None]) -> None:
        number = self.new_changes()
        self._name_changes.append(NameChange(number, self.call_count, entries, node))
        for directory, name, target in entries:
            _set_entry(self._directory_node(directory).entries, name, target)

    def _commit(self, change: NameChange) -> None:
        for directory, name, target in change.entries:
            _set_entry(self._directory_node(directory).durable, name, target)

    def _lookup(self, path: str) -> int | None:
        number = ROOT
        for name in _parts(path):
            node = self._nodes[number]
            if isinstance(node, FileNode) or name not in node.entries:
                return None
            number = node.entries[name]
        return number

    def _find(self, path: str) -> Node | None:
        number = self._lookup(path)
        return None if number is None else self._nodes[number]

    def _file(self, path: str) -> FileNode:
        node = self._find(path)
        if not isinstance(node, FileNode):
            raise FileNotFoundError(path)
        return node

    def _parent(self, path: str) -> tuple[int, str]:
        """The directory that names a path, and the name in it."""
        head, _, name = path.rstrip("/").rpartition("/")
        number = self._lookup(head)
        if number is None or isinstance(self._nodes[number], FileNode):
            raise FileNotFoundError(path)
        return number, name

    def _directory_node(self, number: int, path: str = "") -> DirectoryNode:
        node = self._nodes[number]
        if isinstance(node, FileNode):
            raise DiskError("not a directory", path=path)
        return node


class SimulatedFile:
    """One open file."""

    def __init__(self, disk: SimulatedDisk, path: str, node: FileNode, write: bool) -> None:
        self._disk = disk
        self._path = path
        self._node = node
        self._write = write
        self._open = True
        self._life = disk.life

    @property
    def path(self) -> str:
        return self._path

    def fileno(self) -> int:
        return -1

    def size(self) -> int:
        self._check()
        self._disk.note("size", self._path)
        return self._node.size()

    def pread(self, count: int, position: int) -> bytes:
        self._check()
        self._disk.note("pread", self._path)
        return bytes(self._node.view()[position : position + count])

    def pread_into(self, buffer: bytearray | memoryview, position: int) -> int:
        data = self.pread(len(buffer), position)
        memoryview(buffer)[: len(data)] = data
        return len(data)

    def pwrite(self, data: Buffer, position: int) -> int:
        self._check(writes=True)
        disk = self._disk
        short_bytes = disk.note("pwrite", self._path, changes=True)
        taken = bytes(data)
        if short_bytes:
            taken = taken[:short_bytes]
        if disk.capacity_bytes != UNBOUNDED_BYTES:
            grows = max(0, position + len(taken) - self._node.size())
            free = disk.free_bytes(self._path)
            if grows > free:
                taken = taken[: len(taken) - (grows - free)]
                if not taken:
                    raise DiskFull("No space left on device", path=self._path)
        changes = pieces(disk.new_changes(0), disk.call_count, position, taken)
        disk.new_changes(len(changes))
        self._node.change(*changes)
        return len(taken)

    def truncate(self, size: int) -> None:
        self._check(writes=True)
        self._disk.note("truncate", self._path, changes=True)
        if size != self._node.size():
            self._node.change(Resize(self._disk.new_changes(), self._disk.call_count, size))

    def datasync(self) -> None:
        self._check()
        try:
            self._disk.note("datasync", self._path, changes=True)
        except StorageError:
            self._node.fail_sync(self._disk.failed_sync_keeps)
            raise
        self._node.sync()

    def is_resident(self, position: int, count: int) -> bool:
        self._check()
        self._disk.note("is_resident", self._path)
        return self._disk.resident and count <= self._disk.resident_bytes_max

    def will_need(self, position: int, count: int) -> None:
        self._disk.advice.append(("will need", position, count))

    def wont_need(self, position: int, count: int) -> None:
        self._disk.advice.append(("won't need", position, count))

    def close(self) -> None:
        if self._open:
            self._open = False
            if self._life == self._disk.life:
                self._disk.open_count -= 1

    def _check(self, *, writes: bool = False) -> None:
        if not self._open:
            raise DiskError("the file is closed", path=self._path)
        if self._life != self._disk.life:
            raise DiskError("the process that opened this file is dead", path=self._path)
        if writes and not self._write:
            raise DiskError("not open for writing", path=self._path)


class SimulatedLock:
    """A held lock."""

    def __init__(self, disk: SimulatedDisk, number: int) -> None:
        self._disk = disk
        self._number = number
        self._life = disk.life

    def release(self) -> None:
        self._disk.unlock(self._number, self._life)


def _parts(path: str) -> list[str]:
    return [name for name in path.split("/") if name not in ("", ".")]


def _set_entry(entries: dict[str, int], name: str, target: int | None) -> None:
    if target is None:
        entries.pop(name, None)
    else:
        entries[name] = target
