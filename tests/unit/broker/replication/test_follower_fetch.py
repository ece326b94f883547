"""How a leader answers its followers: what they may read, what wakes them, and what they are told; and what waits for them."""

from typing import Any

import pytest
import trio
import trio.testing
from tests.support.followed_broker import TOPIC_ID, VERSION, FollowedBroker, followed_broker
from tests.support.logs import batch
from tests.support.memory_broker import held_slices, parts_of

from penstock.broker import keys
from penstock.broker.partition import LOG_START_MOVED
from penstock.broker.partition_events import LeaderTold
from penstock.broker.replies import Reply
from penstock.protocol.errors import ErrorCode
from penstock.protocol.message import Message
from penstock.runtime.metadata import Put
from penstock.storage.log import LogSlice

settle = trio.testing.wait_all_tasks_blocked
FOREVER_MS = 100_000
RACK_AWARE = "org.apache.kafka.common.replica.RackAwareReplicaSelector"


def send(bench: FollowedBroker, acks: int = -1) -> Reply:
    """Produce one record; the reply to wait for."""
    outcome = bench.broker.produce("orders", bytes(batch()), acks=acks, timeout_ms=FOREVER_MS)
    assert isinstance(outcome, Reply)
    return outcome


async def code_of(bench: FollowedBroker, reply: Reply) -> int:
    """The error code of a produce that has been answered."""
    assert reply.ready
    (part,) = (await bench.broker.answer(reply)).responses[0].partition_responses
    return int(part.error_code)


async def appended(bench: FollowedBroker) -> None:
    """One more record on the leader, durable there."""
    (result,) = await bench.broker.produced("orders", bytes(batch()), acks=1)
    assert result.error_code == 0


def waiting(bench: FollowedBroker, node_id: int, offset: int, **more: Any) -> Reply:
    """A follower's long poll."""
    outcome = bench.broker.fetch(
        (TOPIC_ID, 0, offset),
        version=VERSION,
        max_wait_ms=FOREVER_MS,
        current_leader_epoch=bench.leader_epoch,
        replica_state=Message(replica_id=node_id, replica_epoch=bench.epochs[node_id]),
        **more,
    )
    assert isinstance(outcome, Reply)
    return outcome


# Reading


async def test_follower_reads_what_is_appended_and_a_consumer_what_is_committed() -> None:
    async with followed_broker() as bench:
        await appended(bench)
        (part,) = (await bench.fetch_as(2, 0)).responses[0].partitions
        assert (len(part.records) > 0, part.high_watermark) == (True, 0)
        (part,) = await bench.broker.fetched(("orders", 0, 0))
        assert (len(part.records), part.high_watermark) == (0, 0)


async def test_records_go_to_followers_as_file_ranges() -> None:
    async with followed_broker() as bench:
        await appended(bench)
        parts = bench.broker.fetch(
            (TOPIC_ID, 0, 0),
            version=VERSION,
            current_leader_epoch=bench.leader_epoch,
            replica_state=Message(replica_id=2, replica_epoch=bench.epochs[2]),
        )
        assert isinstance(parts, list)
        assert sum(isinstance(part, LogSlice) for part in parts) == 1
        for part in parts:
            if isinstance(part, LogSlice):
                part.release()
        assert not held_slices([bench.partition])


async def test_follower_does_not_wait_for_the_leaders_own_sync() -> None:
    async with followed_broker() as bench:
        await appended(bench)
        bench.broker.threads.hold("sync", after=True)
        reply = send(bench)
        await settle()
        (part,) = (await bench.fetch_as(2, 1)).responses[0].partitions
        assert len(part.records) > 0, "it is appended, if not durable yet"
        await bench.fetch_as(2, 2)
        await bench.fetch_as(3, 2)
        assert (bench.partition.high_watermark, reply.ready) == (1, False), (
            "the leader does not count itself yet"
        )
        bench.broker.threads.release("sync")
        await settle()
        assert (bench.partition.high_watermark, await code_of(bench, reply)) == (2, 0)


# Waiting


async def test_append_wakes_a_follower_at_once() -> None:
    async with followed_broker() as bench:
        await appended(bench)
        reply = waiting(bench, 2, 1)
        assert not reply.ready
        bench.broker.threads.hold("sync", after=True)
        send(bench)
        await settle()
        assert reply.ready
        (part,) = (await bench.broker.answer(reply)).responses[0].partitions
        assert len(part.records) > 0
        assert not bench.partition.replica_waiters


async def test_moved_high_watermark_alone_costs_no_answer_and_comes_with_the_next() -> None:
    async with followed_broker() as bench:
        await appended(bench)
        begun = await bench.fetch_as(2, 0, session=(0, 0))
        reply = waiting(bench, 2, 1, session=(begun.session_id, 1))
        await bench.fetch_as(3, 1)
        assert (bench.partition.high_watermark, reply.ready) == (1, False)
        await appended(bench)
        assert reply.ready
        (part,) = (await bench.broker.answer(reply)).responses[0].partitions
        assert (len(part.records) > 0, part.high_watermark) == (True, 1)


async def test_high_watermark_of_a_quiet_partition_waits_no_longer_than_the_fetch(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with followed_broker() as bench:
        await appended(bench)
        begun = await bench.fetch_as(2, 0, session=(0, 0))
        await bench.fetch_as(3, 1)
        asked_at = trio.current_time()
        answer = await bench.fetch_as(2, 1, session=(begun.session_id, 1), max_wait_ms=500)
        assert answer.responses[0].partitions[0].high_watermark == 1
        assert trio.current_time() - asked_at == pytest.approx(0.5)


async def test_follower_is_told_the_first_high_watermark_of_an_epoch_at_once(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with followed_broker() as bench:
        await appended(bench)
        for node_id in (2, 3):
            await bench.fetch_as(node_id, 1)
        begun = await bench.fetch_as(2, 1, session=(0, 0))
        await bench.store_state()
        asked_at = trio.current_time()
        answer = await bench.fetch_as(2, 1, session=(begun.session_id, 1), max_wait_ms=FOREVER_MS)
        (part,) = answer.responses[0].partitions
        assert (part.error_code, part.high_watermark) == (0, 1)
        assert trio.current_time() == asked_at


async def test_follower_is_told_at_once_where_the_log_begins_though_it_asks_a_moment_later(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with followed_broker() as bench:
        await appended(bench)
        for node_id in (2, 3):
            await bench.fetch_as(node_id, 1)
        begun = await bench.fetch_as(2, 1, session=(0, 0))
        await bench.fetch_as(2, 1, session=(begun.session_id, 1))
        bench.partition.log.advance_log_start_offset(1)
        bench.partition.tell_replicas(LOG_START_MOVED)
        asked_at = trio.current_time()
        answer = await bench.fetch_as(2, 1, session=(begun.session_id, 2), max_wait_ms=FOREVER_MS)
        assert answer.responses[0].partitions[0].log_start_offset == 1
        assert trio.current_time() == asked_at


async def test_follower_that_consumers_are_sent_to_is_answered_when_the_high_watermark_moves() -> None:
    async with followed_broker(replica_selector_class=RACK_AWARE) as bench:
        await bench.register(2, rack="b")
        await appended(bench)
        in_a_rack = waiting(bench, 2, 1)
        in_none = waiting(bench, 3, 1)
        assert (bench.partition.high_watermark, in_a_rack.ready, in_none.ready) == (1, True, False)
        (part,) = (await bench.broker.answer(in_a_rack)).responses[0].partitions
        assert (len(part.records), part.high_watermark) == (0, 1)
        in_none.abandon()


async def test_follower_that_consumers_are_sent_to_is_not_kept_waiting_if_it_knows_less() -> None:
    async with followed_broker(replica_selector_class=RACK_AWARE) as bench:
        await bench.register(2, rack="b")
        await appended(bench)
        await bench.fetch_as(3, 1)
        begun = await bench.fetch_as(2, 0, session=(0, 0))
        assert begun.responses[0].partitions[0].high_watermark == 0
        answer = await bench.fetch_as(2, 1, session=(begun.session_id, 1), max_wait_ms=FOREVER_MS)
        assert answer.responses[0].partitions[0].high_watermark == 1, "its own fetch has moved it"
        reply = waiting(bench, 2, 1, session=(begun.session_id, 2))
        await settle()
        assert not reply.ready, "it has been told all, and is not sent round and round"
        reply.abandon()


async def test_follower_of_a_leader_that_leads_no_more_is_told_at_once() -> None:
    async with followed_broker() as bench:
        reply = waiting(bench, 2, 0)
        epoch = bench.leader_epoch
        await bench.store_state(leader=3)
        assert reply.ready
        (part,) = (await bench.broker.answer(reply)).responses[0].partitions
        assert part.error_code == ErrorCode.NOT_LEADER_OR_FOLLOWER
        (part,) = (await bench.fetch_as(2, 0, leader_epoch=epoch)).responses[0].partitions
        assert part.error_code == ErrorCode.NOT_LEADER_OR_FOLLOWER


# Acks


async def test_acks_all_waits_for_every_member_of_the_isr_and_acks_1_for_none() -> None:
    async with followed_broker() as bench:
        alone, all_of_them = send(bench, acks=1), send(bench)
        await settle()
        assert (await code_of(bench, alone), all_of_them.ready) == (0, False)
        await bench.fetch_as(2, 2)
        assert not all_of_them.ready
        await bench.fetch_as(3, 2)
        assert await code_of(bench, all_of_them) == 0


@pytest.mark.parametrize("is_election", [False, True])
async def test_too_few_in_sync_refuse_before_the_append_and_after_it(is_election: bool) -> None:
    async with followed_broker(min_insync_replicas="2") as bench:
        waits, leaders_own = send(bench), send(bench, acks=1)
        await settle()
        assert not waits.ready
        await bench.store_state(isr=(1,), is_election=is_election)
        end = bench.partition.log.log_end_offset
        assert await code_of(bench, waits) == ErrorCode.NOT_ENOUGH_REPLICAS_AFTER_APPEND
        assert await code_of(bench, leaders_own) == 0
        (refused,) = await bench.broker.produced("orders", bytes(batch()))
        assert refused.error_code == ErrorCode.NOT_ENOUGH_REPLICAS
        assert bench.partition.log.log_end_offset == end, "nothing was appended"
        (taken,) = await bench.broker.produced("orders", bytes(batch()), acks=1)
        assert taken.error_code == 0
        assert bench.partition.high_watermark == 0


async def test_whoever_waits_when_another_leader_is_elected_is_told_so() -> None:
    async with followed_broker() as bench:
        reply = send(bench)
        await settle()
        await bench.store_state(leader=2)
        assert await code_of(bench, reply) == ErrorCode.NOT_LEADER_OR_FOLLOWER


async def test_no_ack_is_given_past_the_deadline_though_all_have_it(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with followed_broker() as bench:
        reply = send(bench)
        await settle()
        registration = bench.broker.broker.registration
        registration.deadline = trio.current_time()
        await bench.fetch_as(2, 1)
        await bench.fetch_as(3, 1)
        assert (reply.ready, bench.partition.high_watermark) == (False, 0)
        registration.deadline = trio.current_time() + 100
        await bench.fetch_as(3, 1)
        assert await code_of(bench, reply) == 0


async def test_leader_past_its_deadline_takes_what_it_does_not_have_for_out_of_range(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """A consumer would begin anew: another leader, of whom this one does not know, may have taken more."""
    async with followed_broker() as bench:
        await committed(bench)
        registration = bench.broker.broker.registration
        for offset, last_fetched_epoch in ((1, -1), (2, -1), (2, bench.leader_epoch + 1)):
            codes: list[int] = []
            for deadline in (trio.current_time() + 100, trio.current_time()):
                registration.deadline = deadline
                (part,) = await bench.broker.fetched(
                    (TOPIC_ID, 0, offset), version=VERSION, last_fetched_epoch=last_fetched_epoch
                )
                codes.append(part.error_code)
            sound = ErrorCode.NONE if offset == 1 else ErrorCode.OFFSET_OUT_OF_RANGE
            assert codes == [sound, ErrorCode.NOT_LEADER_OR_FOLLOWER], (offset, last_fetched_epoch)
        registration.deadline = trio.current_time()
        (part,) = await bench.broker.fetched((TOPIC_ID, 0, 0), version=VERSION)
        assert part.error_code == 0, "what is committed may be read"


# Consumers and racks (KIP-392)


async def prefers(bench: FollowedBroker, offset: int, rack: str = "b", version: int = VERSION) -> int:
    """Where a consumer in that rack is sent to."""
    wanted = TOPIC_ID if version >= 13 else "orders"
    (part,) = await bench.broker.fetched((wanted, 0, offset), version=version, rack_id=rack)
    assert part.error_code == 0
    return int(part.preferred_read_replica)


async def committed(bench: FollowedBroker) -> None:
    """A record that all have."""
    await appended(bench)
    for node_id in (2, 3):
        await bench.fetch_as(node_id, bench.partition.log.log_end_offset)


async def test_consumer_is_sent_to_an_in_sync_replica_of_its_rack_that_has_what_it_wants() -> None:
    async with followed_broker(replica_selector_class=RACK_AWARE, broker_rack="a") as bench:
        await bench.register(2, rack="b")
        await bench.register(3, rack="b")
        await committed(bench)
        await appended(bench)
        await bench.fetch_as(3, 2)
        assert await prefers(bench, 1) == 3, "of two the one that has more"
        assert await prefers(bench, 1, version=11) == 3
        assert await prefers(bench, 0, rack="a") == -1, "the leader is there itself"
        assert await prefers(bench, 0, rack="c") == -1
        assert await prefers(bench, 0, rack="") == -1
        await bench.store_state(isr=(1, 2))
        await bench.fetch_as(2, 2)
        await bench.fetch_as(3, 1)
        assert await prefers(bench, 1) == 2, "the other is not in sync"
        await bench.register(2, rack="b")
        assert await prefers(bench, 1) == -1, "it has started anew, and has said nothing yet"


async def test_without_the_selector_nobody_is_sent_anywhere() -> None:
    async with followed_broker(broker_rack="a") as bench:
        await bench.register(2, rack="b")
        await committed(bench)
        assert await prefers(bench, 0) == -1


async def test_sent_away_in_a_session_and_at_once() -> None:
    async with followed_broker(replica_selector_class=RACK_AWARE, broker_rack="a") as bench:
        await bench.register(2, rack="b")
        await committed(bench)
        for session in ((0, 0), (0, -1)):
            outcome = bench.broker.fetch(
                (TOPIC_ID, 0, 1), version=VERSION, rack_id="b", session=session, max_wait_ms=FOREVER_MS
            )
            assert isinstance(outcome, list)
            answer = await bench.broker.answer(outcome)
            (part,) = answer.responses[0].partitions
            assert (part.preferred_read_replica, len(part.records)) == (2, 0)


async def test_follower_serves_consumers_up_to_its_own_high_watermark() -> None:
    async with followed_broker() as bench:
        await committed(bench)
        await appended(bench)
        await bench.store_state(leader=2)
        (part,) = await bench.broker.fetched(("orders", 0, 0), version=11)
        assert (part.error_code, part.high_watermark, len(part.records) > 0) == (0, 1, True)
        (part,) = await bench.broker.fetched(("orders", 0, 1), version=11)
        assert (part.error_code, len(part.records)) == (0, 0)
        (part,) = await bench.broker.fetched(("orders", 0, 2), version=11)
        assert part.error_code == ErrorCode.OFFSET_NOT_AVAILABLE
        (part,) = await bench.broker.fetched(("orders", 0, 0), version=10)
        assert part.error_code == ErrorCode.NOT_LEADER_OR_FOLLOWER, "it knows nothing of followers"
        await bench.store_state(leader=2, isr=(2, 3))
        (part,) = await bench.broker.fetched(("orders", 0, 2), version=11)
        assert part.error_code == ErrorCode.NOT_LEADER_OR_FOLLOWER, "who lags may lag for long"


async def test_follower_is_no_place_for_followers() -> None:
    async with followed_broker() as bench:
        await bench.store_state(leader=2)
        (part,) = (await bench.fetch_as(3, 0)).responses[0].partitions
        assert part.error_code == ErrorCode.NOT_LEADER_OR_FOLLOWER


async def test_consumer_that_waits_at_a_follower_is_woken_by_its_high_watermark() -> None:
    async with followed_broker() as bench:
        await appended(bench)
        await bench.store_state(leader=2)
        outcome = bench.broker.fetch((TOPIC_ID, 0, 0), version=VERSION, max_wait_ms=FOREVER_MS)
        assert isinstance(outcome, Reply)
        assert not outcome.ready
        bench.partition.step(LeaderTold(1))
        assert outcome.ready
        parts = await parts_of(outcome)
        for part in parts:
            if not isinstance(part, bytes):
                part.release()


# The throttle (KIP-73)


async def throttle(bench: FollowedBroker, replicas: str, rate: int) -> None:
    """Bound what is sent to replicas that catch up."""
    configs = {"leader.replication.throttled.replicas": replicas}
    await bench.write(Put(keys.topic_configs_key("orders"), keys.encode_configs(configs)))
    rates = {"leader.replication.throttled.rate": str(rate)}
    await bench.write(Put(keys.broker_configs_key(1), keys.encode_configs(rates)))


def size_of(answer: Message) -> int:
    """Bytes of records in an answer."""
    return sum(len(part.records or b"") for topic in answer.responses for part in topic.partitions)


async def test_throttled_replica_that_catches_up_gets_no_more_than_its_rate(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with followed_broker(isr=(1, 2)) as bench:
        for _ in range(40):
            await appended(bench)
        await bench.fetch_as(2, 40)
        size_bytes = bench.partition.log.size_bytes
        rate = size_bytes // 20
        await throttle(bench, "0:3", rate)
        offset, got, started = 0, 0, trio.current_time()
        while offset < 40:
            answer = await bench.fetch_as(3, offset, max_wait_ms=500, partition_max_bytes=size_bytes // 8)
            got += size_of(answer)
            offset = 40 * got // size_bytes
            assert got <= rate * (trio.current_time() - started) + size_bytes // 8
        assert 15 < trio.current_time() - started < 25, "and it gets no less, either"


async def test_throttle_is_for_named_replicas_that_are_not_in_sync() -> None:
    async with followed_broker(isr=(1, 2)) as bench:
        await appended(bench)
        await bench.fetch_as(2, 1)
        await throttle(bench, "0:2,0:3", 0)
        assert size_of(await bench.fetch_as(2, 0)) > 0, "it is in sync"
        assert size_of(await bench.fetch_as(3, 0)) == 0
        await throttle(bench, "0:2", 0)
        assert size_of(await bench.fetch_as(3, 0)) > 0
        await throttle(bench, "*", 0)
        assert size_of(await bench.fetch_as(3, 0)) == 0


async def test_appends_do_not_wake_a_follower_that_would_get_nothing() -> None:
    async with followed_broker(isr=(1, 2)) as bench:
        await appended(bench)
        await bench.fetch_as(2, 1)
        await throttle(bench, "*", 0)
        reply = waiting(bench, 3, 0)
        await appended(bench)
        assert not reply.ready
        reply.abandon()


async def test_a_follower_that_asks_again_gets_its_waiting_answer_at_once() -> None:
    async with followed_broker() as bench:
        broker = bench.broker
        await broker.produced("orders", bytes(batch()), acks=1)
        first = await bench.fetch_as(2, 1, session=(0, 0))

        def ask(epoch: int) -> Reply:
            state = Message(replica_id=2, replica_epoch=bench.epochs[2])
            waiting = broker.fetch(
                (TOPIC_ID, 0, 1),
                version=VERSION,
                session=(first.session_id, epoch),
                max_wait_ms=60_000,
                current_leader_epoch=bench.leader_epoch,
                last_fetched_epoch=bench.leader_epoch,
                replica_state=state,
            )
            assert isinstance(waiting, Reply)
            return waiting

        waiting = ask(1)
        assert not waiting.ready
        behind = ask(2)
        assert (waiting.ready, behind.ready) == (True, False)
        assert not (await broker.answer(waiting)).error_code
