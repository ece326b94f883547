"""Fetches far behind the end of a log: how much they get beside hot traffic and when, and who is never made to wait."""

import pytest
import trio
from tests.support.batches import values_of
from tests.support.followed_broker import TOPIC_ID, VERSION, FollowedBroker, followed_broker
from tests.support.logs import batch
from tests.support.memory_broker import MemoryBroker, held_slices, memory_broker
from tests.support.memory_files import MemoryFiles
from tests.support.memory_metadata import MemoryMetadata
from tests.support.memory_server import HOST, PORT, memory_server
from trio.testing import MockClock, wait_all_tasks_blocked

from penstock.broker.cold_reads import CHUNK_BYTES, HOT_S
from penstock.broker.replies import Reply
from penstock.client.admin import Admin
from penstock.client.admin_quotas import DEFAULT_ENTITY, QuotaEntity
from penstock.client.connection import ConnectionSettings, open_connection
from penstock.protocol.api import ApiKey
from penstock.protocol.message import Message

FAR_BYTES = 100_000
BATCH_RECORDS = 50
BATCH = bytes(batch([b"x" * 1000] * BATCH_RECORDS))
BATCH_COUNT = 2 * (CHUNK_BYTES // len(BATCH)) + 6
END = BATCH_COUNT * BATCH_RECORDS


async def fill(broker: MemoryBroker, topic: str = "orders", batch_count: int = BATCH_COUNT) -> None:
    """A log whose first chunks are far from its end."""
    for _ in range(batch_count):
        await broker.produced(topic, BATCH, acks=1)
    broker.partition(topic).log.segments[0].pool.far_bytes = FAR_BYTES


def produce_something(broker: MemoryBroker) -> None:
    """Let there be hot traffic, as the dispatcher says it."""
    broker.broker.hot_bytes += 100


def size_of(parts: list[Message]) -> list[int]:
    return [len(part.records) for part in parts]


async def test_without_hot_traffic_a_far_fetch_gets_all_that_it_asks_for(autojump_clock: MockClock) -> None:
    async with memory_broker() as broker:
        await broker.create("orders")
        await fill(broker)
        begin = trio.current_time()
        for _ in range(3):
            assert size_of(await broker.fetched(("orders", 0, 0), max_wait_ms=500)) == [
                BATCH_COUNT * len(BATCH)
            ]
        assert trio.current_time() == begin


async def test_beside_hot_traffic_far_fetches_get_a_chunk_at_a_time_and_wait_for_their_turn(
    autojump_clock: MockClock,
) -> None:
    async with memory_broker() as broker:
        await broker.create("orders")
        await fill(broker)
        waits: list[float] = []
        for _ in range(3):
            produce_something(broker)
            begin = trio.current_time()
            assert size_of(await broker.fetched(("orders", 0, 0), max_wait_ms=500)) == [CHUNK_BYTES]
            waits.append(trio.current_time() - begin)
        assert [wait > 0 for wait in waits] == [False, True, True]
        assert max(waits) < 0.1, "the fetch goes on at its turn and not when its time is up"
        assert not held_slices(list(broker.broker.partitions))
        await trio.sleep(HOT_S)
        assert size_of(await broker.fetched(("orders", 0, 0))) == [BATCH_COUNT * len(BATCH)]


async def test_a_fetch_that_wants_more_than_a_chunk_is_answered_with_one(autojump_clock: MockClock) -> None:
    async with memory_broker() as broker:
        await broker.create("orders")
        await fill(broker)
        produce_something(broker)
        begin = trio.current_time()
        wanted = CHUNK_BYTES + 1
        parts = await broker.fetched(("orders", 0, 0), max_wait_ms=10_000, min_bytes=wanted)
        assert (size_of(parts), trio.current_time()) == ([CHUNK_BYTES], begin)


async def test_who_keeps_pace_never_waits(autojump_clock: MockClock) -> None:
    async with memory_broker() as broker:
        await broker.create("orders")
        await fill(broker)
        begin = trio.current_time()
        for _ in range(3):
            produce_something(broker)
            await broker.fetched(("orders", 0, 0), max_wait_ms=0)
            near = END - BATCH_RECORDS * (FAR_BYTES // len(BATCH))
            (part,) = await broker.fetched(("orders", 0, near), max_wait_ms=500)
            assert values_of(bytes(part.records))[-1][0] == END - 1
        assert trio.current_time() == begin


async def test_a_far_partition_does_not_keep_a_hot_one_of_the_same_fetch_waiting(
    autojump_clock: MockClock,
) -> None:
    async with memory_broker() as broker:
        await broker.create("orders")
        await broker.create("other")
        await fill(broker)
        produce_something(broker)
        wanted = (("orders", 0, 0), ("other", 0, 0))
        assert size_of(await broker.fetched(*wanted, max_wait_ms=500)) == [CHUNK_BYTES, 0]
        begin = trio.current_time()
        outcome = broker.fetch(*wanted, max_wait_ms=500)
        assert isinstance(outcome, Reply)
        assert not outcome.ready
        produce_something(broker)
        await broker.produced("other", BATCH)
        assert outcome.ready
        answer = await broker.answer(outcome)
        assert [size_of(topic.partitions) for topic in answer.responses] == [[0], [len(BATCH)]]
        assert trio.current_time() == begin


async def test_one_fetch_takes_one_turn_though_it_names_many_far_partitions(
    autojump_clock: MockClock,
) -> None:
    async with memory_broker() as broker:
        for topic in ("orders", "other"):
            await broker.create(topic)
            await fill(broker, topic)
        produce_something(broker)
        assert size_of(await broker.fetched(("orders", 0, 0), ("other", 0, 0))) == [CHUNK_BYTES, 0]


async def test_a_batch_longer_than_a_chunk_comes_whole(autojump_clock: MockClock) -> None:
    async with memory_broker() as broker:
        await broker.create("orders")
        large = bytes(batch([b"x" * 1000] * 700))
        for _ in range(3):
            await broker.produced("orders", large)
        broker.partition().log.segments[0].pool.far_bytes = FAR_BYTES
        produce_something(broker)
        (part,) = await broker.fetched(("orders", 0, 0))
        assert len(part.records) == len(large) > CHUNK_BYTES


async def test_cold_reads_by_a_worker_wait_for_their_turns_as_well(autojump_clock: MockClock) -> None:
    files, store = MemoryFiles(), MemoryMetadata()
    async with memory_broker(files=files, store=store) as broker:
        await broker.create("orders")
        await fill(broker)
    async with memory_broker(files=files, store=store) as broker:
        broker.partition().log.segments[0].pool.far_bytes = FAR_BYTES
        files.resident = False
        begin = trio.current_time()
        for _ in range(3):
            produce_something(broker)
            assert size_of(await broker.fetched(("orders", 0, 0), max_wait_ms=500)) == [CHUNK_BYTES]
        assert broker.threads.calls["read"] == 3
        assert trio.current_time() > begin


async def test_readers_without_sessions_that_wait_for_less_than_their_queue_all_get_on(
    autojump_clock: MockClock,
) -> None:
    """A turn is the connection's, which finds it when it asks again."""
    async with memory_broker() as broker:
        await broker.create("orders")
        await fill(broker)
        reads = dict.fromkeys(range(20), 0)

        async def read(reader: int) -> None:
            while True:
                produce_something(broker)
                (part,) = await broker.fetched(("orders", 0, 0), max_wait_ms=5, reader=reader)
                reads[reader] += len(part.records) == CHUNK_BYTES

        with trio.move_on_after(1):
            async with trio.open_nursery() as nursery:
                for reader in reads:
                    nursery.start_soon(read, reader)
        assert min(reads.values()) > 5
        assert max(reads.values()) < 1.5 * min(reads.values())


@pytest.mark.parametrize("has_quota", [False, True])
async def test_a_connection_has_one_turn_and_gives_it_back_when_it_ends(
    autojump_clock: MockClock, has_quota: bool
) -> None:
    """Else a client that asks often, or comes often, keeps all others waiting."""
    async with memory_server() as server, trio.open_nursery() as nursery:
        assert server.broker is not None
        broker = MemoryBroker(server.broker, server.files, server.threads)
        await broker.create("orders")
        await fill(broker)
        if has_quota:
            async with Admin(server.bootstrap, server.client("admin")) as admin:
                await admin.alter_quotas({QuotaEntity(client_id=DEFAULT_ENTITY): {"consumer_byte_rate": 1e9}})
        cold, monotonic = broker.broker.cold_reads.consumers, server.clock.monotonic
        produce_something(broker)
        await broker.fetched(("orders", 0, 0))
        wanted = Message(partition=0, fetch_offset=0, partition_max_bytes=1 << 30)
        request = Message(
            max_wait_ms=0,
            min_bytes=1,
            max_bytes=1 << 30,
            session_epoch=-1,
            topics=[Message(topic="orders", partitions=[wanted])],
        )
        network = server.client("reader").network
        settings = ConnectionSettings(client_id="reader")
        connections = [await open_connection(nursery, network, HOST, PORT, settings) for _ in range(10)]
        for _ in range(20):
            for connection in connections:
                produce_something(broker)
                await connection.request(ApiKey.FETCH, request, at_most=12)
        assert 0 < cold.waiting_count <= len(connections)
        for connection in connections:
            connection.close()
        await wait_all_tasks_blocked(0.01)
        assert cold.waiting_count == 0
        assert cold.turn_at("another", monotonic()) - monotonic() < 0.02
        nursery.cancel_scope.cancel()


async def fetch_as(bench: FollowedBroker, node_id: int) -> tuple[int, float]:
    """The bytes that a follower at the start gets, and how long it waits for them."""
    produce_something(bench.broker)
    begin = trio.current_time()
    answer = await bench.fetch_as(node_id, 0, max_wait_ms=500)
    (part,) = answer.responses[0].partitions
    return len(part.records), trio.current_time() - begin


async def test_a_follower_that_catches_up_waits_and_one_in_sync_never_does(autojump_clock: MockClock) -> None:
    async with followed_broker(isr=(1, 2)) as bench:
        await fill(bench.broker)
        await bench.fetch_as(2, END)  # all is committed: who is at the start is not in sync
        for number in range(3):
            size_bytes, waited_s = await fetch_as(bench, 3)
            assert size_bytes == CHUNK_BYTES
            assert (waited_s > 0) == (number > 0)
            assert await fetch_as(bench, 2) == (BATCH_COUNT * len(BATCH), 0.0)


async def test_what_is_appended_to_a_partition_does_not_wake_those_who_are_far_behind_there(
    autojump_clock: MockClock,
) -> None:
    """Else each produce request would be followed by a fetch that brings nothing."""
    async with followed_broker(isr=(1, 2)) as bench:
        broker = bench.broker
        await fill(broker)
        await bench.fetch_as(2, END)
        opened = await bench.fetch_as(3, 0, session=(0, 0))
        for session in ((0, -1), (opened.session_id, 1)):
            await fetch_as(bench, 3)
            await broker.fetched(("orders", 0, 0))  # both have had their turns
            follower = broker.fetch(
                (TOPIC_ID, 0, 0),
                version=VERSION,
                max_wait_ms=500,
                session=session,
                current_leader_epoch=bench.leader_epoch,
                replica_state=Message(replica_id=3, replica_epoch=bench.epochs[3]),
            )
            consumer = broker.fetch(("orders", 0, 0), max_wait_ms=500)
            assert isinstance(follower, Reply)
            assert isinstance(consumer, Reply)
            await broker.produced("orders", BATCH, acks=1)
            assert (follower.ready, consumer.ready) == (False, False)
            begin = trio.current_time()
            for outcome in (follower, consumer):
                (topic,) = (await broker.answer(outcome)).responses
                assert size_of(topic.partitions) == [CHUNK_BYTES]
            assert 0 < trio.current_time() - begin < 0.1
