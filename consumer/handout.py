"""What is handed out next, and what the user has in hand.

Owns the waiting for records, whose turn it is, and the account of what was handed out and come back from. Does not know how records get into the
buffers (`fetcher`) nor who takes partitions away (`group_link`).

Invariants: one task waits at a time; nothing is taken before the last checkpoint of a call, so that a cancelled call takes nothing; records of a
decoded batch that were not handed out yet go back into the buffer when their partition is paused, sought or revoked.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from operator import length_hint
from typing import NamedTuple

import trio

from penstock.client.metadata import TopicPartition
from penstock.consumer.assignment_state import (
    TAKE_MAX_BYTES,
    TAKE_MAX_RECORDS,
    AssignmentState,
    PartitionState,
    Phase,
)
from penstock.consumer.batch import ConsumerBatch, RawBatch
from penstock.consumer.errors import CorruptRecords, PartitionError
from penstock.consumer.options import FetchOptions
from penstock.consumer.pace import Pace
from penstock.consumer.record import ConsumerRecord
from penstock.consumer.signal import Signal
from penstock.protocol.errors import DecodeError
from penstock.runtime.environment import Environment

TURN_MAX_S = 1.0
"""How long a partition is served before the next one's turn comes: a slow user would never empty a buffer that is filled meanwhile."""
RECORD_LOOP_MAX_BYTES = 256 * 1024
"""What is decoded at once for a loop over single records."""
INLINE_DECOMPRESSION_MAX_BYTES = 32 * 1024
"""More than this is decompressed on a worker thread; a hop there costs as much as decompressing about this."""


class Place(NamedTuple):
    """A place in a partition: an offset, and the leader epoch of the record before it (-1: unknown)."""

    offset: int
    leader_epoch: int


class Handout:
    """The user's side of an `AssignmentState`."""

    def __init__(self, state: AssignmentState, environment: Environment) -> None:
        self._state = state
        self._environment = environment
        self.data = Signal()
        """To be set whenever there may be something new to hand out."""
        self.on_room: Callable[[], None] = _nothing
        """Called when a buffer got smaller, or a partition may be fetched again."""
        self.on_failure_raised: Callable[[], None] = _nothing
        """Called when a failure that may pass was raised: it is tried again."""
        self.on_commit_wanted: Callable[[], None] = _nothing
        """Called when so much is in flight that a commit should come now."""
        self.is_finished: Callable[[], bool] = _never
        """Whether nothing more will come (bounded reads): then StopAsyncIteration is raised."""
        self.records: Iterator[ConsumerRecord] = iter(())
        """The rest of the batch that the loop over records is in. Taking from it hands out."""
        self._list: list[ConsumerRecord] = []
        self._batch: ConsumerBatch | None = None
        self._held: tuple[TopicPartition, int] | None = None
        self._pace = _pace_of(state.options)
        self._turn: tuple[TopicPartition | None, float] = None, 0.0
        """Who is served, and since when."""
        self.touched: set[TopicPartition] = set()
        """Partitions of which something was handed out since they were assigned."""
        self._holder: trio.lowlevel.Task | None = None
        self._work_until = 0.0
        self._errors: list[BaseException] = []
        self._fatal: BaseException | None = None
        self._is_busy = False
        self._is_closed = False
        self._came_back = trio.Event()
        self._positioned = trio.Event()
        self._polled_at_s = 0.0
        self._progress_seen = 0

    # Taking

    async def next_record(self) -> ConsumerRecord:
        """The first record of the next batch; the others follow from `records`."""
        batch, decoded = await self.next_records()
        self._batch, self._list = batch, decoded
        self.records = iter(decoded)
        self._progress_seen = 0
        return next(self.records)

    async def next_records(self) -> tuple[ConsumerBatch, list[ConsumerRecord]]:
        """The next batch and its records, of which there is at least one. Errors and cancellation as `next_batch`."""
        while True:
            batch = await self._next(None, RECORD_LOOP_MAX_BYTES)
            decoded = self._decoded(batch)
            if decoded:
                return batch, decoded

    async def next_batch(self, max_records: int | None) -> ConsumerBatch:
        """See `Consumer.next_batch`."""
        if max_records is not None and max_records < 1:
            raise ValueError(f"max_records must be at least 1, not {max_records}")
        while True:
            batch = self._counted(await self._next(max_records, TAKE_MAX_BYTES))
            if len(batch):
                return batch

    async def next_unlooked_at(self) -> ConsumerBatch:
        """The next batch, opened (checksum, compression) but not decoded: it may hold no record. Errors and cancellation as `next_batch`."""
        return await self._next(None, TAKE_MAX_BYTES)

    async def _next(self, max_records: int | None, max_bytes: int) -> ConsumerBatch:
        if self._is_busy:
            raise trio.BusyResourceError("another task is waiting for this consumer's records")
        self._is_busy = True
        pace = self._pace
        try:
            self.come_back()
            if pace is not None and pace.wants_commit:
                self.on_commit_wanted()
            await trio.lowlevel.checkpoint()
            while True:
                self._raise_errors()
                state = self._state.next_ready()
                if state is None:
                    if self.is_finished():
                        raise StopAsyncIteration
                    await self.data.wait()
                    continue
                most = max_records if pace is None else self._allowed(pace, max_records)
                raws = state.head(max_bytes, most or TAKE_MAX_RECORDS)
                if not raws:
                    self._raise_failure(state)
                elif most == 0:
                    await self._wait_for_pace()
                elif _is_heavy(raws):
                    await self._environment.threads.run(_open_all, raws)
                else:
                    return self._take(state, raws, most)
        finally:
            self._is_busy = False

    def _allowed(self, pace: Pace, max_records: int | None) -> int:
        """How many records may be handed out now; 0: wait."""
        now_s = self._environment.clock.monotonic()
        allowance = 0 if pace.due_s(now_s) > now_s else pace.allowance(now_s)
        return min(allowance, TAKE_MAX_RECORDS if max_records is None else max_records)

    async def _wait_for_pace(self) -> None:
        """Until more may be handed out, or something has changed."""
        assert self._pace is not None
        with trio.move_on_at(self._pace.due_s(self._environment.clock.monotonic())):
            await self.data.wait()

    def _take(
        self, state: PartitionState, raws: Sequence[RawBatch], max_records: int | None
    ) -> ConsumerBatch:
        good = self._opened(state, raws)
        batch = self._taken(state, good, max_records)
        self._held = state.tp, batch.start_offset
        self._holder, self._work_until = trio.lowlevel.current_task(), trio.current_effective_deadline()
        self.touched.add(state.tp)
        now_s = self._polled_at_s = self._environment.clock.monotonic()
        if self._pace is not None:
            count = len(batch)
            self._pace.took(state.tp, batch.start_offset, batch.next_offset, count, now_s)
        self._end_turn_in_time(state, now_s)
        self.on_room()
        return batch

    def _taken(
        self, state: PartitionState, raws: Sequence[RawBatch], max_records: int | None
    ) -> ConsumerBatch:
        if max_records is None:
            return state.take(raws)
        try:
            return state.take(raws, max_records)
        except CorruptRecords as error:
            good = [raw for raw in raws if raw.next_offset <= error.offset]
            if not good:
                self._state.end_turn(state.tp)
                raise
            return state.take(good, max_records)

    def _end_turn_in_time(self, state: PartitionState, now_s: float) -> None:
        served, since_s = self._turn
        if served is not state.tp:
            since_s = now_s
            self._turn = state.tp, now_s
        if state.buffer:
            if now_s - since_s < TURN_MAX_S:
                return
            state.buffer[0].decoded = None
        self._turn = None, 0.0
        self._state.end_turn(state.tp)

    def _opened(self, state: PartitionState, raws: Sequence[RawBatch]) -> Sequence[RawBatch]:
        """The batches up to the first one that is broken; CorruptRecords where that is the first."""
        for index, raw in enumerate(raws):
            try:
                raw.open()
            except DecodeError as error:
                if index:
                    return raws[:index]
                self._state.end_turn(state.tp)
                offset = max(raw.base_offset, state.position)
                raise CorruptRecords(state.tp, offset, str(error), raw.next_offset) from error
        return raws

    def _decoded(self, batch: ConsumerBatch) -> list[ConsumerRecord]:
        try:
            return batch.records()
        except CorruptRecords as error:
            return self._before_broken(batch, error).records()

    def _counted(self, batch: ConsumerBatch) -> ConsumerBatch:
        try:
            len(batch)  # decodes what has gaps
        except CorruptRecords as error:
            return self._before_broken(batch, error)
        return batch

    def _before_broken(self, batch: ConsumerBatch, error: CorruptRecords) -> ConsumerBatch:
        """What comes before the broken batch is handed out first, and the broken one stays where it is."""
        state = self._state.partitions[batch.topic_partition]
        state.put_back(batch.raws, batch.start_offset)
        self._held = None
        good = [raw for raw in batch.raws if raw.next_offset <= error.offset]
        if not good:
            self._state.end_turn(state.tp)
            raise error
        first = state.take(good)
        self._held = state.tp, first.start_offset
        return first

    def _check_open(self) -> None:
        if self._is_closed:
            raise RuntimeError("the consumer is closed")

    def _raise_errors(self) -> None:
        self._check_open()
        if self._errors:
            raise self._errors.pop(0)
        if self._fatal is not None:
            raise self._fatal

    def _raise_failure(self, state: PartitionState) -> None:
        failure = state.failure
        assert failure is not None
        self._state.end_turn(state.tp)
        if not isinstance(failure, PartitionError):
            state.failure = None
            self.on_failure_raised()
        raise failure

    # In hand

    def come_back(self) -> None:
        """The user is done with what is in hand. What is left of a loop that was broken off goes back into the buffer."""
        if self._batch is not None and self._batch.topic_partition in self._state.partitions:
            self._cut(self._batch.topic_partition)
        self._held = None
        self._holder = None
        self._batch = None
        self._list = []
        self.records = iter(())
        self._came_back.set()
        self._came_back = trio.Event()

    def finish(self) -> None:
        """The user leaves without an error: done with what is in hand, unless there are signs that the work on it was cancelled.

        The signs: another task has it, which did not come back; or the deadline that held when it was handed out has passed.
        """
        if self._held is not None and self.is_held_here and trio.current_time() < self._work_until:
            self.come_back()

    @property
    def is_held_here(self) -> bool:
        """Whether the task that asks is the one that has something in hand: then nobody can wait for it to come back."""
        return self._held is not None and self._holder is trio.lowlevel.current_task()

    @property
    def held_partition(self) -> TopicPartition | None:
        """The partition of what is in hand; None: nothing is."""
        return None if self._held is None else self._held[0]

    async def wait_come_back(self) -> None:
        """Return when the user has come back for more, at once if nothing is in hand."""
        if self._held is not None:
            await self._came_back.wait()

    @property
    def ms_since_poll(self) -> float | None:
        """How long the user has had the same in hand. In a loop over records, progress is noticed only when this is looked at."""
        if self._held is None:
            return None
        now_s = self._environment.clock.monotonic()
        progress = length_hint(self.records)
        if progress != self._progress_seen:
            self._progress_seen = progress
            self._polled_at_s = now_s
        return (now_s - self._polled_at_s) * 1000

    def handed_out(self, state: PartitionState) -> Place:
        """Behind all that was handed out, the record in hand included."""
        handed = len(self._list) - length_hint(self.records)
        if self._batch is not None and self._batch.topic_partition == state.tp and handed < len(self._list):
            record = self._list[handed - 1]
            return Place(record.offset + 1, record.leader_epoch)
        return Place(state.position, state.position_epoch)

    def come_back_from(self, state: PartitionState) -> Place:
        """Behind all that the user has come back from."""
        held = self._held
        if held is None or held[0] != state.tp:
            return Place(state.position, state.position_epoch)
        if self._batch is not None:
            handed = len(self._list) - length_hint(self.records)
            if handed > 1:
                return Place(self._list[handed - 2].offset + 1, self._list[handed - 2].leader_epoch)
        return Place(held[1], -1)

    # Changes

    def set_assignment(self, partitions: frozenset[TopicPartition]) -> None:
        """Have exactly these."""
        self.remove(frozenset(self._state.partitions) - partitions)
        self.add(partitions)

    def add(self, partitions: Iterable[TopicPartition]) -> None:
        """Have these as well."""
        self._state.add(sorted(partitions))

    def remove(self, partitions: Iterable[TopicPartition]) -> None:
        """Forget these."""
        gone = list(partitions)
        for tp in gone:
            self._cut(tp)
            self._hold_from(tp, -1)
        self.touched.difference_update(gone)
        self._state.remove(gone)
        self.note_positions()

    def stop(self, partitions: Iterable[TopicPartition]) -> None:
        """Hand out nothing of these any more."""
        for tp in partitions:
            self._cut(tp)
            if tp in self._state.partitions:
                self._state.partitions[tp].is_revoking = True

    def pause(self, partitions: Iterable[TopicPartition]) -> None:
        """See `Consumer.pause`."""
        for state in [self._state.partitions[tp] for tp in partitions]:
            self._cut(state.tp)
            state.is_paused = True

    def pause_all(self) -> None:
        """See `Consumer.pause_all`."""
        self._state.is_paused = True
        self.pause(list(self._state.partitions))

    def resume_all(self) -> None:
        """See `Consumer.resume_all`."""
        self._state.is_paused = False
        self.resume(list(self._state.partitions))

    def resume(self, partitions: Iterable[TopicPartition]) -> None:
        """See `Consumer.resume`."""
        for state in [self._state.partitions[tp] for tp in partitions]:
            state.is_paused = False
        self.data.set()

    def seek(self, tp: TopicPartition, offset: int) -> None:
        """See `Consumer.seek`."""
        state = self._state.partitions[tp]
        self._cut(tp)
        self._hold_from(tp, offset)
        state.seek(offset)
        self.note_positions()

    def seek_to(self, tp: TopicPartition, timestamp: int) -> None:
        """See `Consumer.seek_to_beginning`."""
        state = self._state.partitions[tp]
        self._cut(tp)
        self._hold_from(tp, -1)
        state.seek_to(timestamp)

    async def position(self, tp: TopicPartition) -> int:
        """See `Consumer.position`."""
        while True:
            self._check_open()
            state = self._state.partitions[tp]
            if state.phase is Phase.FETCH or state.buffer:
                return self.handed_out(state).offset
            if state.failure is not None:
                raise state.failure
            await self._positioned.wait()

    def note_positions(self) -> None:
        """Positions were found, or partitions failed."""
        self._positioned.set()
        self._positioned = trio.Event()

    def _cut(self, tp: TopicPartition) -> None:
        """What is left of the loop's batch is not handed out now, if it is this partition's; the record in hand stays there."""
        batch = self._batch
        if batch is None or batch.topic_partition != tp:
            return
        state = self._state.partitions[tp]
        place = self.handed_out(state)
        came_back_from = self.come_back_from(state)
        left_count = length_hint(self.records)
        if left_count:
            state.put_back(batch.raws, place.offset)
            if self._pace is not None:
                self._pace.put_back(tp, place.offset, left_count)
        self._held = tp, came_back_from.offset
        self._batch = None
        self._list = []
        self.records = iter(())

    def forget_position(self, tp: TopicPartition) -> None:
        """The log that it stood in is gone: what is in hand can't be committed any more."""
        self._cut(tp)
        self._hold_from(tp, -1)

    def _hold_from(self, tp: TopicPartition, offset: int) -> None:
        """What is in hand of a partition does not matter to its position any more; -1: nor is there any that could be committed."""
        if self._held is not None and self._held[0] == tp:
            self._held = tp, offset
        if self._pace is not None:
            self._pace.in_flight.forget(tp)
            self.data.set()

    def committed(self, tp: TopicPartition, offset: int) -> None:
        """The group has `offset` for good: what lies below is in flight no more."""
        if self._pace is not None:
            self._pace.in_flight.committed(tp, offset)
            self.data.set()

    # Errors

    def report(self, error: BaseException, *, is_fatal: bool = False) -> None:
        """To be raised by the user's next call, or the one that waits now; a fatal one by all that follow."""
        if is_fatal:
            self._fatal = error
        elif not any(type(error) is type(known) and str(error) == str(known) for known in self._errors):
            self._errors.append(error)  # what goes on failing while nobody looks is told once
        self.data.set()

    def raise_fatal(self) -> None:
        """Raise the fatal error, if there is one."""
        if self._fatal is not None:
            raise self._fatal

    def close(self) -> None:
        """Whoever waits, or calls later, gets an error."""
        self._is_closed = True
        self.records = iter(())
        self.data.set()
        self.note_positions()


def _nothing() -> None:
    """Nobody fetches."""


def _pace_of(options: FetchOptions) -> Pace | None:
    if options.max_records_per_second is None and options.max_in_flight is None:
        return None
    return Pace(options.max_records_per_second, options.burst_records, options.max_in_flight)


def _never() -> bool:
    return False


def _is_heavy(raws: Sequence[RawBatch]) -> bool:
    waiting_bytes = sum(raw.size_bytes for raw in raws if raw.needs_work)
    return waiting_bytes > INLINE_DECOMPRESSION_MAX_BYTES


def _open_all(raws: Sequence[RawBatch]) -> None:
    """On a worker. A broken batch is found again by who takes it."""
    for raw in raws:
        try:
            raw.open()
        except DecodeError:
            raw.is_broken = True


__all__ = ["Handout", "Place"]
