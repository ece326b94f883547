"""The verdicts of `penstock log verify`: damage is named with its place, and what opening mends is no damage."""

import pytest
from tests.support.logs import DIRECTORY, TOPIC_ID, append, batch, new_log
from tests.support.memory_files import MemoryFiles

from penstock.storage.dump import (
    DumpedBatch,
    Fault,
    dump_offset_index,
    dump_segment,
    dump_snapshot,
    dump_time_index,
    list_segments,
)
from penstock.storage.log import Log
from penstock.storage.log_config import LogConfig
from penstock.storage.verify import PartitionVerdict, verify_partition

SMALL = LogConfig(segment_bytes=400, index_interval_bytes=100)


@pytest.fixture
def files() -> MemoryFiles:
    return MemoryFiles()


def closed_log(files: MemoryFiles) -> Log:
    log = new_log(files, SMALL)
    for number in range(12):
        values = [b"v%d" % number] * (1 + number % 2)
        append(log, batch(values, timestamps_ms=1000 + number), epoch=number // 5)
    log.close()
    return log


def verdict_after(files: MemoryFiles, path: str, position: int, data: bytes) -> PartitionVerdict:
    files.change(path, position, data)
    return verify_partition(files, DIRECTORY)


def test_a_good_partition_is_good(files: MemoryFiles) -> None:
    log = closed_log(files)
    before = files.calls["any"]
    verdict = verify_partition(files, DIRECTORY)
    assert verdict.is_good
    assert (verdict.faults, verdict.index_faults, verdict.torn_tail_bytes) == ([], [], 0)
    assert verdict.topic_id == TOPIC_ID
    assert (verdict.batch_count, verdict.record_count) == (12, log.log_end_offset)
    assert (verdict.segment_count, verdict.size_bytes) == (len(log.segments), log.size_bytes)
    assert (verdict.log_start_offset, verdict.log_end_offset) == (0, log.log_end_offset)
    assert files.calls["any"] == before
    assert files.open_count == 0


def test_a_torn_tail_is_told_and_no_damage(files: MemoryFiles) -> None:
    path = closed_log(files).segments[-1].path
    files.replace(path, files.content(path)[:-7])
    verdict = verify_partition(files, DIRECTORY)
    assert verdict.is_good
    assert verdict.torn_tail_bytes > 0
    assert verdict.batch_count == 11


@pytest.mark.parametrize("position", [3, 9, 13, 16, 18, 30, 64])
def test_damage_is_named_by_file_and_position(files: MemoryFiles, position: int) -> None:
    log = closed_log(files)
    verdict = verdict_after(files, log.segments[1].path, position, b"\x55")
    assert not verdict.is_good
    assert verdict.faults[0].path == log.segments[1].path
    assert verdict.faults[0].position == 0
    assert verdict.batch_count >= 11, "the batches behind the damage are still read"
    assert verdict.log_end_offset == log.log_end_offset


def test_a_torn_closed_segment_is_damage(files: MemoryFiles) -> None:
    log = closed_log(files)
    path = log.segments[0].path
    files.replace(path, files.content(path)[:-1])
    assert not verify_partition(files, DIRECTORY).is_good


def test_a_missing_segment_is_damage(files: MemoryFiles) -> None:
    log = closed_log(files)
    files.unlink(log.segments[1].path)
    assert not verify_partition(files, DIRECTORY).is_good
    assert verify_partition(files, DIRECTORY, compacted=True).is_good


def test_wrong_indexes_and_snapshots_are_told_and_no_damage(files: MemoryFiles) -> None:
    log = closed_log(files)
    segment = log.segments[0]
    for suffix, position in ((".index", 3), (".timeindex", 7), (".snapshot", 4)):
        copy = files.copy()
        path = segment.file_path(suffix) if suffix != ".snapshot" else log.segments[1].file_path(suffix)
        verdict = verdict_after(copy, path, position, b"\x7f")
        assert verdict.is_good
        assert [fault.path for fault in verdict.index_faults] == [path]


@pytest.mark.parametrize("name", ["leader-epoch-checkpoint", "partition.metadata"])
def test_damaged_metadata_is_damage(files: MemoryFiles, name: str) -> None:
    closed_log(files)
    files.replace(f"{DIRECTORY}/{name}", b"rubbish")
    verdict = verify_partition(files, DIRECTORY)
    assert [fault.path for fault in verdict.faults] == [f"{DIRECTORY}/{name}"]


def test_batches_records_and_entries_can_be_listed(files: MemoryFiles) -> None:
    log = closed_log(files)
    bases = list_segments(files, DIRECTORY)
    assert bases == [segment.base_offset for segment in log.segments]
    found = [entry for base in bases for entry in dump_segment(files, DIRECTORY, base)]
    batches = [entry for entry in found if isinstance(entry, DumpedBatch)]
    assert len(batches) == len(found) == 12
    records = [record for entry in batches for record in entry.records()]
    assert [record.offset for record in records] == list(range(log.log_end_offset))
    assert records[0].value == b"v0"
    ends = {
        entry.position: entry.header.last_offset for entry in batches if entry.path == log.segments[0].path
    }
    entries = dump_offset_index(files, DIRECTORY, 0)
    assert entries
    assert all(ends[position] == offset for offset, position in entries)
    assert dump_time_index(files, DIRECTORY, 0)[-1][0] == 1000 + len(ends) - 1
    assert dump_snapshot(files, DIRECTORY, log.log_end_offset) == []
    assert dump_offset_index(files, DIRECTORY, 999) == dump_time_index(files, DIRECTORY, 999) == []


def test_rubbish_is_one_fault_and_the_rest_is_listed(files: MemoryFiles) -> None:
    log = closed_log(files)
    files.change(log.segments[0].path, 0, bytes(61))
    found = list(dump_segment(files, DIRECTORY, 0))
    assert isinstance(found[0], Fault)
    assert all(isinstance(entry, DumpedBatch) for entry in found[1:])
    assert len(found) > 2


def test_an_empty_directory_holds_nothing(files: MemoryFiles) -> None:
    files.make_directories(DIRECTORY)
    verdict = verify_partition(files, DIRECTORY)
    assert (verdict.segment_count, verdict.log_end_offset, verdict.is_good) == (0, 0, True)
    with pytest.raises(FileNotFoundError):
        verify_partition(files, "/nowhere")
