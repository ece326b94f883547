"""Deadlines by name, of which the earliest is wanted all the time and most are put off before they come.

Owns nothing but the arithmetic: no clock. Putting a deadline off costs a dictionary entry; the heap is mended when its top is looked at,
so that a heartbeat of one member of a thousand does not look at the other ones.
"""

from heapq import heapify, heappop, heappush


class MemberTimers:
    """A deadline (monotonic ms) for each of some names."""

    def __init__(self) -> None:
        self._deadlines: dict[str, int] = {}
        self._heap: list[tuple[int, str]] = []

    def __contains__(self, name: str) -> bool:
        return name in self._deadlines

    def names(self) -> set[str]:
        """Who has a deadline."""
        return set(self._deadlines)

    def set(self, name: str, deadline_ms: int) -> None:
        """Set or move a deadline."""
        before = self._deadlines.get(name)
        self._deadlines[name] = deadline_ms
        if before is None or deadline_ms < before:
            heappush(self._heap, (deadline_ms, name))
        if len(self._heap) > 2 * len(self._deadlines) + 16:
            self._heap = [(deadline, name) for name, deadline in self._deadlines.items()]
            heapify(self._heap)

    def clear(self, name: str) -> None:
        """Forget a deadline; nothing happens where there is none."""
        self._deadlines.pop(name, None)

    def earliest_ms(self) -> int | None:
        """The earliest deadline; None where there is none."""
        while self._heap:
            deadline_ms, name = self._heap[0]
            actual = self._deadlines.get(name)
            if actual == deadline_ms:
                return deadline_ms
            heappop(self._heap)
            if actual is not None and actual > deadline_ms:
                heappush(self._heap, (actual, name))
        return None

    def pop_due(self, now_ms: int) -> list[str]:
        """Take out and return the names whose deadline has come, the earliest first."""
        due: list[str] = []
        while (earliest := self.earliest_ms()) is not None and earliest <= now_ms:
            _, name = heappop(self._heap)
            del self._deadlines[name]
            due.append(name)
        return due
