"""One machine of the simulated cluster: its disk and clocks, and the process on it, which starts, is frozen, is killed, loses power, stops.

Owns the life of the process. What runs in it is handed in as `program(environment)`.
"""

from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager, nullcontext

import trio
from tests.simulation.disk import DiskFaults, HostFiles, HostThreads
from tests.simulation.kernel import PROCESS, Incarnation, Kernel
from tests.simulation.network import SimulatedNetwork
from tests.simulation.store import CentralStore, StoreFront
from tests.support.simulated_disk import SimulatedDisk
from tests.support.survivors import by_chance

from penstock.runtime.environment import Environment
from penstock.runtime.metadata import MetadataStore

WALL_START_MS = 1_700_000_000_000

Program = Callable[[Environment], Awaitable[None]]


class HostClock:
    """Monotonic time is the simulation's (trio's deadlines are on that scale, as the port promises); wall time is the host's own."""

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel
        self.wall_offset_ms = 0

    def monotonic(self) -> float:
        return self._kernel.now

    def wall_ms(self) -> int:
        return WALL_START_MS + self.wall_offset_ms + int(self._kernel.now * 1000)

    def thread_time(self) -> float:
        return self._kernel.now


class Host:
    """See the module."""

    def __init__(
        self, kernel: Kernel, network: SimulatedNetwork, store: CentralStore, name: str, address: str
    ) -> None:
        self.kernel = kernel
        self.network = network
        self.store = store
        self.name = name
        self.address = address
        self.disk = SimulatedDisk()
        self.faults = DiskFaults()
        self.clock = HostClock(kernel)
        self.random = kernel.random(f"host/{name}")
        self.process: Incarnation | None = None
        self.front: StoreFront | None = None
        self.files: HostFiles | None = None
        self.ended = trio.Event()
        """That the process is no more, and nothing of it runs."""
        self.failure: BaseException | None = None
        """By which the last process ended by itself."""
        self.before_death: list[Callable[[bool], None]] = []
        """Told, with whether the power goes, while the process's objects can still be looked at."""
        self.death_count = 0
        self._scope = trio.CancelScope()
        self._incarnation_count = 0

    @property
    def is_up(self) -> bool:
        """Whether a process is there (it may be frozen)."""
        return self.process is not None and not self.process.is_dead

    @property
    def is_frozen(self) -> bool:
        return self.process is not None and self.process.is_frozen

    def boot(self, nursery: trio.Nursery, program: Program) -> None:
        """Start a process; the one before must be dead."""
        assert not self.is_up
        self._incarnation_count += 1
        process = self.process = Incarnation(self.name, self._incarnation_count)
        self.kernel.note(f"boot {process}")
        self.ended = trio.Event()
        self.failure = None
        self._scope = trio.CancelScope()
        nursery.start_soon(self._live, process, self._environment(process), program, self._scope, self.ended)

    async def _live(
        self,
        process: Incarnation,
        environment: Environment,
        program: Program,
        scope: trio.CancelScope,
        ended: trio.Event,
    ) -> None:
        PROCESS.set(process)
        try:
            with scope:
                await program(environment)
        except BaseException as error:
            if isinstance(error, KeyboardInterrupt | SystemExit):
                raise
            if not process.is_dead:
                self.failure = error
                self.kernel.note(f"{process} ended by itself: {type(error).__name__}")
        finally:
            if not process.is_dead:  # it ended by itself, cleanly or not
                self._die(process, loses_power=False)
            ended.set()

    def kill(self) -> None:
        """SIGKILL."""
        self._end(loses_power=False)

    def cut_power(self) -> None:
        """The machine is off at once, and what was not synced is gone, or a part of it: what an earlier process has left, too."""
        if self.is_up:
            self._end(loses_power=True)
            return
        self.kernel.note(f"power cut {self.name}")
        for tell in self.before_death:
            tell(True)
        self._cut_disk()

    def stop(self) -> None:
        """SIGTERM: it ends in order, or when it is killed."""
        self.kernel.note(f"stop {self.process}")
        self._scope.cancel()

    def freeze(self) -> None:
        """SIGSTOP."""
        assert self.process is not None
        self.kernel.note(f"freeze {self.process}")
        self.kernel.freeze(self.process)

    def thaw(self) -> None:
        """SIGCONT."""
        if self.process is not None and self.process.is_frozen:
            self.kernel.note(f"thaw {self.process}")
            self.kernel.thaw(self.process)

    def _end(self, *, loses_power: bool) -> None:
        process = self.process
        if process is None or process.is_dead:
            return
        self.kernel.note(f"{'power cut' if loses_power else 'kill'} {process}")
        self._die(process, loses_power=loses_power)
        if process.is_frozen:
            self.kernel.thaw(
                process
            )  # so that what is left of it can unwind, with nothing that it could reach
        self._scope.cancel()

    def _die(self, process: Incarnation, *, loses_power: bool) -> None:
        for tell in self.before_death:
            tell(loses_power)
        process.is_dead = True
        self.death_count += 1
        self.network.end(self.address, is_silent=loses_power)
        if loses_power:
            self._cut_disk()
        else:
            self.disk.kill()

    def _cut_disk(self) -> None:
        if self.random.random() < 0.3:
            self.disk.power_cut()
        else:
            self.disk.power_cut(by_chance(self.disk.unsynced(), self.random))

    def _environment(self, process: Incarnation) -> Environment:
        network = self.network.attach(self.address, process)
        front = self.front = StoreFront(self.network, self.address, process, self.store)

        def open_metadata(_: str) -> AbstractAsyncContextManager[MetadataStore]:
            return nullcontext(front)

        files = self.files = HostFiles(self.disk, process, self.faults, self.random)
        threads = HostThreads(process, self.faults, self.random)
        return Environment(
            self.clock, self.kernel.random(f"{process}"), network, files, threads, open_metadata
        )


__all__ = ["Host", "HostClock", "Program"]
