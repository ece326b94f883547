"""Real file systems in images on loop devices, for tests that cut their power or fill what lies below them. Needs root.

A cut is the SHUTDOWN ioctl of ext4 and xfs without a flush of the journal: the file system takes nothing more and forgets what it had not
put on its device; what the device has got is what a disk would have after a power cut. Mounting it again replays the journal.
"""

import ctypes
import errno
import fcntl
import os
import struct
import subprocess
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from tests.support.deadline import until
from tests.support.requirements import need, need_program

KINDS = ("ext4", "xfs")
SIZE_BYTES_MIN = {"ext4": 128 << 20, "xfs": 320 << 20}
"""Images are sparse; mkfs.xfs refuses less than 300 MB."""
_SHUTDOWN = (2 << 30) | (4 << 16) | (ord("X") << 8) | 125
"""EXT4_IOC_SHUTDOWN and XFS_IOC_GOINGDOWN: _IOR('X', 125, __u32)."""
_WITHOUT_LOG_FLUSH = 2
_libc = ctypes.CDLL(None, use_errno=True)


class RealDisk:
    """A file system of one kind in an image file, mounted at `folder` or not."""

    def __init__(self, kind: str, image: Path, folder: Path) -> None:
        self.kind = kind
        self.image = image
        self.folder = folder
        self.is_mounted = False
        self.replay_count = 0

    def make(self) -> None:
        """Make the image, empty. Skips without root, without mkfs, without loop devices."""
        need(os.geteuid() == 0, "root, to mount a file system")
        program = need_program(f"mkfs.{self.kind}")
        need(Path("/dev/loop-control").exists(), "loop devices")
        self.folder.mkdir(parents=True, exist_ok=True)
        with self.image.open("wb") as file:
            file.truncate(SIZE_BYTES_MIN[self.kind])
        force = ["-F"] if self.kind == "ext4" else ["-f"]
        subprocess.run([program, "-q", *force, str(self.image)], check=True)

    def mount(self) -> None:
        """Mount it; after a cut this replays the journal."""
        subprocess.run(["mount", "-o", "loop", str(self.image), str(self.folder)], check=True)
        self.is_mounted = True

    def cut_power(self) -> None:
        """From here on nothing reaches the disk, and every write and sync fails."""
        descriptor = os.open(self.folder, os.O_RDONLY)
        try:
            fcntl.ioctl(descriptor, _SHUTDOWN, struct.pack("=I", _WITHOUT_LOG_FLUSH))
        finally:
            os.close(descriptor)

    def unmount(self) -> None:
        """Unmount; whoever had files open there must be dead."""

        def done() -> bool:
            if _libc.umount2(os.fsencode(self.folder), 0) == 0:
                return True
            code = ctypes.get_errno()
            assert code == errno.EBUSY, os.strerror(code)
            return False

        until(done, f"{self.folder} unmounted")
        self.is_mounted = False

    def power_on(self) -> None:
        """Unmount after a cut, and mount again."""
        self.unmount()
        self.mount()
        self.replay_count += 1


@contextmanager
def real_disk(kind: str, image: Path, folder: Path) -> Generator[RealDisk]:
    """A fresh file system, mounted at `folder` until the block ends. Whoever uses it must be dead by then."""
    disk = RealDisk(kind, image, folder)
    disk.make()
    disk.mount()
    try:
        yield disk
    finally:
        if disk.is_mounted:
            disk.unmount()
        image.unlink(missing_ok=True)
