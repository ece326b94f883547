"""A producer's next batch behind one that the leader has refused for a moment."""

import math

from tests.support.logs import batch
from tests.support.memory_broker import memory_broker
from tests.support.partition_bench import partition_bench, settle

from penstock.broker.refused_gaps import MEMORY_S
from penstock.protocol.errors import ErrorCode

NONE, NOT_LEADER = ErrorCode.NONE, ErrorCode.NOT_LEADER_OR_FOLLOWER


async def test_batch_behind_one_that_was_refused_for_a_moment_looks_like_a_gap() -> None:
    """librdkafka would begin a new epoch for it, and what it has in flight elsewhere would be there twice."""
    async with partition_bench() as bench:
        await bench.warm_up()
        bench.send(raw=batch(producer_id=9))
        bench.lease.deadline = -math.inf
        first = bench.send(raw=batch(producer_id=9, sequence=1))
        bench.lease.deadline = math.inf
        behind = bench.send(raw=batch(producer_id=9, sequence=2))
        assert (first.code, behind.code) == (NOT_LEADER, NOT_LEADER)
        again = [bench.send(raw=batch(producer_id=9, sequence=number)) for number in (1, 2)]
        await settle()
        assert [sent.code for sent in again] == [NONE, NONE]


async def test_second_batch_of_a_new_producer_is_taken_before_its_first_that_was_refused() -> None:
    async with partition_bench() as bench:
        await bench.warm_up()
        bench.lease.deadline = -math.inf
        first = bench.send(raw=batch(producer_id=9))
        bench.lease.deadline = math.inf
        behind = bench.send(raw=batch(producer_id=9, sequence=1))
        assert (first.code, behind.code) == (NOT_LEADER, NOT_LEADER)
        again = [bench.send(raw=batch(producer_id=9, sequence=number)) for number in (0, 1)]
        await settle()
        assert [sent.code for sent in again] == [NONE, NONE]


async def test_second_batch_of_a_new_producer_is_taken_before_its_first_that_was_too_large() -> None:
    """The first is split and sent again, and would come behind it."""
    async with partition_bench() as bench:
        await bench.warm_up()
        bench.change(max_message_bytes=100)
        first = bench.send(raw=batch([bytes(200)] * 2, producer_id=9))
        behind = bench.send(raw=batch(producer_id=9, sequence=2))
        assert (first.code, behind.code) == (
            ErrorCode.MESSAGE_TOO_LARGE,
            ErrorCode.OUT_OF_ORDER_SEQUENCE_NUMBER,
        )
        again = [bench.send(raw=batch(producer_id=9, sequence=number)) for number in (0, 1, 2)]
        await settle()
        assert [sent.code for sent in again] == [NONE, NONE, NONE]


async def test_second_batch_of_a_new_producer_is_taken_before_its_first_that_came_before_the_partition() -> (
    None
):
    async with memory_broker() as broker:
        codes = [(await broker.produced("orders", bytes(batch(producer_id=9))))[0].error_code]
        await broker.create("orders", 1)
        for sequence in (1, 0, 1):
            sent = bytes(batch(producer_id=9, sequence=sequence))
            codes.append((await broker.produced("orders", sent))[0].error_code)
        assert codes == [ErrorCode.UNKNOWN_TOPIC_OR_PARTITION, NOT_LEADER, NONE, NONE]


async def test_who_was_forgotten_goes_on_though_others_send_what_is_refused() -> None:
    async with partition_bench() as bench:
        await bench.warm_up()
        damaged = batch()
        damaged[-1] ^= 1
        assert bench.send(raw=damaged).code == ErrorCode.CORRUPT_MESSAGE
        bench.change(max_message_bytes=100)
        assert bench.send(raw=batch([bytes(200)])).code == ErrorCode.MESSAGE_TOO_LARGE
        assert (
            bench.send(raw=batch([bytes(200)], producer_id=8, sequence=3)).code == ErrorCode.MESSAGE_TOO_LARGE
        )
        sent = bench.send(raw=batch(producer_id=9, sequence=7))
        await settle()
        assert sent.code == NONE


async def test_producer_whose_first_batches_were_deleted_can_not_go_on_once_nothing_was_refused_lately() -> (
    None
):
    async with partition_bench() as bench:
        await bench.warm_up()
        sent = bench.send(raw=batch(producer_id=9, sequence=7))
        await settle()
        assert sent.code == NONE


async def test_gap_is_told_long_after_a_refusal() -> None:
    async with partition_bench() as bench:
        await bench.warm_up()
        bench.send(raw=batch(producer_id=9))
        bench.lease.deadline = -math.inf
        bench.send(raw=batch(producer_id=9, sequence=1))
        bench.lease.deadline = math.inf
        bench.clock.spent_s += MEMORY_S
        assert bench.send(raw=batch(producer_id=9, sequence=2)).code == ErrorCode.OUT_OF_ORDER_SEQUENCE_NUMBER
