"""The partition's shell: who is acked when, what queues behind what, and what a failing or slow disk does to it."""

import pytest
import trio
from tests.support.batches import with_right_crc
from tests.support.logs import NOW_MS, OUTPUT_MAX_BYTES, batch, read_batches, read_values
from tests.support.memory_files import MemoryFiles
from tests.support.partition_bench import ME, Sent, partition_bench, settle

from penstock.broker.partition import GONE
from penstock.broker.partition_appends import SLOW_APPEND_S
from penstock.broker.partition_machine import Closed
from penstock.broker.partition_settings import HELD_OVERHEAD_BYTES
from penstock.broker.rewrite import Rewriter
from penstock.protocol.compression import Codec
from penstock.protocol.errors import ErrorCode
from penstock.protocol.record_batch import TRANSACTIONAL_FLAG, read_batch_header
from penstock.protocol.records import Record, decode_records, encode_batch
from penstock.runtime.files import DiskError, DiskFull, StorageError
from penstock.storage.log_config import LogConfig

NONE, TIMED_OUT = ErrorCode.NONE, ErrorCode.REQUEST_TIMED_OUT
STORAGE_ERROR, NOT_LEADER = ErrorCode.KAFKA_STORAGE_ERROR, ErrorCode.NOT_LEADER_OR_FOLLOWER
ALL, LEADER, NOTHING = -1, 1, 0


def offsets(sent: list[Sent]) -> list[int]:
    return [one.result.base_offset for one in sent]


# Acks


async def test_one_sync_serves_all_that_came_before_it() -> None:
    async with partition_bench() as bench:
        await bench.warm_up()
        before = bench.threads.calls["sync"]
        bench.threads.hold("sync", after=True)
        sent = [bench.send() for _ in range(65)]
        await settle()
        assert [one.is_final for one in sent] == [False] * 65
        bench.threads.release("sync")
        await settle()
        assert [one.done_count for one in sent] == [1] * 65
        assert offsets(sent) == list(range(1, 66))
        assert bench.threads.calls["sync"] - before <= 2


@pytest.mark.parametrize("acks", [ALL, LEADER])
async def test_nothing_is_acked_before_its_sync_has_completed(acks: int) -> None:
    async with partition_bench() as bench:
        await bench.warm_up()
        bench.threads.hold("sync", after=True)
        first = bench.send(acks)
        await settle()
        second = bench.send(acks)
        assert (first.code, second.code, bench.partition.high_watermark) == (TIMED_OUT, TIMED_OUT, 1)
        bench.threads.release_one("sync")  # it began before the second came
        await settle()
        assert (first.code, first.done_count) == (NONE, 1)
        assert (second.code, second.done_count, bench.partition.high_watermark) == (TIMED_OUT, 0, 2)
        bench.threads.release("sync")
        await settle()
        assert (second.code, second.done_count, bench.partition.high_watermark) == (NONE, 1, 3)


async def test_acks_0_waits_for_nothing_and_is_synced_all_the_same() -> None:
    async with partition_bench() as bench:
        await bench.warm_up()
        assert bench.send(NOTHING).is_final
        await settle()
        assert (bench.log.durable_end_offset, bench.partition.high_watermark) == (2, 2)


@pytest.mark.parametrize("acks", [ALL, LEADER, NOTHING])
async def test_write_caching_acks_in_the_same_turn_without_a_sync(acks: int) -> None:
    async with partition_bench(write_caching=True) as bench:
        await bench.warm_up()
        sent = bench.send(acks)
        assert (sent.is_final, sent.code, sent.result.base_offset) == (True, NONE, 1)
        assert bench.partition.high_watermark == 2
        await settle()
        assert bench.threads.calls["sync"] == 0


async def test_write_caching_turned_off_syncs_and_acks_only_what_is_durable() -> None:
    async with partition_bench(write_caching=True) as bench:
        await bench.warm_up()
        raw = batch(producer_id=5)
        first = bench.send(raw=bytearray(raw))
        assert first.is_final
        bench.threads.hold("sync", after=True)
        bench.change(write_caching=False)
        again = bench.send(raw=bytearray(raw))
        assert bench.partition.high_watermark == 2, "what was visible stays visible"
        assert (again.is_final, again.code) == (False, TIMED_OUT), "it is not durable yet"
        bench.threads.release("sync")
        await settle()
        assert (again.code, again.result.base_offset, bench.log.durable_end_offset) == (NONE, 1, 2)


async def test_write_caching_turned_off_syncs_what_was_appended_before() -> None:
    async with partition_bench(write_caching=True) as bench:
        await bench.warm_up()
        bench.change(write_caching=False)
        await settle()
        assert bench.log.durable_end_offset == 1


async def test_write_caching_turned_on_lets_go_whoever_waits_for_a_sync() -> None:
    async with partition_bench() as bench:
        await bench.warm_up()
        bench.threads.hold("sync", after=True)
        sent = [bench.send(acks) for acks in (ALL, LEADER, ALL)]
        await settle()
        bench.change(write_caching=True)
        assert [one.code for one in sent] == [NONE] * 3


async def test_too_few_replicas_refuse_acks_all_only() -> None:
    async with partition_bench(min_insync_replicas=2) as bench:
        bench.lead(2, replicas=(ME, 2))
        assert bench.send(ALL).code == ErrorCode.NOT_ENOUGH_REPLICAS
        one = bench.send(LEADER)
        await settle()
        assert (one.code, bench.partition.high_watermark) == (NONE, 0), "kept, but not committed"


async def test_flush_messages_reached_during_a_sync_has_a_sync_of_its_own() -> None:
    async with partition_bench(write_caching=True, flush_messages=1) as bench:
        await bench.warm_up()
        bench.threads.hold("sync", after=True)
        bench.send()
        await settle()
        bench.send()
        bench.threads.release("sync")
        await settle()
        assert bench.log.durable_end_offset == 3


async def test_flush_ms_syncs_once_and_then_rests() -> None:
    async with partition_bench(write_caching=True, flush_ms=1000) as bench:
        await bench.warm_up()
        bench.partition.flush_if_due(bench.clock.monotonic() + 0.5)
        await settle()
        assert bench.log.durable_end_offset == 0
        bench.partition.flush_if_due(bench.clock.monotonic() + 1.5)
        await settle()
        assert (bench.log.durable_end_offset, bench.threads.calls["sync"]) == (1, 1)
        bench.partition.flush_if_due(bench.clock.monotonic() + 3)
        await settle()
        assert bench.threads.calls["sync"] == 1


# Failing disks


async def test_failed_sync_is_never_acked_and_never_repeated() -> None:
    async with partition_bench() as bench:
        await bench.warm_up()
        bench.files.fail("datasync", DiskError)
        sent = [bench.send(acks) for acks in (ALL, LEADER, ALL)]
        await settle()
        assert [(one.code, one.done_count) for one in sent] == [(STORAGE_ERROR, 1)] * 3
        assert offsets(sent) == [-1] * 3
        assert bench.send().code == STORAGE_ERROR
        await settle()
        assert (bench.partition.high_watermark, bench.threads.calls["sync"]) == (1, 2)


async def test_bug_in_a_sync_takes_the_partition_offline_and_not_the_broker() -> None:
    async with partition_bench() as bench:
        await bench.warm_up()
        bench.threads.fail_once("sync", ValueError("a bug"))
        sent = bench.send()
        await settle()
        assert (sent.code, sent.done_count) == (STORAGE_ERROR, 1)
        assert bench.send().code == STORAGE_ERROR


async def test_bug_in_a_job_of_the_lane_answers_and_lets_the_next_one_run() -> None:
    async with partition_bench() as bench:
        bench.threads.fail_once("prepare_append", ValueError("a bug"))
        first, second = bench.send(), bench.send()
        await settle()
        assert (first.code, first.done_count) == (ErrorCode.UNKNOWN_SERVER_ERROR, 1)
        assert (second.code, second.done_count, second.result.base_offset) == (NONE, 1, 0)
        assert bench.held_bytes == 0


async def test_full_disk_refuses_and_goes_on_when_there_is_room() -> None:
    async with partition_bench() as bench:
        await bench.warm_up()
        bench.files.capacity_bytes = bench.files.used_bytes() + 20
        refused = bench.send()
        assert (refused.is_final, refused.code) == (True, STORAGE_ERROR)
        with bench.partition.read(0, 1 << 20) as part:
            assert part.count > 0, "reads go on"
        bench.files.capacity_bytes = 1 << 40
        sent = bench.send()
        await settle()
        assert (sent.code, sent.result.base_offset) == (NONE, 1)
        assert [offset for offset, _ in read_values(bench.log)] == [0, 1]


async def test_full_disk_at_a_roll_refuses_and_goes_on_when_there_is_room() -> None:
    async with partition_bench(log_config=LogConfig(segment_bytes=100)) as bench:
        await bench.warm_up()
        bench.files.capacity_bytes = bench.files.used_bytes()
        refused = bench.send()
        await settle()
        assert (refused.code, refused.done_count) == (STORAGE_ERROR, 1)
        bench.files.capacity_bytes = 1 << 40
        sent = bench.send()
        await settle()
        assert (sent.code, sent.result.base_offset, len(bench.log.segments)) == (NONE, 1, 2)


async def test_directory_taken_away_refuses_a_roll_and_not_the_broker() -> None:
    async with partition_bench(log_config=LogConfig(segment_bytes=100)) as bench:
        await bench.warm_up()
        bench.files.remove_tree(bench.log.directory)
        sent = bench.send()
        await settle()
        assert (sent.code, sent.done_count, bench.held_bytes) == (STORAGE_ERROR, 1, 0)


async def test_log_that_fails_under_a_deletion_of_segments_answers_those_who_wait() -> None:
    async with partition_bench() as bench:
        await bench.warm_up()
        bench.threads.hold("sync", after=True)
        waiting = bench.send()
        await settle()

        def fail() -> None:
            bench.files.fail("datasync", DiskError)
            bench.log.prepare_append(2)

        with pytest.raises(StorageError):
            await bench.partition.run_in_lane(fail)
        assert waiting.code == STORAGE_ERROR
        bench.threads.release("sync")


# The lane


async def test_first_append_of_an_epoch_goes_through_the_lane() -> None:
    async with partition_bench(write_caching=True) as bench:
        first = bench.send()
        assert (first.is_final, first.code) == (False, TIMED_OUT)
        await settle()
        assert (first.code, first.done_count, bench.threads.calls["prepare_append"]) == (NONE, 1, 1)
        bench.lead(2)
        assert not bench.send().is_final
        await settle()
        assert bench.threads.calls["prepare_append"] == 2
        assert bench.log.epoch_entries == ((1, 0), (2, 1))


async def test_order_is_kept_while_a_roll_is_queued() -> None:
    async with partition_bench(write_caching=True, log_config=LogConfig(segment_bytes=200)) as bench:
        await bench.warm_up()
        bench.threads.hold("roll")
        sent = [bench.send() for _ in range(10)]
        await settle()
        assert bench.threads.waiting("roll") == 1
        assert not any(one.is_final for one in sent[3:])
        assert bench.held_bytes > 0
        bench.threads.release("roll")
        await settle()
        assert offsets(bench.sent) == list(range(11))
        assert [value for _, value in read_values(bench.log)] == [b"v%d" % n for n in range(1, 12)]
        assert bench.held_bytes == 0


async def test_batch_that_still_fits_waits_behind_one_that_needs_a_roll() -> None:
    async with partition_bench(write_caching=True, log_config=LogConfig(segment_bytes=200)) as bench:
        await bench.warm_up()
        bench.threads.hold("roll")
        large, small = bench.send(raw=batch([bytes(100)])), bench.send()
        await settle()
        assert not small.is_final
        bench.threads.release("roll")
        await settle()
        assert offsets([large, small]) == [1, 2]


async def test_slow_disk_takes_appends_off_the_loop_until_it_is_fast_again() -> None:
    async with partition_bench(write_caching=True) as bench:
        await bench.warm_up()
        bench.clock.append_cost_s = 2 * SLOW_APPEND_S
        assert bench.send().is_final, "this one showed it"
        later = bench.send()
        assert not later.is_final
        await settle()
        assert (later.code, bench.threads.calls["append"]) == (NONE, 1)
        bench.clock.append_cost_s = 0
        assert not bench.send().is_final
        await settle()
        assert bench.send().is_final
        assert (bench.threads.calls["append"], offsets(bench.sent)) == (2, [0, 1, 2, 3, 4])


async def test_order_is_kept_behind_a_slow_append() -> None:
    async with partition_bench(write_caching=True) as bench:
        await bench.warm_up()
        bench.clock.append_cost_s = 2 * SLOW_APPEND_S
        bench.send()
        bench.threads.hold("append", after=True)
        sent = [bench.send() for _ in range(5)]
        await settle()
        assert bench.threads.calls["append"] == 1, "one at a time"
        bench.clock.append_cost_s = 0
        bench.threads.release("append")
        await settle()
        assert (offsets(sent), bench.threads.calls["append"]) == ([2, 3, 4, 5, 6], 1)


async def test_slow_append_that_is_not_done_reads_as_a_timeout() -> None:
    """The answer may be sent at any moment: it must not look like an ack before the append has been made."""
    async with partition_bench() as bench:
        await bench.warm_up()
        bench.clock.append_cost_s = 2 * SLOW_APPEND_S
        bench.send(NOTHING)
        bench.threads.hold("append")
        sent = bench.send()
        await settle()
        assert (bench.threads.waiting("append"), sent.code) == (1, TIMED_OUT)
        bench.threads.release("append")
        await settle()
        assert (sent.code, sent.done_count) == (NONE, 1)


async def test_small_batches_that_wait_count_with_what_they_really_take() -> None:
    async with partition_bench() as bench:
        for _ in range(10):
            bench.send(NOTHING)
        assert bench.held_bytes > 10 * HELD_OVERHEAD_BYTES
        await settle()
        assert bench.held_bytes == 0


@pytest.mark.parametrize("held", ["prepare_append", "roll", "append", "Rewriter"])
@pytest.mark.parametrize("acks", [ALL, LEADER, NOTHING])
async def test_leadership_lost_while_a_worker_is_busy_is_told_at_once_and_nothing_is_appended_after(
    held: str, acks: int
) -> None:
    rewriter = Rewriter(log_append_time=False, codec=None, level=None, require_keys=True)
    config = LogConfig(segment_bytes=100 if held == "roll" else 1 << 20)
    async with partition_bench(log_config=config, rewriter=None) as bench:
        if held != "prepare_append":
            await bench.warm_up()
        if held == "append":
            bench.clock.append_cost_s = 2 * SLOW_APPEND_S
            bench.send(NOTHING)
        if held == "Rewriter":
            bench.change(rewriter=rewriter)
        end = bench.log.log_end_offset
        bench.threads.hold(held, after=True)
        raw = bytearray(encode_batch([Record(0, NOW_MS, b"key", b"value")], codec=Codec.NONE))
        sent = bench.send(acks, raw)
        await settle()
        assert bench.threads.waiting(held) == 1
        bench.lead(2, leader=2, isr=(2,))
        bench.threads.release(held)
        await settle()
        assert (sent.code, sent.done_count) == (NOT_LEADER, 1)
        assert bench.log.log_end_offset == end + (held == "append")


async def test_epoch_that_begins_during_a_slow_append_begins_behind_it() -> None:
    async with partition_bench(write_caching=True) as bench:
        await bench.warm_up()
        bench.clock.append_cost_s = 2 * SLOW_APPEND_S
        bench.send()
        bench.threads.hold("append")
        bench.send()
        await settle()
        bench.lead(2)
        bench.threads.release("append")
        await settle()
        last = read_batch_header(read_batches(bench.log)[-1])
        assert (last.base_offset, last.partition_leader_epoch) == (2, 1)
        assert (bench.log.epoch_at(2), bench.partition.epoch_start_offset) == (1, 3)


async def test_closing_answers_those_who_wait_and_takes_nothing_more() -> None:
    async with partition_bench() as bench:
        await bench.warm_up()
        bench.threads.hold("sync", after=True)
        waiting = bench.send()
        await settle()
        bench.change(rewriter=Rewriter(log_append_time=False, codec=None, level=None, require_keys=False))
        bench.threads.hold("Rewriter", after=True)
        queued = bench.send()
        await settle()
        is_quiet = trio.Event()
        async with trio.open_nursery() as nursery:

            async def quiesce() -> None:
                await bench.partition.quiesce()
                is_quiet.set()

            nursery.start_soon(quiesce)
            await settle()
            assert (waiting.code, bench.send().code) == (NOT_LEADER, NOT_LEADER)
            assert not is_quiet.is_set()
            bench.threads.release("sync")
            await settle()
            assert not is_quiet.is_set(), "a job is under way still"
            bench.threads.release("Rewriter")
        assert (queued.code, queued.done_count) == (NOT_LEADER, 1)
        assert bench.log.log_end_offset == 2


# What is refused, and what is changed


async def test_wrong_checksum_is_refused_and_appends_nothing() -> None:
    async with partition_bench() as bench:
        raw = batch()
        raw[-1] ^= 1
        sent = bench.send(raw=raw)
        assert (sent.is_final, sent.code) == (True, ErrorCode.CORRUPT_MESSAGE)
        assert bench.log.log_end_offset == 0


async def test_limits_of_the_topic_are_kept() -> None:
    async with partition_bench(
        max_message_bytes=100, timestamp_after_max_ms=5, timestamp_before_max_ms=5
    ) as b:
        assert b.send(raw=batch([bytes(200)])).code == ErrorCode.MESSAGE_TOO_LARGE
        assert b.send(raw=batch(timestamps_ms=NOW_MS + 6)).code == ErrorCode.INVALID_TIMESTAMP
        assert b.send(raw=batch(timestamps_ms=NOW_MS - 6)).code == ErrorCode.INVALID_TIMESTAMP
        assert b.send(raw=batch(timestamps_ms=NOW_MS + 5)).code == TIMED_OUT
        assert b.send(raw=batch(timestamps_ms=-1)).code == TIMED_OUT, "no timestamp is no wrong timestamp"
        assert b.send(raw=batch(2, timestamps_ms=[-1, NOW_MS + 5])).code == TIMED_OUT
        late = batch(2, timestamps_ms=[-1, NOW_MS + 6])
        assert b.send(raw=late).code == ErrorCode.INVALID_TIMESTAMP, "the first record's lack is its own"
        raw = bytearray(
            encode_batch(
                [Record(0, NOW_MS, None, b"v")],
                codec=Codec.NONE,
                producer_id=1,
                producer_epoch=0,
                base_sequence=0,
            )
        )
        raw[22] |= TRANSACTIONAL_FLAG
        assert b.send(raw=with_right_crc(raw)).code == ErrorCode.INVALID_TXN_STATE


async def test_log_append_time_replaces_any_timestamp() -> None:
    rewriter = Rewriter(log_append_time=True, codec=None, level=None, require_keys=False)
    config = LogConfig(log_append_time=True)
    async with partition_bench(log_config=config, rewriter=rewriter, timestamp_after_max_ms=5) as bench:
        sent = bench.send(raw=batch(2, timestamps_ms=NOW_MS + 1_000_000))
        await settle()
        assert (sent.code, sent.result.log_append_time_ms) == (NONE, NOW_MS)
        (stored,) = read_batches(bench.log)
        records = decode_records(memoryview(stored), output_max_bytes=OUTPUT_MAX_BYTES)
        assert [record.timestamp for record in records] == [NOW_MS] * 2


async def test_batch_is_compressed_anew_for_the_topic() -> None:
    rewriter = Rewriter(log_append_time=False, codec=Codec.GZIP, level=None, require_keys=False)
    async with partition_bench(rewriter=rewriter) as bench:
        sent = bench.send(raw=batch([b"a" * 100] * 3))
        await settle()
        (stored,) = read_batches(bench.log)
        assert (sent.code, read_batch_header(stored).codec) == (NONE, Codec.GZIP)
        assert [value for _, value in read_values(bench.log)] == [b"a" * 100] * 3


async def test_batch_that_grows_over_the_limit_when_rewritten_is_refused() -> None:
    rewriter = Rewriter(log_append_time=False, codec=Codec.NONE, level=None, require_keys=False)
    async with partition_bench(rewriter=rewriter, max_message_bytes=1000) as bench:
        sent = bench.send(raw=batch([bytes(5000)], codec=Codec.GZIP))
        assert not sent.is_final
        await settle()
        assert (sent.code, sent.done_count) == (ErrorCode.MESSAGE_TOO_LARGE, 1)
        assert bench.log.log_end_offset == 0


async def test_record_without_a_key_is_refused_by_a_compacted_topic() -> None:
    rewriter = Rewriter(log_append_time=False, codec=None, level=None, require_keys=True)
    async with partition_bench(rewriter=rewriter) as bench:
        sent = bench.send()
        await settle()
        assert (sent.code, sent.result.error_message) == (
            ErrorCode.INVALID_RECORD,
            "a record without a key on a compacted topic",
        )
        assert bench.log.log_end_offset == 0


async def test_records_that_can_not_be_unpacked_are_refused_where_they_have_to_be() -> None:
    rewriter = Rewriter(log_append_time=False, codec=Codec.NONE, level=None, require_keys=False)
    raw = batch([b"a" * 100], codec=Codec.GZIP)
    raw[-10:] = bytes(10)
    async with partition_bench(rewriter=rewriter) as bench:
        sent = bench.send(raw=with_right_crc(raw))
        await settle()
        assert (sent.code, bench.log.log_end_offset) == (ErrorCode.CORRUPT_MESSAGE, 0)


async def test_repeated_batch_is_answered_with_its_first_offset_and_not_before_it_is_durable() -> None:
    async with partition_bench() as bench:
        await bench.warm_up()
        bench.threads.hold("sync", after=True)
        raw = batch(producer_id=9)
        first, again = bench.send(raw=bytearray(raw)), bench.send(raw=bytearray(raw))
        await settle()
        assert (again.code, bench.log.log_end_offset) == (TIMED_OUT, 2)
        bench.threads.release("sync")
        await settle()
        assert (first.code, again.code, offsets([first, again])) == (NONE, NONE, [1, 1])


async def test_gap_in_sequence_is_refused() -> None:
    async with partition_bench() as bench:
        await bench.warm_up()
        bench.send(raw=batch(producer_id=9))
        assert bench.send(raw=batch(producer_id=9, sequence=5)).code == ErrorCode.OUT_OF_ORDER_SEQUENCE_NUMBER


# Those who wait for data


async def test_waiting_fetch_is_told_of_bytes_when_they_become_visible_and_of_each_once() -> None:
    async with partition_bench() as bench:
        await bench.warm_up()
        told: list[int] = []
        bench.partition.fetch_waiters.add(told.append)
        size = len(batch([b"v1"]))
        bench.threads.hold("sync", after=True)
        bench.send()
        await settle()
        raw = batch([b"v1"], producer_id=4)
        bench.send(raw=bytearray(raw))
        bench.send(raw=raw)  # once more, which shows nothing new
        bench.send()
        assert told == [], "nothing is visible before its sync"
        bench.threads.release_one("sync")
        await settle()
        assert told == [size]
        bench.threads.release("sync")
        await settle()
        assert told == [size, 2 * size]


async def test_waiting_fetch_is_told_when_the_partition_goes() -> None:
    async with partition_bench() as bench:
        told: list[int] = []
        bench.partition.fetch_waiters.add(told.append)
        bench.partition.step(Closed())
        assert told == [GONE]


async def test_read_on_a_worker_ends_at_the_high_watermark() -> None:
    async with partition_bench() as bench:
        await bench.warm_up()
        bench.threads.hold("sync", after=True)
        bench.send()
        with await bench.partition.read_cold(0, 1 << 20) as part:
            assert part.count == len(batch([b"v1"]))
        bench.threads.release("sync")


async def test_producers_on_a_full_disk_do_not_fill_the_log(
    autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    """Each one sends again several times a second; one line every ten seconds is enough to know."""
    async with partition_bench() as bench:
        await bench.warm_up()
        bench.files.capacity_bytes = bench.files.used_bytes() + 20
        for _ in range(50):
            bench.send()
        await settle()
        assert {sent.code for sent in bench.sent[1:]} == {STORAGE_ERROR}
        assert len(caplog.records) == 1
        await trio.sleep(10)
        bench.send()
        await settle()
        assert len(caplog.records) == 2


async def test_full_disk_error_of_an_append_names_it(caplog: pytest.LogCaptureFixture) -> None:
    files = MemoryFiles()
    async with partition_bench(files) as bench:
        await bench.warm_up()
        files.fail("pwrite", DiskFull)
        assert bench.send().code == STORAGE_ERROR
        assert "orders-0" in caplog.text
