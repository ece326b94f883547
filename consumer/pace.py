"""How many records a consumer may hand out now: so many a second, and so many that are not done.

Owns the token bucket over all partitions of a member, and the account of what was handed out and is not committed. Pure: time is handed in, in
seconds of one monotonic clock. Does not know who waits, nor for what.

Invariants: in any stretch of t seconds at most `rate * t + burst` records are taken, and no fraction of a token is lost in between; what is in
flight never passes its bound. A caller that waits is told of a moment at which it is worth waking for (a hundredth of a second's records), so that a high rate
costs no more turns than a low one.
"""

from collections import deque
from dataclasses import dataclass
from math import inf

from penstock.client.metadata import TopicPartition

WAKE_EVERY_S = 0.01
"""While it is held back, a consumer wakes for as many records as its rate gives in this time, and for one at least."""
AHEAD_S = 2.0
"""A partition of which so much is fetched already is not fetched: it would only wait in memory."""
NO_LIMIT = 1 << 62
_SLACK_S = 1e-6  # more than floats lose: who waited until a token was due finds it


class TokenBucket:
    """`rate` tokens a second, at most `burst` of them kept. Begins full."""

    def __init__(self, rate: float, burst: int) -> None:
        self.rate = rate
        self.burst = burst
        self._tokens = float(burst)
        self._filled_at_s = -inf
        self._grain = min(burst, max(1, int(rate * WAKE_EVERY_S)))

    def available(self, now_s: float) -> int:
        """Whole tokens that may be taken now."""
        self._fill(now_s)
        return int(self._tokens)

    def take(self, count: int, now_s: float) -> None:
        """Take as many as are available, or fewer."""
        self._fill(now_s)
        assert count <= self._tokens
        self._tokens -= count

    def give_back(self, count: int) -> None:
        """What was taken was not used after all."""
        self._tokens = min(self._tokens + count, self.burst)

    def due_s(self, now_s: float) -> float:
        """When it is worth looking again: not later than now where it is worth it already."""
        self._fill(now_s)
        lacking = self._grain - self._tokens
        return now_s if lacking <= 0 else now_s + lacking / self.rate + _SLACK_S

    def _fill(self, now_s: float) -> None:
        if now_s > self._filled_at_s:
            self._tokens = min(self._tokens + (now_s - self._filled_at_s) * self.rate, self.burst)
            self._filled_at_s = now_s


@dataclass(slots=True)
class _Stretch:
    """Records that were handed out together: [start, end) has `count` of them."""

    start: int
    end: int
    count: int


class InFlight:
    """What was handed out and is not committed."""

    def __init__(self) -> None:
        self.count = 0
        self._stretches: dict[TopicPartition, deque[_Stretch]] = {}

    def handed_out(self, tp: TopicPartition, start: int, end: int, count: int) -> None:
        """Records of [start, end), behind all that was handed out of the partition before."""
        self._stretches.setdefault(tp, deque()).append(_Stretch(start, end, count))
        self.count += count

    def put_back(self, tp: TopicPartition, offset: int, count: int) -> None:
        """The last `count` records that were handed out, from `offset` on, were not after all."""
        stretches = self._stretches.get(tp)
        if stretches:
            last = stretches[-1]
            last.end = offset
            last.count -= count
            self.count -= count

    def committed(self, tp: TopicPartition, offset: int) -> None:
        """Everything below `offset` is done."""
        stretches = self._stretches.get(tp)
        while stretches and stretches[0].start < offset:
            first = stretches[0]
            # Offsets may be missing in between: then what is left counts as more than it is, never as less.
            left = 0 if first.end <= offset else min(first.count, first.end - offset)
            self.count -= first.count - left
            first.start, first.count = offset, left
            if left:
                return
            stretches.popleft()

    def forget(self, tp: TopicPartition) -> None:
        """The partition is not ours any more, or its position was set anew."""
        for stretch in self._stretches.pop(tp, ()):
            self.count -= stretch.count


class Pace:
    """Both bounds of one consumer; each may be missing."""

    def __init__(self, rate: float | None, burst: int | None, in_flight_max: int | None) -> None:
        self.in_flight = InFlight()
        self.in_flight_max = in_flight_max
        self._bucket = None if rate is None else TokenBucket(rate, burst or default_burst(rate))

    def allowance(self, now_s: float) -> int:
        """So many records may be handed out now."""
        count = NO_LIMIT if self._bucket is None else self._bucket.available(now_s)
        return count if self.in_flight_max is None else min(count, self.in_flight_max - self.in_flight.count)

    def due_s(self, now_s: float) -> float:
        """When to look again, if nothing is committed before; for ever, where only a commit can help."""
        if self.in_flight_max is not None and self.in_flight.count >= self.in_flight_max:
            return inf
        return now_s if self._bucket is None else self._bucket.due_s(now_s)

    @property
    def wants_commit(self) -> bool:
        """Whether half of what may be in flight is: a commit now keeps the records coming."""
        return self.in_flight_max is not None and self.in_flight.count * 2 >= self.in_flight_max

    def took(self, tp: TopicPartition, start: int, end: int, count: int, now_s: float) -> None:
        """`count` records of [start, end) are handed out: at most the allowance of now."""
        if self._bucket is not None:
            self._bucket.take(count, now_s)
        if self.in_flight_max is not None:
            self.in_flight.handed_out(tp, start, end, count)

    def put_back(self, tp: TopicPartition, offset: int, count: int) -> None:
        """The last `count` of what was taken of a partition, from `offset` on, were not handed out after all."""
        if self._bucket is not None:
            self._bucket.give_back(count)
        if self.in_flight_max is not None:
            self.in_flight.put_back(tp, offset, count)


def default_burst(rate: float) -> int:
    """A tenth of a second's records, one at least."""
    return max(1, int(rate / 10))


__all__ = ["AHEAD_S", "NO_LIMIT", "InFlight", "Pace", "TokenBucket", "default_burst"]
