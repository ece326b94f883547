"""One life of a log on a disk of which one call fails: what may come of it, and what must not.

Owns how a broker goes on after an error, and the verdict. `crash_broker` owns the life, `crash_ledger` the promises.

An error is told as a StorageError and nothing else. Either the log is offline then, or all is as it was before the call, and the log goes
on. Whatever happened: after a kill, and after a power cut, everything that was told durable is there (PROPERTIES D11, D12).
"""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from random import Random

from tests.support.crash_broker import CrashBroker, found_in
from tests.support.crash_ledger import Ledger
from tests.support.crash_recovery import recover
from tests.support.disk_state import NOTHING, Survival
from tests.support.logs import append, batch
from tests.support.simulated_disk import SimulatedDisk
from tests.support.survivors import by_chance, everything

from penstock.runtime.files import DiskError, DiskFull, StorageError, TooManyOpenFiles
from penstock.storage.log_config import LogConfig

Arm = Callable[[SimulatedDisk, int], None]


def _io_error(disk: SimulatedDisk, call: int) -> None:
    disk.fail("every", DiskError, call=call)


def _full(disk: SimulatedDisk, call: int) -> None:
    disk.fail("any", DiskFull, call=call)


def _full_for_long(disk: SimulatedDisk, call: int) -> None:
    disk.fail("any", DiskFull, call=call, forever=True)


def _dead(disk: SimulatedDisk, call: int) -> None:
    disk.fail("any", DiskError, call=call, forever=True)


def _too_many_open(disk: SimulatedDisk, call: int) -> None:
    disk.fail("open", TooManyOpenFiles, call=call)


def _failed_sync(disk: SimulatedDisk, call: int) -> None:
    disk.fail("datasync", DiskError, call=call)


def _full_at_sync(disk: SimulatedDisk, call: int) -> None:
    disk.fail("datasync", DiskFull, call=call)


def _short_write(disk: SimulatedDisk, call: int) -> None:
    disk.write_shortly(7, call=call)


def _full_after_a_part(disk: SimulatedDisk, call: int) -> None:
    disk.write_shortly(70, call=call)
    disk.fail("pwrite", DiskFull, call=call + 1)


def _error_after_a_part(disk: SimulatedDisk, call: int) -> None:
    disk.write_shortly(70, call=call)
    disk.fail("pwrite", DiskError, call=call + 1)


FAULTS: dict[str, tuple[str, Arm]] = {
    "EIO at any call": ("every", _io_error),
    "EIO from a call on": ("any", _dead),
    "ENOSPC at a change": ("any", _full),
    "ENOSPC from a change on": ("any", _full_for_long),
    "EMFILE at an open": ("open", _too_many_open),
    "EIO at an fsync": ("datasync", _failed_sync),
    "ENOSPC at an fsync": ("datasync", _full_at_sync),
    "a short write": ("pwrite", _short_write),
    "ENOSPC after a short write": ("pwrite", _full_after_a_part),
    "EIO after a short write": ("pwrite", _error_after_a_part),
}
"""By name: which calls are counted, and how the n-th of them is made to fail."""


class DiskErrorTrials:
    """All that one life goes through."""

    def __init__(self, config: LogConfig, life: Sequence[str], sizes: Sequence[int], seed: int) -> None:
        self.counts: Counter[str] = Counter()
        self._config = config
        self._life = life
        self._sizes = sizes
        self._seed = seed

    def run(self, fault: str, calls: Callable[[int], Iterator[int]]) -> None:
        """Let each of those calls fail, one in each life; `calls` gets how many there are."""
        kind, arm = FAULTS[fault]
        disk = SimulatedDisk()
        Trial(disk, self._config, self._sizes, self._seed).live(self._life)
        count = disk.call_count if kind == "every" else disk.calls[kind]
        for call in calls(count):
            self.counts[fault] += 1
            disk = SimulatedDisk()
            arm(disk, call)
            trial = Trial(disk, self._config, self._sizes, self._seed)
            try:
                trial.live(self._life)
                trial.end()
            except Exception as error:
                done = ", ".join(trial.done)
                raise AssertionError(f"{fault}, the {call}th: after {done}: {error!r}") from error


class RecoveryErrorTrials:
    """The opening of what a kill has left, with one of its calls failing: it says so or succeeds, and the next one finds all that was there."""

    def __init__(self, config: LogConfig, life: Sequence[str], sizes: Sequence[int], seed: int) -> None:
        self.counts: Counter[str] = Counter()
        self._config = config
        self._ledger = Ledger()
        self._disk = SimulatedDisk()
        broker = CrashBroker(self._disk, config, self._ledger, Random(seed), sizes)
        for operation in life:
            broker.do(operation)
        self._must_end = broker.must_end
        self._disk.kill()
        once = self._disk.fork()
        self._once = recover(once, config)[0].found
        self._call_count = once.call_count
        self._calls = once.calls

    def run(self, fault: str, calls: Callable[[int], Iterator[int]]) -> None:
        """Let each of those calls of a recovery fail, one at a time."""
        kind, arm = FAULTS[fault]
        for call in calls(self._call_count if kind == "every" else self._calls[kind]):
            self.counts["errors during recovery"] += 1
            disk = self._disk.fork()
            arm(disk, call)
            try:
                self._open(disk)
            except Exception as error:
                raise AssertionError(f"{fault}, the {call}th of a recovery: {error!r}") from error

    def _open(self, disk: SimulatedDisk) -> None:
        with suppress(StorageError):
            found = recover(disk, self._config)[0].found
            assert found == self._once
            cut = disk.fork()
            cut.power_cut()
            assert recover(cut, self._config)[0].found == found, "what was opened is durable"
        disk.kill()
        cut = disk.fork()
        assert recover(disk, self._config)[0].found == self._once
        cut.power_cut()
        complaint = self._ledger.complaint(recover(cut, self._config)[0].found, self._must_end)
        assert complaint is None, complaint


class Trial:
    """One life."""

    def __init__(self, disk: SimulatedDisk, config: LogConfig, sizes: Sequence[int], seed: int) -> None:
        self.done: list[str] = []
        self._disk = disk
        self._config = config
        self._sizes = sizes
        self._seed = seed
        self._random = Random(seed)
        self._ledger = Ledger()
        self._broker: CrashBroker | None = None

    def live(self, life: Sequence[str]) -> None:
        """Do what can be done; a process that can't open its log is followed by the next one."""
        self._start()
        for operation in life:
            broker = self._broker
            assert broker is not None
            self.done.append(operation)
            try:
                broker.do(operation)
            except StorageError as error:
                self.done.append(str(error))
                if broker.opened is None:
                    self._next_process()
                elif broker.log.failure is not None:
                    return  # offline until it is opened again

    def _start(self) -> None:
        try:
            self._broker = CrashBroker(self._disk, self._config, self._ledger, self._random, self._sizes)
        except StorageError as error:
            self.done.append(str(error))
            self._next_process()

    def _next_process(self) -> None:
        """Of a disk that is well again."""
        self._look_after_crashes(self._ledger.durable_end_offset)
        self._disk.kill()
        self._broker = CrashBroker(self._disk, self._config, self._ledger, self._random, self._sizes)

    def end(self) -> None:
        """Look what is there, and what is left of it."""
        self._disk.heal()
        broker = self._broker
        assert broker is not None
        if broker.log.failure is None:
            self._judge_open(broker)
        self._look_after_crashes(broker.must_end)

    def _judge_open(self, broker: CrashBroker) -> None:
        """The log that goes on holds all that was appended, and takes more."""
        log = broker.log
        found = found_in(log)
        complaint = self._ledger.complaint(found, self._ledger.end_offset)
        assert complaint is None, complaint
        broker.do("read")
        broker.do("append")
        broker.do("sync")
        broker.do("read")

    def _look_after_crashes(self, must_end: int) -> None:
        unsynced = self._disk.unsynced()
        chance = Random(self._seed)
        self._judge_crash(None, must_end)
        for survival in (NOTHING, everything(unsynced), by_chance(unsynced, chance)):
            self._judge_crash(survival, must_end)

    def _judge_crash(self, survival: Survival | None, must_end: int) -> None:
        disk = self._disk.fork()
        if survival is not None:
            disk.power_cut(survival)
        found = recover(disk, self._config)[0].found
        complaint = self._ledger.complaint(found, must_end)
        assert complaint is None, f"{survival or 'kill'}: {complaint}"
        # What recovery has called good is good, whatever syncs had failed before.
        disk.power_cut()
        recovery, directory, log = recover(disk, self._config)
        assert recovery.found == found, f"{survival or 'kill'}, recovered, power cut: {recovery.found}"
        append(log, batch(1, timestamps_ms=1000 + log.log_end_offset), epoch=log.latest_epoch + 1)
        assert log.sync() == found.log_end_offset + 1
        log.close()
        directory.close()
