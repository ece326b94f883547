"""B1, B2, K3: a bounded backlog is never overshot, what was refused is in no log, and retention spares what is not consumed.

A leader goes by what it was told of each group, so it is held to what it *can* know: all that was acked before it began to lead, or long ago while
nothing was wrong with the cluster. Each commit is an operation with a beginning and an end; a value that another operation has replaced
before that moment is known to nobody any more, any other may be.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from tests.simulation.checkers.report import Report

NO_OFFSET = math.inf
"""Stands for "does not count": nothing is kept or refused for the group's sake."""


@dataclass(slots=True)
class Operation:
    """A commit or (`offset` is NO_OFFSET) a deletion."""

    began_s: float
    offset: float
    acked_s: float = math.inf


class CommittedOffsets:
    """What groups have committed, by group and place: what may be found there, whoever asks."""

    def __init__(self) -> None:
        self._operations: dict[tuple[str, str], list[Operation]] = {}

    def begin(self, group: str, place: str, offset: float, now_s: float) -> Operation:
        """About to be committed or deleted; set `acked_s` when it is done. Without that it may come about at any time."""
        operation = Operation(now_s, offset)
        self._operations.setdefault((group, place), []).append(operation)
        return operation

    def last_acked(self, group: str, place: str) -> float | None:
        """What is committed, if the operation that began last was acked."""
        last = next(reversed(self._operations.get((group, place), [])), None)
        return None if last is None or last.acked_s == math.inf else last.offset

    def furthest(self, group: str, place: str, since_s: float) -> float:
        """The largest offset that may be found by a question asked at `since_s` or later; NO_OFFSET where there may be none."""
        operations = self._operations.get((group, place), [])
        replaced_s = max((one.began_s for one in operations if one.acked_s < since_s), default=-math.inf)
        found = [one.offset for one in operations if one.acked_s >= replaced_s]
        if replaced_s == -math.inf:
            return NO_OFFSET
        return max(found)


class Backlogs:
    """B1, K3. `counted` are the groups that count, `bound` is `backlog.max.records`."""

    def __init__(
        self, report: Report, committed: CommittedOffsets, counted: Iterable[str], bound: int
    ) -> None:
        self._report = report
        self._committed = committed
        self._counted = tuple(counted)
        self._bound = bound

    def _consumed(self, place: str, since_s: float) -> float:
        return min(self._committed.furthest(group, place, since_s) for group in self._counted)

    def appended(self, place: str, leader: str, since_s: float, start_offset: int, end_offset: int) -> None:
        """A leader that knows what was acked before `since_s` has appended: its log begins and ends there now."""
        consumed = self._consumed(place, since_s)
        backlog = 0.0 if consumed == NO_OFFSET else end_offset - max(consumed, start_offset)
        self._report.check(
            "B1",
            backlog <= self._bound,
            f"{place}: {leader} appended up to {end_offset}, and {self._counted} have committed {consumed:g} at most: "
            f"a backlog of {backlog:g}, and {self._bound} is the bound",
        )

    def cut(self, place: str, leader: str, since_s: float, start_offset: int) -> None:
        """Retention has moved a leader's log start."""
        consumed = self._consumed(place, since_s)
        self._report.check(
            "K3",
            start_offset <= consumed,
            f"{place}: {leader} deleted up to {start_offset}, and {self._counted} have committed {consumed:g} at most",
        )


class LeadersStarts:
    """K3: followers delete nothing of their own accord: their logs begin no later than any leader's has begun."""

    def __init__(self, report: Report) -> None:
        self._report = report
        self._known: dict[str, int] = {}

    def leads(self, place: str, start_offset: int) -> None:
        """A leader's log begins there."""
        self._known[place] = max(start_offset, self._known.get(place, 0))

    def has_begun(self, place: str, start_offset: int) -> bool:
        """Whether some leader's log has begun there, or later."""
        return start_offset <= self._known.get(place, 0)

    def follows(self, place: str, replica: str, start_offset: int) -> None:
        """A follower's log has come to begin there."""
        known = self._known.get(place, 0)
        self._report.check(
            "K3",
            start_offset <= known,
            f"{place}: {replica} follows, and its log begins at {start_offset}; no leader's has begun above {known}",
        )


class Refused:
    """B2: what its producer was told to be refused is in no log."""

    def __init__(self, report: Report) -> None:
        self._report = report
        self._values: set[str] = set()

    @property
    def count(self) -> int:
        """Records refused."""
        return len(self._values)

    def refuse(self, value: str) -> None:
        """A producer was told so, for good."""
        self._values.add(value)

    def check_end(self, logs: Mapping[str, Iterable[str]]) -> None:
        """The values in each replica's log."""
        for name, values in logs.items():
            there = set(values)
            for value in sorted(self._values):
                self._report.check("B2", value not in there, f"{name} has {value}, which was refused")


__all__ = ["NO_OFFSET", "Backlogs", "CommittedOffsets", "LeadersStarts", "Operation", "Refused"]
