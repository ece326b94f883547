"""Producer ids: no two alike, whatever is lost."""

import pytest
import trio
from tests.support.memory_metadata import Fault, MemoryMetadata
from trio.testing import wait_all_tasks_blocked

from penstock.broker import keys
from penstock.broker.errors import ApiError
from penstock.broker.producer_ids import BLOCK_SIZE, PREFETCH_BELOW, ProducerIds
from penstock.protocol.errors import ErrorCode
from penstock.runtime.metadata import Put


async def test_ids_differ_among_brokers_and_blocks(nursery: trio.Nursery) -> None:
    store = MemoryMetadata()
    brokers = [ProducerIds(store, nursery.start_soon) for _ in range(3)]
    ids = [await broker.allocate() for _ in range(BLOCK_SIZE + 5) for broker in brokers]
    assert len(set(ids)) == len(ids)
    assert min(ids) == 0


async def test_concurrent_requests_share_blocks_and_never_an_id(nursery: trio.Nursery) -> None:
    store = MemoryMetadata()
    producer_ids = ProducerIds(store, nursery.start_soon)
    taken: list[int] = []

    async def take(count: int) -> None:
        for _ in range(count):
            taken.append(await producer_ids.allocate())

    async with trio.open_nursery() as takers:
        for _ in range(50):
            takers.start_soon(take, BLOCK_SIZE // 20)
    assert len(set(taken)) == 50 * BLOCK_SIZE // 20
    await wait_all_tasks_blocked()
    assert store.transaction_count <= 5, (
        "two and a half blocks; a prefetch that comes late may take one more each"
    )


async def test_the_next_block_is_there_before_the_last_id_is_taken(nursery: trio.Nursery) -> None:
    store = MemoryMetadata()
    producer_ids = ProducerIds(store, nursery.start_soon)
    for _ in range(BLOCK_SIZE - PREFETCH_BELOW):
        await producer_ids.allocate()
    await wait_all_tasks_blocked()
    assert store.transaction_count == 2
    store.fail_next(Fault.UNAVAILABLE)
    ids = [await producer_ids.allocate() for _ in range(PREFETCH_BELOW + 1)]
    assert ids[-1] == BLOCK_SIZE
    assert store.transaction_count == 2, "nobody had to wait for the store"


async def test_a_lost_reply_costs_a_block_and_gives_no_id_twice(nursery: trio.Nursery) -> None:
    store = MemoryMetadata()
    first, second = (ProducerIds(store, nursery.start_soon) for _ in range(2))
    store.fail_next(Fault.LOST_REPLY)
    with pytest.raises(ApiError) as caught:
        await first.allocate()
    assert caught.value.code == ErrorCode.COORDINATOR_LOAD_IN_PROGRESS
    assert caught.value.code.is_retriable
    assert [await second.allocate(), await first.allocate()] == [BLOCK_SIZE, 2 * BLOCK_SIZE]


async def test_a_restart_loses_the_rest_of_a_block(nursery: trio.Nursery) -> None:
    store = MemoryMetadata()
    assert await ProducerIds(store, nursery.start_soon).allocate() == 0
    assert await ProducerIds(store, nursery.start_soon).allocate() == BLOCK_SIZE


async def test_a_failed_prefetch_is_made_up_for_by_who_needs_it(nursery: trio.Nursery) -> None:
    store = MemoryMetadata()
    producer_ids = ProducerIds(store, nursery.start_soon)
    await producer_ids.allocate()
    store.fail_next(Fault.UNAVAILABLE)
    ids: list[int] = []
    for _ in range(BLOCK_SIZE):
        ids.append(await producer_ids.allocate())
        await trio.lowlevel.checkpoint()
    assert ids == list(range(1, BLOCK_SIZE + 1))
    assert store.transaction_count == 3


async def test_ids_run_out_with_an_error(nursery: trio.Nursery) -> None:
    store = MemoryMetadata()
    await store.transact([], [Put(keys.PRODUCER_IDS_KEY, keys.encode_next_producer_id(2**63 - 500))])
    with pytest.raises(ApiError):
        await ProducerIds(store, nursery.start_soon).allocate()
