"""Waiting for an event, the one place where a test pauses between looks.

A test never sleeps for a time that it hopes is long enough: it names the event, and waits no longer than a limit that is
reached only when something is broken.
"""

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

PAUSE_S = 0.01


class DeadlineExceeded(AssertionError):
    """The event did not come in time."""


def until(event: Callable[[], T | None], what: str, *, limit_s: float = 15.0) -> T:
    """Look at `event` until it gives something true, and return that.

    Raises DeadlineExceeded, which names `what`, after `limit_s` seconds.
    """
    end = time.monotonic() + limit_s
    while not (value := event()):
        if time.monotonic() > end:
            raise DeadlineExceeded(f"not within {limit_s} s: {what}")
        time.sleep(PAUSE_S)
    return value
