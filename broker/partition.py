"""One partition as this broker serves it: the log, the pure machine, and those who wait.

Owns the order of everything that is done to one log. Decides nothing about replication: `partition_machine` does, and this module
carries out its actions. Knows no request formats.

What runs where (DESIGN section 5): an append goes to the page cache right here on the event loop. Rolls, rewrites and the appends
behind them run one by one on workers (the *lane*), and while any such job is queued, appends queue behind it. Syncs run beside
appends, at most one for each log: one sync serves all that wait.
"""

import logging
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import trio

from penstock.broker.ack import PendingAcks
from penstock.broker.partition_machine import (
    AdvanceHighWatermark,
    Appended,
    BecomeFollower,
    BecomeLeader,
    Closed,
    Event,
    GoOffline,
    LogFailed,
    PartitionMachine,
    Role,
    SettingsChanged,
    StateLearned,
    Synced,
)
from penstock.broker.rewrite import Rewriter
from penstock.errors import PenstockError
from penstock.protocol.errors import ErrorCode, InvalidBatch
from penstock.protocol.produce import ProducePartitionResult
from penstock.protocol.record_batch import TRANSACTIONAL_FLAG, BatchHeader, check_produced_batch
from penstock.runtime.clock import Clock
from penstock.runtime.files import StorageError
from penstock.runtime.threads import Threads
from penstock.storage.errors import ProducerStateError, StaleLeaderEpoch
from penstock.storage.log import AppendInfo, Log, LogSlice
from penstock.storage.log_config import LogConfig

log = logging.getLogger(__name__)

SLOW_APPEND_S = 0.005
"""An append that takes longer moves the log's appends to its lane until one is faster again (DESIGN section 5)."""
ACKS_ALL = -1
ACKS_NONE = 0


@dataclass(frozen=True, slots=True)
class PartitionSettings:
    """What the topic's effective config means for one partition."""

    log_config: LogConfig
    write_caching: bool
    min_insync_replicas: int
    max_message_bytes: int
    timestamp_before_max_ms: int
    timestamp_after_max_ms: int
    flush_messages: int
    flush_ms: int
    rewriter: Rewriter | None
    """Set where batches are changed on the way in: LogAppendTime, or a compression.type that is not the producer's."""


@dataclass(frozen=True, slots=True)
class PartitionServices:
    """What all partitions of a broker share."""

    clock: Clock
    threads: Threads
    spawn: Callable[[Callable[[], Awaitable[None]]], None]
    """Run in the broker's background nursery."""
    sync_limit: trio.CapacityLimiter
    hold_bytes: Callable[[int], None]
    """Count (or, negative, discount) bytes of batches that wait for a lane."""


class Partition:
    """A partition whose log is here."""

    def __init__(
        self,
        topic: str,
        topic_id: bytes,
        index: int,
        partition_log: Log,
        settings: PartitionSettings,
        machine: PartitionMachine,
        services: PartitionServices,
    ) -> None:
        self.topic = topic
        self.topic_id = topic_id
        self.index = index
        self.log = partition_log
        self.settings = settings
        self.machine = machine
        self.high_watermark = machine.high_watermark
        self.fetch_waiters: set[Callable[[int], None]] = set()
        self._services = services
        self._monotonic = services.clock.monotonic
        self._wall_ms = services.clock.wall_ms
        self.epoch_start_offset = 0
        """Where the present leader epoch began: until the high watermark is there, the end is not known (KIP-207)."""
        self._acks = PendingAcks()
        self._jobs: deque[Callable[[], Awaitable[None]]] = deque()
        self._lane_idle: trio.Event | None = None
        self._sync_idle: trio.Event | None = None
        self._slow = False
        self._prepared_epoch = -1
        self._invisible_bytes = 0
        self._unflushed_records = 0
        self._unflushed_since: float | None = None

    # What others look at

    @property
    def is_leader(self) -> bool:
        """Whether this broker leads the partition now."""
        return self.machine.role is Role.LEADER

    @property
    def leader_epoch(self) -> int:
        """The leader epoch as last learned from the store."""
        return self.machine.leader_epoch

    # Produce

    def produce(
        self, batch: memoryview, acks: int, result: ProducePartitionResult, done: Callable[[], None]
    ) -> bool:
        """Check and append one produced batch, and say in `result` what came of it.

        Returns True when `result` is final. False: it will be filled in later, and `done` is called then (never before this
        returns). `batch` is used only until this returns.
        """
        machine = self.machine
        if machine.role is not Role.LEADER:
            result.error_code = self.refusal
            return True
        if acks == ACKS_ALL and not machine.has_enough_replicas:
            result.error_code = ErrorCode.NOT_ENOUGH_REPLICAS
            return True
        now_ms = self._wall_ms()
        try:
            header = check_produced_batch(batch)
            self._check_limits(header, now_ms)
        except InvalidBatch as error:
            result.error_code = error.code
            result.error_message = str(error)
            log.warning("%s-%d: refused a batch: %s", self.topic, self.index, error)
            return True
        if (
            self._jobs
            or self._slow
            or self._prepared_epoch != machine.leader_epoch
            or self.settings.rewriter is not None
            or self._needs_roll(header, now_ms)
        ):
            self._append_later(bytearray(batch), header, acks, result, done)
            return False
        return self._append(batch, header, now_ms, acks, result, done)

    def _needs_roll(self, header: BatchHeader, now_ms: int) -> bool:
        return self.log.needs_roll(
            header.size_bytes, header.max_timestamp, now_ms, last_offset_delta=header.last_offset_delta
        )

    def _check_limits(self, header: BatchHeader, now_ms: int) -> None:
        settings = self.settings
        if header.attributes & TRANSACTIONAL_FLAG:
            raise InvalidBatch(ErrorCode.INVALID_TXN_STATE, "a transactional batch outside of a transaction")
        if header.size_bytes > settings.max_message_bytes:
            raise InvalidBatch(
                ErrorCode.MESSAGE_TOO_LARGE,
                f"a batch of {header.size_bytes} bytes is over max.message.bytes={settings.max_message_bytes}",
            )
        if (
            header.max_timestamp - now_ms > settings.timestamp_after_max_ms
            or now_ms - header.base_timestamp > settings.timestamp_before_max_ms
        ):
            raise InvalidBatch(
                ErrorCode.INVALID_TIMESTAMP,
                f"timestamps {header.base_timestamp} to {header.max_timestamp} are out of the bounds of "
                f"message.timestamp.before.max.ms and message.timestamp.after.max.ms",
            )

    def _append(
        self,
        batch: memoryview,
        header: BatchHeader,
        now_ms: int,
        acks: int,
        result: ProducePartitionResult,
        done: Callable[[], None],
    ) -> bool:
        """Append on the event loop; same answer as `produce`."""
        started = self._monotonic()
        try:
            info = self.log.append_as_leader(
                batch, header, leader_epoch=self.machine.leader_epoch, now_ms=now_ms
            )
            self._slow = self._monotonic() - started > SLOW_APPEND_S
        except PenstockError as error:
            self._append_refused(error, result)
            return True
        return self._appended(
            info.base_offset, info.last_offset + 1, header, info.log_append_time_ms, acks, result, done
        )

    def _appended(
        self,
        base_offset: int,
        end_offset: int,
        header: BatchHeader,
        log_append_time_ms: int,
        acks: int,
        result: ProducePartitionResult,
        done: Callable[[], None],
    ) -> bool:
        result.base_offset = base_offset
        result.log_append_time_ms = log_append_time_ms
        result.log_start_offset = self.log.log_start_offset
        self._invisible_bytes += header.size_bytes
        machine = self.machine
        self._do(machine.step(Appended(self.log.log_end_offset)))
        if machine.write_caching:
            self._note_unflushed(header.record_count)
        elif self._sync_idle is None and self.log.durable_end_offset < self.log.log_end_offset:
            self._start_sync()
        if acks == ACKS_NONE:
            return True
        reached = self.high_watermark if acks == ACKS_ALL else machine.counted_end_offset
        if end_offset <= reached:
            return True
        self._acks.add(end_offset, acks == ACKS_ALL, result, done)
        return False

    def _append_refused(self, error: PenstockError, result: ProducePartitionResult) -> None:
        """Nothing was appended: say why, by Kafka's code."""
        result.error_message = str(error)
        match error:
            case InvalidBatch() | ProducerStateError():
                result.error_code = error.code
            case StorageError():
                result.error_code = ErrorCode.KAFKA_STORAGE_ERROR
                self.note_storage_error(error)
            case StaleLeaderEpoch():
                result.error_code = ErrorCode.NOT_LEADER_OR_FOLLOWER
            case _:
                raise error

    @property
    def refusal(self) -> ErrorCode:
        """The code for a request that only a leader can answer, where this broker is none."""
        if self.log.failure is not None:
            return ErrorCode.KAFKA_STORAGE_ERROR
        return ErrorCode.NOT_LEADER_OR_FOLLOWER

    def _append_later(
        self,
        batch: bytearray,
        header: BatchHeader,
        acks: int,
        result: ProducePartitionResult,
        done: Callable[[], None],
    ) -> None:
        """Queue the append on the lane: something must run on a worker before it, or the disk is slow."""
        self._services.hold_bytes(len(batch))
        result.error_code = (
            ErrorCode.REQUEST_TIMED_OUT
        )  # what stands there if the producer's patience ends first

        async def job() -> None:
            try:
                if await self._append_in_lane(batch, header, acks, result, done):
                    done()
            finally:
                self._services.hold_bytes(-len(batch))

        self._enqueue(job)

    async def _append_in_lane(
        self,
        batch: bytearray,
        header: BatchHeader,
        acks: int,
        result: ProducePartitionResult,
        done: Callable[[], None],
    ) -> bool:
        """What `produce` did not do at once, in its turn; same answer as `produce`."""
        if self.machine.role is not Role.LEADER:
            result.error_code = self.refusal
            return True
        now_ms = self._wall_ms()
        view = memoryview(batch)
        try:
            if self.settings.rewriter is not None:
                view, header = await self._services.threads.run(self.settings.rewriter, view, now_ms)
            await self._make_ready(header, now_ms)
            result.error_code = ErrorCode.NONE
            if not self._slow:  # nothing in the way any more: the queue drains at the event loop's pace
                return self._append(view, header, now_ms, acks, result, done)
            info = await self._append_slowly(view, header, now_ms)
        except PenstockError as error:
            self._append_refused(error, result)
            return True
        return self._appended(
            info.base_offset, info.last_offset + 1, header, info.log_append_time_ms, acks, result, done
        )

    async def _make_ready(self, header: BatchHeader, now_ms: int) -> None:
        """What has to be done on a worker before the batch can be appended: the epoch's first time, and a roll."""
        run = self._services.threads.run
        epoch = self.machine.leader_epoch
        if self._prepared_epoch != epoch:
            await run(self.log.prepare_append, epoch)
            self._prepared_epoch = epoch
        if self._needs_roll(header, now_ms):
            await run(self.log.roll, now_ms)
            self._do(self.machine.step(Synced(self.log.durable_end_offset)))

    async def _append_slowly(self, batch: memoryview, header: BatchHeader, now_ms: int) -> AppendInfo:
        """Append on a worker, and see whether the disk has recovered."""
        epoch = self.machine.leader_epoch

        def append() -> AppendInfo:
            return self.log.append_as_leader(batch, header, leader_epoch=epoch, now_ms=now_ms)

        started = self._monotonic()
        info = await self._services.threads.run(append)
        self._slow = self._monotonic() - started > SLOW_APPEND_S
        return info

    # Read

    def read(self, offset: int, max_bytes: int) -> LogSlice:
        """What a consumer may see from `offset` on, if that takes no disk access.

        Raises OffsetOutOfRange, NotResident, StorageError.
        """
        return self.log.read(offset, max_bytes, self.high_watermark, resident_only=True)

    async def read_cold(self, offset: int, max_bytes: int) -> LogSlice:
        """The same on a worker, which reads the range into the page cache first."""

        def read() -> LogSlice:
            return self.log.read(offset, max_bytes, self.high_watermark, resident_only=False)

        return await self._services.threads.run(read)

    # Actions and waiters

    def learn(self, state: StateLearned) -> None:
        """The store's state of this partition changed."""
        self._do(self.machine.step(state))

    def change_settings(self, settings: PartitionSettings) -> None:
        """The topic's effective config changed; holds for what comes from now on."""
        self.settings = settings
        self.log.config = settings.log_config
        self._do(self.machine.step(SettingsChanged(settings.write_caching, settings.min_insync_replicas)))
        if not settings.write_caching:
            self._start_sync()

    def note_storage_error(self, error: StorageError) -> None:
        """Log an error of the disk; if the log is offline by it, serve it no more."""
        log.error("%s-%d: %s", self.topic, self.index, error)
        if self.log.failure is not None:
            self._do(self.machine.step(LogFailed()))

    def _do(self, actions: "tuple[object, ...]") -> None:
        for action in actions:
            if isinstance(action, AdvanceHighWatermark):
                self.high_watermark = action.high_watermark
                if self.fetch_waiters:
                    for notify in tuple(self.fetch_waiters):
                        notify(self._invisible_bytes)
                self._invisible_bytes = 0
            elif isinstance(action, BecomeLeader):
                self.log.start_leader_epoch(action.leader_epoch)
                self.epoch_start_offset = self.log.log_end_offset
                log.debug("%s-%d: leading in epoch %d", self.topic, self.index, action.leader_epoch)
            elif isinstance(action, BecomeFollower | GoOffline):
                self._acks.fail_all(self.refusal)
                for notify in tuple(self.fetch_waiters):
                    notify(0)
        if self._acks:
            self._acks.release(self.high_watermark, self.machine.counted_end_offset)

    def step(self, event: Event) -> None:
        """Feed the machine and do what it says."""
        self._do(self.machine.step(event))

    # Syncs

    def _start_sync(self) -> None:
        if self._sync_idle is None and self.log.failure is None:
            self._sync_idle = trio.Event()
            self._services.spawn(self._sync_until_done)

    async def _sync_until_done(self) -> None:
        """Sync as long as something is appended that isn't durable: each round serves all that came before it."""
        idle = self._sync_idle
        assert idle is not None
        try:
            while self.log.durable_end_offset < self.log.log_end_offset and self.log.failure is None:
                self._unflushed_records = 0
                self._unflushed_since = None
                async with self._services.sync_limit:
                    durable = await self._services.threads.run(self.log.sync)
                self._do(self.machine.step(Synced(durable)))
                if self.machine.write_caching:
                    break
        except StorageError as error:
            self.note_storage_error(error)
        finally:
            self._sync_idle = None
            idle.set()

    def _note_unflushed(self, record_count: int) -> None:
        settings = self.settings
        self._unflushed_records += record_count
        if self._unflushed_since is None:
            self._unflushed_since = self._monotonic()
        if self._unflushed_records >= settings.flush_messages:
            self._start_sync()

    def flush_if_due(self, now: float) -> None:
        """Sync when `flush.ms` has passed since the first unflushed append. Called by the broker's sweep."""
        since = self._unflushed_since
        if since is not None and (now - since) * 1000 >= self.settings.flush_ms:
            self._start_sync()

    # The lane

    def _enqueue(self, job: Callable[[], Awaitable[None]]) -> None:
        self._jobs.append(job)
        if self._lane_idle is None:
            self._lane_idle = trio.Event()
            self._services.spawn(self._run_lane)

    async def _run_lane(self) -> None:
        """Run the jobs in order. A job stays in the queue while it runs, so that appends queue behind it."""
        idle = self._lane_idle
        assert idle is not None
        try:
            while self._jobs:
                try:
                    await self._jobs[0]()
                finally:
                    self._jobs.popleft()
        finally:
            self._lane_idle = None
            idle.set()

    async def run_in_lane(self, function: Callable[[], object]) -> None:
        """Run a blocking change of the log (truncation, deletion of segments, close) in order with its appends.

        Raises the PenstockError that `function` raises. Cancellation: it is done all the same.
        """
        finished = trio.Event()
        failure: list[PenstockError] = []

        async def job() -> None:
            try:
                await self._services.threads.run(function)
            except PenstockError as error:
                failure.append(error)
            finally:
                finished.set()

        self._enqueue(job)
        await finished.wait()
        if failure:
            raise failure[0]

    async def quiesce(self) -> None:
        """Take no further append, and return when lane and sync have come to rest. For closing and deletion."""
        self.step(Closed())
        if self._lane_idle is not None:
            await self._lane_idle.wait()
        if self._sync_idle is not None:
            await self._sync_idle.wait()


__all__ = ["Partition", "PartitionServices", "PartitionSettings"]
