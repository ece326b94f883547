"""One partition as this broker serves it: the log, the pure machine, and those who wait.

Owns the order of everything that is done to one log. Decides nothing about replication: `partition_machine` does, and this module
carries out its actions. Knows no request formats.

What runs where (DESIGN section 5): an append goes to the page cache right here on the event loop. Rolls, rewrites and the appends
behind them run one by one on workers (the *lane*), and while any such job is queued, appends queue behind it. Syncs run beside
appends, at most one for each log: one sync serves all that wait.
"""

import logging
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import TypeVar, TypeVarTuple

import trio

from penstock.broker.ack import PendingAcks
from penstock.broker.damage import ErrorLines
from penstock.broker.lane import Lane
from penstock.broker.log_syncs import LogSyncs
from penstock.broker.partition_machine import (
    AdvanceHighWatermark,
    Appended,
    BecomeFollower,
    BecomeLeader,
    ChangeIsr,
    Closed,
    EpochStarted,
    Event,
    GoOffline,
    LogFailed,
    PartitionMachine,
    RefuseWaiting,
    Role,
    SettingsChanged,
    StateLearned,
    Synced,
)
from penstock.broker.partition_settings import PartitionServices, PartitionSettings
from penstock.broker.produce_limits import check_limits, check_size
from penstock.broker.refused_gaps import RefusedGaps
from penstock.broker.workers import run_storage
from penstock.errors import PenstockError
from penstock.protocol.errors import ErrorCode, InvalidBatch
from penstock.protocol.produce import ProducePartitionResult
from penstock.protocol.record_batch import (
    BatchHeader,
    check_produced_batch,
    read_batch_header,
)
from penstock.runtime.files import StorageError
from penstock.storage.errors import CorruptBatch, NotRecalled, ProducerStateError, StaleLeaderEpoch
from penstock.storage.log import AppendInfo, Log, LogSlice

log = logging.getLogger(__name__)
T = TypeVar("T")
Ts = TypeVarTuple("Ts")

SLOW_APPEND_S = 0.005
"""An append that takes longer moves the log's appends to its lane until one is faster again (DESIGN section 5)."""
HELD_OVERHEAD_BYTES = 1024
"""What a batch that waits for the lane takes besides its own bytes: small batches would else cost far more than is counted."""
GONE = -1
"""Told to fetch waiters when the partition is not served here any more."""
HIGH_WATERMARK_MOVED, LOG_START_MOVED = 0, -2
"""Told to followers' fetches when there is nothing new to read; the former answers only those of followers that consumers are sent to."""
REFUSAL_LINE_S = 10.0
ACKS_ALL = -1
ACKS_NONE = 0


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
        """Told how many bytes have become visible, about, or GONE."""
        self.replica_waiters: set[Callable[[int], None]] | None = None
        """Followers' fetches: told how many bytes were appended, HIGH_WATERMARK_MOVED, LOG_START_MOVED, or GONE."""
        self.log_starts_moved: trio.lowlevel.ParkingLot | None = None
        """Who waits for followers' log start offsets (`replication/low_watermark`)."""
        self._services = services
        self._monotonic = services.clock.monotonic
        self._wall_ms = services.clock.wall_ms
        self._lease = services.lease
        self.epoch_start_offset = 0
        """Where the present leader epoch began: until the high watermark is there, the end is not known (KIP-207)."""
        self._acks = PendingAcks()
        self.lane = Lane(f"{topic}-{index}", services.spawn)
        self.syncs = LogSyncs(self, services)
        self._slow = False
        self._refusal_count = 0
        self._next_refusal_line = 0.0
        self.is_lost = False  # its log has failed: others are to lead, and no ISR is to have it
        self._gaps = RefusedGaps()
        self._error_lines = ErrorLines()
        self._is_appending = False
        self._epoch_to_start: int | None = None
        self.prepared_epoch = -1
        self._invisible_bytes = 0

    # What others look at

    @property
    def is_leader(self) -> bool:
        """Whether this broker leads the partition now."""
        return self.machine.role is Role.LEADER

    @property
    def is_follower(self) -> bool:
        """Whether this broker follows the partition's leader now."""
        return self.machine.role is Role.FOLLOWER

    @property
    def is_fenced(self) -> bool:
        """Whether this broker may take no decision as a leader: the cluster may have another one (PROPERTIES M2)."""
        return self._monotonic() >= self._lease.deadline

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
            result.error_code = self._gaps.refuse(self.refusal, self._monotonic())
            return True
        if acks == ACKS_ALL and not machine.has_enough_replicas:
            result.error_code = self._gaps.refuse(ErrorCode.NOT_ENOUGH_REPLICAS, self._monotonic())
            return True
        now_ms = self._wall_ms()
        try:
            header = check_produced_batch(batch)
            check_limits(header, now_ms, self.settings)
        except InvalidBatch as error:
            result.error_code = error.code
            result.error_message = str(error)
            self._log_refusal(error)
            return True
        if (
            self.lane.is_busy
            or self._slow
            or self.prepared_epoch != machine.leader_epoch
            or self.settings.rewriter is not None
            or self._needs_roll(header, now_ms)
        ):
            self._append_later(bytearray(batch), header, acks, result, done)
            return False
        return self._append(batch, header, now_ms, acks, result, done)

    def produce_own(
        self,
        batch: memoryview,
        result: ProducePartitionResult,
        done: Callable[[], None],
        *,
        leader_epoch: int,
    ) -> bool:
        """Append a batch that the broker itself has made, with acks=all; same answer as `produce`.

        It is neither checked nor rewritten, and it may go to internal topics, which refuse what clients produce. It is appended in
        `leader_epoch` or refused: who made it knows the log only as it was then.
        """
        if self.machine.role is not Role.LEADER or self.machine.leader_epoch != leader_epoch:
            result.error_code = self.refusal
            return True
        if not self.machine.has_enough_replicas:
            result.error_code = ErrorCode.NOT_ENOUGH_REPLICAS
            return True
        now_ms = self._wall_ms()
        header = read_batch_header(batch)
        try:
            check_size(header, self.settings)
        except InvalidBatch as error:
            result.error_code = error.code
            result.error_message = str(error)
            return True
        if (
            self.lane.is_busy
            or self._slow
            or self.prepared_epoch != self.machine.leader_epoch
            or self._needs_roll(header, now_ms)
        ):
            self._append_later(bytearray(batch), header, ACKS_ALL, result, done, own_epoch=leader_epoch)
            return False
        return self._append(batch, header, now_ms, ACKS_ALL, result, done)

    def _needs_roll(self, header: BatchHeader, now_ms: int) -> bool:
        return self.log.needs_roll(
            header.size_bytes, header.max_timestamp, now_ms, last_offset_delta=header.last_offset_delta
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
        if started >= self._lease.deadline:
            result.error_code = self._gaps.refuse(self.refusal, started)
            return True
        self.machine.is_fenced = False
        try:
            info = self.log.append_as_leader(
                batch,
                header,
                leader_epoch=self.machine.leader_epoch,
                now_ms=now_ms,
                begins_at_zero=started < self._gaps.until,
            )
            self._slow = self._monotonic() - started > SLOW_APPEND_S
        except NotRecalled:
            self._append_later(bytearray(batch), header, acks, result, done)
            return False
        except PenstockError as error:
            self._append_refused(error, result)
            return True
        return self._appended(info, header, acks, result, done)

    def _appended(
        self,
        info: AppendInfo,
        header: BatchHeader,
        acks: int,
        result: ProducePartitionResult,
        done: Callable[[], None],
    ) -> bool:
        result.error_code = ErrorCode.NONE
        result.base_offset = info.base_offset
        result.log_append_time_ms = info.log_append_time_ms
        result.log_start_offset = self.log.log_start_offset
        if not info.is_duplicate:
            self._invisible_bytes += header.size_bytes
        machine = self.machine
        self._do(machine.step(Appended(self.log.log_end_offset)))
        if self.replica_waiters:
            self.tell_replicas(header.size_bytes)
        if machine.write_caching:
            self.syncs.note_unflushed(header.record_count)
        elif self.syncs.idle is None and self.log.durable_end_offset < self.log.log_end_offset:
            self.syncs.start()
        if acks == ACKS_NONE:
            return True
        end_offset = info.last_offset + 1
        reached = self._committed_end_offset if acks == ACKS_ALL else machine.counted_end_offset
        if end_offset <= reached and not machine.is_fenced:
            return True
        self._acks.add(end_offset, acks == ACKS_ALL, result, done)
        return False

    @property
    def _committed_end_offset(self) -> int:
        """Up to where acks=all is kept. The high watermark alone may be above what is durable after write.caching was turned off."""
        return min(self.high_watermark, self.machine.counted_end_offset)

    def _log_refusal(self, error: InvalidBatch) -> None:
        """One line, and no more than one every ten seconds: a client that sends nothing else must not fill the log."""
        now = self._monotonic()
        self._refusal_count += 1
        if now >= self._next_refusal_line:
            self._next_refusal_line = now + REFUSAL_LINE_S
            log.warning(
                "%s-%d: refused a batch (%d so far): %s", self.topic, self.index, self._refusal_count, error
            )

    def _append_refused(self, error: PenstockError, result: ProducePartitionResult) -> None:
        """Nothing was appended: say why, by Kafka's code."""
        result.error_message = str(error)
        match error:
            case InvalidBatch() | ProducerStateError():
                result.error_code = self._gaps.code_of(error.code, self._monotonic())
            case StorageError():
                result.error_code = self._gaps.refuse(ErrorCode.KAFKA_STORAGE_ERROR, self._monotonic())
                self.note_storage_error(error)
                self._slow = True  # a full disk takes its time to say so: the next append is a worker's
            case StaleLeaderEpoch():
                result.error_code = self._gaps.refuse(ErrorCode.NOT_LEADER_OR_FOLLOWER, self._monotonic())
            case _:
                raise error

    @property
    def is_offline(self) -> bool:
        """Whether it is not served until a restart: its log has failed."""
        return self.log.failure is not None or self.is_lost

    @property
    def refusal(self) -> ErrorCode:
        """The code for a request that only a leader can answer, where this broker is none."""
        return ErrorCode.KAFKA_STORAGE_ERROR if self.is_offline else ErrorCode.NOT_LEADER_OR_FOLLOWER

    def _append_later(
        self,
        batch: bytearray,
        header: BatchHeader,
        acks: int,
        result: ProducePartitionResult,
        done: Callable[[], None],
        *,
        own_epoch: int | None = None,
    ) -> None:
        """Queue the append on the lane: something must run on a worker before it, or the disk is slow."""
        held_bytes = len(batch) + HELD_OVERHEAD_BYTES
        self._services.hold_bytes(held_bytes)
        # what stands there if the producer's patience ends first
        result.error_code = ErrorCode.REQUEST_TIMED_OUT

        async def job() -> None:
            try:
                is_final = await self._append_in_lane(batch, header, acks, result, done, own_epoch=own_epoch)
            except Exception:
                result.error_code = ErrorCode.UNKNOWN_SERVER_ERROR
                done()
                raise
            finally:
                self._services.hold_bytes(-held_bytes)
            if is_final:
                done()

        self.lane.enqueue(job)

    async def _append_in_lane(
        self,
        batch: bytearray,
        header: BatchHeader,
        acks: int,
        result: ProducePartitionResult,
        done: Callable[[], None],
        *,
        own_epoch: int | None,
    ) -> bool:
        """What `produce` did not do at once, in its turn; same answer as `produce`.

        Whatever is awaited, this broker may lead no longer when it comes back. And until the append is done the result stays at
        REQUEST_TIMED_OUT: it may be sent at any time.
        """
        now_ms = self._wall_ms()
        view = memoryview(batch)
        try:
            rewriter = None if own_epoch is not None else self.settings.rewriter
            if rewriter is not None and self.is_leader:
                view, header = await self._run(rewriter, view, now_ms)
                check_size(header, self.settings)
            if await self._make_ready(header, now_ms) and own_epoch in (None, self.machine.leader_epoch):
                if not self._slow:  # nothing in the way any more: the queue drains at the event loop's pace
                    result.error_code = ErrorCode.NONE
                    return self._append(view, header, now_ms, acks, result, done)
                info = await self._append_slowly(view, header, now_ms)
                if self.is_leader:
                    return self._appended(info, header, acks, result, done)
        except PenstockError as error:
            self._append_refused(error, result)
            return True
        result.error_code = self._gaps.refuse(self.refusal, self._monotonic())
        return True

    async def _make_ready(self, header: BatchHeader, now_ms: int) -> bool:
        """What has to be done on a worker before the batch can be appended: the epoch's first time, a roll, a look for what its producer sent.

        False if this broker does not lead any more.
        """
        while self.is_leader and not self.is_fenced:
            epoch = self.machine.leader_epoch
            if self.prepared_epoch != epoch:
                await self._services.active_files.take_place(self)
                await self._run(self.log.prepare_append, epoch)
                self.prepared_epoch = epoch
            elif self._needs_roll(header, now_ms):
                await self._run(self.log.roll)
                self.step(Synced(self.log.durable_end_offset))
            elif self.log.must_recall(header):
                await self._run(self.log.recall_producer, header)
            else:
                return True
        return False

    async def _append_slowly(self, batch: memoryview, header: BatchHeader, now_ms: int) -> AppendInfo:
        """Append on a worker, and see whether the disk has recovered."""
        epoch = self.machine.leader_epoch

        def append() -> AppendInfo:
            return self.log.append_as_leader(
                batch, header, leader_epoch=epoch, now_ms=now_ms, begins_at_zero=started < self._gaps.until
            )

        started = self._monotonic()
        with self.changing_log():
            info = await self._run(append)
        self._slow = self._monotonic() - started > SLOW_APPEND_S
        self.machine.is_fenced = self.is_fenced
        return info

    @contextmanager
    def changing_log(self) -> Generator[None]:
        """While a worker appends or cuts: a leader epoch that begins meanwhile begins behind it."""
        self._is_appending = True
        try:
            yield
        finally:
            self._is_appending = False
            if self._epoch_to_start is not None:
                self._start_epoch(self._epoch_to_start)

    def note_followed(self, size_bytes: int) -> None:
        """What a leader has sent was appended, about so many bytes (`replication/follower.py`)."""
        self._invisible_bytes += size_bytes
        self.step(Appended(self.log.log_end_offset))

    async def _run(self, function: Callable[[*Ts], T], *args: *Ts) -> T:
        return await run_storage(self._services.threads, function, *args)

    # Read

    def read(self, offset: int, max_bytes: int) -> LogSlice:
        """What a consumer may see from `offset` on, if that takes no disk access.

        Raises OffsetOutOfRange, NotResident, StorageError.
        """
        return self.log.read(offset, max_bytes, self.high_watermark, resident_only=True)

    def read_as_replica(self, offset: int, max_bytes: int) -> LogSlice:
        """The same for a follower: all that is appended."""
        return self.log.read(offset, max_bytes, self.log.log_end_offset, resident_only=True)

    async def read_cold(self, offset: int, max_bytes: int, *, as_replica: bool = False) -> LogSlice:
        """The same on a worker, which reads the range into the page cache first."""

        def read() -> LogSlice:
            end = self.log.log_end_offset if as_replica else self.high_watermark
            return self.log.read(offset, max_bytes, end, resident_only=False)

        return await self._run(read)

    # Actions and waiters

    def learn(self, state: StateLearned) -> None:
        """The store's state of this partition changed."""
        self.step(state)

    def change_settings(self, settings: PartitionSettings) -> None:
        """The topic's effective config changed; holds for what comes from now on."""
        self.settings = settings
        self.log.config = settings.log_config
        self.step(SettingsChanged(settings.write_caching, settings.min_insync_replicas))
        if not settings.write_caching:
            self.syncs.start()

    def note_storage_error(self, error: StorageError) -> None:
        """Log an error of the disk, not too often; if the log is offline by it, serve it no more."""
        self._error_lines.tell(f"{self.topic}-{self.index}", self.log.directory, error, self._monotonic())
        if self.log.failure is not None:
            self._lose()
        elif isinstance(error, CorruptBatch):
            self._services.note_damage(self, str(error))

    def _lose(self) -> None:
        """The log can't be used any more: somebody else is to lead."""
        self.is_lost = True
        self.step(LogFailed())
        if self._services.isr_changes is not None:
            self._services.isr_changes.leave(self.topic_id, self.index)

    def _do(self, actions: "tuple[object, ...]") -> None:
        for action in actions:
            if isinstance(action, AdvanceHighWatermark):
                self._advance_high_watermark(action.high_watermark)
            elif isinstance(action, BecomeLeader):
                if self._is_appending:  # in the epoch before: this one begins behind it
                    self._epoch_to_start = action.leader_epoch
                else:
                    self._start_epoch(action.leader_epoch)
            elif isinstance(action, BecomeFollower | GoOffline):
                self._epoch_to_start = None
                self._acks.fail_all(self.refusal)
                for notify in tuple(self.fetch_waiters):
                    notify(GONE)
                self.tell_replicas(GONE)
            elif isinstance(action, ChangeIsr):
                assert self._services.isr_changes is not None, "followers without a cluster"
                self._services.isr_changes.ask(self, action)
            elif isinstance(action, RefuseWaiting):
                self._acks.release(self._committed_end_offset, self.machine.counted_end_offset)
                self._acks.fail_commits(ErrorCode.NOT_ENOUGH_REPLICAS_AFTER_APPEND)
        if self._acks and not self.machine.is_fenced:
            self._acks.release(self._committed_end_offset, self.machine.counted_end_offset)

    def _advance_high_watermark(self, high_watermark: int) -> None:
        """Let readers see up to there. They are told how many bytes that is: estimated by offsets, exact once all is visible."""
        old, self.high_watermark = self.high_watermark, high_watermark
        visible_bytes = self._invisible_bytes
        hidden_count = self.log.log_end_offset - high_watermark
        if hidden_count > 0:
            shown_count = high_watermark - old
            visible_bytes = visible_bytes * shown_count // (shown_count + hidden_count)
        self._invisible_bytes -= visible_bytes
        if self.fetch_waiters:
            for notify in tuple(self.fetch_waiters):
                notify(max(visible_bytes, 1))
        if self.replica_waiters:
            self.tell_replicas(HIGH_WATERMARK_MOVED)

    def tell_replicas(self, news: int) -> None:
        """Answer followers' fetches that wait, if what they wait for has come; `news` as `replica_waiters` says."""
        for notify in tuple(self.replica_waiters or ()):
            notify(news)

    def wait_as_replica(self, notify: Callable[[int], None]) -> None:
        """Have `notify` called as `replica_waiters` says; until it is discarded there."""
        if self.replica_waiters is None:
            self.replica_waiters = set()
        self.replica_waiters.add(notify)

    def _start_epoch(self, leader_epoch: int) -> None:
        self._epoch_to_start = None
        self.log.start_leader_epoch(leader_epoch)
        self.epoch_start_offset = self.log.log_end_offset
        self.machine.step(EpochStarted(self.epoch_start_offset))
        log.debug("%s-%d: leading in epoch %d", self.topic, self.index, leader_epoch)

    def step(self, event: Event) -> None:
        """Feed the machine and do what it says; past the lease's deadline it decides nothing as a leader."""
        machine = self.machine
        machine.is_fenced = self._monotonic() >= self._lease.deadline
        self._do(machine.step(event))

    # Syncs

    def synced(self, durable_end_offset: int) -> None:
        """A sync has completed: everything below is on disk."""
        self.step(Synced(durable_end_offset))

    def fail(self) -> None:
        """By a bug nobody knows what the log holds: serve it no more."""
        self._lose()

    def flush_if_due(self, now: float) -> None:
        """Sync when `flush.ms` has passed since the first unflushed append. Called by the broker's sweep."""
        self.syncs.flush_if_due(now)

    # The lane

    @property
    def has_queued_appends(self) -> bool:
        """Whether the lane has something to do, perhaps an append: then the log end offset does not tell all that was begun."""
        return self.lane.is_busy

    async def run_in_lane(self, function: Callable[[], object]) -> None:
        """Run a blocking change of the log (truncation, deletion of segments, close) in order with its appends.

        Raises the PenstockError that `function` raises. Cancellation: it is done all the same.
        """

        async def job() -> None:
            try:
                await self._run(function)
            except StorageError as error:
                self.note_storage_error(error)
                raise

        await self.lane.do(job)

    async def quiesce(self) -> None:
        """Take no further append, and return when lane and sync have come to rest. For closing and deletion."""
        self.step(Closed())
        await self.lane.wait_idle()
        await self.syncs.wait_idle()


__all__ = ["Partition", "PartitionServices", "PartitionSettings"]
