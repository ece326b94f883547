"""The process's file descriptors: who may have how many, and which partitions keep their active segment open to append.

Owns the division of the limit between active segments, other segments and connections, and the order in which idle active segments are
closed. The files themselves are the logs' and `SegmentFiles`'.

A partition asks for a place before it opens its active segment. Where all are taken, the one that was opened longest ago and has not been
appended to since it was last looked at gives its place up: in its own lane it syncs and closes its file, and its next append opens it
again, on a worker. So an append on the event loop never meets a file that is being closed, and the hot path pays nothing: whether a
segment was used is told by its size.

Invariants: places taken never exceed their number; who waits for a place holds none, so a holder's lane always comes to its end.
"""

from collections import OrderedDict
from contextlib import suppress
from typing import TYPE_CHECKING, NamedTuple

import trio

from penstock.broker.partition_machine import Synced
from penstock.runtime.files import StorageError

if TYPE_CHECKING:
    from penstock.broker.partition import Partition

OTHER_DESCRIPTORS = 64
"""For listeners, the metadata store, checkpoints that are being written, the process's own."""
SEGMENT_FILES_MAX = 32_768
CLOSED_SEGMENTS_MAX = 1024
UNPREPARED = -1


class FileShares(NamedTuple):
    """How a process's descriptors are divided."""

    active_segments: int
    closed_segments: int
    """Kept open for readers; as many more may be open while they are being sent."""
    connections: int


def divide(descriptors_max: int) -> FileShares:
    """Half for segments, the rest for connections, from the limit of open files of the process."""
    segments = max(16, min((descriptors_max - OTHER_DESCRIPTORS) // 2, SEGMENT_FILES_MAX))
    closed = min(CLOSED_SEGMENTS_MAX, segments // 8)
    return FileShares(segments - 2 * closed, closed, max(16, descriptors_max - OTHER_DESCRIPTORS - segments))


class ActiveFiles:
    """The places for active segments that are open to append."""

    def __init__(self, count_max: int) -> None:
        self._count_max = count_max
        self._holders: OrderedDict[Partition, int] = OrderedDict()
        """With the position that each segment ended at when it was last looked at."""
        self._closing: set[Partition] = set()
        """They have been chosen, and have their place until their lane comes to it."""
        self._freed = trio.lowlevel.ParkingLot()

    def __len__(self) -> int:
        """Places taken."""
        return len(self._holders) + len(self._closing)

    async def take_place(self, partition: "Partition") -> None:
        """Return when the partition may open its active segment. To be called in its lane. Cancellation: no place is taken."""
        while partition not in self._holders and partition not in self._closing:
            if len(self) < self._count_max:
                self._holders[partition] = UNPREPARED
                self._freed.unpark()  # somebody may wait for a holder to appear
            elif self._holders:
                await self._close(self._pick())
            else:
                await self._freed.park()

    def _pick(self) -> "Partition":
        """The holder that goes. Each was looked at once at the most, and those that were appended to since come behind the others."""
        holders = self._holders
        for _ in range(len(holders)):
            partition, seen_end_offset = next(iter(holders.items()))
            end_offset = partition.log.log_end_offset
            if seen_end_offset == end_offset:
                break
            holders[partition] = end_offset
            holders.move_to_end(partition)
        return next(iter(holders))

    async def _close(self, partition: "Partition") -> None:
        def close() -> None:
            partition.prepared_epoch = UNPREPARED
            try:
                partition.log.release_active_file()
            finally:
                # here, on the worker: the next job of the lane must find the place gone
                self._closing.discard(partition)

        del self._holders[partition]
        self._closing.add(partition)
        try:
            # what went wrong with its sync is that partition's, and is told there
            with suppress(StorageError):
                await partition.run_in_lane(close)
                partition.step(Synced(partition.log.durable_end_offset))
        finally:
            self._closing.discard(partition)
            self._freed.unpark()

    def forget(self, partition: "Partition") -> None:
        """The partition's log is closed: its place is free."""
        if self._holders.pop(partition, None) is not None:
            self._freed.unpark()


__all__ = ["ActiveFiles", "FileShares", "divide"]
