"""A nursery that a client object owns between `__aenter__` and `__aexit__`.

Owns two rules: an error of the user's own block leaves it as it is, not wrapped in an ExceptionGroup, since the background
tasks had no part in it; and sheltered tasks live until `close`, also when the block is cancelled. Knows nothing of what runs in the nursery.
"""

from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from types import TracebackType
from typing import Protocol, TypeVarTuple, cast

import trio

Ts = TypeVarTuple("Ts")


class Spawner(Protocol):
    """What takes background tasks: a nursery, or a `Shelter`."""

    def start_soon(self, async_fn: Callable[[*Ts], Awaitable[object]], /, *args: *Ts) -> None:
        """As `trio.Nursery.start_soon`."""
        ...


class Shelter:
    """Starts tasks in a nursery which no cancellation from outside reaches, so that they can bring things to an end; `end` does."""

    def __init__(self, nursery: trio.Nursery) -> None:
        self._nursery = nursery
        self._scopes: dict[trio.CancelScope, None] = {}
        self._has_ended = False

    def start_soon(self, async_fn: Callable[[*Ts], Awaitable[object]], /, *args: *Ts) -> None:
        """As `trio.Nursery.start_soon`."""

        async def run() -> None:
            with trio.CancelScope(shield=not self._has_ended) as scope:
                self._scopes[scope] = None
                try:
                    await async_fn(*args)
                finally:
                    del self._scopes[scope]

        self._nursery.start_soon(run, name=async_fn)

    def end(self) -> None:
        """Cancel all of them."""
        self._has_ended = True
        for scope in self._scopes:
            scope.cancel()


class OwnedNursery:
    """The nursery of an object that is an async context manager."""

    def __init__(self) -> None:
        self._manager: AbstractAsyncContextManager[trio.Nursery] | None = None
        self._nursery: trio.Nursery | None = None
        self._shelter: Shelter | None = None

    async def open(self) -> trio.Nursery:
        """Open it in the current task; `close` must follow in the same task."""
        self._manager = trio.open_nursery()
        self._nursery = await self._manager.__aenter__()
        return self._nursery

    async def open_sheltered(self) -> Shelter:
        """As `open`, but a cancellation from outside of the block reaches the tasks only by `close`. The block itself is cancelled as ever."""
        self._shelter = Shelter(await self.open())
        return self._shelter

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
        if self._shelter is not None:
            self._shelter.end()
        if error is not None and not holds_cancelled(error):
            kind = error = traceback = None
        await self._manager.__aexit__(kind, error, traceback)


def holds_cancelled(error: BaseException) -> bool:
    """Whether it is a cancellation, or a group with one in it: then a cancel scope has yet to see it."""
    if isinstance(error, BaseExceptionGroup):
        group = cast(BaseExceptionGroup[BaseException], error)
        return any(holds_cancelled(part) for part in group.exceptions)
    return isinstance(error, trio.Cancelled)


__all__ = ["OwnedNursery", "Shelter", "Spawner", "holds_cancelled"]
