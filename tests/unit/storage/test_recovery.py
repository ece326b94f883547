"""Opening after a crash: what was durable is there, a torn tail goes, and damage is never cut (PROPERTIES D9, D10, D12)."""

import contextlib
import itertools

import pytest
from tests.support.logs import (
    DIRECTORY,
    TOPIC_ID,
    append,
    batch,
    fill,
    new_log,
    read_batches,
    read_values,
    reopen,
    stored,
)
from tests.support.memory_files import MemoryFiles

from penstock.runtime.files import DiskError, StorageError
from penstock.storage.damage import SECTOR_SIZE_BYTES
from penstock.storage.errors import CorruptBatch, CorruptFile, TopicIdMismatch
from penstock.storage.log import Log, open_log
from penstock.storage.log_config import LogConfig

FIRST = f"{DIRECTORY}/00000000000000000000.log"
SMALL = LogConfig(segment_bytes=300, index_interval_bytes=70)


@pytest.fixture
def files() -> MemoryFiles:
    return MemoryFiles()


def killed(files: MemoryFiles, log: Log) -> bytes:
    """Kill the process; returns the content of the last segment."""
    files.kill()
    return files.content(log.segments[-1].path)


def disk(files: MemoryFiles) -> dict[str, bytes]:
    """All files of the partition."""
    return {name: files.content(f"{DIRECTORY}/{name}") for name in files.list_directory(DIRECTORY)}


def test_a_tail_torn_at_any_byte_is_cut_at_the_last_whole_batch(files: MemoryFiles) -> None:
    log = new_log(files)
    fill(log, 3)
    content = killed(files, log)
    size = len(content) // 3
    for length in range(len(content) + 1):
        copy = files.copy()
        copy.replace(FIRST, content[:length])
        log = reopen(copy)
        whole = length // size
        assert log.log_end_offset == log.durable_end_offset == whole
        assert log.report.cut_bytes == length - whole * size
        assert bool(log.report) == (length % size > 0)
        fill(log, 1)
        assert read_values(log) == [(i, b"v%d" % i) for i in range(whole + 1)]
        copy.power_cut()
        assert reopen(copy).log_end_offset == whole, "what recovery kept is durable"


@pytest.mark.parametrize("filler", [b"\0", b"\xff", b"\2"])
def test_a_tail_of_rubbish_is_cut(files: MemoryFiles, filler: bytes) -> None:
    log = new_log(files)
    fill(log, 3)
    content = killed(files, log)
    for keep in (0, 1, 12, 30, 61):
        copy = files.copy()
        size = len(content) // 3
        copy.replace(FIRST, content[: 2 * size + keep] + filler * 500)
        assert read_values(reopen(copy)) == [(0, b"v0"), (1, b"v1")]


def test_a_flipped_bit_is_cut_in_the_last_batch_and_refused_everywhere_else(files: MemoryFiles) -> None:
    log = new_log(files)
    fill(log, 2, epoch=3)
    fill(log, 1, epoch=4)
    content = killed(files, log)
    last = 2 * len(content) // 3
    for position, bit in itertools.product(range(len(content)), range(8)):
        copy = files.copy()
        copy.change(FIRST, position, bytes([content[position] ^ (1 << bit)]))
        if position < last:
            with pytest.raises(CorruptBatch) as caught:
                reopen(copy)
            assert caught.value.position <= position < caught.value.position + len(content) // 3
        else:
            log = reopen(copy)
            assert read_values(log) == [(0, b"v0"), (1, b"v1")]
            assert log.report.cut_bytes == len(content) - last


def test_a_flipped_bit_below_the_recovery_point_is_refused_in_the_last_batch_too(files: MemoryFiles) -> None:
    log = new_log(files, SMALL)
    fill(log, 2, epoch=3)
    content = killed(files, log)
    for position, bit in itertools.product(range(len(content)), range(8)):
        copy = files.copy()
        copy.change(FIRST, position, bytes([content[position] ^ (1 << bit)]))
        with pytest.raises(CorruptBatch):
            read_batches(reopen(copy, recovery_point=2))


def test_a_wrong_length_of_the_last_durable_batch_takes_what_follows_for_a_torn_tail(
    files: MemoryFiles,
) -> None:
    """A length that leads into a later batch's midst leaves nothing behind it that could be a batch."""
    log = new_log(files)
    fill(log, 4)
    content = killed(files, log)
    size = len(content) // 4
    for length in range(size, len(content)):
        copy = files.copy()
        copy.change(FIRST, 8, (length - 12).to_bytes(4, "big"))
        for recovery_point in range(5):
            if length == size:
                assert len(read_values(reopen(copy.copy(), recovery_point=recovery_point))) == 4
                continue
            with pytest.raises(CorruptBatch):
                read_batches(reopen(copy.copy(), recovery_point=recovery_point))


def test_the_end_of_a_log_that_was_closed_cleanly_is_believed_without_its_checksum(
    files: MemoryFiles,
) -> None:
    """The last batch says which offset comes next: a wrong one would leave a gap behind it."""
    log = new_log(files)
    fill(log, 3)
    log.close()
    content = files.content(FIRST)
    last = 2 * len(content) // 3
    for position in range(last, len(content)):
        copy = files.copy()
        copy.change(FIRST, position, bytes([content[position] ^ 1]))
        with pytest.raises(CorruptBatch) as caught:
            reopen(copy, clean=True)
        assert caught.value.position == last


def test_a_refused_log_is_left_as_it_was(files: MemoryFiles) -> None:
    log = new_log(files, SMALL)
    fill(log, 10)
    files.kill()
    files.change(log.segments[1].path, 70, b"?")
    before = disk(files)
    for _ in range(2):
        with pytest.raises(CorruptBatch, match="good batch follows"):
            reopen(files, SMALL)
    assert disk(files) == before


def unwritten(files: MemoryFiles, path: str, sector: int) -> None:
    """Let a sector be as it is on a disk that had not taken it: zeros."""
    position = sector * SECTOR_SIZE_BYTES
    files.change(path, position, bytes(min(SECTOR_SIZE_BYTES, len(files.content(path)) - position)))


def test_a_power_cut_that_left_later_sectors_written_and_not_earlier_ones_stops_the_partition(
    files: MemoryFiles,
) -> None:
    log = new_log(files)
    fill(log, 9, prefix=b"x" * 300)
    content = killed(files, log)
    size = len(content) // 9
    for sector in range(-(-len(content) // SECTOR_SIZE_BYTES)):
        copy = files.copy()
        unwritten(copy, FIRST, sector)
        log = reopen(copy)
        kept = sector * SECTOR_SIZE_BYTES // size
        assert log.log_end_offset == log.durable_end_offset == kept
        assert log.report.cut_bytes == len(content) - kept * size
        copy.power_cut()
        assert reopen(copy).log_end_offset == kept


def test_a_flipped_bit_in_a_batch_of_zeros_is_taken_for_a_sector_that_was_not_written(
    files: MemoryFiles,
) -> None:
    log = new_log(files)
    for _ in range(3):
        append(log, batch([bytes(1200)]))
    content = killed(files, log)
    size = len(content) // 3
    for position in (*range(size, size + 75), *range(size + 75, 2 * size, 97)):
        copy = files.copy()
        copy.change(FIRST, position, bytes([content[position] ^ 1 << position % 8]))
        with pytest.raises(CorruptBatch, match="good batch follows"):
            reopen(copy)
    copy = files.copy()
    copy.change(FIRST, size, bytes(-size % SECTOR_SIZE_BYTES))
    assert reopen(copy).log_end_offset == 1


def test_zeros_that_are_no_unwritten_sector_are_cut(files: MemoryFiles) -> None:
    log = new_log(files)
    fill(log, 9, prefix=b"x" * 300)
    content = killed(files, log)
    size = len(content) // 9
    for start, end in ((4 * size, 4 * size + 50), (1025, 1535), (1536, 2047), (1024, 1024 + 511)):
        copy = files.copy()
        copy.change(FIRST, start, bytes(end - start))
        with pytest.raises(CorruptBatch, match="good batch follows"):
            reopen(copy)


def test_an_unwritten_sector_in_which_the_next_good_batch_begins_with_zeros_stops_the_partition() -> None:
    for rest in range(1, 8):  # of the good batch's base offset, 1, so many bytes lie in the sector
        files = MemoryFiles()
        log = new_log(files)
        overhead = len(batch([b"x" * 400])) - 400
        append(log, batch([b"x" * (SECTOR_SIZE_BYTES - rest - overhead)]))
        append(log, batch([b"good"]))
        assert len(killed(files, log)) == SECTOR_SIZE_BYTES - rest + len(batch([b"good"]))
        unwritten(files, FIRST, 0)
        assert reopen(files).log_end_offset == 0


def test_an_unwritten_sector_that_must_have_been_synced_is_cut(files: MemoryFiles) -> None:
    config = LogConfig(segment_bytes=2500)
    log = new_log(files, config)
    fill(log, 9, prefix=b"x" * 300)
    files.kill()
    assert len(log.segments) == 2
    closed = files.copy()
    unwritten(closed, FIRST, 2)
    with pytest.raises(CorruptBatch, match="good batch follows"):
        reopen(closed, config)
    below = files.copy()
    unwritten(below, log.segments[1].path, 0)
    with pytest.raises(CorruptBatch):
        reopen(below, config, recovery_point=log.log_end_offset - 1)


def test_damage_in_a_closed_segment_is_refused_though_its_own_tail_is_torn(files: MemoryFiles) -> None:
    log = new_log(files, SMALL)
    fill(log, 10)
    files.kill()
    segment = log.segments[0]
    files.replace(segment.path, files.content(segment.path)[:-1])
    with pytest.raises(CorruptBatch, match="good batch follows"):
        reopen(files, SMALL)


def test_a_missing_segment_above_the_recovery_point_is_refused(files: MemoryFiles) -> None:
    log = new_log(files, SMALL)
    fill(log, 15)
    files.kill()
    files.unlink(log.segments[1].path)
    with pytest.raises(CorruptBatch, match="comes next"):
        reopen(files, SMALL)


@pytest.mark.parametrize("count", [0, 1])
def test_a_missing_segment_before_one_that_is_empty_or_holds_one_batch_is_refused(
    files: MemoryFiles, count: int
) -> None:
    log = new_log(files)
    for _ in range(2):
        fill(log, 3)
        log.roll()
    fill(log, count)
    files.kill()
    files.unlink(log.segments[1].path)
    with pytest.raises(CorruptBatch, match="begins at 6 where 3 comes next"):
        reopen(files)
    assert bool(files.content(log.segments[2].path)) == bool(count), "nothing was cut"


def test_a_log_that_ends_below_its_recovery_point_is_refused(files: MemoryFiles) -> None:
    log = new_log(files)
    fill(log, 3)
    content = killed(files, log)
    for length in (0, len(content) // 3, len(content) - 1):
        copy = files.copy()
        copy.replace(FIRST, content[:length])
        with pytest.raises(CorruptBatch):
            reopen(copy, recovery_point=3)


def test_an_empty_segment_left_by_a_roll_is_kept(files: MemoryFiles) -> None:
    log = new_log(files)
    fill(log, 3)
    log.roll()
    files.power_cut()
    log = reopen(files)
    assert [segment.base_offset for segment in log.segments] == [0, 3]
    fill(log, 1)
    assert len(read_values(log)) == 4


def test_kept_bytes_above_the_recovery_point_are_written_again_and_synced(files: MemoryFiles) -> None:
    """After a sync that failed unseen the pages are clean but not on disk, and only a new write brings them there."""
    log = new_log(files)
    fill(log, 3)
    content = killed(files, log)
    before = files.calls.copy()
    log = reopen(files, recovery_point=1)
    writes = files.calls - before
    assert writes["pwrite"] == 2, "one for each batch above the recovery point"
    assert writes["datasync"] == 1
    assert log.report.verified_bytes == len(content) * 2 // 3
    files.power_cut()
    assert reopen(files, recovery_point=3).log_end_offset == 3


def test_only_what_lies_above_the_recovery_point_is_read(files: MemoryFiles) -> None:
    config = LogConfig(segment_bytes=100_000, index_interval_bytes=200)
    log = new_log(files, config)
    fill(log, 2000)
    log.write_producer_snapshot()
    log.close()
    log = reopen(files, config, clean=True)
    fill(log, 100)
    log.sync()
    files.kill()
    before = files.calls.copy()
    log = reopen(files, config, recovery_point=2090)
    assert log.log_end_offset == 2100
    assert log.report.verified_bytes < 10 * 100
    assert (files.calls - before)["pread"] < 30


@pytest.mark.parametrize("suffix", [".index", ".timeindex"])
@pytest.mark.parametrize("content", [None, b"", b"garbage", bytes(80)])
def test_lost_and_senseless_indexes_change_nothing(
    files: MemoryFiles, suffix: str, content: bytes | None
) -> None:
    log = new_log(files, SMALL)
    fill(log, 20)
    expected = read_values(log)
    log.close()
    log = reopen(files, SMALL, clean=True)
    fill(log, 5)
    expected = read_values(log)
    files.kill()
    for segment, recovery_point, clean in itertools.product(log.segments, (0, 7, 19, 25), (False, True)):
        copy = files.copy()
        path = segment.file_path(suffix)
        if content is None:
            copy.unlink(path)
        else:
            copy.replace(path, content)
        opened = reopen(copy, SMALL, recovery_point=recovery_point, clean=clean)
        assert read_values(opened) == expected
        found = opened.find_by_timestamp(1013, 25)
        assert found is not None
        assert found.offset == 13


@pytest.mark.parametrize("clean", [True, False])
def test_an_index_that_rises_but_points_elsewhere_is_not_followed(files: MemoryFiles, clean: bool) -> None:
    config = LogConfig(index_interval_bytes=70)
    log = new_log(files, config)
    fill(log, 9)
    log.close()
    path = log.segments[-1].file_path(".index")
    content = files.content(path)
    files.change(path, len(content) - 1, bytes([content[-1] - 1]))
    log = reopen(files, config, clean=clean, recovery_point=9)
    assert log.report.rebuilt_indexes
    assert len(read_values(log)) == 9
    log.close()
    assert files.content(path) == content


def test_index_files_come_out_the_same_however_the_log_was_opened(files: MemoryFiles) -> None:
    log = new_log(files, SMALL)
    fill(log, 20)
    files_of_kill = files.copy()
    log.close()
    expected = {n: c for n, c in disk(files).items() if n.endswith("index")}
    for recovery_point in (0, 5, 20):
        copy = files_of_kill.copy()
        reopen(copy, SMALL, recovery_point=recovery_point).close()
        assert {n: c for n, c in disk(copy).items() if n.endswith("index")} == expected


def test_recovering_twice_is_recovering_once_also_when_killed_at_any_call(files: MemoryFiles) -> None:
    log = new_log(files, SMALL)
    for number in range(12):
        append(log, batch([b"v%d" % number], producer_id=7, sequence=number), epoch=number // 5)
    files.kill()
    last = log.segments[-1].path
    files.replace(last, files.content(last)[:-5])
    once = files.copy()
    reopen(once, SMALL)
    for call in range(1, 200):
        copy = files.copy()
        copy.fail("any", DiskError, call=call)
        try:
            reopen(copy, SMALL)
        except StorageError:
            for cut in (copy.kill, copy.power_cut):
                again = copy.copy() if cut == copy.kill else copy
                cut()
                if cut == copy.kill:
                    copy_after_kill = again
                    reopen(copy_after_kill, SMALL)
                    assert disk(copy_after_kill) == disk(once)
                else:
                    reopen(copy, SMALL)
                    assert disk(copy) == disk(once)
        else:
            assert call > 5, "recovery does something"
            return
    raise AssertionError("recovery never came to its end")


def test_epochs_above_the_end_go_with_the_tail(files: MemoryFiles) -> None:
    log = new_log(files)
    fill(log, 2, epoch=1)
    fill(log, 1, epoch=2)
    content = killed(files, log)
    files.replace(FIRST, content[:-1])
    log = reopen(files)
    assert log.epoch_entries == ((1, 0),)
    files.power_cut()
    assert reopen(files).epoch_entries == ((1, 0),)


@pytest.mark.parametrize("clean", [True, False])
def test_a_lost_epoch_checkpoint_is_made_again_from_the_batches(files: MemoryFiles, clean: bool) -> None:
    log = new_log(files, SMALL)
    fill(log, 5, epoch=1)
    fill(log, 5, epoch=4)
    log.close()
    files.unlink(f"{DIRECTORY}/leader-epoch-checkpoint")
    log = reopen(files, SMALL, clean=clean, recovery_point=10)
    assert log.epoch_entries == ((1, 0), (4, 5))
    assert "leader-epoch-checkpoint was missing" in log.report.notes
    assert len(read_values(log)) == 10
    files.power_cut()
    assert files.content(f"{DIRECTORY}/leader-epoch-checkpoint") == b"0\n2\n1 0\n4 5\n"


@pytest.mark.parametrize(
    "content", [b"", b"garbage", b"0\n2\n1 0\n", b"0\n2\n4 5\n1 0\n", b"0\n1\n1 -1\n", b"\xff"]
)
def test_a_damaged_epoch_checkpoint_is_refused(files: MemoryFiles, content: bytes) -> None:
    log = new_log(files)
    fill(log, 2)
    files.kill()
    files.replace(f"{DIRECTORY}/leader-epoch-checkpoint", content)
    with pytest.raises(CorruptFile):
        reopen(files)


def test_leftovers_of_interrupted_work_are_removed(files: MemoryFiles) -> None:
    log = new_log(files)
    fill(log, 2)
    files.kill()
    leftovers = [
        "00000000000000000000.log.deleted",
        "00000000000000000000.index.deleted",
        "leader-epoch-checkpoint.tmp",
        "00000000000000000007.index",
        "00000000000000000007.timeindex",
    ]
    for name in leftovers:
        files.replace(f"{DIRECTORY}/{name}", b"rest")
    files.replace(f"{DIRECTORY}/notes.txt", b"somebody's own")
    assert reopen(files).log_end_offset == 2
    names = files.list_directory(DIRECTORY)
    assert not set(leftovers) & set(names)
    assert "notes.txt" in names


def test_a_damaged_topic_id_is_another_topics(files: MemoryFiles) -> None:
    """The directory of another topic is put aside and a new log made: no flipped bit may do that."""
    new_log(files).close()
    path = f"{DIRECTORY}/partition.metadata"
    for bit in range(8 * len(files.content(path))):
        copy = files.copy()
        copy.flip(path, bit)
        with contextlib.suppress(CorruptFile):
            assert reopen(copy).topic_id == TOPIC_ID


def test_a_partition_of_another_topic_is_refused(files: MemoryFiles) -> None:
    new_log(files).close()
    with pytest.raises(TopicIdMismatch):
        open_log(
            files,
            DIRECTORY,
            config=LogConfig(),
            topic_id=bytes(16),
            recovery_point=0,
            log_start_offset=0,
            clean=True,
            now_ms=0,
        )
    log = open_log(
        files,
        DIRECTORY,
        config=LogConfig(),
        topic_id=None,
        recovery_point=0,
        log_start_offset=0,
        clean=True,
        now_ms=0,
    )
    assert log.topic_id == TOPIC_ID


def test_offsets_that_were_deleted_are_never_given_again(files: MemoryFiles) -> None:
    """The log start is checkpointed before a cut; the records above it that a power cut took were never durable."""
    log = new_log(files)
    fill(log, 5)
    files.power_cut()
    log = reopen(files, log_start_offset=4)
    assert (log.log_start_offset, log.log_end_offset) == (4, 4)
    info = append(log, batch())
    assert info.base_offset == 4
    log.sync()
    files.power_cut()
    assert read_values(reopen(files, recovery_point=5, log_start_offset=4)) == [(4, b"value")]


@pytest.mark.parametrize("ending", ["kill", "power cut"])
def test_going_on_at_the_log_start_that_is_stopped_anywhere_leaves_no_log_that_looks_damaged(
    ending: str,
) -> None:
    for call in range(1, 90):
        files = MemoryFiles()
        log = new_log(files, SMALL)
        fill(log, 10)
        log.sync()
        assert len(log.segments) > 2
        fill(log, 2)
        files.power_cut()
        files.fail("any", DiskError, call=call, forever=True)
        try:
            reopen(files, SMALL, recovery_point=10, log_start_offset=12)
            done = True
        except DiskError:
            done = False
        if ending == "kill":
            files.kill()
        else:
            files.heal()
            files.power_cut()
        log = reopen(files, SMALL, recovery_point=10, log_start_offset=12)
        assert (log.log_start_offset, log.log_end_offset) == (12, 12)
        if done:
            assert call > 15
            return
    raise AssertionError("opening never came to its end")


def test_a_batch_inside_a_torn_batchs_payload_errs_on_the_safe_side(files: MemoryFiles) -> None:
    """A torn batch whose value is itself a batch of this log looks like damage: it is refused, never cut."""
    log = new_log(files)
    fill(log, 1)
    append(log, batch([stored(batch(), 2), b"more"]))
    content = killed(files, log)
    files.replace(FIRST, content[:-3])
    with pytest.raises(CorruptBatch, match="good batch follows"):
        reopen(files)
