"""A nursery that a client object owns between `__aenter__` and `__aexit__`.

Owns one rule: an error of the user's own block leaves it as it is, not wrapped in an ExceptionGroup, since the background
tasks had no part in it. Knows nothing of what runs in the nursery.
"""

from contextlib import AbstractAsyncContextManager
from types import TracebackType
from typing import cast

import trio


class OwnedNursery:
    """The nursery of an object that is an async context manager."""

    def __init__(self) -> None:
        self._manager: AbstractAsyncContextManager[trio.Nursery] | None = None
        self._nursery: trio.Nursery | None = None

    async def open(self) -> trio.Nursery:
        """Open it in the current task; `close` must follow in the same task."""
        self._manager = trio.open_nursery()
        self._nursery = await self._manager.__aenter__()
        return self._nursery

    async def close(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """End all background tasks at once and wait for them. To be given what `__aexit__` is given; `error` goes on.

        Cancellation: waits all the same; the tasks are cancelled and take no time.
        """
        assert self._manager is not None
        assert self._nursery is not None
        self._nursery.cancel_scope.cancel()
        if error is not None and not holds_cancelled(error):
            kind = error = traceback = None
        await self._manager.__aexit__(kind, error, traceback)


def holds_cancelled(error: BaseException) -> bool:
    """Whether it is a cancellation, or a group with one in it: then a cancel scope has yet to see it."""
    if isinstance(error, BaseExceptionGroup):
        group = cast(BaseExceptionGroup[BaseException], error)
        return any(holds_cancelled(part) for part in group.exceptions)
    return isinstance(error, trio.Cancelled)


__all__ = ["OwnedNursery", "holds_cancelled"]
