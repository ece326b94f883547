"""Worker threads that a test holds in its hand: calls run on the event loop, at once or when they are let go.

    threads = ScriptedThreads()
    threads.hold("sync")              calls of `sync` wait before they run
    threads.hold("sync", after=True)  calls of `sync` run, and their return is held back (the disk is slow, not the queue)
    threads.fail_once("sync", error)  the next call of `sync` raises
    threads.release("sync")           let them go, and hold no more
    threads.release_one("sync")       let the longest waiting one go

Invariant: like the real ones, a call that runs can't be cancelled; one that still waits to run can.
"""

from collections import Counter
from collections.abc import Callable
from typing import TypeVar, TypeVarTuple

import trio

T = TypeVar("T")
Ts = TypeVarTuple("Ts")


class ScriptedThreads:
    """See the module. `calls` counts by the functions' names; a callable object counts by its class's."""

    def __init__(self) -> None:
        self.calls: Counter[str] = Counter()
        self._faults: dict[str, Exception] = {}
        self._held: dict[tuple[str, bool], trio.lowlevel.ParkingLot] = {}

    def hold(self, name: str, *, after: bool = False) -> None:
        """Hold all calls of that name from now on."""
        self._held.setdefault((name, after), trio.lowlevel.ParkingLot())

    def fail_once(self, name: str, error: Exception) -> None:
        """Let the next call of that name raise `error` instead of running."""
        self._faults[name] = error

    def release(self, name: str) -> None:
        """Let all calls of that name go, and hold no more."""
        for after in (False, True):
            lot = self._held.pop((name, after), None)
            if lot is not None:
                lot.unpark_all()

    def release_all(self) -> None:
        """Let everything go, for the end of a test."""
        for name, _ in tuple(self._held):
            self.release(name)

    def release_one(self, name: str) -> None:
        """Let the longest waiting call of that name go; later ones are held still."""
        for after in (False, True):
            lot = self._held.get((name, after))
            if lot:
                lot.unpark()
                return
        raise AssertionError(f"no call of {name} waits")

    def waiting(self, name: str) -> int:
        """How many calls of that name are held now."""
        return sum(len(lot) for (held, _), lot in self._held.items() if held == name)

    async def wait_released(self, function: Callable[..., object]) -> None:
        """Wait while calls of that name are held."""
        if (_name(function), False) in self._held:
            await self._held[_name(function), False].park()

    async def run(self, function: Callable[[*Ts], T], *args: *Ts) -> T:
        """The port."""
        name = _name(function)
        self.calls[name] += 1
        await trio.lowlevel.checkpoint()
        await self.wait_released(function)
        if name in self._faults:
            raise self._faults.pop(name)
        try:
            return function(*args)
        finally:
            if (name, True) in self._held:
                with trio.CancelScope(shield=True):
                    await self._held[name, True].park()


def _name(function: Callable[..., object]) -> str:
    return getattr(function, "__name__", type(function).__name__)
