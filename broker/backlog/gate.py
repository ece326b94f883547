"""The gate of one bounded partition: asks the rule about each batch, and keeps those that wait.

Owns the batches that are held, their order and their patience, and what is told of refusals. Decides nothing about the bound (`rule` does) and
appends nothing: the partition does, when `wake` says that the first of those held may be admitted.

Held batches are in the order in which they came, all of a partition in one line: what comes while there are some goes behind them, so that an
idempotent producer's sequences stay in order. Whoever's patience ends is told REQUEST_TIMED_OUT, and its batch is in no log.
"""

import math
from collections import deque
from collections.abc import Awaitable, Callable, Mapping

import trio

from penstock.broker.backlog.bounds import BacklogBounds, BacklogPolicy
from penstock.broker.backlog.held_bytes import HeldBytes
from penstock.broker.backlog.kept import KeptLines
from penstock.broker.backlog.rule import BacklogRule, Judgement, LogEnds
from penstock.broker.partition_settings import HELD_OVERHEAD_BYTES
from penstock.protocol.produce import ProducePartitionResult
from penstock.protocol.record_batch import BatchHeader
from penstock.runtime.clock import Clock

FRESH_S = 0.05
"""How old what is known may have been, when a batch came, for the batch to be refused by it; where other brokers are asked."""
THROTTLE_MAX_S = 1.0
"""What one request costs its connection where the backlog is at its bound. From half of the bound on it grows with the square, from nothing."""


class HeldBatch:
    """A batch that waits for room. `until` and `came_at` are monotonic seconds."""

    __slots__ = ("acks", "batch", "came_at", "done", "header", "result", "until")

    def __init__(
        self,
        batch: bytearray,
        header: BatchHeader,
        acks: int,
        result: ProducePartitionResult,
        done: Callable[[], None],
        until: float,
        came_at: float,
    ) -> None:
        self.batch = batch
        self.header = header
        self.acks = acks
        self.result = result
        self.done = done
        self.until = until
        self.came_at = came_at

    @property
    def held_bytes(self) -> int:
        """What it takes in memory, about."""
        return len(self.batch) + HELD_OVERHEAD_BYTES


class BacklogGate:
    """See the module."""

    def __init__(
        self,
        topic: str,
        topic_id: bytes,
        index: int,
        bounds: BacklogBounds,
        clock: Clock,
        spawn: Callable[[Callable[[], Awaitable[None]]], None],
        held_bytes: HeldBytes,
        wake: Callable[[], None],
        give_up: Callable[[HeldBatch], None],
    ) -> None:
        self.topic = topic
        self.topic_id = topic_id
        self.index = index
        self.rule = BacklogRule(bounds)
        self.throttles = bounds.policy is BacklogPolicy.THROTTLE
        self.leadership = 0
        """Another number for each time that this broker leads the partition."""
        self.held: deque[HeldBatch] = deque()
        self.asked_at: Mapping[str, float] = {}
        """When each counted group's coordinator was asked for what is known of it, where other brokers are asked (monotonic seconds); of one that is silent:
        when that was seen last."""
        self.is_emptying = False
        """Whether a job of the lane is at work on those held."""
        self.refused_batches = 0
        """Told POLICY_VIOLATION, since this broker has the bounds; so are all counts."""
        self.refused_records = 0
        """In those."""
        self.timed_out_batches = 0
        """Held, and told REQUEST_TIMED_OUT."""
        self.throttled_s = 0.0
        """What producers were made to wait by `backlog.policy=throttle`."""
        self.kept_lines = KeptLines()
        self._clock = clock
        self._spawn = spawn
        self.held_bytes = held_bytes
        self._wake = wake
        self._give_up = give_up
        self._timer_is_on = False
        self._news = trio.Event()
        self._next_until = math.inf

    @property
    def bounds(self) -> BacklogBounds:
        """What holds now."""
        return self.rule.bounds

    @property
    def holds(self) -> bool:
        """Whether a batch that can't be admitted now waits, rather than being refused."""
        return self.bounds.policy is not BacklogPolicy.REJECT

    @property
    def is_crowded(self) -> bool:
        """Whether whoever has sent one of those held is to send no more for now."""
        return bool(self.held) and self.held_bytes.is_spent

    def throttle_s(self, ends: LogEnds) -> float:
        """How long whoever has just produced is to wait before it produces again; counted as waited."""
        if not self.throttles:
            return 0.0
        beyond_half = min(max(2 * self.rule.fill(ends) - 1, 0.0), 1.0)
        wait_s = THROTTLE_MAX_S * beyond_half * beyond_half
        self.throttled_s += wait_s
        return wait_s

    def change(self, bounds: BacklogBounds) -> None:
        """Other bounds hold from now on; `told_all` is to follow where other groups count."""
        rule = BacklogRule(bounds)
        if bounds.groups == self.bounds.groups and self.rule.is_known:
            rule.replace(self.rule.counted_groups)
        self.rule = rule
        self.throttles = bounds.policy is BacklogPolicy.THROTTLE
        self.stir()

    def forget(self) -> None:
        """What was told counts no more: leadership has begun or gone."""
        self.rule = BacklogRule(self.bounds)
        self.leadership += 1
        self.asked_at = {}

    # Told by the registry

    def told(self, group_id: str, offset: int | None) -> None:
        """A group has committed this offset, or (None) has none any more."""
        self.rule.put(group_id, offset)
        self.stir()

    def told_all(self, offsets: dict[str, int]) -> None:
        """All that groups have committed."""
        self.rule.replace(offsets)
        self.stir()

    # The line

    def judge(self, header: BatchHeader, ends: LogEnds) -> Judgement:
        """Whether a batch may be appended now; the line is not looked at."""
        return self.rule.judge(header.last_offset_delta + 1, header.size_bytes, ends)

    def may_refuse(self, came_at: float) -> bool:
        """Whether a batch that came then may be refused by what the slowest group has, where other brokers are asked.

        What the others have does not matter: it is no less.
        """
        least = self.rule.least_offset
        return any(
            offset == least and self.asked_at.get(group, -math.inf) + FRESH_S > came_at
            for group, offset in self.rule.counted_groups.items()
        )

    def waits_for_room(self, header: BatchHeader, judgement: Judgement) -> bool:
        """Whether a batch that was not admitted is to be held."""
        if judgement is Judgement.UNKNOWN:
            return True
        return self.holds and self.rule.fits_alone(header.last_offset_delta + 1, header.size_bytes)

    def hold(
        self,
        batch: bytearray,
        header: BatchHeader,
        acks: int,
        result: ProducePartitionResult,
        done: Callable[[], None],
        until: float,
    ) -> None:
        """Let a batch wait behind those that do, until then (monotonic seconds)."""
        held = HeldBatch(batch, header, acks, result, done, until, self._clock.monotonic())
        self.held_bytes.hold(held.held_bytes)
        self.held.append(held)
        if held.until < self._next_until:
            self._news.set()
        if not self._timer_is_on:
            self._timer_is_on = True
            self._spawn(self._watch)

    def take_first(self) -> HeldBatch:
        """The first of those held, which is the caller's from now on."""
        first = self.held.popleft()
        self.held_bytes.hold(-first.held_bytes)
        return first

    def stir(self) -> None:
        """Something has changed: whoever waits may be admitted now."""
        if self.held:
            self._wake()

    def give_all_up(self) -> None:
        """Nothing is appended here any more."""
        while self.held:
            self._give_up(self.take_first())

    async def _watch(self) -> None:
        """Give up those whose patience has ended; as long as there are any."""
        try:
            while self.held:
                now = self._clock.monotonic()
                for held in [held for held in self.held if held.until <= now]:
                    self.held.remove(held)
                    self.held_bytes.hold(-held.held_bytes)
                    self.timed_out_batches += 1
                    self._give_up(held)
                self.stir()
                self._news = trio.Event()
                self._next_until = min((held.until for held in self.held), default=-math.inf)
                with trio.move_on_at(self._next_until):
                    await self._news.wait()
        finally:
            self._timer_is_on = False
            self._next_until = math.inf


__all__ = ["BacklogGate", "HeldBatch"]
