"""Compaction over what a producer, or a disk, has made of batches: what nobody can read is kept, and damage is not believed (PROPERTIES K2)."""

from dataclasses import replace

import pytest
from tests.support.compaction import append_raw, compact, kept_records, keyed, marker, unreadable
from tests.support.logs import DIRECTORY, NOW_MS, append, new_log, read_batches, stored
from tests.support.memory_files import MemoryFiles

from penstock.protocol.record_filter import ControlType
from penstock.protocol.records import decode_records
from penstock.storage.errors import CorruptBatch, UnreadableRecords
from penstock.storage.log_config import LogConfig
from penstock.storage.verify import verify_partition

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


@pytest.mark.parametrize("kept_bytes", [0, 12])
def test_a_batch_of_junk_under_a_right_checksum_is_copied_and_no_damage(kept_bytes: int) -> None:
    files = MemoryFiles()
    log = new_log(files, LogConfig(compact=False, index_interval_bytes=100))
    append(log, keyed([(b"a", b"1")]))
    append(log, junk := unreadable(keyed([(b"x", b"1"), (b"y", b"1")]), kept_bytes=kept_bytes))
    append(log, keyed([(b"a", b"2")]))
    log.roll()
    log.config = COMPACT
    for _ in range(2):
        result = compact(log)
        assert (result.first_dirty_offset, result.unreadable_count, result.first_unreadable_offset) == (
            4,
            1,
            1,
        )
        copied, after = read_batches(log)
        assert copied == stored(junk, 1)
        assert [r.value for r in decode_records(memoryview(after), output_max_bytes=100)] == [b"2"]
    assert verify_partition(files, DIRECTORY).is_good


def test_a_marker_that_says_nothing_under_a_right_checksum_is_no_damage() -> None:
    log = new_log(MemoryFiles(), COMPACT)
    append(log, keyed([(b"a", b"1")]))
    append(log, keyed([(b"a", b"2")]))
    append_raw(log, keyed([(b"b", b"1")], producer_id=5, is_transactional=True))
    append_raw(log, unreadable(marker(ControlType.COMMIT, producer_id=5)))
    log.roll()
    with pytest.raises(UnreadableRecords, match="can't be read"):
        compact(log)
    assert len(read_batches(log)) == 4


def test_a_damaged_marker_aborts_nothing_though_the_map_is_full_before_it() -> None:
    files = MemoryFiles()
    log = new_log(files, COMPACT)
    append_raw(log, keyed([(b"b", b"committed")], producer_id=5, is_transactional=True))
    for number in range(20):
        append(log, keyed([(b"%d" % number, b"1")]))
    log.roll()
    append_raw(log, marker(ControlType.COMMIT, producer_id=5))
    log.roll()
    damaged = log.segments[1]
    files.change(damaged.path, damaged.size_bytes - 9, b"\0")  # the type's last byte: it seems to abort
    with pytest.raises(CorruptBatch, match="CRC"):
        compact(log, map_bytes_max=200)
