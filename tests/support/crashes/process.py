"""One process of a broker, from its start to an end that it does not see coming: the environment that is handed to it.

Owns when the process dies: at a chosen call to the disk that changes something, in the middle of a write, or when it is told. A dead process does
nothing any more: its disk and its metadata store refuse it, so that no `finally` of it flushes what a crash would have lost, and what it
still answers counts for nothing. What becomes of the disk is the machine's business.

Workers run on the event loop, before and after a wait of random length, so that whatever may happen meanwhile does. What happens during a sync
is what `during_sync` does: it is called while the sync is under way, and what it appends is not covered by it.

What may wait for the disk and is asked for outside of a worker is noted in `waits`. The event loop may append to the page cache and read what a
probe has just found resident (DESIGN section 5), and cut off the part of a batch that a full disk took, once: it is on workers from then on.
"""

import enum
import traceback
from collections.abc import AsyncIterator, Callable, Generator, Sequence
from contextlib import AbstractAsyncContextManager, contextmanager, suppress
from dataclasses import dataclass
from random import Random
from typing import TypeVar, TypeVarTuple

import trio
from tests.support.scripted_threads import ScriptedThreads
from tests.support.simulated_disk import SimulatedDisk
from tests.support.survivors import by_chance

from penstock.runtime.files import Buffer, DiskError, DiskFull, File, FileLock, StorageError
from penstock.runtime.metadata import (
    Compare,
    Delete,
    Entry,
    MetadataStore,
    MetadataUnavailable,
    Put,
    Snapshot,
    TransactionResult,
    WatchBatch,
)

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

WAIT_STACK_DEPTH = 12
WORKER_WAITS_S = (0.0, 0.0, 0.0, 0.0002, 0.001, 0.02)


class End(enum.Enum):
    """How a process ends."""

    STOP = "stopped cleanly"
    KILL = "killed"
    POWER_CUT = "cut off from power"


@dataclass(frozen=True, slots=True)
class Fault:
    """What fails: the `call`-th call of an operation on a path that ends so."""

    operation: str
    error: type[StorageError]
    call: int
    suffix: str = ""


@dataclass(frozen=True, slots=True)
class Plan:
    """One life: how it ends and when, whichever comes first, and what fails in it."""

    end: End
    after_s: float
    after_calls: int = 1 << 60
    """Calls to the disk that change something; the last one happens, or, if it is a write, a part of it."""
    fault: Fault | None = None
    room_bytes: int | None = None
    """For half of the time the disk takes no more than that."""


class Process:
    """See the module."""

    def __init__(self, disk: SimulatedDisk, store: MetadataStore, random: Random, plan: Plan) -> None:
        self.plan = plan
        self.random = random
        self.disk = disk
        self.files = ProcessFiles(self)
        self.store = ProcessStore(self, store)
        self.threads = ProcessWorkers(self)
        self.worker_waits_s: Sequence[float] = WORKER_WAITS_S
        self.is_dead = False
        self.died = trio.Event()
        self.call_count = 0
        self._fault_count = 0
        self.waits: list[str] = []
        """What the event loop asked of the disk though it may have to wait: where."""
        self._refused_paths: set[str] = set()
        self.faults_met = 0
        self.during_sync: Callable[[], None] | None = None

    def die(self) -> None:
        """Now."""
        self.is_dead = True
        self.died.set()

    def check_alive(self, path: str) -> None:
        """What is asked by a dead process is refused."""
        if self.is_dead:
            raise DiskError("the process that asks is dead", path=path)

    def begins(self, operation: str, path: str) -> None:
        """A call to the disk that changes something; it fails if that was planned."""
        self.check_alive(path)
        if operation != "pwrite" and not (operation == "truncate" and path in self._refused_paths):
            self.may_wait(operation, path)
        self.call_count += 1
        error = self._planned(operation, path)
        if error is not None and operation != "datasync":
            raise error("injected", path=path)
        if error is not None:  # what a failed sync does to the pages is the disk's business
            self.disk.failed_sync_keeps = by_chance(self.disk.unsynced(), self.random)
            self.disk.fail("datasync", error)

    def reads(self, path: str) -> None:
        """A call that changes nothing; it may fail, too."""
        self.check_alive(path)
        error = self._planned("pread", path)
        if error is not None:
            raise error("injected", path=path)

    def may_wait(self, operation: str, path: str) -> None:
        """A call that may have to wait for the disk: it must be a worker's."""
        if not self.threads.is_on_worker:
            stack = traceback.format_stack(limit=WAIT_STACK_DEPTH)
            self.waits.append(f"{operation} {path}\n{''.join(stack)}")

    def note_full(self, path: str) -> None:
        """The disk has taken no more, or a part only, of a write by the event loop."""
        if not self.threads.is_on_worker and path not in self._refused_paths:
            self._refused_paths.add(path)

    @contextmanager
    def on_worker(self, is_on_worker: bool) -> Generator[None]:
        """What is done in here a worker does, or (False) the event loop."""
        was, self.threads.is_on_worker = self.threads.is_on_worker, is_on_worker
        try:
            yield
        finally:
            self.threads.is_on_worker = was

    def _planned(self, operation: str, path: str) -> type[StorageError] | None:
        fault = self.plan.fault
        if fault is None or fault.operation != operation or not path.endswith(fault.suffix):
            return None
        self._fault_count += 1
        if self._fault_count != fault.call:
            return None
        self.faults_met += 1
        return fault.error

    @property
    def is_last_call(self) -> bool:
        """Whether the call that has begun is the one at which the process dies."""
        return self.call_count >= self.plan.after_calls

    def ends(self) -> None:
        """The call was done; nobody learns of it if the process dies by it."""
        if self.is_last_call:
            self.die()
            raise DiskError("the process has died in this call")


class ProcessFiles:
    """The disk as the process has it."""

    def __init__(self, process: Process) -> None:
        self._process = process
        self._disk = process.disk

    def open(self, path: str, *, write: bool = False, create: bool = False) -> "ProcessFile":
        self._process.begins("open", path)
        opened = ProcessFile(self._process, self._disk.open(path, write=write, create=create))
        self._process.ends()
        return opened

    def exists(self, path: str) -> bool:
        self._process.check_alive(path)
        self._process.may_wait("exists", path)
        return self._disk.exists(path)

    def list_directory(self, path: str) -> list[str]:
        self._process.check_alive(path)
        self._process.may_wait("list_directory", path)
        return self._disk.list_directory(path)

    def make_directories(self, path: str) -> None:
        self._process.begins("make_directories", path)
        self._disk.make_directories(path)
        self._process.ends()

    def rename(self, source: str, target: str) -> None:
        self._process.begins("rename", source)
        self._disk.rename(source, target)
        self._process.ends()

    def unlink(self, path: str) -> None:
        self._process.begins("unlink", path)
        self._disk.unlink(path)
        self._process.ends()

    def remove_tree(self, path: str) -> None:
        self._process.begins("remove_tree", path)
        self._disk.remove_tree(path)
        self._process.ends()

    def sync_directory(self, path: str) -> None:
        self._process.begins("sync_directory", path)
        self._disk.sync_directory(path)
        self._process.ends()

    def free_bytes(self, path: str) -> int:
        return self._disk.free_bytes(path)

    def total_bytes(self, path: str) -> int:
        return self._disk.total_bytes(path)

    def lock(self, path: str) -> FileLock | None:
        self._process.check_alive(path)
        return self._disk.lock(path)


class ProcessFile:
    """One open file of the process."""

    def __init__(self, process: Process, file: File) -> None:
        self._process = process
        self._file = file
        self._resident = (0, 0)
        """What the last probe has found resident."""

    @property
    def path(self) -> str:
        return self._file.path

    def fileno(self) -> int:
        return -1

    def size(self) -> int:
        self._process.check_alive(self.path)
        return self._file.size()

    def pread(self, count: int, position: int) -> bytes:
        self._check_read(position, count)
        return self._file.pread(count, position)

    def pread_into(self, buffer: bytearray | memoryview, position: int) -> int:
        self._check_read(position, len(buffer))
        return self._file.pread_into(buffer, position)

    def _check_read(self, position: int, count: int) -> None:
        start, end = self._resident
        if not start <= position <= position + count <= end:
            self._process.may_wait("pread", self.path)
        self._process.reads(self.path)

    def pwrite(self, data: Buffer, position: int) -> int:
        process = self._process
        try:
            process.begins("pwrite", self.path)
        except DiskFull:  # what there was room for
            process.note_full(self.path)
            self._write_part(data, position)
            raise
        if process.is_last_call:
            self._write_part(data, position)
        else:
            return self._write_all_there_is_room_for(data, position)
        process.ends()
        raise AssertionError("it has died")

    def _write_all_there_is_room_for(self, data: Buffer, position: int) -> int:
        try:
            return self._file.pwrite(data, position)
        except DiskFull:
            self._process.note_full(self.path)
            raise

    def _write_part(self, data: Buffer, position: int) -> None:
        part = memoryview(data)[: self._process.random.randrange(0, len(data) + 1)]
        if part:
            with suppress(DiskFull):
                self._file.pwrite(part, position)

    def truncate(self, size: int) -> None:
        self._process.begins("truncate", self.path)
        self._file.truncate(size)
        self._process.ends()

    def datasync(self) -> None:
        process = self._process
        process.begins("datasync", self.path)
        self._file.datasync()
        if process.during_sync is not None:
            with process.on_worker(False):
                process.during_sync()
        process.ends()

    def is_resident(self, position: int, count: int) -> bool:
        self._process.check_alive(self.path)
        is_resident = self._process.random.random() < 0.8 and self._file.is_resident(position, count)
        self._resident = (position, position + count) if is_resident else (0, 0)
        return is_resident

    def will_need(self, position: int, count: int) -> None:
        self._process.may_wait("will_need", self.path)
        self._file.will_need(position, count)

    def wont_need(self, position: int, count: int) -> None:
        self._process.may_wait("wont_need", self.path)
        self._file.wont_need(position, count)

    def close(self) -> None:
        self._process.may_wait("close", self.path)
        self._file.close()


class ProcessStore:
    """The metadata store as the process has it: what it was told is done, it keeps, as SQLite does with `synchronous=FULL`."""

    def __init__(self, process: Process, store: MetadataStore) -> None:
        self._process = process
        self._store = store

    def _check(self) -> None:
        if self._process.is_dead:
            raise MetadataUnavailable("the process that asks is dead")

    async def get(self, key: str) -> Entry | None:
        self._check()
        return await self._store.get(key)

    async def range(self, prefix: str) -> Snapshot:
        self._check()
        return await self._store.range(prefix)

    async def transact(
        self, compares: Sequence[Compare], operations: Sequence[Put | Delete]
    ) -> TransactionResult:
        self._check()
        return await self._store.transact(compares, operations)

    async def grant_lease(self, ttl_s: int) -> int:
        self._check()
        return await self._store.grant_lease(ttl_s)

    async def keep_alive(self, lease_id: int) -> None:
        self._check()
        await self._store.keep_alive(lease_id)

    async def revoke_lease(self, lease_id: int) -> None:
        self._check()
        await self._store.revoke_lease(lease_id)

    def watch(
        self, prefix: str, *, after_revision: int
    ) -> AbstractAsyncContextManager[AsyncIterator[WatchBatch]]:
        return self._store.watch(prefix, after_revision=after_revision)


class ProcessWorkers(ScriptedThreads):
    """Workers that are slow to begin and slow to be heard of again."""

    def __init__(self, process: Process) -> None:
        super().__init__()
        self._process = process
        self.is_on_worker = False

    async def run(self, function: Callable[[*Ts], T], *args: *Ts) -> T:
        await self._wait()
        try:
            await self.wait_released(function)
            with self._process.on_worker(True):
                return function(*args)
        finally:
            with trio.CancelScope(shield=True):
                await self._wait()

    async def _wait(self) -> None:
        if self._process.is_dead:
            await trio.lowlevel.checkpoint()
        else:
            await trio.sleep(self._process.random.choice(self._process.worker_waits_s))


__all__ = ["End", "Fault", "Plan", "Process"]
