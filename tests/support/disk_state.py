"""What a simulated disk is made of: files and directories as written, as durable, and the changes between the two.

Owns what may be left of unsynced changes when the power goes. Knows neither paths nor faults: `simulated_disk` does.

A write is cut into pieces at sector bounds (512 bytes). A disk writes sectors in any order, each with all that the page cache has of it: so
any subset of the pieces may survive, but a later piece of a sector takes the earlier ones along. One sector may be torn at any byte. A
change of names (creation, renaming, removal) happens whole or not at all, and not without the earlier ones of the same name or the same
file: so a rename leaves the old or the new, and no file gets two names.
"""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

SECTOR_BYTES = 512
FOLD_BYTES_MIN = 1 << 16


class Write(NamedTuple):
    """A piece of a write, within one sector."""

    number: int
    """Of the change, rising over the whole disk."""
    call: int
    """Of the call that made it: the pieces of one write share it."""
    position: int
    data: bytes


class Resize(NamedTuple):
    """A truncation, in either direction."""

    number: int
    call: int
    size: int


DataChange = Write | Resize


class NameChange(NamedTuple):
    """Entries of directories that change together."""

    number: int
    call: int
    entries: tuple[tuple[int, str, int | None], ...]
    """(directory, name, what it names from now on; None: nothing)."""
    node: int
    """The file or directory that is named, renamed or removed."""

    def depends_on(self, earlier: "NameChange") -> bool:
        """Whether this one can't have happened without that one."""
        if self.node == earlier.node:
            return True
        mine = {(directory, name) for directory, name, _ in self.entries}
        return any((directory, name) in mine for directory, name, _ in earlier.entries)


class Survival(NamedTuple):
    """Which unsynced changes are on the disk when the power comes back; the others are as if they had never been."""

    kept: frozenset[int] = frozenset()
    """Numbers of changes that happened. A change of names takes along those it depends on, a piece the earlier ones of its sector."""
    zeroed: frozenset[int] = frozenset()
    """Numbers of pieces of writes of which the file's size knows and nothing else: zeros, where the file was shorter."""
    torn: tuple[int, int] | None = None
    """(number, count): of that piece the first `count` bytes happened, and nothing later in its sector."""


NOTHING = Survival()


class FileNode:
    """One file. `cache` is what processes see, None while that is what is durable."""

    __slots__ = ("_base", "_synced", "_synced_bytes", "cache", "has_lost_pages", "pending")

    def __init__(self, content: bytes = b"") -> None:
        self.replace(content)

    def replace(self, content: bytes) -> None:
        """Put a whole content, on the disk too."""
        self.cache: bytearray | None = None
        self.pending: list[DataChange] = []
        """Dirty: written and not synced."""
        self.has_lost_pages = False
        """A failed sync has left pages that are clean in memory and not on the disk."""
        self._base = content
        self._synced: list[DataChange] = []
        self._synced_bytes = 0

    @property
    def durable(self) -> bytes:
        """The bytes that survive whatever happens."""
        if self._synced:
            self._base = bytes(applied(self._base, self._synced))
            self._synced = []
            self._synced_bytes = 0
        return self._base

    def view(self) -> bytes | bytearray:
        """The bytes as written."""
        return self.durable if self.cache is None else self.cache

    def size(self) -> int:
        return len(self.view())

    def change(self, *changes: DataChange) -> None:
        """Write or resize, in the page cache."""
        if self.cache is None:
            self.cache = bytearray(self.durable)
        for change in changes:
            _apply(self.cache, change)
        self.pending.extend(changes)

    def sync(self) -> None:
        """Bring what is dirty to the disk; what a failed sync has left clean is not dirty."""
        self._synced += self.pending
        self._synced_bytes += sum(len(c.data) for c in self.pending if isinstance(c, Write))
        self.pending = []
        if self._synced_bytes > FOLD_BYTES_MIN + len(self._base):
            _ = self.durable

    def fail_sync(self, survival: Survival) -> None:
        """A sync that fails: the pages are clean, and on the disk is what `survival` says. The next sync says yes to them.

        Sizes are kept by the file system's journal and may yet come to the disk: over zeros.
        """
        survivors = surviving(self.pending, survival)
        sizes = [change.size for change in self.pending if isinstance(change, Resize)]
        number, call = self.pending[-1][:2] if self.pending else (0, 0)
        self._synced += survivors
        self.pending = [Resize(number, call, size) for size in (*sizes, self.size())] if self.pending else []
        self.has_lost_pages = True

    def lose(self, survival: Survival) -> None:
        """Power cut."""
        if self.pending:
            self._synced += surviving(self.pending, survival)
            self.pending = []
        self.cache = None
        self.has_lost_pages = False

    def clone(self) -> "FileNode":
        """An equal file that changes by itself."""
        other = FileNode(self.durable)
        if self.pending or self.has_lost_pages:
            other.cache = None if self.cache is None else bytearray(self.cache)
            other.pending = self.pending.copy()
            other.has_lost_pages = self.has_lost_pages
        return other


class DirectoryNode:
    """One directory: what its names lead to, as processes see it and as it is durable."""

    __slots__ = ("durable", "entries")

    def __init__(self) -> None:
        self.entries: dict[str, int] = {}
        self.durable: dict[str, int] = {}

    def clone(self) -> "DirectoryNode":
        """An equal directory that changes by itself."""
        other = DirectoryNode()
        other.entries = self.entries.copy()
        other.durable = self.durable.copy()
        return other


Node = FileNode | DirectoryNode


def pieces(number: int, call: int, position: int, data: bytes) -> list[Write]:
    """One write as changes numbered from `number`, cut at sector bounds."""
    found: list[Write] = []
    start = 0
    while start < len(data):
        end = min(len(data), start + SECTOR_BYTES - (position + start) % SECTOR_BYTES)
        found.append(Write(number + len(found), call, position + start, data[start:end]))
        start = end
    return found


def surviving(changes: Sequence[DataChange], survival: Survival) -> list[DataChange]:
    """What is left of a file's unsynced changes, in their order."""
    kept, zeroed, torn = survival
    torn_number, torn_count = torn or (-1, 0)
    last_kept: dict[int, int] = {}
    for change in changes:
        if isinstance(change, Write):
            sector = _sector(change)
            if change.number == torn_number:
                last_kept[sector] = change.number
                kept -= {c.number for c in changes if c.number > torn_number and _sector(c) == sector}
            elif change.number in kept:
                last_kept[sector] = change.number
    found: list[DataChange] = []
    for change in changes:
        number = change.number
        if isinstance(change, Resize):
            if number in kept:
                found.append(change)
        elif number == torn_number:
            found.append(change._replace(data=change.data[:torn_count]))
        elif number <= last_kept.get(_sector(change), -1):
            found.append(change)
        elif number in zeroed:
            found.append(change._replace(position=change.position + len(change.data), data=b""))
    return found


def _sector(change: DataChange) -> int:
    return change.position // SECTOR_BYTES if isinstance(change, Write) else -1


def applied(content: bytes, changes: Iterable[DataChange]) -> bytearray:
    """A file's bytes after changes."""
    result = bytearray(content)
    for change in changes:
        _apply(result, change)
    return result


def _apply(content: bytearray, change: DataChange) -> None:
    if isinstance(change, Write):
        end = change.position + len(change.data)
        if change.position > len(content):
            content.extend(bytes(change.position - len(content)))
        content[change.position : end] = change.data
    elif change.size < len(content):
        del content[change.size :]
    else:
        content.extend(bytes(change.size - len(content)))


def with_dependencies(changes: Sequence[NameChange], kept: frozenset[int]) -> list[NameChange]:
    """The changes of names in `kept` and those that they depend on, in order."""
    found: list[NameChange] = []
    for change in reversed(changes):
        if change.number in kept or any(later.depends_on(change) for later in found):
            found.append(change)
    found.reverse()
    return found
