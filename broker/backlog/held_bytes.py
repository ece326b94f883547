"""The memory of batches that wait for room in a full backlog: a budget of its own, so that one topic at its bound takes none from the others."""

import trio

DEFAULT_MAX_BYTES = 64 << 20


class HeldBytes:
    """Counts them, for all partitions of a broker. While the budget is spent, connections whose batches are held are not read."""

    __slots__ = ("_max_bytes", "_room", "held_bytes")

    def __init__(self, max_bytes: int = DEFAULT_MAX_BYTES) -> None:
        self._max_bytes = max_bytes
        self._room = trio.lowlevel.ParkingLot()
        self.held_bytes = 0

    @property
    def is_spent(self) -> bool:
        """Whether nothing more should come."""
        return self.held_bytes >= self._max_bytes

    def hold(self, count: int) -> None:
        """Hold `count` more bytes; a negative count gives them back."""
        self.held_bytes += count
        assert self.held_bytes >= 0, self.held_bytes
        if self._room and not self.is_spent:
            self._room.unpark_all()

    async def wait_for_room(self) -> None:
        """Return once there is room. Cancellation: nothing changes."""
        while self.is_spent:
            await self._room.park()


__all__ = ["DEFAULT_MAX_BYTES", "HeldBytes"]
