"""Crashes at every call of longer lives of a log (PROPERTIES D1, D2, D9, T1).

CRASH_LIVES says how many lives; of CRASH_SECOND_EVERY recoveries one is crashed itself, at every call.
"""

import os
from random import Random

import pytest
from tests.support.crash_broker import OPERATIONS
from tests.support.crash_explorer import CrashExplorer
from tests.support.crash_lives import WEIGHTS, operations, settings
from tests.support.trial_counts import count_trials

from penstock.storage.log_config import LogConfig

LIVES = int(os.environ.get("CRASH_LIVES", "8"))
TORN_BYTES_MAX = int(os.environ.get("CRASH_TORN_BYTES_MAX", "400"))
"""In lives with larger values writes are not torn at every byte."""
SECOND_EVERY = int(os.environ.get("CRASH_SECOND_EVERY", "50"))
OPERATIONS_PER_LIFE = 12

EVERYTHING_ONCE = [
    "append idempotently",
    "append",
    "sync",
    "append again",
    "roll",
    "begin epoch",
    "append three",
    "write snapshot",
    "append idempotently",
    "sync",
    "save indexes",
    "append idempotently",
    "release file",
    "write checkpoints",
    "append",
    "roll",
    "append",
    "compact",
    "delete records",
    "retain",
    "restart",
    "append idempotently",
    "append",
    "sync",
    "read",
    "truncate",
    "append idempotently",
    "start over",
    "append",
    "sync",
]


def explore(explorer: CrashExplorer, life: list[str]) -> None:
    try:
        explorer.run(life)
    finally:
        count_trials(explorer.counts)


def test_every_operation_of_the_harness_is_tried() -> None:
    of_a_leader = set(OPERATIONS) - {"fetch"}  # a follower's life is in test_crash_small.py
    assert set(EVERYTHING_ONCE) == of_a_leader == set(WEIGHTS)


@pytest.mark.parametrize(
    ("sizes", "compact"),
    [((5, 20), False), ((30, 700, 1500), False), ((5, 300), True)],
    ids=["small batches", "batches of several sectors", "compacted"],
)
def test_no_crash_of_a_life_in_which_everything_happens_breaks_a_promise(
    sizes: tuple[int, ...], compact: bool
) -> None:
    config = LogConfig(segment_bytes=2000, index_interval_bytes=100, compact=compact)
    explorer = CrashExplorer(
        config, second_every=SECOND_EVERY, use_every=20, value_sizes=sizes, tears=sizes == (5, 20)
    )
    explore(explorer, EVERYTHING_ONCE)
    assert explorer.counts["crash points"] > 200


@pytest.mark.parametrize("number", range(LIVES))
def test_no_crash_of_a_life_by_chance_breaks_a_promise(number: int) -> None:
    random = Random(f"life {number}")
    config, sizes = settings(random)
    explorer = CrashExplorer(
        config,
        seed=random.randrange(1 << 32),
        second_every=SECOND_EVERY,
        use_every=20,
        value_sizes=sizes,
        tears=max(sizes) <= TORN_BYTES_MAX and random.random() < 0.5,
    )
    explore(explorer, operations(random, OPERATIONS_PER_LIFE))
