"""Every call of a log's life fails once, in every way that a disk fails (PROPERTIES D11, D12). DISK_ERROR_EVERY=1: all; N: every N-th."""

import os
from collections.abc import Iterator
from random import Random

import pytest
from tests.property.storage.test_crashes import EVERYTHING_ONCE
from tests.support.disk_error_trials import FAULTS, DiskErrorTrials
from tests.support.trial_counts import count_trials

from penstock.storage.log_config import LogConfig

EVERY = int(os.environ.get("DISK_ERROR_EVERY", "1"))
LIVES = int(os.environ.get("DISK_ERROR_LIVES", "3"))


def some(count: int) -> Iterator[int]:
    return iter(range(1 + Random(count).randrange(EVERY), count + 1, EVERY))


@pytest.mark.parametrize("fault", FAULTS)
def test_no_failing_call_breaks_a_promise(fault: str) -> None:
    config = LogConfig(segment_bytes=1000, index_interval_bytes=100)
    trials = DiskErrorTrials(config, EVERYTHING_ONCE, (5, 300), seed=1)
    try:
        trials.run(fault, some)
    finally:
        count_trials(trials.counts)
