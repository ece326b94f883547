"""A progress bar by offsets, on stderr and on a terminal only: what is done of how much, and how long still.

Owns when it is drawn. rich is imported only for a terminal.
"""

import sys
from collections.abc import Callable, Generator
from contextlib import contextmanager

from penstock.runtime.clock import Clock

_REFRESH_S = 0.1


@contextmanager
def offset_progress(name: str, total: int, clock: Clock) -> Generator[Callable[[int], None]]:
    """A bar on stderr by offsets, to be told of each step; none in a pipe."""
    if not sys.stderr.isatty() or not total:
        yield lambda count: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), auto_refresh=False, transient=True) as bar:
        task = bar.add_task(name, total=total)
        drawn_s = clock.monotonic()

        def advance(count: int) -> None:
            nonlocal drawn_s
            now_s = clock.monotonic()
            refresh = now_s - drawn_s >= _REFRESH_S
            drawn_s = now_s if refresh else drawn_s
            bar.update(task, advance=count, refresh=refresh)

        yield advance


__all__ = ["offset_progress"]
