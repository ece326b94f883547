"""The appending half of a partition: what is produced to it, checked, queued where it must be, and written.

Owns the order of appends. `Partition` adds reading, the machine's actions and whoever waits for them. Knows no request formats.

What runs where (DESIGN section 5): an append goes to the page cache right here on the event loop. Rolls, rewrites and the appends
behind them run one by one on workers (the *lane*), and while any such job is queued, appends queue behind it.
"""

import logging
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import TYPE_CHECKING, TypeVar, TypeVarTuple

from penstock.broker.ack import PendingAcks
from penstock.broker.lane import Lane
from penstock.broker.log_syncs import LogSyncs
from penstock.broker.partition_machine import (
    Appended,
    Event,
    PartitionMachine,
    Role,
    Synced,
)
from penstock.broker.partition_settings import HELD_OVERHEAD_BYTES, PartitionServices, PartitionSettings
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
from penstock.storage.errors import NotRecalled, ProducerStateError, StaleLeaderEpoch
from penstock.storage.log import AppendInfo, Log

if TYPE_CHECKING:
    from penstock.broker.backlog.partition_gate import PartitionGate

log = logging.getLogger(__name__)
T = TypeVar("T")
Ts = TypeVarTuple("Ts")

SLOW_APPEND_S = 0.005
"""An append that takes longer moves the log's appends to its lane until one is faster again (DESIGN section 5)."""
REFUSAL_LINE_S = 10.0
ACKS_ALL = -1
ACKS_NONE = 0
TIMEOUT_MS = 30_000
"""Of a request that does not say."""
ADMITTED = math.inf
"""In place of the end of a batch's patience: no bound of the backlog stops it any more."""


class PartitionAppends(ABC):
    """See the module. Used as `Partition` only."""

    syncs: LogSyncs
    high_watermark: int
    replica_waiters: set[Callable[[int], None]] | None
    gate: "PartitionGate | None" = None
    """Asked about every batch; None where nothing bounds the backlog."""

    def __init__(
        self,
        topic: str,
        index: int,
        partition_log: Log,
        settings: PartitionSettings,
        machine: PartitionMachine,
        services: PartitionServices,
    ) -> None:
        self.topic = topic
        self.index = index
        self.log = partition_log
        self.settings = settings
        self.machine = machine
        self._services = services
        self._monotonic = services.clock.monotonic
        self._wall_ms = services.clock.wall_ms
        self._lease = services.lease
        self._acks = PendingAcks()
        self.lane = Lane(f"{topic}-{index}", services.spawn)
        self._slow = False
        self._refusal_count = 0
        self._next_refusal_line = 0.0
        self.is_lost = False  # its log has failed: others are to lead, and no ISR is to have it
        self.begins_anew = False  # in the place of a log that went: no ISR is to have it by what that one had
        self.gaps = RefusedGaps()
        self._is_appending = False
        self._epoch_to_start: int | None = None
        self.prepared_epoch = -1
        self._invisible_bytes = 0

    @property
    def is_leader(self) -> bool:
        """Whether this broker leads the partition now."""
        return self.machine.role is Role.LEADER

    @property
    def is_fenced(self) -> bool:
        """Whether this broker may take no decision as a leader: the cluster may have another one (PROPERTIES M2)."""
        return self._monotonic() >= self._lease.deadline

    # Produce

    def produce(
        self,
        batch: memoryview,
        acks: int,
        result: ProducePartitionResult,
        done: Callable[[], None],
        timeout_ms: int = TIMEOUT_MS,
    ) -> bool:
        """Check and append one produced batch, and say in `result` what came of it.

        Returns True when `result` is final. False: it will be filled in later, and `done` is called then (never before this
        returns). `batch` is used only until this returns. Half of `timeout_ms` is how long it may wait for room in a full backlog.
        """
        machine = self.machine
        if machine.role is not Role.LEADER:
            result.error_code = self.gaps.refuse(self.refusal, self._monotonic())
            return True
        if acks == ACKS_ALL and not machine.has_enough_replicas:
            result.error_code = self.gaps.refuse(ErrorCode.NOT_ENOUGH_REPLICAS, self._monotonic())
            return True
        now_ms = self._wall_ms()
        header = None
        try:
            header = check_produced_batch(batch)
            check_limits(header, now_ms, self.settings)
        except InvalidBatch as error:
            self.append_refused(error, result, header)
            self.log_refusal(str(error))
            return True
        if (
            self.lane.is_busy
            or self._slow
            or self.prepared_epoch != machine.leader_epoch
            or self.settings.rewriter is not None
            or self._needs_roll(header, now_ms)
        ):
            until = self._monotonic() + timeout_ms / 2000
            self.append_later(bytearray(batch), header, acks, result, done, until=until)
            return False
        gate = self.gate
        if gate is not None and (
            gate.held
            or not gate.rule.admits_surely(
                self.log.log_end_offset + header.last_offset_delta + 1, header.size_bytes, self.log.segments
            )
        ):
            until = self._monotonic() + timeout_ms / 2000
            stopped = gate.stop(batch, header, now_ms, acks, result, done, until)
            if stopped is not None:
                return stopped
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
            self.append_later(
                bytearray(batch), header, ACKS_ALL, result, done, until=ADMITTED, own_epoch=leader_epoch
            )
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
        """Append on the event loop what no bound stops; same answer as `produce`."""
        started = self._monotonic()
        if started >= self._lease.deadline:
            result.error_code = self.gaps.refuse(self.refusal, started)
            return True
        self.machine.is_fenced = False
        try:
            info = self.log.append_as_leader(
                batch,
                header,
                leader_epoch=self.machine.leader_epoch,
                now_ms=now_ms,
                begins_at_zero=started < self.gaps.until,
            )
            self._slow = self._monotonic() - started > SLOW_APPEND_S
        except NotRecalled:
            self.append_later(bytearray(batch), header, acks, result, done, until=ADMITTED)
            return False
        except PenstockError as error:
            self.append_refused(error, result)
            return True
        return self._appended(info, batch, header, acks, result, done)

    def _appended(
        self,
        info: AppendInfo,
        batch: memoryview,
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
            gate = self.gate
            if gate is not None and gate.rule.needs_places:
                gate.note_appended(info, batch, header)
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

    def log_refusal(self, reason: str) -> None:
        """One line, and no more than one every ten seconds: a client that sends nothing else must not fill the log."""
        now = self._monotonic()
        self._refusal_count += 1
        if now >= self._next_refusal_line:
            self._next_refusal_line = now + REFUSAL_LINE_S
            log.warning(
                "%s-%d: refused a batch (%d so far): %s", self.topic, self.index, self._refusal_count, reason
            )

    def append_refused(
        self, error: PenstockError, result: ProducePartitionResult, header: BatchHeader | None = None
    ) -> None:
        """Nothing was appended: say why, by Kafka's code. `header` is the batch's, where that could be read."""
        result.error_message = str(error)
        match error:
            case InvalidBatch():
                if header is not None:
                    self.gaps.skip(header.base_sequence, self._monotonic())
                result.error_code = error.code
            case ProducerStateError():
                result.error_code = self.gaps.code_of(error.code, self._monotonic())
            case StorageError():
                result.error_code = self.gaps.refuse(ErrorCode.KAFKA_STORAGE_ERROR, self._monotonic())
                self.note_storage_error(error)
                self._slow = True  # a full disk takes its time to say so: the next append is a worker's
            case StaleLeaderEpoch():
                result.error_code = self.gaps.refuse(ErrorCode.NOT_LEADER_OR_FOLLOWER, self._monotonic())
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

    def append_later(
        self,
        batch: bytearray,
        header: BatchHeader,
        acks: int,
        result: ProducePartitionResult,
        done: Callable[[], None],
        *,
        until: float,
        own_epoch: int | None = None,
    ) -> None:
        """Queue the append on the lane: something must run on a worker before it, or the disk is slow."""
        held_bytes = len(batch) + HELD_OVERHEAD_BYTES
        self._services.hold_bytes(held_bytes)
        # what stands there if the producer's patience ends first
        result.error_code = ErrorCode.REQUEST_TIMED_OUT

        async def job() -> None:
            try:
                is_final = await self._append_in_lane(
                    batch, header, acks, result, done, until=until, own_epoch=own_epoch
                )
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
        until: float,
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
                view, header = await self.run(rewriter, view, now_ms)
                check_size(header, self.settings)
            if await self.make_ready(header, now_ms) and own_epoch in (None, self.machine.leader_epoch):
                return await self.append_in_turn(view, header, now_ms, acks, result, done, until)
        except PenstockError as error:
            self.append_refused(error, result, header)
            return True
        result.error_code = self.gaps.refuse(self.refusal, self._monotonic())
        return True

    async def append_in_turn(
        self,
        view: memoryview,
        header: BatchHeader,
        now_ms: int,
        acks: int,
        result: ProducePartitionResult,
        done: Callable[[], None],
        until: float,
    ) -> bool:
        """Append what `make_ready` was just done for; same answer as `produce`. Raises what the log raises.

        `until` is how long the batch may wait for room in its backlog, monotonic seconds.
        """
        if self.gate is not None and until != ADMITTED:
            stopped = self.gate.stop(view, header, now_ms, acks, result, done, until)
            if stopped is not None:
                return stopped
        if not self._slow:  # nothing in the way any more: the queue drains at the event loop's pace
            result.error_code = ErrorCode.NONE
            return self._append(view, header, now_ms, acks, result, done)
        info = await self._append_slowly(view, header, now_ms)
        if self.is_leader:
            return self._appended(info, view, header, acks, result, done)
        self.step(Appended(self.log.log_end_offset))  # it is in the log all the same
        result.error_code = self.gaps.refuse(self.refusal, self._monotonic())
        return True

    async def make_ready(self, header: BatchHeader, now_ms: int) -> bool:
        """What has to be done on a worker before the batch can be appended: the epoch's first time, a roll, a look for what its producer sent.

        False if this broker does not lead any more.
        """
        while self.is_leader and not self.is_fenced:
            epoch = self.machine.leader_epoch
            if self.prepared_epoch != epoch:
                await self._open_active_file()
                await self.run(self.log.prepare_append, epoch)
                self.prepared_epoch = epoch
            elif self._needs_roll(header, now_ms):
                await self.run(self.log.roll)
                self.step(Synced(self.log.durable_end_offset))
            elif self.log.must_recall(header):
                await self.run(self.log.recall_producer, header)
            elif self.gate is not None and self.gate.must_look(header, now_ms):
                await self.gate.look()
            else:
                return True
        return False

    async def _append_slowly(self, batch: memoryview, header: BatchHeader, now_ms: int) -> AppendInfo:
        """Append on a worker, and see whether the disk has recovered."""
        epoch = self.machine.leader_epoch

        def append() -> AppendInfo:
            return self.log.append_as_leader(
                batch, header, leader_epoch=epoch, now_ms=now_ms, begins_at_zero=started < self.gaps.until
            )

        started = self._monotonic()
        with self.changing_log():
            info = await self.run(append)
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

    async def run(self, function: Callable[[*Ts], T], *args: *Ts) -> T:
        """Have a worker run a function of the log. Raises what it raises. Cancellation: it runs to its end."""
        return await run_storage(self._services.threads, function, *args)

    # What `Partition` adds

    @abstractmethod
    def step(self, event: Event) -> None:
        """Feed the machine and do what it says; past the lease's deadline it decides nothing as a leader."""

    @abstractmethod
    def tell_replicas(self, news: int) -> None:
        """Answer followers' fetches that wait, if what they wait for has come; `news` as `Partition.replica_waiters` says."""

    @abstractmethod
    def note_storage_error(self, error: StorageError) -> None:
        """Log an error of the disk, not too often; if the log is offline by it, serve it no more."""

    @abstractmethod
    def _do(self, actions: tuple[object, ...]) -> None:
        """Carry out what the machine says."""

    @abstractmethod
    async def _open_active_file(self) -> None:
        """Have a place among the logs whose active file is open."""

    @abstractmethod
    def _start_epoch(self, leader_epoch: int) -> None:
        """Note in the log that a leader epoch begins at its end, and sync what others have left, where that counts. A failed log begins none."""


__all__ = ["ACKS_ALL", "ACKS_NONE", "ADMITTED", "SLOW_APPEND_S", "PartitionAppends"]
