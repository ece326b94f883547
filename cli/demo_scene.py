"""A flash sale as numbers: what is wanted when, what was seen, and what it comes to. Pure.

Owns the scene (who wants how much in which phase), the samples that are taken of it, and their sum. Knows no broker, no clock and no terminal:
times are seconds from the curtain. Rates are orders a second.
"""

import math
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from itertools import pairwise


class Policy(StrEnum):
    """What bounds the backlog: nothing, or `backlog.policy`."""

    UNBOUNDED = "unbounded"
    REJECT = "reject"
    HOLD = "hold"
    THROTTLE = "throttle"


class Phase(StrEnum):
    """What the customers do."""

    REST = "rest"
    SALE = "sale"
    DRAIN = "drain"


REST_SHARE = 0.5
"""Of the database's pace, what customers want on any other day."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scene:
    """What is played. `bound` is in orders; it means nothing to Policy.UNBOUNDED."""

    policy: Policy
    database_rate: int
    times: int
    sale_s: float
    rest_s: float
    bound: int

    @property
    def sale_rate(self) -> int:
        """What customers want during the sale."""
        return self.database_rate * self.times

    @property
    def is_bounded(self) -> bool:
        """Whether the topic has a bound."""
        return self.policy is not Policy.UNBOUNDED

    @property
    def configs(self) -> dict[str, str]:
        """The topic's, but for `backlog.groups`."""
        if not self.is_bounded:
            return {}
        return {"backlog.max.records": str(self.bound), "backlog.policy": self.policy.value}

    def phase(self, at_s: float) -> Phase:
        """What goes on then."""
        if at_s < self.rest_s:
            return Phase.REST
        return Phase.SALE if at_s < self.rest_s + self.sale_s else Phase.DRAIN

    def wanted_rate(self, at_s: float) -> float:
        """How many orders a second the customers want to place then."""
        phase = self.phase(at_s)
        if phase is Phase.REST:
            return self.database_rate * REST_SHARE
        return self.sale_rate if phase is Phase.SALE else 0.0

    def wanted_count(self, at_s: float) -> float:
        """How many they have wanted to place until then."""
        resting_s = min(at_s, self.rest_s)
        selling_s = min(max(at_s - self.rest_s, 0.0), self.sale_s)
        return resting_s * self.database_rate * REST_SHARE + selling_s * self.sale_rate

    @property
    def expected_s(self) -> float:
        """About how long all of it takes: the sale, and what the database needs for the backlog that it leaves."""
        left = self.sale_s * (self.sale_rate - self.database_rate)
        if self.is_bounded:
            left = min(left, self.bound)
        return self.rest_s + self.sale_s + left / self.database_rate


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """What was seen at a moment. Counts are since the curtain; latencies are of what was acked since the sample before (None: nothing)."""

    at_s: float
    wanted: int = 0
    taken: int = 0
    """Acked."""
    refused: int = 0
    stored: int = 0
    """In the database."""
    backlog: int = 0
    """Log end offset less the group's committed offset."""
    p99_ms: float | None = None
    memory_bytes: int | None = None
    """Resident, of the broker; None: not known."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rates:
    """Orders a second between two samples."""

    at_s: float
    wanted: float
    taken: float
    refused: float
    stored: float


@dataclass(slots=True)
class History:
    """All that was seen of one scene."""

    scene: Scene
    samples: list[Sample] = field(default_factory=list[Sample])
    latencies_s: dict[Phase, list[float]] = field(
        default_factory=lambda: {phase: list[float]() for phase in Phase}
    )
    """From placing an order to its ack, by the phase in which it was placed."""
    refusal_latencies_s: list[float] = field(default_factory=list[float])
    """From placing an order to its refusal."""
    failed: int = 0
    """Orders with another error than a full backlog."""
    lost: int | None = None
    """Acked and not in the database at the end; None: not looked yet."""

    @property
    def last(self) -> Sample:
        """The newest sample."""
        return self.samples[-1] if self.samples else Sample(at_s=0.0)

    def rates(self) -> list[Rates]:
        """Between each two samples."""
        found: list[Rates] = []
        for before, after in pairwise(self.samples):
            seconds = max(after.at_s - before.at_s, 1e-9)
            found.append(
                Rates(
                    at_s=after.at_s,
                    wanted=(after.wanted - before.wanted) / seconds,
                    taken=(after.taken - before.taken) / seconds,
                    refused=(after.refused - before.refused) / seconds,
                    stored=(after.stored - before.stored) / seconds,
                )
            )
        return found


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """What a scene came to. Latencies in ms, memory in bytes; None where there is nothing to tell."""

    policy: Policy
    wanted: int
    taken: int
    refused: int
    failed: int
    kept_waiting: int
    """Wanted, and neither taken nor refused nor failed: they were still at the door when the sale was over."""
    backlog_max: int
    rest_p99_ms: float | None
    sale_p99_ms: float | None
    refusal_p99_ms: float | None
    drain_s: float
    """From the end of the sale to an empty backlog."""
    memory_rest_bytes: int | None
    memory_max_bytes: int | None
    lost: int | None


def percentile(values: Sequence[float], share: float) -> float | None:
    """The least value that `share` of all are not above; None of none."""
    if not values:
        return None
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, max(0, math.ceil(share * len(ordered)) - 1))]


def summed_up(history: History) -> Summary:
    """The sum of a scene that is over, or of what there is of it."""
    scene, last = history.scene, history.last
    sale_end_s = scene.rest_s + scene.sale_s
    known = [sample for sample in history.samples if sample.memory_bytes is not None]
    resting = known[: max(1, bisect_left(known, scene.rest_s, key=lambda sample: sample.at_s))]

    def p99_ms(latencies_s: Sequence[float]) -> float | None:
        found = percentile(latencies_s, 0.99)
        return None if found is None else found * 1000

    return Summary(
        policy=scene.policy,
        wanted=last.wanted,
        taken=last.taken,
        refused=last.refused,
        failed=history.failed,
        kept_waiting=max(0, last.wanted - last.taken - last.refused - history.failed),
        backlog_max=max((sample.backlog for sample in history.samples), default=0),
        rest_p99_ms=p99_ms(history.latencies_s[Phase.REST]),
        sale_p99_ms=p99_ms(history.latencies_s[Phase.SALE]),
        refusal_p99_ms=p99_ms(history.refusal_latencies_s),
        drain_s=max(0.0, last.at_s - sale_end_s),
        memory_rest_bytes=max((sample.memory_bytes or 0 for sample in resting), default=None),
        memory_max_bytes=max((sample.memory_bytes or 0 for sample in known), default=None),
        lost=history.lost,
    )


__all__ = ["History", "Phase", "Policy", "Rates", "Sample", "Scene", "Summary", "percentile", "summed_up"]
