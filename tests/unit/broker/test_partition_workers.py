"""What of a partition's work waits for the disk: it is a worker which waits, with everything in order behind it, whoever leads by then."""

import pytest
from tests.support.logs import batch
from tests.support.memory_files import MemoryFiles
from tests.support.partition_bench import ME, partition_bench, settle

from penstock.broker.partition_appends import SLOW_APPEND_S
from penstock.protocol.errors import ErrorCode

NOBODY, OTHER = -1, 2


async def test_full_disk_keeps_workers_waiting_and_not_the_event_loop() -> None:
    async with partition_bench() as bench:
        await bench.warm_up()
        bench.files.capacity_bytes = bench.files.used_bytes() + 20
        bench.send()
        assert bench.threads.calls["append"] == 0
        for _ in range(3):
            bench.send()
        await settle()
        assert bench.threads.calls["append"] == 3
        bench.files.capacity_bytes = 1 << 40
        bench.send()
        await settle()
        sent = bench.send()
        await settle()
        assert (sent.code, bench.threads.calls["append"]) == (ErrorCode.NONE, 4), "it is fast again"


async def test_repetition_that_only_the_log_knows_is_looked_for_on_a_worker_and_in_order() -> None:
    """A snapshot holds one batch of a producer; the others of the last five are on the disk."""
    files = MemoryFiles()
    async with partition_bench(files) as bench:
        for number in range(3):
            bench.send(raw=batch(producer_id=9, sequence=number))
            await settle()
        bench.log.close()
    async with partition_bench(files) as bench:
        bench.threads.hold("recall_producer")
        again = bench.send(raw=batch(producer_id=9, sequence=1))
        behind = bench.send(raw=batch(producer_id=9, sequence=3))
        await settle()
        assert {again.code, behind.code} == {ErrorCode.REQUEST_TIMED_OUT}
        bench.threads.release("recall_producer")
        await settle()
        assert (again.result.base_offset, behind.result.base_offset) == (1, 3)
        gap = bench.send(raw=batch(producer_id=9, sequence=7))
        assert (gap.is_final, gap.code) == (True, ErrorCode.OUT_OF_ORDER_SEQUENCE_NUMBER)
        assert bench.threads.calls["recall_producer"] == 1, "once for each producer"


@pytest.mark.parametrize("between", [NOBODY, OTHER])
async def test_slow_append_that_ended_while_this_broker_did_not_lead_is_synced_when_it_leads_again(
    between: int,
) -> None:
    """The high watermark stayed below the start of the epoch until somebody produced, and who waits for it first never did."""
    async with partition_bench() as bench:
        await bench.warm_up()
        bench.clock.append_cost_s = 2 * SLOW_APPEND_S
        bench.send()
        bench.clock.append_cost_s = 0
        bench.threads.hold("append")
        sent = bench.send()
        await settle()
        bench.lead(2, leader=between, replicas=(ME, OTHER))
        bench.threads.release("append")
        await settle()
        assert sent.code == ErrorCode.NOT_LEADER_OR_FOLLOWER
        assert bench.log.durable_end_offset < bench.log.log_end_offset
        bench.lead(3, replicas=(ME, OTHER))
        await settle()
        assert bench.partition.high_watermark == bench.partition.epoch_start_offset == 3


async def test_epoch_that_begins_with_all_durable_syncs_nothing() -> None:
    async with partition_bench() as bench:
        await bench.warm_up()
        before = bench.threads.calls["sync"]
        bench.lead(2)
        await settle()
        assert bench.threads.calls["sync"] == before
