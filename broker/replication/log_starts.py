"""Log start offsets of followers, which follow their leaders'.

Owns which are to be moved. They are made durable before they hold, many with one write, so that records which were deleted never come back.
Knows nothing of fetching.
"""

from collections.abc import Callable

import trio

from penstock.broker.partition import Partition
from penstock.broker.partitions import PartitionManager
from penstock.runtime.files import StorageError

INTERVAL_S = 0.1
RETRY_S = 5.0


class LogStarts:
    """See the module. `run` must be running for anything to be moved; `moved` is told of each that was."""

    def __init__(self, partitions: PartitionManager, moved: Callable[[Partition], None]) -> None:
        self._partitions = partitions
        self._moved = moved
        self._targets: dict[Partition, int] = {}
        self._added = trio.Event()

    def follow(self, partition: Partition, log_start_offset: int) -> None:
        """Have a partition's log begin where its leader's does, but not above what is known to be committed."""
        target = min(log_start_offset, partition.high_watermark)
        if target > partition.log.log_start_offset:
            self._targets[partition] = target
            self._added.set()

    async def run(self) -> None:
        """Move them, for ever."""
        while True:
            await self._added.wait()
            self._added = trio.Event()
            targets, self._targets = self._targets, {}
            alive = {
                partition: target
                for partition, target in targets.items()
                if self._partitions.by_id(partition.topic_id, partition.index) is partition
                and target <= partition.log.log_end_offset
            }
            try:
                if alive:
                    await self._partitions.move_log_starts(alive)
                    for partition in alive:
                        self._moved(partition)
            except StorageError:
                await trio.sleep(RETRY_S)  # told already; the leader's next answer says it again
            await trio.sleep(INTERVAL_S)


__all__ = ["LogStarts"]
