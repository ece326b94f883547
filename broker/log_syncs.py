"""When one partition's log is synced: at most one sync at a time, which serves all that came before it.

Owns the sync that runs and the counts that `flush.messages` and `flush.ms` go by. What follows from a sync, or from a failed one, is the
partition's matter. At rest it has no task and no timer.
"""

import logging
from typing import TYPE_CHECKING

import trio

from penstock.broker.workers import run_storage
from penstock.runtime.files import StorageError

if TYPE_CHECKING:
    from penstock.broker.partition import Partition
    from penstock.broker.partition_settings import PartitionServices

log = logging.getLogger(__name__)


class LogSyncs:
    """Tells the partition of each sync, and of one that failed, by the disk or by a bug."""

    __slots__ = ("_partition", "_services", "_unflushed_records", "_unflushed_since", "idle")

    def __init__(self, partition: "Partition", services: "PartitionServices") -> None:
        self._partition = partition
        self._services = services
        self._unflushed_records = 0
        self._unflushed_since: float | None = None
        self.idle: trio.Event | None = None
        """Set when the sync under way has ended; None while there is none."""

    def start(self) -> None:
        """Sync what was appended, unless a sync is under way, which will see it, or the log has failed."""
        if self.idle is None and self._partition.log.failure is None:
            self.idle = trio.Event()
            self._services.spawn(self._sync_until_done)

    async def _sync_until_done(self) -> None:
        """Sync as long as something is appended that isn't durable and must be: each round serves all that came before it."""
        idle = self.idle
        assert idle is not None
        partition = self._partition
        partition_log = partition.log
        self._unflushed_since = None
        try:
            while (
                partition_log.durable_end_offset < partition_log.log_end_offset
                and partition_log.failure is None
            ):
                self._unflushed_records = 0
                self._unflushed_since = None
                async with self._services.sync_limit:
                    await run_storage(self._services.threads, partition_log.sync)
                partition.synced()
                if (
                    partition.machine.write_caching
                    and self._unflushed_records < partition.settings.flush_messages
                ):
                    break
        except StorageError as error:
            partition.note_storage_error(error)
        except Exception:
            log.exception(
                "%s-%d: a sync ended by a bug; the partition is offline", partition.topic, partition.index
            )
            partition.fail()
        finally:
            self.idle = None
            idle.set()

    def note_unflushed(self, record_count: int) -> None:
        """Records were appended that need no sync at once (write.caching)."""
        self._unflushed_records += record_count
        if self._unflushed_since is None:
            self._unflushed_since = self._services.clock.monotonic()
        if self._unflushed_records >= self._partition.settings.flush_messages:
            self.start()

    def flush_if_due(self, now: float) -> None:
        """Sync when `flush.ms` has passed since the first unflushed append."""
        since = self._unflushed_since
        if since is not None and (now - since) * 1000 >= self._partition.settings.flush_ms:
            self.start()

    async def wait_idle(self) -> None:
        """Return when the sync under way has ended."""
        if self.idle is not None:
            await self.idle.wait()


__all__ = ["LogSyncs"]
