"""D3, D4, D5, D6, M1, M2: high watermarks, leaders, in-sync replicas, and the transactions that change them."""

from collections.abc import Mapping
from dataclasses import dataclass

from tests.simulation.checkers.report import Report

NO_LEADER = -1


class HighWatermarks:
    """D3: never falls within (replica, epoch); a leader's is covered by every member of the ISR, and moves only while there are enough."""

    def __init__(self, report: Report) -> None:
        self._report = report
        self._known: dict[tuple[str, str, int], int] = {}

    def seen(self, place: str, replica: str, leader_epoch: int, high_watermark: int) -> None:
        """`replica` names the process, since a new one begins at its checkpoint."""
        key = (place, replica, leader_epoch)
        before = self._known.get(key, 0)
        self._report.check(
            "D3",
            high_watermark >= before,
            f"{place}: {replica}'s high watermark fell from {before} to {high_watermark} in epoch {leader_epoch}",
        )
        self._known[key] = high_watermark

    def advanced(
        self,
        place: str,
        leader: str,
        high_watermark: int,
        ends: Mapping[int, int],
        isr_size: int,
        needed: int,
    ) -> None:
        """A leader moved it. `ends`: where the counted logs of all members of the maximal ISR end."""
        behind = {node: end for node, end in ends.items() if end < high_watermark}
        self._report.check(
            "D3",
            not behind,
            f"{place}: {leader} moved the high watermark to {high_watermark}, but in-sync replicas end at {behind}",
        )
        self._report.check(
            "D3",
            isr_size >= needed,
            f"{place}: {leader} moved the high watermark to {high_watermark} with {isr_size} in sync, fewer than {needed}",
        )


class Leaders:
    """D4: one leader for each epoch of a partition."""

    def __init__(self, report: Report) -> None:
        self._report = report
        self._known: dict[tuple[str, int], str] = {}

    def leads(self, place: str, leader_epoch: int, process: str) -> None:
        """A process began to lead."""
        before = self._known.setdefault((place, leader_epoch), process)
        self._report.check(
            "D4", before == process, f"{place}: both {before} and {process} lead in epoch {leader_epoch}"
        )


@dataclass(frozen=True, slots=True)
class State:
    """A partition's state as the store has it."""

    replicas: tuple[int, ...]
    isr: tuple[int, ...]
    leader: int
    leader_epoch: int
    elr: tuple[int, ...] = ()
    adding_count: int = 0


class StateChanges:
    """D4, D5, D6, M1: what the store is told of a partition."""

    def __init__(self, report: Report) -> None:
        self._report = report

    def changed(
        self,
        place: str,
        before: State | None,
        after: State,
        *,
        is_compared: bool,
        is_unclean_allowed: bool = False,
    ) -> None:
        """One change, applied. `is_compared`: the transaction compared the key's mod revision."""
        check = self._report.check
        check("M1", is_compared, f"{place}: {before} became {after} without a compare of its revision")
        check("D6", bool(after.isr), f"{place}: nobody is in sync any more: {after}")
        check("D5", set(after.isr) <= set(after.replicas), f"{place}: not all in sync are replicas: {after}")
        if before is None:
            return
        check(
            "D4",
            after.leader_epoch >= before.leader_epoch,
            f"{place}: the leader epoch fell: {before} became {after}",
        )
        check(
            "D4",
            after.leader == before.leader or after.leader_epoch > before.leader_epoch,
            f"{place}: another leader in the same epoch: {before} became {after}",
        )
        if after.leader not in (NO_LEADER, before.leader) and not is_unclean_allowed:
            check(
                "D6",
                after.leader in (*before.isr, *before.elr),
                f"{place}: a leader from outside of the ISR: {before} became {after}",
            )

    def joined(
        self, place: str, node: int, *, end_offset: int | None, needed_offset: int, is_current: bool
    ) -> None:
        """A replica joined the ISR. `end_offset`: where its counted log ends, None where nobody knows."""
        self._report.check("D5", is_current, f"{place}: {node} joined the ISR by a registration that is gone")
        self._report.check(
            "D5",
            end_offset is None or end_offset >= needed_offset,
            f"{place}: {node} joined the ISR with its log at {end_offset}, but its leader needs {needed_offset}",
        )


class Deadlines:
    """M2: past its monotonic deadline a leader decides nothing."""

    def __init__(self, report: Report) -> None:
        self._report = report

    def decided(self, what: str, leader: str, now: float, deadline: float) -> None:
        """A leader did something that only a leader may."""
        self._report.check(
            "M2", now <= deadline, f"{leader} {what} {now - deadline:.3f} s after its deadline"
        )


class Laggards:
    """D13: who does not keep up leaves the ISR within the lag time."""

    def __init__(self, report: Report, limit_s: float) -> None:
        self._report = report
        self._limit_s = limit_s
        self._behind: dict[str, tuple[str, dict[int, tuple[float, int]]]] = {}

    def looked(self, place: str, leader: str, now: float, end_offset: int, ends: Mapping[int, int]) -> None:
        """A leader that can act (`leader` names process and epoch), its end, and how far its in-sync followers are."""
        before_leader, before = self._behind.get(place, (leader, {}))
        known = before if before_leader == leader else {}
        behind: dict[int, tuple[float, int]] = {}
        for node, end in ends.items():
            since, wanted = known.get(node, (now, end_offset))
            if end >= wanted:
                since, wanted = now, end_offset
            behind[node] = (since, wanted)
            self._report.check(
                "D13",
                now - since <= self._limit_s,
                f"{place}: {node} is in the ISR of {leader}, but for {now - since:.1f} s it has not come to {wanted} (it is at {end})",
            )
        self._behind[place] = (leader, behind)

    def forget(self, place: str) -> None:
        """Nobody leads it who could act."""
        self._behind.pop(place, None)


__all__ = ["NO_LEADER", "Deadlines", "HighWatermarks", "Laggards", "Leaders", "State", "StateChanges"]
