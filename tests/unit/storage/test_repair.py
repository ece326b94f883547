"""A repair loses what its plan says and nothing else, keeps what it takes out, and may be killed anywhere."""

import json
import os
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pytest
from crc32c import crc32c
from tests.support.logs import DIRECTORY, NOW_MS, PARENT, TOPIC_ID, append, batch, fill, read_values
from tests.support.memory_files import MemoryFiles
from tests.support.survivors import ruled

from penstock.runtime.files import DiskError, DiskFull, StorageError
from penstock.storage.checkpoint import read_offset_checkpoint, write_gaps_below, write_offset_checkpoint
from penstock.storage.data_directory import DataDirectory
from penstock.storage.errors import CorruptBatch, CorruptFile
from penstock.storage.layout import LOG_SUFFIX, segment_file_name
from penstock.storage.log import Log
from penstock.storage.log_config import LogConfig
from penstock.storage.placeholder import restored
from penstock.storage.repair import Repair
from penstock.storage.repair_plan import RepairPlan, Way, plan_repair
from penstock.storage.verify_folder import look_into, verify_in_folder

KEY = ("orders", 0)
SMALL = LogConfig(segment_bytes=300, index_interval_bytes=100)
COUNT = 16
ALL_SURVIVALS = os.environ.get("REPAIR_SURVIVALS", "") == "all"
"""Every choice of what a power cut leaves (`make long`), or a share of them."""


def open_log(files: MemoryFiles) -> Log:
    """As a broker does: the folder, then the log."""
    files.kill()
    return DataDirectory.open(files, PARENT, 1).open_log(*KEY, TOPIC_ID, SMALL, NOW_MS)


@pytest.fixture
def files() -> MemoryFiles:
    """Four segments of four batches of one record each, three leader epochs, all of it below the recovery point."""
    files = MemoryFiles()
    directory = DataDirectory.open(files, PARENT, 1)
    log = directory.open_log(*KEY, TOPIC_ID, SMALL, NOW_MS)
    for epoch, count in ((3, 6), (4, 5), (9, 5)):
        fill(log, count, epoch=epoch)
    assert [segment.base_offset for segment in log.segments] == [0, 4, 8, 12]
    log.close()
    for write in (directory.write_recovery_points, directory.write_high_watermarks):
        write({KEY: COUNT})
    directory.write_log_starts({KEY: 0})
    directory.mark_clean()
    directory.close()
    return files


def path_of(base_offset: int) -> str:
    return f"{DIRECTORY}/{segment_file_name(base_offset, LOG_SUFFIX)}"


def plan(files: MemoryFiles) -> RepairPlan:
    return plan_repair(files, look_into(files, PARENT), KEY)


def repair(files: MemoryFiles, way: Way, made: RepairPlan | None = None) -> str:
    each = Repair(files, made or plan(files), way, now_ms=NOW_MS, time_name="now")
    each.carry_out(version="test")
    return each.kept_directory


def values(log: Log) -> dict[int, bytes | None]:
    return dict(read_values(log))


def wanted(lost: set[int] | range, end: int = COUNT) -> dict[int, bytes | None]:
    return {offset: b"v%d" % offset for offset in range(end) if offset not in lost}


def flip(files: MemoryFiles, base_offset: int, batch_number: int, at: int) -> None:
    """Change one byte of a batch."""
    # 70 bytes each, one more from offset 10 on
    offsets = range(base_offset, base_offset + batch_number)
    position = sum(70 if offset < 10 else 71 for offset in offsets) + at
    old = files.content(path_of(base_offset))[position]
    files.change(path_of(base_offset), position, bytes([old ^ 0x10]))


@dataclass(frozen=True)
class Case:
    """A damage, and what it costs."""

    name: str
    damage: Callable[[MemoryFiles], None]
    skip_loses: range
    cut_end: int
    is_refused: bool = False
    """Whether an unclean start refuses it: what lies below the recovery point is found when it is read."""


def cut_short(files: MemoryFiles, base_offset: int, size_bytes: int) -> None:
    files.replace(path_of(base_offset), files.content(path_of(base_offset))[:size_bytes])


CASES = [
    Case("a value", lambda f: flip(f, 4, 1, 65), range(5, 6), 5),
    Case("the first batch of all", lambda f: flip(f, 0, 0, 30), range(1), 0),
    Case("the last batch of a segment", lambda f: flip(f, 4, 3, 30), range(7, 8), 7),
    Case("a whole segment", lambda f: f.change(path_of(4), 0, bytes(280)), range(4, 8), 4),
    Case("two epochs", lambda f: f.change(path_of(4), 70, bytes(140)), range(5, 7), 5),
    Case("a missing segment", lambda f: f.unlink(path_of(4)), range(4, 8), 4),
    Case("an empty closed segment", lambda f: cut_short(f, 4, 0), range(4, 8), 4),
    Case("the last segment missing", lambda f: f.unlink(path_of(12)), range(12, 16), 12, is_refused=True),
    Case("a torn end below the recovery point", lambda f: cut_short(f, 12, 100), range(13, 16), 13, is_refused=True),
    Case("an end that lacks whole batches", lambda f: cut_short(f, 12, 142), range(14, 16), 14, is_refused=True),
    Case("an empty last segment", lambda f: cut_short(f, 12, 0), range(12, 16), 12, is_refused=True),
]  # fmt: skip

ids = pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)


@ids
def test_skip_loses_what_is_damaged_and_no_offset_moves(files: MemoryFiles, case: Case) -> None:
    case.damage(files)
    made = plan(files)
    loss = made.loss(Way.SKIP)
    assert (loss.offset_count, loss.good_batch_count) == (len(case.skip_loses), 0)
    assert (loss.log_start_offset, loss.log_end_offset) == (max(0, made.log_start_offset), COUNT)
    repair(files, Way.SKIP, made)
    assert verify_in_folder(files, look_into(files, PARENT), KEY).is_good
    log = open_log(files)
    assert (log.log_start_offset, log.log_end_offset) == (0, COUNT)
    assert values(log) == wanted(case.skip_loses)
    fill(log, 1, epoch=10)
    assert values(log)[COUNT] == b"v16"


@ids
def test_cut_ends_the_log_where_the_damage_begins(files: MemoryFiles, case: Case) -> None:
    case.damage(files)
    made = plan(files)
    loss = made.loss(Way.CUT)
    start = made.log_start_offset
    end = max(start, case.cut_end)
    assert (loss.offset_count, loss.log_end_offset) == (COUNT - end, end)
    repair(files, Way.CUT, made)
    log = open_log(files)
    assert log.log_end_offset == case.cut_end
    assert values(log) == wanted(set(), case.cut_end)
    for name in ("recovery-point", "replication"):
        assert read_offset_checkpoint(files, f"{PARENT}/{name}-offset-checkpoint")[KEY] <= case.cut_end
    fill(log, 1, epoch=10)
    log.close()
    assert plan(files).is_needed is False


@ids
def test_quarantine_goes_on_empty_at_the_end(files: MemoryFiles, case: Case) -> None:
    case.damage(files)
    before = {name: files.content(f"{DIRECTORY}/{name}") for name in files.list_directory(DIRECTORY)}
    kept = repair(files, Way.QUARANTINE)
    for name, content in before.items():
        if name.endswith(LOG_SUFFIX):
            assert files.content(f"{kept}/{name}") == content
    log = open_log(files)
    assert (log.log_start_offset, log.log_end_offset, log.topic_id) == (COUNT, COUNT, TOPIC_ID)
    fill(log, 1, epoch=10)
    assert values(log) == {COUNT: b"v16"}


@ids
def test_a_broker_refuses_before_and_says_what_repair_finds(files: MemoryFiles, case: Case) -> None:
    case.damage(files)
    if case.is_refused:
        files.unlink(f"{PARENT}/.kafka_cleanshutdown")
        with pytest.raises(CorruptBatch) as refused:
            open_log(files)
        damage = plan(files).damages[-1]
        assert (damage.path, damage.position) == (refused.value.path, refused.value.position)
    assert plan(files).is_needed


@pytest.mark.parametrize("at", range(17))
def test_a_header_that_alone_was_hurt_is_restored_and_nothing_is_lost(files: MemoryFiles, at: int) -> None:
    flip(files, 4, 1, at)
    made = plan(files)
    assert made.damages == made.restored
    assert made.loss(Way.SKIP).offset_count == 0
    kept = repair(files, Way.SKIP, made)
    assert json.loads(files.content(f"{kept}/report.json"))["damages"][0]["is_restored"] is True
    assert values(open_log(files)) == wanted(set())


def test_a_batch_that_does_not_lead_to_the_next_is_not_restored(files: MemoryFiles) -> None:
    raw = files.content(path_of(4))[70:140]
    assert restored(raw, 5, 6, 3) == raw
    assert restored(raw, 5, 7, 3) is None
    assert restored(raw[:-1], 5, 6, 3) is None


@pytest.mark.parametrize("at", [*range(17, 70)])
def test_what_the_checksum_covers_is_never_restored(files: MemoryFiles, at: int) -> None:
    flip(files, 4, 1, at)
    made = plan(files)
    assert made.restored == []
    assert made.loss(Way.SKIP).offset_count == 1


@pytest.mark.parametrize("name", ["leader-epoch-checkpoint", "partition.metadata"])
@pytest.mark.parametrize("way", [Way.CUT, Way.SKIP])
def test_a_small_file_is_moved_aside_and_made_again(files: MemoryFiles, name: str, way: Way) -> None:
    right = files.content(f"{DIRECTORY}/{name}")
    files.replace(f"{DIRECTORY}/{name}", b"rubbish")
    with pytest.raises(CorruptFile):
        open_log(files)
    files.kill()
    made = plan(files)
    assert made.loss(way).offset_count == 0
    kept = repair(files, way, made)
    assert files.content(f"{kept}/{name}") == b"rubbish"
    assert values(open_log(files)) == wanted(set())
    assert files.content(f"{DIRECTORY}/{name}") == right


def test_all_that_is_taken_out_is_kept_and_told(files: MemoryFiles) -> None:
    flip(files, 4, 1, 65)
    flip(files, 8, 2, 65)
    before = {base: files.content(path_of(base)) for base in (0, 4, 8, 12)}
    other = files.copy()
    kept = repair(files, Way.SKIP)
    report = json.loads(files.content(f"{kept}/report.json"))
    assert (report["state"], report["way"], report["penstock"], report["topic"]) == (
        "done",
        "skip",
        "test",
        "orders",
    )
    pieces = [each for each in report["kept"] if ".log." in each["name"]]
    assert [(each["source"], each["position"], each["size_bytes"]) for each in pieces] == [
        (path_of(4), 70, 70), (path_of(8), 140, 71)
    ]  # fmt: skip
    for each in report["kept"]:
        content = files.content(f"{kept}/{each['name']}")
        assert (len(content), f"{crc32c(content):08x}") == (each["size_bytes"], each["crc32c"])
    kept = repair(other, Way.CUT)
    names = set(other.list_directory(kept))
    assert {
        f"{4:020d}.log.70-280",
        f"{8:020d}.log",
        f"{12:020d}.log",
        f"{4:020d}.index",
        "report.json",
    } <= names
    assert other.content(f"{kept}/{4:020d}.log.70-280") == before[4][70:]


def test_a_torn_tail_is_left_to_the_broker(files: MemoryFiles) -> None:
    directory = DataDirectory.open(files, PARENT, 1)
    log = directory.open_log(*KEY, TOPIC_ID, SMALL, NOW_MS)
    fill(log, 1, epoch=10)
    log.close()
    path = log.segments[-1].path
    files.replace(path, files.content(path)[:-1])
    assert not plan(files).is_needed
    flip(files, 4, 1, 65)
    repair(files, Way.SKIP)
    assert values(open_log(files)) == wanted({5})


def test_a_sector_that_was_never_written_is_no_damage_above_the_recovery_point(files: MemoryFiles) -> None:
    """The broker cuts there by itself (`damage`); below the recovery point it would not, and neither is it overlooked."""
    directory = DataDirectory.open(files, PARENT, 1)
    log = directory.open_log(*KEY, TOPIC_ID, LogConfig(), NOW_MS)
    fill(log, 40, epoch=10)
    log.close()
    files.change(log.segments[-1].path, 512, bytes(512))
    assert not plan(files).is_needed
    assert verify_in_folder(files, look_into(files, PARENT), KEY).torn_tail_bytes > 1024
    end = open_log(files).log_end_offset
    assert COUNT < end < COUNT + 40
    files.kill()
    files.change(log.segments[-1].path, 71 * 4 + 100, b"\xff")
    write_offset_checkpoint(files, f"{PARENT}/recovery-point-offset-checkpoint", {KEY: end})
    assert plan(files).is_needed


def test_a_compaction_that_was_cut_short_is_finished_by_the_broker_first(files: MemoryFiles) -> None:
    files.rename(path_of(4), path_of(4) + ".swap")
    folder = look_into(files, PARENT)
    verdict = verify_in_folder(files, folder, KEY)
    assert (verdict.is_good, verdict.is_whole) == (True, False)
    flip(files, 8, 1, 65)
    made = plan(files)
    assert "start the broker once" in made.why_not(Way.SKIP)
    assert "start the broker once" in made.why_not(Way.CUT)
    kept = repair(files, Way.QUARANTINE, made)
    assert f"{4:020d}.log.swap" in files.list_directory(kept)
    log = open_log(files)
    assert (log.log_start_offset, log.log_end_offset) == (COUNT, COUNT)


def test_of_segments_that_overlap_the_later_one_counts(files: MemoryFiles) -> None:
    files.replace(f"{DIRECTORY}/{6:020d}.log", files.content(path_of(4))[140:])
    made = plan(files)
    assert made.loss(Way.SKIP).offset_count == 0
    repair(files, Way.SKIP, made)
    assert values(open_log(files)) == wanted(set())


def test_in_a_compacted_log_gaps_stay_and_no_header_is_guessed(files: MemoryFiles) -> None:
    write_offset_checkpoint(files, f"{PARENT}/cleaner-offset-checkpoint", {KEY: 8})
    write_gaps_below(files, DIRECTORY, 20)
    files.unlink(path_of(4))
    assert not plan(files).is_needed
    struct.pack_into(">q", raw := bytearray(files.content(path_of(8))), 70, 2**40)
    files.replace(path_of(8), bytes(raw))
    made = plan(files)
    assert ([d.position for d in made.damages], made.restored) == ([70], [])
    repair(files, Way.CUT, made)
    assert read_offset_checkpoint(files, f"{PARENT}/cleaner-offset-checkpoint")[KEY] == 8


def test_a_second_repair_finds_nothing_and_a_folder_of_its_own(files: MemoryFiles) -> None:
    flip(files, 4, 1, 65)
    first = repair(files, Way.SKIP)
    assert not plan(files).is_needed
    flip(files, 4, 2, 65)
    assert repair(files, Way.SKIP) != first


def test_the_state_of_producers_is_that_of_what_is_left(files: MemoryFiles) -> None:
    log = open_log(files)
    for number in range(4):
        append(log, batch(1, producer_id=7, sequence=number), epoch=10, now_ms=NOW_MS)
    log.close()
    flip(files, 4, 1, 65)
    repair(files, Way.CUT)
    files.kill()
    log = open_log(files)
    append(log, batch(1, producer_id=7, sequence=0), epoch=11, now_ms=NOW_MS)
    assert log.log_end_offset == 6


def test_a_producer_goes_on_behind_a_batch_of_its_own_that_was_skipped(files: MemoryFiles) -> None:
    log = open_log(files)
    for number in range(6):
        append(log, batch(1, producer_id=7, sequence=number), epoch=10, now_ms=NOW_MS)
    log.close()
    lost = next(each for each in log.segments if each.base_offset > COUNT)
    files.change(lost.path, 65, b"\xff")
    files.unlink(f"{DIRECTORY}/{log.log_end_offset:020d}.snapshot")
    repair(files, Way.SKIP)
    log = open_log(files)
    append(log, batch(1, producer_id=7, sequence=6), epoch=11, now_ms=NOW_MS)
    assert log.log_end_offset == COUNT + 7


# Crashes


def never_told_lies(files: MemoryFiles, way: Way, lost: set[int]) -> None:
    """What is readable is what was written, and what is gone is either gone by the plan or not gone at all."""
    try:
        log = open_log(files)
        log.delete_old_segments()  # as retention does, of what lies below the log start
        found = values(log)
    except StorageError:
        return  # still refused
    assert all(value == b"v%d" % offset for offset, value in found.items())
    whole = wanted(lost)
    if way is Way.SKIP:
        assert found == whole
    elif way is Way.CUT:
        assert list(found) == list(range(len(found)))
        assert log.log_end_offset >= 5
    else:
        assert found == {offset: value for offset, value in whole.items() if offset >= log.log_start_offset}
        assert log.log_end_offset == COUNT


def hurt_two_segments(files: MemoryFiles) -> None:
    flip(files, 4, 1, 65)
    flip(files, 8, 2, 65)


def make_a_hole_and_tear_the_end(files: MemoryFiles) -> None:
    files.unlink(path_of(4))
    cut_short(files, 12, 100)


DAMAGES: dict[str, tuple[Callable[[MemoryFiles], None], set[int]]] = {
    "two segments": (hurt_two_segments, {5, 10}),
    "a hole and the end": (make_a_hole_and_tear_the_end, {4, 5, 6, 7, 13, 14, 15}),
}


def crashed(files: MemoryFiles, way: Way) -> Iterator[MemoryFiles]:
    """The disk after a crash of the repair at each call that changes something: the process killed, or the power cut with what may be left then."""
    for call in range(1, 500):
        disk = files.copy()
        disk.fail("any", DiskError, call=call)
        try:
            repair(disk, way)
        except StorageError:
            pass
        else:
            return
        killed = disk.fork()
        killed.kill()
        yield killed
        survivals = list(ruled(disk.unsynced()))
        if not ALL_SURVIVALS:  # none, all, and one of the others in turn
            survivals = [*survivals[:2], *survivals[2 + call % 7 :: len(survivals)]]
        for survival in survivals:
            cut = disk.fork()
            cut.power_cut(survival)
            yield cut


@pytest.mark.parametrize("name", DAMAGES)
@pytest.mark.parametrize("way", Way)
def test_a_crash_at_any_call_loses_nothing_and_the_same_command_ends_the_work(
    files: MemoryFiles, way: Way, name: str
) -> None:
    damage, lost = DAMAGES[name]
    damage(files)
    if way is Way.CUT and name == "a hole and the end":
        lost = set(range(4, 16))
    original = {path_of(base): files.content(path_of(base)) for base in plan(files).bases}
    points = 0
    for disk in crashed(files, way):
        points += 1
        assert_nothing_is_lost(disk, original)
        served = disk.fork()
        if name != "a hole and the end":
            never_told_lies(served, way, lost)
        assert_nothing_is_lost(served, original)
        if plan(disk).is_needed or way is Way.QUARANTINE:
            repair(disk, way)
        else:
            open_log(disk)
        disk.power_cut()
        assert_nothing_is_lost(disk, original)
        log = open_log(disk)
        if way is Way.QUARANTINE:
            assert (log.log_start_offset, log.log_end_offset) == (COUNT, COUNT)
        elif way is Way.SKIP:
            assert values(log) == wanted(lost)
        else:
            assert log.log_end_offset == min(lost)
            assert values(log) == wanted(set(), min(lost))
    assert points >= 45
    print(f"{points} crashes tried")


def assert_nothing_is_lost(disk: MemoryFiles, original: dict[str, bytes]) -> None:
    """Every batch that was there is in the log or in what was kept."""
    everything = b""
    folders = [DIRECTORY]
    if disk.exists(f"{PARENT}/repaired"):
        folders += [f"{PARENT}/repaired/{name}" for name in disk.list_directory(f"{PARENT}/repaired")]
    for folder in folders:
        names = [name for name in disk.list_directory(folder) if ".log" in name and not name.endswith(".tmp")]
        everything += b"".join(disk.content(f"{folder}/{name}") for name in names)
    for content in original.values():
        for start in range(0, len(content) - 60, 70):
            assert content[start + 20 : start + 60] in everything


def test_a_full_disk_ends_a_repair_before_anything_is_touched(files: MemoryFiles) -> None:
    flip(files, 4, 1, 65)
    before = files.content(path_of(4))
    files.capacity_bytes = files.used_bytes() + 10
    for way in Way:
        with pytest.raises(DiskFull):
            repair(files, way)
        assert files.content(path_of(4)) == before
        assert not verify_in_folder(files, look_into(files, PARENT), KEY).is_good
