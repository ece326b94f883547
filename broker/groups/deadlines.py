"""Which group wants to be woken next.

Owns one heap for all groups of a coordinator. A group that is at rest is not in it; one whose deadline moves away (every heartbeat moves
it) stays where it is and is looked at again when its old time comes, so a heartbeat costs nothing here. Pure; times are monotonic ms.
"""

import heapq
from collections.abc import Callable, Iterator
from typing import Generic, Protocol, TypeVar


class Timed(Protocol):
    """Something with a deadline."""

    scheduled_ms: int | None
    """Owned by `Deadlines`: for when it is in the heap."""

    @property
    def deadline_ms(self) -> int | None:
        """When it wants to be woken; None: not at all."""
        ...


G = TypeVar("G", bound=Timed)


class Deadlines(Generic[G]):
    """The heap. `on_earlier` is called when something is due before all that was known."""

    def __init__(self, on_earlier: Callable[[], None]) -> None:
        self._heap: list[tuple[int, int, G]] = []
        self._count = 0
        self._on_earlier = on_earlier

    @property
    def next_ms(self) -> int | None:
        """The earliest time at which something may be due."""
        return self._heap[0][0] if self._heap else None

    def note(self, item: G) -> None:
        """The item's deadline may have changed."""
        deadline = item.deadline_ms
        if deadline is None or (item.scheduled_ms is not None and item.scheduled_ms <= deadline):
            return
        item.scheduled_ms = deadline
        self._count += 1
        heapq.heappush(self._heap, (deadline, self._count, item))
        if self._heap[0][2] is item:
            self._on_earlier()

    def due(self, now_ms: int) -> Iterator[G]:
        """Take out one after the other what is due; the caller calls `note` again after waking it."""
        while self._heap and self._heap[0][0] <= now_ms:
            when, _, item = heapq.heappop(self._heap)
            if item.scheduled_ms != when:
                continue  # it was moved forward: another entry stands for it
            item.scheduled_ms = None
            deadline = item.deadline_ms
            if deadline is not None and deadline <= now_ms:
                yield item
            else:
                self.note(item)
