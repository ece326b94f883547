"""The partitions of a broker as its checkpoints have them: which there are, and the writing down of their offsets.

Owns the tables of open partitions and the order of checkpoints. Knows neither the image nor how a partition comes and goes: `partitions` does.

Checkpoints are written one after the other, each with the offsets as they are when its turn comes. A deletion waits for the one under way: an
offset of a deleted partition must never be found by a new one of its name (a log start above its end empties a log). A log is cut while none is
written, and when none names an offset above the lowest at which it may end meanwhile: a log that ends below its recovery point would look damaged.
"""

import logging
from collections.abc import AsyncGenerator, Callable, Collection, Iterator, Mapping
from contextlib import asynccontextmanager
from typing import TypeVar, TypeVarTuple

import trio

from penstock.broker.broker_config import BrokerConfig
from penstock.broker.partition import Partition
from penstock.broker.partition_settings import PartitionServices
from penstock.broker.workers import run_storage
from penstock.errors import PenstockError
from penstock.storage.data_directory import DataDirectory
from penstock.storage.layout import OFFSET_MAX

log = logging.getLogger(__name__)
T = TypeVar("T")
Ts = TypeVarTuple("Ts")

SAVE_AFTER_BYTES = 64 << 20
"""How much of an active segment a start after a kill may have to walk through, besides what lies above the recovery point."""


class CheckpointedPartitions:
    """The part of `PartitionManager` that the checkpoints are written by."""

    def __init__(self, config: BrokerConfig, directory: DataDirectory, services: PartitionServices) -> None:
        self._config = config
        self._directory = directory
        self._services = services
        self._by_name: dict[tuple[str, int], Partition] = {}
        self._by_id: dict[tuple[bytes, int], Partition] = {}
        self._written_high_watermarks: dict[tuple[str, int], int] = {}
        self._written_recovery_points: dict[tuple[str, int], int] = {}
        self._writing = trio.Lock()

    # Looking up

    def by_name(self, topic: str, index: int) -> Partition | None:
        """The partition, if its log is open here."""
        return self._by_name.get((topic, index))

    def by_id(self, topic_id: bytes, index: int) -> Partition | None:
        """The partition, if its log is open here."""
        return self._by_id.get((topic_id, index))

    def __iter__(self) -> Iterator[Partition]:
        return iter(tuple(self._by_name.values()))

    def __len__(self) -> int:
        return len(self._by_name)

    # Checkpoints

    async def keep_checkpoints(self) -> None:
        """Write the checkpoints every now and then, for ever. A task of its own: on a slow disk nothing else must wait for it."""
        while True:
            await trio.sleep(self._config.high_watermark_checkpoint_interval_ms / 1000)
            await self.write_checkpoints()
            await self.save_indexes()

    async def save_indexes(self) -> None:
        """Write indexes and producer snapshots of the active segments that have grown, so that a start after a kill has little to read."""
        for partition in [p for p in self._by_name.values() if p.log.unsaved_bytes >= SAVE_AFTER_BYTES]:
            try:
                await self._save_indexes(partition)
            except PenstockError as error:
                if partition.log.failure is None:
                    log.warning("%s-%d: indexes can't be saved: %s", partition.topic, partition.index, error)
            except Exception:
                log.exception("%s-%d: the saving of indexes ended by a bug", partition.topic, partition.index)

    async def _save_indexes(self, partition: Partition) -> None:
        encoded: list[tuple[int, bytes]] = []

        def encode() -> None:
            encoded.append(partition.log.encode_producers())

        await partition.run_in_lane(encode)
        if encoded:  # else by a bug, which the lane has told of
            await self._run(partition.log.save_indexes, *encoded[0])

    async def write_checkpoints(self) -> None:
        """Write high watermarks and recovery points if they changed since the last time. An error is logged: they only save time."""
        async with self._writing:
            high_watermarks = {key: partition.high_watermark for key, partition in self._by_name.items()}
            recovery_points = {
                key: partition.log.durable_end_offset for key, partition in self._by_name.items()
            }
            try:
                if high_watermarks != self._written_high_watermarks:
                    await self._run(self._directory.write_high_watermarks, high_watermarks)
                    self._written_high_watermarks = high_watermarks
                if recovery_points != self._written_recovery_points:
                    await self._run(self._directory.write_recovery_points, recovery_points)
                    self._written_recovery_points = recovery_points
            except PenstockError as error:
                log.error("checkpoints can't be written: %s", error)

    async def move_log_starts(
        self, targets: Mapping[Partition, int], holds: Callable[[Partition], bool] = lambda _: True
    ) -> Collection[Partition]:
        """Make log start offsets durable, then let them hold; those below the present ones change nothing. Returns whose have been moved.

        A disk may take its time: for whom `holds` is false by then, nothing moves. No target is above its partition's high watermark.
        Raises StorageError, which is logged, too: nothing has moved.
        """
        async with self._writing:
            moving = {partition: offset for partition, offset in targets.items() if holds(partition)}
            while True:
                await self._write_log_starts(moving)
                left = {partition: offset for partition, offset in moving.items() if holds(partition)}
                if len(left) == len(moving):
                    break
                moving = left  # and what was written for the others is taken back
            for partition, offset in moving.items():
                partition.advance_log_start(offset)
            return moving

    async def _write_log_starts(self, targets: Mapping[Partition, int]) -> None:
        starts = {
            key: max(partition.log.log_start_offset, targets.get(partition, 0))
            for key, partition in self._by_name.items()
        }
        try:
            await self._run(self._directory.write_log_starts, starts)
        except PenstockError as error:
            log.error("the log start offsets can't be written: %s", error)
            raise

    @asynccontextmanager
    async def cutting(
        self, partition: Partition, offset: int, log_start_offset: int = OFFSET_MAX
    ) -> AsyncGenerator[None]:
        """While this is entered no checkpoint names an offset of the partition above `offset`, that of log starts above its own. Raises StorageError."""
        topic, index = partition.topic, partition.index
        async with self._writing:
            # what is lowered here is written again, also where nothing is cut in the end
            self._written_high_watermarks, self._written_recovery_points = {}, {}
            await self._run(self._directory.lower_offsets, topic, index, offset, log_start_offset)
            yield

    async def _checkpoint_ended(self) -> None:
        """Return when the checkpoint under way, which may name partitions that are there no more, is written; those to come will not."""
        async with self._writing:
            pass

    async def _run(self, function: Callable[[*Ts], T], *args: *Ts) -> T:
        return await run_storage(self._services.threads, function, *args)


__all__ = ["CheckpointedPartitions"]
