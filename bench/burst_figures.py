"""What a burst came to: pure functions over what both ends saw and what was sampled.

Owns the proof that nothing acked was lost or doubled, and the greatest backlog that the acks themselves give away.
"""

import math
from bisect import bisect_right
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from bench.burst_load import FAILED, REFUSED, UNSEEN, Consumed, Produced

STEP_S = 0.25


@dataclass(slots=True)
class Samples:
    """The broker from outside, since the burst began: seconds, log end offset, committed offset, resident bytes."""

    at_s: list[float] = field(default_factory=list[float])
    end_offset: list[int] = field(default_factory=list[int])
    committed: list[int] = field(default_factory=list[int])
    resident_bytes: list[int] = field(default_factory=list[int])

    @property
    def backlog(self) -> list[int]:
        """At each sample. The end was read before the committed offset, so it was at least so much."""
        return [
            max(0, end - committed) for end, committed in zip(self.end_offset, self.committed, strict=True)
        ]


@dataclass(frozen=True, slots=True)
class Checked:
    """What became of the records. All but `acked` and `refused` are to be 0."""

    acked: int
    refused: int
    failed: int
    without_end: int
    lost: int
    """Acked, and not consumed at the offset of the ack."""
    doubled: int
    """Consumed more than once: the same number, or the same offset."""
    unasked: int
    """Consumed, and told to the client as refused."""


def check(produced: Produced, consumed: Consumed) -> Checked:
    """Compare both ends."""
    outcomes = Counter(offset for offset in produced.offsets if offset < 0)
    at_offset = dict(zip(consumed.offsets, consumed.numbers, strict=True))
    lost = sum(
        offset >= 0 and at_offset.get(offset) != number for number, offset in enumerate(produced.offsets)
    )
    count = len(consumed.offsets)
    return Checked(
        acked=len(produced.offsets) - outcomes.total(),
        refused=outcomes[REFUSED],
        failed=outcomes[FAILED],
        without_end=outcomes[UNSEEN],
        lost=lost,
        doubled=max(count - len(at_offset), count - len(set(consumed.numbers))),
        unasked=sum(produced.offsets[number] == REFUSED for number in consumed.numbers),
    )


def backlog_by_acks(produced: Produced, consumed: Consumed) -> int:
    """The greatest backlog that an append must have left, whatever the broker says of it.

    A record at offset o that was acked by the time t was appended when no more was committed than what the consumer had sent by t: so it left a
    backlog of at least o + 1 less that. More than the bound is an append that the broker should have refused.
    """
    worst = 0
    for offset, at_s in zip(produced.offsets, produced.ended_at_s, strict=True):
        if offset >= 0:
            place = bisect_right(consumed.committed_at_s, at_s)
            worst = max(worst, offset + 1 - (consumed.committed[place - 1] if place else 0))
    return worst


def quantile_ms(values: Sequence[float], share: float) -> float | None:
    """Of seconds, in ms; None of none."""
    if not values:
        return None
    ordered = sorted(values)
    return round(ordered[max(0, math.ceil(share * len(ordered)) - 1)] * 1000, 3)


def latencies(produced: Produced, *, at_rest: bool, outcome: int | None = None) -> list[float]:
    """Of the acked (or, with an `outcome`, of those that ended so), sent at rest or in the burst."""
    return [
        produced.latencies_s[number]
        for number in produced.of(at_rest=at_rest)
        if (produced.offsets[number] >= 0 if outcome is None else produced.offsets[number] == outcome)
    ]


def drain(produced: Produced, consumed: Consumed, pace: int) -> tuple[float, float]:
    """Seconds from the last ack to the last record in the consumer's hand, and how many it should have taken at its pace."""
    last_ack_s = max(
        (at_s for offset, at_s in zip(produced.offsets, produced.ended_at_s, strict=True) if offset >= 0),
        default=0.0,
    )
    place = bisect_right(consumed.committed_at_s, last_ack_s)
    had = consumed.committed[place - 1] if place else 0
    if not consumed.committed:
        return 0.0, 0.0
    return max(0.0, consumed.committed_at_s[-1] - last_ack_s), (consumed.committed[-1] - had) / pace


def rate_at_the_bound(produced: Produced, bound: int) -> float | None:
    """Acked records a second while the backlog was full, from the ack of so many as twice the bound (it is full by then) to the last; None if it never was."""
    first = 2 * bound
    times = sorted(
        at_s for offset, at_s in zip(produced.offsets, produced.ended_at_s, strict=True) if offset >= 0
    )
    if len(times) <= first or times[-1] <= times[first]:
        return None
    return (len(times) - first) / (times[-1] - times[first])


def rates(times_s: Sequence[float], begin_s: float, until_s: float) -> list[tuple[float, float]]:
    """Events a second in steps, as (seconds since `begin_s`, rate)."""
    counts = Counter(math.floor((at_s - begin_s) / STEP_S) for at_s in times_s)
    steps = range(math.ceil((until_s - begin_s) / STEP_S))
    return [((step + 1) * STEP_S, counts[step] / STEP_S) for step in steps]


def p99_series(produced: Produced, begin_s: float) -> list[tuple[float, float]]:
    """p99 in ms of what was acked in each step, as (seconds since `begin_s`, ms)."""
    steps: dict[int, list[float]] = {}
    for number, offset in enumerate(produced.offsets):
        if offset >= 0 and produced.ended_at_s[number] >= begin_s:
            step = math.floor((produced.ended_at_s[number] - begin_s) / STEP_S)
            steps.setdefault(step, []).append(produced.latencies_s[number])
    return [((step + 1) * STEP_S, quantile_ms(steps[step], 0.99) or 0.0) for step in sorted(steps)]


__all__ = [
    "Checked",
    "Samples",
    "backlog_by_acks",
    "check",
    "drain",
    "latencies",
    "p99_series",
    "quantile_ms",
    "rate_at_the_bound",
    "rates",
]
