"""Worker threads of trio's pool, under a limit of their own.

The limit is not trio's default one, so that nothing else which uses the pool can starve the log's syncs.
"""

from collections.abc import Callable
from typing import TypeVar, TypeVarTuple

import trio

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

WORKER_COUNT_DEFAULT = 8


class WorkerThreads:
    """At most `count` blocking calls at once; more wait first come, first served."""

    __slots__ = ("_limiter",)

    def __init__(self, count: int = WORKER_COUNT_DEFAULT) -> None:
        self._limiter = trio.CapacityLimiter(count)

    async def run(self, function: Callable[[*Ts], T], *args: *Ts) -> T:
        """Run `function(*args)` on a worker; what it raises is raised here.

        Cancellation: a call that waits for a worker is given up; a running one is waited for, and then its result is returned.
        """
        return await trio.to_thread.run_sync(function, *args, abandon_on_cancel=False, limiter=self._limiter)


__all__ = ["WORKER_COUNT_DEFAULT", "WorkerThreads"]
