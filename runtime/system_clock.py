"""The real time and the real chance.

Knows the operating system's wall and CPU clocks, trio's monotonic clock and the system's random source.
"""

import random
import time

import trio

_NS_PER_MS = 1_000_000


class SystemClock:
    """The machine's clocks. `monotonic` needs a running trio loop, since it is the loop's own scale."""

    monotonic = staticmethod(trio.current_time)

    def wall_ms(self) -> int:
        """Milliseconds since 1970-01-01 UTC, cut down to whole ones; callable from any thread."""
        return time.time_ns() // _NS_PER_MS

    thread_time = staticmethod(time.thread_time)


class SystemRandom(random.SystemRandom):
    """The kernel's random source: ids that never repeat between processes and forks, and good enough for nonces."""


__all__ = ["SystemClock", "SystemRandom"]
