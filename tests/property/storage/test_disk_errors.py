"""Every call of a log's life fails once, in every way that a disk fails (PROPERTIES D11, D12).

DISK_ERROR_EVERY=1: each call; N: every N-th. DISK_ERROR_LIVES: how many lives by chance besides the one in which everything happens.
"""

import os
from collections.abc import Iterable, Iterator
from random import Random

import pytest
from tests.property.storage.test_crashes import EVERYTHING_ONCE
from tests.support.crash_lives import operations, settings
from tests.support.disk_error_trials import FAULTS, DiskErrorTrials, RecoveryErrorTrials
from tests.support.trial_counts import count_trials

from penstock.storage.log_config import LogConfig

EVERY = int(os.environ.get("DISK_ERROR_EVERY", "4"))
LIVES = int(os.environ.get("DISK_ERROR_LIVES", "1"))


def some(count: int) -> Iterator[int]:
    return iter(range(1 + Random(count).randrange(EVERY), count + 1, EVERY))


CONFIG = LogConfig(segment_bytes=1000, index_interval_bytes=100)
UNTIL_A_KILL = [
    *EVERYTHING_ONCE[: EVERYTHING_ONCE.index("restart")],
    "append three",
    "roll",
    "append",
    "begin epoch",
    "append",
]


def try_all(trials: DiskErrorTrials | RecoveryErrorTrials, faults: Iterable[str]) -> None:
    try:
        for fault in faults:
            trials.run(fault, some)
    finally:
        count_trials(trials.counts)


@pytest.mark.parametrize("fault", FAULTS)
def test_no_failing_call_breaks_a_promise(fault: str) -> None:
    try_all(DiskErrorTrials(CONFIG, EVERYTHING_ONCE, (5, 300), seed=1), [fault])


@pytest.mark.parametrize("number", range(LIVES))
def test_no_failing_call_of_a_life_by_chance_breaks_a_promise(number: int) -> None:
    random = Random(f"failing life {number}")
    config, sizes = settings(random)
    try_all(DiskErrorTrials(config, operations(random, 12), sizes, seed=number), FAULTS)


def test_no_failing_call_of_a_recovery_breaks_a_promise() -> None:
    try_all(RecoveryErrorTrials(CONFIG, UNTIL_A_KILL, (5, 300), seed=1), FAULTS)
