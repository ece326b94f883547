"""The screen of a demo: what was seen so far as lines of text. Pure: a history and a width in, lines out.

Owns the layout (80 columns are enough), the colors, and the line that takes the screen's place where there is no terminal.
"""

from collections.abc import Callable, Sequence

import click

from penstock.cli.demo_charts import Point, area, megabytes, milliseconds, short, sparkline
from penstock.cli.demo_scene import History, Phase, Policy, Sample, Summary

WIDTH_MIN = 60
WIDTH_MAX = 120
AREA_HEIGHT = 6
_LABEL = 14
_VALUE = 14

TITLES = {
    Policy.UNBOUNDED: "no bound",
    Policy.REJECT: "backlog.policy=reject",
    Policy.HOLD: "backlog.policy=hold",
    Policy.THROTTLE: "backlog.policy=throttle",
}
_PHASES = {
    Phase.REST: ("an ordinary day", "green"),
    Phase.SALE: ("FLASH SALE", "red"),
    Phase.DRAIN: ("the sale is over", "cyan"),
}


def frame(history: History, width: int) -> list[str]:
    """The whole screen, each line at most `width` columns."""
    width = min(max(width, WIDTH_MIN), WIDTH_MAX)
    plot = width - _LABEL - _VALUE
    scene, last = history.scene, history.last
    span_s = max(scene.expected_s * 1.05, last.at_s)
    rates = history.rates()
    now = rates[-1] if rates else None
    top = float(scene.sale_rate)

    def rate_row(label: str, color: str, points: Sequence[Point], value: float) -> str:
        return _row(label, sparkline(points, span_s, plot, top), f"{short(value)}/s", color)

    lines = [_head(history), "", *_backlog(history, span_s, plot), ""]
    lines += [
        rate_row("wanted", "white", [(r.at_s, r.wanted) for r in rates], now.wanted if now else 0),
        rate_row("taken", "green", [(r.at_s, r.taken) for r in rates], now.taken if now else 0),
        rate_row("refused", "red", [(r.at_s, r.refused) for r in rates], now.refused if now else 0),
        rate_row("database", "blue", [(r.at_s, r.stored) for r in rates], now.stored if now else 0),
    ]
    lines.append(_own_scale("ack p99", "yellow", history, span_s, plot, _latency, milliseconds))
    lines.append(_own_scale("broker memory", "magenta", history, span_s, plot, _memory, _memory_text))
    totals = f"wanted {last.wanted:,}  taken {last.taken:,}  refused {last.refused:,}  in the database {last.stored:,}"
    return [*lines, "", totals[:width]]


def _head(history: History) -> str:
    scene, last = history.scene, history.last
    text, color = _PHASES[scene.phase(last.at_s)]
    clock = f"{last.at_s:5.1f} s of about {scene.expected_s:.0f}"
    bound = f", {scene.bound:,} records" if scene.is_bounded else ""
    title = click.style(TITLES[scene.policy] + bound, bold=True)
    return f"{title}   {clock}   {click.style(text, fg=color, bold=True)}"


def _backlog(history: History, span_s: float, plot: int) -> list[str]:
    scene = history.scene
    points = [(sample.at_s, float(sample.backlog)) for sample in history.samples]
    highest = max((value for _, value in points), default=0.0)
    bound = float(scene.bound) if scene.is_bounded else None
    top = max(highest, (bound or 0.0) * 1.2, float(scene.database_rate))
    texts = area(points, span_s, plot, AREA_HEIGHT, top, bound)
    labels = ["backlog", f"top {short(top)}", *[""] * (AREA_HEIGHT - 2)]
    values = ["", f"max {short(highest)}", *[""] * (AREA_HEIGHT - 3), short(history.last.backlog)]
    return [
        _row(label, text, value, "cyan") for label, text, value in zip(labels, texts, values, strict=True)
    ]


def _own_scale(
    label: str,
    color: str,
    history: History,
    span_s: float,
    plot: int,
    read: Callable[[Sample], float | None],
    text: Callable[[float | None], str],
) -> str:
    """A row whose full height is the greatest value that was seen."""
    seen = [(sample.at_s, value) for sample in history.samples if (value := read(sample)) is not None]
    highest = max((value for _, value in seen), default=0.0)
    last = read(history.last) if history.samples else None
    return _row(label, sparkline(seen, span_s, plot, highest), text(last), color)


def _latency(sample: Sample) -> float | None:
    return sample.p99_ms


def _memory(sample: Sample) -> float | None:
    return None if sample.memory_bytes is None else float(sample.memory_bytes)


def _memory_text(value: float | None) -> str:
    return megabytes(None if value is None else int(value))


def _row(label: str, plot: str, value: str, color: str) -> str:
    return f"{label:<{_LABEL}}{click.style(plot, fg=color)}{value:>{_VALUE}}"


def line(history: History) -> str:
    """What the screen shows, for where there is none: one line for each second."""
    scene, last = history.scene, history.last
    rates = history.rates()
    now = rates[-1] if rates else None
    cells = [
        f"{scene.policy.value:>9}",
        f"{last.at_s:6.1f} s",
        f"{scene.phase(last.at_s).value:<5}",
        f"wanted {short(now.wanted if now else 0):>5}/s",
        f"taken {short(now.taken if now else 0):>5}/s",
        f"refused {last.refused:>7}",
        f"backlog {last.backlog:>7}",
        f"p99 {milliseconds(last.p99_ms):>7}",
        f"memory {megabytes(last.memory_bytes):>6}",
    ]
    return "  ".join(cells)


def summary_table(summaries: Sequence[Summary]) -> tuple[list[str], list[list[str]]]:
    """Titles and rows: a column for each scene, a line for each figure."""
    rows = [[label, *(text(summary) for summary in summaries)] for label, text in _FIGURES]
    return ["", *(summary.policy.value for summary in summaries)], rows


def _memory_range(summary: Summary) -> str:
    if summary.memory_rest_bytes is None or summary.memory_max_bytes is None:
        return "-"
    return f"{summary.memory_rest_bytes / 1e6:.0f} to {megabytes(summary.memory_max_bytes)}"


_FIGURES: tuple[tuple[str, Callable[[Summary], str]], ...] = (
    ("orders wanted", lambda summary: f"{summary.wanted:,}"),
    ("taken", lambda summary: f"{summary.taken:,}"),
    ("refused", lambda summary: f"{summary.refused:,}"),
    ("at the door at the end", lambda summary: f"{summary.kept_waiting:,}"),
    ("backlog at most", lambda summary: f"{summary.backlog_max:,}"),
    ("ack p99, ordinary day", lambda summary: milliseconds(summary.rest_p99_ms)),
    ("ack p99, sale", lambda summary: milliseconds(summary.sale_p99_ms)),
    ("refusal p99", lambda summary: milliseconds(summary.refusal_p99_ms)),
    ("drained after", lambda summary: f"{summary.drain_s:.1f} s"),
    ("broker memory", _memory_range),
    ("acked and lost", lambda summary: "-" if summary.lost is None else str(summary.lost)),
)


__all__ = ["TITLES", "frame", "line", "summary_table"]
