"""Who leads, and who is in sync, after brokers came and went: one table for each rule."""

import pytest

from penstock.broker.controller.elections import Election, Members, Rules, is_preferred_possible, settled
from penstock.broker.controller.planner import next_state
from penstock.broker.keys import PartitionState

S = PartitionState


def brokers(*fit: int, fenced: tuple[int, ...] = ()) -> Members:
    return Members(frozenset({*fit, *fenced}), frozenset(fit))


@pytest.mark.parametrize(
    ("why", "before", "members", "after"),
    [
        ("all is well", S((1, 2, 3), (1, 2, 3), 1, 4), brokers(1, 2, 3), None),
        ("a leader that is not the first replica stays", S((1, 2), (1, 2), 2, 4), brokers(1, 2), None),
        (
            "a dead leader is replaced",
            S((1, 2, 3), (1, 2, 3), 1, 4),
            brokers(2, 3),
            S((1, 2, 3), (2, 3), 2, 5),
        ),
        (
            "in the order of replicas",
            S((1, 3, 2), (2, 3, 1), 1, 4),
            brokers(2, 3),
            S((1, 3, 2), (3, 2), 3, 5),
        ),
        ("only from the ISR", S((1, 2, 3), (1, 3), 1, 4), brokers(2, 3), S((1, 2, 3), (3,), 3, 5)),
        ("a dead follower leaves", S((1, 2, 3), (1, 2, 3), 1, 4), brokers(1, 3), S((1, 2, 3), (1, 3), 1, 4)),
        ("nobody left: the ISR stays", S((1, 2, 3), (1, 2), 1, 4), brokers(3), S((1, 2, 3), (1, 2), -1, 5)),
        ("still nobody", S((1, 2, 3), (1, 2), -1, 5), brokers(3), None),
        ("the first back leads", S((1, 2, 3), (1, 2), -1, 5), brokers(2, 3), S((1, 2, 3), (2,), 2, 6)),
        (
            "a fenced leader hands over",
            S((1, 2), (1, 2), 1, 4),
            brokers(2, fenced=(1,)),
            S((1, 2), (2,), 2, 5),
        ),
        ("a fenced follower leaves", S((1, 2), (1, 2), 1, 4), brokers(1, fenced=(2,)), S((1, 2), (1,), 1, 4)),
        ("a fenced leader stays if it must", S((1, 2), (1,), 1, 4), brokers(2, fenced=(1,)), None),
        (
            "a fenced leader that stays is rid of the dead",
            S((1, 2), (1, 2), 1, 4),
            brokers(fenced=(1,)),
            S((1, 2), (1,), 1, 4),
        ),
        ("a fenced one is not elected", S((1, 2), (2,), -1, 4), brokers(1, fenced=(2,)), None),
    ],
)
def test_elections_without_a_minimum(why: str, before: S, members: Members, after: S | None) -> None:
    assert next_state(before, members, Rules()) == (after or before), why


@pytest.mark.parametrize(
    ("why", "before", "members", "after"),
    [
        (
            "who leaves below the minimum stays eligible",
            S((1, 2, 3), (1, 2), 1, 4),
            brokers(2, 3),
            S((1, 2, 3), (2,), 2, 5, (), (), (1,)),
        ),
        (
            "an eligible one leads where the ISR is dead, which becomes eligible in turn",
            S((1, 2, 3), (2,), 2, 4, (), (), (1,)),
            brokers(1, 3),
            S((1, 2, 3), (1,), 1, 5, (), (), (2,)),
        ),
        (
            "but the ISR comes first",
            S((1, 2, 3), (2,), -1, 4, (), (), (1,)),
            brokers(1, 2),
            S((1, 2, 3), (2,), 2, 5, (), (), (1,)),
        ),
        (
            "a fenced leader is not replaced by an eligible one while it lives: it has more",
            S((1, 2), (1,), 1, 4, (), (), (2,)),
            brokers(2, fenced=(1,)),
            None,
        ),
        ("nobody eligible lives", S((1, 2, 3), (2,), -1, 4, (), (), (1,)), brokers(3), None),
        (
            "all eligible ones are one when the minimum is met",
            S((1, 2, 3), (1, 2), 1, 4, (), (), (3,)),
            brokers(1, 2),
            S((1, 2, 3), (1, 2), 1, 4),
        ),
    ],
)
def test_eligible_leader_replicas(why: str, before: S, members: Members, after: S | None) -> None:
    assert next_state(before, members, Rules(min_insync_replicas=2)) == (after or before), why


@pytest.mark.parametrize(
    ("rules", "election"),
    [(Rules(is_unclean_allowed=True), Election.ANY), (Rules(), Election.UNCLEAN)],
)
def test_an_unclean_election_is_the_last_resort(rules: Rules, election: Election) -> None:
    before = S((1, 2, 3), (1,), 1, 4, (), (), (2,))
    assert next_state(before, brokers(3), rules, election) == S((1, 2, 3), (3,), 3, 5)
    assert next_state(before, brokers(2, 3), rules, election).leader == 2, "an eligible one is better"
    assert next_state(before, brokers(), rules, election).leader == -1
    fenced = brokers(2, 3, fenced=(1,))
    assert next_state(S((1, 2, 3), (1,), 1, 4), fenced, rules, election).leader == 1, "it still lives"


def test_a_preferred_election_wants_the_first_replica_alive_and_in_sync() -> None:
    before = S((1, 2, 3), (2, 1), 2, 4)
    assert is_preferred_possible(before, brokers(1, 2))
    assert next_state(before, brokers(1, 2), Rules(), Election.PREFERRED) == S((1, 2, 3), (2, 1), 1, 5)
    assert not is_preferred_possible(before, brokers(2, 3))
    assert not is_preferred_possible(before, brokers(2, fenced=(1,)))
    assert not is_preferred_possible(S((1, 2, 3), (2,), 2, 4), brokers(1, 2))
    assert not is_preferred_possible(S((1, 2, 3), (1, 2), 1, 4), brokers(1, 2))


def test_what_is_settled_stays_as_it_is() -> None:
    for state in (
        S((1, 2, 3), (1, 2, 3), 1, 4),
        S((1, 2, 3), (1, 2), -1, 5),
        S((1, 2), (2,), 2, 1, (), (), (1,)),
    ):
        once = settled(state, brokers(2, 3), Rules(2))
        assert settled(once, brokers(2, 3), Rules(2)) == once
