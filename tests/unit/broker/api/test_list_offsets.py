"""A new leader tells no end of the log that a client could have seen beyond (KIP-207)."""

import pytest
from tests.support.leadership import OTHER, change_leader
from tests.support.logs import batch
from tests.support.memory_broker import MemoryBroker, memory_broker

from penstock.broker.api import list_offsets
from penstock.protocol.api import ApiKey
from penstock.protocol.errors import ErrorCode
from penstock.protocol.message import Message

ME = 1
EARLIEST, LATEST, MAX_TIMESTAMP, LATER = -2, -1, -3, 2**60


async def look_up(memory: MemoryBroker, timestamp: int, version: int = 10) -> tuple[int, int]:
    """Code and offset."""
    partition = Message(partition_index=0, current_leader_epoch=-1, timestamp=timestamp)
    answer = await memory.call(
        list_offsets.handle,
        ApiKey.LIST_OFFSETS,
        version,
        replica_id=-1,
        topics=[Message(name="orders", partitions=[partition])],
    )
    found = answer.topics[0].partitions[0]
    return found.error_code, found.offset


async def lead_anew(memory: MemoryBroker) -> None:
    """Three records, and then lead in an epoch whose start is not committed yet, as far as this broker knows: only the first record is."""
    await memory.create("orders")
    for _ in range(3):
        await memory.produced("orders", bytes(batch()))
    partition = memory.partition()
    await change_leader(memory, "orders", leader=OTHER)
    partition.machine.high_watermark = partition.high_watermark = 1
    await change_leader(memory, "orders", leader=ME, isr=(ME, OTHER))
    assert (partition.high_watermark, partition.machine.epoch_start_offset) == (1, 3)


@pytest.mark.parametrize("timestamp", [LATEST, LATER])
@pytest.mark.parametrize(
    ("version", "code"), [(4, ErrorCode.LEADER_NOT_AVAILABLE), (5, ErrorCode.OFFSET_NOT_AVAILABLE)]
)
async def test_the_end_is_not_known_before_the_epochs_start_is_committed(
    timestamp: int, version: int, code: ErrorCode
) -> None:
    async with memory_broker() as memory:
        await lead_anew(memory)
        assert await look_up(memory, timestamp, version) == (code, -1)
        assert await look_up(memory, EARLIEST, version) == (0, 0)
        assert await look_up(memory, 0, version) == (0, 0), "what is committed can be found by its time"
        await change_leader(memory, "orders", leader=ME, isr=(ME,), raises_epoch=False)
        assert await look_up(memory, timestamp, version) == (0, 3 if timestamp == LATEST else -1)
