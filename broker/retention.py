"""Retention: moves log start offsets, by policy or because a client asked, and deletes the segments below.

Owns when logs are looked at and the order of each deletion. What is to go `storage/retention.py` decides. One task for all partitions:
those at rest cost one look each `log.retention.check.interval.ms`, on a worker, many to a hop.

The order, so that it may end anywhere: the new log start offset is durable in its checkpoint, then it holds for readers, then segments go,
the oldest first, one worker call each, so that syncs of that log come in between; their files are renamed at once and removed
`file.delete.delay.ms` later. Readers that hold a slice keep its file.

With `retention.keep.unconsumed` nothing goes by policy that a counted group has not consumed (`partition.deletable_end_offset`), as is known when a
start comes to hold, not only when it was planned; what is kept back so is told in the log. DeleteRecords goes by what its client wants.

A full disk must not keep retention from making room. Where the checkpoint finds no space, whole segments go first and their files at
once: what is left says where the log begins. Then the checkpoint is tried again.

Source: Kafka's `LogManager.cleanupLogs`, `UnifiedLog.deleteOldSegments`; KIP-107.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING

import trio

from penstock.broker.broker_config import BrokerConfig
from penstock.broker.deleted_files import DeletedFiles
from penstock.broker.partition import Partition
from penstock.broker.partition_machine import Synced
from penstock.broker.partitions import PartitionManager
from penstock.broker.workers import run_storage
from penstock.runtime.clock import Clock
from penstock.runtime.files import DiskFull, StorageError
from penstock.runtime.threads import Threads
from penstock.storage.errors import LogClosed
from penstock.storage.log import Log
from penstock.storage.retention import CautiousClock, RetentionPlan, plan_for

if TYPE_CHECKING:
    from penstock.broker.backlog.kept import KeptBack

log = logging.getLogger(__name__)

LOGS_PER_HOP = 64


class Retention:
    """See the module."""

    def __init__(
        self,
        config: BrokerConfig,
        clock: Clock,
        threads: Threads,
        partitions: PartitionManager,
        deleted: DeletedFiles,
    ) -> None:
        self._interval_s = config.log_retention_check_interval_ms / 1000
        self._first_s = config.log_initial_task_delay_ms / 1000
        self._clock = clock
        self._cautious = CautiousClock()
        self._threads = threads
        self._partitions = partitions
        self._deleted = deleted

    async def run(self) -> None:
        """Check all logs every now and then, for ever."""
        self._now_ms()
        await trio.sleep(min(self._interval_s, self._first_s))
        while True:
            try:
                await self.check()
            except Exception:
                log.exception("retention ended by a bug; it is tried again")
            await trio.sleep(self._interval_s)

    def _now_ms(self) -> int:
        return self._cautious.now_ms(self._clock.monotonic(), self._clock.wall_ms())

    async def check(self) -> None:
        """Do once what the policies of all logs ask for. What goes wrong with one log is named and leaves the others alone."""
        partitions = [partition for partition in self._partitions if partition.log.failure is None]
        plans: dict[Partition, RetentionPlan] = {}
        for start in range(0, len(partitions), LOGS_PER_HOP):
            plans.update(await self._plan(partitions[start : start + LOGS_PER_HOP]))
        for partition in [partition for partition, found in plans.items() if found.rolls]:
            del plans[partition]
            if await self._roll(partition):
                plans.update(await self._plan([partition]))
        if plans:
            reasons = {partition: found.reason for partition, found in plans.items()}
            await self._cut_each({p: found.log_start_offset for p, found in plans.items()}, reasons)

    async def _plan(self, partitions: Sequence[Partition]) -> dict[Partition, RetentionPlan]:
        now_ms = self._now_ms()

        kept: dict[Partition, tuple[int, KeptBack | None]] = {}

        def plan_each() -> dict[Partition, RetentionPlan]:
            plans: dict[Partition, RetentionPlan] = {}
            for partition in partitions:
                try:
                    limit = partition.deletable_end_offset
                    found = plan_for(partition.log, limit, now_ms)
                    if partition.gate is not None:
                        kept[partition] = limit, _kept_back(partition, limit, found, now_ms)
                except (StorageError, FileNotFoundError) as error:
                    _log_failure(partition, error)
                    continue
                if found is not None:
                    plans[partition] = found
            return plans

        plans = await self._threads.run(plan_each)
        for partition, (limit, kept_back) in kept.items():
            gate = partition.gate
            if gate is not None:
                group = gate.rule.slowest_group if gate.rule.is_known else None
                name = f"{partition.topic}-{partition.index}"
                now = self._clock.monotonic()
                gate.kept_lines.tell(name, kept_back, group, limit, now, self._clock.wall_ms())
        return plans

    async def _roll(self, partition: Partition) -> bool:
        """Begin a new segment in the log's lane, so that the one before it can go."""
        try:
            await partition.run_in_lane(partition.log.roll)
        except StorageError as error:
            _log_failure(partition, error)
            return False
        partition.step(Synced(partition.log.durable_end_offset))
        return True

    async def _cut_each(self, starts: Mapping[Partition, int], reasons: Mapping[Partition, str]) -> None:
        def holds(partition: Partition) -> bool:
            return starts[partition] <= partition.deletable_end_offset

        try:
            await self._move(starts, holds)
        except StorageError:
            return  # told already; the next check tries again
        for partition in starts:
            try:
                await self._delete(partition, reasons[partition], partition.log.config.file_delete_delay_ms)
            except StorageError as error:
                _log_failure(partition, error)

    async def cut(self, starts: Mapping[Partition, int], reason: str) -> None:
        """Let logs begin at these offsets, none above its high watermark; durable on return. Offsets below the present start change nothing.

        Raises StorageError: the start is not durable for one of them, or segments below it could not be deleted.
        """
        await self._move(starts, lambda _: True)
        for partition in starts:
            await self._delete(partition, reason, partition.log.config.file_delete_delay_ms)

    async def _move(self, starts: Mapping[Partition, int], holds: Callable[[Partition], bool]) -> None:
        """Make the starts durable and let them hold, if they do. On a full disk room is made first by what lies below them."""
        try:
            await self._partitions.move_log_starts(starts, holds)
        except DiskFull:
            if not await self._make_room(starts, holds):
                raise
            await self._partitions.move_log_starts(starts, holds)

    async def _make_room(self, starts: Mapping[Partition, int], holds: Callable[[Partition], bool]) -> bool:
        """Delete whole segments without a checkpoint; whether there were any."""
        any_gone = False
        for partition, offset in starts.items():
            if not holds(partition):
                continue
            bases = [
                segment.base_offset for segment in partition.log.segments if segment.base_offset <= offset
            ]
            if bases and partition.log.log_start_offset < bases[-1]:
                partition.advance_log_start(bases[-1])
            any_gone |= await self._delete(partition, "and the disk is full", 0) > 0
        return any_gone

    async def _delete(self, partition: Partition, reason: str, delay_ms: int) -> int:
        """Delete the segments below the log start offset; returns how many. Raises StorageError."""
        count = size_bytes = 0
        partition_log: Log = partition.log
        try:
            while removed := await run_storage(self._threads, partition_log.put_oldest_segment_away):
                count += 1
                size_bytes += removed.size_bytes
                remove = partial(partition_log.remove_files, removed.paths)
                if delay_ms > 0:
                    self._deleted.add(f"{partition.topic}-{partition.index}", remove, delay_ms)
                else:
                    await run_storage(self._threads, remove)
        except LogClosed:
            pass  # the topic was deleted meanwhile
        if count:
            log.info(
                "%s-%d: deleted %d segment(s), %d bytes, %s; the log begins at offset %d",
                partition.topic,
                partition.index,
                count,
                size_bytes,
                reason,
                partition_log.log_start_offset,
            )
        return count


def _kept_back(
    partition: Partition, limit: int, found: RetentionPlan | None, now_ms: int
) -> "KeptBack | None":
    """What would go besides if nothing were kept for a group. Worker; raises as `plan_for`."""
    if limit >= partition.high_watermark:
        return None
    from penstock.broker.backlog.kept import KeptBack  # loaded where something is kept

    wanted = plan_for(partition.log, partition.high_watermark, now_ms)
    first = 0 if found is None else found.segment_count
    if wanted is None or wanted.segment_count <= first:
        return None
    sizes = [segment.size_bytes for segment in partition.log.segments[first : wanted.segment_count]]
    return KeptBack(len(sizes), sum(sizes), wanted.reason)


def _log_failure(partition: Partition, error: Exception) -> None:
    if not isinstance(error, LogClosed):
        log.error("%s-%d: retention: %s", partition.topic, partition.index, error)


__all__ = ["Retention"]
