"""What those who wait, and those who don't, are told of records whose fate is not clear."""

from typing import Any

import pytest
import trio
from tests.support.producing_brokers import TOPIC, Fate, ProducingCluster
from trio.testing import MockClock, wait_all_tasks_blocked

from penstock.client.errors import BacklogFull, BrokerError, DeliveryFailed, ProducerFenced
from penstock.producer.batch import Delivery
from penstock.producer.producer import Producer
from penstock.producer.verdicts import produce_error
from penstock.protocol.errors import ErrorCode
from penstock.protocol.record_batch import check_produced_batch


@pytest.fixture
async def cluster(nursery: trio.Nursery) -> ProducingCluster:
    return ProducingCluster(nursery, partition_count=2, broker_count=2)


def producer_of(cluster: ProducingCluster, **options: Any) -> Producer:
    return Producer("b1,b2", cluster.environment, **options)


async def test_a_record_on_the_wire_is_told_to_be_in_no_log_when_the_producer_ends(
    cluster: ProducingCluster, autojump_clock: MockClock
) -> None:
    sent: list[Delivery] = []

    async def fail_after_sending() -> None:
        async with producer_of(cluster) as producer:
            await producer.send(TOPIC, b"first", partition=0)
            for broker in cluster.brokers.values():
                broker.freeze()
            sent.append(await producer.enqueue(TOPIC, b"on the wire", partition=0))
            await trio.sleep(1)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await fail_after_sending()
    for broker in cluster.brokers.values():
        broker.thaw()
    with pytest.raises(DeliveryFailed) as failed:
        await sent[0].wait()
    assert failed.value.may_be_delivered
    await wait_all_tasks_blocked()


async def test_fencing_says_of_records_on_the_wire_that_they_are_in_no_log(
    cluster: ProducingCluster, autojump_clock: MockClock
) -> None:
    cluster.leaders = [1, 2]
    async with producer_of(cluster) as producer:
        for partition in range(2):
            await producer.send(TOPIC, b"first", partition=partition)
        cluster.brokers[2].freeze()
        on_wire = await producer.enqueue(TOPIC, b"on the wire", partition=1)
        await trio.sleep(1)
        cluster.fate = lambda index, records: (False, ErrorCode.PRODUCER_FENCED)
        with pytest.raises(ProducerFenced):
            await producer.send(TOPIC, b"fenced", partition=0)
        with pytest.raises(DeliveryFailed) as failed:
            await on_wire.wait()
        assert failed.value.may_be_delivered


async def test_a_topic_that_is_gone_says_of_an_unclear_record_that_it_is_in_no_log(
    cluster: ProducingCluster, autojump_clock: MockClock
) -> None:
    async with producer_of(cluster, delivery_timeout_ms=60_000) as producer:
        await producer.send(TOPIC, b"first", partition=0)
        for broker in cluster.brokers.values():
            broker.freeze()
        unclear = await producer.enqueue(TOPIC, b"unclear", partition=0)
        await trio.sleep(1)
        cluster.is_topic_gone = True
        for broker in cluster.brokers.values():
            for stream in broker.streams:
                stream.end()
        await trio.sleep(1)
        for broker in cluster.brokers.values():
            broker.thaw()
        with pytest.raises(DeliveryFailed) as failed:
            await unclear.wait()
        assert failed.value.may_be_delivered


async def test_a_failure_is_told_to_nobody_because_another_record_of_the_batch_was_waited_for(
    cluster: ProducingCluster, autojump_clock: MockClock
) -> None:
    cluster.fate = lambda index, records: (False, ErrorCode.POLICY_VIOLATION)
    with pytest.raises(BacklogFull) as told:  # noqa: PT012
        async with producer_of(cluster, linger_ms=50) as producer:
            await producer.enqueue(TOPIC, b"nobody waits", partition=0)
            with pytest.raises(BacklogFull):
                await producer.send(TOPIC, b"waited for", partition=0)
    assert told.value.__notes__ == ["1 records that nobody waited for were not acked"]


@pytest.mark.parametrize("way", ["send", "send_many"])
async def test_a_failure_is_told_to_nobody_because_the_waiting_was_cancelled(
    way: str, cluster: ProducingCluster, autojump_clock: MockClock
) -> None:
    cluster.fate = lambda index, records: (False, ErrorCode.POLICY_VIOLATION)
    with pytest.raises(BacklogFull) as told:  # noqa: PT012
        async with producer_of(cluster, linger_ms=500) as producer:
            with trio.move_on_after(0.1):
                if way == "send":
                    await producer.send(TOPIC, b"v", partition=0)
                else:
                    await producer.send_many(TOPIC, [b"v"], partition=0)
            await producer.flush()
    assert told.value.__notes__[0] == "1 records that nobody waited for were not acked"


async def test_those_who_were_told_are_told_again_by_flush(
    cluster: ProducingCluster, autojump_clock: MockClock
) -> None:
    cluster.fate = lambda index, records: (False, ErrorCode.POLICY_VIOLATION)
    async with producer_of(cluster) as producer:
        delivery = await producer.enqueue(TOPIC, b"v", partition=0)
        await trio.sleep(10)
        for _ in range(2):
            with pytest.raises(BrokerError):
                await delivery.wait()
        with pytest.raises(BrokerError):
            await producer.send_many(TOPIC, [b"v"] * 10, partition=1)
        await producer.flush()


async def test_a_large_value_turns_on_the_spot_until_small_ones_have_lingered(
    cluster: ProducingCluster, autojump_clock: MockClock
) -> None:
    mib = 1024 * 1024
    async with producer_of(
        cluster, linger_ms=60_000, batch_size_bytes=16_384, buffer_memory_bytes=mib, delivery_timeout_ms=1e6
    ) as producer:
        await producer.enqueue(TOPIC, b"lingers", partition=0)
        began = trio.current_time()
        with trio.fail_after(5):
            await producer.send_many(TOPIC, [bytes(mib - 600)], partition=1)
        assert trio.current_time() - began < 5


async def test_refusals_of_a_full_backlog_wait_for_nothing_but_their_answers(
    cluster: ProducingCluster, autojump_clock: MockClock
) -> None:
    def full(index: int, records: memoryview) -> Fate:
        header = check_produced_batch(records)
        in_turn = header.base_sequence == (1 if header.producer_epoch == 0 else 0)
        return False, ErrorCode.POLICY_VIOLATION if in_turn else ErrorCode.OUT_OF_ORDER_SEQUENCE_NUMBER

    async with producer_of(cluster, batch_size_bytes=1024) as producer:
        await producer.send(TOPIC, b"acked", partition=0)
        cluster.fate = full
        begin = trio.current_time()
        deliveries = [await producer.enqueue(TOPIC, bytes(1000), partition=0) for _ in range(40)]
        for delivery in deliveries:
            with pytest.raises(BacklogFull):
                await delivery.wait()
        assert trio.current_time() - begin < 0.5, "each refusal takes the batches behind it back to the start"


def test_the_partition_of_a_full_backlog_is_named_twice() -> None:
    """Penstock's broker names it itself."""
    told = produce_error(ErrorCode.POLICY_VIOLATION, "orders-0: backlog.max.records=3", "orders-0")
    assert str(told).count("orders-0") == 1
    assert "orders-0" in str(produce_error(ErrorCode.POLICY_VIOLATION, "no", "orders-0"))
