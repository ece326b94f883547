"""The plot of a demo: its histories as panels. Pure."""

from collections.abc import Callable, Sequence

from penstock.cli.demo_charts import Point
from penstock.cli.demo_plot import Curve, Panel, Row, svg
from penstock.cli.demo_scene import History, Sample
from penstock.cli.demo_screen import TITLES

GREEN, RED, BLUE, GREY, ORANGE, PURPLE = "#1a7f37", "#cf222e", "#0969da", "#8c959f", "#bc4c00", "#8250df"


def plotted(histories: Sequence[History]) -> str:
    """All scenes side by side, as SVG."""
    scene = histories[0].scene
    title = f"{scene.sale_rate:,} orders a second for {scene.sale_s:g} s; the database takes {scene.database_rate:,} a second"
    rows = [
        Row("backlog, records", [_backlog(history) for history in histories]),
        Row("orders a second", [_rates(history) for history in histories]),
        Row("ack p99, ms", [_one(history, "ack p99", ORANGE, _latency) for history in histories]),
    ]
    if any(sample.memory_bytes is not None for history in histories for sample in history.samples):
        rows.append(
            Row("broker memory, MB", [_one(history, "memory", PURPLE, _memory) for history in histories])
        )
    return svg(title, [TITLES[history.scene.policy] for history in histories], rows)


def _shade(history: History) -> tuple[float, float]:
    scene = history.scene
    return scene.rest_s, scene.rest_s + scene.sale_s


def _backlog(history: History) -> Panel:
    points = [(sample.at_s, float(sample.backlog)) for sample in history.samples]
    bound = float(history.scene.bound) if history.scene.is_bounded else None
    return Panel([Curve("backlog", BLUE, points, is_area=True)], bound, _shade(history))


def _rates(history: History) -> Panel:
    rates = history.rates()
    curves = [
        Curve("wanted", GREY, [(rate.at_s, rate.wanted) for rate in rates]),
        Curve("taken", GREEN, [(rate.at_s, rate.taken) for rate in rates]),
        Curve("refused", RED, [(rate.at_s, rate.refused) for rate in rates]),
        Curve("database", BLUE, [(rate.at_s, rate.stored) for rate in rates]),
    ]
    return Panel(curves, None, _shade(history))


def _one(history: History, name: str, color: str, read: Callable[[Sample], float | None]) -> Panel:
    points: list[Point] = [
        (sample.at_s, value) for sample in history.samples if (value := read(sample)) is not None
    ]
    return Panel([Curve(name, color, points)], None, _shade(history))


def _latency(sample: Sample) -> float | None:
    return sample.p99_ms


def _memory(sample: Sample) -> float | None:
    return None if sample.memory_bytes is None else sample.memory_bytes / 1e6


__all__ = ["plotted"]
