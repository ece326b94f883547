"""Files of deleted segments and topics that stay for `file.delete.delay.ms`: what is to be removed, and when.

Owns one queue and one task for all of a broker. Knows nothing of logs: it is handed functions. The files have names already that no log
reads, so whatever is still queued when the broker ends is removed at the next start.
"""

import heapq
import logging
from collections.abc import Callable

import trio

from penstock.broker.workers import run_storage
from penstock.errors import PenstockError
from penstock.runtime.clock import Clock
from penstock.runtime.threads import Threads

log = logging.getLogger(__name__)


class DeletedFiles:
    """See the module. `run` must be running for anything to be removed."""

    def __init__(self, clock: Clock, threads: Threads) -> None:
        self._clock = clock
        self._threads = threads
        self._queue: list[tuple[float, int, str, Callable[[], None]]] = []
        self._count = 0
        self._added = trio.Event()

    def __len__(self) -> int:
        return len(self._queue)

    def add(self, what: str, remove: Callable[[], None], delay_ms: int) -> None:
        """Have `remove` called on a worker once `delay_ms` have passed; `what` names the files where it fails."""
        self._count += 1
        due = self._clock.monotonic() + delay_ms / 1000
        heapq.heappush(self._queue, (due, self._count, what, remove))
        self._added.set()

    async def run(self) -> None:
        """Remove what is due, for ever, one after the other."""
        while True:
            if not self._queue:
                self._added = trio.Event()
                await self._added.wait()
            due, _, what, remove = self._queue[0]
            if due > self._clock.monotonic():
                self._added = trio.Event()
                with trio.move_on_after(max(due - self._clock.monotonic(), 0.001)):
                    await self._added.wait()
                continue
            heapq.heappop(self._queue)
            try:
                await run_storage(self._threads, remove)
            except PenstockError as error:
                log.error("files of %s are left until the next start: %s", what, error)


__all__ = ["DeletedFiles"]
