"""What Penstock promises about its speed, as ratios in one run, and whether a run shows it.

Owns the list of promises. A promise whose bench was not run, or whose peer was missing, has no verdict.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from bench.rounds import LOWER_IS_BETTER, Ratio
from bench.subjects import CACHING, DURABLE


@dataclass(frozen=True, slots=True)
class Target:
    """A bound on Penstock's figure over that of `to`, for all cases of a bench whose name starts with `case`."""

    bench: str
    case: str
    durability: str
    metric: str
    to: str
    bound: float = 1.0


@dataclass(frozen=True, slots=True)
class Verdict:
    """A target and what was measured."""

    bench: str
    case: str
    durability: str
    metric: str
    to: str
    bound: float
    at_least: bool
    ratio: float
    low: float
    high: float
    holds: bool


def _against_kafka(bench: str, durability: str, *metrics: str) -> list[Target]:
    return [Target(bench, "", durability, metric, "kafka") for metric in metrics]


TARGETS: Sequence[Target] = [
    Target("produce_frames", "1 MB of", CACHING, "mb_per_s", "bare", 0.8),
    Target("produce_frames", "16 KB of", CACHING, "mb_per_s", "bare", 0.6),
    Target("produce_frames", "1 record", CACHING, "requests_per_s", "bare", 0.6),
    *_against_kafka("produce_frames", CACHING, "mb_per_s", "cpu_s_per_gb"),
    *_against_kafka("produce_records", CACHING, "records_per_s", "cpu_s_per_gb"),
    *_against_kafka("fetch_frames", CACHING, "mb_per_s", "cpu_s_per_gb"),
    *_against_kafka("consume_records", CACHING, "records_per_s", "cpu_s_per_gb"),
    *_against_kafka("lone_write", CACHING, "p50_us", "p99_us"),
    *_against_kafka("end_to_end", CACHING, "p50_us", "p99_us"),
    *_against_kafka("produce_frames", DURABLE, "mb_per_s"),
    *_against_kafka("produce_records", DURABLE, "records_per_s"),
    *_against_kafka("lone_write", DURABLE, "p50_us", "p99_us"),
]


def judge(ratios: Sequence[Ratio], targets: Sequence[Target] = TARGETS) -> list[Verdict]:
    """The verdict on every target that was measured."""
    return [_verdict(target, ratio) for target in targets for ratio in ratios if _is_about(target, ratio)]


def _is_about(target: Target, ratio: Ratio) -> bool:
    return (
        (target.bench, target.durability, target.metric, target.to)
        == (ratio.bench, ratio.durability, ratio.metric, ratio.to)
    ) and ratio.case.startswith(target.case)


def _verdict(target: Target, ratio: Ratio) -> Verdict:
    at_least = target.metric not in LOWER_IS_BETTER
    holds = ratio.ratio >= target.bound if at_least else ratio.ratio <= target.bound
    return Verdict(
        ratio.bench,
        ratio.case,
        ratio.durability,
        ratio.metric,
        ratio.to,
        target.bound,
        at_least,
        ratio.ratio,
        ratio.low,
        ratio.high,
        holds,
    )
