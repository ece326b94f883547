"""Assignors by name."""

from collections.abc import Sequence

from penstock.consumer.assignors.assignor import Assignor
from penstock.consumer.assignors.range_assignor import RangeAssignor
from penstock.consumer.assignors.round_robin import RoundRobinAssignor
from penstock.consumer.assignors.sticky import CooperativeStickyAssignor, StickyAssignor

_BY_NAME: dict[str, type[Assignor]] = {
    "range": RangeAssignor,
    "roundrobin": RoundRobinAssignor,
    "sticky": StickyAssignor,
    "cooperative-sticky": CooperativeStickyAssignor,
}
DEFAULT_ASSIGNORS = ("range", "cooperative-sticky")


def find_assignors(names_or_objects: Sequence[str | Assignor] = DEFAULT_ASSIGNORS) -> list[Assignor]:
    """The assignors of a consumer's option, in order of preference.

    Raises:
        ValueError: an unknown name, one name twice, or none at all.
    """
    found: list[Assignor] = []
    for given in names_or_objects:
        if isinstance(given, str) and given not in _BY_NAME:
            raise ValueError(f"no assignor {given!r}; there are {', '.join(_BY_NAME)}")
        found.append(_BY_NAME[given]() if isinstance(given, str) else given)
    names = [assignor.name for assignor in found]
    if not names or len(set(names)) < len(names):
        raise ValueError(f"assignors must be at least one, each of another name: {names}")
    return found


__all__ = ["DEFAULT_ASSIGNORS", "find_assignors"]
