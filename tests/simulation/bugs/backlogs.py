"""Bugs in what bounds a backlog. Their seeds have a topic with a bound."""

from typing import Any

from tests.simulation.bugs.planting import Bug, Patch

from penstock.broker.backlog import rule
from penstock.broker.backlog.partition_gate import PartitionGate


def _known_from_the_start(original: Any) -> Any:
    def init(self: Any, bounds: Any) -> None:
        original(self, bounds)
        self.is_known = True

    return init


def _refuse_and_remember(original: Any) -> Any:
    def refuse(self: Any, header: Any, now_ms: int, result: Any) -> None:
        original(self, header, now_ms, result)
        log = self._partition.log
        if header.producer_id >= 0:
            log._producers.update(header, log.log_end_offset, now_ms)

    return refuse


def _ignore_whom_nobody_told_of(original: Any) -> Any:
    def deletable(self: Any) -> int:
        if not self.rule.is_known:
            return int(self._partition.high_watermark)
        return int(original.fget(self))

    return property(deletable)


BUGS = (
    Bug(
        "admits before it has asked",
        "a new leader takes what comes although nobody has told it yet what the groups have committed",
        [Patch(rule.BacklogRule, "__init__", _known_from_the_start)],
        faults=("kill", "stop"),
        seed=2,
        found_by=("B1",),
        has_backlog=True,
    ),
    Bug(
        "refused batch leaves its sequence",
        "a refused batch is noted as its producer's last one, and what is sent in its place is taken for a copy",
        [Patch(PartitionGate, "_refuse_over", _refuse_and_remember)],
        faults=(),
        seed=23,
        found_by=("D1",),
        has_backlog=True,
    ),
    Bug(
        "retention by who was not told",
        "who has not been told what groups have committed (a follower, a new leader) deletes as if none counted",
        [Patch(PartitionGate, "deletable_end_offset", _ignore_whom_nobody_told_of)],
        faults=("kill", "stop"),
        seed=1,
        found_by=("K3",),
        has_backlog=True,
    ),
)
