"""The lane of one log: jobs that run one after the other, each on workers as far as it needs them.

Owns their order and the wait for the last one. Knows nothing of what a job does. A job stays in the lane while it runs, so that
whoever asks `is_busy` queues behind it. A job that ends by a bug is named in the log; the lane, and the broker, go on.
"""

import logging
from collections import deque
from collections.abc import Awaitable, Callable

import trio

from penstock.errors import PenstockError

log = logging.getLogger(__name__)

YIELD_AFTER_JOBS = 32
"""When the disk has recovered, queued jobs no longer wait for anything; the event loop has others to serve as well."""

Job = Callable[[], Awaitable[None]]

_NO_JOBS: deque[Job] = deque()
"""Of all lanes at rest, and always empty: a deque takes 760 bytes, and there may be thousands of partitions."""


class Lane:
    """See the module. `spawn` runs a coroutine function in the broker's background nursery; a lane at rest has no task."""

    __slots__ = ("_idle", "_jobs", "_name", "_spawn")

    def __init__(self, name: str, spawn: Callable[[Job], None]) -> None:
        self._name = name
        self._spawn = spawn
        self._jobs = _NO_JOBS
        self._idle: trio.Event | None = None

    @property
    def is_busy(self) -> bool:
        """Whether a job is queued or running."""
        return bool(self._jobs)

    def enqueue(self, job: Job) -> None:
        """Run `job` when all before it have ended."""
        if self._idle is None:
            self._jobs = deque((job,))
            self._idle = trio.Event()
            self._spawn(self._run)
        else:
            self._jobs.append(job)

    async def do(self, job: Job) -> None:
        """Run `job` in its turn, return when it has ended, and raise what it raises of ours. Cancellation: it is done all the same."""
        finished = trio.Event()
        failures: list[PenstockError] = []

        async def run() -> None:
            try:
                await job()
            except PenstockError as error:
                failures.append(error)
            finally:
                finished.set()

        self.enqueue(run)
        await finished.wait()
        if failures:
            raise failures[0]

    async def wait_idle(self) -> None:
        """Return when nothing is queued or running. Cancellation: nothing changes."""
        while self._idle is not None:
            await self._idle.wait()

    async def _run(self) -> None:
        idle = self._idle
        assert idle is not None
        count = 0
        try:
            while self._jobs:
                try:
                    await self._jobs[0]()
                except Exception:
                    log.exception("%s: a job of the lane ended by a bug", self._name)
                finally:
                    self._jobs.popleft()
                count += 1
                if count % YIELD_AFTER_JOBS == 0:
                    await trio.lowlevel.checkpoint()
        finally:
            self._idle = None
            if not self._jobs:
                self._jobs = _NO_JOBS
            idle.set()


__all__ = ["Job", "Lane"]
