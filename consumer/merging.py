"""Records of several partitions in one order: that of time.

Owns the order and what has to wait. Pure: records in, records out; does not know where they come from.

The rule: by timestamp, ties by partition, then by offset. Within a partition the order of the log is kept whatever the timestamps say: a record that
is older than one before it counts as late as that one. So the result is sorted by timestamp where each partition is.

Invariants: a record is given only when no partition can bring one that goes before it; of each partition no more waits than was added since it last
had nothing.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Sequence
from itertools import accumulate
from operator import attrgetter, itemgetter

from penstock.consumer.record import ConsumerRecord

_timestamp_ms = attrgetter("timestamp_ms")
_Entry = tuple[int, ConsumerRecord]


class _Lane:
    """One partition: its records that wait, and the time that each counts as."""

    def __init__(self) -> None:
        self.times: list[int] = []
        self.records: list[ConsumerRecord] = []

    def add(self, records: Sequence[ConsumerRecord], floor_ms: int) -> None:
        times = accumulate(map(_timestamp_ms, records), max, initial=floor_ms)
        next(times)
        self.times += times
        self.records += records

    def cut(self, count: int) -> Iterable[_Entry]:
        taken = zip(self.times[:count], self.records[:count], strict=True)
        del self.times[:count], self.records[:count]
        return taken


class TimeMerge:
    """Merges; `add` what `lacking` names, or `finish` it, then `take`."""

    def __init__(self, partitions: Iterable[int]) -> None:
        self._lanes = {index: _Lane() for index in sorted(partitions)}
        self._latest_ms: dict[int, int] = {}

    @property
    def lacking(self) -> frozenset[int]:
        """Partitions without which nothing can be said about what comes next."""
        return frozenset(index for index, lane in self._lanes.items() if not lane.records)

    @property
    def is_finished(self) -> bool:
        """Whether all partitions are finished and everything was taken."""
        return not self._lanes

    def add(self, partition: int, records: Sequence[ConsumerRecord]) -> None:
        """The next records of a partition, at least one."""
        lane = self._lanes[partition]
        floor_ms = self._latest_ms.get(partition, records[0].timestamp_ms)
        lane.add(records, floor_ms)
        self._latest_ms[partition] = lane.times[-1]

    def finish(self, partition: int) -> None:
        """A partition that lacks records will bring none any more."""
        assert not self._lanes[partition].records
        del self._lanes[partition]

    def take(self) -> list[ConsumerRecord]:
        """What goes before all that may still come; afterwards a partition lacks records. Empty while one does."""
        if not self._lanes or self.lacking:
            return []
        # The lane that ends first: behind its last record anything may follow, before that nothing.
        limit_ms, last = min((lane.times[-1], index) for index, lane in self._lanes.items())
        merged: list[_Entry] = []
        for index, lane in self._lanes.items():
            bisect = bisect_right if index <= last else bisect_left
            merged += lane.cut(bisect(lane.times, limit_ms))
        merged.sort(key=itemgetter(0))  # stable: partitions are in order, and so are their offsets
        return [record for _, record in merged]


__all__ = ["TimeMerge"]
