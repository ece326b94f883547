"""Time and chance, as ports.

Decisions use monotonic time only (PROPERTIES D14); wall time is for record timestamps, retention and log lines.
"""

from typing import Protocol


class Clock(Protocol):
    """Both times. Cheap enough for the hot path."""

    def monotonic(self) -> float:
        """Seconds on a clock that never goes back; the scale of trio's deadlines (`trio.current_time`)."""
        ...

    def wall_ms(self) -> int:
        """Milliseconds since 1970-01-01 UTC; may jump."""
        ...

    def thread_time(self) -> float:
        """CPU seconds of the calling thread, any one: for how long it has kept others from the interpreter. For differences only."""
        ...


class Random(Protocol):
    """The source of every random choice."""

    def random(self) -> float:
        """A float in [0, 1)."""
        ...

    def randrange(self, start: int, stop: int) -> int:
        """An integer in [start, stop)."""
        ...

    def randbytes(self, n: int) -> bytes:
        """`n` random bytes (topic ids, incarnations)."""
        ...
