"""The arithmetic of pacing, without a consumer."""

import random

import pytest

from penstock.client.metadata import TopicPartition
from penstock.consumer.pace import InFlight, Pace, TokenBucket, default_burst

TP, OTHER = TopicPartition("t", 0), TopicPartition("t", 1)


@pytest.mark.parametrize("rate", [0.1, 3.0, 97.3, 20_000.0, 1e7])
def test_more_is_taken_than_rate_and_burst_allow_or_less_than_the_rate_gives(rate: float) -> None:
    chance = random.Random(5)
    burst = default_burst(rate)
    begin_s = now_s = 86_400.0 * 400
    bucket = TokenBucket(rate, burst)
    taken = wakes = 0
    while taken < 200 * burst:
        now_s = max(now_s, bucket.due_s(now_s))
        count = bucket.available(now_s)
        assert count >= 1, "it is due, and nothing is there"
        bucket.take(count, now_s)
        taken += count
        wakes += 1
        assert taken <= rate * (now_s - begin_s) + burst + 1e-3 * burst
        now_s += chance.random() * 0.1 * burst / rate
    assert taken >= 0.999 * (rate * (now_s - begin_s) - burst)
    assert wakes <= 101 * (now_s - begin_s) + 10 or rate < 100


def test_a_rest_gives_more_than_the_burst() -> None:
    bucket = TokenBucket(10.0, 5)
    bucket.take(5, 1.0)
    assert bucket.available(1000.0) == 5


def test_a_clock_that_stands_still_loses_tokens() -> None:
    bucket = TokenBucket(1000.0, 10)
    bucket.take(10, 7.0)
    assert [bucket.available(7.0 + 1e-9 * step) for step in range(3)] == [0, 0, 0]
    assert bucket.available(7.0035) == 3


def test_what_was_put_back_costs_tokens() -> None:
    pace = Pace(10.0, 5, None)
    pace.took(TP, 0, 5, 5, 0.0)
    assert pace.allowance(0.0) == 0
    pace.put_back(TP, 2, 3)
    assert pace.allowance(0.0) == 3


def test_what_is_not_committed_is_forgotten_or_counted_twice() -> None:
    flight = InFlight()
    flight.handed_out(TP, 0, 10, 10)
    flight.handed_out(TP, 10, 30, 5)  # compacted: fifteen offsets have no record
    flight.handed_out(OTHER, 0, 1, 1)
    assert flight.count == 16
    flight.committed(TP, 4)
    assert flight.count == 12
    flight.committed(TP, 10)
    assert flight.count == 6
    flight.committed(TP, 12)
    assert flight.count == 6, "which of the five lie below is not known: none is taken for done"
    flight.committed(TP, 28)
    assert flight.count == 3
    flight.committed(TP, 27)
    assert flight.count == 3
    flight.committed(TP, 99)
    assert flight.count == 1
    flight.forget(OTHER)
    flight.forget(OTHER)
    assert flight.count == 0


def test_in_flight_counts_what_was_put_back() -> None:
    pace = Pace(None, None, 10)
    pace.took(TP, 0, 10, 10, 0.0)
    assert pace.allowance(0.0) == 0
    assert pace.due_s(0.0) == float("inf")
    pace.put_back(TP, 3, 7)
    assert pace.allowance(0.0) == 7
    pace.in_flight.committed(TP, 3)
    assert pace.in_flight.count == 0
    assert not pace.wants_commit


def test_a_commit_is_wanted_only_when_nothing_can_be_handed_out_any_more() -> None:
    pace = Pace(None, None, 10)
    pace.took(TP, 0, 4, 4, 0.0)
    assert not pace.wants_commit
    pace.took(TP, 4, 5, 1, 0.0)
    assert pace.wants_commit
    assert pace.allowance(0.0) == 5
