"""The producer's public face against brokers in memory: what is refused, what is told, what is left after cancellation."""

from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio
from tests.support.producing_brokers import GOOD, HANG_UP, TOPIC, TOPIC_ID, Fate, ProducingCluster
from trio.testing import MockClock, wait_all_tasks_blocked

from penstock.client.errors import (
    BacklogFull,
    BrokerError,
    BufferFull,
    DeliveryFailed,
    DeliveryTimedOut,
    ProducerFenced,
    UnknownTopic,
)
from penstock.producer.producer import OutgoingRecord, Producer, RecordTooLarge
from penstock.protocol.api import ApiKey
from penstock.protocol.errors import ErrorCode


@pytest.fixture
async def cluster(nursery: trio.Nursery) -> ProducingCluster:
    return ProducingCluster(nursery, partition_count=2, broker_count=2)


def producer_of(cluster: ProducingCluster, **options: Any) -> Producer:
    return Producer("b1,b2", cluster.environment, **options)


@asynccontextmanager
async def idle(cluster: ProducingCluster, **options: Any) -> AsyncGenerator[Producer]:
    """A producer that sends nothing by itself: linger is for ever, and what is left at the end is dropped."""
    with trio.CancelScope() as scope:
        async with producer_of(cluster, linger_ms=1e12, **options) as producer:
            await producer.partition_count(TOPIC)
            yield producer
            scope.cancel()
            await trio.lowlevel.checkpoint()


BAD: dict[str, tuple[dict[str, Any], type[Exception], str]] = {
    "value": ({"value": "text"}, TypeError, "value"),
    "memoryview": ({"value": memoryview(b"x")}, TypeError, "value"),
    "key": ({"key": 5}, TypeError, "key"),
    "too high a partition": ({"partition": 2}, ValueError, "partitions 0 to 1"),
    "negative partition": ({"partition": -1}, ValueError, "partitions 0 to 1"),
    "time": ({"timestamp_ms": -1}, ValueError, "timestamp_ms"),
    "large time": ({"timestamp_ms": 2**63}, ValueError, "timestamp_ms"),
    "header": ({"headers": [("name", "text")]}, TypeError, "name"),
    "header name": ({"headers": [(b"name", b"")]}, TypeError, "name"),
    "header shape": ({"headers": ["x"]}, TypeError, "pairs"),
    "header name that no bytes can say": ({"headers": [("\ud800", b"")]}, ValueError, "surrogates"),
    "size": ({"value": bytes(2**20)}, RecordTooLarge, "1048576"),
}


@pytest.mark.parametrize("bad", BAD)
async def test_bad_input_is_taken_or_leaves_something_behind(bad: str, cluster: ProducingCluster) -> None:
    fields, kind, words = BAD[bad]
    record: dict[str, Any] = {"value": b"v", **fields}
    async with idle(cluster) as producer:
        with pytest.raises(kind, match=words):
            await producer.enqueue(TOPIC, **record)
        with pytest.raises(kind, match=words):
            producer.send_nowait(TOPIC, **record)
        with pytest.raises(kind, match=words):
            await producer.send_many(TOPIC, [OutgoingRecord(**record)])
        assert producer.buffered_bytes == 0


@pytest.mark.parametrize(
    "options",
    [
        {"acks": "some"},
        {"acks": 2},
        {"acks": "leader", "idempotence": True},
        {"compression": "rar"},
        {"compression": "snappy", "compression_level": 1},
        {"max_in_flight": 6},
        {"max_in_flight": 0},
        {"linger_ms": -1},
        {"buffer_memory_bytes": 1000},
        {"delivery_timeout_ms": 0},
    ],
    ids=str,
)
def test_options_that_do_not_go_together_are_found_out_later(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(options))):
        Producer("localhost", **options)


async def test_a_bad_value_in_the_middle_hides_what_was_sent_before_it(cluster: ProducingCluster) -> None:
    async with producer_of(cluster) as producer:
        values: list[Any] = [b"%d" % number for number in range(5000)]
        values[4500] = "text"
        with pytest.raises(TypeError, match="value") as failed:
            await producer.send_many(TOPIC, values, partition=0)
        assert "4500 records" in failed.value.__notes__[0]
    assert len(cluster.logs[0].values) == 4500


async def test_an_iterator_that_fails_loses_what_came_before(cluster: ProducingCluster) -> None:
    def values() -> Any:
        yield from [b"x"] * 10_000
        raise OSError("the file ends here")

    async with producer_of(cluster) as producer:
        with pytest.raises(OSError, match="ends here"):
            await producer.send_many(TOPIC, values(), partition=1)
    assert len(cluster.logs[1].values) == 8192  # the chunks before the one that failed


def failing_once(fate: Fate) -> Callable[[int, memoryview], Fate]:
    left = [fate]
    return lambda index, records: left.pop() if left else GOOD


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        (ErrorCode.POLICY_VIOLATION, BacklogFull),
        (ErrorCode.INVALID_RECORD, BrokerError),
        (ErrorCode.INVALID_REQUIRED_ACKS, BrokerError),
        (ErrorCode.UNSUPPORTED_COMPRESSION_TYPE, BrokerError),
        (ErrorCode.UNKNOWN_SERVER_ERROR, BrokerError),
    ],
)
async def test_a_refusal_is_tried_again_or_told_as_something_else(
    code: ErrorCode, kind: type[BrokerError], cluster: ProducingCluster
) -> None:
    cluster.fate = failing_once((False, code))
    async with producer_of(cluster) as producer:
        with pytest.raises(kind) as refused:
            await producer.send(TOPIC, b"value", partition=0)
        assert refused.value.code == code
        assert (await producer.send(TOPIC, b"next", partition=0)).offset == 0


@pytest.mark.parametrize(
    "fate",
    [
        (False, ErrorCode.NOT_LEADER_OR_FOLLOWER),
        (False, ErrorCode.NOT_ENOUGH_REPLICAS),
        (False, ErrorCode.KAFKA_STORAGE_ERROR),
        (False, ErrorCode.UNKNOWN_TOPIC_OR_PARTITION),
        (False, ErrorCode.THROTTLING_QUOTA_EXCEEDED),
        (False, ErrorCode.OUT_OF_ORDER_SEQUENCE_NUMBER),
        (False, ErrorCode.UNKNOWN_PRODUCER_ID),
        (False, ErrorCode.INVALID_PRODUCER_EPOCH),
        (True, ErrorCode.NOT_ENOUGH_REPLICAS_AFTER_APPEND),
        (True, ErrorCode.REQUEST_TIMED_OUT),
        (True, HANG_UP),
        (False, HANG_UP),
    ],
    ids=str,
)
async def test_what_may_succeed_later_is_given_up(fate: Fate, cluster: ProducingCluster) -> None:
    cluster.fate = failing_once(fate)
    async with producer_of(cluster) as producer:
        assert (await producer.send(TOPIC, b"value", partition=0)).offset == 0
        assert (await producer.send(TOPIC, b"next", partition=0)).offset == 1
    assert cluster.logs[0].values == [b"value", b"next"]


async def test_a_duplicate_is_a_failure(cluster: ProducingCluster) -> None:
    cluster.fate = failing_once((False, ErrorCode.DUPLICATE_SEQUENCE_NUMBER))
    async with producer_of(cluster) as producer:
        assert (await producer.send(TOPIC, b"value", partition=0)).offset == -1


async def test_a_fenced_producer_goes_on(cluster: ProducingCluster) -> None:
    cluster.fate = lambda index, records: (False, ErrorCode.PRODUCER_FENCED)
    async with producer_of(cluster) as producer:
        both = [await producer.enqueue(TOPIC, b"value", partition=index) for index in range(2)]
        told: list[type[Exception]] = []
        for delivery in both:
            with pytest.raises((ProducerFenced, DeliveryFailed)) as caught:
                await delivery.wait()
            told.append(caught.type)
        assert ProducerFenced in told  # the other one may be on its way to the other broker meanwhile
        with pytest.raises(ProducerFenced):
            await producer.send(TOPIC, b"later", partition=0)
        with pytest.raises(ProducerFenced):
            producer.send_nowait(TOPIC, b"later", partition=0)
        with pytest.raises(ProducerFenced):
            await producer.flush()


async def test_a_failure_that_nobody_waited_for_is_silent(cluster: ProducingCluster) -> None:
    cluster.fate = lambda index, records: (False, ErrorCode.INVALID_RECORD)

    async def send_unwatched() -> None:
        async with producer_of(cluster) as producer:
            await producer.partition_count(TOPIC)
            producer.send_nowait(TOPIC, b"value", partition=0)
            with pytest.raises(BrokerError):
                await producer.send(TOPIC, b"seen", partition=1)

    with pytest.raises(BrokerError) as failed:
        await send_unwatched()
    assert "1 records" in failed.value.__notes__[0]


async def test_a_cancelled_send_is_lost_or_holds_its_memory(cluster: ProducingCluster) -> None:
    async with producer_of(cluster) as producer:
        await producer.partition_count(TOPIC)
        with trio.move_on_after(0):
            await producer.send(TOPIC, b"value", partition=0)
        await producer.flush()
        assert producer.buffered_bytes == 0
    assert cluster.logs[0].values == [b"value"]


async def test_a_call_cancelled_while_it_waits_for_room_leaves_something(
    cluster: ProducingCluster, nursery: trio.Nursery
) -> None:
    async with producer_of(cluster, buffer_memory_bytes=6_500, batch_size_bytes=2_000) as producer:
        await producer.partition_count(TOPIC)
        for broker in cluster.brokers.values():
            broker.freeze()
        taken = [await producer.enqueue(TOPIC, bytes(1500), partition=0) for _ in range(2)]
        before = producer.buffered_bytes
        with pytest.raises(BufferFull):
            producer.send_nowait(TOPIC, bytes(1500), partition=0)
        with trio.move_on_after(1) as held:
            await producer.enqueue(TOPIC, b"cancelled" * 200, partition=0)
        assert held.cancelled_caught
        assert producer.buffered_bytes == before
        with trio.move_on_after(1) as held:
            await producer.send_many(TOPIC, [b"cancelled" * 200], partition=0)
        assert held.cancelled_caught
        assert producer.buffered_bytes == before
        order: list[int] = []

        async def wait_in_line(number: int, size_bytes: int) -> None:
            await producer.enqueue(TOPIC, bytes([number]) * size_bytes, partition=0)
            order.append(number)

        for number, size_bytes in (
            (1, 1900),
            (2, 1),
        ):  # the small one has room at once, but it is not its turn
            nursery.start_soon(wait_in_line, number, size_bytes)
            await wait_all_tasks_blocked()
        for broker in cluster.brokers.values():
            broker.thaw()
        for delivery in taken:
            await delivery.wait()
        await producer.flush()
        assert order == [1, 2]
    assert [len(value or b"") for value in cluster.logs[0].values] == [1500, 1500, 1900, 1]


async def test_acks_none_waits_for_an_answer(cluster: ProducingCluster, autojump_clock: MockClock) -> None:
    async with producer_of(cluster, acks="none") as producer:
        told = await producer.send(TOPIC, b"value", partition=0)
        result = await producer.send_many(TOPIC, [b"more"] * 10, partition=0)
    assert told.offset == -1
    assert [(one.first_offset, one.record_count) for one in result.ranges] == [(-1, 10)]
    await trio.sleep(1)
    assert cluster.logs[0].values == [b"value", *[b"more"] * 10]


async def test_a_moved_leader_is_not_found(cluster: ProducingCluster, autojump_clock: MockClock) -> None:
    async with producer_of(cluster) as producer:
        await producer.send(TOPIC, b"old", partition=0)
        cluster.leaders[0] = 2
        assert (await producer.send(TOPIC, b"new", partition=0)).offset == 1
        cluster.leaders[0] = -1
        with trio.move_on_after(3) as nobody:
            await producer.send(TOPIC, b"nobody", partition=0)
        assert nobody.cancelled_caught
        cluster.leaders[0] = 1
        assert (await producer.send(TOPIC, b"again", partition=0)).offset == 3


async def test_a_topic_that_is_gone_is_asked_for_for_ever(
    cluster: ProducingCluster, autojump_clock: MockClock
) -> None:
    async with producer_of(cluster) as producer:
        await producer.send(TOPIC, b"value", partition=0)
        cluster.forget_topic()
        with trio.fail_after(60), pytest.raises(UnknownTopic):
            await producer.send(TOPIC, b"value", partition=0)


async def test_a_record_that_never_got_out_may_be_delivered(
    cluster: ProducingCluster, autojump_clock: MockClock
) -> None:
    async with producer_of(cluster, delivery_timeout_ms=2000) as producer:
        await producer.partition_count(TOPIC)
        cluster.network.brokers.clear()
        for node in cluster.brokers:
            cluster.hang_up(node)
        with pytest.raises(DeliveryTimedOut) as late:
            await producer.send(TOPIC, b"value", partition=0)
    assert not late.value.may_be_delivered
    assert "not sent within 2000 ms" in str(late.value)


async def test_batches_go_by_topic_id_only_where_there_is_one(cluster: ProducingCluster) -> None:
    async with producer_of(cluster) as producer:
        await producer.send(TOPIC, b"value")
    (request,) = [body for broker in cluster.brokers.values() for body in broker.bodies(ApiKey.PRODUCE)]
    assert request.topic_data[0].topic_id == TOPIC_ID


async def test_a_large_batch_is_sealed_before_its_compression_is_done(cluster: ProducingCluster) -> None:
    value = bytes(range(256)) * 200
    async with producer_of(cluster, compression="gzip") as producer:
        await producer.send_many(TOPIC, [value] * 4, partition=0)
    assert cluster.logs[0].values == [value] * 4


async def test_own_partitioners_are_asked_and_checked(cluster: ProducingCluster) -> None:
    asked: list[tuple[str, bytes | None, bytes | None, int]] = []

    def choose(topic: str, key: bytes | None, value: bytes | None, count: int) -> int:
        asked.append((topic, key, value, count))
        return 1 if value != b"far" else 7

    async with producer_of(cluster, partitioner=choose) as producer:
        assert (await producer.send(TOPIC, b"value", key=b"k")).partition == 1
        await producer.send_many(TOPIC, [b"a", b"b"])
        assert (await producer.send(TOPIC, b"named", partition=0)).partition == 0
        with pytest.raises(ValueError, match="partition=7"):
            await producer.send(TOPIC, b"far")
    assert asked[0] == (TOPIC, b"k", b"value", 2)
    assert cluster.logs[1].values == [b"value", b"a", b"b"]


async def test_sending_after_the_end_waits_for_ever(cluster: ProducingCluster) -> None:
    async with producer_of(cluster) as producer:
        await producer.send(TOPIC, b"value")
    with pytest.raises(DeliveryFailed, match="closed"):
        await producer.send(TOPIC, b"value")
    with pytest.raises(RuntimeError):
        await Producer("b1", cluster.environment).send(TOPIC, b"value")


async def test_one_task_sending_alone_sends_batches_of_one(cluster: ProducingCluster) -> None:
    async with producer_of(cluster) as producer:
        for _ in range(3):
            await producer.send(TOPIC, b"value", partition=0)
    assert cluster.logs[0].batch_sizes == [1, 1, 1]


async def test_linger_gathers_what_comes_meanwhile(
    cluster: ProducingCluster, autojump_clock: MockClock
) -> None:
    async with producer_of(cluster, linger_ms=50) as producer, trio.open_nursery() as nursery:
        for number in range(10):
            nursery.start_soon(producer.send, TOPIC, b"%d" % number)
            await trio.sleep(0.001)
    assert sorted(size for log in cluster.logs for size in log.batch_sizes) == [10]
