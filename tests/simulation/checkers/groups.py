"""G1, G2, G3: assignments, commits, and that a group comes to rest."""

from tests.simulation.checkers.report import Report


class Assignments:
    """G1: nobody is given a partition that another member still holds. Who is dead, or does not run, holds nothing."""

    def __init__(self, report: Report) -> None:
        self._report = report
        self._holders: dict[tuple[str, str], str] = {}
        self._excused: set[str] = set()
        self.assigned_count = 0

    def excuse(self, member: str) -> None:
        """It has died, or is frozen: it can't say that it gave something up."""
        self._excused.add(member)

    def assign(self, group: str, member: str, places: frozenset[str]) -> None:
        """`member` holds these from now on."""
        self._excused.discard(member)
        self.assigned_count += 1
        for place in sorted(places):
            before = self._holders.get((group, place))
            self._report.check(
                "G1",
                before is None or before == member or before in self._excused,
                f"{group}: {place} was given to {member}, but {before} holds it",
            )
            self._holders[group, place] = member

    def give_up(self, group: str, member: str, places: frozenset[str]) -> None:
        """`member` holds them no more."""
        for place in places:
            if self._holders.get((group, place)) == member:
                del self._holders[group, place]

    def holders(self, group: str) -> dict[str, str]:
        """Who holds what."""
        return {place: member for (of, place), member in self._holders.items() if of == group}


class Commits:
    """G2: an acked commit is what is found later, until replaced. In this workload positions only go forward, and so must commits."""

    def __init__(self, report: Report) -> None:
        self._report = report
        self._acked: dict[tuple[str, str], int] = {}
        self._tried: dict[tuple[str, str], int] = {}
        self.acked_count = 0

    def attempt(self, group: str, place: str, offset: int) -> None:
        """About to be committed."""
        self._tried[group, place] = max(offset, self._tried.get((group, place), 0))

    def ack(self, group: str, place: str, offset: int) -> None:
        """Committed."""
        self.acked_count += 1
        self._acked[group, place] = max(offset, self._acked.get((group, place), 0))

    def acked(self, group: str, place: str) -> int:
        """What a fetch that begins now must find at least."""
        return self._acked.get((group, place), 0)

    def fetched(self, group: str, place: str, offset: int, at_least: int) -> None:
        """What was found, and what had been acked before the question was sent."""
        self._report.check(
            "G2",
            offset >= at_least,
            f"{group}: {place} was committed at {at_least}, and is found at {offset}",
        )
        tried = self._tried.get((group, place), 0)
        self._report.check(
            "G2",
            offset <= tried,
            f"{group}: {place} is found at {offset}, but nobody committed more than {tried}",
        )


__all__ = ["Assignments", "Commits"]
