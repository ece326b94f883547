"""The data folder: one broker at a time, and no offset of one partition taken for another's."""

import itertools
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from tests.support.logs import NOW_MS, TOPIC_ID, fill, read_values
from tests.support.memory_files import MemoryFiles

from penstock.runtime.files import DiskError, DiskFull, StorageError, TooManyOpenFiles
from penstock.runtime.posix_files import PosixFileSystem
from penstock.storage.data_directory import DataDirectory
from penstock.storage.errors import CorruptBatch, CorruptFile, DataDirectoryInUse, UnsupportedFormat
from penstock.storage.layout import OFFSET_MAX
from penstock.storage.log import Log
from penstock.storage.log_config import LogConfig

PATH = "/srv/penstock"
OTHER_ID = bytes(16)
UUID = "q6urq6urq6urq6urq6urqw"


class FixedRandom:
    """Always the same."""

    def random(self) -> float:
        return 0.5

    def randrange(self, start: int, stop: int) -> int:
        return start

    def randbytes(self, n: int) -> bytes:
        return b"\xab" * n


@pytest.fixture
def files() -> MemoryFiles:
    return MemoryFiles()


def start(files: MemoryFiles) -> DataDirectory:
    return DataDirectory.open(files, PATH, 1, FixedRandom())


def open_orders(directory: DataDirectory, topic_id: bytes = TOPIC_ID) -> Log:
    return directory.open_log("orders", 0, topic_id, LogConfig(), NOW_MS)


def test_a_folder_has_one_broker_at_a_time(files: MemoryFiles) -> None:
    directory = start(files)
    with pytest.raises(DataDirectoryInUse):
        start(files)
    directory.close()
    directory.close()
    start(files)


def test_meta_properties_say_whose_folder_it_is(files: MemoryFiles) -> None:
    directory = start(files)
    assert (directory.cluster_id, directory.directory_id) == ("", UUID)
    directory.join_cluster("cluster-1")
    directory.close()
    files.power_cut()
    content = files.content(f"{PATH}/meta.properties").decode()
    assert content == (
        f"version=1\nnode.id=1\ncluster.id=cluster-1\ndirectory.id={UUID}\npenstock.format=1\n"
    )
    directory = start(files)
    directory.join_cluster("cluster-1")
    with pytest.raises(UnsupportedFormat, match="cluster-1"):
        directory.join_cluster("cluster-2")
    directory.close()
    with pytest.raises(UnsupportedFormat, match="node 1"):
        DataDirectory.open(files, PATH, 2)
    start(files)


@pytest.mark.parametrize(
    ("content", "error"),
    [(b"", CorruptFile), (b"rubbish", CorruptFile), (b"version=1\nnode.id=1\n", UnsupportedFormat),
     (b"version=0\nbroker.id=1\n", UnsupportedFormat), (b"node.id=1\n", CorruptFile),
     (b"version=1\nnode.id=1\npenstock.format=2\n", UnsupportedFormat)],
)  # fmt: skip
def test_a_folder_of_another_format_is_refused_and_unlocked(
    files: MemoryFiles, content: bytes, error: type[StorageError]
) -> None:
    start(files).close()
    right = files.content(f"{PATH}/meta.properties")
    files.replace(f"{PATH}/meta.properties", content)
    with pytest.raises(error):
        start(files)
    files.replace(f"{PATH}/meta.properties", right)
    start(files)


def test_after_a_clean_stop_nothing_is_verified_and_only_once(files: MemoryFiles) -> None:
    directory = start(files)
    assert not directory.was_clean
    log = open_orders(directory)
    fill(log, 3)
    log.close()
    directory.mark_clean()
    directory.close()
    files.power_cut()
    directory = start(files)
    assert directory.was_clean
    assert open_orders(directory).report.verified_bytes == 0
    files.power_cut()
    directory = start(files)
    assert not directory.was_clean, "the marker is gone before any log is opened"
    assert open_orders(directory).report.verified_bytes > 0


def test_checkpoints_come_back(files: MemoryFiles) -> None:
    directory = start(files)
    log = open_orders(directory)
    fill(log, 5)
    log.advance_log_start_offset(2)
    log.sync()
    directory.write_recovery_points({("orders", 0): log.durable_end_offset})
    directory.write_log_starts({("orders", 0): log.log_start_offset})
    directory.write_high_watermarks({("orders", 0): 4})
    files.power_cut()
    directory = start(files)
    assert directory.recovery_points == {("orders", 0): 5}
    assert directory.high_watermarks == {("orders", 0): 4}
    log = open_orders(directory)
    assert log.report.verified_bytes == 0
    assert read_values(log) == [(i, b"v%d" % i) for i in range(2, 5)]


def test_a_new_topic_of_an_old_name_inherits_no_offsets(files: MemoryFiles) -> None:
    directory = start(files)
    log = open_orders(directory)
    fill(log, 5)
    log.sync()
    for write in (
        directory.write_recovery_points,
        directory.write_log_starts,
        directory.write_high_watermarks,
    ):
        write({("orders", 0): 5, ("other", 0): 0})
    log.delete()()
    log = open_orders(directory, OTHER_ID)
    assert log.log_end_offset == 0
    files.power_cut()
    directory = start(files)
    assert ("orders", 0) not in directory.recovery_points | directory.log_starts | directory.high_watermarks
    log = open_orders(directory, OTHER_ID)
    assert (log.log_start_offset, log.log_end_offset) == (0, 0)


def test_the_recovery_point_of_a_damaged_partition_is_kept(files: MemoryFiles) -> None:
    """Without it, the damage would look like a torn tail at the next start, and be cut."""
    directory = start(files)
    log = open_orders(directory)
    fill(log, 3)
    log.sync()
    directory.write_recovery_points({("orders", 0): 3})
    files.kill()
    files.change(log.segments[0].path, log.size_bytes - 3, b"?")
    files.replace(log.segments[0].path, files.content(log.segments[0].path)[:-1])
    for _ in range(2):
        directory = start(files)
        with pytest.raises(CorruptBatch):
            open_orders(directory)
        directory.write_recovery_points({("other", 0): 0})
        directory.write_log_starts({})
        directory.close()


def test_offsets_of_partitions_that_are_gone_leave_the_checkpoints(files: MemoryFiles) -> None:
    directory = start(files)
    log = open_orders(directory)
    directory.write_recovery_points({("orders", 0): 0})
    log.delete()()
    directory.write_recovery_points({})
    assert files.content(f"{PATH}/recovery-point-offset-checkpoint") == b"0\n0\n"


def test_what_was_being_deleted_is_removed_at_the_next_start(files: MemoryFiles) -> None:
    directory = start(files)
    log = open_orders(directory)
    fill(log, 3)
    log.delete()
    files.power_cut()
    assert any(name.endswith("-delete") for name in files.list_directory(PATH))
    directory = start(files)
    assert list(directory.partitions()) == []
    for path in directory.deleted_paths:
        directory.remove(path)
    assert not any(name.endswith("-delete") for name in files.list_directory(PATH))


def test_a_creation_that_was_cut_short_is_done_again(files: MemoryFiles) -> None:
    for call, after in itertools.product(range(1, 30), ("kill", "power cut")):
        files = MemoryFiles()
        directory = start(files)
        files.fail("any", DiskError, call=call)
        try:
            open_orders(directory)
            done = True
        except StorageError:
            done = False
        if after == "kill":
            files.kill()
        else:
            files.power_cut()
        log = open_orders(start(files))
        fill(log, 2)
        log.close()
        assert read_values(open_orders(DataDirectory.open(files.copy(), PATH, 1))) == [(0, b"v0"), (1, b"v1")]
        if done:
            assert call > 5
            return


@pytest.mark.parametrize("error", [TooManyOpenFiles, DiskFull])
def test_what_is_acked_after_a_creation_that_failed_half_way_survives_a_power_cut(
    error: type[StorageError],
) -> None:
    """The same process opens again what it had begun to make."""
    for call in range(1, 30):
        files = MemoryFiles()
        directory = start(files)
        files.fail("any", error, call=call)
        try:
            open_orders(directory)
            done = True
        except error:
            done = False
        files.heal()
        fill(log := open_orders(directory), 2)
        log.sync()
        files.power_cut()
        assert read_values(open_orders(start(files))) == [(0, b"v0"), (1, b"v1")]
        if done:
            assert call > 5
            return
    raise AssertionError("creation never came to its end")


def test_a_log_that_lost_its_metadata_file_is_opened_and_verified(files: MemoryFiles) -> None:
    directory = start(files)
    fill(log := open_orders(directory), 3)
    log.sync()
    directory.write_recovery_points({("orders", 0): 2})
    files.kill()
    files.unlink(f"{PATH}/orders-0/partition.metadata")
    directory = start(files)
    log = open_orders(directory)
    assert log.report.verified_bytes > 0
    assert "partition.metadata was missing" in log.report.notes
    assert len(read_values(log)) == 3
    assert directory.recovery_points == {("orders", 0): 2}


def test_a_directory_of_an_older_topic_is_put_aside_and_kept(files: MemoryFiles) -> None:
    directory = start(files)
    fill(log := open_orders(directory), 3)
    log.close()
    directory.mark_clean()
    directory.close()
    directory = start(files)
    assert open_orders(directory, OTHER_ID).log_end_offset == 0
    stray = f"orders-0.{TOPIC_ID.hex()}-stray"
    assert files.list_directory(f"{PATH}/{stray}")
    assert any(stray in note for note in directory.notes)


def test_what_was_moved_away_is_named_for_removal_only_if_it_is_of_that_topic(files: MemoryFiles) -> None:
    directory = start(files)
    for topic, topic_id in (("orders", TOPIC_ID), ("namesake", OTHER_ID), ("kept", TOPIC_ID)):
        directory.open_log(topic, 0, topic_id, LogConfig(), NOW_MS).close()
    files.make_directories(f"{PATH}/nameless-0")
    moved = {(topic, 0): TOPIC_ID for topic in ("orders", "namesake", "nameless", "gone")}
    assert directory.set_moved_aside(moved) == [f"{PATH}/orders-0.{TOPIC_ID.hex()}-delete"]
    assert {topic for topic, _ in directory.partitions()} == {"namesake", "kept", "nameless"}


def test_a_damaged_directory_makes_way_for_an_empty_log_and_is_kept(files: MemoryFiles) -> None:
    directory = start(files)
    for count in range(3):
        log = open_orders(directory)
        assert log.log_end_offset == 0
        fill(log, count + 1)
        log.close()
        directory.write_recovery_points({("orders", 0): count + 1})
        directory.put_damaged_aside("orders", 0)
    kept = [name for name in files.list_directory(PATH) if name.endswith("-damaged")]
    assert len(kept) == 3
    files.power_cut()
    again = start(files)
    assert [name for name in files.list_directory(PATH) if name.endswith("-damaged")] == kept
    assert not again.deleted_paths
    assert open_orders(again).log_end_offset == 0


@pytest.mark.parametrize("log_start", [OFFSET_MAX, 40])
def test_before_a_cut_no_checkpoint_names_an_offset_above_it(files: MemoryFiles, log_start: int) -> None:
    directory = start(files)
    offsets = {("orders", 0): 50, ("other", 0): 50, ("orders", 1): 10}
    for topic, index in offsets:
        directory.open_log(topic, index, TOPIC_ID, LogConfig(), NOW_MS)
    directory.write_recovery_points(offsets)
    directory.write_high_watermarks(offsets)
    directory.write_cleaner_offsets(offsets)
    directory.write_log_starts(offsets)
    directory.lower_offsets("orders", 0, 30, log_start)
    directory.lower_offsets("orders", 1, 30, log_start)
    files.power_cut()
    again = start(files)
    assert again.recovery_points == again.high_watermarks == again.cleaner_offsets
    assert again.recovery_points == {**offsets, ("orders", 0): 30}
    assert again.log_starts == {**offsets, ("orders", 0): min(50, log_start)}


def test_strays_are_renamed_and_never_deleted(files: MemoryFiles) -> None:
    directory = start(files)
    for topic, index in (("orders", 0), ("orders", 1), ("other", 0)):
        directory.open_log(topic, index, TOPIC_ID, LogConfig(), NOW_MS).close()
    files.make_directories(f"{PATH}/not a partition")
    strays = directory.set_strays_aside({("orders", 1)})
    assert strays == [f"{PATH}/{t}-0.{TOPIC_ID.hex()}-stray" for t in ("orders", "other")]
    assert list(directory.partitions()) == [("orders", 1)]
    directory.open_log("orders", 0, TOPIC_ID, LogConfig(), NOW_MS).close()
    assert directory.set_strays_aside({("orders", 1)}) == [f"{PATH}/orders-0.{TOPIC_ID.hex()}_1-stray"]
    files.power_cut()
    assert files.exists(f"{PATH}/not a partition")
    assert list(start(files).partitions()) == [("orders", 1)]


@pytest.mark.parametrize("name", ["recovery-point-offset-checkpoint", "replication-offset-checkpoint"])
def test_a_damaged_checkpoint_costs_time_and_is_told(files: MemoryFiles, name: str) -> None:
    directory = start(files)
    fill(log := open_orders(directory), 3)
    log.close()
    directory.write_recovery_points({("orders", 0): 3})
    directory.mark_clean()
    directory.close()
    files.replace(f"{PATH}/{name}", b"rubbish")
    directory = start(files)
    assert any(name in note for note in directory.notes)
    assert not directory.was_clean
    assert open_orders(directory).log_end_offset == 3


def test_a_damaged_log_start_checkpoint_stops_the_start(files: MemoryFiles) -> None:
    """Records that DeleteRecords removed would come back."""
    start(files).close()
    files.replace(f"{PATH}/log-start-offset-checkpoint", b"rubbish")
    with pytest.raises(CorruptFile):
        start(files)


def test_checkpoints_written_from_several_workers_do_not_get_into_each_others_way(tmp_path: Path) -> None:
    directory = DataDirectory.open(PosixFileSystem(), str(tmp_path / "data"), 1)
    topics = [f"topic-{number}" for number in range(24)]
    directory.write_recovery_points({(topic, 0): 5 for topic in topics})

    def open_anew(topic: str) -> None:
        directory.open_log(topic, 0, TOPIC_ID, LogConfig(), NOW_MS).close()

    with ThreadPoolExecutor(4) as workers:
        openings = [workers.submit(open_anew, topic) for topic in topics]
        writes = [workers.submit(directory.write_recovery_points, {("other", 0): n}) for n in range(24)]
        for done in (*openings, *writes):
            done.result()
    assert directory.recovery_points == {("other", 0): directory.recovery_points["other", 0]}
    directory.close()


def test_a_first_start_that_was_killed_anywhere_does_not_leave_the_next_one_a_folder_that_a_power_cut_takes() -> (
    None
):
    calls = MemoryFiles()
    start(calls)
    count = calls.calls["any"]
    assert count > 8
    for call in range(1, count + 1):
        files = MemoryFiles()
        files.fail("any", DiskError, call=call)
        with pytest.raises(DiskError):
            start(files)
        files.kill()
        fill(open_orders(start(files)), 1)
        files.kill()
        open_orders(start(files))
        files.power_cut()
        assert read_values(open_orders(start(files))) == [(0, b"v0")], f"stopped at call {call}"


class SecretParent(MemoryFiles):
    """A disk on which the folder was made by somebody else, in one that this process can pass and not read."""

    def list_directory(self, path: str) -> list[str]:
        return super().list_directory(self._allowed(path))

    def sync_directory(self, path: str) -> None:
        super().sync_directory(self._allowed(path))

    def _allowed(self, path: str) -> str:
        if path == "/srv":
            raise DiskError("Permission denied", path=path)
        return path


def test_a_folder_in_one_that_may_not_be_read_is_used() -> None:
    files = SecretParent()
    files.make_directories(PATH)
    assert start(files).directory_id == UUID


def test_a_folder_of_other_files_is_refused_and_left_alone(files: MemoryFiles) -> None:
    files.make_directories(PATH)
    files.replace(f"{PATH}/photo.jpg", b"x")
    with pytest.raises(UnsupportedFormat, match=r"photo\.jpg"):
        start(files)
    assert files.list_directory(PATH) == ["photo.jpg"]


def test_a_start_that_was_cut_short_and_a_fresh_file_system_are_no_foreign_folders(
    files: MemoryFiles,
) -> None:
    files.make_directories(f"{PATH}/lost+found")
    for name in (
        ".lock",
        "metadata.db",
        "metadata.db-wal",
        "meta.properties.tmp",
        "log-start-offset-checkpoint",
    ):
        files.replace(f"{PATH}/{name}", b"")
    files.unlink(f"{PATH}/log-start-offset-checkpoint")
    start(files)
