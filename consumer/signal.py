"""A flag that one task waits for and anybody sets."""

import trio


class Signal:
    """Set while nobody waits, it is remembered: the next wait returns at once. One waiter."""

    __slots__ = ("_event", "_is_set")

    def __init__(self) -> None:
        self._is_set = False
        self._event: trio.Event | None = None

    def set(self) -> None:
        """Let the waiter go on. Cheap when it is set already."""
        self._is_set = True
        if self._event is not None:
            self._event.set()
            self._event = None

    async def wait(self) -> None:
        """Return when it is set, and clear it. Cancellation: it stays as it is."""
        while not self._is_set:
            self._event = trio.Event()
            await self._event.wait()
        self._is_set = False


__all__ = ["Signal"]
