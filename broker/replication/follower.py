"""A follower's log: carries out what the fetcher has decided, each change in the partition's lane.

Owns the order of what is done to one log that follows: is it still followed from there, is the file open, checkpoints before cuts, the
append or the cut, the sync. Decides nothing about which leader or offset. Sends nothing.

Invariants:
    - Before each change it is looked at again whether this replica follows that leader in that epoch: what an older answer brought is
      dropped. Where this replica becomes the leader while a worker is at its log, its epoch begins behind that.
    - Nothing below the replica's own high watermark is cut (PROPERTIES D7): whoever would have to is damaged, see `TruncationRefused`.
    - A cut begins when no checkpoint names an offset above it: a log that ends below its recovery point would look damaged. One that is dropped goes
      from its end on, wherever the next begins: so none names any offset of it.
    - On return all of the log counts: it is durable where `write.caching` is off.

Source: Kafka's `Partition.appendRecordsToFollowerOrFutureReplica`, `ReplicaFetcherThread`.
"""

from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import replace
from typing import TypeVar

from penstock.broker.partition import Partition
from penstock.broker.partition_events import LeaderTold, LogTruncated, Synced
from penstock.broker.partition_machine import Role
from penstock.broker.partition_settings import PartitionServices
from penstock.broker.replication.fetcher_machine import NO_EPOCH, Append, Standing, StartOver, Truncate
from penstock.broker.workers import run_storage
from penstock.errors import PenstockError
from penstock.protocol.record_batch import (
    HEADER_SIZE_BYTES,
    LENGTH_PREFIX_SIZE_BYTES,
    iterate_batches,
    read_batch_header,
)
from penstock.runtime.files import StorageError
from penstock.storage.errors import CorruptBatch, StaleLeaderEpoch
from penstock.storage.layout import OFFSET_MAX
from penstock.storage.log import Log

T = TypeVar("T")

APPEND_AT_ONCE_MAX_BYTES = 64 * 1024
"""More than that is checked and written by a worker: it would hold the event loop up for longer than the hop takes."""
FOLLOWING = -2
"""In place of the prepared leader epoch: the active segment's file is open, and nothing was prepared that a leader needs."""
UNPREPARED = -1

Cutting = Callable[[Partition, int, int], AbstractAsyncContextManager[None]]
"""Entered once no checkpoint of the partition is above the first offset, and that of log starts not above the second; while it is, none will be."""


class NotFollowed(PenstockError):
    """The partition does not follow that leader in that epoch (any more); nothing was done."""


class TruncationRefused(PenstockError):
    """To follow this leader, the log would have to lose what is committed. It, or the leader's, is damaged."""


class FollowerLogs:
    """See the module. `cutting` is the partition manager's."""

    def __init__(self, services: PartitionServices, cutting: Cutting) -> None:
        self._services = services
        self._cutting = cutting

    # Appending

    def begin(self, partition: Partition, append: Append) -> Append | None:
        """Append right here as far as that takes no more than a write; returns what is left for `append`, None if all is done and counts.

        Raises nothing: what is wrong is found again by `append`.
        """
        if (
            len(append.records) > APPEND_AT_ONCE_MAX_BYTES
            or partition.lane.is_busy
            or partition.prepared_epoch == UNPREPARED
            or not self.is_followed(partition, append.leader_epoch)
            or self._begins_inside(partition, append.records)
        ):
            return append
        position = self._append_here(partition, append)
        if not position:
            return append
        partition.note_followed(position)
        rest = append.records[position:]
        if not _holds_a_batch(rest) and partition.machine.write_caching:
            partition.step(LeaderTold(append.high_watermark))
            return None
        return replace(append, records=rest)

    def _append_here(self, partition: Partition, append: Append) -> int:
        """Returns how many of the bytes were appended."""
        log, records = partition.log, append.records
        before = log.log_end_offset
        try:
            return log.append_as_follower(
                records,
                now_ms=self._services.clock.wall_ms(),
                epoch_max=append.leader_epoch,
                may_wait=False,
            ).size_bytes
        except CorruptBatch as error:
            return error.position
        except (StorageError, StaleLeaderEpoch):
            return _size_below(records, log.log_end_offset) if log.log_end_offset > before else 0

    async def append(self, partition: Partition, append: Append) -> None:
        """Append, and return when all of the log counts. The records are used until then.

        Raises:
            NotFollowed: nothing, or only a part, was appended.
            CorruptBatch, StaleLeaderEpoch: the leader's bytes are no good from some batch on; those before are appended.
            StorageError: this disk's.
        """
        if _holds_a_batch(append.records):

            async def job() -> None:
                await self._append_in_lane(partition, append)

            await self._in_lane(partition, job)
        partition.step(LeaderTold(append.high_watermark))
        await self._count(partition)

    async def _append_in_lane(self, partition: Partition, append: Append) -> None:
        records = append.records
        self.require_followed(partition, append.leader_epoch)
        if self._begins_inside(partition, records):
            await self._start_inside(partition, records)
        if partition.prepared_epoch == UNPREPARED:
            await self._services.active_files.take_place(partition)
            await self._run(partition.log.open_active_file)
            partition.prepared_epoch = FOLLOWING
        self.require_followed(partition, append.leader_epoch)
        log, now_ms = partition.log, self._services.clock.wall_ms()

        def append_on_worker() -> None:
            log.append_as_follower(records, now_ms=now_ms, epoch_max=append.leader_epoch)

        before = log.log_end_offset
        try:
            with partition.changing_log():
                await self._run(append_on_worker)
        finally:
            if log.log_end_offset != before:
                partition.note_followed(len(records))

    def _begins_inside(self, partition: Partition, records: memoryview) -> bool:
        """Whether nothing is in the log, and it begins inside of the first batch: the leader's does, by a deletion, and batches come whole."""
        log = partition.log
        if log.log_start_offset < log.log_end_offset or len(records) < HEADER_SIZE_BYTES:
            return False
        header = read_batch_header(records)
        return header.base_offset < log.log_end_offset < header.next_offset

    async def _start_inside(self, partition: Partition, records: memoryview) -> None:
        log = partition.log
        base_offset = read_batch_header(records).base_offset
        start = log.log_start_offset
        async with self._cutting(partition, 0, OFFSET_MAX):
            with partition.changing_log():
                await self._run(lambda: log.truncate_fully_and_start_at(base_offset, log_start_offset=start))
            partition.prepared_epoch = UNPREPARED

    # Cutting

    async def truncate(self, partition: Partition, cut: Truncate) -> None:
        """Cut what the leader's log does not have. Raises NotFollowed, TruncationRefused, StorageError; nothing is done then."""

        async def job() -> None:
            self.require_followed(partition, cut.leader_epoch)
            offset = point_of_divergence(partition.log, cut.epoch, cut.end_offset)
            if offset < partition.high_watermark:
                raise TruncationRefused(
                    f"the leader's epoch {cut.epoch} ends at {cut.end_offset}, so everything from {offset} on would have to go, "
                    f"of which all below {partition.high_watermark} is committed"
                )
            async with self._cutting(partition, offset, OFFSET_MAX):
                self.require_followed(partition, cut.leader_epoch)
                with partition.changing_log():
                    await self._run(partition.log.truncate_to, offset)
                self._was_cut(partition)

        await self._in_lane(partition, job)
        await self._count(partition)

    async def start_over(self, partition: Partition, cut: StartOver) -> None:
        """Drop everything and go on where the leader's log begins. Raises as `truncate`."""

        async def job() -> None:
            self.require_followed(partition, cut.leader_epoch)
            if cut.offset < partition.high_watermark:
                raise TruncationRefused(
                    f"the leader's log begins at {cut.offset} and ends below {partition.high_watermark}, where all is committed"
                )
            async with self._cutting(partition, 0, cut.offset):
                self.require_followed(partition, cut.leader_epoch)
                with partition.changing_log():
                    await self._run(partition.log.truncate_fully_and_start_at, cut.offset)
                self._was_cut(partition)

        await self._in_lane(partition, job)

    def _was_cut(self, partition: Partition) -> None:
        partition.prepared_epoch = (
            UNPREPARED  # the active segment is another one now, and its file is not open
        )
        log = partition.log
        partition.step(LogTruncated(log.log_end_offset, log.durable_end_offset, log.log_start_offset))

    # Where the log stands

    async def settle(self, partition: Partition, leader_epoch: int) -> None:
        """Return when what an earlier leader, or this broker as one, has begun in the log is done, and all of it counts. Raises as `append`."""

        async def job() -> None:
            self.require_followed(partition, leader_epoch)

        await self._in_lane(partition, job)
        await self._count(partition)

    async def _count(self, partition: Partition) -> None:
        """Sync what is there now, where only that counts."""
        log = partition.log
        target = log.log_end_offset
        while not partition.machine.write_caching and log.durable_end_offset < min(
            target, log.log_end_offset
        ):
            if log.failure is not None:
                raise NotFollowed(f"{partition.topic}-{partition.index}: {log.failure}")
            partition.syncs.start()
            await partition.syncs.wait_idle()
        if partition.machine.counted_end_offset < min(target, log.durable_end_offset):
            partition.step(Synced(log.durable_end_offset))  # a roll has synced all of it

    def is_followed(self, partition: Partition, leader_epoch: int) -> bool:
        """Whether this replica follows somebody in that epoch; an epoch has one leader."""
        machine = partition.machine
        return machine.role is Role.FOLLOWER and machine.leader_epoch == leader_epoch

    def require_followed(self, partition: Partition, leader_epoch: int) -> None:
        """Raise NotFollowed unless `is_followed`."""
        if not self.is_followed(partition, leader_epoch):
            raise NotFollowed(f"{partition.topic}-{partition.index} does not follow in epoch {leader_epoch}")

    # Workers and the lane

    async def _run(self, function: Callable[..., T], *args: object) -> T:
        return await run_storage(self._services.threads, function, *args)

    async def _in_lane(self, partition: Partition, job: Callable[[], Awaitable[None]]) -> None:
        """Do `job` in its turn and raise what it raises of ours. Cancellation: it is done all the same."""

        async def told() -> None:
            try:
                await job()
            except StorageError as error:
                if partition.log.failure is not None:
                    partition.note_storage_error(error)
                raise

        await partition.lane.do(told)


def _holds_a_batch(records: memoryview) -> bool:
    """Whether there is a whole batch; what is torn off is left out. Bytes that are no batch count as one: to append them tells what is wrong."""
    if len(records) < LENGTH_PREFIX_SIZE_BYTES:
        return False
    return LENGTH_PREFIX_SIZE_BYTES + _batch_length(records, 0) <= len(records)


def _size_below(records: memoryview, offset: int) -> int:
    """How many bytes the whole batches before `offset` take, all of which have been checked."""
    size_bytes = 0
    for header, batch in iterate_batches(records):
        if header.base_offset >= offset:
            break
        size_bytes += len(batch)
    return size_bytes


def _batch_length(records: memoryview, position: int) -> int:
    return int.from_bytes(records[position + 8 : position + LENGTH_PREFIX_SIZE_BYTES], "big", signed=True)


def standing_of(partition: Partition) -> Standing:
    """Where the log stands. The epoch is that of its last batch: one in which this broker led and got nothing says nothing about what it has."""
    log = partition.log
    end = log.log_end_offset
    last_epoch = log.epoch_at(end - 1) if end > log.segments[0].base_offset else NO_EPOCH
    return Standing(end, last_epoch, log.log_start_offset)


def point_of_divergence(log: Log, epoch: int, end_offset: int) -> int:
    """Up to where this log can be the leader's, which has `epoch` as its largest at or below ours, ending at `end_offset` (KIP-101, KIP-279).

    Where this log knows the epoch, it is the lesser of the two ends. Where it does not, all that is of later epochs must go, and the leader
    is asked again about what is the last epoch then.
    """
    own_epoch, own_end_offset = log.end_offset_for_epoch(epoch)
    if own_epoch == epoch:
        return min(own_end_offset, end_offset, log.log_end_offset)
    if own_epoch >= 0:
        return min(own_end_offset, log.log_end_offset)
    return min(end_offset, log.log_end_offset)


__all__ = [
    "FollowerLogs",
    "NotFollowed",
    "TruncationRefused",
    "point_of_divergence",
    "standing_of",
]
