"""A token bucket against what it promises: never more than the rate and a burst, and never less for whoever waits as told."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.broker.quotas.bucket import BURST_S, WAIT_MIN_S, TokenBucket

WAIT_MAX_S = 10.0
rates = st.floats(0.5, 1e9)
shares = st.floats(0, 9)
"""Of what the rate gives in a second; a single request is within what may be owed."""
pauses = st.floats(0, 5)


@given(rates, st.lists(st.tuples(shares, pauses), max_size=40))
def test_who_waits_as_told_gets_more_than_the_rate_and_a_burst(
    rate: float, steps: list[tuple[float, float]]
) -> None:
    bucket = TokenBucket(rate, WAIT_MAX_S)
    now = used = last = 0.0
    for share, pause in steps:
        used += (last := share * rate)
        wait_s = bucket.record(last, now)
        assert wait_s == 0 or WAIT_MIN_S <= wait_s <= WAIT_MAX_S
        now += wait_s + pause
        assert used <= rate * (now + BURST_S + WAIT_MIN_S) * (1 + 1e-9) + 1e-6


@given(rates, st.lists(shares, min_size=1, max_size=40))
def test_who_is_always_busy_gets_less_than_the_rate(rate: float, steps: list[float]) -> None:
    bucket = TokenBucket(rate, WAIT_MAX_S)
    now = used = 0.0
    for share in steps:
        used += share * rate
        now += bucket.record(share * rate, now)
    assert used >= rate * now * (1 - 1e-9) - 1e-6


@given(rates, st.lists(st.tuples(st.floats(0, 50), pauses), max_size=40))
def test_full_bucket_knows_something_that_a_new_one_does_not(
    rate: float, steps: list[tuple[float, float]]
) -> None:
    bucket = TokenBucket(rate, WAIT_MAX_S)
    now = 100.0
    for share, pause in steps:
        bucket.record(share * rate, now)
        now += pause
        if bucket.is_full(now):
            assert bucket.record(3 * rate, now) == TokenBucket(rate, WAIT_MAX_S).record(3 * rate, now)


def test_debt_of_the_past_is_paid_for_ever() -> None:
    bucket = TokenBucket(10, WAIT_MAX_S)
    assert [bucket.record(1e9, 0.0) for _ in range(3)] == [WAIT_MAX_S] * 3
    assert bucket.wait_s(WAIT_MAX_S) == 0
    assert not bucket.is_full(WAIT_MAX_S)
    assert bucket.is_full(WAIT_MAX_S + BURST_S)


@pytest.mark.parametrize(("rate", "wait_s"), [(20, 1.0), (5, 7.0), (1, WAIT_MAX_S)])
def test_debt_is_paid_back_by_the_old_rate(rate: float, wait_s: float) -> None:
    bucket = TokenBucket(10, WAIT_MAX_S)
    assert bucket.record(40, 50.0) == 3  # ten of the forty were there
    bucket.set_rate(rate, 50.0)
    assert bucket.wait_s(50.0) == pytest.approx(wait_s)
