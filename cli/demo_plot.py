"""A plot as SVG: a grid of panels, each with lines over time. Pure: numbers in, text out; no library.

Owns the look: one column for each run, one row for each figure. A figure has the same height in all runs, and all have the same time, so that they can
be compared.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from itertools import pairwise

from penstock.cli.demo_charts import Point

PANEL_WIDTH = 250
PANEL_HEIGHT = 110
_LEFT = 62
_TOP = 46
_GAP_X = 18
_GAP_Y = 34
_BOTTOM = 34
_POINTS_MAX = 400
INK, FAINT, PAPER = "#24292f", "#d0d7de", "#ffffff"
_STYLE = f'font-family="system-ui, sans-serif" font-size="11" fill="{INK}"'


@dataclass(frozen=True, slots=True)
class Curve:
    """A line, or (`is_area`) one that is filled down to zero. Points must be in the order of time."""

    name: str
    color: str
    points: Sequence[Point]
    is_area: bool = False


@dataclass(frozen=True, slots=True)
class Panel:
    """What one run shows of one figure. `bound` is a dashed line; `shade` a stretch of time that stands out."""

    curves: Sequence[Curve]
    bound: float | None = None
    shade: tuple[float, float] | None = None


@dataclass(frozen=True, slots=True)
class Row:
    """A figure: its name with its unit, and a panel for each run."""

    title: str
    panels: Sequence[Panel]


def thinned(points: Sequence[Point], count_max: int = _POINTS_MAX) -> list[Point]:
    """At most so many points: of each stretch the one with the greatest value, so that peaks stay."""
    if len(points) <= count_max:
        return list(points)
    share = len(points) / count_max
    cuts = [int(index * share) for index in range(count_max + 1)]
    return [
        max(points[begin:end], key=lambda point: point[1]) for begin, end in pairwise(cuts) if end > begin
    ]


def nice_top(value: float) -> float:
    """The next round number (1, 2, 2.5 or 5 times a power of ten) that is not below `value`."""
    if value <= 0:
        return 1.0
    power = 10.0 ** math.floor(math.log10(value))
    return next(step * power for step in (1, 2, 2.5, 5, 10) if step * power >= value * 0.999999)


def axis_text(value: float) -> str:
    """A tick's label."""
    for divisor, unit in ((1e6, "M"), (1e3, "k")):
        if value >= divisor:
            return f"{value / divisor:g}{unit}"
    return f"{value:g}"


def svg(title: str, columns: Sequence[str], rows: Sequence[Row]) -> str:
    """The whole document."""
    width = _LEFT + len(columns) * (PANEL_WIDTH + _GAP_X)
    height = _TOP + len(rows) * (PANEL_HEIGHT + _GAP_Y) + _BOTTOM
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" {_STYLE}>',
        f'<rect width="{width}" height="{height}" fill="{PAPER}"/>',
        _text(_LEFT, 18, title, 'font-size="14" font-weight="bold"'),
    ]
    span_s = nice_span(
        max((end for index in range(len(columns)) for end in _ends(rows, index, 0)), default=1.0)
    )
    for place, row in enumerate(rows):
        y = _TOP + place * (PANEL_HEIGHT + _GAP_Y) + 12
        tops = [value for index in range(len(columns)) for value in _ends([row], index, 1)]
        bounds = [panel.bound for panel in row.panels if panel.bound is not None]
        top = nice_top(max([*tops, *bounds], default=1.0))
        parts.append(_text(_LEFT, y - 5, row.title, 'font-weight="bold"'))
        for index, panel in enumerate(row.panels):
            x = _LEFT + index * (PANEL_WIDTH + _GAP_X)
            if place == 0:
                parts.append(
                    _text(x + PANEL_WIDTH, y - 5, columns[index], 'text-anchor="end" font-weight="bold"')
                )
            parts += _panel(panel, x, y, span_s, top, with_ticks=index == 0)
            if place == len(rows) - 1:
                parts += _time_axis(x, y, span_s)
        parts += _legend(row, y)
    return "\n".join([*parts, "</svg>", ""])


def nice_span(seconds: float) -> float:
    """Where the time axis ends."""
    return math.ceil(seconds / 5) * 5.0 if seconds > 5 else max(1.0, math.ceil(seconds))


def _ends(rows: Sequence[Row], index: int, part: int) -> list[float]:
    return [point[part] for row in rows for curve in row.panels[index].curves for point in curve.points]


def _panel(panel: Panel, x: float, y: float, span_s: float, top: float, *, with_ticks: bool) -> list[str]:
    parts: list[str] = []
    if panel.shade is not None:
        begin, end = (x + at_s / span_s * PANEL_WIDTH for at_s in panel.shade)
        parts.append(
            f'<rect x="{begin:.1f}" y="{y}" width="{end - begin:.1f}" height="{PANEL_HEIGHT}" fill="#fff3d6"/>'
        )
    for share in (0.0, 0.5, 1.0):
        height = y + PANEL_HEIGHT * (1 - share)
        parts.append(f'<path d="M{x} {height:.1f}h{PANEL_WIDTH}" stroke="{FAINT}"/>')
        if with_ticks:
            parts.append(_text(x - 6, height + 4, axis_text(top * share), 'text-anchor="end"'))
    for curve in panel.curves:
        parts += _curve(curve, x, y, span_s, top)
    if panel.bound is not None:
        height = y + PANEL_HEIGHT * (1 - panel.bound / top)
        parts.append(f'<path d="M{x} {height:.1f}h{PANEL_WIDTH}" stroke="#cf222e" stroke-dasharray="5 4"/>')
    return parts


def _curve(curve: Curve, x: float, y: float, span_s: float, top: float) -> list[str]:
    if not curve.points:
        return []
    places = [
        (x + at_s / span_s * PANEL_WIDTH, y + PANEL_HEIGHT * (1 - min(value, top) / top))
        for at_s, value in thinned(curve.points)
    ]
    path = "M" + "L".join(f"{px:.1f} {py:.1f}" for px, py in places)
    floor = y + PANEL_HEIGHT
    parts: list[str] = []
    if curve.is_area:
        closed = f"{path}L{places[-1][0]:.1f} {floor}L{places[0][0]:.1f} {floor}Z"
        parts.append(f'<path d="{closed}" fill="{curve.color}" fill-opacity="0.25"/>')
    parts.append(f'<path d="{path}" fill="none" stroke="{curve.color}" stroke-width="1.5"/>')
    return parts


def _time_axis(x: float, y: float, span_s: float) -> list[str]:
    below = y + PANEL_HEIGHT + 15
    return [
        _text(x, below, "0 s"),
        _text(x + PANEL_WIDTH, below, f"{span_s:g} s", 'text-anchor="end"'),
    ]


def _legend(row: Row, y: float) -> list[str]:
    """The names of the curves, once for a row, beside its title."""
    names: dict[str, str] = {}
    for panel in row.panels:
        for curve in panel.curves:
            names.setdefault(curve.name, curve.color)
    if len(names) < 2:
        return []
    spans = "".join(f'<tspan fill="{color}" dx="8">{escape(name)}</tspan>' for name, color in names.items())
    return [f'<text x="{_LEFT + 7 * len(row.title)}" y="{y - 5}">{spans}</text>']


def _text(x: float, y: float, text: str, more: str = "") -> str:
    return f'<text x="{x:g}" y="{y:g}" {more}>{escape(text)}</text>'


__all__ = ["Curve", "Panel", "Row", "axis_text", "nice_span", "nice_top", "svg", "thinned"]
