"""One partition as this broker serves it: the log, the pure machine, and those who wait.

Owns the order of everything that is done to one log. Decides nothing about replication: `partition_machine` does, and this module
carries out its actions. Knows no request formats.

`partition_appends` is its appending half, `backlog/partition_gate` what bounds it. Syncs run beside appends, at most one for each log: one sync serves all that wait.
"""

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING

import trio

from penstock.broker.damage import ErrorLines
from penstock.broker.log_syncs import LogSyncs
from penstock.broker.partition_appends import PartitionAppends
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
from penstock.protocol.errors import ErrorCode
from penstock.runtime.files import StorageError
from penstock.storage.errors import CorruptBatch
from penstock.storage.log import Log, LogSlice

if TYPE_CHECKING:
    from penstock.broker.backlog.bounds import BacklogBounds

log = logging.getLogger(__name__)

GONE = -1
"""Told to fetch waiters when the partition is not served here any more."""
HIGH_WATERMARK_MOVED, LOG_START_MOVED = 0, -2
"""Told to followers' fetches when there is nothing new to read; the former answers only those of followers that consumers are sent to."""


class Partition(PartitionAppends):
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
        super().__init__(topic, index, partition_log, settings, machine, services)
        self.topic_id = topic_id
        self.high_watermark = machine.high_watermark
        self.fetch_waiters: set[Callable[[int], None]] = set()
        """Told how many bytes have become visible, about, or GONE."""
        self.replica_waiters: set[Callable[[int], None]] | None = None
        """Followers' fetches: told how many bytes were appended, HIGH_WATERMARK_MOVED, LOG_START_MOVED, or GONE."""
        self.log_starts_moved: trio.lowlevel.ParkingLot | None = None
        """Who waits for followers' log start offsets (`replication/low_watermark`)."""
        self.epoch_start_offset = 0
        """Where the present leader epoch began: until the high watermark is there, the end is not known (KIP-207)."""
        self.syncs = LogSyncs(self, services)
        self._error_lines = ErrorLines()
        self.set_bounds(settings.bounds)

    # What others look at

    @property
    def is_follower(self) -> bool:
        """Whether this broker follows the partition's leader now."""
        return self.machine.role is Role.FOLLOWER

    @property
    def leader_epoch(self) -> int:
        """The leader epoch as last learned from the store."""
        return self.machine.leader_epoch

    def note_followed(self, size_bytes: int) -> None:
        """What a leader has sent was appended, about so many bytes (`replication/follower.py`)."""
        self._invisible_bytes += size_bytes
        self.step(Appended(self.log.log_end_offset))

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

        return await self.run(read)

    # Actions and waiters

    def learn(self, state: StateLearned) -> None:
        """The store's state of this partition changed."""
        self.step(state)

    def change_settings(self, settings: PartitionSettings) -> None:
        """The topic's effective config changed; holds for what comes from now on."""
        self.settings = settings
        self.log.config = settings.log_config
        self.set_bounds(settings.bounds)
        self.step(SettingsChanged(settings.write_caching, settings.min_insync_replicas))
        if not settings.write_caching:
            self.syncs.start()

    def note_storage_error(self, error: StorageError) -> None:
        """Log an error of the disk, not too often; if the log is offline by it, serve it no more. Damage is told to who has it fetched anew."""
        self._error_lines.tell(f"{self.topic}-{self.index}", self.log.directory, error, self._monotonic())
        failure, was_lost = self.log.failure, self.is_lost
        if failure is not None:
            self._lose()
            if isinstance(failure, CorruptBatch) and not was_lost:  # a cut has met it
                self._services.note_damage(self, str(failure))
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
                if self.gate is not None:
                    self.gate.begin()
                if self._is_appending:  # in the epoch before: this one begins behind it
                    self._epoch_to_start = action.leader_epoch
                else:
                    self._start_epoch(action.leader_epoch)
            elif isinstance(action, BecomeFollower | GoOffline):
                self._epoch_to_start = None
                self._acks.fail_all(self.refusal)
                if self.gate is not None:
                    self.gate.end()
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

    async def _open_active_file(self) -> None:
        await self._services.active_files.take_place(self)

    def _start_epoch(self, leader_epoch: int) -> None:
        self._epoch_to_start = None
        if self.log.failure is not None:  # by the cut that this one began behind: `LogFailed` is to come
            return
        self.log.start_leader_epoch(leader_epoch)
        self.epoch_start_offset = self.log.log_end_offset
        self.step(EpochStarted(self.epoch_start_offset))
        # whoever appended or rolled before may have ended otherwise, by a failure or another epoch, and have left this undone
        self.step(Synced(self.log.durable_end_offset))
        if not self.machine.write_caching and self.log.durable_end_offset < self.epoch_start_offset:
            self.syncs.start()
        log.debug("%s-%d: leading in epoch %d", self.topic, self.index, leader_epoch)

    def step(self, event: Event) -> None:
        """Feed the machine and do what it says; past the lease's deadline it decides nothing as a leader."""
        machine = self.machine
        machine.is_fenced = self._monotonic() >= self._lease.deadline
        self._do(machine.step(event))

    # The backlog

    def set_bounds(self, bounds: "BacklogBounds | None") -> None:
        """What bounds the backlog from now on; None: nothing, and no group's commits matter."""
        if self.gate is not None:
            self.gate.replace_bounds(bounds)
            self.drop_gate_at_rest()
        elif bounds is not None:
            from penstock.broker.backlog.partition_gate import PartitionGate  # loaded where there is a bound

            self.gate = PartitionGate(self, bounds, self._services)
            if self.is_leader:
                self.gate.begin()

    def drop_gate_at_rest(self) -> None:
        """Ask nobody any more, if nothing is bounded and no batch waits."""
        if self.gate is not None and self.gate.is_at_rest:
            self.gate = None

    @property
    def deletable_end_offset(self) -> int:
        """Up to where retention may delete: the high watermark, but nothing that `retention.keep.unconsumed` keeps. Any thread."""
        gate = self.gate
        return self.high_watermark if gate is None else gate.deletable_end_offset

    def advance_log_start(self, offset: int) -> None:
        """Let the log begin at `offset` from now on; below the present start it changes nothing. Raises OffsetOutOfRange past the end."""
        self.log.advance_log_start_offset(offset)
        if self.gate is not None:
            self.gate.stir()

    # Syncs

    def synced(self) -> None:
        """A sync has completed. What counts is what the log holds now: where the worker is heard of late, a part of what it synced may be cut."""
        self.step(Synced(self.log.durable_end_offset))

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
                await self.run(function)
            except StorageError as error:
                self.note_storage_error(error)
                raise

        await self.lane.do(job)

    def expire_producers(self, now_ms: int) -> None:
        """Forget the producers that are idle for too long: at once, or in the lane where a worker may be at the log, which knows them."""
        if not self.lane.is_busy:
            self.log.expire_producers(now_ms)
            return

        async def job() -> None:
            self.log.expire_producers(now_ms)

        self.lane.enqueue(job)

    async def quiesce(self) -> None:
        """Take no further append, and return when lane and sync have come to rest. For closing and deletion."""
        self.step(Closed())
        await self.lane.wait_idle()
        await self.syncs.wait_idle()


__all__ = ["Partition", "PartitionServices", "PartitionSettings"]
