"""A broker of a cluster stops without a moment in which its partitions have no leader."""

import logging
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise

import pytest
import trio
from tests.support.controllers import cluster as cluster_without_logs
from tests.support.controllers import put_states
from tests.support.machine_cluster import MemoryCluster, server_cluster
from tests.support.memory_files import MemoryFiles
from tests.support.memory_metadata import Fault, MemoryMetadata
from tests.support.scripted_threads import ScriptedThreads
from trio.testing import MockClock, wait_all_tasks_blocked

from penstock import Producer
from penstock.broker import keys
from penstock.broker.handover import hand_over
from penstock.broker.keys import NO_LEADER, PartitionState
from penstock.broker.registration import SIGN_OFF_S, SIGN_OFF_UNHEARD_S
from penstock.runtime.metadata import Compare, Delete, MetadataUnavailable, Put, Snapshot, TransactionResult
from penstock.runtime.network import AddressError

S = PartitionState


async def leaders_during_stop(cluster: MemoryCluster, stopping: int, watcher: int) -> list[int]:
    """Who led partition 0 of "orders", as another broker saw it, while one stopped; duplicates in a row left out."""
    seen: list[int] = []

    def note(_: object) -> None:
        leader = cluster.states("orders", seen_by=watcher)[0].leader
        if not seen or seen[-1] != leader:
            seen.append(leader)

    cluster.broker(watcher).watch.listen(note)
    await cluster.stop(stopping)
    await wait_all_tasks_blocked()
    return seen


@pytest.mark.parametrize("controller_stops", [True, False])
async def test_leadership_moves_before_a_broker_stops(
    controller_stops: bool, autojump_clock: MockClock
) -> None:
    order = (1, 2, 3) if controller_stops else (2, 1, 3)
    async with server_cluster(*order) as cluster:
        await cluster.create("orders", (1, 2, 3), (2, 1, 3))
        began = trio.current_time()
        assert await leaders_during_stop(cluster, 1, 3) == [1, 2], "never without a leader"
        assert trio.current_time() - began < 0.2
        assert cluster.states("orders", seen_by=3) == [S((1, 2, 3), (2, 3), 2, 1), S((2, 1, 3), (2, 3), 2, 0)]
        assert 1 not in cluster.broker(3).image.brokers


async def test_producers_hardly_notice_a_stop(autojump_clock: MockClock) -> None:
    async with server_cluster(1, 2, 3) as cluster, trio.open_nursery() as nursery:
        await cluster.create("orders", (1, 2, 3), min_insync_replicas="2")
        client = replace(cluster.broker(2).environment, files=MemoryFiles(), threads=ScriptedThreads())
        acked: list[float] = []

        async def produce() -> None:
            async with Producer("10.0.0.2:9092,10.0.0.3:9092", client) as producer:
                while True:
                    await producer.send("orders", b"x", partition=0)
                    acked.append(trio.current_time())
                    await trio.sleep(0.02)

        nursery.start_soon(produce)
        await trio.sleep(0.5)
        await cluster.stop(1)
        await trio.sleep(0.5)
        nursery.cancel_scope.cancel()
        assert len(acked) > 30
        assert max(later - earlier for earlier, later in pairwise(acked)) < 0.2


async def test_a_broker_that_is_back_is_unfenced_and_in_its_place(autojump_clock: MockClock) -> None:
    async with server_cluster(1, 2) as cluster:
        await cluster.create("alone", (1,))
        await cluster.stop(1)
        await wait_all_tasks_blocked()
        assert cluster.states("alone", seen_by=2) == [S((1,), (1,), NO_LEADER, 1)]
        await cluster.start(1)
        await wait_all_tasks_blocked()
        assert not cluster.broker(2).image.brokers[1].is_fenced
        assert cluster.states("alone", seen_by=2) == [S((1,), (1,), 1, 2)]


async def test_without_controlled_shutdown_the_lease_ends_the_leadership(autojump_clock: MockClock) -> None:
    async with server_cluster(1, 2, controlled_shutdown_enable="false") as cluster:
        await cluster.create("orders", (1, 2))
        seen: list[bool] = []
        cluster.broker(2).watch.listen(
            lambda _: seen.append(1 in (b := cluster.broker(2).image.brokers) and b[1].is_fenced)
        )
        await cluster.stop(1)
        await wait_all_tasks_blocked()
        assert not any(seen)
        assert cluster.states("orders", seen_by=2) == [S((1, 2), (2,), 2, 1)]


async def test_the_last_in_sync_does_not_wait_for_what_cannot_come(autojump_clock: MockClock) -> None:
    async with server_cluster(1, 2) as cluster:
        await cluster.create("alone", (1,))
        began = trio.current_time()
        await cluster.stop(1)
        assert trio.current_time() - began < 0.2


async def test_all_brokers_at_once_stop_at_once(autojump_clock: MockClock) -> None:
    async with server_cluster(1, 2, 3) as cluster:
        await cluster.create("orders", (1, 2, 3), (2, 3, 1), (3, 1, 2))
        began = trio.current_time()
        async with trio.open_nursery() as nursery:
            for node_id in (1, 2, 3):
                nursery.start_soon(cluster.stop, node_id)
        assert trio.current_time() - began < 0.5


async def test_without_a_controller_the_patience_ends(autojump_clock: MockClock) -> None:
    async with cluster_without_logs(1, 2) as (store, brokers):
        await put_states(store, [S((1, 2), (1, 2), 1, 0)])
        stuck = keys.encode_controller(keys.ControllerClaim(9, "elsewhere"))
        await store.transact([], [Put(keys.CONTROLLER_KEY, stuck)])
        began = trio.current_time()
        assert not await hand_over(brokers[1].registration, brokers[1].watch, 3)
        assert trio.current_time() - began == pytest.approx(3)  # pyright: ignore[reportUnknownMemberType]


class HangingStore(MemoryMetadata):
    """Takes calls and does not answer, from a moment on."""

    hangs = False

    async def answer(self) -> None:
        if self.hangs:
            await trio.sleep_forever()

    async def transact(
        self, compares: Sequence[Compare], operations: Sequence[Put | Delete]
    ) -> TransactionResult:
        await self.answer()
        return await super().transact(compares, operations)

    async def keep_alive(self, lease_id: int) -> None:
        await self.answer()
        await super().keep_alive(lease_id)

    async def revoke_lease(self, lease_id: int) -> None:
        await self.answer()
        await super().revoke_lease(lease_id)


async def test_a_store_that_does_not_answer_is_not_asked_again_by_a_stop(autojump_clock: MockClock) -> None:
    async with cluster_without_logs(1, 2) as (store, brokers):
        await put_states(store, [S((1, 2), (1, 2), 1, 0)])
        store.fail_next(*[Fault.UNAVAILABLE] * 1000)
        began = trio.current_time()
        assert not await hand_over(brokers[1].registration, brokers[1].watch, 3)
        assert trio.current_time() == began


async def test_a_stop_long_after_the_store_was_lost_waits_for_nothing(autojump_clock: MockClock) -> None:
    store = HangingStore()
    async with cluster_without_logs(1, 2, store=store) as (_, brokers):
        await put_states(store, [S((1, 2), (1, 2), 1, 0)])
        store.hangs = True
        await trio.sleep(10)
        began = trio.current_time()
        assert not await hand_over(brokers[1].registration, brokers[1].watch, 3)
        assert trio.current_time() == began
        await brokers[1].stop()
        assert trio.current_time() - began <= SIGN_OFF_UNHEARD_S


async def test_a_store_that_hangs_as_a_broker_stops_holds_it_up_for_its_patience_only(
    autojump_clock: MockClock,
) -> None:
    store = HangingStore()
    async with cluster_without_logs(1, 2, store=store) as (_, brokers):
        await put_states(store, [S((1, 2), (1, 2), 1, 0)])
        store.hangs = True
        began = trio.current_time()
        assert not await hand_over(brokers[1].registration, brokers[1].watch, 3)
        await brokers[1].stop()
        assert trio.current_time() - began <= 3 + SIGN_OFF_S


async def test_an_outage_while_a_broker_starts_does_not_hold_it_up(autojump_clock: MockClock) -> None:
    async with server_cluster(1) as cluster:
        # Registering needs one transaction; all later ones fail.
        cluster.store.fail_next(None, *[Fault.UNAVAILABLE] * 40)
        with trio.fail_after(5):
            await cluster.start(2)
        await cluster.stop(2)


class LostOnceRegistered(MemoryMetadata):
    """Can't be read for a while from the first snapshot on; registering reads once."""

    def __init__(self, failing_count: int) -> None:
        super().__init__()
        self.failing_reads = range(1, 1 + failing_count)
        self.read_count = 0

    async def range(self, prefix: str) -> Snapshot:
        self.read_count += 1
        if self.read_count - 1 in self.failing_reads:
            raise MetadataUnavailable("told to fail")
        return await super().range(prefix)


async def test_a_store_lost_between_registering_and_the_first_snapshot_is_waited_for(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    async with server_cluster() as cluster:
        cluster.store = LostOnceRegistered(40)
        with trio.fail_after(40):
            await cluster.start(1)
        assert cluster.broker(1).image.brokers.keys() == {1}
        assert caplog.text.count("waiting for the metadata store") == 1
        assert "the metadata store answers" in caplog.text
        await cluster.stop(1)


async def test_a_broker_that_waits_for_the_store_refuses_clients_and_stops_at_once(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    async with server_cluster() as cluster, trio.open_nursery() as nursery:
        cluster.store = LostOnceRegistered(1000)
        nursery.start_soon(cluster.start, 1)
        await trio.sleep(10)
        with pytest.raises(
            AddressError
        ):  # a client that is refused asks another broker; one that waits may do nothing else
            await cluster.network.connect("10.0.0.1", 9092)
        began = trio.current_time()
        await cluster.stop(1)
        assert trio.current_time() - began < 0.1
        assert "told to stop while waiting for the metadata store" in caplog.text
        nursery.cancel_scope.cancel()
