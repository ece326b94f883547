"""What a bound of its backlog means for a partition's appends.

Owns the gate (`backlog/gate.py`), which is there only while the topic's configs ask for it: without one, an append pays one comparison. The gate is
asked in the same step in which the batch is appended, so nothing gets in between. What the log has already (a batch sent again) is let through:
the log knows it and appends nothing.

A batch that must wait is copied out of its frame into the gate's line. When there is room, a job of the lane appends what may be: whatever
comes meanwhile queues in the lane behind that job, and then in the line behind those that still wait. So the order of arrival is kept.
"""

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

from penstock.broker.backlog.bounds import BacklogBounds
from penstock.broker.backlog.rule import Judgement, LogEnds
from penstock.broker.partition_appends import ADMITTED, PartitionAppends
from penstock.broker.partition_machine import Role
from penstock.errors import PenstockError
from penstock.protocol.errors import ErrorCode
from penstock.protocol.produce import ProducePartitionResult
from penstock.protocol.record_batch import BatchHeader

if TYPE_CHECKING:
    from penstock.broker.backlog.gate import BacklogGate, HeldBatch

TIMED_OUT_MESSAGE = "the backlog is full, and had no room in half of the request's timeout"


class BoundedAppends(PartitionAppends):
    """See the module. Used as `Partition` only."""

    topic_id: bytes

    def set_bounds(self, bounds: BacklogBounds | None) -> None:
        """What bounds the backlog from now on; None: nothing, and no group's commits matter."""
        gate = self.gate
        if gate is None:
            if bounds is None:
                return
            from penstock.broker.backlog.gate import BacklogGate  # loaded where there is a bound

            gate = self.gate = BacklogGate(
                self.topic,
                self.topic_id,
                self.index,
                bounds,
                self._services.clock,
                self._services.spawn,
                self._services.held,
                self._stir_held,
                self._give_up_held,
            )
            if self.is_leader:
                self._services.backlogs.follow(gate)
        elif bounds is None:
            self._services.backlogs.forget(gate)
            gate.change(BacklogBounds())
            self._drop_gate_at_rest()
        elif bounds != gate.bounds:
            had_same_groups = bounds.groups == gate.bounds.groups
            gate.change(bounds)
            if not had_same_groups and self.is_leader:
                self._services.backlogs.follow(gate)

    def begin_gate(self) -> None:
        """This broker leads the partition from now on: it is to learn what the groups have committed."""
        if self.gate is not None:
            self.gate.forget()
            self._services.backlogs.follow(self.gate)

    def end_gate(self) -> None:
        """It does so no more: whoever waits for room waits for nothing."""
        if self.gate is not None:
            self._services.backlogs.forget(self.gate)
            self.gate.give_all_up()
            self.gate.forget()

    def _drop_gate_at_rest(self) -> None:
        gate = self.gate
        if gate is not None and not gate.held and not gate.bounds.needs_offsets:
            self.gate = None

    def advance_log_start(self, offset: int) -> None:
        """Let the log begin at `offset` from now on; below the present start it changes nothing. Raises OffsetOutOfRange past the end."""
        self.log.advance_log_start_offset(offset)
        if self.gate is not None:
            self.gate.stir()

    @property
    def deletable_end_offset(self) -> int:
        """Up to where retention may delete: the high watermark, but nothing that `retention.keep.unconsumed` keeps. Any thread."""
        gate = self.gate
        if gate is None or not gate.bounds.keep_unconsumed:
            return self.high_watermark
        start_offset = self.log.log_start_offset
        if not gate.rule.is_known:
            return start_offset
        first = gate.rule.first_unconsumed(start_offset)
        return self.high_watermark if first is None else min(first, self.high_watermark)

    # One append

    def _log_ends(self, now_ms: int) -> LogEnds:
        return LogEnds(self.log.log_start_offset, self.log.log_end_offset, self.log.segments, now_ms)

    def _judge(self, gate: "BacklogGate", header: BatchHeader, now_ms: int) -> Judgement:
        """Whether the batch may be appended now, whoever waits."""
        judgement = gate.judge(header, self._log_ends(now_ms))
        if judgement is not Judgement.ADMITTED and self.log.repeats(header):
            return Judgement.ADMITTED
        backlogs = self._services.backlogs
        if judgement is Judgement.OVER and backlogs.asks_others and self._monotonic() >= gate.fresh_until:
            backlogs.ask()
            return Judgement.UNKNOWN
        return judgement

    def _pass_gate(
        self,
        batch: memoryview,
        header: BatchHeader,
        now_ms: int,
        acks: int,
        result: ProducePartitionResult,
        done: Callable[[], None],
        until: float,
    ) -> bool | None:
        gate = self.gate
        if gate is None:
            return None
        judgement = Judgement.OVER
        if not gate.held:
            judgement = self._judge(gate, header, now_ms)
        elif self.log.repeats(header):
            judgement = Judgement.ADMITTED
        if judgement is Judgement.ADMITTED:
            return None
        if judgement is Judgement.MUST_LOOK or self.log.must_recall(header):
            self._append_later(bytearray(batch), header, acks, result, done, until=until)
            return False
        if not gate.held and not gate.waits_for_room(header, judgement):
            self._refuse_over(gate, header, now_ms, result)
            return True
        # what stands there if the producer's patience ends first
        result.error_code = ErrorCode.REQUEST_TIMED_OUT
        gate.hold(bytearray(batch), header, acks, result, done, until)
        return False

    def _refuse_over(
        self, gate: "BacklogGate", header: BatchHeader, now_ms: int, result: ProducePartitionResult
    ) -> None:
        count = header.last_offset_delta + 1
        text = gate.rule.explain(count, header.size_bytes, self._log_ends(now_ms))
        gate.refused_batches += 1
        gate.refused_records += count
        self._gaps.skip(self._monotonic())
        result.error_code = ErrorCode.POLICY_VIOLATION
        result.error_message = f"{self.topic}-{self.index}: {text}"
        self._log_refusal(text)

    def _must_look(self, header: BatchHeader, now_ms: int) -> bool:
        gate = self.gate
        return (
            gate is not None
            and gate.judge(header, self._log_ends(now_ms)) is Judgement.MUST_LOOK
            and not self.log.repeats(header)
        )

    async def _look(self) -> None:
        from penstock.broker.backlog.look import find_place  # loaded by the few topics that need it

        gate = self.gate
        if gate is not None:
            rule = gate.rule
            offset = rule.place_wanted(self.log.log_start_offset)
            rule.look(await self._run(find_place, self.log, offset, rule.bounds.max_age_ms >= 0))

    def throttle_s(self) -> float:
        """How long whoever has just produced here is to wait before it produces again: 0 but with `backlog.policy=throttle`."""
        return 0.0 if self.gate is None else self.gate.throttle_s(self._log_ends(self._wall_ms()))

    # Those that wait

    def _stir_held(self) -> None:
        gate = self.gate
        if gate is None or gate.is_emptying or not gate.held:
            return
        header = gate.held[0].header
        judgement = self._judge(gate, header, self._wall_ms())
        if judgement is Judgement.UNKNOWN or (
            judgement is Judgement.OVER and gate.waits_for_room(header, judgement)
        ):
            return
        gate.is_emptying = True
        self.lane.enqueue(partial(self._empty_line, gate))

    async def _empty_line(self, gate: "BacklogGate") -> None:
        """Append the first of those that wait, as long as they are admitted."""
        try:
            while gate.held:
                first = gate.held[0]
                now_ms = self._wall_ms()
                if not await self._make_ready(first.header, now_ms):
                    gate.give_all_up()
                    break
                if not gate.held or gate.held[0] is not first:
                    continue
                judgement = self._judge(gate, first.header, now_ms)
                if judgement is Judgement.MUST_LOOK:
                    continue
                if judgement is Judgement.ADMITTED:
                    await self._append_held(gate.take_first(), now_ms)
                elif gate.waits_for_room(first.header, judgement):
                    break
                else:
                    gate.take_first()
                    self._refuse_over(gate, first.header, now_ms, first.result)
                    first.done()
        except PenstockError as error:  # the log can't be looked at
            self._refuse_first(gate, error)
        finally:
            gate.is_emptying = False
            gate.stir()
            self._drop_gate_at_rest()

    def _refuse_first(self, gate: "BacklogGate", error: PenstockError) -> None:
        if gate.held:
            first = gate.take_first()
            self._append_refused(error, first.result)
            first.done()

    async def _append_held(self, held: "HeldBatch", now_ms: int) -> None:
        try:
            is_final = await self._append_in_turn(
                memoryview(held.batch), held.header, now_ms, held.acks, held.result, held.done, ADMITTED
            )
        except PenstockError as error:
            self._append_refused(error, held.result)
            is_final = True
        except Exception:
            held.result.error_code = ErrorCode.UNKNOWN_SERVER_ERROR
            held.done()
            raise
        if is_final:
            held.done()

    def _give_up_held(self, held: "HeldBatch") -> None:
        """It waits no longer, and is in no log."""
        code = ErrorCode.REQUEST_TIMED_OUT
        if self.machine.role is not Role.LEADER or self.is_fenced:
            code = self.refusal
        else:
            held.result.error_message = f"{self.topic}-{self.index}: {TIMED_OUT_MESSAGE}"
        held.result.error_code = self._gaps.refuse(code, self._monotonic())
        held.done()


__all__ = ["BoundedAppends"]
