"""The rule of a bounded backlog, for one partition. Pure: no log, no clock, no groups' tables.

Owns what the counted groups have committed, the least of it, and the judgement of each append. A group counts from its first commit until that
offset is deleted or expires; where none counts there is no bound. *Unconsumed* is what lies between the least committed offset, but at the earliest
the log start offset, and the log end offset. An append is admitted if with it the unconsumed records and bytes are no more than the bounds, and
the first unconsumed record is no older than the bound.

- Records are counted by offsets; what compaction took counts until it is consumed.
- Bytes count from the start of the batch that holds the first unconsumed record.
- Age is that of the first unconsumed record by its own timestamp; one without a timestamp has none.

A commit backwards, or a group that counts anew, may put the backlog above the bound: nothing is admitted then until it has fallen.

Each judgement takes constant time. The least offset is kept as commits come in. Where bytes begin, and how old the first record is, only the log
can tell: whoever owns it is asked for a `Place` (MUST_LOOK) when what is known of an earlier one does not decide. An earlier place that lies lower
can only make the bytes look like more, so it may admit and never refuse. The newest batches are known without a look (`places`).
"""

import enum
import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from penstock.broker.backlog.bounds import UNBOUNDED, BacklogBounds, BacklogPolicy
from penstock.broker.backlog.places import Place, RecentPlaces, Sized


class Judgement(enum.Enum):
    """Whether an append is admitted."""

    ADMITTED = enum.auto()
    OVER = enum.auto()
    """It would be over a bound."""
    UNKNOWN = enum.auto()
    """Nobody has told yet what the groups have committed."""
    MUST_LOOK = enum.auto()
    """The log is to be looked at first: see `place_wanted`."""


class LogEnds(NamedTuple):
    """The log at the moment of a judgement."""

    start_offset: int
    end_offset: int
    segments: Sequence[Sized]
    now_ms: int


class BacklogRule:
    """See the module."""

    __slots__ = (
        "_offsets",
        "_place",
        "_sure_bytes",
        "bounds",
        "is_known",
        "least_offset",
        "needs_places",
        "recent",
        "sure_end_offset",
    )

    def __init__(self, bounds: BacklogBounds) -> None:
        self.bounds = bounds
        self.is_known = not bounds.groups
        """Whether all that the groups have committed was told."""
        self.least_offset: int | None = None
        """The least offset that a counted group has committed; None while no group counts."""
        self._offsets: dict[str, int] = {}
        self.needs_places = bounds.max_bytes != UNBOUNDED or bounds.max_age_ms != UNBOUNDED
        """Whether it matters where in the log the unconsumed part begins."""
        self._place: Place | None = None
        self.recent = RecentPlaces()
        """To be told of each append where `needs_places`."""
        self.sure_end_offset: float = 0
        """An append that ends there, or before, keeps the bound of records; 0 where that does not decide. Kept as commits come in."""
        self._sure_bytes: int | None = None
        """An append that makes the place's bytes no more than that keeps the bound of bytes; None where there is none."""
        self._reckon()

    # What the groups have committed

    def put(self, group_id: str, offset: int | None) -> None:
        """A group has committed this offset, or (None) has none any more."""
        if not self.bounds.counts(group_id):
            return
        before = self._offsets.get(group_id)
        least = self.least_offset
        if offset is None:
            self._offsets.pop(group_id, None)
        else:
            self._offsets[group_id] = offset
            if least is None or offset <= least:
                self.least_offset = offset
                self._reckon()
                return
        if before == least:
            self.least_offset = min(self._offsets.values(), default=None)
            self._reckon()

    def replace(self, offsets: Mapping[str, int]) -> None:
        """All that is committed, of counted groups and others; `is_known` from now on."""
        self._offsets = {group: offset for group, offset in offsets.items() if self.bounds.counts(group)}
        self.least_offset = min(self._offsets.values(), default=None)
        self.is_known = True
        self._reckon()

    def _reckon(self) -> None:
        """What `admits_surely` goes by."""
        bounds, least, place = self.bounds, self.least_offset, self._place
        if place is not None and least is not None and place.offset > least:
            self._place = None  # a commit backwards
        self._sure_bytes = None
        if not bounds.is_bounded or (self.is_known and least is None):
            self.sure_end_offset = math.inf
        elif not self.is_known or least is None or bounds.max_age_ms != UNBOUNDED:
            self.sure_end_offset = 0
        else:
            self.sure_end_offset = math.inf if bounds.max_records == UNBOUNDED else least + bounds.max_records
            if bounds.max_bytes != UNBOUNDED:
                self._sure_bytes = self._bytes_that_need_no_look

    @property
    def _bytes_that_need_no_look(self) -> int:
        """Up to there an earlier place decides. Who is slowed from half of the bound on is to be slowed by what is exact."""
        bounds = self.bounds
        return bounds.max_bytes // 2 if bounds.policy is BacklogPolicy.THROTTLE else bounds.max_bytes

    @property
    def slowest_group(self) -> str | None:
        """One that has committed the least offset; None while no group counts."""
        return min(self._offsets, key=self._offsets.__getitem__, default=None)

    @property
    def counted_groups(self) -> Mapping[str, int]:
        """The counted groups and their offsets."""
        return self._offsets

    def first_unconsumed(self, log_start_offset: int) -> int | None:
        """Where the unconsumed part begins; None while no group counts."""
        return None if self.least_offset is None else max(self.least_offset, log_start_offset)

    # The judgement

    def admits_surely(self, end_offset: int, size_bytes: int, segments: Sequence[Sized]) -> bool:
        """Whether a batch of that size, after which the log ends there, is admitted by what is known already. False: ask `judge`.

        This is what nearly all batches are asked that come to a bounded partition.
        """
        if end_offset > self.sure_end_offset:
            return False
        if self._sure_bytes is None:
            return True
        place = self._place
        return (
            place is not None
            and place.segments is segments
            and place.sealed_bytes + segments[-1].size_bytes + size_bytes <= self._sure_bytes
        )

    def judge(self, count: int, size_bytes: int, ends: LogEnds) -> Judgement:
        """Whether a batch of `count` records and that size may be appended now."""
        if not self.is_known:
            return Judgement.UNKNOWN if self.bounds.is_bounded else Judgement.ADMITTED
        least = self.least_offset
        if least is None:
            return Judgement.ADMITTED
        first = max(least, ends.start_offset)
        bounds = self.bounds
        if bounds.max_records != UNBOUNDED and ends.end_offset + count - first > bounds.max_records:
            return Judgement.OVER
        if self.needs_places:
            return self._judge_place(first, size_bytes, ends)
        return Judgement.ADMITTED

    def _judge_place(self, first: int, size_bytes: int, ends: LogEnds) -> Judgement:
        bounds = self.bounds
        if first >= ends.end_offset:
            is_over = bounds.max_bytes != UNBOUNDED and size_bytes > bounds.max_bytes
            return Judgement.OVER if is_over else Judgement.ADMITTED
        place = self._newest_place(first, ends.segments)
        if place is None or place.offset > first:
            return Judgement.MUST_LOOK
        is_exact = place.offset == first
        if bounds.max_bytes != UNBOUNDED:
            if place.segments is not ends.segments:
                return Judgement.MUST_LOOK
            if not is_exact and place.size_bytes + size_bytes > self._bytes_that_need_no_look:
                return Judgement.MUST_LOOK
        if bounds.max_age_ms != UNBOUNDED:
            if not is_exact:
                return Judgement.MUST_LOOK
            if place.timestamp_ms >= 0 and ends.now_ms - place.timestamp_ms > bounds.max_age_ms:
                return Judgement.OVER
        if bounds.max_bytes != UNBOUNDED and place.size_bytes + size_bytes > bounds.max_bytes:
            return Judgement.OVER
        return Judgement.ADMITTED

    def _newest_place(self, first: int, segments: Sequence[Sized]) -> Place | None:
        """The place of that offset, below the end, if it is known; else the last one that was."""
        place = self._place
        if place is None or place.offset != first or place.segments is not segments:
            needs_timestamp = self.bounds.max_age_ms != UNBOUNDED
            found = self.recent.find(first, segments, with_timestamp=needs_timestamp)
            if found is not None:
                self._place = place = found
        return place

    def fill(self, ends: LogEnds) -> float:
        """How much of a bound is used up, of the one that is used most: 1 is the bound."""
        bounds = self.bounds
        if self.least_offset is None:
            return 0.0
        first = max(self.least_offset, ends.start_offset)
        if first >= ends.end_offset:
            return 0.0
        place = self._newest_place(first, ends.segments) if self.needs_places else None
        fills = [0.0]
        if bounds.max_records > 0:
            fills.append((ends.end_offset - first) / bounds.max_records)
        if (
            place is not None
            and place.offset <= first
            and place.segments is ends.segments
            and bounds.max_bytes > 0
        ):
            fills.append(place.size_bytes / bounds.max_bytes)
        if place is not None and place.offset == first and place.timestamp_ms >= 0 and bounds.max_age_ms > 0:
            fills.append((ends.now_ms - place.timestamp_ms) / bounds.max_age_ms)
        return max(fills)

    def fits_alone(self, count: int, size_bytes: int) -> bool:
        """Whether the batch would be admitted if all were consumed: else waiting is of no use."""
        bounds = self.bounds
        return (bounds.max_records == UNBOUNDED or count <= bounds.max_records) and (
            bounds.max_bytes == UNBOUNDED or size_bytes <= bounds.max_bytes
        )

    def explain(self, count: int, size_bytes: int, ends: LogEnds) -> str:
        """What a judgement of OVER goes by: the bound, the backlog, and who is behind."""
        bounds, place = self.bounds, self._place
        first = max(self.least_offset or 0, ends.start_offset)
        backlog = max(ends.end_offset - first, 0)
        unconsumed = f"group {self.slowest_group} has consumed up to offset {first} of {ends.end_offset}"
        if bounds.max_records != UNBOUNDED and ends.end_offset + count - first > bounds.max_records:
            return (
                f"backlog.max.records={bounds.max_records}: the backlog is {backlog} records, "
                f"the batch has {count}; {unconsumed}"
            )
        if place is not None and backlog and bounds.max_age_ms != UNBOUNDED:
            age_ms = ends.now_ms - place.timestamp_ms
            if place.timestamp_ms >= 0 and age_ms > bounds.max_age_ms:
                return (
                    f"backlog.max.age.ms={bounds.max_age_ms}: the oldest of {backlog} records in the backlog "
                    f"is {age_ms} ms old; {unconsumed}"
                )
        backlog_bytes = place.size_bytes if place is not None and backlog else 0
        return (
            f"backlog.max.bytes={bounds.max_bytes}: the backlog is {backlog_bytes} bytes, "
            f"the batch has {size_bytes}; {unconsumed}"
        )

    # The log

    def place_wanted(self, log_start_offset: int) -> int:
        """The offset to look up after MUST_LOOK."""
        return max(self.least_offset or 0, log_start_offset)

    def place_at(self, offset: int, segments: Sequence[Sized]) -> Place | None:
        """What is known of that very offset, which lies below the end, while the log has these segments. Only where `needs_places`."""
        place = self._newest_place(offset, segments)
        return place if place is not None and place.offset == offset and place.segments is segments else None

    def look(self, place: Place) -> None:
        """The log was looked at; nothing was appended meanwhile."""
        self._place = place


__all__ = ["BacklogRule", "Judgement", "LogEnds"]
