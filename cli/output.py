"""What people see: tables on a terminal, plain columns in a pipe, JSON lines on demand.

Owns the look. Knows nothing of topics or logs. rich is imported only when a table goes to a terminal.
"""

import json
import sys
from base64 import urlsafe_b64encode
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import click

_GAP = "  "


@dataclass(frozen=True, slots=True)
class Column:
    """A column's title, and whether its cells are numbers (aligned to the right)."""

    title: str
    is_number: bool = False


def print_table(columns: Sequence[Column], rows: Iterable[Sequence[object]]) -> None:
    """Print rows under titles. None shows as `-`, so that every cell of a plain row has something in it."""
    cells = [["-" if cell is None or cell == "" else str(cell) for cell in row] for row in rows]
    if sys.stdout.isatty():
        _print_rich(columns, cells)
    else:
        _print_plain(columns, cells)


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


def _print_rich(columns: Sequence[Column], cells: Sequence[Sequence[str]]) -> None:
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table

    table = Table(box=SIMPLE_HEAD, pad_edge=False, show_edge=False, header_style="bold")
    for column in columns:
        table.add_column(column.title, justify="right" if column.is_number else "left", overflow="fold")
    for row in cells:
        table.add_row(*row)
    Console(highlight=False).print(table, markup=False)


__all__ = ["Column", "json_text", "print_json", "print_table", "topic_id_text"]
