"""What is done to a follower's log: in order, only for the leader of now, nothing committed cut, and counted before it is said to stand."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import pytest
import trio
from tests.support.logs import batch, fill, new_log, read_batches, read_values, reopen, stored
from tests.support.memory_files import MemoryFiles
from tests.support.partition_bench import ME, PartitionBench, partition_bench, settle

from penstock.broker.partition import Partition
from penstock.broker.partition_appends import SLOW_APPEND_S
from penstock.broker.partition_events import FollowerFetched, LeaderTold
from penstock.broker.replication.fetcher_machine import Append, Standing, StartOver, Truncate
from penstock.broker.replication.follower import (
    APPEND_AT_ONCE_MAX_BYTES,
    FollowerLogs,
    NotFollowed,
    TruncationRefused,
    point_of_divergence,
    standing_of,
)
from penstock.broker.replication.follower_fetch import Follower
from penstock.protocol.errors import ErrorCode
from penstock.protocol.fetch import FetchPartition
from penstock.runtime.files import DiskError, DiskFull, StorageError
from penstock.storage.errors import CorruptBatch, LogFailed
from penstock.storage.layout import OFFSET_MAX
from penstock.storage.log import Log
from penstock.storage.log_config import LogConfig

KEY = (b"t" * 16, 0)
LEADER, EPOCH = 2, 3


class FollowerBench:
    """A partition that follows broker 2 in epoch 3, and what is done to it."""

    def __init__(self, bench: PartitionBench) -> None:
        self.bench = bench
        self.partition: Partition = bench.partition
        self.log: Log = bench.log
        self.cuts: list[tuple[int, int]] = []
        self.logs = FollowerLogs(bench.services, self._cutting)

    @asynccontextmanager
    async def _cutting(
        self, partition: Partition, offset: int, log_start_offset: int
    ) -> AsyncGenerator[None]:
        assert partition.log.log_end_offset >= offset, "before the cut"
        self.cuts.append((offset, log_start_offset))
        yield

    def follow(self, epoch: int = EPOCH, leader: int = LEADER) -> None:
        """What the store says."""
        self.bench.lead(epoch, leader=leader, isr=(leader,), replicas=(ME, LEADER))

    def fetched(self, *batches: bytes, high_watermark: int = 0, epoch: int = EPOCH) -> Append:
        """What a leader has answered."""
        return Append(KEY, epoch, memoryview(b"".join(batches)), high_watermark, 0)

    async def append(self, *batches: bytes, high_watermark: int = 0, epoch: int = EPOCH) -> None:
        """All of it, as the fetcher does."""
        work = self.logs.begin(
            self.partition, self.fetched(*batches, high_watermark=high_watermark, epoch=epoch)
        )
        if work is not None:
            await self.logs.append(self.partition, work)


@asynccontextmanager
async def follower_bench(
    *, write_caching: bool = False, files: MemoryFiles | None = None
) -> AsyncGenerator[FollowerBench]:
    async with partition_bench(files, write_caching=write_caching) as bench:
        made = FollowerBench(bench)
        made.follow()
        yield made


def batches(count: int, *, start: int = 0, epoch: int = EPOCH) -> list[bytes]:
    return [stored(batch([b"v%d" % n]), n, epoch) for n in range(start, start + count)]


# Appending


@pytest.mark.parametrize("write_caching", [False, True])
async def test_what_was_appended_counts_when_it_is_said_to_be_done(write_caching: bool) -> None:
    async with follower_bench(write_caching=write_caching) as follower:
        for start in range(0, 9, 3):
            await follower.append(*batches(3, start=start), high_watermark=start)
            assert follower.partition.machine.counted_end_offset == start + 3
            assert standing_of(follower.partition) == Standing(start + 3, EPOCH, 0)
        assert read_batches(follower.log) == batches(9)
        assert follower.log.durable_end_offset == (0 if write_caching else 9)
        assert follower.partition.high_watermark == 6


async def test_one_sync_serves_all_that_came_with_an_answer() -> None:
    async with follower_bench() as follower:
        await follower.append(*batches(1))
        before = follower.bench.threads.calls["sync"]
        await follower.append(*batches(200, start=1))
        assert follower.bench.threads.calls["sync"] == before + 1


async def test_small_answers_take_no_worker_where_caching_is_on() -> None:
    async with follower_bench(write_caching=True) as follower:
        await follower.append(*batches(1))
        before = follower.bench.threads.calls.copy()
        assert follower.logs.begin(follower.partition, follower.fetched(*batches(5, start=1))) is None
        assert follower.bench.threads.calls == before
        assert follower.log.log_end_offset == 6


async def test_what_does_not_fit_at_once_is_appended_behind_what_did() -> None:
    async with follower_bench(write_caching=True) as follower:
        await follower.append(*batches(1))
        sent = batches(8, start=1)
        follower.bench.change(log_config=LogConfig(segment_bytes=len(sent[0]) * 3))
        await follower.append(*sent)
        assert read_batches(follower.log) == batches(9)
        assert len(follower.log.segments) == 3


async def test_a_large_answer_is_a_workers() -> None:
    async with follower_bench(write_caching=True) as follower:
        await follower.append(*batches(1))
        large = stored(batch([b"x" * APPEND_AT_ONCE_MAX_BYTES]), 1, EPOCH)
        append = follower.fetched(large)
        assert follower.logs.begin(follower.partition, append) is append
        await follower.logs.append(follower.partition, append)
        assert follower.log.log_end_offset == 2


async def test_a_torn_last_batch_is_left_out() -> None:
    async with follower_bench() as follower:
        sent = batches(3)
        await follower.append(*sent[:2], sent[2][:-1])
        await follower.append(*sent[2:], sent[0][:40])
        assert read_batches(follower.log) == sent


@pytest.mark.parametrize("warm", [False, True])
@pytest.mark.parametrize("write_caching", [False, True])
async def test_a_bad_batch_is_not_appended_and_those_before_it_are(warm: bool, write_caching: bool) -> None:
    async with follower_bench(write_caching=write_caching) as follower:
        if warm:
            await follower.append(*batches(1))
        start = follower.log.log_end_offset
        sent = batches(3, start=start)
        damaged = bytearray(sent[1])
        damaged[-1] ^= 1
        with pytest.raises(CorruptBatch, match="CRC"):
            await follower.append(sent[0], bytes(damaged), sent[2])
        await follower.logs.settle(follower.partition, EPOCH)
        assert follower.log.log_end_offset == start + 1
        await follower.append(*sent[1:])
        assert read_batches(follower.log) == batches(start + 3)


async def test_records_of_an_older_epoch_are_dropped() -> None:
    async with follower_bench() as follower:
        await follower.append(*batches(2))
        follower.follow(EPOCH + 1)
        with pytest.raises(NotFollowed):
            await follower.append(*batches(2, start=2))
        follower.follow(EPOCH + 2, leader=ME)
        with pytest.raises(NotFollowed):
            await follower.append(*batches(2, start=2), epoch=EPOCH + 2)
        assert follower.log.log_end_offset == 2


async def test_who_becomes_leader_while_a_worker_appends_leads_behind_that() -> None:
    async with follower_bench() as follower, trio.open_nursery() as nursery:
        await follower.append(*batches(2))
        follower.bench.threads.hold("append_on_worker")
        large = stored(batch([b"x" * APPEND_AT_ONCE_MAX_BYTES]), 2, EPOCH)

        nursery.start_soon(follower.append, large)
        await settle()
        follower.follow(EPOCH + 1, leader=ME)
        assert follower.log.latest_epoch == EPOCH
        follower.bench.threads.release("append_on_worker")
        await settle()
        assert follower.log.epoch_entries == ((EPOCH, 0), (EPOCH + 1, 3))
        assert follower.partition.machine.epoch_start_offset == 3


async def test_a_full_disk_refuses_and_takes_the_rest_when_there_is_room() -> None:
    async with follower_bench() as follower:
        await follower.append(*batches(1))
        files = follower.bench.files
        files.capacity_bytes, room = files.used_bytes(), files.capacity_bytes
        with pytest.raises(DiskFull):
            await follower.append(*batches(2, start=1))
        assert follower.log.failure is None
        files.capacity_bytes = room
        await follower.append(*batches(2, start=1))
        assert read_batches(follower.log) == batches(3)


async def test_a_failed_sync_takes_the_replica_out_of_service() -> None:
    async with follower_bench() as follower:
        await follower.append(*batches(1))
        follower.bench.files.fail("datasync", DiskError)
        with pytest.raises(NotFollowed):
            await follower.append(*batches(2, start=1))
        assert follower.partition.is_offline
        assert follower.bench.has_left


async def test_a_log_may_begin_inside_of_the_first_batch() -> None:
    """Records below 53 were deleted, and batches come whole."""
    async with follower_bench() as follower:
        await follower.logs.start_over(follower.partition, StartOver(KEY, EPOCH, 53))
        assert follower.partition.high_watermark == 53
        await follower.append(stored(batch(10), 50, EPOCH), high_watermark=60)
        assert (follower.log.log_start_offset, follower.log.log_end_offset) == (53, 60)
        assert [offset for offset, _ in read_values(follower.log)] == list(range(53, 60))
        assert follower.cuts == [(0, 53), (0, OFFSET_MAX)]
        assert follower.partition.high_watermark == 60


async def test_a_log_that_was_being_written_as_leader_is_counted_before_it_is_asked_for() -> None:
    async with partition_bench() as bench, trio.open_nursery() as nursery:
        await bench.warm_up()
        bench.threads.hold("sync")
        bench.send()
        await settle()
        follower = FollowerBench(bench)
        follower.follow()
        is_settled = trio.Event()

        async def wait() -> None:
            await follower.logs.settle(follower.partition, EPOCH)
            is_settled.set()

        nursery.start_soon(wait)
        await settle()
        assert not is_settled.is_set()
        bench.threads.release("sync")
        await is_settled.wait()
        assert standing_of(follower.partition).end_offset == follower.log.durable_end_offset == 2


@pytest.mark.parametrize("write_caching", [False, True])
async def test_a_slow_append_that_ends_when_another_leads_is_counted_before_it_is_asked_for(
    write_caching: bool,
) -> None:
    """It never counted: the fetcher settled the log again and again, and the replica stayed out of the ISR."""
    async with partition_bench(write_caching=write_caching) as bench:
        await bench.warm_up()
        bench.clock.append_cost_s = 2 * SLOW_APPEND_S
        bench.send()
        bench.clock.append_cost_s = 0
        bench.threads.hold("append")
        sent = bench.send()
        await settle()
        follower = FollowerBench(bench)
        follower.follow()
        bench.threads.release("append")
        await follower.logs.settle(follower.partition, EPOCH)
        assert sent.code == ErrorCode.NOT_LEADER_OR_FOLLOWER
        assert standing_of(follower.partition).end_offset == 3
        assert follower.partition.machine.counted_end_offset == 3


async def test_who_leads_after_a_part_of_an_answer_was_appended_syncs_it() -> None:
    async with follower_bench() as follower:
        await follower.append(*batches(1))
        sent = batches(3, start=1)
        follower.bench.change(log_config=LogConfig(segment_bytes=len(sent[0]) * 2))
        await settle()
        rest = follower.logs.begin(follower.partition, follower.fetched(*sent))
        assert rest is not None
        follower.bench.lead(EPOCH + 1)
        with pytest.raises(NotFollowed):
            await follower.logs.append(follower.partition, rest)
        await settle()
        assert follower.partition.high_watermark == follower.log.log_end_offset == 2


async def test_who_leads_after_a_roll_that_synced_all_and_failed_knows_what_is_durable() -> None:
    """Nothing was left to sync, and so nobody told."""
    async with follower_bench() as follower, trio.open_nursery() as nursery:
        await follower.append(*batches(1))
        sent, bench = batches(3, start=1), follower.bench
        bench.change(log_config=LogConfig(segment_bytes=len(sent[0]) * 2))
        await settle()
        rest = follower.logs.begin(follower.partition, follower.fetched(*sent))
        assert rest is not None
        bench.threads.hold("append_on_worker")

        async def append() -> None:
            with pytest.raises(DiskFull):
                await follower.logs.append(follower.partition, rest)

        nursery.start_soon(append)
        await settle()
        bench.lead(EPOCH + 1)
        bench.files.capacity_bytes = bench.files.used_bytes()
        bench.threads.release("append_on_worker")
        await settle()
        assert follower.log.durable_end_offset == follower.log.log_end_offset == 2
        assert follower.partition.high_watermark == 2


# Cutting


async def test_what_the_leader_does_not_have_is_cut_after_the_checkpoints() -> None:
    async with follower_bench() as follower:
        await follower.append(*batches(4, epoch=1), *batches(4, start=4, epoch=2))
        await follower.logs.truncate(follower.partition, Truncate(KEY, EPOCH, 1, 3))
        assert follower.cuts == [(3, OFFSET_MAX)]
        assert standing_of(follower.partition) == Standing(3, 1, 0)
        assert follower.partition.machine.counted_end_offset == 3
        await follower.append(*batches(2, start=3))
        assert read_values(follower.log) == [(n, b"v%d" % n) for n in range(5)]


async def test_nothing_below_the_high_watermark_is_cut() -> None:
    async with follower_bench() as follower:
        await follower.append(*batches(4, epoch=1), high_watermark=3)
        with pytest.raises(TruncationRefused):
            await follower.logs.truncate(follower.partition, Truncate(KEY, EPOCH, 1, 2))
        with pytest.raises(TruncationRefused):
            await follower.logs.start_over(follower.partition, StartOver(KEY, EPOCH, 0))
        assert follower.log.log_end_offset == 4
        await follower.logs.truncate(follower.partition, Truncate(KEY, EPOCH, 1, 3))
        assert follower.log.log_end_offset == 3


async def test_a_cut_for_a_leader_of_yesterday_is_not_made() -> None:
    async with follower_bench() as follower:
        await follower.append(*batches(4))
        follower.follow(EPOCH + 1)
        with pytest.raises(NotFollowed):
            await follower.logs.truncate(follower.partition, Truncate(KEY, EPOCH, EPOCH, 1))
        with pytest.raises(NotFollowed):
            await follower.logs.start_over(follower.partition, StartOver(KEY, EPOCH, 9))
        assert follower.log.log_end_offset == 4


@asynccontextmanager
async def cut_before_a_sync_is_heard_of() -> AsyncGenerator[FollowerBench]:
    """Four records are durable, and the worker that made them so is not heard of; the next leader has had two of them cut. Later syncs wait."""
    async with follower_bench() as follower, trio.open_nursery() as nursery:
        threads = follower.bench.threads
        threads.hold("sync", after=True)
        nursery.start_soon(follower.append, *batches(4, epoch=1))
        await settle()
        assert follower.log.durable_end_offset == 4
        assert follower.partition.machine.counted_end_offset == 0
        threads.hold("sync")
        follower.follow(EPOCH + 1)
        await follower.logs.truncate(follower.partition, Truncate(KEY, EPOCH + 1, 1, 2))
        yield follower
        threads.release_all()
        nursery.cancel_scope.cancel()


async def test_a_sync_that_is_heard_of_after_a_cut_counts_nothing_that_was_cut() -> None:
    """The high watermark went past where the new records are durable."""
    async with cut_before_a_sync_is_heard_of() as follower, trio.open_nursery() as nursery:
        sent = follower.fetched(*batches(6, start=2), high_watermark=8, epoch=EPOCH + 1)
        nursery.start_soon(follower.logs.append, follower.partition, sent)
        await settle()
        assert follower.log.log_end_offset == 8
        follower.bench.threads.release_one("sync")
        await settle()
        assert follower.partition.machine.counted_end_offset == follower.log.durable_end_offset == 2
        assert follower.partition.high_watermark == 2
        follower.bench.threads.release("sync")
        await settle()
        assert follower.partition.high_watermark == follower.log.durable_end_offset == 8


async def test_who_leads_after_a_cut_acks_nothing_for_a_sync_from_before_it() -> None:
    async with cut_before_a_sync_is_heard_of() as follower:
        bench = follower.bench
        bench.lead(EPOCH + 2, isr=(ME, LEADER), replicas=(ME, LEADER))
        sent = bench.send()
        await settle()
        bench.partition.step(FollowerFetched(LEADER, 1, 3, 0.0))
        bench.threads.release_one("sync")
        await settle()
        assert (follower.log.log_end_offset, follower.log.durable_end_offset) == (3, 2)
        assert not sent.is_final
        bench.threads.release("sync")
        await settle()
        assert sent.is_final
        assert sent.code == 0


async def test_who_becomes_leader_while_a_worker_cuts_commits_nothing_of_what_goes() -> None:
    async with follower_bench() as follower, trio.open_nursery() as nursery:
        await follower.append(*batches(4, epoch=1), high_watermark=1)
        bench = follower.bench
        bench.threads.hold("truncate_to")
        nursery.start_soon(follower.logs.truncate, follower.partition, Truncate(KEY, EPOCH, 1, 2))
        await settle()
        bench.lead(EPOCH + 1, replicas=(ME, LEADER))
        bench.lead(EPOCH + 1, replicas=(ME, LEADER))
        assert follower.partition.is_leader
        assert follower.partition.high_watermark == 1
        bench.threads.release("truncate_to")
        await settle()
        assert follower.partition.machine.epoch_start_offset == 2
        assert follower.partition.high_watermark == follower.log.log_end_offset == 2


async def test_who_becomes_leader_while_a_worker_cuts_acks_nothing_by_a_word_from_before_the_cut() -> None:
    """The other has the same tail, says so, and has yet to learn that it went."""
    async with follower_bench(write_caching=True) as follower, trio.open_nursery() as nursery:
        await follower.append(*batches(8, epoch=1))
        bench = follower.bench
        bench.threads.hold("truncate_to")
        nursery.start_soon(follower.logs.truncate, follower.partition, Truncate(KEY, EPOCH, 1, 3))
        await settle()
        bench.lead(EPOCH + 1, isr=(ME, LEADER), replicas=(ME, LEADER))
        fetch = FetchPartition("", KEY[0], 0, EPOCH + 1, 8, 1, 0, 1 << 20)
        Follower(LEADER, 12, may_join=True).take_word([(fetch, follower.partition)], 0.0)
        told = follower.partition.machine.follower(LEADER)
        assert told is not None
        assert told.end_offset == 8
        bench.threads.release("truncate_to")
        await settle()
        sent = bench.send()
        await settle()
        assert (follower.log.log_end_offset, follower.partition.high_watermark) == (4, 0)
        assert not sent.is_final
        follower.partition.step(FollowerFetched(LEADER, 12, 4, 0.0))
        assert sent.is_final
        assert sent.code == 0


async def test_who_becomes_leader_while_its_log_fails_in_a_cut_commits_nothing() -> None:
    async with follower_bench() as follower, trio.open_nursery() as nursery:
        await follower.append(*batches(4, epoch=1), high_watermark=1)
        bench = follower.bench
        bench.threads.hold("truncate_fully_and_start_at")

        async def start_over() -> None:
            with pytest.raises(StorageError):
                await follower.logs.start_over(follower.partition, StartOver(KEY, EPOCH, 70))

        nursery.start_soon(start_over)
        await settle()
        bench.lead(EPOCH + 1, replicas=(ME, LEADER))
        bench.files.fail("sync_directory", DiskError)
        bench.threads.release("truncate_fully_and_start_at")
        await settle()
        assert follower.partition.is_offline
        assert bench.has_left
        assert follower.partition.high_watermark == 1


@pytest.mark.parametrize("ending", ["kill", "power cut"])
async def test_starting_over_that_is_stopped_anywhere_leaves_no_log_that_looks_damaged(ending: str) -> None:
    small = LogConfig(segment_bytes=300)
    for call in range(1, 60):
        files = MemoryFiles()
        async with follower_bench(files=files) as follower:
            follower.bench.change(log_config=small)
            await follower.append(*batches(12))
            assert len(follower.log.segments) > 2
            files.fail("any", DiskError, call=call, forever=True)
            done = True
            try:
                await follower.logs.start_over(follower.partition, StartOver(KEY, EPOCH, 70))
            except LogFailed:
                done = False
            files.heal()
            disk = files.fork()
            (lowered_to, _), durable = follower.cuts[0], follower.log.durable_end_offset
        if ending == "kill":
            disk.kill()
        else:
            disk.power_cut()
        # the checkpoints as they were lowered, or written once more before the end
        for recovery_point in (min(12, lowered_to), durable):
            log = reopen(disk.fork(), small, recovery_point=recovery_point)
            assert (log.log_start_offset, log.log_end_offset) == (70, 70) or not done
            log.truncate_fully_and_start_at(70)
            assert (log.log_end_offset, log.durable_end_offset) == (70, 70)
        if done:
            assert call > 15
            return
    raise AssertionError("starting over never came to its end")


async def test_starting_over_raises_the_high_watermark_to_where_the_leader_begins() -> None:
    async with follower_bench() as follower:
        await follower.append(*batches(4), high_watermark=2)
        await follower.logs.start_over(follower.partition, StartOver(KEY, EPOCH, 70))
        assert standing_of(follower.partition) == Standing(70, -1, 70)
        assert follower.partition.high_watermark == 70
        follower.partition.step(LeaderTold(10))
        assert follower.partition.high_watermark == 70


# Where two logs part


def log_of(*epochs: tuple[int, int]) -> Log:
    """A log with so many batches of each (epoch, count)."""
    log = new_log(MemoryFiles())
    for epoch, count in epochs:
        fill(log, count, epoch=epoch)
    return log


def test_kip_101_a_follower_that_was_ahead_loses_what_the_new_leader_never_had() -> None:
    """It had (1, 0..4), and was not committed from 3 on; the other was elected with 3 and wrote on in epoch 2."""
    follower, leader = log_of((1, 5)), log_of((1, 3), (2, 4))
    assert point_of_divergence(follower, *leader.end_offset_for_epoch(1)) == 3


def test_kip_101_a_follower_that_only_lacks_the_end_loses_nothing() -> None:
    """Truncation to the high watermark would have cut what the next leader needed."""
    follower, leader = log_of((1, 3)), log_of((1, 5))
    assert leader.end_offset_for_epoch(1) == (1, 5)
    assert point_of_divergence(follower, 1, 5) == 3


def test_kip_279_two_fast_failovers_part_at_the_last_epoch_that_both_know() -> None:
    """The follower led in epoch 2, the leader in epochs 1 and 3: an answer for epoch 2 names epoch 1, and so does the cut."""
    follower, leader = log_of((0, 2), (2, 3)), log_of((0, 2), (1, 2), (3, 3))
    epoch, end_offset = leader.end_offset_for_epoch(2)
    assert (epoch, end_offset) == (1, 4)
    cut = point_of_divergence(follower, epoch, end_offset)
    assert cut == 2, "epoch 1 is unknown here: all that is of epoch 2 goes"
    follower.truncate_to(cut)
    assert leader.end_offset_for_epoch(0) == (0, 2)


def test_an_epoch_in_which_nothing_was_written_parts_nobody() -> None:
    follower = log_of((1, 3))
    follower.start_leader_epoch(2)
    leader = log_of((1, 3), (3, 1))
    assert leader.end_offset_for_epoch(2) == (1, 3)
    assert point_of_divergence(follower, 1, 3) == 3
