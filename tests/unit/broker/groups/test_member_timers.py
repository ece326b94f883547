"""Deadlines of members: the earliest is right, whatever was set, moved and cleared before."""

import hypothesis.strategies as st
from hypothesis import given

from penstock.broker.groups.member_timers import MemberTimers

STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("set"), st.sampled_from("abcd"), st.integers(0, 50)),
        st.tuples(st.just("clear"), st.sampled_from("abcd"), st.just(0)),
        st.tuples(st.just("due"), st.just(""), st.integers(0, 50)),
    )
)


@given(STEPS)
def test_timers_are_a_dictionary_with_a_minimum(steps: list[tuple[str, str, int]]) -> None:
    timers, model = MemberTimers(), dict[str, int]()
    for kind, name, time_ms in steps:
        if kind == "set":
            timers.set(name, time_ms)
            model[name] = time_ms
        elif kind == "clear":
            timers.clear(name)
            model.pop(name, None)
        else:
            due = timers.pop_due(time_ms)
            assert sorted(due) == sorted(name for name, deadline in model.items() if deadline <= time_ms)
            for each in due:
                del model[each]
        assert timers.earliest_ms() == min(model.values(), default=None)
        assert timers.names() == set(model)


def test_putting_off_for_ever_keeps_no_heap() -> None:
    timers = MemberTimers()
    for time_ms in range(10_000):
        timers.set("a", time_ms)
        timers.set("b", 10_000 - time_ms)
    assert timers.earliest_ms() == 1
    assert len(vars(timers)["_heap"]) < 100
