"""A token bucket: how much of a rate is used, and how long whoever used more has to wait. Pure; times are monotonic seconds that never fall.

Invariants:

- Over any stretch of t seconds no more than `rate * (t + BURST_S + WAIT_MIN_S)` is let through, and one recording besides, as long as no wait
  is cut short by `wait_max_s`.
- A full bucket is like a new one: forgetting it changes nothing.
- What is owed is bounded by `wait_max_s`, so that nobody waits longer than that after any one request, nor pays for the past for ever.

The state is one number, the time at which the bucket will be full (the virtual scheduling form of the algorithm, ITU-T I.371).
"""

BURST_S = 1.0
"""A full bucket holds what the rate gives in so long."""
WAIT_MIN_S = 0.01
"""Whoever owes less goes on, and waits for all of it when it has become so much: to wait costs as much as a small request."""


class TokenBucket:
    """`rate` is units a second, above 0."""

    __slots__ = ("_full_at", "_rate", "_wait_max_s")

    def __init__(self, rate: float, wait_max_s: float) -> None:
        assert rate > 0, rate
        self._rate = rate
        self._wait_max_s = wait_max_s
        self._full_at = 0.0

    @property
    def rate(self) -> float:
        """Units a second."""
        return self._rate

    def set_rate(self, rate: float, now: float) -> None:
        """Let another rate hold from now on. What was used is paid back by the new one."""
        assert rate > 0, rate
        if self._full_at > now:
            owed_s = (self._full_at - now) * self._rate / rate
            self._full_at = now + min(owed_s, BURST_S + self._wait_max_s)
        self._rate = rate

    def record(self, amount: float, now: float) -> float:
        """Take `amount` out, whether it is there or not; returns how many seconds to wait, 0 where there was enough."""
        full_at = max(self._full_at, now) + amount / self._rate
        wait_s = full_at - now - BURST_S
        if wait_s < WAIT_MIN_S:
            self._full_at = full_at
            return 0.0
        wait_s = min(wait_s, self._wait_max_s)
        self._full_at = now + BURST_S + wait_s
        return wait_s

    def wait_s(self, now: float) -> float:
        """How long until nothing is owed: up to `wait_max_s`, and 0 where it is less than `WAIT_MIN_S`."""
        wait_s = self._full_at - now - BURST_S
        return wait_s if wait_s >= WAIT_MIN_S else 0.0

    def is_full(self, now: float) -> bool:
        """Whether nothing is known any more of what was used."""
        return self._full_at <= now
