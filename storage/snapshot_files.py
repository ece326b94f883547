"""The `.snapshot` files of one partition's directory.

Owns which there are, and that one for each segment stays, and the newest. Knows nothing of what is in them: that is `producer_state`'s.
"""

from collections.abc import Callable, Iterable

from penstock.runtime.files import FileSystem, replace_file
from penstock.storage.layout import SNAPSHOT_SUFFIX, segment_file_name


class SnapshotFiles:
    """See the module. `offsets` are those of the files that are there; whoever removes one takes it out."""

    __slots__ = ("_directory", "_files", "offsets")

    def __init__(self, files: FileSystem, directory: str, offsets: set[int]) -> None:
        self._files = files
        self._directory = directory
        self.offsets = offsets

    def write(self, offset: int, encode: Callable[[], bytes], segment_bases: Iterable[int]) -> bool:
        """Write `<offset>.snapshot`, durable on return, and drop what no segment needs; False if it is there already. Raises StorageError."""
        if offset in self.offsets:
            return False
        replace_file(self._files, self.path(offset), encode())
        self.offsets.add(offset)
        self.keep(segment_bases)
        return True

    def keep(self, segment_bases: Iterable[int]) -> None:
        """Remove all but the segments' and the newest. Raises StorageError."""
        if self.offsets:
            self._remove(self.offsets - set(segment_bases) - {max(self.offsets)})

    def forget(self, *, below_offset: int) -> None:
        """Remove those below an offset. Raises StorageError."""
        self._remove({offset for offset in self.offsets if offset < below_offset})

    def _remove(self, offsets: set[int]) -> None:
        for offset in sorted(offsets):
            self._files.unlink(self.path(offset))
            self.offsets.discard(offset)

    def path(self, offset: int) -> str:
        """Where the snapshot of that offset is or would be."""
        return f"{self._directory}/{segment_file_name(offset, SNAPSHOT_SUFFIX)}"
