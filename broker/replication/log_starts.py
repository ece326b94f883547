"""Log start offsets of followers, which follow their leaders'.

Owns which are to be moved. They are made durable before they hold, many with one write, so that records which were deleted never come back.
What a leader has told counts in its epoch only: whoever leads afterwards, this replica perhaps, may have to keep what that one has deleted, and
may have other records there. Knows nothing of fetching.
"""

from collections.abc import Callable, Mapping

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
        self._targets: dict[Partition, tuple[int, int]] = {}
        """Leader epoch and offset."""
        self._added = trio.Event()

    def follow(self, partition: Partition, leader_epoch: int, log_start_offset: int) -> None:
        """Have a partition's log begin where its leader's does in that epoch, but not above what is known to be committed."""
        target = min(log_start_offset, partition.high_watermark)
        if target > partition.log.log_start_offset:
            self._targets[partition] = leader_epoch, target
            self._added.set()

    async def run(self) -> None:
        """Move them, for ever."""
        while True:
            await self._added.wait()
            self._added = trio.Event()
            targets, self._targets = self._targets, {}
            try:
                await self._move(targets)
            except StorageError:
                await trio.sleep(RETRY_S)  # told already; the leader's next answer says it again
            await trio.sleep(INTERVAL_S)

    async def _move(self, targets: Mapping[Partition, tuple[int, int]]) -> None:
        def holds(partition: Partition) -> bool:
            epoch, target = targets[partition]
            return (
                self._partitions.by_id(partition.topic_id, partition.index) is partition
                and partition.machine.leader_epoch == epoch
                and target <= partition.log.log_end_offset
            )

        starts = {partition: target for partition, (_, target) in targets.items()}
        for partition in await self._partitions.move_log_starts(starts, holds):
            self._moved(partition)


__all__ = ["LogStarts"]
