"""What the simulated disk does wrong, as a disk does it. That it is a file system besides is in `test_file_system`."""

from random import Random

import pytest
from tests.support.disk_state import NOTHING, SECTOR_BYTES, Resize, Survival, Write
from tests.support.simulated_disk import SimulatedDisk
from tests.support.survivors import by_chance, everything, ruled, torn

from penstock.runtime.files import DiskError, DiskFull, File, TooManyOpenFiles, read_file, replace_file


@pytest.fixture
def disk() -> SimulatedDisk:
    return SimulatedDisk()


def new_file(disk: SimulatedDisk, content: bytes = b"", path: str = "a") -> File:
    """A durable file, open for writing."""
    disk.replace(path, content)
    return disk.open(path, write=True)


def outcomes(disk: SimulatedDisk, path: str = "a") -> set[bytes]:
    """What a file may be after a power cut now, by all subsets of the unsynced changes."""
    numbers = disk.unsynced().numbers
    found: set[bytes] = set()
    for mask in range(1 << len(numbers)):
        other = disk.fork()
        other.power_cut(Survival(frozenset(n for bit, n in enumerate(numbers) if mask >> bit & 1)))
        found.add(other.content(path))
    return found


def names_after(disk: SimulatedDisk) -> set[tuple[str, ...]]:
    """What names there may be after a power cut now."""
    numbers = disk.unsynced().numbers
    found: set[tuple[str, ...]] = set()
    for mask in range(1 << len(numbers)):
        other = disk.fork()
        other.power_cut(Survival(frozenset(n for bit, n in enumerate(numbers) if mask >> bit & 1)))
        found.add(tuple(other.list_directory("/")))
    return found


def test_unsynced_writes_survive_in_any_subset_and_zeros_fill_the_holes(disk: SimulatedDisk) -> None:
    file = new_file(disk, b"..")
    first, second = b"A" * 510, b"BB"
    file.pwrite(first, 2)
    file.pwrite(second, 512)
    assert outcomes(disk) == {b"..", b".." + first, b".." + bytes(510) + second, b".." + first + second}
    file.datasync()
    assert outcomes(disk) == {b".." + first + second}


def test_a_later_write_of_a_sector_takes_the_earlier_ones_along(disk: SimulatedDisk) -> None:
    file = new_file(disk, b"..")
    file.pwrite(b"A", 2)
    file.pwrite(b"BB", 3)
    file.pwrite(b"C", 512)
    numbers = disk.unsynced().numbers
    assert outcomes(disk) == {
        content + (bytes(512 - len(content)) + b"C" if later else b"")
        for content in (b"..", b"..A", b"..ABB")
        for later in (False, True)
    }
    disk.power_cut(Survival(frozenset(numbers), torn=(numbers[1], 1)))
    assert disk.content("a") == b"..AB" + bytes(508) + b"C"


def test_nothing_of_a_sector_survives_behind_its_tear(disk: SimulatedDisk) -> None:
    file = new_file(disk)
    file.pwrite(b"AA", 0)
    file.pwrite(b"BB", 2)
    numbers = disk.unsynced().numbers
    disk.power_cut(Survival(frozenset(numbers), torn=(numbers[0], 1)))
    assert disk.content("a") == b"A"


def test_a_lost_truncation_leaves_the_old_end_behind_a_later_write(disk: SimulatedDisk) -> None:
    file = new_file(disk, b"abcdef")
    file.truncate(2)
    file.pwrite(b"X", 2)
    assert isinstance(disk.unsynced().changes[0], Resize)
    assert outcomes(disk) == {b"abcdef", b"ab", b"abXdef", b"abX"}


def test_sectors_of_one_write_survive_one_by_one(disk: SimulatedDisk) -> None:
    file = new_file(disk, bytes(500))
    file.pwrite(b"x" * 600, 500)
    changes = [change for change in disk.unsynced().changes if isinstance(change, Write)]
    assert [(change.position, len(change.data)) for change in changes] == [(500, 12), (512, 512), (1024, 76)]
    assert len({change.call for change in changes}) == 1
    disk.power_cut(Survival(frozenset((changes[1].number,))))
    assert disk.content("a") == bytes(512) + b"x" * SECTOR_BYTES


def test_a_write_is_torn_at_every_byte(disk: SimulatedDisk) -> None:
    file = new_file(disk, b"0" * 510)
    file.pwrite(b"before", 0)
    file.pwrite(b"abcd", 510)
    found: set[bytes] = set()
    for survival in torn(disk.unsynced()):
        other = disk.fork()
        other.power_cut(survival)
        assert other.content("a").startswith(b"before000")
        found.add(other.content("a")[510:])
    assert found == {b"a", b"ab", b"abc"}


def test_a_size_may_survive_over_zeros(disk: SimulatedDisk) -> None:
    file = new_file(disk, b"0")
    file.pwrite(b"abc", 0)
    disk.power_cut(Survival(zeroed=frozenset(disk.unsynced().numbers)))
    assert disk.content("a") == b"0\0\0"


def test_a_new_name_needs_a_sync_of_its_directory_and_the_bytes_one_of_the_file(disk: SimulatedDisk) -> None:
    file = disk.open("a", write=True, create=True)
    file.pwrite(b"x", 0)
    assert names_after(disk) == {(), ("a",)}
    file.datasync()
    assert names_after(disk) == {(), ("a",)}, "a file's sync says nothing about its name"
    file.pwrite(b"y", 0)
    disk.sync_directory("/")
    assert names_after(disk) == {("a",)}
    assert outcomes(disk) == {b"x", b"y"}


def test_a_rename_leaves_the_old_or_the_new_and_never_neither(disk: SimulatedDisk) -> None:
    disk.replace("a", b"old")
    disk.replace("b", b"new")
    disk.rename("b", "a")
    assert names_after(disk) == {("a", "b"), ("a",)}
    assert outcomes(disk) == {b"old", b"new"}
    disk.sync_directory("")
    assert outcomes(disk) == {b"new"}


def test_renames_of_several_files_survive_in_any_subset(disk: SimulatedDisk) -> None:
    for name in ("a", "b"):
        disk.replace(name, b"")
        disk.rename(name, name + "2")
    assert names_after(disk) == {("a", "b"), ("a2", "b"), ("a", "b2"), ("a2", "b2")}


def test_no_file_gets_two_names_and_none_loses_its_only_one(disk: SimulatedDisk) -> None:
    disk.replace("a", b"")
    disk.rename("a", "b")
    disk.rename("b", "c")
    assert names_after(disk) == {("a",), ("b",), ("c",)}
    disk.unlink("c")
    disk.open("a", write=True, create=True)
    assert names_after(disk) == {("a",), ("b",), ("c",), ("a", "b"), ("a", "c"), ()}, (
        "the second a is a new file"
    )


def test_a_directory_and_what_is_in_it_need_a_sync_each(disk: SimulatedDisk) -> None:
    disk.make_directories("/d/e")
    disk.open("/d/e/a", write=True, create=True)
    disk.sync_directory("/d/e")
    lost = disk.fork()
    lost.power_cut()
    assert lost.image() == {"/": b""}
    disk.sync_directory("/")
    disk.sync_directory("/d")
    disk.power_cut()
    assert disk.image() == {"/": b"", "/d/": b"", "/d/e/": b"", "/d/e/a": b""}


def test_a_tree_goes_piece_by_piece(disk: SimulatedDisk) -> None:
    disk.make_directories("/d/e")
    disk.replace("/d/a", b"")
    disk.replace("/d/e/b", b"")
    disk = disk.copy()
    left: list[int] = []
    disk.before_change = lambda operation, path: left.append(len(disk.image()))
    disk.remove_tree("/d")
    assert left == [5, 4, 3, 2]
    assert disk.image() == {"/": b""}
    disk.power_cut()
    assert len(disk.image()) == 5


def test_after_a_failed_sync_pages_are_clean_and_lost_and_the_next_sync_says_yes(disk: SimulatedDisk) -> None:
    file = new_file(disk, b"..")
    file.pwrite(b"AA", 2)
    disk.fail("datasync", DiskError)
    with pytest.raises(DiskError):
        file.datasync()
    assert file.pread(10, 0) == b"..AA", "the page cache still shows it"
    file.pwrite(b"BB", 4)
    file.datasync()
    assert file.pread(10, 0) == b"..AABB"
    disk.kill()
    assert disk.content("a") == b"..AABB"
    disk.power_cut()
    assert disk.content("a") == b"..\0\0BB"


def test_what_was_lost_by_a_failed_sync_is_durable_once_it_is_written_again(disk: SimulatedDisk) -> None:
    file = new_file(disk, b"..")
    file.pwrite(b"AA", 2)
    disk.fail("datasync", DiskFull)
    with pytest.raises(DiskFull):
        file.datasync()
    file.pwrite(file.pread(2, 2), 2)
    file.datasync()
    disk.power_cut()
    assert disk.content("a") == b"..AA"


def test_a_failed_sync_may_have_brought_a_part_to_the_disk(disk: SimulatedDisk) -> None:
    file = new_file(disk)
    file.pwrite(b"A", 0)
    file.pwrite(b"B", 1)
    disk.failed_sync_keeps = Survival(frozenset(disk.unsynced().numbers[:1]))
    disk.fail("datasync", DiskError)
    with pytest.raises(DiskError):
        file.datasync()
    assert outcomes(disk) == {b"A", b"A\0"}, "the size may come yet"


def test_a_kill_loses_nothing_and_a_power_cut_after_it_does(disk: SimulatedDisk) -> None:
    file = new_file(disk, b"old")
    file.pwrite(b"new", 0)
    disk.kill()
    with pytest.raises(DiskError):
        file.pread(1, 0)
    assert read_file(disk, "a") == b"new"
    disk.power_cut()
    assert read_file(disk, "a") == b"old"


def test_locks_and_open_files_end_with_the_process(disk: SimulatedDisk) -> None:
    old = disk.lock("l")
    assert old is not None
    disk.kill()
    assert disk.open_count == 0
    new = disk.lock("l")
    assert new is not None
    old.release()
    assert disk.lock("l") is None, "the lock of a dead process is not there to be given back"


def test_faults_hit_the_call_that_was_named(disk: SimulatedDisk) -> None:
    file = new_file(disk, b"abc")
    disk.fail("pwrite", DiskFull, call=2)
    file.pwrite(b"x", 0)
    with pytest.raises(DiskFull):
        file.pwrite(b"y", 0)
    disk.fail("every", TooManyOpenFiles, call=3)
    assert file.pread(1, 0) == b"x"
    file.size()
    with pytest.raises(TooManyOpenFiles):
        disk.open("a")
    disk.fail("any", DiskError, call=2)
    file.truncate(3)
    file.pread(1, 0)
    with pytest.raises(DiskError):
        file.truncate(1)
    disk.write_shortly(2)
    assert (file.pwrite(b"123", 0), file.pwrite(b"456", 0)) == (2, 3)


def test_a_fault_may_stay_until_it_is_mended(disk: SimulatedDisk) -> None:
    file = new_file(disk, b"abc")
    disk.fail("any", DiskFull, call=2, forever=True)
    file.pwrite(b"x", 0)
    for _ in range(3):
        with pytest.raises(DiskFull):
            file.pwrite(b"y", 0)
    assert file.pread(1, 0) == b"x"
    disk.heal()
    file.pwrite(b"y", 0)


def test_a_full_disk_takes_what_fits(disk: SimulatedDisk) -> None:
    file = new_file(disk, b"12345")
    disk.capacity_bytes = 7
    assert file.pwrite(b"abcd", 5) == 2
    assert file.pwrite(b"A", 0) == 1, "what is there can be written over"
    with pytest.raises(DiskFull):
        file.pwrite(b"e", 7)


def test_a_flipped_bit_is_on_the_disk(disk: SimulatedDisk) -> None:
    new_file(disk, b"\x00\x00")
    disk.flip("a", 8)
    disk.power_cut()
    assert disk.content("a") == b"\x00\x80"


def test_every_change_is_told_before_it_happens(disk: SimulatedDisk) -> None:
    seen: list[tuple[str, int]] = []
    disk.before_change = lambda operation, path: seen.append((operation, len(disk.image())))
    replace_file(disk, "a", b"content")
    assert [operation for operation, _ in seen] == [
        "create",
        "truncate",
        "pwrite",
        "datasync",
        "rename",
        "sync_directory",
    ]
    assert seen[0] == ("create", 1)
    assert seen[1] == ("truncate", 2)


def test_a_fork_goes_its_own_way(disk: SimulatedDisk) -> None:
    file = new_file(disk, b"old")
    file.pwrite(b"new", 0)
    disk.rename("a", "b")
    fork = disk.fork()
    file.pwrite(b"xxx", 0)
    file.datasync()
    disk.sync_directory("/")
    assert fork.content("b") == b"new"
    fork.power_cut()
    assert fork.image() == {"/": b"", "/a": b"old"}
    disk.power_cut()
    assert disk.image() == {"/": b"", "/b": b"xxx"}


def test_choices_by_rule_hold_none_all_and_each_single_one(disk: SimulatedDisk) -> None:
    file = new_file(disk)
    for sector in range(4):
        file.pwrite(b"x", sector * SECTOR_BYTES)
    unsynced = disk.unsynced()
    choices = list(ruled(unsynced))
    assert choices[0] == NOTHING
    assert everything(unsynced) in choices
    for number in unsynced.numbers:
        assert Survival(frozenset((number,))) in choices
        assert Survival(frozenset(unsynced.numbers) - {number}) in choices
    assert len(set(choices)) == len(choices)


def test_choices_by_chance_are_those_of_their_seed_and_reach_every_subset(disk: SimulatedDisk) -> None:
    file = new_file(disk)
    for position in range(3):
        file.pwrite(b"x", position)
    unsynced = disk.unsynced()
    first, again = Random(1), Random(1)
    choices = [by_chance(unsynced, first) for _ in range(300)]
    assert choices == [by_chance(unsynced, again) for _ in range(300)]
    assert len({choice.kept for choice in choices}) == 8
