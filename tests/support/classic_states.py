"""A classic group put into each of its states."""

from collections.abc import Callable

from tests.support.classic_groups import GroupBench

from penstock.broker.groups.classic_events import ClassicLimits, ClassicState

Put = Callable[[GroupBench], None]


def empty(bench: GroupBench) -> None:
    """A group that once had a member."""
    bench.make_stable("a")
    bench.leave("a")
    bench.finish_store()


def preparing(bench: GroupBench) -> None:
    """Of a and b, a has joined again."""
    bench.make_stable("a", "b")
    bench.join("a")


def completing(bench: GroupBench) -> None:
    """a and b have joined; a leads."""
    bench.add_member("a")
    bench.add_member("b")
    bench.finish_joining()


def stable(bench: GroupBench) -> None:
    bench.make_stable("a", "b")


def dead(bench: GroupBench) -> None:
    bench.make_stable("a", "b")
    bench.close()


def in_state(put: Put, limits: ClassicLimits | None = None) -> GroupBench:
    bench = GroupBench(limits)
    put(bench)
    expected: dict[Put, ClassicState] = {
        empty: ClassicState.EMPTY,
        preparing: ClassicState.PREPARING_REBALANCE,
        completing: ClassicState.COMPLETING_REBALANCE,
        stable: ClassicState.STABLE,
        dead: ClassicState.DEAD,
    }
    assert bench.group.state is expected[put]
    return bench
