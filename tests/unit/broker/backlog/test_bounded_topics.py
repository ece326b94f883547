"""Topics with a bound of their backlog, on a whole broker: what producers meet, and what makes room."""

from collections.abc import Sequence

import pytest
import trio
import trio.testing
from tests.support.group_calls import GroupCalls
from tests.support.logs import batch
from tests.support.memory_broker import MemoryBroker, memory_broker
from tests.support.memory_files import MemoryFiles
from tests.support.memory_metadata import MemoryMetadata
from tests.support.partition_bench import settle

from penstock.protocol.api import ApiKey
from penstock.protocol.checksum import crc32c
from penstock.protocol.compression import Codec
from penstock.protocol.errors import ErrorCode
from penstock.protocol.record_batch import DELETE_HORIZON_FLAG, HEADER_SIZE_BYTES, read_batch_header
from penstock.protocol.records import Record, encode_batch, seal_batch

NONE, FULL, TIMED_OUT = ErrorCode.NONE, ErrorCode.POLICY_VIOLATION, ErrorCode.REQUEST_TIMED_OUT


def raw(count: int) -> bytes:
    """A batch of so many records."""
    return bytes(batch(count))


def on_another_base(timestamps_ms: Sequence[int], base_ms: int, codec: Codec) -> bytes:
    """A batch whose base timestamp is not that of its first record, as KafkaJS writes them."""
    records = [Record(0, timestamp_ms, None, b"v") for timestamp_ms in timestamps_ms]
    made = bytearray(encode_batch(records, codec=codec, delete_horizon_ms=base_ms))
    made[22] &= ~DELETE_HORIZON_FLAG
    made[17:21] = crc32c(made[21:]).to_bytes(4)
    return bytes(made)


async def produce(broker: MemoryBroker, count: int, **more: int) -> int:
    """Produce a batch of so many records; the code."""
    (answer,) = await broker.produced("orders", raw(count), **more)
    return int(answer.error_code)


async def bounded(broker: MemoryBroker, **configs: str) -> GroupCalls:
    """A topic whose backlog for group "g" is bounded to ten records, and the group's client."""
    given = {"backlog_groups": "g", **({} if configs else {"backlog_max_records": "10"}), **configs}
    await broker.create("orders", 1, **given)
    calls = GroupCalls(broker)
    await calls.find()
    return calls


async def test_an_append_is_refused_exactly_where_it_would_pass_the_bound() -> None:
    async with memory_broker() as broker:
        calls = await bounded(broker)
        assert await produce(broker, 50) == NONE, "no group counts yet"
        await calls.commit(offsets={0: 45})
        assert await produce(broker, 6) == FULL
        assert await produce(broker, 5) == NONE
        assert await produce(broker, 1) == FULL
        await calls.commit(offsets={0: 46})
        assert await produce(broker, 1) == NONE


async def test_a_refusal_names_partition_bound_backlog_and_group() -> None:
    async with memory_broker() as broker:
        calls = await bounded(broker)
        await calls.commit(offsets={0: 0})
        await produce(broker, 8)
        (answer,) = await broker.produced("orders", raw(3))
        assert (answer.error_code, answer.base_offset) == (FULL, -1)
        assert answer.error_message == (
            "orders-0: backlog.max.records=10: the backlog is 8 records, the batch has 3; "
            "group g has consumed up to offset 0 of 8"
        )


async def test_the_slowest_counted_group_decides_and_others_do_not() -> None:
    async with memory_broker() as broker:
        calls = await bounded(broker, backlog_max_records="10", backlog_groups="g,h")
        await produce(broker, 10)
        await calls.commit("elsewhere", {0: 0})
        assert await produce(broker, 10) == NONE
        await calls.commit("g", {0: 20})
        await calls.commit("h", {0: 12})
        assert await produce(broker, 3) == FULL
        await calls.commit("h", {0: 13})
        assert await produce(broker, 3) == NONE


async def test_a_group_that_is_deleted_or_lost_its_offset_counts_no_more() -> None:
    async with memory_broker() as broker:
        calls = await bounded(broker, backlog_max_records="10", backlog_groups="*")
        await calls.commit("g", {0: 0})
        await produce(broker, 10)
        assert await produce(broker, 1) == FULL
        await calls.call(ApiKey.DELETE_GROUPS, groups_names=["g"])
        assert await produce(broker, 1) == NONE
        await calls.commit("h", {0: 0})
        assert await produce(broker, 1) == FULL


async def test_a_reset_above_the_bound_admits_nothing_until_it_has_fallen() -> None:
    async with memory_broker() as broker:
        calls = await bounded(broker)
        await calls.commit(offsets={0: 0})
        for offset in (10, 20):
            assert await produce(broker, 10) == NONE
            await calls.commit(offsets={0: offset})
        await calls.commit(offsets={0: 5})
        assert await produce(broker, 1) == FULL
        await calls.commit(offsets={0: 11})
        assert (await produce(broker, 1), await produce(broker, 1)) == (NONE, FULL)


async def test_what_is_deleted_counts_no_more() -> None:
    async with memory_broker() as broker:
        calls = await bounded(broker)
        await calls.commit(offsets={0: 0})
        await produce(broker, 10)
        await broker.broker.retention.cut({broker.partition(): 4}, "asked for")
        assert (await produce(broker, 5), await produce(broker, 4)) == (FULL, NONE)


async def test_a_bound_that_is_set_later_counts_what_is_committed_already() -> None:
    async with memory_broker() as broker:
        await broker.create("orders")
        calls = GroupCalls(broker)
        await calls.find()
        await produce(broker, 10)
        await calls.commit(offsets={0: 4})
        await broker.configure("orders", backlog_max_records="8", backlog_groups="g")
        assert (await produce(broker, 3), await produce(broker, 2)) == (FULL, NONE)
        await broker.configure("orders", backlog_max_records="9", backlog_groups="g")
        assert (await produce(broker, 1), await produce(broker, 1)) == (NONE, FULL)
        await broker.configure("orders")
        assert await produce(broker, 10) == NONE
        assert broker.partition().gate is None


async def test_a_restarted_broker_admits_nothing_before_it_has_read_the_groups() -> None:
    files, store = MemoryFiles(), MemoryMetadata()
    async with memory_broker(files=files, store=store) as broker:
        calls = await bounded(broker)
        await calls.commit(offsets={0: 0})
        assert await produce(broker, 10) == NONE
    async with memory_broker(files=files, store=store) as broker:
        assert await produce(broker, 1) == FULL


@pytest.mark.parametrize("policy", ["reject", "hold"])
async def test_until_the_groups_are_known_a_batch_waits_and_then_meets_the_bound(
    policy: str, autojump_clock: trio.testing.MockClock
) -> None:
    files, store = MemoryFiles(), MemoryMetadata()
    async with memory_broker(files=files, store=store) as broker:
        calls = await bounded(broker, backlog_max_records="10", backlog_policy=policy)
        await calls.commit(offsets={0: 0})
        assert await produce(broker, 8) == NONE
    async with memory_broker(files=files, store=store) as broker:
        await settle()
        gate = broker.partition().gate
        assert gate is not None
        gate.rule.is_known = False
        fits = broker.produce("orders", raw(2))
        over = broker.produce("orders", raw(1))
        await settle()
        assert broker.partition().log.log_end_offset == 8
        gate.told_all({"g": 0})
        codes = [
            (await broker.answer(one)).responses[0].partition_responses[0].error_code for one in (fits, over)
        ]
        assert codes == [NONE, FULL if policy == "reject" else TIMED_OUT]
        assert broker.partition().log.log_end_offset == 10


async def test_a_batch_sent_again_is_known_however_full_the_backlog_is() -> None:
    async with memory_broker() as broker:
        calls = await bounded(broker)
        await calls.commit(offsets={0: 0})
        sent = bytes(batch(10, producer_id=7))
        first = await broker.produced("orders", sent)
        again = await broker.produced("orders", sent)
        assert [(one.error_code, one.base_offset) for one in (*first, *again)] == [(NONE, 0)] * 2


async def test_what_a_new_producer_has_sent_behind_its_refused_first_batch_is_out_of_order() -> None:
    async with memory_broker() as broker:
        calls = await bounded(broker)
        await calls.commit(offsets={0: 0})
        await produce(broker, 9)

        async def send(sequence: int, count: int) -> int:
            sent = bytes(batch(count, producer_id=7, sequence=sequence))
            return int((await broker.produced("orders", sent))[0].error_code)

        assert await send(0, 2) == FULL
        await calls.commit(offsets={0: 9})
        assert await send(2, 1) == ErrorCode.OUT_OF_ORDER_SEQUENCE_NUMBER
        assert (await send(0, 1), await send(1, 1)) == (NONE, NONE), "it takes the sequence back"


async def test_what_is_held_behind_a_batch_that_has_waited_in_vain_is_to_be_sent_again_with_it(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with memory_broker() as broker:
        calls = await bounded(broker, backlog_max_records="10", backlog_policy="hold")
        await calls.commit(offsets={0: 0})
        await produce(broker, 9)
        first = broker.produce("orders", bytes(batch(2, producer_id=7)), timeout_ms=1000)
        second = broker.produce("orders", bytes(batch(1, producer_id=7, sequence=2)), timeout_ms=9000)
        codes = [
            (await broker.answer(one)).responses[0].partition_responses[0].error_code
            for one in (first, second)
        ]
        assert codes == [TIMED_OUT, TIMED_OUT], "not out of order: nobody is to give up a sequence"
        assert broker.partition().log.log_end_offset == 9


# Bytes and age


@pytest.mark.parametrize("codec", [Codec.NONE, Codec.ZSTD])
async def test_bytes_count_from_the_batch_that_holds_the_first_unconsumed_record(codec: Codec) -> None:
    one = bytes(batch([b"v" * 100] * 10, codec=codec))
    async with memory_broker() as broker:
        calls = await bounded(broker, backlog_max_bytes=str(3 * len(one)))
        await calls.commit(offsets={0: 0})
        codes = [(await broker.produced("orders", one))[0].error_code for _ in range(4)]
        assert codes == [NONE, NONE, NONE, FULL]
        await calls.commit(offsets={0: 9})
        (refused,) = await broker.produced("orders", one)
        assert refused.error_message == (
            f"orders-0: backlog.max.bytes={3 * len(one)}: the backlog is {3 * len(one)} bytes, "
            f"the batch has {len(one)}; group g has consumed up to offset 9 of 30"
        )
        await calls.commit(offsets={0: 10})
        assert [(await broker.produced("orders", one))[0].error_code for _ in range(2)] == [NONE, FULL]
        await calls.commit(offsets={0: 35})
        assert [(await broker.produced("orders", one))[0].error_code for _ in range(3)] == [NONE, NONE, FULL]


async def test_bytes_are_counted_over_segments_and_after_a_restart() -> None:
    files, store = MemoryFiles(), MemoryMetadata()
    one = raw(10)
    async with memory_broker(files=files, store=store) as broker:
        calls = await bounded(broker, backlog_max_bytes=str(8 * len(one)), segment_bytes=str(3 * len(one)))
        await calls.commit(offsets={0: 5})
        codes = [(await broker.produced("orders", one))[0].error_code for _ in range(9)]
        assert codes == [NONE] * 8 + [FULL]
        assert len(broker.partition().log.segments) == 3
    async with memory_broker(files=files, store=store) as broker:
        assert await produce(broker, 10) == FULL
        await GroupCalls(broker).commit(offsets={0: 25})
        assert [(await broker.produced("orders", one))[0].error_code for _ in range(3)] == [NONE, NONE, FULL]


@pytest.mark.parametrize("codec", [Codec.NONE, Codec.GZIP])
async def test_age_is_that_of_the_first_unconsumed_record(
    codec: Codec, autojump_clock: trio.testing.MockClock
) -> None:
    async with memory_broker() as broker:
        now_ms = broker.broker.clock.wall_ms()
        calls = await bounded(broker, backlog_max_age_ms="60000")
        await calls.commit(offsets={0: 0})
        old = bytes(batch(2, timestamps_ms=[now_ms - 100_000, now_ms - 1_000], codec=codec))
        codes = [(await broker.produced("orders", old))[0].error_code for _ in range(2)]
        assert codes == [NONE, FULL]
        (refused,) = await broker.produced("orders", old)
        assert (
            "backlog.max.age.ms=60000: the oldest of 2 records in the backlog is 1000"
            in refused.error_message
        )
        await calls.commit(offsets={0: 1})
        assert await produce(broker, 1) == NONE
        await calls.commit(offsets={0: 0})
        assert await produce(broker, 1) == FULL
        await calls.commit(offsets={0: 3})
        assert await produce(broker, 1) == NONE, "all is consumed"


async def test_with_append_time_age_counts_from_the_append(autojump_clock: trio.testing.MockClock) -> None:
    async with memory_broker() as broker:
        now_ms = broker.broker.clock.wall_ms()
        configs = {"backlog_max_age_ms": "60000", "message_timestamp_type": "LogAppendTime"}
        calls = await bounded(broker, **configs)
        await calls.commit(offsets={0: 0})
        old = bytes(batch(1, timestamps_ms=[now_ms - 100_000]))
        codes = [(await broker.produced("orders", old))[0].error_code for _ in range(2)]
        assert codes == [NONE, NONE]
        await trio.sleep(61)
        assert await produce(broker, 1) == FULL


@pytest.mark.parametrize("codec", [Codec.NONE, Codec.GZIP])
async def test_the_base_timestamp_need_not_be_that_of_the_first_record(codec: Codec) -> None:
    async with memory_broker() as broker:
        now_ms = broker.broker.clock.wall_ms()
        calls = await bounded(broker, backlog_max_age_ms="60000")
        await calls.commit(offsets={0: 0})
        sent = on_another_base([now_ms, now_ms - 100_000], now_ms - 100_000, codec)
        codes = [(await broker.produced("orders", sent))[0].error_code for _ in range(2)]
        assert codes == [NONE, NONE]
        await calls.commit(offsets={0: 1})
        assert await produce(broker, 1) == FULL


@pytest.mark.parametrize("record", [b"", b"\x80", b"\x02"])
async def test_a_batch_without_the_record_that_it_promises_is_appended_whole_or_not_at_all(
    record: bytes,
) -> None:
    """Nobody looks into records on the way in, but an age asks for the first one's time."""
    made = bytearray(raw(1)[:HEADER_SIZE_BYTES] + record)
    made[8:12] = (len(made) - 12).to_bytes(4)
    made[17:21] = crc32c(made[21:]).to_bytes(4)
    async with memory_broker() as broker:
        calls = await bounded(broker, backlog_max_age_ms="60000")
        await calls.commit(offsets={0: 0})
        (answer,) = await broker.produced("orders", bytes(made))
        assert answer.error_code == NONE
        partition = broker.partition()
        assert partition.high_watermark == partition.log.log_end_offset == 1


@pytest.mark.parametrize("codec", [Codec.NONE, Codec.GZIP])
@pytest.mark.parametrize("payload", [b"\x80" * 9, b"no records at all"])
async def test_records_that_nobody_can_read_have_the_largest_time_of_their_batch(
    codec: Codec, payload: bytes
) -> None:
    """Their checksum is right, so they are in the log: the next producers, and the broker, must not end by them."""
    async with memory_broker() as broker:
        now_ms = broker.broker.clock.wall_ms()
        calls = await bounded(broker, backlog_max_age_ms="60000")
        await calls.commit(offsets={0: 0})
        whole = encode_batch(
            [Record(0, now_ms - 100_000, None, b"v"), Record(0, now_ms, None, b"v")], codec=codec
        )
        sent = bytes(seal_batch(read_batch_header(whole), payload))
        codes = [(await broker.produced("orders", sent))[0].error_code for _ in range(3)]
        assert codes == [NONE] * 3
        await calls.commit(offsets={0: 1})
        assert await produce(broker, 1) == NONE


async def test_a_log_that_is_cut_while_it_is_looked_at_is_looked_at_again() -> None:
    async with memory_broker() as broker:
        calls = await bounded(broker, backlog_max_bytes=str(18 * len(raw(1))))
        for _ in range(20):
            await produce(broker, 1)
        await calls.commit(offsets={0: 2})
        broker.threads.hold("find_place")
        answer = broker.produce("orders", raw(1))
        await settle()
        assert broker.threads.waiting("find_place") == 1
        await broker.broker.retention.cut({broker.partition(): 4}, "asked for")
        broker.threads.release_all()
        assert (await broker.answer(answer)).responses[0].partition_responses[0].error_code == NONE


async def test_what_is_held_stays_held_while_the_log_is_cut_that_is_looked_at() -> None:
    async with memory_broker() as broker:
        calls = await bounded(broker, backlog_max_bytes=str(18 * len(raw(1))), backlog_policy="hold")
        for _ in range(20):
            await produce(broker, 1)
        await calls.commit(offsets={0: 1})
        answer = broker.produce("orders", raw(1))
        await settle()
        gate = broker.partition().gate
        assert gate is not None
        assert len(gate.held) == 1
        broker.threads.hold("find_place")
        await calls.commit(offsets={0: 2})
        await settle()
        assert broker.threads.waiting("find_place") == 1
        await broker.broker.retention.cut({broker.partition(): 4}, "asked for")
        broker.threads.release_all()
        assert (await broker.answer(answer)).responses[0].partition_responses[0].error_code == NONE


async def test_a_commit_backwards_while_the_log_is_looked_at_counts() -> None:
    one = len(raw(1))
    async with memory_broker() as broker:
        calls = await bounded(broker, backlog_max_records="30", backlog_max_bytes=str(19 * one))
        for _ in range(20):
            await produce(broker, 1)
        await calls.commit(offsets={0: 2})
        broker.threads.hold("find_place")
        too_many = broker.produce("orders", raw(11))
        await settle()
        assert broker.threads.waiting("find_place") == 1
        await calls.commit(offsets={0: 0})
        broker.threads.release_all()
        assert (await broker.answer(too_many)).responses[0].partition_responses[0].error_code == FULL
        assert await produce(broker, 1) == FULL


async def test_a_batch_sent_again_moves_no_place() -> None:
    async with memory_broker() as broker:
        first, second = (bytes(batch(2, producer_id=5, sequence=sequence)) for sequence in (0, 2))
        calls = await bounded(broker, backlog_max_bytes=str(len(second) + len(raw(1))))
        for sent in (first, second, first):
            assert [part.error_code for part in await broker.produced("orders", sent)] == [NONE]
        await calls.commit(offsets={0: 2})
        assert await produce(broker, 1) == NONE
        assert await produce(broker, 1) == FULL


# Hold


async def test_held_batches_go_out_in_order_as_room_comes() -> None:
    async with memory_broker() as broker:
        calls = await bounded(broker, backlog_max_records="10", backlog_policy="hold")
        await calls.commit(offsets={0: 0})
        await produce(broker, 10)
        waiting = [broker.produce("orders", raw(n), timeout_ms=60_000) for n in (3, 1, 2)]
        await calls.commit(offsets={0: 2})
        assert broker.partition().log.log_end_offset == 10, "none goes before the one that came first"
        await calls.commit(offsets={0: 4})
        await calls.commit(offsets={0: 6})
        offsets = [
            (await broker.answer(one)).responses[0].partition_responses[0].base_offset for one in waiting
        ]
        assert offsets == [10, 13, 14]


async def test_half_of_the_timeout_ends_the_wait_with_nothing_appended(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with memory_broker() as broker:
        calls = await bounded(broker, backlog_max_records="10", backlog_policy="hold")
        await calls.commit(offsets={0: 0})
        await produce(broker, 10)
        started = trio.current_time()
        assert await produce(broker, 1, timeout_ms=200) == TIMED_OUT
        assert trio.current_time() - started == pytest.approx(0.1)
        await calls.commit(offsets={0: 10})
        assert broker.partition().log.log_end_offset == 10


async def test_who_is_behind_one_that_has_waited_in_vain_goes_on_without_waiting_for_a_commit(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with memory_broker() as broker:
        calls = await bounded(broker, backlog_max_records="10", backlog_policy="hold")
        await calls.commit(offsets={0: 0})
        await produce(broker, 9)
        large = broker.produce("orders", raw(3), timeout_ms=1000)
        small = broker.produce("orders", raw(1), timeout_ms=60_000)
        codes = [
            (await broker.answer(one)).responses[0].partition_responses[0].error_code
            for one in (large, small)
        ]
        assert codes == [TIMED_OUT, NONE]
        assert trio.current_time() < 1


async def test_a_batch_that_is_larger_than_the_bound_is_refused_by_every_policy() -> None:
    async with memory_broker() as broker:
        calls = await bounded(broker, backlog_max_records="10", backlog_policy="hold")
        await calls.commit(offsets={0: 0})
        assert await produce(broker, 11) == FULL
