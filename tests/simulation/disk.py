"""A host's disk and workers as one process has them: faults by chance, slowness, and the end of the process.

Owns what goes wrong with a call. `tests/support/simulated_disk.py` owns what is durable. Workers run on the event loop, in virtual time: they are
slow to begin and slow to be heard of again, and slower while the disk is slow.
"""

from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from random import Random
from typing import TypeVar, TypeVarTuple

import trio
from tests.simulation.kernel import Incarnation
from tests.support.simulated_disk import SimulatedDisk
from tests.support.survivors import by_chance

from penstock.runtime.files import Buffer, DiskError, DiskFull, File, FileLock, TooManyOpenFiles

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

WORKER_WAITS_S = (0.0001, 0.0001, 0.0003, 0.001, 0.004)


@dataclass(slots=True)
class DiskFaults:
    """What is wrong with a host's disk now."""

    is_full: bool = False
    error_chance: float = 0.0
    """Of each write, sync and read."""
    sync_error_chance: float = 0.0
    """Of each sync besides: a device that takes what is written, and can't keep it."""
    has_descriptors: bool = True
    slow_s: float = 0.0
    """Added to what a worker does."""
    met_count: int = 0


class HostFiles:
    """The file system of one process."""

    def __init__(self, disk: SimulatedDisk, process: Incarnation, faults: DiskFaults, random: Random) -> None:
        self.disk = disk
        self.process = process
        self.faults = faults
        self.random = random
        self._is_observed = False

    @contextmanager
    def observed(self) -> Generator[None]:
        """What is done in here checkers do, past all faults."""
        self._is_observed = True
        try:
            yield
        finally:
            self._is_observed = False

    def check(self, path: str) -> None:
        """A dead process's calls are refused."""
        if self.process.is_dead:
            raise DiskError("the process that asks is dead", path=path)

    def may_fail(self, path: str) -> None:
        """EIO, by chance."""
        if self._is_observed:
            return
        self.check(path)
        faults = self.faults
        if faults.error_chance and self.random.random() < faults.error_chance:
            faults.met_count += 1
            raise DiskError("injected", path=path)

    def open(self, path: str, *, write: bool = False, create: bool = False) -> "HostFile":
        self.may_fail(path)
        if not (self.faults.has_descriptors or self._is_observed):
            self.faults.met_count += 1
            raise TooManyOpenFiles("injected", path=path)
        return HostFile(self, self.disk.open(path, write=write, create=create))

    def exists(self, path: str) -> bool:
        self.check(path)
        return self.disk.exists(path)

    def list_directory(self, path: str) -> list[str]:
        self.check(path)
        return self.disk.list_directory(path)

    def make_directories(self, path: str) -> None:
        self.may_fail(path)
        self.disk.make_directories(path)

    def rename(self, source: str, target: str) -> None:
        self.may_fail(source)
        self.disk.rename(source, target)

    def unlink(self, path: str) -> None:
        self.may_fail(path)
        self.disk.unlink(path)

    def remove_tree(self, path: str) -> None:
        self.may_fail(path)
        self.disk.remove_tree(path)

    def sync_directory(self, path: str) -> None:
        self.may_fail(path)
        self.disk.sync_directory(path)

    def free_bytes(self, path: str) -> int:
        return 0 if self.faults.is_full else 1 << 40

    def total_bytes(self, path: str) -> int:
        return 1 << 40

    def lock(self, path: str) -> FileLock | None:
        self.check(path)
        return self.disk.lock(path)


class HostFile:
    """One open file."""

    __slots__ = ("_file", "_files")

    def __init__(self, files: HostFiles, file: File) -> None:
        self._files = files
        self._file = file

    @property
    def path(self) -> str:
        return self._file.path

    def fileno(self) -> int:
        return -1

    def size(self) -> int:
        self._files.check(self.path)
        return self._file.size()

    def pread(self, count: int, position: int) -> bytes:
        self._files.may_fail(self.path)
        return self._file.pread(count, position)

    def pread_into(self, buffer: bytearray | memoryview, position: int) -> int:
        self._files.may_fail(self.path)
        return self._file.pread_into(buffer, position)

    def pwrite(self, data: Buffer, position: int) -> int:
        files = self._files
        files.check(self.path)
        if files.faults.is_full:
            files.faults.met_count += 1
            part = memoryview(data)[: files.random.randrange(0, len(data) + 1)]
            if len(part) and files.random.random() < 0.3:
                with suppress(DiskFull):
                    return self._file.pwrite(part, position)
            raise DiskFull("injected", path=self.path)
        files.may_fail(self.path)
        return self._file.pwrite(data, position)

    def truncate(self, size: int) -> None:
        self._files.may_fail(self.path)
        self._file.truncate(size)

    def datasync(self) -> None:
        files = self._files
        files.check(self.path)
        faults = files.faults
        chance = max(faults.error_chance, faults.sync_error_chance)
        if chance and files.random.random() < chance:
            faults.met_count += 1
            disk = files.disk
            disk.failed_sync_keeps = by_chance(disk.unsynced(), files.random)
            disk.fail("datasync", DiskError)
        self._file.datasync()

    def is_resident(self, position: int, count: int) -> bool:
        self._files.check(self.path)
        return self._files.random.random() < 0.9 and self._file.is_resident(position, count)

    def will_need(self, position: int, count: int) -> None:
        self._file.will_need(position, count)

    def wont_need(self, position: int, count: int) -> None:
        self._file.wont_need(position, count)

    def close(self) -> None:
        self._file.close()


class HostThreads:
    """The workers of one process; a call that runs can't be cancelled."""

    def __init__(self, process: Incarnation, faults: DiskFaults, random: Random) -> None:
        self._process = process
        self._faults = faults
        self._random = random

    async def run(self, function: Callable[[*Ts], T], *args: *Ts) -> T:
        await self._wait()
        try:
            return function(*args)
        finally:
            with trio.CancelScope(shield=True):
                await self._wait()

    async def _wait(self) -> None:
        if self._process.is_dead:
            await trio.lowlevel.checkpoint()
            return
        wait_s = self._random.choice(WORKER_WAITS_S)
        slow_s = self._faults.slow_s
        await trio.sleep(wait_s + slow_s * self._random.random() if slow_s else wait_s)


__all__ = ["DiskFaults", "HostFiles", "HostThreads"]
