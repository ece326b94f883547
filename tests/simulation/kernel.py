"""Time, order and chance of a simulated run: one seed, one trace.

Owns the clock that all hosts share, the order in which tasks run, tasks of frozen processes, timers that are not trio's, and the digest of
everything that was noted. Knows neither networks nor disks nor brokers.

What would make two runs of one seed differ, and what is done about it: trio shuffles the tasks that can run (its generator is seeded, and they
are sorted first); deadlines at the same moment are ordered by address (here: by age); sets of objects are iterated by address (what wakes tasks in
such an order is harmless, since they are sorted before they run); the garbage collector runs when it likes (it is off during a run). The names that
start with an underscore are trio's private ones: `test_kernel.py` runs seeds twice, in two processes with different hash seeds, and is the canary.

Time stands still while tasks run, and jumps to the next timer when none can.
"""

import gc
import hashlib
import heapq
from collections import deque
from collections.abc import Awaitable, Callable
from contextvars import ContextVar
from importlib import import_module
from random import Random
from typing import Any, TypeVar

import trio

T = TypeVar("T")

TURNS_AT_ONE_MOMENT_MAX = 20_000
"""More turns of the event loop than that without time passing are a loop that would burn a core for ever."""
FOREVER_S = 1e9


class SimulationStuck(BaseException):
    """The run can't even be ended, although `stuck_listener` was told."""


class Incarnation:
    """One process. Tasks that were started within it belong to it."""

    __slots__ = ("held", "is_dead", "is_frozen", "name", "number")

    def __init__(self, name: str, number: int) -> None:
        self.name = name
        self.number = number
        self.is_frozen = False
        self.is_dead = False
        self.held: list[trio.lowlevel.Task] = []
        """Tasks that could run if it were not frozen."""

    def __repr__(self) -> str:
        return f"{self.name}.{self.number}"


PROCESS: ContextVar[Incarnation | None] = ContextVar("PROCESS", default=None)
"""Whose task is running; None is the simulation itself."""


class _RunQueue(deque[trio.lowlevel.Task]):
    """trio's queue of tasks that can run, but for those of frozen processes: exactly what SIGSTOP does."""

    def __init__(self, kernel: "Kernel", tasks: deque[trio.lowlevel.Task]) -> None:
        super().__init__(tasks)
        self._kernel = kernel

    def append(self, task: trio.lowlevel.Task, /) -> None:
        process = task.context.get(PROCESS)
        if process is not None and process.is_frozen:
            process.held.append(task)
        else:
            super().append(task)

    def clear(self) -> None:
        """Called by trio once in each turn."""
        self._kernel.count_turn()
        super().clear()


class _Clock(trio.abc.Clock):
    """Jumps to the next deadline or timer whenever no task can run."""

    def __init__(self, kernel: "Kernel") -> None:
        self._kernel = kernel

    def start_clock(self) -> None:
        pass

    def current_time(self) -> float:
        return self._kernel.now

    def deadline_to_sleep_time(self, deadline: float) -> float:
        if _runner().entry_queue.size() == 0:  # what came by run_sync_soon is still to be done at this moment
            self._kernel.advance(deadline)
        return 0.0


class Kernel:
    """See the module."""

    def __init__(self, seed: int | str) -> None:
        self.seed = seed
        self.now = 0.0
        """Seconds since the start of the run."""
        self.trace_listener: Callable[[str], None] | None = None
        self.stuck_listener: Callable[[str], None] = lambda _: None
        """Told once that the run can't go on: nothing will ever happen again, or something happens over and over while time stands
        still. It is to cancel what runs."""
        self.noted_count = 0
        self.turn_count = 0
        self._digest = hashlib.blake2b(digest_size=16)
        self._timers: list[tuple[float, int, Callable[[], None]]] = []
        self._timer_count = 0
        self._turns_now = 0
        self._turn_time = -1.0
        self._is_stuck = False

    # Chance and trace

    def random(self, name: str) -> Random:
        """A generator of its own for each purpose, so that a change of one does not change what others draw."""
        return Random(f"{self.seed}/{name}")

    def note(self, text: str) -> None:
        """Make something part of the trace."""
        self.noted_count += 1
        line = f"{self.now:.6f} {text}"
        self._digest.update(line.encode())
        if self.trace_listener is not None:
            self.trace_listener(line)

    @property
    def digest(self) -> str:
        """Of all that was noted so far."""
        return self._digest.hexdigest()

    # Time

    def at(self, when: float, function: Callable[[], None]) -> None:
        """Call `function`, which must not wait, at that moment, in no process's name."""
        self._timer_count += 1
        heapq.heappush(self._timers, (when, self._timer_count, function))

    def after(self, delay_s: float, function: Callable[[], None]) -> None:
        """The same, from now on."""
        self.at(self.now + delay_s, function)

    def advance(self, deadline: float) -> None:
        """Go on to trio's next deadline or the next timer, whichever comes first."""
        timers = self._timers
        due = timers[0][0] if timers else FOREVER_S
        if due > deadline:
            self.now = max(self.now, deadline)
            return
        if due == FOREVER_S:
            self._stick("no task can run and nothing will ever happen")
            return
        self.now = max(self.now, due)
        while timers and timers[0][0] <= self.now:
            heapq.heappop(timers)[2]()

    def count_turn(self) -> None:
        """One turn of the event loop."""
        self.turn_count += 1
        if self.now != self._turn_time:
            self._turn_time = self.now
            self._turns_now = 0
        self._turns_now += 1
        if self._turns_now > TURNS_AT_ONE_MOMENT_MAX:
            self._turns_now = 0
            self._stick(f"{TURNS_AT_ONE_MOMENT_MAX} turns of the event loop at {self.now:.6f} s")

    def _stick(self, why: str) -> None:
        if self._is_stuck:
            raise SimulationStuck(why)
        self._is_stuck = True
        self.stuck_listener(why)

    # Processes

    def freeze(self, process: Incarnation) -> None:
        """From the next turn on none of its tasks runs."""
        process.is_frozen = True

    def thaw(self, process: Incarnation) -> None:
        """Its tasks go on."""
        process.is_frozen = False
        held, process.held = process.held, []
        queue = _runner().runq
        for task in held:
            queue.append(task)

    def run(self, function: Callable[[], Awaitable[T]]) -> T:
        """Run `function` to its end, in virtual time."""

        async def main() -> T:
            runner = _runner()
            runner.runq = _RunQueue(self, runner.runq)
            runner.deadlines = _ordered_deadlines(runner.deadlines)
            return await function()

        scheduler: Any = import_module("trio._core._run")
        was_deterministic = scheduler._ALLOW_DETERMINISTIC_SCHEDULING
        scheduler._ALLOW_DETERMINISTIC_SCHEDULING = True
        scheduler._r.seed(str(self.seed))
        was_enabled = gc.isenabled()
        gc.collect()
        gc.disable()
        try:
            return trio.run(main, clock=_Clock(self))
        finally:
            scheduler._ALLOW_DETERMINISTIC_SCHEDULING = was_deterministic
            if was_enabled:
                gc.enable()


def _runner() -> Any:
    scheduler: Any = import_module("trio._core._run")
    return scheduler.GLOBAL_RUN_CONTEXT.runner


def _ordered_deadlines(old: Any) -> Any:
    """trio's deadlines, where those at the same moment come in the order in which they were set."""
    scheduler: Any = import_module("trio._core._run")
    base: Any = scheduler.Deadlines

    class OrderedDeadlines(base):  # type: ignore[misc]
        count = 0

        def add(self, deadline: float, cancel_scope: trio.CancelScope) -> None:
            self.count += 1
            heapq.heappush(self._heap, (deadline, self.count, cancel_scope))
            self._active: int = self._active + 1

    new = OrderedDeadlines()
    for deadline, _, scope in sorted(old._heap, key=lambda entry: entry[0]):
        new.add(deadline, scope)
    return new


__all__ = ["PROCESS", "Incarnation", "Kernel", "SimulationStuck"]
