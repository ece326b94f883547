"""What of a partition's work waits for the disk, and that it is a worker which waits, with everything in order behind it."""

from tests.support.logs import batch
from tests.support.memory_files import MemoryFiles
from tests.support.partition_bench import partition_bench, settle

from penstock.protocol.errors import ErrorCode


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
