"""Clusters of real brokers under faults, seed by seed; and one seed is one trace, in another process with another hash seed, too.

`SIMULATION_SEEDS` says how many fresh seeds are run besides the corpus (`make long` runs many; `make simulate HOURS=n` does without pytest).
"""

import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from tests.simulation.corpus import corpus, options_of
from tests.simulation.run import fresh, told
from tests.simulation.simulation import Outcome, simulate

ROOT = Path(__file__).parents[2]
FRESH_SEEDS = int(os.environ.get("SIMULATION_SEEDS", "0"))
CHAOS_S = 15.0
SEEDS = corpus()
DIGEST_OF = (
    "import sys; from tests.simulation.corpus import options_of; from tests.simulation.simulation import simulate; "
    f"print(*(simulate(options_of(seed, {CHAOS_S})).digest for seed in sys.argv[1:]))"
)

_outcomes: dict[str, Outcome] = {}


def outcome_of(seed: str) -> Outcome:
    """Of a seed of the corpus, run once in this process."""
    if seed not in _outcomes:
        _outcomes[seed] = simulate(options_of(seed, CHAOS_S))
    return _outcomes[seed]


@pytest.mark.parametrize("seed", SEEDS)
def test_a_cluster_keeps_its_promises_whatever_happens_to_it(seed: str) -> None:
    outcome = outcome_of(seed)
    assert not outcome.violation_count, told(outcome)


def test_the_corpus_covers_ten_minutes_twenty_seeds_and_every_property() -> None:
    outcomes = [outcome_of(seed) for seed in SEEDS]
    assert len(set(SEEDS)) == len(SEEDS) >= 20
    assert sum(outcome.simulated_s for outcome in outcomes) >= 600
    checked = Counter[str]()
    for outcome in outcomes:
        checked.update(outcome.checked)
    wanted = "D1 D2 D3 D4 D5 D6 D7 D9 D13 T1 T2 C1 G1 G2 K1 K2 K3 M1 M2 B1 B2"
    assert min(checked[name] for name in wanted.split()) > 20, checked
    assert sum(sum(outcome.faults.values()) for outcome in outcomes) >= 300


def test_one_seed_is_one_trace_in_any_process() -> None:
    """The canary for trio's private names, for addresses, for hash seeds and for anything else that chance could come from."""
    seeds = SEEDS[:: max(1, len(SEEDS) // 4)]
    environment = {**os.environ, "PYTHONHASHSEED": "4711"}
    found = subprocess.run(
        [sys.executable, "-c", DIGEST_OF, *map(str, seeds)],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    assert found.stdout.split() == [outcome_of(seed).digest for seed in seeds]


def test_another_seed_is_another_trace() -> None:
    assert len({outcome_of(seed).digest for seed in SEEDS}) == len(SEEDS)


def test_fresh_seeds() -> None:
    first = int.from_bytes(os.urandom(4), "big")
    outcomes = [simulate(fresh(first + number, CHAOS_S)) for number in range(FRESH_SEEDS)]
    failures = [told(outcome) for outcome in outcomes if outcome.violation_count]
    assert not failures, "\n".join(failures)
