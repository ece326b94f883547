"""A progress bar by bytes, on a terminal only: what is done of how much, how fast, how long still, and at which partition.

Owns when it is shown. Lines printed through it stand above the bar. rich is imported only for a terminal.
"""

import sys
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Protocol


class ByteProgress(Protocol):
    """A bar, or nothing of the kind."""

    def begin(self, name: str, /) -> None:
        """What is looked at from now on."""
        ...

    def advance(self, size_bytes: int, /) -> None:
        """So many bytes more are done."""
        ...

    def print(self, line: str, /) -> None:
        """Print a line of the output proper."""
        ...


class _NoProgress:
    def begin(self, name: str, /) -> None:
        """Nothing to show."""

    def advance(self, size_bytes: int, /) -> None:
        """Nothing to show."""

    def print(self, line: str, /) -> None:
        """Print the line; flushed when the buffer is full or the command ends."""
        sys.stdout.write(line + "\n")


class _Bar:
    def __init__(
        self, describe: Callable[[str], None], advance: Callable[[int], None], printer: Callable[[str], None]
    ) -> None:
        self.begin = describe
        self.advance = advance
        self.print = printer


@contextmanager
def byte_progress(total_bytes: int, *, is_shown: bool) -> Generator[ByteProgress]:
    """A bar up to `total_bytes` while the block runs, which then vanishes; none if stdout is no terminal or `is_shown` is False."""
    if not is_shown or not sys.stdout.isatty():
        yield _NoProgress()
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
        TransferSpeedColumn,
    )
    from rich.text import Text

    console = Console(highlight=False)
    bar = Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
        console=console,
        transient=True,
    )
    with bar:
        task = bar.add_task("", total=total_bytes)
        yield _Bar(
            lambda name: bar.update(task, description=name),
            lambda size_bytes: bar.advance(task, size_bytes),
            lambda line: console.print(Text.from_ansi(line), soft_wrap=True),
        )


__all__ = ["ByteProgress", "byte_progress"]
