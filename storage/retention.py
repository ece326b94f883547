"""Which segments of a log are to go: by time, by size, and because the log start offset has passed them.

Owns the decision. Deletes nothing: `Log` does, the broker says when. The decision itself is pure; what it needs of a log is looked up by
`plan_for`, which reads the disk only for the oldest segments whose age is not known yet.

- By time (`retention.ms`): the oldest segments whose largest record timestamp is older. A segment without timestamps has no age of its
  own: a file's time lies after a copy or a restore, and a wrong guess loses data. What was appended later can only be younger, so it
  goes when a segment behind it does.
- By size (`retention.bytes`): the oldest, while at least that much is left without them.
- By the log start offset: those wholly below it. With `cleanup.policy=compact` alone this is the only rule.

Invariants (PROPERTIES K1): nothing at or above the high watermark goes, nothing that is not durable, and the active segment only after it
was rolled, which is asked for when it has expired and is not empty; never for the log start offset's sake.

`now_ms` comes from `CautiousClock`, so that a wall clock that jumps ahead deletes nothing (PROPERTIES D14).

Source: Kafka's `UnifiedLog.deleteOldSegments`.
"""

from collections import deque
from collections.abc import Callable, Sequence
from typing import NamedTuple

from penstock.storage.errors import CorruptBatch
from penstock.storage.log import Log
from penstock.storage.log_config import LogConfig
from penstock.storage.segment import NO_TIMESTAMP
from penstock.storage.time_lookup import checked_largest_timestamp_ms

BELIEVED_AFTER_S = 24 * 60 * 60.0
NO_BOUND = -1


class SegmentFacts(NamedTuple):
    """One segment as far as sizes and offsets go."""

    base_offset: int
    end_offset: int
    """Exclusive: the next one's base offset, or the log end offset."""
    size_bytes: int


class RetentionPlan(NamedTuple):
    """What is to be done."""

    log_start_offset: int
    """Where the log is to begin; segments wholly below it go."""
    segment_count: int
    """Of the segments that go, the oldest ones."""
    rolls: bool
    """The active segment is the last of them: it must be rolled first, and then be planned for again."""
    reason: str


def plan(
    segments: Sequence[SegmentFacts],
    timestamp_of: Callable[[int], int],
    config: LogConfig,
    *,
    log_start_offset: int,
    limit_offset: int,
    now_ms: int,
) -> RetentionPlan | None:
    """What retention asks for now; None if nothing is to go.

    `segments` are all, oldest first, the last one active. `timestamp_of` gives the largest timestamp of the segment of a number, -1 without
    one; it is asked from the oldest on, and no further than needed. Nothing that ends above `limit_offset` goes: the lower one of the high
    watermark and the durable end offset.
    """
    last = len(segments) - 1
    deletable = 0
    while deletable <= last and segments[deletable].end_offset <= limit_offset:
        deletable += 1
    if deletable > last and segments[last].size_bytes == 0:
        deletable = last
    below_start = 0
    while below_start < min(deletable, last) and segments[below_start].end_offset <= log_start_offset:
        below_start += 1
    by_time = by_size = 0
    if config.delete:
        by_time = _count_by_time(deletable, timestamp_of, config.retention_ms, now_ms)
        by_size = _count_by_size(segments, deletable, config.retention_bytes)
    count = max(below_start, by_time, by_size)
    if count == 0:
        return None
    if count == by_time:
        reason = f"older than retention.ms={config.retention_ms}"
    elif count == by_size:
        reason = f"over retention.bytes={config.retention_bytes}"
    else:
        reason = f"below the log start offset {log_start_offset}"
    start = max(log_start_offset, segments[count - 1].end_offset)
    return RetentionPlan(start, count, count > last, reason)


def _count_by_time(deletable: int, timestamp_of: Callable[[int], int], retention_ms: int, now_ms: int) -> int:
    count = 0
    if retention_ms == NO_BOUND:
        return 0
    for number in range(deletable):
        timestamp_ms = timestamp_of(number)
        if timestamp_ms == NO_TIMESTAMP:
            continue  # it goes with the next one that has expired
        if now_ms - timestamp_ms <= retention_ms:
            break
        count = number + 1
    return count


def _count_by_size(segments: Sequence[SegmentFacts], deletable: int, retention_bytes: int) -> int:
    if retention_bytes == NO_BOUND:
        return 0
    surplus = sum(segment.size_bytes for segment in segments) - retention_bytes
    count = 0
    while count < deletable and surplus >= segments[count].size_bytes:
        surplus -= segments[count].size_bytes
        count += 1
    return count


def plan_for(log: Log, limit_offset: int, now_ms: int) -> RetentionPlan | None:
    """The plan for a log as it is now; nothing at or above `limit_offset` goes: the high watermark, or lower.

    Worker: the ages of segments that were not asked yet are read from the disk. Raises StorageError.
    """
    end_offset = log.log_end_offset
    segments = log.segments
    config = log.config
    if len(segments) == 1 and segments[0].size_bytes == 0:
        return None
    ends = [segment.base_offset for segment in segments[1:]] + [end_offset]
    facts = [
        SegmentFacts(segment.base_offset, end, segment.size_bytes)
        for segment, end in zip(segments, ends, strict=True)
    ]

    def timestamp_of(number: int) -> int:
        segment = segments[number]
        known_ms = segment.largest_timestamp_ms
        if number + 1 == len(segments) or (
            known_ms != NO_TIMESTAMP and now_ms - known_ms <= config.retention_ms
        ):
            return known_ms
        try:
            return checked_largest_timestamp_ms(segment, log.rules)
        except CorruptBatch:
            return NO_TIMESTAMP

    return plan(
        facts,
        timestamp_of,
        config,
        log_start_offset=log.log_start_offset,
        limit_offset=min(limit_offset, log.durable_end_offset),
        now_ms=now_ms,
    )


class CautiousClock:
    """The wall clock as the most cautious reading of the last day had it: a jump ahead is believed once it has stood for a day.

    A jump back is believed at once: it only lets things live longer. At least the reading before the last one counts, however long ago.
    """

    def __init__(self) -> None:
        self._leads: deque[tuple[float, int]] = deque()
        """(monotonic when it was last seen, wall clock minus monotonic in ms), rising in both: the first is the lowest of the last day."""

    def now_ms(self, monotonic: float, wall_ms: int) -> int:
        """Milliseconds since 1970 for the sake of deleting, from both clocks as they are now. To be asked regularly."""
        leads = self._leads
        lead_ms = wall_ms - int(monotonic * 1000)
        while len(leads) > 1 and leads[0][0] <= monotonic - BELIEVED_AFTER_S:
            leads.popleft()
        while leads and leads[-1][1] >= lead_ms:
            leads.pop()
        leads.append((monotonic, lead_ms))
        return int(monotonic * 1000) + leads[0][1]


__all__ = ["CautiousClock", "RetentionPlan", "SegmentFacts", "plan", "plan_for"]
