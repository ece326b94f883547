"""D1, D2, D7: what was committed never changes, is on every replica at the end, and equal (offset, epoch) means equal prefixes."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from tests.simulation.checkers.report import Report


class BatchSeen(NamedTuple):
    """A batch as it lies in a log."""

    base_offset: int
    end_offset: int
    leader_epoch: int
    digest: int
    """Of all its bytes."""


class LogSeen(NamedTuple):
    """One replica's log."""

    start_offset: int
    end_offset: int
    batches: Sequence[BatchSeen]


class CommittedBatches:
    """D2: (partition, offset) to bytes is write-once from the moment any leader's high watermark passes the offset."""

    def __init__(self, report: Report) -> None:
        self._report = report
        self._known: dict[str, dict[int, BatchSeen]] = {}

    def commit(self, place: str, batches: Sequence[BatchSeen], by: str) -> None:
        """A leader's high watermark has passed these."""
        known = self._known.setdefault(place, {})
        for batch in batches:
            before = known.setdefault(batch.base_offset, batch)
            self._report.check(
                "D2",
                before == batch,
                f"{place}: offset {batch.base_offset} was committed as {before}, and now by {by} as {batch}",
            )

    def check_end(self, place: str, replicas: Mapping[str, LogSeen]) -> None:
        """D1: once the faults have ended, every in-sync replica has all of it, but for what was deleted by retention."""
        known = self._known.get(place, {})
        for name, log in replicas.items():
            there = {batch.base_offset: batch for batch in log.batches}
            for offset, batch in known.items():
                if batch.end_offset <= log.start_offset:
                    continue
                self._report.check(
                    "D1",
                    there.get(offset) == batch,
                    f"{place}: {name} has {there.get(offset)} where {batch} was committed",
                )


def check_prefixes(report: Report, place: str, replicas: Mapping[str, LogSeen]) -> None:
    """D7: where two logs have a batch of the same offset and epoch, they are equal up to there (from the higher log start on)."""
    names = sorted(replicas)
    for number, one in enumerate(names):
        for other in names[number + 1 :]:
            _check_pair(report, place, one, replicas[one], other, replicas[other])


def _check_pair(report: Report, place: str, one: str, first: LogSeen, other: str, second: LogSeen) -> None:
    start = max(first.start_offset, second.start_offset)
    mine = [batch for batch in first.batches if batch.base_offset >= start]
    theirs = {batch.base_offset: batch for batch in second.batches if batch.base_offset >= start}
    last_common = -1
    for number, batch in enumerate(mine):
        match = theirs.get(batch.base_offset)
        if match is not None and match.leader_epoch == batch.leader_epoch:
            last_common = number
    for batch in mine[: last_common + 1]:
        report.check(
            "D7",
            theirs.get(batch.base_offset) == batch,
            f"{place}: {one} and {other} agree at a later offset and epoch, but {one} has {batch} "
            f"and {other} {theirs.get(batch.base_offset)}",
        )


def check_converged(report: Report, place: str, replicas: Mapping[str, LogSeen]) -> None:
    """D1: in the end all in-sync replicas have the same log."""
    if not replicas:
        return
    start = max(log.start_offset for log in replicas.values())
    contents = {
        name: [batch for batch in log.batches if batch.base_offset >= start] for name, log in replicas.items()
    }
    first_name = min(contents)
    for name, batches in contents.items():
        report.check(
            "D1",
            batches == contents[first_name],
            f"{place}: the logs of {first_name} (to {replicas[first_name].end_offset}) "
            f"and {name} (to {replicas[name].end_offset}) differ in the end",
        )


class Truncations:
    """D7: no replica cuts off what lies below its own high watermark."""

    def __init__(self, report: Report) -> None:
        self._report = report

    def cut(self, place: str, replica: str, end_before: int, end_after: int, high_watermark: int) -> None:
        """A log became shorter."""
        self._report.check(
            "D7",
            end_after >= high_watermark,
            f"{place}: {replica} cut its log from {end_before} to {end_after}, below its high watermark {high_watermark}",
        )


__all__ = ["BatchSeen", "CommittedBatches", "LogSeen", "Truncations", "check_converged", "check_prefixes"]
