"""What the operating system does to files, and what becomes of it."""

import errno
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from tests.support.limits import no_more_descriptors
from tests.support.requirements import need

from penstock.runtime.files import DiskError, DiskFull, FileSystem, TooManyOpenFiles
from penstock.runtime.posix_files import (
    RESIDENCE_PROBE_COUNT_MAX,
    RESIDENCE_PROBE_DISTANCE_BYTES,
    PosixFileSystem,
    storage_error,
)

FILES: FileSystem = PosixFileSystem()


def test_a_full_disk_is_told_from_a_broken_one() -> None:
    file = FILES.open("/dev/full", write=True)
    with pytest.raises(DiskFull, match=r"^/dev/full: No space left"):
        file.pwrite(b"x", 0)
    file.close()
    file = FILES.open("/proc/self/mem")
    with pytest.raises(DiskError, match=r"^/proc/self/mem: Input/output error"):
        file.pread(1, 0)
    with pytest.raises(DiskError):
        file.pread_into(bytearray(1), 0)
    file.close()


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        (errno.ENOSPC, DiskFull),
        (errno.EDQUOT, DiskFull),
        (errno.EMFILE, TooManyOpenFiles),
        (errno.ENFILE, TooManyOpenFiles),
        (errno.EIO, DiskError),
        (errno.EROFS, DiskError),
    ],
)
def test_every_error_has_one_name(code: int, kind: type) -> None:
    error = storage_error(OSError(code, os.strerror(code)), "/a")
    assert type(error) is kind
    assert error.path == "/a"


def test_want_of_descriptors_is_told_from_a_broken_disk(tmp_path: Path) -> None:
    with no_more_descriptors():
        with pytest.raises(TooManyOpenFiles):
            FILES.open(str(tmp_path / "a"), write=True, create=True)
        with pytest.raises(TooManyOpenFiles):
            FILES.lock(str(tmp_path / "lock"))


def test_a_directory_is_no_file_to_write(tmp_path: Path) -> None:
    with pytest.raises(DiskError):
        FILES.open(str(tmp_path), write=True)
    with pytest.raises(DiskError):
        FILES.unlink(str(tmp_path))


def test_files_are_not_handed_to_children(tmp_path: Path) -> None:
    file = FILES.open(str(tmp_path / "a"), write=True, create=True)
    assert not os.get_inheritable(file.fileno())
    file.close()


def test_closing_gives_the_descriptor_back_once(tmp_path: Path) -> None:
    file = FILES.open(str(tmp_path / "a"), write=True, create=True)
    descriptor = file.fileno()
    file.close()
    other = FILES.open(str(tmp_path / "a"), write=True)
    assert other.fileno() == descriptor, "the kernel gives out the lowest free number"
    file.close()
    assert other.size() == 0, "closed twice, and the second time it was somebody else's"
    other.close()


def test_removing_a_tree_does_not_follow_links_out_of_it(tmp_path: Path) -> None:
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious" / "a").write_bytes(b"x")
    (tmp_path / "tree").mkdir()
    (tmp_path / "tree" / "link").symlink_to(tmp_path / "precious")
    FILES.remove_tree(str(tmp_path / "tree"))
    assert not (tmp_path / "tree").exists()
    (tmp_path / "top").symlink_to(tmp_path / "precious")
    with pytest.raises(DiskError):
        FILES.remove_tree(str(tmp_path / "top"))
    assert (tmp_path / "precious" / "a").read_bytes() == b"x"


HOLD_A_LOCK = """
import sys
from penstock.runtime.posix_files import PosixFileSystem
lock = PosixFileSystem().lock(sys.argv[1])
print("held" if lock else "refused", flush=True)
sys.stdin.read()
"""


def test_a_lock_is_held_against_other_processes_and_ends_with_a_killed_one(tmp_path: Path) -> None:
    path = str(tmp_path / ".lock")
    command = [sys.executable, "-c", HOLD_A_LOCK, path]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        assert FILES.lock(path) is None
        holder.send_signal(signal.SIGKILL)
    lock = FILES.lock(path)
    assert lock is not None
    lock.release()
    lock.release()


COLD_SIZE_BYTES = 16 * RESIDENCE_PROBE_DISTANCE_BYTES


@pytest.fixture
def cold(tmp_path: Path) -> str:
    """A file that is on the disk and not in memory; skipped where the file system can't be asked."""
    path = tmp_path / "cold"
    path.write_bytes(b"x" * COLD_SIZE_BYTES)
    with path.open("rb") as file:
        try:
            os.preadv(file.fileno(), [bytearray(1)], 0, os.RWF_NOWAIT)
        except OSError:
            need(False, "a file system that tells what is in the page cache")
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    return str(path)


def test_what_was_just_written_is_resident(tmp_path: Path, cold: str) -> None:
    file = FILES.open(str(tmp_path / "new"), write=True, create=True)
    file.pwrite(b"x" * COLD_SIZE_BYTES, 0)
    assert file.is_resident(0, COLD_SIZE_BYTES)
    assert file.is_resident(COLD_SIZE_BYTES - 1, 1)
    file.close()


def test_a_cold_range_is_found_out_wherever_the_hole_is(cold: str) -> None:
    file = FILES.open(cold)
    os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_RANDOM)  # no readahead, which would fill the holes
    assert not file.is_resident(0, COLD_SIZE_BYTES)
    file.pread(1, 0)
    assert not file.is_resident(0, COLD_SIZE_BYTES), "the end is cold"
    file.pread(1, COLD_SIZE_BYTES - 1)
    assert not file.is_resident(0, COLD_SIZE_BYTES), "the middle is cold"
    file.pread(COLD_SIZE_BYTES, 0)
    assert file.is_resident(0, COLD_SIZE_BYTES)
    file.close()


def test_a_range_past_the_end_needs_no_disk(cold: str) -> None:
    file = FILES.open(cold)
    assert file.is_resident(COLD_SIZE_BYTES, 100)
    file.close()


def test_what_cannot_be_asked_is_not_called_resident() -> None:
    file = FILES.open("/proc/self/status")
    assert not file.is_resident(0, 10)
    file.close()


def read_calls() -> int:
    """How many reads this process has asked the kernel for."""
    for line in Path("/proc/self/io").read_text().splitlines():
        name, _, count = line.partition(": ")
        if name == "syscr":
            return int(count)
    raise AssertionError("/proc/self/io has no syscr")


def test_a_huge_range_is_probed_in_bounded_steps(tmp_path: Path) -> None:
    need(Path("/proc/self/io").exists(), "/proc/self/io")
    file = FILES.open(str(tmp_path / "empty"), write=True, create=True)
    before = read_calls()
    overhead = read_calls() - before
    before = read_calls()
    assert file.is_resident(0, 1 << 30), "nothing there to wait for"
    probe_count = read_calls() - before - overhead
    file.close()
    assert 3 < probe_count <= RESIDENCE_PROBE_COUNT_MAX


def test_space_is_what_the_system_says(tmp_path: Path) -> None:
    status = os.statvfs(tmp_path)
    assert FILES.total_bytes(str(tmp_path)) == status.f_blocks * status.f_frsize
    assert FILES.free_bytes(str(tmp_path)) <= status.f_bfree * status.f_frsize
