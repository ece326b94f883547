"""The gate of a partition that is bounded, and what it means for the partition's appends.

Is there only while the topic's configs ask for it, and loaded with the first: without one, an append pays one comparison. It is asked in the same step
in which the batch is appended, so nothing gets in between. What the log has already (a batch sent again) is let through: the log knows it and
appends nothing.

A batch that must wait is copied out of its frame into the gate's line. When there is room, a job of the lane appends what may be: whatever
comes meanwhile queues in the lane behind that job, and then in the line behind those that still wait. So the order of arrival is kept.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING

from penstock.broker.backlog.bounds import BacklogBounds
from penstock.broker.backlog.gate import BacklogGate, HeldBatch
from penstock.broker.backlog.places import first_timestamp
from penstock.broker.backlog.rule import Judgement, LogEnds
from penstock.broker.partition_appends import ADMITTED
from penstock.broker.partition_machine import Role
from penstock.broker.partition_settings import PartitionServices
from penstock.errors import PenstockError
from penstock.protocol.errors import ErrorCode
from penstock.protocol.produce import ProducePartitionResult
from penstock.protocol.record_batch import BatchHeader
from penstock.storage.errors import OffsetOutOfRange
from penstock.storage.log_state import AppendInfo

if TYPE_CHECKING:
    from penstock.broker.partition import Partition

TIMED_OUT_MESSAGE = "the backlog is full, and had no room in half of the request's timeout"


class PartitionGate(BacklogGate):
    """See the module. The partition holds it as `gate`, and gives it up when told that it is at rest."""

    def __init__(self, partition: "Partition", bounds: BacklogBounds, services: PartitionServices) -> None:
        super().__init__(
            partition.topic,
            partition.topic_id,
            partition.index,
            bounds,
            services.clock,
            services.spawn,
            services.held,
            self._stir_held,
            self._give_up_held,
        )
        self._partition = partition
        self._backlogs = services.backlogs

    def begin(self) -> None:
        """This broker leads the partition from now on: the gate is to learn what the groups have committed."""
        self.forget()
        self._backlogs.follow(self)

    def end(self) -> None:
        """It does so no more: whoever waits for room waits for nothing."""
        self._backlogs.forget(self)
        self.give_all_up()
        self.forget()

    def replace_bounds(self, bounds: BacklogBounds | None) -> None:
        """What bounds the backlog from now on; None: nothing, and no group's commits matter."""
        if bounds is None:
            self._backlogs.forget(self)
            self.change(BacklogBounds())
        elif bounds != self.bounds:
            had_same_groups = bounds.groups == self.bounds.groups
            self.change(bounds)
            if not had_same_groups and self._partition.is_leader:
                self._backlogs.follow(self)

    @property
    def is_at_rest(self) -> bool:
        """Whether nothing depends on it any more."""
        return not self.held and not self.bounds.needs_offsets

    @property
    def deletable_end_offset(self) -> int:
        """As that of the partition."""
        high_watermark = self._partition.high_watermark
        if not self.bounds.keep_unconsumed:
            return high_watermark
        start_offset = self._partition.log.log_start_offset
        if not self.rule.is_known:
            return start_offset
        first = self.rule.first_unconsumed(start_offset)
        return high_watermark if first is None else min(first, high_watermark)

    # One append

    def _log_ends(self, now_ms: int) -> LogEnds:
        log = self._partition.log
        return LogEnds(log.log_start_offset, log.log_end_offset, log.segments, now_ms)

    def _judge(self, header: BatchHeader, now_ms: int, came_at: float) -> Judgement:
        """Whether the batch, which came then (monotonic seconds), may be appended now, whoever waits."""
        judgement = self.judge(header, self._log_ends(now_ms))
        if judgement is not Judgement.ADMITTED and self._partition.log.repeats(header):
            return Judgement.ADMITTED
        backlogs = self._backlogs
        if judgement is Judgement.OVER and backlogs.asks_others and not self.may_refuse(came_at):
            backlogs.ask()
            return Judgement.UNKNOWN
        return judgement

    def stop(
        self,
        batch: memoryview,
        header: BatchHeader,
        now_ms: int,
        acks: int,
        result: ProducePartitionResult,
        done: Callable[[], None],
        until: float,
    ) -> bool | None:
        """None if the batch may be appended now, else the answer of `produce`. `until` is how long it may wait, monotonic seconds."""
        judgement = Judgement.OVER
        if not self.held:
            judgement = self._judge(header, now_ms, self._clock.monotonic())
        elif self._partition.log.repeats(header):
            judgement = Judgement.ADMITTED
        if judgement is Judgement.ADMITTED:
            return None
        if judgement is Judgement.MUST_LOOK or self._partition.log.must_recall(header):
            self._partition.append_later(bytearray(batch), header, acks, result, done, until=until)
            return False
        if not self.held and not self.waits_for_room(header, judgement):
            self._refuse_over(header, now_ms, result)
            return True
        # what stands there if the producer's patience ends first
        result.error_code = ErrorCode.REQUEST_TIMED_OUT
        if not self.held:
            self._backlogs.ask()
        self.hold(bytearray(batch), header, acks, result, done, until)
        return False

    def _refuse_over(self, header: BatchHeader, now_ms: int, result: ProducePartitionResult) -> None:
        if self._partition.is_fenced:  # another may lead, and have the batch
            code = self._partition.refusal
            result.error_code = self._partition.gaps.refuse(code, self._clock.monotonic())
            return
        count = header.last_offset_delta + 1
        text = self.rule.explain(count, header.size_bytes, self._log_ends(now_ms))
        self.refused_batches += 1
        self.refused_records += count
        self._partition.gaps.skip(header.base_sequence, self._clock.monotonic())
        result.error_code = ErrorCode.POLICY_VIOLATION
        result.error_message = f"{self.topic}-{self.index}: {text}"
        self._partition.log_refusal(text)

    def must_look(self, header: BatchHeader, now_ms: int) -> bool:
        """Whether only a look at the log tells if the backlog has room for the batch."""
        judgement = self.judge(header, self._log_ends(now_ms))
        return judgement is Judgement.MUST_LOOK and not self._partition.log.repeats(header)

    async def look(self) -> None:
        """Look up in the log where its unconsumed part begins. Raises CorruptBatch, StorageError."""
        from penstock.broker.backlog.look import find_place  # loaded by the few topics that need it

        partition, rule = self._partition, self.rule
        offset = rule.place_wanted(partition.log.log_start_offset)
        try:
            place = await partition.run(find_place, partition.log, offset, rule.bounds.max_age_ms >= 0)
        except OffsetOutOfRange:
            return  # the log begins later meanwhile: whoever asked judges anew
        if offset <= rule.place_wanted(partition.log.log_start_offset):
            rule.look(place)  # else there was a commit backwards

    def note_appended(self, info: AppendInfo, batch: memoryview, header: BatchHeader) -> None:
        """A batch has come into the log: where, and of when. Only where the rule `needs_places`."""
        timestamp_ms: int | None = info.log_append_time_ms
        if info.log_append_time_ms < 0:
            timestamp_ms = first_timestamp(batch, header)
        self.rule.recent.note(info.base_offset, info.position, timestamp_ms, self._partition.log.segments)

    def producer_wait_s(self) -> float:
        """How long whoever has just produced here is to wait before it produces again: 0 but with `backlog.policy=throttle`."""
        return self.throttle_s(self._log_ends(self._clock.wall_ms()))

    # Those that wait

    def _stir_held(self) -> None:
        if self.is_emptying or not self.held:
            return
        first = self.held[0]
        header = first.header
        judgement = self._judge(header, self._clock.wall_ms(), first.came_at)
        if judgement is Judgement.UNKNOWN or (
            judgement is Judgement.OVER and self.waits_for_room(header, judgement)
        ):
            return
        self.is_emptying = True
        self._partition.lane.enqueue(self._empty_line)

    async def _empty_line(self) -> None:
        """Append the first of those that wait, as long as they are admitted."""
        try:
            while self.held:
                first = self.held[0]
                now_ms = self._clock.wall_ms()
                if not await self._partition.make_ready(first.header, now_ms):
                    self.give_all_up()
                    break
                if not self.held or self.held[0] is not first:
                    continue
                judgement = self._judge(first.header, now_ms, first.came_at)
                if judgement is Judgement.MUST_LOOK:
                    continue
                if judgement is Judgement.ADMITTED:
                    await self._append_held(self.take_first(), now_ms)
                elif self.waits_for_room(first.header, judgement):
                    break
                else:
                    self.take_first()
                    self._refuse_over(first.header, now_ms, first.result)
                    first.done()
        except PenstockError as error:  # the log can't be looked at
            self._refuse_first(error)
        finally:
            self.is_emptying = False
            self.stir()
            self._partition.drop_gate_at_rest()

    def _refuse_first(self, error: PenstockError) -> None:
        if self.held:
            first = self.take_first()
            try:
                self._partition.append_refused(error, first.result)
            finally:
                first.done()

    async def _append_held(self, held: HeldBatch, now_ms: int) -> None:
        try:
            is_final = await self._partition.append_in_turn(
                memoryview(held.batch), held.header, now_ms, held.acks, held.result, held.done, ADMITTED
            )
        except PenstockError as error:
            self._partition.append_refused(error, held.result)
            is_final = True
        except Exception:
            held.result.error_code = ErrorCode.UNKNOWN_SERVER_ERROR
            held.done()
            raise
        if is_final:
            held.done()

    def _give_up_held(self, held: HeldBatch) -> None:
        """It waits no longer, and is in no log."""
        code = ErrorCode.REQUEST_TIMED_OUT
        if self._partition.machine.role is not Role.LEADER or self._partition.is_fenced:
            code = self._partition.refusal
        else:
            held.result.error_message = f"{self.topic}-{self.index}: {TIMED_OUT_MESSAGE}"
        held.result.error_code = self._partition.gaps.refuse(code, self._clock.monotonic())
        held.done()


__all__ = ["PartitionGate"]
