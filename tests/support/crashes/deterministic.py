"""One seed, one order of tasks: trio shuffles those that can run, by a generator of its own.

Both names are trio's private ones (pytest-trio uses the same); a test that runs a seed twice and compares is the canary.
"""

from collections.abc import Awaitable, Callable
from importlib import import_module
from typing import Any, TypeVar

import trio
from trio.testing import MockClock

T = TypeVar("T")


def run_in_virtual_time(function: Callable[[int], Awaitable[T]], seed: int) -> T:
    """Run `function(seed)` in a trio run of its own; what chance decides depends on the seed alone."""
    scheduler: Any = import_module("trio._core._run")
    scheduler._ALLOW_DETERMINISTIC_SCHEDULING = True
    scheduler._r.seed(seed)
    return trio.run(function, seed, clock=MockClock(autojump_threshold=0))


__all__ = ["run_in_virtual_time"]
