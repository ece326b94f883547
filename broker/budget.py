"""A broker-wide bound on the bytes of requests in flight (`queued.max.request.bytes`)."""

import trio


class ByteBudget:
    """Counts bytes that are held for requests; readers wait while it is spent.

    A reservation is never refused, so a request that has begun can end; it is the start of further reading that waits. So the bytes
    held exceed the bound by at most one step of growth (1 MiB) for each connection that is in the midst of a frame.
    """

    __slots__ = ("_limit_bytes", "_parked", "held_bytes")

    def __init__(self, limit_bytes: int) -> None:
        self._limit_bytes = limit_bytes
        self._parked = trio.lowlevel.ParkingLot()
        self.held_bytes = 0

    @property
    def is_spent(self) -> bool:
        """Whether readers have to wait."""
        return self.held_bytes >= self._limit_bytes

    def reserve(self, count: int) -> None:
        """Hold `count` more bytes; a negative count gives bytes back and lets readers go on when there is room."""
        self.held_bytes += count
        assert self.held_bytes >= 0, self.held_bytes
        if self._parked and not self.is_spent:
            self._parked.unpark_all()

    def release(self, count: int) -> None:
        """Give `count` bytes back."""
        self.reserve(-count)

    async def wait_for_room(self) -> None:
        """Return once the bytes held are below the bound. Cancellation: nothing changes."""
        while self.is_spent:
            await self._parked.park()


class BufferPool:
    """Frame buffers for reuse, so that a stream of 1 MB frames does not fault in fresh pages for each.

    Keeps at most `keep_count` buffers of at most `keep_bytes` each; larger ones are dropped.
    """

    __slots__ = ("_free", "_keep_bytes", "_keep_count")

    def __init__(self, keep_count: int = 4, keep_bytes: int = 2 << 20) -> None:
        self._free: list[bytearray] = []
        self._keep_count = keep_count
        self._keep_bytes = keep_bytes

    def take(self, size_bytes: int) -> bytearray:
        """A buffer of at least `size_bytes` with arbitrary content."""
        for place, buffer in enumerate(self._free):
            if len(buffer) >= size_bytes:
                return self._free.pop(place)
        return bytearray(size_bytes)

    def give(self, buffer: bytearray) -> None:
        """Hand a buffer back. Nobody may hold a view of it."""
        if len(buffer) <= self._keep_bytes:
            if len(self._free) >= self._keep_count:
                smallest = min(range(len(self._free)), key=lambda place: len(self._free[place]))
                if len(self._free[smallest]) >= len(buffer):
                    return
                self._free.pop(smallest)
            self._free.append(buffer)
