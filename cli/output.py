"""What people see: tables on a terminal, plain columns in a pipe, JSON lines on demand.

Owns the look. Knows nothing of topics or logs. rich is imported only when a table goes to a terminal.
"""

import json
import re
import sys
from base64 import b64encode, urlsafe_b64encode
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from rich.console import RenderableType

_GAP = "  "
_RICH_GAP = 3
CONTROL_CHARACTERS = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")


@dataclass(frozen=True, slots=True)
class Column:
    """A column's title, whether its cells are numbers (aligned to the right), and how soon a narrow terminal does without it.

    `spared` 0: never; the column with the highest goes first. In a pipe every column is there.
    """

    title: str
    is_number: bool = False
    spared: int = 0


def print_table(columns: Sequence[Column], rows: Iterable[Sequence[object]]) -> None:
    """Print rows under titles. None shows as `-`, so that every cell of a plain row has something in it."""
    if sys.stdout.isatty():
        from rich.console import Console

        console = Console(highlight=False)
        console.print(rich_table(columns, rows, console.width), markup=False)
    else:
        _print_plain(columns, _cells(rows))


def rich_table(columns: Sequence[Column], rows: Iterable[Sequence[object]], width: int) -> "RenderableType":
    """The same as something that rich can draw on a terminal of `width` columns."""
    from rich.box import SIMPLE_HEAD
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    cells = _cells(rows)
    needed = [_needed_width(column, [row[index] for row in cells]) for index, column in enumerate(columns)]
    shown, fits = _fitting(columns, needed, width)
    table = Table(box=SIMPLE_HEAD, pad_edge=False, show_edge=False, header_style="bold")
    for index in shown:
        table.add_column(
            columns[index].title,
            justify="right" if columns[index].is_number else "left",
            overflow="fold",
            # Left to itself, rich cuts cells before it puts a title on two lines.
            min_width=needed[index] if fits else None,
            max_width=needed[index] if fits and len(columns[index].title) > needed[index] else None,
        )
    for row in cells:
        table.add_row(*(Text(row[index]) for index in shown))
    if len(shown) == len(columns):
        return table
    spared = ", ".join(column.title for index, column in enumerate(columns) if index not in shown)
    return Group(table, Text(f"too narrow for {spared}", style="dim"))


def _needed_width(column: Column, cells: Sequence[str]) -> int:
    """Room for the widest cell and the longest word of the title."""
    return max(map(len, [*column.title.split(), *cells]), default=0)


def _fitting(columns: Sequence[Column], needed: Sequence[int], width: int) -> tuple[list[int], bool]:
    """The columns that are shown, and whether all of them have the room that they need."""
    shown = list(range(len(columns)))
    while sum(needed[index] + _RICH_GAP for index in shown) - _RICH_GAP > width:
        spare = max(shown, key=lambda index: columns[index].spared)
        if not columns[spare].spared:
            return shown, False
        shown.remove(spare)
    return shown, True


def _cells(rows: Iterable[Sequence[object]]) -> list[list[str]]:
    return [[_cell(cell) for cell in row] for row in rows]


def _cell(value: object) -> str:
    # Names come from peers: none may move the cursor, or look like a row of its own.
    return "-" if value is None or value == "" else CONTROL_CHARACTERS.sub("?", str(value))


def print_json(value: Mapping[str, object]) -> None:
    """Print one JSON object on a line of its own."""
    click.echo(json_text(value))


def json_text(value: Mapping[str, object]) -> str:
    """A JSON object without a line break."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def data_as_json(name: str, data: bytes | None) -> dict[str, object]:
    """Text as text; what is none in base64 under another name, so that nobody takes one for the other."""
    if data is None:
        return {name: None}
    try:
        return {name: data.decode()}
    except UnicodeDecodeError:
        return {f"{name}_base64": b64encode(data).decode()}


def headers_as_json(headers: Iterable[tuple[str, bytes | None]]) -> list[dict[str, object]]:
    """The headers of a record, in order; a name that is no UTF-8 as `name_base64`."""
    return [
        {**data_as_json("name", name.encode(errors="surrogateescape")), **data_as_json("value", value)}
        for name, value in headers
    ]


def bytes_text(count: float) -> str:
    """`512 B`, `1.3 kB`, `20.5 MB`, `1.2 GB`."""
    for unit in ("B", "kB", "MB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} GB"


def topic_id_text(topic_id: bytes | None) -> str | None:
    """A topic id as Kafka's tools write it: 22 characters of URL-safe base64."""
    return None if topic_id is None else urlsafe_b64encode(topic_id).decode().rstrip("=")


def _print_plain(columns: Sequence[Column], cells: Sequence[Sequence[str]]) -> None:
    lines = [[column.title for column in columns], *cells]
    widths = [max(len(line[index]) for line in lines) for index in range(len(columns))]
    for line in lines:
        padded = [
            cell.rjust(width) if column.is_number else cell.ljust(width)
            for cell, width, column in zip(line, widths, columns, strict=True)
        ]
        click.echo(_GAP.join(padded).rstrip())


__all__ = [
    "Column",
    "bytes_text",
    "data_as_json",
    "headers_as_json",
    "json_text",
    "print_json",
    "print_table",
    "rich_table",
    "topic_id_text",
]
