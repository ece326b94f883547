"""What a burst is said to have come to: the check of both ends finds what it is there to find, and the bench comes to its end."""

import json
from array import array
from pathlib import Path

import pytest
from bench import burst, burst_figures
from bench.burst_load import FAILED, REFUSED, UNSEEN, Consumed, Produced
from click.testing import CliRunner


def produced(*offsets: int) -> Produced:
    """Acked one second after another."""
    found = Produced(rest_count=0)
    found.offsets = array("q", offsets)
    found.ended_at_s = array("d", map(float, range(len(offsets))))
    found.latencies_s = array("f", [0.5] * len(offsets))
    return found


def consumed(*records: tuple[int, int], commits: tuple[tuple[float, int], ...] = ()) -> Consumed:
    return Consumed(
        array("q", (offset for offset, _ in records)),
        array("q", (number for _, number in records)),
        array("d", (at_s for at_s, _ in commits)),
        array("q", (offset for _, offset in commits)),
    )


def test_what_is_whole_passes() -> None:
    checked = burst_figures.check(produced(0, REFUSED, 1), consumed((0, 0), (1, 2)))
    assert (checked.acked, checked.refused) == (2, 1)
    assert checked.lost == checked.doubled == checked.unasked == checked.failed == checked.without_end == 0


@pytest.mark.parametrize(
    ("acked", "came", "wrong"),
    [
        (produced(0, 1), consumed((0, 0)), {"lost": 1}),
        (produced(0, 1), consumed((0, 1), (1, 0)), {"lost": 2}),
        (produced(0, 1), consumed((0, 0), (1, 1), (1, 1)), {"doubled": 1}),
        (produced(0, 1), consumed((0, 0), (1, 1), (2, 1)), {"doubled": 1}),
        (produced(0, REFUSED), consumed((0, 0), (1, 1)), {"unasked": 1}),
        (produced(0, FAILED, UNSEEN), consumed((0, 0)), {"failed": 1, "without_end": 1}),
    ],
)
def test_what_is_wrong_is_found(acked: Produced, came: Consumed, wrong: dict[str, int]) -> None:
    checked = burst_figures.check(acked, came)
    names = ("lost", "doubled", "unasked", "failed", "without_end")
    assert {name: value for name in names if (value := getattr(checked, name))} == wrong


def test_an_append_past_the_bound_shows_in_its_ack() -> None:
    came = consumed(commits=((1.5, 2), (3.5, 4)))
    assert burst_figures.backlog_by_acks(produced(0, 1, 2, 3, 4), came) == 2
    assert burst_figures.backlog_by_acks(produced(0, 1, 2, 9, 4), came) == 8
    assert burst_figures.backlog_by_acks(produced(0, 1), consumed()) == 2


def test_the_drain_is_measured_from_the_last_ack() -> None:
    came = consumed(commits=((0.5, 1), (4.0, 2), (7.0, 3)))
    assert burst_figures.drain(produced(0, 1, 2), came, pace=2) == (5.0, 1.0)


def test_what_an_end_saw_outlives_its_process(tmp_path: Path) -> None:
    seen = produced(3, REFUSED)
    seen.last_error = "none"
    seen.save(tmp_path / "seen")
    assert Produced.load(tmp_path / "seen") == seen


def test_the_bench_runs_and_refusals_agree_at_next_to_no_load(tmp_path: Path) -> None:
    load = [
        "--records",
        "3000",
        "--seconds",
        "0.3",
        "--pace",
        "2500",
        "--rest-seconds",
        "0.1",
        "--bound",
        "500",
    ]
    places = ["--data-dir", str(tmp_path), "--results", str(tmp_path), "--plot", str(tmp_path / "burst.svg")]
    who = ["--subjects", "penstock", "--policies", "reject"]
    done = CliRunner().invoke(burst.main, [*load, *places, *who], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    (path,) = tmp_path.glob("*.json")
    (row,) = json.loads(path.read_text())["rows"]
    assert row["acked"] + row["refused"] == 3125
    assert row["refused"] == row["refused_by_broker"] > 0
    assert row["lost"] == row["doubled"] == row["unasked"] == row["failed"] == row["without_end"] == 0
    assert 0 < row["backlog_max_by_acks"] <= 500
    assert (tmp_path / "burst.svg").read_text().startswith("<svg")
