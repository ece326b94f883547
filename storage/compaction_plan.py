"""What of a log is to be compacted, and in which portions: decided from the segments' sizes, offsets and times alone.

Owns the offsets between which a cleaning works, the dirty ratio, and the groups of segments that become one. Reads index files where a
segment has not loaded its own; changes nothing. Knows neither when a cleaning happens nor what it does.

    log start ............ first dirty .............. limit ............... end
               cleaned before          to be cleaned         not to be touched:
                                                             the active segment, younger than min.compaction.lag.ms, above the high watermark

Source: Kafka's `LogCleanerManager.cleanableOffsets`, `maxCompactionDelay`, `LogToClean`; `Cleaner.groupSegmentsBySize`.
"""

import itertools
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import NamedTuple

from penstock.storage.batch_walk import ChainRules
from penstock.storage.errors import CorruptBatch, LogChanged
from penstock.storage.layout import RELATIVE_OFFSET_MAX
from penstock.storage.log import Log
from penstock.storage.segment import Segment
from penstock.storage.segment_indexes import ensure_indexes

SEGMENTS_PER_SWAP_MAX = 250
"""Syncs of the log wait while the files of so many are renamed: some ten milliseconds."""


@dataclass(frozen=True, slots=True)
class CompactionPlan:
    """What compacting one log would mean now."""

    first_dirty_offset: int
    limit_offset: int
    """Nothing at or above it is touched."""
    clean_bytes: int
    dirty_bytes: int
    is_overdue: bool
    """A record has waited for `max.compaction.lag.ms`."""
    min_cleanable_ratio: float

    @property
    def dirty_ratio(self) -> float:
        """The dirty part, 0 to 1."""
        total = self.clean_bytes + self.dirty_bytes
        return self.dirty_bytes / total if total else 0.0

    @property
    def is_due(self) -> bool:
        """Whether the log should be compacted now."""
        if self.limit_offset <= self.first_dirty_offset or not self.dirty_bytes:
            return False
        return self.is_overdue or self.dirty_ratio > self.min_cleanable_ratio


def plan_compaction(log: Log, first_dirty_offset: int, committed_offset: int, now_ms: int) -> CompactionPlan:
    """The plan for a log that was cleaned up to `first_dirty_offset` (any number: a checkpoint may be lost or wrong).

    `committed_offset`: what lies at or above it may still change (high watermark, or what is durable). Worker: may read index files and
    one header of each dirty segment. Raises LogChanged when a segment goes meanwhile, CorruptBatch, StorageError.
    """
    with _unless_changed(log):
        return _plan(log, first_dirty_offset, committed_offset, now_ms)


def _plan(log: Log, first_dirty_offset: int, committed_offset: int, now_ms: int) -> CompactionPlan:
    config = log.config
    segments = log.segments
    active = segments[-1]
    start = max(log.log_start_offset, segments[0].base_offset)
    if not start <= first_dirty_offset <= active.base_offset:
        first_dirty_offset = start
    limit = min(active.base_offset, committed_offset, log.durable_end_offset)
    rules = ChainRules(log.gaps_below, log.epoch_at, config.index_interval_bytes)
    dirty = [
        segment
        for segment, following in itertools.pairwise(segments)
        if following.base_offset > first_dirty_offset and segment.base_offset < limit
    ]
    if config.min_compaction_lag_ms > 0:
        for segment in dirty:
            if _largest_timestamp_ms(segment, rules) > now_ms - config.min_compaction_lag_ms:
                limit = min(limit, segment.base_offset)
                break
        dirty = [segment for segment in dirty if segment.base_offset < limit]
    return CompactionPlan(
        first_dirty_offset,
        limit,
        sum(segment.size_bytes for segment in segments if segment.base_offset < first_dirty_offset),
        sum(segment.size_bytes for segment in dirty),
        _is_overdue(dirty, now_ms - max(config.max_compaction_lag_ms, config.min_compaction_lag_ms)),
        config.min_cleanable_dirty_ratio,
    )


def _largest_timestamp_ms(segment: Segment, rules: ChainRules) -> int:
    if segment.largest_timestamp_ms < 0:
        ensure_indexes(segment, rules)
    return segment.largest_timestamp_ms


def _is_overdue(dirty: list[Segment], before_ms: int) -> bool:
    """Whether a dirty segment begins with a record of before that time."""
    if before_ms <= 0:
        return False
    return any(0 < segment.first_timestamp_ms() < before_ms for segment in dirty)


@contextmanager
def _unless_changed(log: Log) -> Generator[None, None, None]:
    """With a segment that was deleted its epochs were forgotten, so its batches look wrong; that is no damage."""
    segments = log.segments
    try:
        yield
    except (CorruptBatch, FileNotFoundError) as error:
        if log.segments is segments:
            raise
        raise LogChanged(f"a segment has gone meanwhile: {error}", path=log.directory) from error


class SegmentGroup(NamedTuple):
    """Segments that become one."""

    segments: list[Segment]
    size_bytes: int
    end_offset: int
    """Exclusive: where the segment behind them begins."""


def group_segments(log: Log, end_offset: int) -> list[SegmentGroup]:
    """The closed segments that begin below `end_offset`, in portions that fit one segment each even if nothing of them goes.

    Bounded by `segment.bytes`, `segment.index.bytes`, the span of relative offsets, and `SEGMENTS_PER_SWAP_MAX`. Worker. Raises like
    `plan_compaction`.
    """
    with _unless_changed(log):
        return _group(log, end_offset)


def _group(log: Log, end_offset: int) -> list[SegmentGroup]:
    config = log.config
    segments = log.segments
    rules = ChainRules(log.gaps_below, log.epoch_at, config.index_interval_bytes)
    groups: list[SegmentGroup] = []
    index_bytes = time_index_bytes = 0
    for segment, following in itertools.pairwise(segments):
        if segment.base_offset >= end_offset:
            break
        indexes = ensure_indexes(segment, rules)
        last = groups[-1] if groups else SegmentGroup([], 0, 0)
        index_bytes += indexes.by_offset.size_bytes
        time_index_bytes += indexes.by_time.size_bytes
        size_bytes = last.size_bytes + segment.size_bytes
        if (
            not last.segments
            or len(last.segments) >= SEGMENTS_PER_SWAP_MAX
            or size_bytes > config.segment_bytes
            or max(index_bytes, time_index_bytes) > config.segment_index_bytes
            or following.base_offset - last.segments[0].base_offset > RELATIVE_OFFSET_MAX
        ):
            groups.append(SegmentGroup([segment], segment.size_bytes, following.base_offset))
            index_bytes = indexes.by_offset.size_bytes
            time_index_bytes = indexes.by_time.size_bytes
        else:
            groups[-1] = SegmentGroup([*last.segments, segment], size_bytes, following.base_offset)
    return groups


__all__ = ["SEGMENTS_PER_SWAP_MAX", "CompactionPlan", "SegmentGroup", "group_segments", "plan_compaction"]
