"""Charts of characters: a line of blocks, or an area of braille dots. Pure: numbers in, text out, no colors and no terminal.

Owns the scaling. A chart is over a stretch of time that is given, so that it does not move while it fills.
"""

import math
from collections.abc import Sequence

BLOCKS = " ▁▂▃▄▅▆▇█"
_BRAILLE = 0x2800
_DOTS = ((0x01, 0x02, 0x04, 0x40), (0x08, 0x10, 0x20, 0x80))
"""Bits of the left and the right column, from the top down."""
_BOUND = "╌"

Point = tuple[float, float]
"""Seconds and value."""


def columns_of(points: Sequence[Point], span_s: float, width: int) -> list[float | None]:
    """The greatest value in each of `width` equal stretches of [0, span_s]; a gap between two known ones has that before it. None: nothing known."""
    columns: list[float | None] = [None] * width
    for at_s, value in points:
        place = min(width - 1, max(0, int(at_s / span_s * width)))
        present = columns[place]
        columns[place] = value if present is None else max(present, value)
    known = [place for place, value in enumerate(columns) if value is not None]
    for place in range(known[0], known[-1]) if known else ():
        if columns[place] is None:
            columns[place] = columns[place - 1]
    return columns


def sparkline(points: Sequence[Point], span_s: float, width: int, top: float) -> str:
    """One line of blocks; `top` is a full one. What is above zero shows, however little it is."""
    line = ""
    for value in columns_of(points, span_s, width):
        if value is None or value <= 0 or top <= 0:
            line += BLOCKS[0] if value is None or value < 0 else BLOCKS[1] if value > 0 else "·"
            continue
        line += BLOCKS[min(len(BLOCKS) - 1, max(1, round(value / top * (len(BLOCKS) - 1))))]
    return line


def area(
    points: Sequence[Point], span_s: float, width: int, height: int, top: float, bound: float | None = None
) -> list[str]:
    """`height` lines of braille, the highest first, filled from below; `bound` is a dashed line where nothing covers it."""
    dots_high = height * 4
    levels = [
        None if value is None else _dots(value, top, dots_high)
        for value in columns_of(points, span_s, width * 2)
    ]
    bound_row = None if bound is None or top <= 0 or bound > top else _row_of(bound, top, height)
    lines: list[str] = []
    for row in range(height):
        line = ""
        for place in range(width):
            bits = _cell(levels[2 * place : 2 * place + 2], row, dots_high)
            line += chr(_BRAILLE + bits) if bits else _BOUND if row == bound_row else " "
        lines.append(line)
    return lines


def _dots(value: float, top: float, dots_high: int) -> int:
    return 0 if value <= 0 or top <= 0 else min(dots_high, max(1, round(value / top * dots_high)))


def _row_of(bound: float, top: float, height: int) -> int:
    return min(height - 1, max(0, math.floor((1 - bound / top) * height)))


def _cell(levels: Sequence[int | None], row: int, dots_high: int) -> int:
    bits = 0
    for level, dots in zip(levels, _DOTS, strict=True):
        for place, bit in enumerate(dots):
            if level is not None and dots_high - (row * 4 + place) <= level:
                bits |= bit
    return bits


def short(value: float) -> str:
    """A number in at most five characters: `950`, `9.5k`, `30k`, `1.2M`."""
    for divisor, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= divisor * 0.9995:
            return (
                f"{value / divisor:.0f}{unit}" if value >= divisor * 9.95 else f"{value / divisor:.1f}{unit}"
            )
    return f"{value:.0f}"


def milliseconds(value: float | None) -> str:
    """A latency: `0.8 ms`, `12 ms`, `3.4 s`; `-` of none."""
    if value is None:
        return "-"
    if value >= 1000:
        return f"{value / 1000:.1f} s"
    return f"{value:.0f} ms" if value >= 10 else f"{value:.1f} ms"


def megabytes(value: int | None) -> str:
    """Memory: `54 MB`; `-` of none."""
    return "-" if value is None else f"{value / 1e6:.0f} MB"


__all__ = ["Point", "area", "columns_of", "megabytes", "milliseconds", "short", "sparkline"]
