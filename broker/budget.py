"""A broker-wide bound on the bytes of requests in flight (`queued.max.request.bytes`)."""

import trio


class ByteBudget:
    """Counts bytes that are held for requests; readers wait while it is spent.

    Two kinds of bytes: those of frames that are being read, and those of batches that wait for the disk (`hold`), which come back by
    themselves. No large frame begins while the budget is spent; small ones do, unless the disk is behind by all of it, so that large
    claims can't keep others out. A frame that has begun waits before it grows; but where only such frames hold the budget they would
    wait for each other for ever, so one of them at a time goes on without room. So the bytes held exceed the bound by one frame at most,
    and by what each connection may have at once (64 KiB).

    What fetches that wait take is counted apart, to the same bound: clients say how long these wait, and no frame may have to wait for
    them. Where there is no room a fetch is answered instead.
    """

    __slots__ = (
        "_ahead",
        "_behind",
        "_limit_bytes",
        "_parked",
        "_waiting_bytes",
        "fetch_bytes",
        "held_bytes",
    )

    def __init__(self, limit_bytes: int) -> None:
        self._limit_bytes = limit_bytes
        self._parked = trio.lowlevel.ParkingLot()
        self._ahead: object | None = None
        self._behind = trio.lowlevel.ParkingLot()
        self._waiting_bytes = 0
        self.held_bytes = 0
        self.fetch_bytes = 0

    @property
    def is_spent(self) -> bool:
        """Whether readers have to wait."""
        return self.held_bytes >= self._limit_bytes

    @property
    def disk_is_behind(self) -> bool:
        """Whether the batches that wait for the disk alone are the whole budget: nothing more is read then."""
        return self._waiting_bytes >= self._limit_bytes

    def reserve(self, count: int) -> None:
        """Hold `count` more bytes for a frame, whether there is room or not."""
        self.held_bytes += count

    def release(self, count: int, owner: object | None = None) -> None:
        """Give `count` bytes of a frame back; its `owner` grows no more."""
        if owner is not None and self._ahead is owner:
            self._ahead = None
        self._give_back(count)

    def hold(self, count: int) -> None:
        """Hold `count` more bytes that wait for the disk; a negative count gives them back."""
        self._waiting_bytes += count
        assert self._waiting_bytes >= 0, self._waiting_bytes
        if count < 0:
            self._give_back(-count)
            if self._behind and not self.disk_is_behind:
                self._behind.unpark_all()
        else:
            self.held_bytes += count

    def admit_fetch(self, count: int) -> bool:
        """Hold `count` bytes of a fetch that is to wait, if there is room."""
        if self.fetch_bytes + count > self._limit_bytes:
            return False
        self.fetch_bytes += count
        return True

    def end_fetch(self, count: int) -> None:
        """Give `count` bytes of a fetch back that waits no more."""
        self.fetch_bytes -= count
        assert self.fetch_bytes >= 0, self.fetch_bytes

    def _give_back(self, count: int) -> None:
        self.held_bytes -= count
        assert self.held_bytes >= 0, self.held_bytes
        if self._parked and (not self.is_spent or (self._ahead is None and not self._waiting_bytes)):
            self._parked.unpark_all()

    async def grow(self, count: int, owner: object) -> None:
        """Hold `count` more bytes for the frame of `owner`, when it is its turn. Cancellation: nothing changes."""
        while self.is_spent and self._ahead is not owner:
            if self._ahead is None and not self._waiting_bytes:
                self._ahead = owner
                break
            await self._parked.park()
        self.held_bytes += count

    async def wait_for_room(self) -> None:
        """Return once the bytes held are below the bound. Cancellation: nothing changes."""
        while self.is_spent:
            await self._parked.park()

    async def wait_for_disk(self) -> None:
        """Return once the disk is no longer behind. Cancellation: nothing changes."""
        while self.disk_is_behind:
            await self._behind.park()


class BufferPool:
    """Frame buffers for reuse, so that a stream of 1 MB frames does not fault in fresh pages for each.

    Keeps at most `keep_count` buffers of at most `keep_bytes` each; larger ones are dropped.
    """

    __slots__ = ("_free", "_keep_bytes", "_keep_count")

    def __init__(self, keep_count: int = 4, keep_bytes: int = 2 << 20) -> None:
        self._free: list[bytearray] = []
        self._keep_count = keep_count
        self._keep_bytes = keep_bytes

    def take(self, wanted_bytes: int, least_bytes: int) -> bytearray:
        """A kept buffer of at least `wanted_bytes`, its content arbitrary; where there is none, a new one of `least_bytes`."""
        for place, buffer in enumerate(self._free):
            if len(buffer) >= wanted_bytes:
                return self._free.pop(place)
        return bytearray(least_bytes)

    def give(self, buffer: bytearray) -> None:
        """Hand a buffer back. Nobody may hold a view of it."""
        if len(buffer) <= self._keep_bytes:
            if len(self._free) >= self._keep_count:
                smallest = min(range(len(self._free)), key=lambda place: len(self._free[place]))
                if len(self._free[smallest]) >= len(buffer):
                    return
                self._free.pop(smallest)
            self._free.append(buffer)
