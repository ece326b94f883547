"""Joining and staying in the cluster: new epochs at every start, and who was replaced gives way."""

import logging
from collections.abc import Sequence

import pytest
import trio
from tests.support.memory_metadata import Fault, MemoryMetadata
from tests.support.metadata_plane import ENDPOINTS, TrioClock, new_random, register_broker
from trio.testing import MockClock

from penstock.broker import keys
from penstock.broker.broker_config import BrokerConfig
from penstock.broker.errors import RegistrationError
from penstock.broker.keys import PartitionState, TopicRecord
from penstock.broker.registration import Registration, join_cluster
from penstock.broker.rejoining import Remains, after_restart
from penstock.broker.transactions import BATCH_SIZE
from penstock.runtime.metadata import (
    OPERATIONS_PER_TRANSACTION_MAX,
    Compare,
    Delete,
    MetadataUnavailable,
    Put,
    Snapshot,
    TransactionResult,
)

TOPIC_ID = bytes([1] * 16)
SESSION_S = 9


def registration(
    store: MemoryMetadata,
    *,
    seed: int = 1,
    directory_id: str = "here",
    node_id: int = 1,
    is_clustered: bool = False,
) -> Registration:
    properties = {"metadata.store": "etcd://tests"} if is_clustered else {}
    config = BrokerConfig.from_properties({"node.id": str(node_id), **properties})
    return Registration(store, config, TrioClock(), new_random(seed), directory_id=directory_id)


async def put_topic(store: MemoryMetadata, states: Sequence[PartitionState]) -> None:
    puts = [
        Put(keys.partition_key(TOPIC_ID, index), keys.encode_partition(state))
        for index, state in enumerate(states)
    ]
    for start in range(0, len(puts), OPERATIONS_PER_TRANSACTION_MAX):
        await store.transact([], puts[start : start + OPERATIONS_PER_TRANSACTION_MAX])
    topic = keys.encode_topic(TopicRecord(TOPIC_ID, len(states)))
    await store.transact([], [Put(keys.topic_key("t"), topic)])


def states(store: MemoryMetadata) -> list[PartitionState]:
    count = sum(key.startswith(keys.PARTITIONS_PREFIX) for key in store.entries)
    found = [store.entries[keys.partition_key(TOPIC_ID, index)] for index in range(count)]
    return [keys.decode_partition(entry.key, entry.value) for entry in found]


# The cluster.


async def test_the_cluster_id_is_made_once() -> None:
    store = MemoryMetadata()
    made = await join_cluster(store, new_random(1))
    assert len(made) == 22
    assert await join_cluster(store, new_random(2)) == made
    assert await join_cluster(store, new_random(2), cluster_id=made) == made


async def test_a_wanted_cluster_id_is_used_for_a_new_store_and_checked_later() -> None:
    store = MemoryMetadata()
    assert await join_cluster(store, new_random(), cluster_id="shop") == "shop"
    with pytest.raises(RegistrationError, match="belongs to cluster shop, not to other"):
        await join_cluster(store, new_random(), cluster_id="other")


async def test_a_store_of_another_format_is_left_alone() -> None:
    store = MemoryMetadata()
    await join_cluster(store, new_random())
    await store.transact([], [Put(keys.FORMAT_KEY, b'{"version":2}')])
    revision = store.revision
    with pytest.raises(RegistrationError, match="format version 2"):
        await join_cluster(store, new_random())
    assert store.revision == revision


async def test_a_lost_reply_makes_no_second_cluster(autojump_clock: MockClock) -> None:
    store = MemoryMetadata()
    store.fail_next(Fault.LOST_REPLY)
    made = await join_cluster(store, new_random(1))
    assert await join_cluster(store, new_random(2)) == made


# Leader epochs.


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (PartitionState((1,), (1,), 1, 4), PartitionState((1,), (1,), 1, 5)),
        (PartitionState((1, 2), (1,), 1, 4), PartitionState((1, 2), (1,), 1, 5)),
        (PartitionState((1, 2), (1, 2), 1, 4), PartitionState((1, 2), (1, 2), -1, 5)),
        (PartitionState((1, 2), (1,), -1, 4), PartitionState((1, 2), (1,), 1, 5)),
        (PartitionState((1, 2), (1, 2), 2, 4), None),
        (PartitionState((1, 2), (1, 2), -1, 4), None),
        (PartitionState((2,), (2,), 2, 4), None),
    ],
)
def test_what_a_restart_does_to_a_partition(before: PartitionState, after: PartitionState | None) -> None:
    assert after_restart(before, 1) == after


async def test_every_start_raises_every_epoch_once_in_batches() -> None:
    store = MemoryMetadata()
    await put_topic(store, [PartitionState((1,), (1,), 1, 0)] * (BATCH_SIZE * 2 + 3))
    count_before = store.transaction_count
    await registration(store).start(ENDPOINTS)
    assert {state.leader_epoch for state in states(store)} == {1}
    assert store.transaction_count - count_before == 1 + 3, "registration with controller, and three batches"
    await registration(store, seed=2).start(ENDPOINTS)
    assert {state.leader_epoch for state in states(store)} == {2}


async def test_a_lost_reply_still_leaves_a_higher_epoch(autojump_clock: MockClock) -> None:
    store = MemoryMetadata()
    await put_topic(store, [PartitionState((1,), (1,), 1, 0)] * 2)
    store.fail_next(None, Fault.LOST_REPLY)
    await registration(store).start(ENDPOINTS)
    assert all(state.leader_epoch >= 1 for state in states(store))


async def test_a_state_that_changes_meanwhile_is_read_again() -> None:
    class Racing(MemoryMetadata):
        """Somebody changes a state between its being read and its being written, once."""

        is_armed = True

        async def range(self, prefix: str) -> Snapshot:
            snapshot = await super().range(prefix)
            if prefix == keys.PARTITIONS_PREFIX and self.is_armed:
                self.is_armed = False
                key = keys.partition_key(TOPIC_ID, 1)
                await self.transact([], [Put(key, keys.encode_partition(PartitionState((1,), (1,), 1, 7)))])
            return snapshot

    store = Racing()
    await put_topic(store, [PartitionState((1,), (1,), 1, 0)] * 2)
    await registration(store).start(ENDPOINTS)
    assert [state.leader_epoch for state in states(store)] == [1, 8]


# The registration itself.


async def test_the_registration_tells_who_and_where() -> None:
    store = MemoryMetadata()
    started = registration(store)
    await started.start(ENDPOINTS)
    entry = store.entries[keys.broker_key(1)]
    value = keys.decode_broker(entry.key, entry.value)
    assert (value.endpoints, value.directory_id) == (ENDPOINTS, "here")
    assert value.incarnation == started.incarnation
    assert entry.lease_id
    assert entry.create_revision == started.create_revision
    claim = keys.decode_controller(store.entries[keys.CONTROLLER_KEY].value)
    assert (claim.node_id, claim.incarnation) == (1, started.incarnation)


async def test_a_second_broker_does_not_take_the_controller_key() -> None:
    store = MemoryMetadata()
    await registration(store).start(ENDPOINTS)
    await registration(store, seed=2, node_id=2, directory_id="there").start(ENDPOINTS)
    assert keys.decode_controller(store.entries[keys.CONTROLLER_KEY].value).node_id == 1
    assert keys.broker_key(2) in store.entries


async def test_a_restart_replaces_what_the_killed_one_left(autojump_clock: MockClock) -> None:
    store = MemoryMetadata()
    await registration(store, seed=1).start(ENDPOINTS)
    began = trio.current_time()
    again = registration(store, seed=2)
    await again.start(ENDPOINTS)
    assert trio.current_time() == began, "the same directory: there is nobody to wait for"
    claim = keys.decode_controller(store.entries[keys.CONTROLLER_KEY].value)
    assert claim.incarnation == again.incarnation


async def test_a_node_id_in_use_by_a_living_broker_is_refused(autojump_clock: MockClock) -> None:
    store = MemoryMetadata()
    first = registration(store, seed=1)
    await first.start(ENDPOINTS)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(first.run)
        with pytest.raises(RegistrationError, match="node id 1 is in use"):
            await registration(store, seed=2, directory_id="there").start(ENDPOINTS)
        nursery.cancel_scope.cancel()
    assert keys.broker_key(1) in store.entries


async def test_a_node_id_is_free_when_its_last_owner_is_dead(autojump_clock: MockClock) -> None:
    store = MemoryMetadata()
    await registration(store, seed=1).start(ENDPOINTS)
    moved = registration(store, seed=2, directory_id="there")
    await moved.start(ENDPOINTS)
    assert SESSION_S <= trio.current_time() < SESSION_S + 1
    assert keys.decode_broker("", store.entries[keys.broker_key(1)].value).directory_id == "there"


async def test_beats_keep_the_registration(autojump_clock: MockClock) -> None:
    store = MemoryMetadata()
    alive = registration(store)
    await alive.start(ENDPOINTS)
    create_revision = alive.create_revision
    with trio.move_on_after(100):
        await alive.run()
    assert (await store.get(keys.broker_key(1))) is not None
    assert alive.create_revision == create_revision
    assert alive.deadline > trio.current_time()


async def test_the_deadline_is_counted_from_the_sending(mock_clock: MockClock) -> None:
    class Slow(MemoryMetadata):
        async def keep_alive(self, lease_id: int) -> None:
            mock_clock.jump(5)
            await super().keep_alive(lease_id)

    store = Slow()
    alive = registration(store)
    await alive.start(ENDPOINTS)
    sent = trio.current_time()
    await alive._beat()  # pyright: ignore[reportPrivateUsage]
    assert alive.deadline == pytest.approx(sent + SESSION_S * 0.8)
    assert alive.deadline < trio.current_time() + SESSION_S - 5


async def test_a_paused_broker_registers_anew(mock_clock: MockClock, nursery: trio.Nursery) -> None:
    store = MemoryMetadata()
    paused = registration(store)
    await paused.start(ENDPOINTS)
    old = paused.create_revision
    nursery.start_soon(paused.run)
    await trio.testing.wait_all_tasks_blocked()
    mock_clock.jump(60)
    assert await store.get(keys.broker_key(1)) is None
    await trio.testing.wait_all_tasks_blocked()
    assert paused.create_revision > old
    assert await store.get(keys.broker_key(1)) is not None
    assert await store.get(keys.CONTROLLER_KEY) is not None
    assert paused.deadline > trio.current_time()


async def test_a_broker_that_lost_its_lease_decides_nothing_before_it_sees_who_leads_since(
    mock_clock: MockClock, nursery: trio.Nursery
) -> None:
    store = MemoryMetadata()
    paused = registration(store)
    await paused.start(ENDPOINTS)
    seen = trio.Event()

    async def catch_up(revision: int) -> None:
        await seen.wait()

    paused.catch_up = catch_up
    nursery.start_soon(paused.run)
    await trio.testing.wait_all_tasks_blocked()
    mock_clock.jump(60)
    for _ in range(5):  # heartbeats go on: the new lease is not to be lost as well
        await trio.testing.wait_all_tasks_blocked()
        mock_clock.jump(2)
    await trio.testing.wait_all_tasks_blocked()
    assert keys.broker_key(1) in store.entries
    assert paused.deadline < trio.current_time()
    seen.set()
    await trio.testing.wait_all_tasks_blocked()
    assert paused.deadline > trio.current_time()


async def test_a_broker_that_has_signed_off_does_not_register_anew(
    mock_clock: MockClock, nursery: trio.Nursery
) -> None:
    store = MemoryMetadata()
    leaving = registration(store)
    await leaving.start(ENDPOINTS)
    nursery.start_soon(leaving.run)
    await trio.testing.wait_all_tasks_blocked()
    await leaving.stop()
    mock_clock.jump(60)
    await trio.testing.wait_all_tasks_blocked()
    assert keys.broker_key(1) not in store.entries


def is_fenced(store: MemoryMetadata) -> bool:
    key = keys.broker_key(1)
    return keys.decode_broker(key, store.entries[key].value).is_fenced


async def test_a_broker_of_a_cluster_is_fenced_while_it_starts_and_before_it_stops() -> None:
    store = MemoryMetadata()
    broker = registration(store, is_clustered=True)
    await broker.start(ENDPOINTS)
    assert is_fenced(store)
    assert keys.CONTROLLER_KEY not in store.entries, "that is the controller's affair"
    epoch = store.entries[keys.broker_key(1)].create_revision
    await broker.ready()
    assert not is_fenced(store)
    await broker.leave()
    assert is_fenced(store)
    assert store.entries[keys.broker_key(1)].create_revision == epoch, "followers' fetches name it"


async def test_a_lost_lease_and_an_outage_change_nothing_of_what_a_broker_wants_to_be(
    autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    store = MemoryMetadata()
    broker = registration(store, is_clustered=True)
    await broker.start(ENDPOINTS)
    nursery.start_soon(broker.run)
    store.fail_next(Fault.UNAVAILABLE, Fault.LOST_REPLY, Fault.LOST_REQUEST)
    await broker.ready()
    assert not is_fenced(store)
    await store.revoke_lease(broker.lease_id)
    await trio.sleep(5)
    assert not is_fenced(store), "its logs are served all the while"
    await store.revoke_lease(broker.lease_id)
    await broker.leave()
    await trio.sleep(5)
    assert is_fenced(store)


async def test_an_outage_of_the_store_is_three_lines_and_not_one_for_each_beat(
    autojump_clock: MockClock, nursery: trio.Nursery, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)

    class Away(MemoryMetadata):
        is_away = False

        async def keep_alive(self, lease_id: int) -> None:
            if self.is_away:
                raise MetadataUnavailable("nobody there")
            self._leases[lease_id].deadline = (
                trio.current_time() + SESSION_S
            )  # etcd that was away ends no lease meanwhile

    store = Away()
    broker = registration(store)
    await broker.start(ENDPOINTS)
    nursery.start_soon(broker.run)
    for _ in range(2):
        caplog.clear()
        await trio.sleep(SESSION_S)
        store.is_away = True
        await trio.sleep(10 * SESSION_S)
        store.is_away = False
        await trio.sleep(SESSION_S)
        begun, fenced, answered = (record.getMessage() for record in caplog.records)
        assert "no heartbeat: nobody there" in begun
        assert "no heartbeat for 7.2 s" in fenced
        assert "answered again" in answered


async def test_a_start_in_a_cluster_leaves_what_it_may_have_lost() -> None:
    store = MemoryMetadata()
    before = [
        PartitionState((1, 2), (1, 2), 1, 4),
        PartitionState((1, 2), (2,), 2, 4, (), (), (1,)),
        PartitionState((1, 2), (1, 2), 2, 4),
    ]
    await put_topic(store, before)
    broker = registration(store, is_clustered=True)
    await broker.start(ENDPOINTS, Remains(frozenset({("t", 0), ("t", 2)}), was_clean=False))
    assert states(store) == [
        PartitionState((1, 2), (1, 2), -1, 5),
        PartitionState((1, 2), (2,), 2, 4),
        PartitionState((1, 2), (1, 2), 2, 4),
    ]


async def test_a_paused_broker_gives_way_to_its_successor(mock_clock: MockClock) -> None:
    store = MemoryMetadata()
    paused = registration(store, seed=1)
    await paused.start(ENDPOINTS)
    mock_clock.jump(60)
    await registration(store, seed=2).start(ENDPOINTS)
    mock_clock.autojump_threshold = 0
    with pytest.raises(RegistrationError, match="taken over by another start"):
        await paused.run()


async def test_leaving_is_seen_at_once_and_survives_a_dead_store() -> None:
    store = MemoryMetadata()
    leaving = registration(store)
    await leaving.start(ENDPOINTS)
    await leaving.stop()
    assert keys.broker_key(1) not in store.entries
    assert keys.CONTROLLER_KEY not in store.entries

    class Dead(MemoryMetadata):
        async def revoke_lease(self, lease_id: int) -> None:
            raise MetadataUnavailable("gone")

    cut_off = registration(Dead())
    await cut_off.start(ENDPOINTS)
    await cut_off.stop()


# Garbage.


async def test_garbage_of_half_made_topics_goes_at_the_next_start() -> None:
    store = MemoryMetadata()
    await put_topic(store, [PartitionState((1,), (1,), 1, 0)])
    garbage = [keys.partition_key(bytes([9] * 16), index) for index in range(BATCH_SIZE + 2)]
    garbage.append(keys.partition_key(TOPIC_ID, 1))
    state = keys.encode_partition(PartitionState((1,), (1,), 1, 0))
    await store.transact([], [Put(key, state) for key in garbage[:100]])
    await store.transact([], [Put(key, state) for key in garbage[100:]])
    await registration(store).start(ENDPOINTS)
    left = [key for key in store.entries if key.startswith(keys.PARTITIONS_PREFIX)]
    assert left == [keys.partition_key(TOPIC_ID, 0)]


async def test_a_late_copy_of_a_collection_deletes_what_was_made_anew() -> None:
    """A reply was lost, and the transaction was sent twice: the copy may come when an enlargement was tried again."""

    class Copied(MemoryMetadata):
        """Keeps what deletes."""

        def __init__(self) -> None:
            super().__init__()
            self.late: list[tuple[Sequence[Compare], Sequence[Put | Delete]]] = []

        async def transact(
            self, compares: Sequence[Compare], operations: Sequence[Put | Delete]
        ) -> TransactionResult:
            if isinstance(operations[0], Delete):
                self.late.append((compares, operations))
            return await super().transact(compares, operations)

    store = Copied()
    state = PartitionState((1,), (1,), 1, 0)
    await put_topic(store, [state])
    left_behind = Put(keys.partition_key(TOPIC_ID, 1), keys.encode_partition(state))
    await store.transact([], [left_behind])
    await registration(store).start(ENDPOINTS)
    assert left_behind.key not in store.entries
    await store.transact([], [left_behind])
    (copy,) = store.late
    await store.transact(*copy)
    assert left_behind.key in store.entries


async def test_who_is_not_the_controller_collects_nothing() -> None:
    store = MemoryMetadata()
    await register_broker(store, 2)
    claim = keys.encode_controller(keys.ControllerClaim(2, "x"))
    half_made = keys.partition_key(bytes([9] * 16), 0)
    state = keys.encode_partition(PartitionState((2,), (2,), 2, 0))
    await store.transact([], [Put(keys.CONTROLLER_KEY, claim), Put(half_made, state)])
    await registration(store).start(ENDPOINTS)
    assert half_made in store.entries, "broker 2 may be making that topic at this moment"
