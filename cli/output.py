"""What people see: tables on a terminal, plain columns in a pipe, JSON lines on demand.

Owns the look. Knows nothing of topics or logs. rich is imported only when a table goes to a terminal.
"""

import json
import re
import sys
from base64 import urlsafe_b64encode
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from rich.table import Table

_GAP = "  "
CONTROL_CHARACTERS = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")


@dataclass(frozen=True, slots=True)
class Column:
    """A column's title, and whether its cells are numbers (aligned to the right)."""

    title: str
    is_number: bool = False


def print_table(columns: Sequence[Column], rows: Iterable[Sequence[object]]) -> None:
    """Print rows under titles. None shows as `-`, so that every cell of a plain row has something in it."""
    if sys.stdout.isatty():
        from rich.console import Console

        Console(highlight=False).print(rich_table(columns, rows), markup=False)
    else:
        _print_plain(columns, _cells(rows))


def rich_table(columns: Sequence[Column], rows: Iterable[Sequence[object]]) -> "Table":
    """The same as something that rich can draw."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    table = Table(box=SIMPLE_HEAD, pad_edge=False, show_edge=False, header_style="bold")
    for column in columns:
        table.add_column(column.title, justify="right" if column.is_number else "left", overflow="fold")
    for row in _cells(rows):
        table.add_row(*map(Text, row))
    return table


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


__all__ = ["Column", "json_text", "print_json", "print_table", "rich_table", "topic_id_text"]
