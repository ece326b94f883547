"""Moves of partitions: begun, changed, cancelled, and ended when the target is in sync."""

import pytest

from penstock.broker.controller.elections import Members, Rules
from penstock.broker.controller.planner import next_state
from penstock.broker.controller.reassignments import (
    begun,
    cancelled,
    completed,
    is_reassigning,
    original_of,
    target_of,
)
from penstock.broker.keys import PartitionState

S = PartitionState
ALL = Members(frozenset(range(9)), frozenset(range(9)))


@pytest.mark.parametrize(
    ("before", "target", "after"),
    [
        (S((1, 2), (1, 2), 1, 4), (3, 2), S((3, 2, 1), (2, 1), 1, 4, (3,), (1,))),
        (S((1, 2), (1, 2), 1, 4), (3, 4), S((3, 4, 1, 2), (1, 2), 1, 4, (3, 4), (1, 2))),
        (S((1, 2), (1, 2), 1, 4), (1, 2, 3), S((1, 2, 3), (1, 2), 1, 4, (3,), ())),
        (S((1, 2), (1, 2), 1, 4), (2,), S((2, 1), (2, 1), 1, 4, (), (1,))),
        (S((1, 2), (1, 2), 1, 4), (2, 1), S((2, 1), (2, 1), 1, 4)),
    ],
)
def test_a_move_begins_with_the_target_first(before: S, target: tuple[int, ...], after: S) -> None:
    state = begun(before, target)
    assert state == after
    assert target_of(state) == target
    assert set(original_of(state)) == set(before.replicas)


def test_another_target_drops_what_only_the_first_wanted() -> None:
    first = begun(S((1, 2), (1, 2), 1, 4), (3, 2))
    assert begun(first, (4, 2)) == S((4, 2, 1), (2, 1), 1, 4, (4,), (1,))
    caught_up = S((3, 2, 1), (3, 2, 1), 3, 4, (3,), (1,))
    second = begun(caught_up, (4, 2))
    assert (second.replicas, second.isr, second.leader) == ((4, 2, 1), (2, 1), -1)
    back = cancelled(second)
    assert back is not None
    assert set(back.replicas) == {1, 2}, "to what was before the first move"


def test_another_target_keeps_the_only_replica_in_sync_until_it_is_reached() -> None:
    only_new = S((3, 2, 1), (3,), 3, 4, (3,), (1,))
    assert begun(only_new, (4, 2)) == S((4, 2, 1, 3), (3,), 3, 4, (4,), (1, 3))


def test_a_cancelled_move_goes_back_to_the_old_replicas() -> None:
    moving = S((3, 2, 1), (3, 2), 2, 4, (3,), (1,))
    assert cancelled(moving) == S((2, 1), (2,), 2, 4)
    led_by_the_new = S((3, 2, 1), (3, 2), 3, 4, (3,), (1,))
    assert cancelled(led_by_the_new) == S((2, 1), (2,), -1, 4)


def test_a_move_whose_old_replicas_are_all_behind_can_not_be_cancelled() -> None:
    assert cancelled(S((3, 2, 1), (3,), 3, 4, (3,), (1,))) is None


@pytest.mark.parametrize(
    ("why", "isr", "live", "is_done"),
    [
        ("in sync", (3, 4, 1), (1, 2, 3, 4), True),
        ("one of the target is behind", (3, 1), (1, 2, 3, 4), False),
        ("a new one is dead", (3, 1), (1, 2, 3), False),
        ("a new one died in the ISR", (3, 4, 1), (1, 2, 3), False),
    ],
)
def test_a_move_ends_when_the_target_is_in_sync(
    why: str, isr: tuple[int, ...], live: tuple[int, ...], is_done: bool
) -> None:
    moving = S((3, 4, 1, 2), isr, 1, 4, (3, 4), (1, 2))
    members = Members(frozenset(live), frozenset(live))
    state = completed(moving, members, Rules(2))
    assert is_reassigning(state) is not is_done, why
    if is_done:
        assert next_state(moving, members, Rules(2)) == S((3, 4), (3, 4), 3, 5), "the old leader leaves"


@pytest.mark.parametrize(("min_insync", "is_done"), [(1, True), (2, False)])
def test_a_dead_replica_that_stays_one_holds_up_a_move_only_for_the_minimum(
    min_insync: int, is_done: bool
) -> None:
    moving = S((3, 2, 1), (3, 1), 1, 4, (3,), (1,))
    members = Members(frozenset({1, 3}), frozenset({1, 3}))
    assert is_reassigning(completed(moving, members, Rules(min_insync))) is not is_done


def test_a_leader_of_the_target_keeps_its_epoch_when_the_move_ends() -> None:
    moving = S((3, 2, 1), (3, 2, 1), 2, 4, (3,), (1,))
    assert next_state(moving, ALL, Rules()) == S((3, 2), (3, 2), 2, 4)


def test_who_is_no_replica_any_more_is_not_eligible_to_lead() -> None:
    moving = S((3, 2, 1), (2, 3), 2, 4, (3,), (1,), (1,))
    assert next_state(moving, ALL, Rules(3)) == S((3, 2), (3, 2), 2, 4)
