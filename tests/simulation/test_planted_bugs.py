"""The board: every planted bug is found by the seed that is known for it, and the same seed finds nothing where no bug is planted.

`PLANTED_BUG_SEEDS` is how many fresh seeds each bug is searched with besides (`make long`: at most 1,000 must do).
"""

import os

import pytest
from tests.simulation.bugs import BUGS
from tests.simulation.run import told
from tests.simulation.simulation import Options, simulate

FRESH_SEEDS = int(os.environ.get("PLANTED_BUG_SEEDS", "0"))


def test_the_board_holds_at_least_fifteen_bugs_with_a_known_seed_each() -> None:
    assert len(BUGS) >= 15
    assert all(bug.seed for bug in BUGS.values())


@pytest.mark.parametrize("name", BUGS)
def test_planted_bug_is_found(name: str) -> None:
    bug = BUGS[name]
    outcome = simulate(Options(bug.seed, faults=bug.faults, bug=name, stops_early=True))
    assert outcome.violation_count, f"{bug.text}: not found any more"
    assert {violation.property_name for violation in outcome.violations} <= set(bug.found_by), told(outcome)


@pytest.mark.parametrize("name", BUGS if FRESH_SEEDS else ())
def test_planted_bug_is_found_from_fresh_seeds(name: str) -> None:
    first = int.from_bytes(os.urandom(3), "big")
    for seed in range(first, first + FRESH_SEEDS):
        if simulate(Options(seed, bug=name, stops_early=True)).violation_count:
            return
    raise AssertionError(f"{name}: not found in {FRESH_SEEDS} seeds from {first} on")
