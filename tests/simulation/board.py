"""The search for planted bugs with fresh seeds, whose faults each seed chooses itself: how many does it take?

    python -m tests.simulation.board                       every bug, seeds from a number of today on, at most 1,000 each
    python -m tests.simulation.board --bug "lost watch"    one of them

A seed that fails without the bug, too, shows nothing of the bug and does not count. Exit status 1 if one was not found.
"""

import argparse
import sys
import time
from dataclasses import replace
from typing import NamedTuple

from tests.simulation.bugs import BUGS
from tests.simulation.run import commit, fresh
from tests.simulation.simulation import simulate


class Found(NamedTuple):
    """A bug, the seed that found it, how many were tried for it, and what was seen."""

    bug: str
    seed: int
    seed_count: int
    property_name: str

    def __str__(self) -> str:
        return f"{self.bug}: found by seed {self.seed}, number {self.seed_count} ({self.property_name})"


def search(bug: str, first: int, count: int) -> Found | None:
    """Try `count` seeds from `first` on until one finds the bug."""
    for seed in range(first, first + count):
        options = replace(fresh(seed, bug=bug), stops_early=True)
        outcome = simulate(options)
        if outcome.violation_count and not simulate(replace(options, bug="")).violation_count:
            return Found(bug, seed, seed - first + 1, outcome.violations[0].property_name)
    return None


def main() -> int:
    """See the module."""
    parser = argparse.ArgumentParser(prog="python -m tests.simulation.board", description=__doc__)
    parser.add_argument(
        "--bug", action="append", choices=BUGS, help="one of them; may be given several times"
    )
    parser.add_argument("--first", type=int, default=int(time.time()) * 1000, help="the first seed")
    parser.add_argument("--seeds", type=int, default=1000, help="at most so many for each")
    arguments = parser.parse_args()
    print(f"commit {commit()}, seeds from {arguments.first} on", flush=True)
    missed = 0
    for bug in arguments.bug or BUGS:
        found = search(bug, arguments.first, arguments.seeds)
        missed += found is None
        print(found or f"{bug}: not found in {arguments.seeds} seeds", flush=True)
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
