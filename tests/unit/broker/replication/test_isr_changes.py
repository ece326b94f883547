"""How ISR changes reach the store: under which compares, after which faults, and what the partition is told."""

from dataclasses import replace

import pytest
import trio
import trio.testing
from tests.support.followed_broker import TOPIC_ID, FollowedBroker, followed_broker
from tests.support.logs import batch
from tests.support.memory_metadata import Fault

from penstock.broker import keys
from penstock.broker.keys import PartitionState, TopicRecord
from penstock.protocol.errors import ErrorCode
from penstock.runtime.files import DiskFull
from penstock.runtime.metadata import Delete, Put

settle = trio.testing.wait_all_tasks_blocked
KEY = keys.partition_key(TOPIC_ID, 0)


async def produce(bench: FollowedBroker) -> None:
    (result,) = await bench.broker.produced("orders", bytes(batch()), acks=1)
    assert result.error_code == 0


async def test_follower_that_has_caught_up_joins_and_counts_at_once() -> None:
    async with followed_broker(isr=(1, 2)) as bench:
        await produce(bench)
        await bench.fetch_as(2, 1)
        assert bench.partition.high_watermark == 1
        await bench.fetch_as(3, 0)
        await settle()
        assert bench.stored_state().isr == (1, 2), "it lacks what is committed"
        epoch = bench.leader_epoch
        await bench.fetch_as(3, 1)
        assert bench.partition.machine.maximal_isr == (1, 2, 3)
        await settle()
        state = bench.stored_state()
        assert (state.isr, state.leader_epoch) == ((1, 2, 3), epoch), "an ISR change is no election"
        assert bench.partition.machine.isr == (1, 2, 3)
        assert bench.partition.machine.asked is None


async def test_laggard_leaves_after_the_lag_time(autojump_clock: trio.testing.MockClock) -> None:
    async with followed_broker(replica_lag_time_max_ms="10000") as bench:
        await produce(bench)
        for second in range(1, 16):
            await trio.sleep(1)
            await bench.fetch_as(2, 1)
            bench.broker.broker.partitions.look_around(trio.current_time())
            await settle()
            assert second > 10 or len(bench.stored_state().isr) == 3
        assert bench.stored_state().isr == (1, 2)
        assert bench.partition.high_watermark == 1


@pytest.mark.parametrize("fault", [Fault.LOST_REPLY, Fault.LOST_REQUEST])
async def test_lost_reply_keeps_the_maximal_isr_until_the_outcome_is_seen(
    fault: Fault, autojump_clock: trio.testing.MockClock
) -> None:
    async with followed_broker(isr=(1, 2)) as bench:
        bench.store.fail_next(fault)
        await bench.fetch_as(3, 0)
        assert bench.partition.machine.maximal_isr == (1, 2, 3)
        await trio.sleep(1)
        assert bench.stored_state().isr == (1, 2, 3)
        assert bench.partition.machine.isr == (1, 2, 3)


async def test_store_out_of_reach_leaves_the_isr_as_it_was(autojump_clock: trio.testing.MockClock) -> None:
    async with followed_broker(isr=(1, 2)) as bench:
        bench.store.fail_next(Fault.UNAVAILABLE)
        await bench.fetch_as(3, 0)
        await trio.sleep(1)
        assert bench.stored_state().isr == (1, 2)
        assert (bench.partition.machine.isr, bench.partition.machine.asked) == ((1, 2), None)
        await bench.fetch_as(3, 0)
        await settle()
        assert bench.stored_state().isr == (1, 2, 3), "and it is tried again"


async def test_follower_that_has_started_anew_does_not_join_by_what_it_had_before() -> None:
    async with followed_broker(isr=(1, 2)) as bench:
        machine = bench.partition.machine
        await bench.fetch_as(3, 0)
        assert machine.asked is not None
        await bench.store.transact([], [Delete(keys.broker_key(3))])  # before the broker has sent its own
        await settle()
        assert bench.stored_state().isr == (1, 2)
        assert machine.asked is None


async def test_leader_that_was_deposed_meanwhile_changes_no_isr() -> None:
    async with followed_broker(isr=(1, 2)) as bench:
        await bench.fetch_as(3, 0)
        elected = replace(bench.stored_state(), leader=2, leader_epoch=7)
        await bench.store.transact([], [Put(KEY, keys.encode_partition(elected))])
        await settle()
        assert bench.stored_state() == elected
        assert bench.partition.is_follower
        assert bench.partition.machine.asked is None


async def test_broker_past_its_deadline_asks_for_nothing_and_decides_nothing(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with followed_broker(isr=(1, 2)) as bench:
        await produce(bench)
        registration = bench.broker.broker.registration
        registration.deadline = trio.current_time()
        await bench.fetch_as(2, 1)
        await bench.fetch_as(3, 1)
        machine = bench.partition.machine
        assert (bench.partition.high_watermark, machine.asked) == (0, None)
        (refused,) = await bench.broker.produced("orders", bytes(batch()))
        assert refused.error_code == ErrorCode.NOT_LEADER_OR_FOLLOWER
        (part,) = (await bench.fetch_as(2, 1)).responses[0].partitions
        assert part.error_code == 0, "what is there may be read"
        registration.deadline = trio.current_time() + 100
        bench.broker.broker.partitions.look_around(trio.current_time())
        assert bench.partition.high_watermark == 1, "it was only held back"
        await settle()
        assert bench.stored_state().isr == (1, 2, 3)


async def test_change_sent_before_the_deadline_is_not_sent_again_after_it(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with followed_broker(isr=(1, 2)) as bench:
        count = bench.store.transaction_count
        bench.store.fail_next(Fault.LOST_REQUEST)
        await bench.fetch_as(3, 0)
        await settle()
        registration = bench.broker.broker.registration
        registration.deadline = trio.current_time()
        await trio.sleep(1)
        assert bench.store.transaction_count == count + 1
        assert bench.partition.machine.maximal_isr == (1, 2, 3), "it may still be stored"
        registration.deadline = trio.current_time() + 100
        await trio.sleep(1)
        assert bench.stored_state().isr == (1, 2, 3)


async def test_failed_log_hands_leadership_on_and_leaves_the_isr() -> None:
    async with followed_broker() as bench:
        await produce(bench)
        epoch = bench.leader_epoch
        bench.partition.fail()
        await settle()
        state = bench.stored_state()
        assert (state.isr, state.leader, state.leader_epoch) == ((2, 3), -1, epoch + 1)


async def test_failed_log_that_was_taken_in_by_an_old_fetch_stays_in_the_isr() -> None:
    async with followed_broker() as bench:
        await produce(bench)
        bench.partition.fail()
        await settle()
        taken_in = replace(bench.stored_state(), isr=(2, 3, 1), leader=2)
        await bench.store.transact([], [Put(KEY, keys.encode_partition(taken_in))])
        await settle()
        assert bench.stored_state() == replace(taken_in, isr=(2, 3))


async def test_failed_log_of_the_last_in_sync_replica_leaves_nobody_else_to_lead() -> None:
    async with followed_broker(isr=(1,)) as bench:
        await produce(bench)
        before = bench.stored_state()
        bench.partition.fail()
        await settle()
        assert bench.stored_state() == before


async def test_log_that_cant_be_opened_leaves_the_partition_to_others() -> None:
    async with followed_broker() as bench:
        bench.broker.files.fail("make_directories", DiskFull)
        state = PartitionState((1, 2, 3), (1, 2), 1, 4)
        key = keys.partition_key(TOPIC_ID, 1)
        await bench.store.transact([], [Put(key, keys.encode_partition(state))])
        await bench.write(Put(keys.topic_key("orders"), keys.encode_topic(TopicRecord(TOPIC_ID, 2))))
        await settle()
        left = keys.decode_partition(key, bench.store.entries[key].value)
        assert (left.isr, left.leader, left.leader_epoch) == ((2,), -1, 5)


async def test_leader_whose_registration_is_another_ones_by_now_changes_no_isr() -> None:
    async with followed_broker(isr=(1, 2)) as bench:
        await bench.fetch_as(3, 0)
        mine = bench.store.entries[keys.broker_key(1)]
        await bench.store.transact([], [Delete(mine.key)])  # before the broker has sent its own
        await bench.store.transact([], [Put(mine.key, mine.value)])
        await settle()
        assert bench.stored_state().isr == (1, 2)
        assert bench.partition.machine.asked is None
