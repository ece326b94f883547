"""How fast logs grow and groups consume, out of several looks.

Pure. Rates are over a window of some looks, not between two of them: groups commit every few seconds, so from one look to the next the figures would
jump between nothing and too much.
"""

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass

from penstock.cli.lag import PartitionStanding, Standing
from penstock.client.metadata import TopicPartition

WINDOW_S = 30.0


@dataclass(frozen=True, slots=True)
class Rate:
    """Records a second that come in and that are consumed; None where it can't be told."""

    incoming_per_s: float | None
    consumed_per_s: float | None
    lag: int | None

    @property
    def drained_in_s(self) -> float | None:
        """When the lag will be gone if both go on as they do; None while it does not shrink, or there is none."""
        if not self.lag or self.incoming_per_s is None or self.consumed_per_s is None:
            return None
        shrinking = self.consumed_per_s - self.incoming_per_s
        return self.lag / shrinking if shrinking > 0 else None


@dataclass(frozen=True, slots=True)
class Rates:
    """Of each partition, and of all together."""

    partitions: Mapping[TopicPartition, Rate]
    total: Rate


class RateWindow:
    """The looks of the last `window_s` seconds, and at least the one before the last."""

    def __init__(self, window_s: float = WINDOW_S) -> None:
        self._window_s = window_s
        self._looks: deque[Standing] = deque()

    def add(self, standing: Standing) -> Rates:
        """Take a look in, and return the rates as of it."""
        self._looks.append(standing)
        # Once two are left, the second is this look itself: never as old as the window.
        while len(self._looks) > 1 and standing.taken_at_s - self._looks[1].taken_at_s >= self._window_s:
            self._looks.popleft()
        first = self._looks[0]
        before = {each.partition: each for each in first.partitions}
        elapsed_s = standing.taken_at_s - first.taken_at_s
        rates = {
            each.partition: _rate(before.get(each.partition), each, elapsed_s) for each in standing.partitions
        }
        return Rates(
            rates,
            Rate(
                _sum([rate.incoming_per_s for rate in rates.values()]),
                _sum([rate.consumed_per_s for rate in rates.values()]),
                standing.lag,
            ),
        )


def _rate(before: PartitionStanding | None, now: PartitionStanding, elapsed_s: float) -> Rate:
    if before is None or elapsed_s <= 0:
        return Rate(None, None, now.lag)
    return Rate(
        _per_second(before.high_watermark, now.high_watermark, elapsed_s),
        _per_second(before.committed, now.committed, elapsed_s),
        now.lag,
    )


def _per_second(before: int | None, now: int | None, elapsed_s: float) -> float | None:
    # Below zero a group was reset, or a topic made anew: that is no speed.
    return None if before is None or now is None or now < before else (now - before) / elapsed_s


def _sum(rates: list[float | None]) -> float | None:
    known = [rate for rate in rates if rate is not None]
    return sum(known) if known else None


__all__ = ["Rate", "RateWindow", "Rates"]
