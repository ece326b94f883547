"""The controller at work: on several brokers that share a store."""

import pytest
import trio
from tests.support.controllers import TOPIC, TOPIC_ID, ClusterBroker, cluster, put_states
from tests.support.memory_metadata import Fault, MemoryMetadata
from tests.support.metadata_plane import new_random
from trio.testing import MockClock, wait_all_tasks_blocked

from penstock.broker import keys
from penstock.broker.keys import PartitionState
from penstock.broker.topic_admin import TopicAdmin
from penstock.broker.transactions import BATCH_SIZE
from penstock.runtime.metadata import Delete, Put

S = PartitionState


async def test_leadership_moves_when_a_lease_ends(autojump_clock: MockClock) -> None:
    async with cluster(1, 2, 3) as (store, brokers):
        await put_states(
            store, [S((2, 3, 1), (2, 3, 1), 2, 0), S((1, 2), (1, 2), 1, 0)], min_insync_replicas="2"
        )
        died = trio.current_time()
        await brokers[2].kill()
        await brokers[3].until(S((2, 3, 1), (3, 1), 3, 1), S((1, 2), (1,), 1, 0, (), (), (2,)))
        assert trio.current_time() - died <= 9, "the session timeout"


async def test_another_broker_is_the_controller_when_the_lease_of_the_first_ends(
    autojump_clock: MockClock,
) -> None:
    async with cluster(1, 2, 3) as (store, brokers):
        await put_states(store, [S((1, 2, 3), (1, 2, 3), 1, 0)])
        assert brokers[1].controller.is_active
        died = trio.current_time()
        await brokers[1].kill()
        await brokers[3].until(S((1, 2, 3), (2, 3), 2, 1))
        assert trio.current_time() - died <= 9
        assert sum(brokers[i].controller.is_active for i in (2, 3)) == 1


async def test_whoever_comes_back_first_leads_after_all_have_died(autojump_clock: MockClock) -> None:
    state = S((1, 2, 3), (1, 2, 3), 1, 0)
    async with cluster(1, 2, 3) as (store, brokers):
        await put_states(store, [state], min_insync_replicas="2")
        for broker in brokers.values():
            await broker.kill()
        await trio.sleep(10)
    async with cluster(3, store=store) as (store, brokers):
        with trio.fail_after(10):
            while (state := brokers[3].states()[0]).leader != 3:
                await brokers[3].watch.wait_for(brokers[3].image.revision + 1)
        assert (state.isr, state.eligible_leader_replicas) == ((3,), (1, 2))
        assert state.leader_epoch in (1, 2), (
            "there may have been a moment without a leader before it was unfenced"
        )


async def test_a_move_ends_when_the_target_is_in_sync(autojump_clock: MockClock) -> None:
    async with cluster(1, 2, 3) as (store, brokers):
        await put_states(store, [S((3, 2, 1), (2, 1), 1, 4, (3,), (1,))])
        await wait_all_tasks_blocked()
        state = S((3, 2, 1), (3, 2, 1), 1, 4, (3,), (1,))
        await store.transact([], [Put(keys.partition_key(TOPIC_ID, 0), keys.encode_partition(state))])
        await brokers[1].until(S((3, 2), (3, 2), 3, 5))


async def test_a_death_moves_hundreds_of_leaders_in_few_transactions(autojump_clock: MockClock) -> None:
    count = 3 * BATCH_SIZE
    async with cluster(1, 2) as (store, brokers):
        for topic in range(4):
            topic_id = bytes([topic + 1] * 16)
            states = [S((2, 1), (2, 1), 2, 0)] * (count // 4)
            puts = [
                Put(keys.partition_key(topic_id, i), keys.encode_partition(state))
                for i, state in enumerate(states)
            ]
            topic_value = keys.encode_topic(keys.TopicRecord(topic_id, len(states)))
            await store.transact([], [Put(keys.topic_key(f"t{topic}"), topic_value), *puts])
        await brokers[2].kill()
        before = store.transaction_count
        await trio.sleep(10)
        leaders = {
            keys.decode_partition(key, entry.value).leader
            for key, entry in store.entries.items()
            if key.startswith(keys.PARTITIONS_PREFIX)
        }
        assert leaders == {1}
        assert store.transaction_count - before == 3


async def test_lost_replies_and_outages_lose_no_election(autojump_clock: MockClock) -> None:
    async with cluster(1, 2, 3) as (store, brokers):
        await put_states(store, [S((2, 3), (2, 3), 2, 0)])
        await brokers[2].kill()
        store.fail_next(Fault.UNAVAILABLE, Fault.LOST_REQUEST, Fault.LOST_REPLY, Fault.UNAVAILABLE)
        await brokers[3].until(S((2, 3), (3,), 3, 1))


async def test_a_forgotten_history_loses_no_election(autojump_clock: MockClock) -> None:
    async with cluster(1, 2, 3) as (store, brokers):
        await put_states(store, [S((2, 3), (2, 3), 2, 0)])
        await brokers[2].stop()
        store.compact()
        await brokers[3].until(S((2, 3), (3,), 3, 1))


async def test_a_state_that_changes_under_the_controller_is_looked_at_again(
    autojump_clock: MockClock,
) -> None:
    class Contended(MemoryMetadata):
        """Before the controller's first election, the leader's own change of the ISR comes through."""

        interfered = False

        async def transact(self, compares, operations):  # type: ignore[no-untyped-def]
            key = keys.partition_key(TOPIC_ID, 0)
            if not self.interfered and any(
                c.key == keys.CONTROLLER_KEY and c.create_revision for c in compares
            ):
                self.interfered = True
                value = keys.encode_partition(S((2, 3, 1), (2, 1), 2, 0))
                await super().transact([], [Put(key, value)])
            return await super().transact(compares, operations)

    async with cluster(1, 2, 3, store=Contended()) as (store, brokers):
        await put_states(store, [S((2, 3, 1), (2, 3, 1), 2, 0)])
        await brokers[2].stop()
        await brokers[3].until(S((2, 3, 1), (1,), 1, 1))


async def test_a_paused_controller_stores_nothing_after_its_deadline(autojump_clock: MockClock) -> None:
    async with cluster(1, 2, 3) as (store, brokers):
        await put_states(store, [S((2, 3), (2, 3), 2, 0)])
        brokers[1].registration.deadline = trio.current_time() - 1
        count = store.transaction_count
        await brokers[2].stop()
        await wait_all_tasks_blocked()
        assert not brokers[1].controller.is_active
        assert store.transaction_count == count
        await brokers[3].until(S((2, 3), (3,), 3, 1))


async def test_leadership_goes_back_to_the_first_replica(autojump_clock: MockClock) -> None:
    properties = {"leader.imbalance.check.interval.seconds": "20"}
    async with cluster(1, 2, properties=properties) as (store, brokers):
        await put_states(store, [S((2, 1), (1, 2), 1, 3)])
        began = trio.current_time()
        await brokers[1].until(S((2, 1), (1, 2), 2, 4))
        assert 15 < trio.current_time() - began < 25


async def test_leaders_stay_where_they_are_without_auto_rebalance(autojump_clock: MockClock) -> None:
    async with cluster(1, 2, properties={"auto.leader.rebalance.enable": "false"}) as (store, brokers):
        await put_states(store, [S((2, 1), (1, 2), 1, 3)])
        await trio.sleep(1000)
        assert brokers[1].states() == [S((2, 1), (1, 2), 1, 3)]


async def test_a_new_controller_clears_away_what_the_last_one_left_half_made(
    autojump_clock: MockClock,
) -> None:
    async with cluster(1, 2) as (store, brokers):
        garbage = keys.partition_key(bytes([9] * 16), 0)
        await store.transact([], [Put(garbage, keys.encode_partition(S((1,), (1,), 1, 0)))])
        await wait_all_tasks_blocked()
        assert garbage in store.entries, "a creation of the present controller may be under way"
        await brokers[1].stop()
        await wait_all_tasks_blocked()
        assert brokers[2].controller.is_active
        assert garbage not in store.entries


async def test_a_new_controller_deletes_the_states_of_an_enlargement_that_is_tried_again(
    autojump_clock: MockClock,
) -> None:
    """The count would be stored and the states gone: partitions without one, for good."""

    class SlowDeletes(MemoryMetadata):
        """A deletion of states comes late."""

        def __init__(self) -> None:
            super().__init__()
            self.has_come = trio.Event()
            self.may_go_on = trio.Event()

        async def transact(self, compares, operations):  # type: ignore[no-untyped-def]
            if isinstance(operations[0], Delete):
                self.has_come.set()
                await self.may_go_on.wait()
            return await super().transact(compares, operations)

    slow = SlowDeletes()
    async with cluster(1, 2, store=slow) as (store, brokers):
        state = S((2,), (2,), 2, 0)
        await put_states(store, [state])
        left_behind = [Put(keys.partition_key(TOPIC_ID, i), keys.encode_partition(state)) for i in (1, 2)]
        await store.transact([], left_behind)
        await brokers[1].stop()
        await slow.has_come.wait()
        new = brokers[2]
        admin = TopicAdmin(store, new.image, new.config, new_random())
        revision = await admin.create_partitions(TOPIC, 3, None)
        slow.may_go_on.set()
        await new.watch.wait_for(revision)
        await wait_all_tasks_blocked()
        assert len(new.states()) == 3


async def test_a_lowered_minimum_empties_the_eligible_leader_replicas(autojump_clock: MockClock) -> None:
    async with cluster(1, 2) as (store, brokers):
        await put_states(store, [S((1, 2, 3), (1,), 1, 3, (), (), (3,))], min_insync_replicas="2")
        await wait_all_tasks_blocked()
        assert brokers[1].states()[0].eligible_leader_replicas == (3,)
        configs = keys.encode_configs({"min.insync.replicas": "1"})
        await store.transact([], [Put(keys.topic_configs_key("t"), configs)])
        await brokers[1].until(S((1, 2, 3), (1,), 1, 3))


async def test_a_topic_that_allows_it_is_led_by_a_replica_that_is_not_in_sync_and_the_log_says_so(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    async with cluster(1, 2) as (store, brokers):
        state = S((1, 2, 3), (3,), 3, 3)
        await put_states(store, [state], unclean_leader_election_enable="true")
        await brokers[1].until(S((1, 2, 3), (1,), 1, 4))
        await wait_all_tasks_blocked()
    assert "t-0: unclean election of broker 1: records that only (3,) had may be lost" in caplog.text


async def test_a_stopping_broker_does_not_take_the_controller_key(autojump_clock: MockClock) -> None:
    async with cluster(1, 2) as (store, brokers):
        await brokers[2].registration.leave()
        await brokers[1].stop()
        await wait_all_tasks_blocked()
        assert keys.CONTROLLER_KEY not in store.entries
        assert isinstance(brokers[2], ClusterBroker)
