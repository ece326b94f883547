"""The pure parts of `penstock demo`: the scene's arithmetic, charts of characters, the screen and the plot."""

from xml.etree import ElementTree

import click
import pytest

from penstock.cli.demo_charts import area, columns_of, milliseconds, short, sparkline
from penstock.cli.demo_plot import Curve, Panel, Row, nice_top, svg, thinned
from penstock.cli.demo_report import plotted
from penstock.cli.demo_scene import History, Phase, Policy, Sample, Scene, percentile, summed_up
from penstock.cli.demo_screen import frame, line, summary_table


def scene(policy: Policy = Policy.REJECT) -> Scene:
    return Scene(policy=policy, database_rate=100, times=10, sale_s=2.0, rest_s=1.0, bound=400)


def history(policy: Policy = Policy.REJECT) -> History:
    """A sale as it should go: 50 at rest, then 1,000 a second of which 400 and what the database takes are taken."""
    found = History(scene(policy))
    for tenths in range(71):
        at_s = tenths / 10
        wanted = int(found.scene.wanted_count(at_s))
        taken = min(wanted, 450 + int(max(0.0, min(at_s, 3.0) - 1) * 100))
        stored = min(taken, int(at_s * 100))
        found.samples.append(
            Sample(
                at_s=at_s,
                wanted=wanted,
                taken=taken,
                refused=wanted - taken,
                stored=stored,
                backlog=taken - stored,
                p99_ms=1.5 if at_s < 3 else None,
                memory_bytes=40_000_000 + tenths,
            )
        )
    found.latencies_s[Phase.REST] = [0.001] * 98 + [0.5, 0.7]
    found.lost = 0
    return found


def test_what_is_wanted_is_the_integral_of_the_pace() -> None:
    assert [scene().wanted_count(at_s) for at_s in (0.0, 1.0, 2.0, 3.0, 9.0)] == [0, 50, 1050, 2050, 2050]
    assert [scene().wanted_rate(at_s) for at_s in (0.5, 1.5, 3.0)] == [50, 1000, 0]


def test_the_expected_end_is_when_the_database_is_through() -> None:
    assert scene(Policy.UNBOUNDED).expected_s == 1 + 2 + 18
    assert scene().expected_s == 1 + 2 + 4


def test_only_a_bounded_scene_sets_configs() -> None:
    assert scene(Policy.UNBOUNDED).configs == {}
    assert scene(Policy.HOLD).configs == {"backlog.max.records": "400", "backlog.policy": "hold"}


def test_the_sum_counts_who_still_stood_at_the_door() -> None:
    found = history()
    found.samples.append(Sample(at_s=7.1, wanted=2050, taken=600, refused=1400, stored=600))
    found.failed = 10
    summary = summed_up(found)
    assert (summary.wanted, summary.taken, summary.refused, summary.kept_waiting) == (2050, 600, 1400, 40)
    assert summary.rest_p99_ms == 500
    assert summary.sale_p99_ms is None
    assert summary.backlog_max == max(sample.backlog for sample in found.samples)
    assert summary.drain_s == pytest.approx(4.1)
    assert summary.memory_rest_bytes == 40_000_009
    assert summary.memory_max_bytes == 40_000_070


def test_a_sum_of_nothing_is_none_and_not_an_error() -> None:
    titles, rows = summary_table([summed_up(History(scene(policy))) for policy in Policy])
    assert titles == ["", *(policy.value for policy in Policy)]
    assert all(len(row) == len(titles) for row in rows)
    assert ["refusal p99", *["-"] * len(Policy)] in rows


def test_percentiles_are_values_that_were_seen() -> None:
    assert percentile([], 0.99) is None
    assert percentile([3.0], 0.99) == 3.0
    assert percentile([float(value) for value in range(1, 101)], 0.99) == 99.0


def test_a_chart_keeps_the_peak_of_a_column_and_bridges_gaps_but_not_ends() -> None:
    assert columns_of([(0.0, 1.0), (0.1, 5.0), (3.5, 2.0)], 6.0, 6) == [5.0, 5.0, 5.0, 2.0, None, None]
    assert columns_of([], 6.0, 3) == [None] * 3
    assert columns_of([(6.0, 1.0)], 6.0, 3) == [None, None, 1.0]


def test_a_spark_shows_the_least_and_no_more_than_the_top() -> None:
    assert sparkline([(0, 0), (1, 0.001), (2, 4), (3, 8), (4, 80)], 6.0, 6, 8.0) == "·▁▄██ "
    assert sparkline([(0, 0.0)], 1.0, 1, 0.0) == "·"


def test_an_area_is_filled_from_below_and_its_bound_is_where_it_belongs() -> None:
    lines = area([(0, 8.0), (1, 4.0)], 4.0, 4, 2, 8.0, 5.0)
    assert [len(each) for each in lines] == [4, 4]
    assert lines[0] == "⣿╌╌╌"
    assert lines[1][:2] == "⣿⡇"
    assert area([(0, 1.0)], 1.0, 1, 1, 8.0, bound=9.0) == ["⡀"], "a bound above the top is not drawn"


def test_numbers_stay_short() -> None:
    assert [short(value) for value in (0, 950, 999.6, 9500, 29_999, 1_200_000)] == [
        "0",
        "950",
        "1.0k",
        "9.5k",
        "30k",
        "1.2M",
    ]
    assert [milliseconds(value) for value in (None, 0.84, 12.3, 3400)] == ["-", "0.8 ms", "12 ms", "3.4 s"]


@pytest.mark.parametrize("policy", Policy)
def test_the_screen_fits_in_80_columns(policy: Policy) -> None:
    lines = [click.unstyle(text) for text in frame(history(policy), 79)]
    assert max(map(len, lines)) <= 79
    assert len(lines) <= 23
    assert sum("╌" in text for text in lines) == (policy is not Policy.UNBOUNDED)


def test_the_screen_and_the_line_can_be_drawn_before_anything_is_known() -> None:
    assert frame(History(scene()), 20)
    assert "backlog       0" in line(History(scene()))


def test_a_plot_is_well_formed_and_has_a_panel_for_each_figure_and_run() -> None:
    text = plotted([history(Policy.UNBOUNDED), history(Policy.HOLD)])
    root = ElementTree.fromstring(text)
    shapes = [each.tag.partition("}")[2] for each in root.iter()]
    assert shapes.count("rect") == 1 + 8, "the paper, and where the sale is in each panel"
    assert text.count("stroke-dasharray") == 1, "one bound"
    assert "nan" not in text


def test_names_in_a_plot_are_escaped() -> None:
    row = Row("a < b", [Panel([Curve("x & y", "red", [(0, 1)]), Curve("z", "red", [])])])
    assert ElementTree.fromstring(svg("<title>", ["1 & 2"], [row])) is not None


def test_thinning_keeps_peaks() -> None:
    points = [(float(index), 9.0 if index == 777 else 1.0) for index in range(1000)]
    assert len(thinned(points, 100)) == 100
    assert (777.0, 9.0) in thinned(points, 100)


def test_an_axis_ends_at_a_round_number_above_all() -> None:
    assert [nice_top(value) for value in (0, 0.3, 1, 1.1, 2.2, 40, 51, 20_000)] == [
        *(1, 0.5, 1, 2, 2.5, 50, 100, 20_000),
    ]
