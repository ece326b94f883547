"""The swap of compaction, crashed at every call: the old segments or the new one, never neither, never both (PROPERTIES K2)."""

import os
from collections.abc import Iterator
from random import Random

import pytest
from tests.support.compaction import Kept, begin, compact, kept_records, keyed
from tests.support.disk_state import NOTHING
from tests.support.logs import DIRECTORY, append, new_log, reopen
from tests.support.simulated_disk import SimulatedDisk
from tests.support.survivors import by_chance, ruled

from penstock.runtime.files import DiskError, DiskFull, StorageError
from penstock.storage.errors import CorruptBatch, LogFailed
from penstock.storage.log import Log
from penstock.storage.log_config import LogConfig
from penstock.storage.verify import verify_partition

CONFIG = LogConfig(compact=True, delete=False, segment_bytes=220, index_interval_bytes=60)
LEFTOVERS = (".cleaned", ".swap", ".deleted", ".tmp")
END = 15
RULED_MAX = 7
SECOND_EVERY = int(os.environ.get("COMPACTION_SECOND_EVERY", "8"))
"""Of how many crashes within a swap one is opened with a crash at every call of that, too."""


def key_of(number: int) -> bytes:
    """Two keys that are written again and again, and now and then one that stays."""
    return b"only-%d" % number if number % 6 == 5 else b"%d" % (number % 2)


def made(disk: SimulatedDisk) -> Log:
    """A log of several segments, most of whose records will go; all of it durable."""
    log = new_log(disk, CONFIG)
    for number in range(END):
        append(log, keyed([(key_of(number), b"%d" % number)], producer_id=5, sequence=number))
        if number % 3 == 2:
            log.roll()
    log.sync()
    compact(log)  # so that the next one joins what this one emptied
    return log


def prepared(disk: SimulatedDisk) -> Log:
    """Dirty again: two swaps will follow, the first one of several segments."""
    log = made(disk)
    for number in range(END, END + 6):
        append(log, keyed([(key_of(number), b"%d" % number)], producer_id=5, sequence=number))
    log.roll()
    return log


def judge(disk: SimulatedDisk, allowed: list[list[Kept]], recovery_point: int) -> None:

    log = reopen(disk, CONFIG, recovery_point=recovery_point)
    assert kept_records(log) in allowed
    assert log.log_end_offset == END + 6
    names = disk.list_directory(DIRECTORY)
    assert not [name for name in names if name.endswith(LEFTOVERS)], names
    verdict = verify_partition(disk, DIRECTORY)
    assert verdict.is_good, verdict.faults
    again = append(log, keyed([(b"1", b"x")], producer_id=5, sequence=END + 5), epoch=1)
    assert again.is_duplicate


def crashed(disk: SimulatedDisk, random: Random) -> Iterator[SimulatedDisk]:
    killed = disk.fork()
    killed.kill()
    yield killed
    unsynced = disk.unsynced()
    few = len(unsynced.changes) <= RULED_MAX
    for survival in ruled(unsynced) if few else [NOTHING, *(by_chance(unsynced, random) for _ in range(6))]:
        cut = disk.fork()
        cut.power_cut(survival)
        yield cut


@pytest.fixture(scope="module")
def allowed() -> list[list[Kept]]:
    disk = SimulatedDisk()
    log = prepared(disk)
    seen = [kept_records(log)]
    compaction = begin(log, looks=1)
    while compaction.step() is not None:
        if kept_records(log) != seen[-1]:
            seen.append(kept_records(log))
    if kept_records(log) != seen[-1]:
        seen.append(kept_records(log))
    assert len(seen) > 2, "there are several swaps"
    return seen


def test_a_crash_at_every_call_leaves_the_old_segments_or_the_new_one(allowed: list[list[Kept]]) -> None:
    disk = SimulatedDisk()
    log = prepared(disk)
    random = Random(1)
    points: list[SimulatedDisk] = []
    disk.before_change = lambda operation, path: points.append(disk.fork())
    compact(log)
    disk.before_change = None
    points.append(disk.fork())
    recovered: set[tuple[tuple[str, bytes], ...]] = set()
    swap_count = 0
    for point in points:
        for number, crash in enumerate(crashed(point, random)):
            image = tuple(sorted(crash.image().items()))
            if image in recovered:
                continue
            recovered.add(image)
            second = crash.fork()
            judge(crash, allowed, recovery_point=(0, END + 6)[number % 2])
            if any(name.endswith(".log.swap") for name in second.list_directory(DIRECTORY)):
                swap_count += 1
                if swap_count % SECOND_EVERY == 0:
                    judge_crashed_recovery(second, allowed, random)
    assert len(points) > 50
    assert len(recovered) > 50
    assert swap_count > 20


def judge_crashed_recovery(disk: SimulatedDisk, allowed: list[list[Kept]], random: Random) -> None:
    """Crash the opening that finishes a swap, at every call of it."""
    points: list[SimulatedDisk] = []
    disk.before_change = lambda operation, path: points.append(disk.fork())
    reopen(disk, CONFIG, recovery_point=END + 6)
    for point in points:
        for cut in crashed(point, random):
            judge(cut, allowed, recovery_point=END)


@pytest.mark.parametrize("error", [DiskError, DiskFull])
def test_an_error_at_any_call_leaves_a_log_that_goes_on_or_one_that_opening_mends(
    allowed: list[list[Kept]], error: type[StorageError]
) -> None:
    call = failed = offline = 0
    is_over = False
    while not is_over:
        call += 1
        disk = SimulatedDisk()
        log = prepared(disk)
        before = disk.calls["any"]
        disk.fail("any", error, call=call)
        try:
            compact(log)
            is_over = disk.calls["any"] - before < call
        except LogFailed:
            failed += 1
            offline += 1
        except StorageError:
            failed += 1
        disk.heal()
        if log.failure is None:
            assert kept_records(log) in allowed
            append(log, keyed([(b"1", b"x")], producer_id=5, sequence=END + 5))
        disk.kill()
        judge(disk, allowed, recovery_point=END)
    assert failed > 30
    assert offline < failed / 2


def test_a_damaged_segment_is_not_put_in_the_place_of_others() -> None:
    disk = SimulatedDisk()
    log = prepared(disk)
    points: list[SimulatedDisk] = []
    disk.before_change = lambda operation, path: points.append(disk.fork())
    compact(log)
    name = next(name for p in points for name in p.list_directory(DIRECTORY) if name.endswith(".log.swap"))
    for point in points:
        if name not in point.list_directory(DIRECTORY):
            continue
        point.kill()
        point.change(f"{DIRECTORY}/{name}", len(point.content(f"{DIRECTORY}/{name}")) - 2, b"?")
        names = point.list_directory(DIRECTORY)
        with pytest.raises(CorruptBatch, match="damaged"):
            reopen(point, CONFIG)
        assert point.list_directory(DIRECTORY) == names
        return
    raise AssertionError("no swap was seen")
