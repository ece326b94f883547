"""Each checker is shown a history that must not be, and one that may: a checker that never says no shows nothing."""

import math
from collections.abc import Callable

import pytest
from tests.simulation.checkers.backlogs import NO_OFFSET, Backlogs, CommittedOffsets, LeadersStarts, Refused
from tests.simulation.checkers.clients import (
    ConsumedRecords,
    LatestValues,
    LogStarts,
    ProducedRecords,
    Sequences,
)
from tests.simulation.checkers.groups import Assignments, Commits
from tests.simulation.checkers.logs import (
    BatchSeen,
    CommittedBatches,
    LogSeen,
    Truncations,
    check_converged,
    check_prefixes,
)
from tests.simulation.checkers.metadata import Views
from tests.simulation.checkers.replication import (
    Deadlines,
    HighWatermarks,
    Laggards,
    Leaders,
    State,
    StateChanges,
)
from tests.simulation.checkers.report import Report

from penstock.broker import keys
from penstock.broker.image import ClusterImage
from penstock.broker.keys import ControllerClaim
from penstock.runtime.metadata import Entry, Snapshot

History = Callable[[Report], None]


def batch(offset: int, epoch: int = 0, digest: int = 1) -> BatchSeen:
    return BatchSeen(offset, offset + 1, epoch, digest)


def log(*batches: BatchSeen, start: int = 0) -> LogSeen:
    return LogSeen(start, batches[-1].end_offset if batches else start, batches)


def committed_twice_differently(report: Report) -> None:
    checker = CommittedBatches(report)
    checker.commit("t-0", [batch(0)], "b1")
    checker.commit("t-0", [batch(0, epoch=1, digest=2)], "b2")


def committed_twice_alike(report: Report) -> None:
    checker = CommittedBatches(report)
    checker.commit("t-0", [batch(0)], "b1")
    checker.commit("t-0", [batch(0), batch(1)], "b2")
    checker.check_end("t-0", {"b1": log(batch(0), batch(1)), "b2": log(batch(1), start=1)})


def committed_and_lost(report: Report) -> None:
    checker = CommittedBatches(report)
    checker.commit("t-0", [batch(0), batch(1)], "b1")
    checker.check_end("t-0", {"b1": log(batch(0))})


def forked_below_a_common_batch(report: Report) -> None:
    check_prefixes(
        report, "t-0", {"b1": log(batch(0, 0, 1), batch(1, 2)), "b2": log(batch(0, 1, 9), batch(1, 2))}
    )


def forked_at_the_end(report: Report) -> None:
    check_prefixes(
        report, "t-0", {"b1": log(batch(0), batch(1, 1)), "b2": log(batch(0), batch(1, 2, 9), batch(2, 2))}
    )


def one_replica_short(report: Report) -> None:
    check_converged(report, "t-0", {"b1": log(batch(0), batch(1)), "b2": log(batch(0))})


def replicas_alike(report: Report) -> None:
    check_converged(report, "t-0", {"b1": log(batch(0), batch(1)), "b2": log(batch(1), start=1)})


def cut_below_the_high_watermark(report: Report) -> None:
    Truncations(report).cut("t-0", "b1", 10, 4, 5)


def cut_at_the_high_watermark(report: Report) -> None:
    Truncations(report).cut("t-0", "b1", 10, 5, 5)


def high_watermark_falls(report: Report) -> None:
    checker = HighWatermarks(report)
    checker.seen("t-0", "b1.1", 3, 7)
    checker.seen("t-0", "b1.1", 3, 6)


def high_watermark_lower_after_a_restart(report: Report) -> None:
    checker = HighWatermarks(report)
    checker.seen("t-0", "b1.1", 3, 7)
    checker.seen("t-0", "b1.2", 3, 6)
    checker.advanced("t-0", "b1.2", 6, {1: 6, 2: 9}, 2, 2)


def high_watermark_past_a_member(report: Report) -> None:
    HighWatermarks(report).advanced("t-0", "b1", 6, {1: 6, 2: 5}, 2, 2)


def high_watermark_with_too_few(report: Report) -> None:
    HighWatermarks(report).advanced("t-0", "b1", 6, {1: 6}, 1, 2)


def two_leaders_of_an_epoch(report: Report) -> None:
    checker = Leaders(report)
    checker.leads("t-0", 4, "b1.1")
    checker.leads("t-0", 4, "b1.2")


def leaders_one_after_another(report: Report) -> None:
    checker = Leaders(report)
    checker.leads("t-0", 4, "b1.1")
    checker.leads("t-0", 5, "b2.1")
    checker.leads("t-1", 5, "b1.1")


STATE = State((1, 2, 3), (1, 2), 1, 4)


def changed(after: State, *, is_compared: bool = True) -> History:
    def history(report: Report) -> None:
        StateChanges(report).changed("t-0", STATE, after, is_compared=is_compared)

    return history


def joined(end: int | None, *, is_current: bool = True) -> History:
    def history(report: Report) -> None:
        StateChanges(report).joined("t-0", 3, end_offset=end, needed_offset=8, is_current=is_current)

    return history


def decided_too_late(report: Report) -> None:
    Deadlines(report).decided("moved the high watermark", "b1", 7.2, 7.0)


def decided_in_time(report: Report) -> None:
    Deadlines(report).decided("moved the high watermark", "b1", 7.0, 7.2)


def lagging_member(report: Report) -> None:
    checker = Laggards(report, 2.0)
    for second in range(5):
        checker.looked("t-0", "b1", float(second), 10 + second, {2: 9})


def member_that_comes_after(report: Report) -> None:
    checker = Laggards(report, 2.0)
    for second in range(9):
        checker.looked("t-0", "b1", float(second), 10 + second, {2: 9 + second})
    checker.looked("t-0", "b3", 20.0, 30, {2: 9})


def produced(
    records: list[tuple[int, str]], *, acked: dict[str, int] | None = None, start: int = 0
) -> History:
    def history(report: Report) -> None:
        checker = ProducedRecords(report)
        for number in range(3):
            checker.send(f"p:{number}", "k", "p", number)
        for value, offset in (acked or {}).items():
            checker.ack(value, "t-0", offset)
        checker.check_end({"t-0": records}, {"t-0": start})

    return history


def read_otherwise(report: Report) -> None:
    checker = ConsumedRecords(report)
    checker.read("a", "t-0", 4, "x")
    checker.read("b", "t-0", 4, "y")


def read_backwards(report: Report) -> None:
    checker = ConsumedRecords(report)
    checker.read("a", "t-0", 4, "x")
    checker.read("a", "t-0", 4, "x")


def read_alike(report: Report) -> None:
    checker = ConsumedRecords(report)
    checker.read("a", "t-0", 4, "x")
    checker.read("b", "t-0", 4, "x")
    checker.restart("a", "t-0")
    checker.read("a", "t-0", 4, "x")


def latest(there: dict[str, tuple[int, int]]) -> History:
    def history(report: Report) -> None:
        checker = LatestValues(report)
        checker.ack("t-0", "k", 3, 30)
        checker.ack("t-0", "k", 5, 50)
        checker.check_end("t-0", there)

    return history


def log_start_falls(report: Report) -> None:
    checker = LogStarts(report)
    checker.seen("t-0", "b1", 5, 9)
    checker.seen("t-0", "b1", 4, 9)


def log_start_above_the_high_watermark(report: Report) -> None:
    LogStarts(report).seen("t-0", "b1", 10, 9)


def log_start_rises(report: Report) -> None:
    checker = LogStarts(report)
    checker.seen("t-0", "b1", 4, 9)
    checker.seen("t-0", "b1", 9, 9)


def sequences(*batches: tuple[int, int, int, int, int]) -> History:
    def history(report: Report) -> None:
        Sequences(report).check_log("t-0", batches)

    return history


def given_twice(report: Report) -> None:
    checker = Assignments(report)
    checker.assign("g", "one", frozenset({"t-0"}))
    checker.assign("g", "two", frozenset({"t-0"}))


def handed_over(report: Report) -> None:
    checker = Assignments(report)
    checker.assign("g", "one", frozenset({"t-0", "t-1"}))
    checker.give_up("g", "one", frozenset({"t-0"}))
    checker.assign("g", "two", frozenset({"t-0"}))
    checker.excuse("one")
    checker.assign("g", "two", frozenset({"t-1"}))
    assert checker.holders("g") == {"t-0": "two", "t-1": "two"}


def commit_forgotten(report: Report) -> None:
    checker = Commits(report)
    checker.attempt("g", "t-0", 9)
    checker.ack("g", "t-0", 9)
    checker.fetched("g", "t-0", 8, checker.acked("g", "t-0"))


def commit_from_nowhere(report: Report) -> None:
    checker = Commits(report)
    checker.attempt("g", "t-0", 9)
    checker.fetched("g", "t-0", 10, 0)


def commit_found(report: Report) -> None:
    checker = Commits(report)
    checker.attempt("g", "t-0", 9)
    checker.ack("g", "t-0", 9)
    checker.attempt("g", "t-0", 12)
    checker.fetched("g", "t-0", 12, checker.acked("g", "t-0"))


def claimed(revision: int) -> Entry:
    value = keys.encode_controller(ControllerClaim(revision, "x"))
    return Entry(keys.CONTROLLER_KEY, value, revision, revision)


def viewed(known: int, *, at: int) -> History:
    """The controller key is written anew at revisions 1 to 3; a broker at revision `at` knows what was there at `known`."""

    def history(report: Report) -> None:
        checker = Views(report)
        for revision in (1, 2, 3):
            checker.stored(revision, {keys.CONTROLLER_KEY: claimed(revision)})
        image = ClusterImage.from_snapshot(Snapshot([claimed(known)], at))
        checker.looked("b1.1", image)
        assert bool(checker.behind(image)) == ((known, at) != (3, 3))

    return history


def bounded(*operations: tuple[float, float, float], since: float, end: int = 15) -> History:
    """(began, acked, offset) of each commit of the only group, then an append up to `end` by who knows what was acked before `since`; the bound is 10."""

    def history(report: Report) -> None:
        committed = CommittedOffsets()
        for began, acked, offset in operations:
            committed.begin("g", "t-0", offset, began).acked_s = acked
        checker = Backlogs(report, committed, ("g",), 10)
        checker.appended("t-0", "b1", since, 0, end)

    return history


def kept(consumed: int) -> History:
    def history(report: Report) -> None:
        committed = CommittedOffsets()
        committed.begin("g", "t-0", consumed, 1).acked_s = 2
        Backlogs(report, committed, ("g",), 10).cut("t-0", "b1", 3, 7)

    return history


def follower_begins_at(offset: int) -> History:
    def history(report: Report) -> None:
        starts = LeadersStarts(report)
        starts.leads("t-0", 7)
        starts.follows("t-0", "b2", offset)

    return history


def refused_and(*values: str) -> History:
    def history(report: Report) -> None:
        refused = Refused(report)
        refused.refuse("p:3")
        refused.check_end({"b1": values})

    return history


@pytest.mark.parametrize(
    ("history", "name"),
    [
        (committed_twice_differently, "D2"),
        (committed_and_lost, "D1"),
        (forked_below_a_common_batch, "D7"),
        (one_replica_short, "D1"),
        (cut_below_the_high_watermark, "D7"),
        (high_watermark_falls, "D3"),
        (high_watermark_past_a_member, "D3"),
        (high_watermark_with_too_few, "D3"),
        (two_leaders_of_an_epoch, "D4"),
        (changed(State((1, 2, 3), (1, 2), 2, 4)), "D4"),
        (changed(State((1, 2, 3), (1, 2), 1, 3)), "D4"),
        (changed(State((1, 2, 3), (1, 4), 1, 4)), "D5"),
        (changed(State((1, 2, 3), (3,), 3, 5)), "D6"),
        (changed(State((1, 2, 3), (), -1, 5)), "D6"),
        (changed(State((1, 2, 3), (1,), 1, 4), is_compared=False), "M1"),
        (joined(7), "D5"),
        (joined(8, is_current=False), "D5"),
        (decided_too_late, "M2"),
        (lagging_member, "D13"),
        (produced([(0, "p:0")], acked={"p:0": 0, "p:1": 1}), "D1"),
        (produced([(0, "p:0"), (1, "p:0")], acked={"p:0": 0}), "T1"),
        (produced([(0, "p:1"), (1, "p:0")]), "T1"),
        (produced([(0, "q:0")]), "C1"),
        (read_otherwise, "C1"),
        (read_backwards, "C1"),
        (latest({"k": (3, 30)}), "K2"),
        (latest({}), "K2"),
        (log_start_falls, "K1"),
        (log_start_above_the_high_watermark, "K1"),
        (sequences((0, 7, 0, 0, 2), (2, 7, 0, 1, 1)), "T1"),
        (sequences((0, 7, 0, 0, 2), (2, 7, 0, 3, 1)), "T2"),
        (sequences((0, 7, 1, 0, 2), (2, 7, 0, 2, 1)), "T2"),
        (given_twice, "G1"),
        (commit_forgotten, "G2"),
        (commit_from_nowhere, "G2"),
        (viewed(1, at=2), "M1"),
        (viewed(1, at=4), "M1"),
        (bounded((1, 2, 4), since=3), "B1"),
        (bounded((1, 2, 9), (3, 4, 4), since=5), "B1"),
        (bounded((1, 2, NO_OFFSET), (3, 4, 4), since=5), "B1"),
        (kept(6), "K3"),
        (follower_begins_at(8), "K3"),
        (refused_and("p:2", "p:3"), "B2"),
    ],
)
def test_a_history_that_must_not_be_is_found(history: History, name: str) -> None:
    report = Report()
    history(report)
    assert name in {violation.property_name for violation in report.violations}


@pytest.mark.parametrize(
    "history",
    [
        committed_twice_alike,
        forked_at_the_end,
        replicas_alike,
        cut_at_the_high_watermark,
        high_watermark_lower_after_a_restart,
        leaders_one_after_another,
        changed(State((1, 2, 3), (1,), 1, 4)),
        changed(State((1, 2, 3), (2,), 2, 5)),
        changed(State((1, 2, 3), (1, 2), -1, 5)),
        joined(8),
        joined(None),
        decided_in_time,
        member_that_comes_after,
        produced([(0, "p:0"), (1, "p:1"), (2, "p:2")], acked={"p:0": 0, "p:2": 2}),
        produced([(5, "p:2")], acked={"p:0": 0, "p:2": 5}, start=5),
        read_alike,
        latest({"k": (5, 50)}),
        latest({"k": (6, 60)}),
        log_start_rises,
        sequences((0, -1, -1, -1, 3), (3, 7, 0, 0, 2), (5, 8, 0, 0, 1), (6, 7, 0, 2, 1), (7, 7, 1, 0, 1)),
        handed_over,
        commit_found,
        viewed(2, at=2),
        viewed(3, at=3),
        bounded((1, 2, 5), since=3),
        bounded(since=3),
        bounded((1, 2, 4), since=2),
        bounded((1, 2, 9), (3, 4, 4), since=4),
        bounded((1, math.inf, 9), (3, 4, 4), since=5),
        bounded((1, 2, 4), (3, math.inf, NO_OFFSET), since=5),
        kept(7),
        follower_begins_at(7),
        refused_and("p:2"),
    ],
)
def test_a_history_that_may_be_is_left_in_peace(history: History) -> None:
    report = Report()
    history(report)
    assert report.violations == []
    assert report.checked or history in (handed_over,)


def test_only_the_first_violations_are_told_and_all_are_counted() -> None:
    report = Report()
    for _ in range(100):
        report.violate("D1", "lost")
    assert (report.count, len(report.violations)) == (100, 20)
