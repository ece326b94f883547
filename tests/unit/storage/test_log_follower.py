"""A follower's appends: the leader's bytes, all that is whole of them, and nothing that is not."""

import pytest
from tests.support.logs import (
    DIRECTORY,
    NOW_MS,
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

from penstock.runtime.files import read_file, replace_file
from penstock.storage.checkpoint import read_gaps_below
from penstock.storage.errors import CorruptBatch, StaleLeaderEpoch
from penstock.storage.layout import COMPACTION_CHECKPOINT
from penstock.storage.log import Log
from penstock.storage.log_config import LogConfig


@pytest.fixture
def files() -> MemoryFiles:
    return MemoryFiles()


def follow(log: Log, *batches: bytes, may_wait: bool = True, epoch_max: int = 100) -> int:
    """Append as fetched; returns how many bytes were taken."""
    records = memoryview(b"".join(batches))
    return log.append_as_follower(records, now_ms=NOW_MS, epoch_max=epoch_max, may_wait=may_wait).size_bytes


def test_a_follower_takes_the_leaders_bytes_unchanged(files: MemoryFiles) -> None:
    leader = new_log(files)
    fill(leader, 3, epoch=1)
    append(leader, batch(4), epoch=2)
    sent = read_batches(leader)
    follower = new_log(MemoryFiles())
    info = follower.append_as_follower(memoryview(b"".join(sent) + sent[0][:40]), now_ms=NOW_MS)
    assert (info.base_offset, info.last_offset) == (0, 6)
    assert read_batches(follower) == sent
    assert follower.epoch_entries == leader.epoch_entries


def test_a_follower_keeps_gaps_but_takes_no_batch_twice(files: MemoryFiles) -> None:
    follower = new_log(files, LogConfig(compact=True))
    follower.append_as_follower(memoryview(stored(batch(), 5)), now_ms=NOW_MS)
    follower.append_as_follower(memoryview(stored(batch(), 9)), now_ms=NOW_MS)
    assert follower.log_end_offset == 10
    with pytest.raises(CorruptBatch):
        follower.append_as_follower(memoryview(stored(batch(), 9)), now_ms=NOW_MS)
    assert [offset for offset, _ in read_values(follower)] == [5, 9]


def test_a_follower_refuses_a_damaged_batch_and_keeps_those_before(files: MemoryFiles) -> None:
    follower = new_log(files)
    damaged = bytearray(stored(batch(), 1))
    damaged[-2] ^= 1
    with pytest.raises(CorruptBatch):
        follower.append_as_follower(memoryview(stored(batch(), 0) + damaged), now_ms=NOW_MS)
    assert follower.log_end_offset == 1


@pytest.mark.parametrize("position", [0, 16])
def test_bytes_that_are_no_batch_are_damage(files: MemoryFiles, position: int) -> None:
    follower = new_log(files)
    garbage = bytearray(stored(batch(), 1))
    garbage[position] = 77
    with pytest.raises(CorruptBatch):
        follow(follower, stored(batch(), 0), bytes(garbage))
    assert follower.log_end_offset == 1


def test_an_epoch_after_the_leaders_own_is_damage(files: MemoryFiles) -> None:
    follower = new_log(files)
    with pytest.raises(CorruptBatch, match="epoch"):
        follow(follower, stored(batch(), 0, epoch=3), stored(batch(), 1, epoch=4), epoch_max=3)
    assert follower.log_end_offset == 1


def test_only_what_was_fetched_with_gaps_may_have_gaps(files: MemoryFiles) -> None:
    follower = new_log(files)
    follow(follower, stored(batch(), 0), stored(batch(), 5), stored(batch(), 9), stored(batch(), 10))
    assert read_gaps_below(files, f"{DIRECTORY}/{COMPACTION_CHECKPOINT}") == 9
    # above, a gap is damage still: a follower's log that lost a batch must not look compacted
    follow(follower, stored(batch(), 11), stored(batch(), 12), stored(batch(), 13))
    path = f"{DIRECTORY}/00000000000000000000.log"
    size = len(stored(batch(), 0))
    data = bytearray(read_file(files, path))
    del data[5 * size : 6 * size]
    replace_file(files, path, bytes(data))
    with pytest.raises(CorruptBatch, match="base offset 13 where 12"):
        reopen(files, recovery_point=14)


def test_where_gaps_are_is_durable_before_the_first_of_them_is_written(files: MemoryFiles) -> None:
    follower = new_log(files)
    follow(follower, stored(batch(), 0))
    follower.sync()
    order: list[str] = []
    files.before_change = lambda operation, path: order.append(f"{operation} {path.rpartition('/')[2]}")
    follow(follower, stored(batch(), 4))
    assert order[-1].startswith("pwrite")
    assert any("sync_directory" in step for step in order[:-1])


def test_a_cut_log_is_strict_again_about_what_comes_after(files: MemoryFiles) -> None:
    follower = new_log(files)
    follow(follower, stored(batch(), 0), stored(batch(), 20))
    follower.truncate_to(1)
    assert read_gaps_below(files, f"{DIRECTORY}/{COMPACTION_CHECKPOINT}") == 1
    follow(follower, stored(batch(), 1))
    assert [offset for offset, _ in read_values(follower)] == [0, 1]


def test_segments_are_rolled_by_the_followers_own_settings_within_one_answer(files: MemoryFiles) -> None:
    leader = new_log(MemoryFiles())
    fill(leader, 40)
    sent = read_batches(leader)
    size = len(sent[0])
    config = LogConfig(segment_bytes=5 * size, index_interval_bytes=size)
    follower = new_log(files, config)
    follow(follower, *sent)
    assert all(segment.size_bytes <= 5 * size for segment in follower.segments)
    assert len(follower.segments) >= 8
    assert read_batches(follower) == sent
    follower.close()
    assert read_batches(reopen(files, config, clean=True)) == sent


def test_a_follower_rolls_by_time_like_a_leader(files: MemoryFiles) -> None:
    config = LogConfig(segment_ms=50)
    leader, follower = new_log(MemoryFiles(), config), new_log(files, config)
    for step in range(20):
        append(leader, batch(timestamps_ms=1000 + 20 * step))
    follow(follower, *read_batches(leader))
    bases = [segment.base_offset for segment in leader.segments]
    assert len(bases) > 3
    assert [segment.base_offset for segment in follower.segments] == bases


def test_offsets_that_no_index_entry_holds_begin_a_new_segment(files: MemoryFiles) -> None:
    log = new_log(files, LogConfig(index_interval_bytes=0))
    follow(log, stored(batch(), 0), stored(batch(), 1), stored(batch(), 2**31), stored(batch(), 2**32))
    assert [offset for offset, _ in read_values(log)] == [0, 1, 2**31, 2**32]
    assert [segment.base_offset for segment in log.segments] == [0, 2, 2**31 + 1]


def test_the_event_loop_does_nothing_but_write(files: MemoryFiles) -> None:
    follower = new_log(files, LogConfig(segment_bytes=400))
    sent = [stored(batch(), offset, epoch=1) for offset in range(8)]
    assert follow(follower, *sent, may_wait=False) == 0, "the epoch is to be written first"
    follow(follower, sent[0])
    before = files.calls.copy()
    taken = follow(follower, *sent[1:], may_wait=False)
    assert files.calls - before == {"pwrite": 1, "any": 1}
    assert taken == len(sent[0]) * (follower.log_end_offset - 1)
    assert 1 < follower.log_end_offset < 8, "the segment is full"
    assert follow(follower, *sent[follower.log_end_offset :], may_wait=False) == 0
    follow(follower, *sent[follower.log_end_offset :])
    end = follower.log_end_offset
    assert follow(follower, stored(batch(), end + 3, epoch=1), may_wait=False) == 0, "a gap is written first"
    assert follow(follower, stored(batch(), end, epoch=2), may_wait=False) == 0
    assert read_batches(follower) == sent


@pytest.mark.parametrize("on_disk", [True, False])
def test_an_epoch_in_which_this_replica_led_and_got_nothing_gives_way(
    files: MemoryFiles, on_disk: bool
) -> None:
    log = new_log(files)
    fill(log, 3, epoch=6)
    log.start_leader_epoch(7)
    if on_disk:
        log.prepare_append(7)
    follow(log, stored(batch(), 3, epoch=6), stored(batch(), 4, epoch=8))
    assert log.epoch_entries == ((6, 0), (8, 4))
    log.close()
    assert reopen(files, clean=True).epoch_entries == ((6, 0), (8, 4))


@pytest.mark.parametrize("on_disk", [True, False])
def test_cutting_nothing_takes_an_epoch_without_batches_away(files: MemoryFiles, on_disk: bool) -> None:
    """Else a follower and its leader would find the same divergence for ever."""
    log = new_log(files)
    fill(log, 3, epoch=6)
    log.start_leader_epoch(7)
    if on_disk:
        log.prepare_append(7)
    log.truncate_to(3)
    assert (log.log_end_offset, log.latest_epoch) == (3, 6)
    log.close()
    assert reopen(files, clean=True).latest_epoch == 6


def test_epochs_that_fall_are_refused(files: MemoryFiles) -> None:
    log = new_log(files)
    follow(log, stored(batch(), 0, epoch=5))
    with pytest.raises(StaleLeaderEpoch):
        follow(log, stored(batch(), 1, epoch=4))
    assert log.log_end_offset == 1


def test_producers_are_known_from_what_was_fetched(files: MemoryFiles) -> None:
    follower = new_log(files)
    sent = [stored(batch(producer_id=9, sequence=i), i) for i in range(3)]
    follow(follower, *sent)
    assert append(follower, batch(producer_id=9, sequence=2)).is_duplicate
    assert append(follower, batch(producer_id=9, sequence=3)).base_offset == 3


def test_a_log_may_begin_in_the_middle_of_its_first_batch(files: MemoryFiles) -> None:
    log = new_log(files)
    fill(log, 2)
    log.truncate_fully_and_start_at(50, log_start_offset=53)
    assert (log.log_start_offset, log.log_end_offset) == (53, 50)
    follow(log, stored(batch(10), 50))
    assert (log.log_start_offset, log.log_end_offset) == (53, 60)
    assert [offset for offset, _ in read_values(log)] == list(range(53, 60))
