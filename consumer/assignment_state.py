"""Where a consumer stands in each of its partitions, and what was fetched and not yet handed out.

Owns positions, buffers, and the byte budget over all of them. Pure: does not fetch, wait or call anybody.

Invariants (PROPERTIES C1):
    - `position` is behind all that was handed out; the buffer begins at or before it and ends at `fetch_offset`; with an empty buffer
      both are the same. Positions only rise but for `seek` and a reset.
    - An answer counts only where nothing changed since its question: `generation` is raised by every seek, reset and
      truncation, and `fetch_offset` must be what was asked for.
"""

import enum
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from penstock.client.metadata import TopicPartition
from penstock.consumer.batch import ConsumerBatch, RawBatch, TimeWindow, parse_answer
from penstock.consumer.errors import CorruptRecords
from penstock.consumer.options import FetchOptions, OffsetReset
from penstock.consumer.pace import AHEAD_S
from penstock.errors import PenstockError

NO_OFFSET = -1
NO_EPOCH = -1
NO_NODE = -1
TAKE_MAX_BYTES = 1024 * 1024
"""What one batch is made of at most, as fetched, unless a single record batch is larger."""
TAKE_MAX_RECORDS = 16_384
BUFFERED_FACTOR = 2
"""A partition is fetched while less than this many times its fetch size waits in its buffer: one answer to hand out, one under way."""


class Phase(enum.Enum):
    """What a partition needs before it can be fetched."""

    UNPOSITIONED = enum.auto()
    """A committed offset, or else a reset."""
    RESET = enum.auto()
    """The offset of `reset_timestamp`."""
    VALIDATE = enum.auto()
    """To know whether the log still has what was read (KIP-320)."""
    FETCH = enum.auto()
    """Nothing."""


@dataclass(slots=True)
class PartitionState:
    """One partition. Offsets are -1 while unknown."""

    tp: TopicPartition
    phase: Phase = Phase.UNPOSITIONED
    position: int = NO_OFFSET
    position_epoch: int = NO_EPOCH
    """The leader epoch of what was handed out last."""
    fetch_offset: int = NO_OFFSET
    fetch_epoch: int = NO_EPOCH
    """The leader epoch of what was fetched last."""
    leader_epoch: int = NO_EPOCH
    """The epoch of the leader that it is fetched from."""
    generation: int = 0
    reset_timestamp: int = 0
    stop_offset: int | None = None
    """Nothing from here on is handed out or fetched (bounded reads)."""
    window: TimeWindow | None = None
    """Only records with a timestamp in there are handed out (bounded reads)."""
    has_rising_times: bool = False
    """The broker stamps what is appended: behind the first batch that it stamped after the window, nothing lies within."""
    buffer: deque[RawBatch] = field(default_factory=deque[RawBatch])
    buffered_bytes: int = 0
    failure: PenstockError | None = None
    """To be raised when the buffer is empty; until it is cleared nothing is fetched."""
    is_paused: bool = False
    is_revoking: bool = False
    asked_generation: int = -1
    """The generation for which a request is under way; with another one its answer will be dropped, so that one may be sent beside it."""
    high_watermark: int = NO_OFFSET
    last_stable_offset: int = NO_OFFSET
    log_start_offset: int = NO_OFFSET
    end_offset: int = NO_OFFSET
    """What `lag` counts to."""
    leader_id: int = NO_NODE
    topic_id: bytes | None = None
    read_replica: int = NO_NODE
    """A nearer replica that the leader has named (KIP-392), until `read_replica_until_s`."""
    read_replica_until_s: float = 0.0
    unknown_since_s: float | None = None
    refusal_count: int = 0
    """Fetches that the leader refused in a row."""
    retry_at_s: float = 0.0
    """No leader is looked for before."""
    is_resting: bool = False
    """A replica has refused it: for a moment it is not fetched."""
    side_fetch_poll: int = -1
    """The long poll beside which it was asked for in vain."""

    def node_id(self, now_s: float) -> int:
        """The broker to fetch from; -1 while there is none."""
        if self.read_replica >= 0 and now_s < self.read_replica_until_s:
            return self.read_replica
        return self.leader_id

    @property
    def lag(self) -> int | None:
        """Records between the position and the end that is known; None while either is not."""
        if self.position < 0 or self.end_offset < 0:
            return None
        return max(0, self.end_offset - self.position)

    @property
    def is_done(self) -> bool:
        """Whether all below `stop_offset` was handed out."""
        return self.stop_offset is not None and not self.buffer and self.fetch_offset >= self.stop_offset

    @property
    def is_ready(self) -> bool:
        """Whether it has something to hand out: records, or a failure."""
        return (bool(self.buffer) or self.failure is not None) and not self.is_paused and not self.is_revoking

    def is_ahead(self, record_count: int) -> bool:
        """Whether so many records wait in its buffer already."""
        return sum(raw.header.record_count for raw in self.buffer) >= record_count

    def wants_fetch(self, buffered_max_bytes: int) -> bool:
        """Whether it should be asked for more."""
        return (
            self.phase is Phase.FETCH
            and self.asked_generation != self.generation
            and not self.is_paused
            and not self.is_revoking
            and not self.is_resting
            and self.failure is None
            and self.buffered_bytes < buffered_max_bytes
            and (self.stop_offset is None or self.fetch_offset < self.stop_offset)
        )

    # Positions

    def seek(self, offset: int, epoch: int = NO_EPOCH) -> None:
        """Go on from `offset`, whose previous record was of leader epoch `epoch` where that is known."""
        self.clear()
        self.phase = Phase.FETCH
        self.position = self.fetch_offset = offset
        self.position_epoch = self.fetch_epoch = epoch

    def seek_to(self, timestamp: int) -> None:
        """Go on from the offset that a lookup of `timestamp` will give."""
        self.clear()
        self.phase = Phase.RESET
        self.reset_timestamp = timestamp

    def reset(self, timestamp: int) -> None:
        """As `seek_to`, but what was fetched is still handed out before, unless the offset turns out to be a lower one."""
        self.generation += 1
        self.phase = Phase.RESET
        self.reset_timestamp = timestamp

    def found(self, offset: int, epoch: int = NO_EPOCH) -> None:
        """A reset has its offset, or a committed one was found. What waits in the buffer must lie below it."""
        self.generation += 1
        self.phase = Phase.FETCH
        self.fetch_offset, self.fetch_epoch = offset, epoch
        if not self.buffer:
            self.position, self.position_epoch = offset, epoch

    def clear(self) -> None:
        """Forget what was fetched."""
        self.generation += 1
        self.buffer.clear()
        self.buffered_bytes = 0
        self.failure = None

    def drop_buffer(self) -> None:
        """Give up what was fetched; it will be fetched again from the position, and with it a failure that lies behind it be found again."""
        self.clear()
        self.fetch_offset, self.fetch_epoch = self.position, self.position_epoch

    def truncate(self, end_offset: int, epoch: int) -> bool:
        """The log differs from `end_offset` on. Returns whether what was handed out is untouched; then fetching goes on from there."""
        if end_offset < self.position:
            return False
        while self.buffer and self.buffer[-1].next_offset > end_offset:
            self.buffered_bytes -= self.buffer.pop().size_bytes
        self.generation += 1
        self.fetch_offset = self.buffer[-1].next_offset if self.buffer else self.position
        self.fetch_epoch = epoch
        self.phase = Phase.FETCH
        return True

    # Records

    def deliver(
        self,
        generation: int,
        fetch_offset: int,
        records: memoryview,
        aborted: Sequence[tuple[int, int]] | None,
    ) -> bool:
        """Take in an answer. Returns whether there is something to hand out, or to be done, that was not before."""
        if generation != self.generation or fetch_offset != self.fetch_offset:
            return False
        if not len(records):
            return False
        parsed = parse_answer(records, fetch_offset, aborted)
        batches = parsed.batches
        if self.has_rising_times and self.window is not None:
            self._stop_behind(self.window, batches)
        stop = self.stop_offset
        if stop is not None:
            while batches and batches[-1].base_offset >= stop:
                batches.pop()
        for raw in batches:
            self.buffered_bytes += raw.size_bytes
        if not batches and self.buffer:
            self.buffer[-1].next_offset = parsed.next_offset  # filtered out behind what waits
        self.buffer.extend(batches)
        self.fetch_offset = parsed.next_offset
        if parsed.leader_epoch >= 0:
            self.fetch_epoch = parsed.leader_epoch
        if not self.buffer:
            self.position, self.position_epoch = self.fetch_offset, self.fetch_epoch
        if parsed.failure is not None:
            self.failure = CorruptRecords(self.tp, parsed.next_offset, str(parsed.failure))
        return True

    def _stop_behind(self, window: TimeWindow, batches: Sequence[RawBatch]) -> None:
        for raw in batches:
            if raw.is_stamped_by_broker and raw.header.max_timestamp >= window.end_ms:
                self.stop_offset = min(
                    raw.base_offset, raw.base_offset if self.stop_offset is None else self.stop_offset
                )
                return

    def head(self, max_bytes: int = TAKE_MAX_BYTES, max_records: int = TAKE_MAX_RECORDS) -> list[RawBatch]:
        """What `take` would be made of: at least one batch, where there is one."""
        chosen: list[RawBatch] = []
        size_bytes = record_count = 0
        for raw in self.buffer:
            size_bytes += raw.size_bytes
            if chosen and (size_bytes > max_bytes or record_count >= max_records):
                break
            record_count += raw.header.record_count
            chosen.append(raw)
        return chosen

    def take(self, raws: Sequence[RawBatch], max_records: int | None = None) -> ConsumerBatch:
        """Hand out these (opened, from `head`) from the position on, at most `max_records`; the position moves behind them.

        The batch may turn out empty where all its records lie below the position.
        """
        start = self.position
        next_offset = raws[-1].next_offset
        if self.stop_offset is not None:
            next_offset = min(next_offset, self.stop_offset)
        batch = ConsumerBatch(self.tp, raws, start, next_offset, self.window)
        if max_records is not None:
            batch = batch.first(max_records)
        self._move_to(batch.next_offset)
        return batch

    def put_back(self, raws: Sequence[RawBatch], position: int) -> None:
        """The end of a batch, from `position` on, was not handed out after all. Only while nothing else has changed."""
        kept = [raw for raw in raws if raw.next_offset > position]
        if self.buffer and kept and kept[-1] is self.buffer[0]:
            kept.pop()
        self.buffer.extendleft(reversed(kept))
        self.buffered_bytes += sum(raw.size_bytes for raw in kept)
        self.position = position

    def _move_to(self, position: int) -> None:
        buffer = self.buffer
        while buffer and buffer[0].next_offset <= position:
            raw = buffer.popleft()
            self.buffered_bytes -= raw.size_bytes
            self.position_epoch = raw.header.partition_leader_epoch
        if self.stop_offset is not None and position >= self.stop_offset:
            buffer.clear()
            self.buffered_bytes = 0
        self.position = position if buffer else self.fetch_offset
        if not buffer:
            self.position_epoch = self.fetch_epoch


class AssignmentState:
    """All partitions of a consumer (or of one bounded read), and whose turn it is."""

    def __init__(self, options: FetchOptions) -> None:
        self.options = options
        self.partitions: dict[TopicPartition, PartitionState] = {}
        self.buffered_max_bytes = BUFFERED_FACTOR * options.partition_fetch_max_bytes
        rate = options.max_records_per_second
        self.ahead_max_count = None if rate is None else max(1, int(rate * AHEAD_S))
        """A partition of which so many records wait is not fetched: what is handed out slowly would only grow old here."""
        self.from_beginning: frozenset[str] = frozenset()
        """Topics that begin at the log start offset, whatever auto_offset_reset says."""
        self.is_paused = False
        """Whether partitions begin paused."""
        self.reserved_bytes = 0
        """What requests under way may bring."""
        self.awaited: frozenset[TopicPartition] | None = None
        """Only of these anything is handed out now (a merged read waits for what it lacks); None: of all."""

    @property
    def buffered_bytes(self) -> int:
        """What waits in all buffers, as fetched."""
        return sum(state.buffered_bytes for state in self.partitions.values())

    def add(self, partitions: Iterable[TopicPartition]) -> None:
        """Begin with these; those that are there already stay as they are."""
        for tp in partitions:
            if tp not in self.partitions:
                self.partitions[tp] = PartitionState(tp, is_paused=self.is_paused)

    def remove(self, partitions: Iterable[TopicPartition]) -> None:
        """Forget these."""
        for tp in partitions:
            state = self.partitions.pop(tp, None)
            if state is not None:
                state.clear()

    def next_ready(self) -> PartitionState | None:
        """The partition whose turn it is among those that have something to hand out."""
        for state in self.partitions.values():
            if state.is_ready and (self.awaited is None or state.tp in self.awaited):
                return state
        return None

    def is_starved(self, state: PartitionState) -> bool:
        """Whether nothing goes on before this partition has something: then it gets it, however little room there is."""
        return self.awaited is not None and state.tp in self.awaited and not state.buffer

    def end_turn(self, tp: TopicPartition) -> None:
        """It comes last from now on."""
        state = self.partitions.pop(tp, None)
        if state is not None:
            self.partitions[tp] = state

    def reset_policy(self, state: PartitionState) -> OffsetReset:
        """Where a partition goes on that has no position, or one that is not in the log."""
        is_from_beginning = state.tp.topic in self.from_beginning
        return OffsetReset.EARLIEST if is_from_beginning else self.options.auto_offset_reset

    def room_bytes(self) -> int:
        """What may still be asked for. Paused partitions give up their buffers before others starve."""
        room = self.options.prefetch_max_bytes - self.reserved_bytes - self.buffered_bytes
        if room <= 0:
            for state in self.partitions.values():
                if state.is_paused and state.buffer:
                    room += state.buffered_bytes
                    state.drop_buffer()
        return room


__all__ = ["AssignmentState", "PartitionState", "Phase"]
