"""How a comparison is made: rounds in which every subject has its turn, in rotating order, and medians at the end.

Owns the order of measurements and the statistics. Knows nothing of what a case does nor how results are shown.

A slow minute of the machine hits all subjects of a round, so a ratio is taken of medians, and its spread from the ratios within
single rounds.
"""

import itertools
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from bench.driver import Load
from bench.processes import resident_bytes
from bench.subjects import Subject

Metrics = Mapping[str, float]

LOWER_IS_BETTER = frozenset(
    {"p50_us", "p99_us", "cpu_s_per_gb", "cpu_us_per_request", "cpu_us_per_record", "resident_mb"}
)


@dataclass(frozen=True, slots=True)
class Scale:
    """How much one measurement does: it ends at the first of these bounds."""

    seconds: float = 3.0
    bytes_max: int = 1 << 30
    records_max: int = 1_000_000
    requests_max: int = 1 << 40
    lone_writes: int = 3_000


TINY = Scale(seconds=0.05, bytes_max=4 << 20, records_max=2_000, requests_max=50, lone_writes=10)
"""For the smoke test and for trying things out."""


@dataclass(frozen=True, slots=True)
class Case:
    """One row of a bench: what is done to each subject once a round.

    With `preload`, a topic is made and filled once and measured in every round; without, each measurement gets a new one. `subjects`
    names who takes part.
    """

    bench: str
    name: str
    durability: str
    subjects: Sequence[str]
    measure: Callable[[Subject, str, Scale], Load]
    preload: Callable[[Subject, str, Scale], None] | None = None


@dataclass(slots=True)
class Series:
    """One case on one subject: a value of every metric for each round."""

    case: Case
    subject: Subject
    rounds: list[Metrics] = field(default_factory=list[Metrics])

    @property
    def median(self) -> Metrics:
        """The median of each metric over the rounds."""
        return {name: statistics.median(each[name] for each in self.rounds) for name in self.rounds[0]}


@dataclass(frozen=True, slots=True)
class Ratio:
    """Median of one subject over that of another; `low` and `high` bound the ratios within single rounds."""

    bench: str
    case: str
    of: str
    to: str
    durability: str
    metric: str
    ratio: float
    low: float
    high: float


def run_case(
    case: Case, subjects: Sequence[Subject], *, rounds: int, warm_up: int, scale: Scale
) -> list[Series]:
    """All rounds of one case. Each subject first does `warm_up` measurements that do not count (the JVM compiles)."""
    series = [Series(case, subject) for subject in subjects if subject.name in case.subjects]
    preloaded = f"bench-{next(_topic_numbers)}"
    if case.preload is not None:
        for each in series:
            each.subject.create_topic(preloaded)
            case.preload(each.subject, preloaded, scale)
    for number in range(-warm_up, rounds):
        shift = number % len(series) if series else 0
        for each in series[shift:] + series[:shift]:
            metrics = _measure_once(case, each.subject, preloaded, scale)
            if number >= 0:
                each.rounds.append(metrics)
    if case.preload is not None:
        for each in series:
            each.subject.delete_topic(preloaded)
    return series


_topic_numbers = itertools.count(1)


def _measure_once(case: Case, subject: Subject, preloaded: str, scale: Scale) -> Metrics:
    if case.preload is not None:
        return metrics_of(case.measure(subject, preloaded, scale), resident_bytes(subject.pid))
    topic = f"bench-{next(_topic_numbers)}"
    subject.create_topic(topic)
    try:
        return metrics_of(case.measure(subject, topic, scale), resident_bytes(subject.pid))
    finally:
        subject.delete_topic(topic)


def metrics_of(load: Load, server_resident_bytes: int) -> Metrics:
    """The figures of one measurement. MB and GB are 10^6 and 10^9 bytes of record batches (or values, as the case says)."""
    seconds, server_cpu_seconds = load.meter.seconds, load.meter.server_cpu_seconds
    metrics = {
        "mb_per_s": load.size_bytes / 1e6 / seconds,
        "records_per_s": load.record_count / seconds,
        "cpu_s_per_gb": server_cpu_seconds / load.size_bytes * 1e9,
        "cpu_us_per_record": server_cpu_seconds / load.record_count * 1e6,
        "server_busy": server_cpu_seconds / seconds,
        "driver_busy": load.meter.driver_cpu_seconds / seconds,
        "resident_mb": server_resident_bytes / 1e6,
    }
    if load.request_count:
        metrics["requests_per_s"] = load.request_count / seconds
        metrics["cpu_us_per_request"] = server_cpu_seconds / load.request_count * 1e6
    if len(load.latencies_s) > 1:
        cuts = statistics.quantiles(load.latencies_s, n=100, method="inclusive")
        metrics["p50_us"] = cuts[49] * 1e6
        metrics["p99_us"] = cuts[98] * 1e6
    return metrics


def ratios(all_series: Sequence[Series], of: str = "penstock") -> list[Ratio]:
    """Every metric of `of` against every other subject of the same case."""
    result: list[Ratio] = []
    for ours in all_series:
        if ours.subject.name != of:
            continue
        for theirs in all_series:
            if theirs.case is ours.case and theirs is not ours:
                result.extend(_compare(ours, theirs))
    return result


def _compare(ours: Series, theirs: Series) -> list[Ratio]:
    mine, other = ours.median, theirs.median
    result: list[Ratio] = []
    for metric in mine:
        if metric not in other:
            continue
        pairs = [(a[metric], b[metric]) for a, b in zip(ours.rounds, theirs.rounds, strict=True)]
        if any(a <= 0 or b <= 0 for a, b in pairs):
            continue  # too little to be counted is no figure
        single = [a / b for a, b in pairs]
        result.append(
            Ratio(
                ours.case.bench,
                ours.case.name,
                ours.subject.name,
                theirs.subject.name,
                ours.case.durability,
                metric,
                mine[metric] / other[metric],
                min(single),
                max(single),
            )
        )
    return result
