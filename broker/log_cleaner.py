"""The log cleaner: which compacted log is next, and how fast the work goes on.

Owns the choice (the dirtiest log that is due), the pace, the checkpoint of what is clean, and what follows from an error. What compacting means
`storage/compaction.py` knows.

Python runs one thread at a time. So a compaction works on a worker in steps of about a third of a millisecond, and the event loop has the
interpreter for three times as long after each; a step that took longer because others were at work is followed by a longer pause. That is a
quarter of a core at the most for each of `log.cleaner.threads`.

An error ends the compaction of one log and disturbs nobody: damage makes it uncleanable until the next start, and so does a control batch that
can't be read; anything else is tried again after a while. One line each.

Source: Kafka's `LogCleaner`, `LogCleanerManager`; KIP-346 (uncleanable partitions).
"""

import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING

import trio

from penstock.broker.broker_config import BrokerConfig
from penstock.broker.partition import Partition
from penstock.broker.partitions import PartitionManager
from penstock.broker.workers import run_storage
from penstock.runtime.clock import Clock
from penstock.runtime.files import StorageError
from penstock.runtime.threads import Threads
from penstock.storage.compaction_plan import CompactionPlan, plan_compaction
from penstock.storage.data_directory import DataDirectory
from penstock.storage.errors import CorruptBatch, LogChanged, LogClosed, LogFailed, UnreadableRecords
from penstock.storage.retention import CautiousClock

if TYPE_CHECKING:
    from penstock.storage.compaction import Compaction, CompactionResult

log = logging.getLogger(__name__)

PAUSE_PER_WORK = 3.0
RETRY_S = 300.0
"""After an error that may pass, a full disk say."""
LOGS_PER_HOP = 64
FOR_EVER = float("inf")


class LogCleaner:
    """See the module."""

    def __init__(
        self,
        config: BrokerConfig,
        clock: Clock,
        threads: Threads,
        partitions: PartitionManager,
        directory: DataDirectory,
    ) -> None:
        self._config = config
        self._clock = clock
        self._cautious = CautiousClock()
        self._threads = threads
        self._partitions = partitions
        self._directory = directory
        self._working: dict[Partition, trio.Event] = {}
        self._leaving: set[Partition] = set()
        self._not_before: dict[Partition, float] = {}
        """When a log that could not be cleaned, or not further, may be tried again; monotonic."""
        self._pace_until = 0.0
        self._choosing = trio.Lock()
        partitions.before_deletion(self.leave)

    async def run(self) -> None:
        """Compact what is due, for ever."""
        if not self._config.log_cleaner_enable:
            return
        async with trio.open_nursery() as nursery:
            for _ in range(self._config.log_cleaner_threads):
                nursery.start_soon(self._work)

    async def _work(self) -> None:
        while True:
            try:
                was_due = await self.clean_one()
            except Exception:
                log.exception("the log cleaner was stopped by a bug; it goes on")
                was_due = False
            if not was_due:
                await trio.sleep(self._config.log_cleaner_backoff_ms / 1000)

    async def clean_one(self) -> bool:
        """Compact the dirtiest log that is due; False if none is."""
        async with self._choosing:
            chosen = await self._choose()
            if chosen is None:
                return False
            partition, plan = chosen
            done = self._working[partition] = trio.Event()
        try:
            await self._clean(partition, plan)
        finally:
            del self._working[partition]
            done.set()
        return True

    async def leave(self, partition: Partition) -> None:
        """Return when nothing of the cleaner is at work on this partition's log, or ever will be. Cancellation: it is left all the same."""
        self._leaving.add(partition)
        try:
            while partition in self._working:
                await self._working[partition].wait()
        finally:
            self._leaving.discard(partition)
            self._not_before.pop(partition, None)

    # Choosing

    async def _choose(self) -> tuple[Partition, CompactionPlan] | None:
        now = self._clock.monotonic()
        candidates = [
            partition
            for partition in self._partitions
            if partition.log.config.compact
            and partition.log.failure is None
            and partition not in self._working
            and self._not_before.get(partition, 0.0) <= now
        ]
        best: tuple[Partition, CompactionPlan] | None = None
        for start in range(0, len(candidates), LOGS_PER_HOP):
            for partition, plan in await self._plan(candidates[start : start + LOGS_PER_HOP]):
                if plan.is_due and (best is None or plan.dirty_ratio > best[1].dirty_ratio):
                    best = (partition, plan)
        if best is None or self._partitions.by_id(best[0].topic_id, best[0].index) is not best[0]:
            return None
        return best

    async def _plan(self, partitions: Sequence[Partition]) -> list[tuple[Partition, CompactionPlan]]:
        now_ms = self._now_ms()

        def plan_each() -> list[tuple[Partition, CompactionPlan]]:
            plans: list[tuple[Partition, CompactionPlan]] = []
            for partition in partitions:
                first_dirty = self._directory.cleaner_offsets.get((partition.topic, partition.index), 0)
                try:
                    plan = plan_compaction(partition.log, first_dirty, partition.high_watermark, now_ms)
                except (StorageError, FileNotFoundError) as error:
                    self._give_up(partition, error)
                else:
                    plans.append((partition, plan))
            return plans

        return await self._threads.run(plan_each)

    def _now_ms(self) -> int:
        return self._cautious.now_ms(self._clock.monotonic(), self._clock.wall_ms())

    # Cleaning

    async def _clean(self, partition: Partition, plan: CompactionPlan) -> None:
        config = self._config
        now_ms = self._now_ms()

        def begin() -> "Compaction":
            from penstock.storage.compaction import Compaction, CompactionLimits  # no start waits for it

            limits = CompactionLimits(
                config.log_cleaner_dedupe_buffer_size // max(1, config.log_cleaner_threads),
                config.log_cleaner_io_buffer_load_factor,
            )
            clock = self._clock.thread_time
            return Compaction(partition.log, plan, limits, now_ms=now_ms, thread_time=clock)

        started = self._clock.monotonic()
        compaction = await self._threads.run(begin)
        try:
            if await self._step_through(partition, compaction):
                await self._note(partition, plan, compaction.result, started)
        except (StorageError, FileNotFoundError) as error:
            self._give_up(partition, error)
        except Exception:
            self._not_before[partition] = FOR_EVER
            log.exception("%s-%d: compaction ended by a bug", partition.topic, partition.index)
        finally:
            with trio.CancelScope(shield=True):
                await self._threads.run(compaction.close)

    async def _step_through(self, partition: Partition, compaction: "Compaction") -> bool:
        """Work on at the cleaner's pace; False if the partition is to be left."""
        while partition not in self._leaving:
            started = self._clock.monotonic()
            moved_bytes = await run_storage(self._threads, compaction.step)
            if moved_bytes is None:
                return True
            ended = self._clock.monotonic()
            self._pace_until = max(ended, self._pace_until)
            self._pace_until += moved_bytes / self._config.log_cleaner_io_max_bytes_per_second
            pause_s = (ended - started) * PAUSE_PER_WORK
            await trio.sleep(max(pause_s, self._pace_until - ended))
        return False

    async def _note(
        self, partition: Partition, plan: CompactionPlan, result: "CompactionResult", started: float
    ) -> None:
        """Write down how far the log is clean; without an end in sight, let others have their turn first."""
        if result.first_dirty_offset <= plan.first_dirty_offset:
            self._not_before[partition] = self._clock.monotonic() + self._config.log_cleaner_backoff_ms / 1000
            return
        key = (partition.topic, partition.index)
        await run_storage(
            self._threads, self._directory.write_cleaner_offsets, {key: result.first_dirty_offset}
        )
        log.info(
            "%s-%d: compacted up to offset %d in %.1f s: %d bytes became %d, %d keys",
            partition.topic,
            partition.index,
            result.first_dirty_offset,
            self._clock.monotonic() - started,
            result.read_bytes,
            result.written_bytes,
            result.key_count,
        )
        if result.unreadable_count:
            log.warning(
                "%s-%d: copied %d batches as they are, the first at offset %d: they are not damaged, and their records can't be read",
                partition.topic,
                partition.index,
                result.unreadable_count,
                result.first_unreadable_offset,
            )

    def _give_up(self, partition: Partition, error: Exception) -> None:
        name = f"{partition.topic}-{partition.index}"
        now = self._clock.monotonic()
        if isinstance(error, LogChanged | LogClosed | FileNotFoundError):
            self._not_before[partition] = now + self._config.log_cleaner_backoff_ms / 1000
            log.debug("%s: compaction given up: %s", name, error)
        elif isinstance(error, LogFailed):
            partition.note_storage_error(error)
        elif isinstance(error, CorruptBatch | UnreadableRecords):
            self._not_before[partition] = FOR_EVER
            log.error("%s: not compacted any more until the next start: %s", name, error)
            if isinstance(error, CorruptBatch):
                self._partitions.quarantine(partition.topic_id, partition.index, str(error))
        else:
            self._not_before[partition] = now + RETRY_S
            log.error("%s: not compacted, tried again in %d s: %s", name, RETRY_S, error)


__all__ = ["LogCleaner"]
