"""Every crash of a few short lives of a log, in under three seconds: what a fault in syncing, checking or rewriting would lose, is lost here."""

import pytest
from tests.support.crash_explorer import CrashExplorer

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
