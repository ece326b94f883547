"""Crashes, failed syncs and flipped bits of a few short lives of a log, in under three seconds.

What a fault in syncing, checking or rewriting would lose, is lost here; the full counts are in the modules beside this one.
"""

import pytest
from tests.support.bit_flip_trials import BitFlipTrials
from tests.support.crash_explorer import CrashExplorer
from tests.support.disk_error_trials import DiskErrorTrials

from penstock.storage.log_config import LogConfig

SMALL = LogConfig(segment_bytes=250, index_interval_bytes=60)
LIVES = {
    "rolls and epochs": [
        "append idempotently",
        "sync",
        "append",
        "begin epoch",
        "append three",
        "sync",
        "write checkpoints",
        "append idempotently",
        "append again",
    ],
    "deletions and restarts": [
        "append idempotently",
        "roll",
        "append",
        "roll",
        "append",
        "sync",
        "delete records",
        "append idempotently",
        "restart",
        "append",
    ],
    "a follower": [
        "fetch",
        "sync",
        "write checkpoints",
        "fetch",
        "fetch",
        "truncate",
        "fetch",
        "sync",
        "start over",
        "fetch",
        "truncate",
        "fetch",
    ],
    "cuts": [
        "append three",
        "append idempotently",
        "append",
        "append",
        "sync",
        "write checkpoints",
        "truncate",
        "append",
        "sync",
        "start over",
        "append",
        "sync",
    ],
}
COMPACTED = [
    "append three",
    "append idempotently",
    "roll",
    "append three",
    "append idempotently",
    "roll",
    "append",
    "compact",
    "append",
]


@pytest.mark.parametrize("life", LIVES)
def test_no_crash_of_a_short_life_breaks_a_promise(life: str) -> None:
    explorer = CrashExplorer(SMALL, seed=1, second_every=20, use_every=10, tears=False, value_sizes=(5, 20))
    explorer.run(LIVES[life])
    assert explorer.counts["crash points"] > 60


def test_a_tail_torn_at_any_byte_of_its_last_write_breaks_no_promise() -> None:
    explorer = CrashExplorer(SMALL, second_every=50, use_every=50, value_sizes=(5, 20))
    explorer.run(["append", "sync", "append idempotently", "append"])
    assert explorer.counts["torn positions"] > 200


def test_sectors_lost_from_the_midst_of_a_batch_break_no_promise() -> None:
    explorer = CrashExplorer(LogConfig(), second_every=10, use_every=10, tears=False, value_sizes=(700, 1500))
    explorer.run(["append", "append", "sync", "append idempotently", "append"])
    assert explorer.counts["survivor choices"] > 100


def test_no_crash_of_a_compaction_takes_the_latest_record_of_a_key() -> None:
    config = LogConfig(compact=True, index_interval_bytes=60)
    explorer = CrashExplorer(config, second_every=20, use_every=10, tears=False, value_sizes=(5, 20))
    explorer.run(COMPACTED)
    assert explorer.counts["crash points"] > 100


@pytest.mark.parametrize("fault", ["EIO at an fsync", "ENOSPC after a short write"])
def test_nothing_is_promised_by_a_sync_or_a_write_that_failed(fault: str) -> None:
    trials = DiskErrorTrials(SMALL, LIVES["rolls and epochs"], (5, 20), seed=1)
    trials.run(fault, lambda count: iter(range(1, count + 1)))
    assert trials.counts[fault] > 15


@pytest.mark.parametrize("clean", [True, False])
def test_a_few_flipped_bits_of_the_log_are_found(clean: bool) -> None:
    trials = BitFlipTrials(clean=clean)
    for path, content in trials.files.items():
        if path.endswith((".log", "-checkpoint", ".metadata")):
            trials.run(path, range(0, 8 * len(content), 11))
