"""Compaction over what a producer, or a disk, has made of batches: what nobody can read is kept, and damage is not believed (PROPERTIES K2)."""

from dataclasses import replace

import pytest
from tests.support.compaction import compact, kept_records, keyed
from tests.support.logs import NOW_MS, append, new_log
from tests.support.memory_files import MemoryFiles

from penstock.storage.log_config import LogConfig

DAY_MS = 24 * 60 * 60 * 1000
COMPACT = LogConfig(compact=True, delete=False, index_interval_bytes=100)


@pytest.mark.parametrize("retention_ms", [DAY_MS, 2**63 - 1])
def test_a_tombstone_from_before_all_time_takes_no_other_record_with_it(retention_ms: int) -> None:
    log = new_log(MemoryFiles(), replace(COMPACT, delete_retention_ms=retention_ms))
    append(log, keyed([(b"a", b"1"), (b"b", None)], timestamps_ms=[NOW_MS, NOW_MS - 2**63]))
    log.roll()
    for _ in range(2):
        compact(log)
        assert kept_records(log) == [(0, b"a", b"1"), (1, b"b", None)]
