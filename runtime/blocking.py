"""Async functions called from code that is not: fixtures, callbacks, scripts.

Owns one way to do it that works everywhere, also inside another event loop: a thread with a loop of its own.
"""

from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import trio

T = TypeVar("T")


def run_blocking(function: Callable[[], Awaitable[T]]) -> T:
    """Run `function()` in a trio loop on a thread, wait for its end, and return what it returns; what it raises is raised here."""

    async def call() -> T:
        return await function()

    with ThreadPoolExecutor(max_workers=1, thread_name_prefix="penstock call") as executor:
        return executor.submit(trio.run, call).result()


__all__ = ["run_blocking"]
