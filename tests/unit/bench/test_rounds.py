"""Comparisons must be fair and say what they measured."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from bench.driver import Load
from bench.processes import Meter, cpu_seconds
from bench.rounds import Case, Ratio, Scale, Series, metrics_of, ratios, run_case
from bench.subjects import CACHING, Subject
from bench.targets import Target, judge


def subject(name: str) -> Subject:
    return Subject(name, CACHING, "-", "-", ("127.0.0.1", 1), 0, Path("/nowhere"), has_topics=False)


def series(case: Case, name: str, *rates: float) -> Series:
    return Series(case, subject(name), [{"mb_per_s": rate} for rate in rates])


def unused(_: Subject, __: str, ___: Scale) -> Load:
    raise AssertionError


CASE = Case("bench", "case", CACHING, ("penstock", "kafka"), unused)


def test_each_subject_goes_first_in_turn_and_warm_up_does_not_count(tmp_path: Path) -> None:
    order: list[str] = []

    def measure(measured: Subject, topic: str, scale: Scale) -> Load:
        order.append(measured.name)
        with Meter() as meter:
            pass
        return Load(1, 1, len(order), (), meter)

    subjects = [
        Subject(name, CACHING, "-", "-", ("127.0.0.1", 1), os.getpid(), tmp_path, has_topics=False)
        for name in ("a", "b", "c")
    ]
    case = Case("bench", "case", CACHING, ("a", "b", "c"), measure)
    found = run_case(case, subjects, rounds=3, warm_up=1, scale=Scale())
    assert order == ["c", "a", "b", "a", "b", "c", "b", "c", "a", "c", "a", "b"]
    assert [len(each.rounds) for each in found] == [3, 3, 3]


def test_a_ratio_is_of_medians_and_its_spread_of_rounds() -> None:
    found = ratios([series(CASE, "penstock", 10, 30, 20), series(CASE, "kafka", 10, 10, 5)])
    assert found == [Ratio("bench", "case", "penstock", "kafka", CACHING, "mb_per_s", 2.0, 1.0, 4.0)]


def test_too_little_to_be_counted_makes_no_ratio() -> None:
    assert ratios([series(CASE, "penstock", 0, 1), series(CASE, "kafka", 1, 1)]) == []
    assert ratios([series(CASE, "penstock", 1, 1), series(CASE, "kafka", 0, 1)]) == []


def test_the_cpu_time_of_another_process_counts_what_it_burnt() -> None:
    burn = "import time\nwhile time.process_time() < 0.2: pass\nprint(flush=True)\ninput()"
    with subprocess.Popen(
        [sys.executable, "-c", burn], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as child:
        assert child.stdout is not None
        child.stdout.readline()
        assert 0.2 <= cpu_seconds(child.pid) < 0.4
        child.communicate(b"\n")


def test_subjects_of_different_cases_are_not_compared() -> None:
    other = Case("bench", "other", CACHING, ("kafka",), unused)
    assert ratios([series(CASE, "penstock", 1), series(other, "kafka", 1)]) == []


@pytest.mark.parametrize(
    ("metric", "bound", "ratio", "holds"),
    [
        ("mb_per_s", 0.8, 0.81, True),
        ("mb_per_s", 0.8, 0.79, False),
        ("p99_us", 1.0, 0.99, True),
        ("p99_us", 1.0, 1.01, False),
        ("cpu_s_per_gb", 1.0, 1.5, False),
    ],
)
def test_a_promise_is_kept_only_on_its_own_side_of_the_bound(
    metric: str, bound: float, ratio: float, holds: bool
) -> None:
    measured = Ratio("bench", "1 MB of x", "penstock", "kafka", CACHING, metric, ratio, ratio, ratio)
    target = Target("bench", "1 MB", CACHING, metric, "kafka", bound)
    assert [verdict.holds for verdict in judge([measured], [target])] == [holds]
    assert judge([measured], [Target("bench", "16 KB", CACHING, metric, "kafka", bound)]) == []


def test_rates_are_of_decimal_megabytes_and_seconds_measured() -> None:
    meter = Meter()
    meter.seconds, meter.server_cpu_seconds, meter.driver_cpu_seconds = 2.0, 1.0, 0.5
    metrics = metrics_of(Load(4, 400, 8_000_000, [0.001, 0.001], meter), 30_000_000)
    assert metrics["mb_per_s"] == 4.0
    assert metrics["records_per_s"] == 200.0
    assert metrics["requests_per_s"] == 2.0
    assert metrics["cpu_s_per_gb"] == 125.0
    assert metrics["cpu_us_per_request"] == 250_000.0
    assert (metrics["server_busy"], metrics["driver_busy"], metrics["resident_mb"]) == (0.5, 0.25, 30.0)
    assert metrics["p50_us"] == pytest.approx(1000)
