"""What a bounded partition's leader can tell of its backlog, as figures: for DescribeLogDirs and for the metrics.

Owns what is told and how it is gathered. Nothing is gathered before somebody asks: the gate counts what it does, and the rule knows the rest. Where
bytes or age are bounded a worker looks up where the unconsumed part begins, unless that is known; it reads one batch. Only what a leader knows is
told: a follower has nothing to say.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import trio

from penstock.broker.backlog.bounds import UNBOUNDED, BacklogBounds
from penstock.broker.backlog.look import find_place
from penstock.broker.backlog.places import Place
from penstock.errors import PenstockError

if TYPE_CHECKING:
    from penstock.broker.backlog.gate import BacklogGate
    from penstock.broker.partition import Partition
    from penstock.runtime.clock import Clock
    from penstock.runtime.threads import Threads

UNKNOWN = -1
PARTITIONS_PER_TURN = 64
"""Of the event loop, and of a worker."""


@dataclass(frozen=True, slots=True)
class BacklogFigures:
    """One partition. -1 is what is not known, or not counted since nothing bounds it; counts are since this broker has the bounds."""

    bounds: BacklogBounds
    group: str | None
    """The slowest counted group; None where no group counts, or it is not known yet which."""
    records: int
    """Unconsumed, by offsets; not known where no group counts."""
    size_bytes: int
    age_ms: int
    refused_batches: int
    refused_records: int
    held_batches: int
    held_bytes: int
    timed_out_batches: int
    throttled_ms: int
    kept_segments: int
    """What the last check of retention would have deleted and did not."""
    kept_bytes: int
    kept_since_ms: int
    """Wall clock; -1 where nothing is kept."""


async def gather(
    partitions: Iterable["Partition"], clock: "Clock", threads: "Threads"
) -> dict["Partition", BacklogFigures]:
    """The figures of those that have a bound, or keep what is not consumed, and are led here."""
    led = [each for each in partitions if each.gate is not None and each.is_leader]
    now_ms = clock.wall_ms()
    places: dict[Partition, Place] = {}
    wanted: list[tuple[Partition, int, bool]] = []
    for partition in led:
        gate = partition.gate
        assert gate is not None
        first = _first_unconsumed(partition, gate)
        if first is None or first >= partition.log.log_end_offset or not gate.rule.needs_places:
            continue
        known = gate.rule.place_at(first, partition.log.segments)
        if known is not None:
            places[partition] = known
        else:
            wanted.append((partition, first, gate.bounds.max_age_ms != UNBOUNDED))
    for start in range(0, len(wanted), PARTITIONS_PER_TURN):
        places |= await threads.run(_look, wanted[start : start + PARTITIONS_PER_TURN])
    found: dict[Partition, BacklogFigures] = {}
    for number, partition in enumerate(led):
        if number % PARTITIONS_PER_TURN == PARTITIONS_PER_TURN - 1:
            await trio.lowlevel.checkpoint()
        gate = partition.gate
        if gate is not None:
            found[partition] = _figures(partition, gate, places.get(partition), now_ms)
    return found


def _first_unconsumed(partition: "Partition", gate: "BacklogGate") -> int | None:
    return gate.rule.first_unconsumed(partition.log.log_start_offset) if gate.rule.is_known else None


def _look(wanted: Iterable[tuple["Partition", int, bool]]) -> dict["Partition", Place]:
    """Worker. Of a log that can't be read now nothing is told."""
    found: dict[Partition, Place] = {}
    for partition, first, with_timestamp in wanted:
        try:
            found[partition] = find_place(partition.log, first, with_timestamp)
        except (PenstockError, FileNotFoundError):
            continue
    return found


def _figures(partition: "Partition", gate: "BacklogGate", place: Place | None, now_ms: int) -> BacklogFigures:
    rule, bounds = gate.rule, gate.bounds
    end = partition.log.log_end_offset
    first = _first_unconsumed(partition, gate)
    records = UNKNOWN if first is None else max(end - first, 0)
    nothing = 0 if records == 0 else UNKNOWN
    size_bytes = UNKNOWN if bounds.max_bytes == UNBOUNDED else nothing
    age_ms = UNKNOWN if bounds.max_age_ms == UNBOUNDED else nothing
    if place is not None and records > 0:
        if bounds.max_bytes != UNBOUNDED and place.segments is partition.log.segments:
            size_bytes = place.size_bytes
        if bounds.max_age_ms != UNBOUNDED and place.timestamp_ms >= 0:
            age_ms = max(now_ms - place.timestamp_ms, 0)
    kept = gate.kept_lines.kept
    return BacklogFigures(
        bounds=bounds,
        group=rule.slowest_group if rule.is_known else None,
        records=records,
        size_bytes=size_bytes,
        age_ms=age_ms,
        refused_batches=gate.refused_batches,
        refused_records=gate.refused_records,
        held_batches=len(gate.held),
        held_bytes=sum(held.held_bytes for held in gate.held),
        timed_out_batches=gate.timed_out_batches,
        throttled_ms=round(gate.throttled_s * 1000),
        kept_segments=0 if kept is None else kept.segment_count,
        kept_bytes=0 if kept is None else kept.size_bytes,
        kept_since_ms=UNKNOWN if kept is None else gate.kept_lines.since_ms,
    )


__all__ = ["BacklogFigures", "gather"]
