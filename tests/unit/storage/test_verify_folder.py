"""What a data directory says of its logs is held against them, and what only looks wrong beside a running broker is not."""

import pytest
from tests.support.logs import DIRECTORY, NOW_MS, PARENT, TOPIC_ID, fill
from tests.support.memory_files import MemoryFiles

from penstock.storage.checkpoint import write_gaps_below, write_offset_checkpoint
from penstock.storage.data_directory import DataDirectory
from penstock.storage.errors import UnsupportedFormat
from penstock.storage.log import Log
from penstock.storage.log_config import LogConfig
from penstock.storage.verify import PartitionVerdict
from penstock.storage.verify_folder import look_into, verify_in_folder

KEY = ("orders", 0)
SMALL = LogConfig(segment_bytes=400, index_interval_bytes=100)


@pytest.fixture
def files() -> MemoryFiles:
    return MemoryFiles()


def open_folder(files: MemoryFiles) -> tuple[DataDirectory, Log]:
    directory = DataDirectory.open(files, PARENT, 1)
    log = directory.open_log(*KEY, TOPIC_ID, SMALL, NOW_MS)
    fill(log, 20)
    return directory, log


def closed_folder(files: MemoryFiles) -> None:
    directory, log = open_folder(files)
    log.close()
    directory.write_recovery_points({KEY: 20})
    directory.write_log_starts({KEY: 0})
    directory.write_high_watermarks({KEY: 20})
    directory.mark_clean()
    directory.close()


def verdict(files: MemoryFiles) -> PartitionVerdict:
    return verify_in_folder(files, look_into(files, PARENT), KEY)


def test_a_folder_that_was_closed_is_good_and_nothing_is_changed_by_looking(files: MemoryFiles) -> None:
    closed_folder(files)
    before = files.calls["any"]
    folder = look_into(files, PARENT)
    assert (folder.partitions, folder.is_in_use, folder.faults, folder.notes) == ([KEY], False, [], [])
    assert verify_in_folder(files, folder, KEY).is_whole
    assert files.calls["any"] == before
    assert DataDirectory.open(files, PARENT, 1).was_clean, "the lock was given back"


def test_what_a_running_broker_has_not_written_yet_is_not_held_against_it(files: MemoryFiles) -> None:
    _, log = open_folder(files)
    path = log.segments[-1].path
    files.replace(path, files.content(path)[:-7])
    folder = look_into(files, PARENT)
    found = verify_in_folder(files, folder, KEY)
    assert folder.is_in_use
    assert found.torn_tail_bytes
    assert found.is_whole
    files.kill()
    found = verdict(files)
    assert not found.is_whole
    assert found.is_good


def test_a_segment_that_goes_meanwhile_is_no_fault_beside_a_broker(files: MemoryFiles) -> None:
    _, log = open_folder(files)
    folder = look_into(files, PARENT)
    gone = log.segments[1].path

    def delete(_: int) -> None:
        files.unlink(gone)

    assert verify_in_folder(files, folder, KEY, progress=delete).is_whole


def test_a_log_that_ends_below_its_recovery_point_is_damaged(files: MemoryFiles) -> None:
    closed_folder(files)
    write_offset_checkpoint(files, f"{PARENT}/recovery-point-offset-checkpoint", {KEY: 21})
    found = verdict(files)
    assert not found.is_good
    assert [fault.reason for fault in found.faults] == [
        "the log ends at offset 20, below its recovery point 21"
    ]


def test_a_missing_first_segment_is_told_but_may_have_been_deleted(files: MemoryFiles) -> None:
    closed_folder(files)
    for suffix in ("log", "index", "timeindex"):
        files.unlink(f"{DIRECTORY}/{0:020d}.{suffix}")
    found = verdict(files)
    (fault,) = found.index_faults
    assert "and the log at 0" in fault.reason
    assert (found.is_good, found.is_whole) == (True, False)


def test_a_log_below_its_start_is_damaged(files: MemoryFiles) -> None:
    closed_folder(files)
    write_offset_checkpoint(files, f"{PARENT}/log-start-offset-checkpoint", {KEY: 21})
    assert [fault.reason for fault in verdict(files).faults] == [
        "the log ends at offset 20, below its start 21"
    ]


def test_a_log_that_was_compacted_may_have_gaps_and_another_may_not(files: MemoryFiles) -> None:
    closed_folder(files)
    second = sorted(name for name in files.list_directory(DIRECTORY) if name.endswith(".log"))[1]
    files.unlink(f"{DIRECTORY}/{second}")
    assert not verdict(files).is_good
    write_gaps_below(files, DIRECTORY, 20)
    assert verdict(files).is_good


@pytest.mark.parametrize(
    "name",
    [
        "meta.properties",
        "recovery-point-offset-checkpoint",
        "log-start-offset-checkpoint",
        "replication-offset-checkpoint",
        "cleaner-offset-checkpoint",
    ],
)
def test_a_damaged_file_of_the_folder_is_named(files: MemoryFiles, name: str) -> None:
    closed_folder(files)
    files.replace(f"{PARENT}/{name}", b"rubbish")
    assert [fault.path for fault in look_into(files, PARENT).faults] == [f"{PARENT}/{name}"]


def test_folders_that_are_no_partitions_are_named(files: MemoryFiles) -> None:
    closed_folder(files)
    for name in ("a-0.aa-stray", "b-0.bb-delete", "repaired/a-0-then"):
        files.make_directories(f"{PARENT}/{name}")
    files.unlink(f"{PARENT}/.kafka_cleanshutdown")
    assert [note.split()[0] for note in look_into(files, PARENT).notes] == [
        "not", "a-0.aa-stray/", "b-0.bb-delete/", "repaired/",
    ]  # fmt: skip


def test_a_newer_format_is_not_judged(files: MemoryFiles) -> None:
    closed_folder(files)
    files.replace(f"{PARENT}/meta.properties", b"version=1\nnode.id=1\npenstock.format=2\n")
    with pytest.raises(UnsupportedFormat):
        look_into(files, PARENT)
