"""The file systems that the contract suite runs against. A further one is one more entry in `FILE_SYSTEMS`."""

from collections.abc import Callable
from pathlib import Path

from tests.support.simulated_disk import SimulatedDisk

from penstock.runtime.files import FileSystem
from penstock.runtime.posix_files import PosixFileSystem

FILE_SYSTEMS: dict[str, Callable[[], FileSystem]] = {"simulated": SimulatedDisk, "posix": PosixFileSystem}


class Disk:
    """A file system and a folder of it that exists, empty."""

    def __init__(self, files: FileSystem, folder: Path) -> None:
        self.files = files
        self.folder = str(folder)
        files.make_directories(self.folder)

    def path(self, name: str) -> str:
        return f"{self.folder}/{name}"

    def write(self, name: str, data: bytes) -> str:
        """Make a file with that content; returns its path."""
        file = self.files.open(self.path(name), write=True, create=True)
        assert file.pwrite(data, 0) == len(data)
        file.close()
        return self.path(name)
