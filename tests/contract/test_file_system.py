"""What every file system must do. What the disk does wrong has tests of its own for each implementation."""

import pytest
from tests.support.file_systems import Disk

from penstock.runtime.files import StorageError, read_file, replace_file, write_all


def test_a_missing_file_is_not_made_by_opening(disk: Disk) -> None:
    for write in (False, True):
        with pytest.raises(FileNotFoundError):
            disk.files.open(disk.path("a"), write=write)
    assert disk.files.list_directory(disk.folder) == []


def test_a_file_in_a_missing_directory_is_not_found_even_to_create(disk: Disk) -> None:
    with pytest.raises(FileNotFoundError):
        disk.files.open(disk.path("none/a"), write=True, create=True)


def test_create_makes_an_empty_file_and_leaves_a_full_one_alone(disk: Disk) -> None:
    file = disk.files.open(disk.path("a"), write=True, create=True)
    assert file.size() == 0
    assert file.pwrite(b"content", 0) == 7
    file.close()
    file = disk.files.open(disk.path("a"), write=True, create=True)
    assert file.pread(100, 0) == b"content"
    file.close()


def test_a_read_is_short_only_at_the_end(disk: Disk) -> None:
    file = disk.files.open(disk.write("a", b"0123456789"))
    assert file.pread(4, 3) == b"3456"
    assert file.pread(4, 8) == b"89"
    assert file.pread(4, 10) == b""
    assert file.pread(4, 1000) == b""
    assert file.pread(0, 3) == b""
    file.close()


def test_reading_into_a_buffer_fills_it_and_no_more(disk: Disk) -> None:
    file = disk.files.open(disk.write("a", b"0123456789"))
    buffer = bytearray(b"......")
    assert file.pread_into(memoryview(buffer)[1:5], 2) == 4
    assert buffer == b".2345."
    assert file.pread_into(buffer, 7) == 3
    assert buffer == b"78945."
    assert file.pread_into(buffer, 10) == 0
    file.close()


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
def test_every_kind_of_buffer_is_written(disk: Disk, kind: type) -> None:
    file = disk.files.open(disk.path("a"), write=True, create=True)
    assert file.pwrite(kind(b"0123"), 0) == 4
    assert file.pwrite(memoryview(bytearray(b"..abc.."))[2:5], 2) == 3
    assert file.pread(10, 0) == b"01abc"
    file.close()


def test_a_write_past_the_end_leaves_zeros_between(disk: Disk) -> None:
    file = disk.files.open(disk.path("a"), write=True, create=True)
    file.pwrite(b"x", 5)
    assert file.size() == 6
    assert file.pread(10, 0) == b"\0\0\0\0\0x"
    file.close()


def test_truncating_cuts_and_extends_with_zeros(disk: Disk) -> None:
    file = disk.files.open(disk.write("a", b"0123456789"), write=True)
    file.truncate(4)
    assert (file.size(), file.pread(10, 0)) == (4, b"0123")
    file.truncate(6)
    assert (file.size(), file.pread(10, 0)) == (6, b"0123\0\0")
    file.datasync()
    file.close()


def test_a_file_opened_for_reading_takes_no_writes(disk: Disk) -> None:
    file = disk.files.open(disk.write("a", b"0"))
    with pytest.raises(StorageError):
        file.pwrite(b"1", 0)
    assert file.pread(1, 0) == b"0"
    file.close()


def test_a_closed_file_refuses_everything_but_closing(disk: Disk) -> None:
    file = disk.files.open(disk.write("a", b"0"), write=True)
    file.close()
    file.close()
    for use in (
        lambda: file.pread(1, 0),
        lambda: file.pread_into(bytearray(1), 0),
        lambda: file.pwrite(b"1", 0),
        lambda: file.truncate(0),
        lambda: file.is_resident(0, 1),
        file.size,
        file.datasync,
    ):
        with pytest.raises(StorageError):
            use()
    assert file.fileno() == -1
    assert file.path == disk.path("a")


def test_one_file_opened_twice_is_one_file(disk: Disk) -> None:
    writer = disk.files.open(disk.path("a"), write=True, create=True)
    reader = disk.files.open(disk.path("a"))
    writer.pwrite(b"new", 0)
    assert reader.pread(10, 0) == b"new"
    assert reader.size() == 3
    writer.close()
    reader.close()


def test_an_open_file_outlives_its_name(disk: Disk) -> None:
    file = disk.files.open(disk.write("a", b"content"))
    disk.files.rename(disk.path("a"), disk.path("b"))
    assert file.pread(10, 0) == b"content"
    disk.files.unlink(disk.path("b"))
    assert file.pread(10, 0) == b"content"
    assert not disk.files.exists(disk.path("b"))
    file.close()


def test_exists_knows_files_directories_and_what_is_neither(disk: Disk) -> None:
    disk.write("a", b"")
    assert disk.files.exists(disk.path("a"))
    assert disk.files.exists(disk.folder)
    assert not disk.files.exists(disk.path("b"))
    assert not disk.files.exists(disk.path("a/b"))


def test_names_come_sorted_and_without_what_is_deeper(disk: Disk) -> None:
    for name in ("b", "a", "c-1", "c-0"):
        disk.write(name, b"")
    disk.files.make_directories(disk.path("d/e"))
    assert disk.files.list_directory(disk.folder) == ["a", "b", "c-0", "c-1", "d"]
    assert disk.files.list_directory(disk.path("d")) == ["e"]
    with pytest.raises(FileNotFoundError):
        disk.files.list_directory(disk.path("none"))


def test_directories_are_made_with_their_parents_and_twice_is_no_error(disk: Disk) -> None:
    disk.files.make_directories(disk.path("x/y/z"))
    disk.files.make_directories(disk.path("x/y/z"))
    assert disk.files.list_directory(disk.path("x/y")) == ["z"]
    disk.write("file", b"")
    with pytest.raises(FileExistsError):
        disk.files.make_directories(disk.path("file"))


def test_renaming_replaces_the_target(disk: Disk) -> None:
    disk.write("new", b"new")
    disk.write("old", b"old content")
    disk.files.rename(disk.path("new"), disk.path("old"))
    assert disk.files.list_directory(disk.folder) == ["old"]
    assert read_file(disk.files, disk.path("old")) == b"new"
    with pytest.raises(FileNotFoundError):
        disk.files.rename(disk.path("none"), disk.path("old"))
    assert read_file(disk.files, disk.path("old")) == b"new"


def test_a_directory_is_renamed_with_its_content(disk: Disk) -> None:
    disk.files.make_directories(disk.path("topic-0"))
    disk.write("topic-0/a", b"content")
    disk.files.rename(disk.path("topic-0"), disk.path("topic-0.delete"))
    assert disk.files.list_directory(disk.folder) == ["topic-0.delete"]
    assert read_file(disk.files, disk.path("topic-0.delete/a")) == b"content"


def test_removing_what_is_missing_is_no_error(disk: Disk) -> None:
    disk.files.unlink(disk.path("none"))
    disk.files.remove_tree(disk.path("none"))


def test_a_tree_is_removed_and_nothing_beside_it(disk: Disk) -> None:
    disk.files.make_directories(disk.path("x/y"))
    disk.files.make_directories(disk.path("x2"))
    disk.write("x/a", b"")
    disk.write("x/y/b", b"")
    disk.files.remove_tree(disk.path("x"))
    assert disk.files.list_directory(disk.folder) == ["x2"]


def test_a_directory_can_be_synced_and_a_missing_one_is_an_error(disk: Disk) -> None:
    disk.write("a", b"")
    disk.files.sync_directory(disk.folder)
    with pytest.raises(FileNotFoundError):
        disk.files.sync_directory(disk.path("none"))


def test_free_space_is_within_the_total(disk: Disk) -> None:
    assert 0 < disk.files.free_bytes(disk.folder) <= disk.files.total_bytes(disk.folder)


def test_a_lock_is_held_by_one_at_a_time(disk: Disk) -> None:
    lock = disk.files.lock(disk.path(".lock"))
    assert lock is not None
    assert disk.files.lock(disk.path(".lock")) is None
    other = disk.files.lock(disk.path(".lock2"))
    assert other is not None
    lock.release()
    again = disk.files.lock(disk.path(".lock"))
    assert again is not None
    again.release()
    other.release()


def test_nothing_to_read_is_resident(disk: Disk) -> None:
    file = disk.files.open(disk.write("a", b"content"))
    assert file.is_resident(0, 0)
    assert file.is_resident(100, 0)
    file.close()


def test_write_all_and_replace_file_leave_exactly_the_new_content(disk: Disk) -> None:
    file = disk.files.open(disk.write("a", b"0123456789"), write=True)
    write_all(file, memoryview(b"abc"), 8)
    assert file.pread(20, 0) == b"01234567abc"
    file.close()
    replace_file(disk.files, disk.path("a"), b"short")
    assert read_file(disk.files, disk.path("a")) == b"short"
    replace_file(disk.files, disk.path("b"), b"")
    assert read_file(disk.files, disk.path("b")) == b""
    assert disk.files.list_directory(disk.folder) == ["a", "b"], "no temporary file is left"
