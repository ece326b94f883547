"""Every bit of every file of a small data folder flipped (PROPERTIES D10). BIT_FLIP_EVERY=1: each; N: every N-th."""

import os

import pytest
from tests.support.bit_flip_trials import CUT, FOUND_AT_OPENING, FOUND_AT_READING, BitFlipTrials
from tests.support.trial_counts import count_trials

EVERY = int(os.environ.get("BIT_FLIP_EVERY", "3"))


@pytest.mark.parametrize("clean", [True, False], ids=["after a clean stop", "after a kill"])
def test_no_flipped_bit_changes_hides_or_adds_a_record(clean: bool) -> None:
    trials = BitFlipTrials(clean=clean)
    try:
        for path, content in trials.files.items():
            trials.run(path, range(0, 8 * len(content), EVERY))
    finally:
        count_trials({"bit flips": sum(trials.counts.values()), **trials.counts})
    assert trials.counts[FOUND_AT_OPENING] > 1000 / EVERY
    assert trials.counts[FOUND_AT_READING] > 500 / EVERY
    last_batch_bits = 8 * len(trials.expected.batches[-1])
    assert trials.counts[CUT] == (0 if clean else -(-last_batch_bits // EVERY))
