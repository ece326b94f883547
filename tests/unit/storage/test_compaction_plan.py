"""Which logs are due, and up to where: by dirty ratio, by age, and whatever a checkpoint says."""

import pytest
from tests.support.compaction import compact, kept_records, keyed, plan
from tests.support.logs import NOW_MS, append, new_log
from tests.support.memory_files import MemoryFiles

from penstock.storage.log import Log
from penstock.storage.log_config import LogConfig


@pytest.fixture
def files() -> MemoryFiles:
    return MemoryFiles()


@pytest.fixture
def log(files: MemoryFiles) -> Log:
    return new_log(files, LogConfig(compact=True, delete=False))


def write(log: Log, *pairs: tuple[bytes | None, bytes | None], timestamps_ms: int = 1000) -> None:
    append(log, keyed(pairs, timestamps_ms=timestamps_ms))


def roll(log: Log) -> None:
    log.roll()


def test_a_log_is_due_by_its_dirty_ratio(log: Log) -> None:
    write(log, (b"a", b"1" * 100))
    roll(log)
    compact(log)
    write(log, (b"b", b"1" * 99))
    roll(log)
    found = plan(log, first_dirty=1)
    assert found.clean_bytes > found.dirty_bytes
    assert not found.is_due
    write(log, (b"c", b"1"))
    roll(log)
    assert plan(log, first_dirty=1).is_due
    assert not plan(log, first_dirty=log.log_end_offset).is_due


def test_a_record_younger_than_min_compaction_lag_ms_stays_uncompacted(files: MemoryFiles) -> None:
    log = new_log(files, LogConfig(compact=True, min_compaction_lag_ms=1000))
    write(log, (b"a", b"1"), timestamps_ms=NOW_MS - 5000)
    write(log, (b"a", b"2"), timestamps_ms=NOW_MS - 4000)
    roll(log)
    write(log, (b"a", b"3"), timestamps_ms=NOW_MS - 999)
    roll(log)
    write(log, (b"a", b"4"), timestamps_ms=NOW_MS - 5000)
    roll(log)
    assert plan(log).limit_offset == 2
    compact(log)
    assert [record.value for record in kept_records(log)] == [b"2", b"3", b"4"]
    assert plan(log, now_ms=NOW_MS + 1).limit_offset == 4


def test_a_record_older_than_max_compaction_lag_ms_makes_its_log_due(files: MemoryFiles) -> None:
    log = new_log(files, LogConfig(compact=True, max_compaction_lag_ms=60_000, min_cleanable_dirty_ratio=1.0))
    write(log, (b"a", b"1"), timestamps_ms=NOW_MS - 60_000)
    roll(log)
    assert not plan(log).is_due
    assert plan(log, now_ms=NOW_MS + 1).is_due
    assert not plan(log, first_dirty=1, now_ms=NOW_MS + 1).is_due


@pytest.mark.parametrize("first_dirty", [-1, 99, 2**62])
def test_a_checkpoint_that_makes_no_sense_begins_at_the_log_start(log: Log, first_dirty: int) -> None:
    write(log, (b"a", b"1"))
    write(log, (b"a", b"2"))
    roll(log)
    assert plan(log, first_dirty=first_dirty).first_dirty_offset == 0
    compact(log, first_dirty=first_dirty)
    assert [(record.offset, record.value) for record in kept_records(log)] == [(1, b"2")]
