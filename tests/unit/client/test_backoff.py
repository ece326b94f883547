import pytest
import trio
from trio.testing import MockClock

from penstock.client.backoff import RetryPolicy, retry
from penstock.errors import PenstockError
from penstock.runtime.system_clock import SystemRandom


class Middle(SystemRandom):
    """Neither shortens nor lengthens a wait."""

    def random(self) -> float:
        return 0.5


class Passing(PenstockError):
    """Goes away."""


def test_waits_double_up_to_the_bound_and_spread_by_a_fifth() -> None:
    policy = RetryPolicy(initial_ms=50, wait_max_ms=1000)
    assert [policy.wait_ms(count, Middle()) for count in (1, 2, 3, 5, 6, 1000)] == [
        50,
        100,
        200,
        800,
        1000,
        1000,
    ]
    spread = [policy.wait_ms(2, SystemRandom()) for _ in range(200)]
    assert 80 <= min(spread) < 100 < max(spread) <= 120


async def test_an_attempt_is_repeated_until_it_succeeds_and_no_more(autojump_clock: MockClock) -> None:
    failures = [Passing("first"), Passing("second")]
    calls = 0

    async def attempt() -> str:
        nonlocal calls
        calls += 1
        if failures:
            raise failures.pop()
        return "done"

    begin = trio.current_time()
    policy = RetryPolicy(initial_ms=100)
    assert (
        await retry(attempt, is_worth_retrying=lambda error: True, policy=policy, random=Middle()) == "done"
    )
    assert calls == 3
    assert trio.current_time() - begin == pytest.approx(0.3)


async def test_an_error_for_good_is_raised_at_once() -> None:
    calls = 0

    async def attempt() -> None:
        nonlocal calls
        calls += 1
        raise PenstockError("for good")

    def is_passing(error: PenstockError) -> bool:
        return isinstance(error, Passing)

    with pytest.raises(PenstockError, match="for good"):
        await retry(attempt, is_worth_retrying=is_passing, policy=RetryPolicy(), random=Middle())
    assert calls == 1


async def test_the_last_error_is_raised_when_the_attempts_are_used_up(autojump_clock: MockClock) -> None:
    calls = 0

    async def attempt() -> None:
        nonlocal calls
        calls += 1
        raise Passing(f"attempt {calls}")

    with pytest.raises(Passing, match="attempt 4"):
        await retry(
            attempt, is_worth_retrying=lambda error: True, policy=RetryPolicy(attempts_max=4), random=Middle()
        )


async def test_no_attempt_follows_a_cancellation(autojump_clock: MockClock) -> None:
    calls = 0

    async def attempt() -> None:
        nonlocal calls
        calls += 1
        raise Passing("again")

    with trio.move_on_after(0.12):
        await retry(attempt, is_worth_retrying=lambda error: True, policy=RetryPolicy(), random=Middle())
    assert calls == 2
