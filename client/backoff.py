"""How long to wait before trying again.

Owns the one formula (KIP-580: exponential, capped, with jitter) and the one retry loop. Does not know what is tried or which errors are
worth another try: the caller says so.
"""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TypeVar

import trio

from penstock.errors import PenstockError
from penstock.runtime.clock import Random

T = TypeVar("T")
ELECTION_ATTEMPTS_MAX = 20
"""Attempts, with the waits of `RetryPolicy`, that last for about fifteen seconds: a broker's session ends and others take over in nine or ten."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryPolicy:
    """Bounds of a retry loop. The waits are `initial_ms` doubled for each failure, up to `wait_max_ms`, give or take a fifth."""

    attempts_max: int = 10
    initial_ms: int = 50
    wait_max_ms: int = 1_000

    def wait_ms(self, failure_count: int, random: Random) -> float:
        """Milliseconds to wait after the `failure_count`-th failure in a row (from 1)."""
        base_ms = min(self.initial_ms << min(failure_count - 1, 30), self.wait_max_ms)
        return base_ms * (0.8 + 0.4 * random.random())


async def retry(
    attempt: Callable[[], Awaitable[T]],
    *,
    is_worth_retrying: Callable[[PenstockError], bool],
    policy: RetryPolicy,
    random: Random,
) -> T:
    """Call `attempt` until it returns, fails for good, or has failed `policy.attempts_max` times; then its error is raised.

    Cancellation: passes through, from the attempt or from the wait.
    """
    for failure_count in range(1, policy.attempts_max):
        try:
            return await attempt()
        except PenstockError as error:
            if not is_worth_retrying(error):
                raise
        await trio.sleep(policy.wait_ms(failure_count, random) / 1000)
    return await attempt()


__all__ = ["ELECTION_ATTEMPTS_MAX", "RetryPolicy", "retry"]
