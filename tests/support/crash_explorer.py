"""Crashing a workload at every call that changes the disk, in every way that the simulated disk knows, and looking what is left.

Owns which crashes are tried and how they are counted. `crash_broker` owns the workload, `crash_ledger` the promises, `crash_recovery`
what must agree within the log.

At each crash point: a kill; power cuts with the survivors by rule, by chance, and, right after a write, with that write torn at every
byte; and each sync fails once. Then the disk is opened and held against the ledger. Where the page cache outlived the crash, the power goes
after the recovery has said that all is well. Some of the openings are crashed at every call of their own (PROPERTIES D9).

The same bytes are recovered once: what opening makes of them does not depend on how they came about.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from random import Random

from tests.support.crash_broker import VALUE_SIZES, CrashBroker
from tests.support.crash_ledger import Ledger
from tests.support.crash_recovery import Image, Recovery, examine, image_of, recover, use
from tests.support.disk_state import NOTHING, Survival, Write
from tests.support.simulated_disk import SimulatedDisk, Unsynced
from tests.support.survivors import by_chance, everything, ruled, torn

from penstock.storage.layout import INDEX_SUFFIX, SNAPSHOT_SUFFIX, TIME_INDEX_SUFFIX
from penstock.storage.log_config import LogConfig

MADE_ANEW = (INDEX_SUFFIX, TIME_INDEX_SUFFIX, SNAPSHOT_SUFFIX)
UNSYNCED_RULED_MAX = 10
"""With more unsynced changes than that, chance alone picks the survivors."""


class CrashExplorer:
    """See the module. `second_every`: of how many different recoveries one is crashed itself; `use_every` likewise for using the log."""

    def __init__(
        self,
        config: LogConfig,
        *,
        seed: int = 0,
        chance_count: int = 2,
        second_every: int = 1,
        use_every: int = 1,
        tears: bool = True,
        value_sizes: Sequence[int] = VALUE_SIZES,
    ) -> None:
        self.config = config
        self._value_sizes = value_sizes
        self.counts: Counter[str] = Counter()
        self._random = Random(seed)
        self._workload_random = Random(seed)
        self._chance_count = chance_count
        self._second_every = second_every
        self._use_every = use_every
        self._tears = tears
        self._known: dict[int, Recovery] = {}
        """By the hash of all files: the files themselves would take gigabytes in long lives."""
        self._recoveries: dict[Recovery, Recovery] = {}
        """Each once: most disks are recovered to one of a few."""
        self._used: set[Image] = set()
        self._torn_call = -1
        self._history: list[str] = []

    def run(self, operations: Sequence[str]) -> SimulatedDisk:
        """Carry out a workload on an empty disk, crashing it all the way; returns the disk after it."""
        disk = SimulatedDisk()
        ledger = Ledger()
        broker: CrashBroker | None = None

        def look(operation: str, path: str) -> None:
            hook, disk.before_change = disk.before_change, None
            must_end = ledger.durable_end_offset if broker is None else broker.must_end
            self._history.append(f"{operation} {path}")
            self._crash(disk, ledger, must_end)
            if operation == "datasync":
                self._fail_sync(disk, path, ledger, must_end)
            disk.before_change = hook

        disk.before_change = look
        self._history.append("open")
        broker = CrashBroker(disk, self.config, ledger, self._workload_random, self._value_sizes)
        for operation in operations:
            self._history.append(operation)
            broker.do(operation)
        look("the end", "")
        return disk

    # One crash point

    def _crash(self, disk: SimulatedDisk, ledger: Ledger, must_end: int) -> None:
        self.counts["crash points"] += 1
        killed = disk.fork()
        killed.kill()
        self._judge(killed, ledger, must_end, "a kill", killed=True)
        for survival, kind in self._survivals(disk.unsynced()):
            self.counts[kind] += 1
            cut = disk.fork()
            cut.power_cut(survival)
            self._judge(cut, ledger, must_end, f"a power cut, {survival}")

    def _survivals(self, unsynced: Unsynced) -> Iterator[tuple[Survival, str]]:
        kind = "survivor choices"
        if len(unsynced.changes) <= UNSYNCED_RULED_MAX:
            for survival in ruled(unsynced):
                yield survival, kind
        else:
            yield NOTHING, kind
            yield everything(unsynced), kind
        if len(unsynced.changes) > 1:
            for _ in range(self._chance_count):
                yield by_chance(unsynced, self._random), kind
        last = unsynced.changes[-1] if unsynced.changes else None
        if self._tears and isinstance(last, Write) and last.call != self._torn_call:
            self._torn_call = last.call
            for survival in torn(unsynced):
                yield survival, "torn positions"

    def _fail_sync(self, disk: SimulatedDisk, path: str, ledger: Ledger, must_end: int) -> None:
        """The sync fails, so its pages look written and never come to the disk: what recovery then calls good must be good."""
        self.counts["failed syncs"] += 1
        failed = disk.fork()
        failed.fail_sync(path)
        self._judge(failed, ledger, must_end, f"a failed sync of {path} and a kill", killed=True)

    def _judge(
        self, disk: SimulatedDisk, ledger: Ledger, must_end: int, crash: str, *, killed: bool = False
    ) -> None:
        before = disk.fork()
        try:
            recovery, is_new = self._recover(disk)
            complaint = ledger.complaint(recovery.found, must_end)
            assert complaint is None, complaint
            crash_it = is_new and len(self._known) % self._second_every == 0
            points = self._points_of_recovery(before) if killed or crash_it else []
            if killed:
                crash += ", the recovery and a power cut"
                self._expect_same(before, NOTHING, recovery, but_for=MADE_ANEW)
            for second in points if crash_it else ():
                self._crash_again(second, recovery, ledger, must_end, killed)
        except Exception as error:
            history = "\n  ".join(self._history[-40:])
            raise AssertionError(f"after {crash} before the last of\n  {history}\n{error}") from error

    def _recover(self, disk: SimulatedDisk) -> tuple[Recovery, bool]:
        """What opening makes of a disk, and whether it was asked for the first time."""
        image = hash(image_of(disk))
        known = self._known.get(image)
        if known is not None:
            return known, False
        self.counts["disks recovered"] += 1
        recovery, directory, log = recover(disk, self.config)
        recovery = self._recoveries.setdefault(recovery, recovery)
        self._known[image] = recovery
        examine(disk, log, recovery.found)
        if recovery.image not in self._used:
            self._used.add(recovery.image)
            if len(self._used) % self._use_every == 0:
                use(disk, directory, log, self.config)
        return recovery, True

    # A second crash, within the recovery or after it

    def _crash_again(
        self, disk: SimulatedDisk, once: Recovery, ledger: Ledger, must_end: int, killed: bool
    ) -> None:
        """Crash at one call of a recovery. After a kill, a power cut may take what the recovery has seen, and no more."""
        self._expect_same(disk, None, once)
        for survival in self._second_survivals(disk):
            if not killed:
                self._expect_same(disk, survival, once)
                continue
            self.counts["crashes during recovery"] += 1
            cut = disk.fork()
            cut.power_cut(survival)
            complaint = ledger.complaint(self._recover(cut)[0].found, must_end)
            assert complaint is None, f"a power cut within the recovery, {survival}: {complaint}"

    def _points_of_recovery(self, disk: SimulatedDisk) -> list[SimulatedDisk]:
        """The disk at every call of its recovery that changes something; in the end it is recovered itself."""
        found: list[SimulatedDisk] = []
        disk.before_change = lambda operation, path: found.append(disk.fork())
        recover(disk, self.config)
        disk.before_change = None
        return found

    def _second_survivals(self, disk: SimulatedDisk) -> Iterator[Survival]:
        unsynced = disk.unsynced()
        yield NOTHING
        if unsynced.changes:
            yield everything(unsynced)
            for _ in range(self._chance_count):
                yield by_chance(unsynced, self._random)

    def _expect_same(
        self, disk: SimulatedDisk, survival: Survival | None, once: Recovery, but_for: tuple[str, ...] = ()
    ) -> None:
        """A kill (None) or a power cut, and then the same as after recovering once, but for files that are made anew when they are asked for."""
        self.counts["crashes during recovery"] += 1
        second = disk.fork()
        if survival is None:
            second.kill()
        else:
            second.power_cut(survival)
        twice = self._recover(second)[0]
        crash = "kill" if survival is None else f"power cut, {survival}"
        assert twice.found == once.found, f"recovered twice, {crash}: {twice.found} is not {once.found}"
        if self.config.compact:
            but_for = (
                MADE_ANEW  # an interrupted swap may be finished with or without the new segment's indexes
            )
        difference = sorted(entry for entry in twice.image ^ once.image if not entry[0].endswith(but_for))
        assert not difference, f"recovered twice, {crash}: {difference}"
