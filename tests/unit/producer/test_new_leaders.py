"""Leaders change under a producer: it goes where it is told to, and believes nobody who lags behind."""

import pytest
import trio
from tests.support.producing_brokers import TOPIC, ProducingCluster
from trio.testing import MockClock

from penstock.producer.producer import Producer
from penstock.protocol.api import ApiKey
from penstock.protocol.errors import ErrorCode
from penstock.protocol.record_batch import read_batch_header


@pytest.fixture
async def cluster(nursery: trio.Nursery) -> ProducingCluster:
    return ProducingCluster(nursery, partition_count=1, broker_count=2)


def producer_of(cluster: ProducingCluster, **options: object) -> Producer:
    return Producer("b1,b2", cluster.environment, **options)  # type: ignore[arg-type]


def metadata_count(cluster: ProducingCluster) -> int:
    return sum(len(broker.bodies(ApiKey.METADATA)) for broker in cluster.brokers.values())


async def test_the_leader_that_a_deposed_one_names_is_gone_to_at_once_and_without_metadata(
    cluster: ProducingCluster, autojump_clock: MockClock
) -> None:
    cluster.epochs = {0: 3}
    async with producer_of(cluster) as producer:
        await producer.send(TOPIC, b"one")
        asked, began = metadata_count(cluster), trio.current_time()
        cluster.leaders, cluster.epochs = [2], {0: 4}
        record = await producer.send(TOPIC, b"two")
        assert record.offset == 1
        assert metadata_count(cluster) == asked
        assert trio.current_time() - began < 0.02, "no backoff"


async def test_several_batches_on_the_wire_keep_their_order_when_the_leader_is_named(
    cluster: ProducingCluster, autojump_clock: MockClock
) -> None:
    cluster.epochs = {0: 3}
    values = [b"%d" % number for number in range(40)]
    async with producer_of(cluster, batch_size_bytes=100) as producer:
        await producer.send(TOPIC, values[0])
        cluster.leaders, cluster.epochs = [2], {0: 4}
        await producer.send_many(TOPIC, values[1:])
    assert cluster.logs[0].values == values


async def test_a_leader_named_with_an_old_epoch_is_not_believed(
    cluster: ProducingCluster, autojump_clock: MockClock
) -> None:
    cluster.epochs = {0: 5}
    async with producer_of(cluster, delivery_timeout_ms=5_000) as producer:
        await producer.send(TOPIC, b"one")
        refused: list[int] = []

        def refuse(index: int, records: memoryview) -> tuple[bool, ErrorCode]:
            if not refused:
                refused.append(index)
                cluster.epochs = {0: 4}  # what an image that lags behind shows
                return False, ErrorCode.NOT_LEADER_OR_FOLLOWER
            return True, ErrorCode.NONE

        cluster.fate = refuse
        asked = metadata_count(cluster)
        await producer.send(TOPIC, b"two")
        assert metadata_count(cluster) > asked, "it had to look for itself"


async def test_a_record_that_a_deposed_leader_may_have_is_told_to_be_in_no_log(
    cluster: ProducingCluster, autojump_clock: MockClock
) -> None:
    from penstock.client.errors import DeliveryFailed

    async with producer_of(cluster, delivery_timeout_ms=2_000) as producer:
        await producer.send(TOPIC, b"one")
        cluster.fate = lambda index, records: (True, ErrorCode.NOT_LEADER_OR_FOLLOWER)
        with pytest.raises(DeliveryFailed) as failed:
            await producer.send(TOPIC, b"two")
        assert failed.value.may_be_delivered
        cluster.fate = lambda index, records: (True, ErrorCode.NONE)
        await producer.send(TOPIC, b"three")
    assert cluster.logs[0].values == [b"one", b"two", b"three"], "the third does not pass for the second"


async def test_batches_to_a_topic_that_was_made_anew_change_places_when_its_leader_dies(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    """What the topic that is gone has acked is known to no leader of the new one."""
    cluster = ProducingCluster(nursery, partition_count=2, broker_count=3)
    offered: list[int] = []

    def take(index: int, records: memoryview) -> tuple[bool, ErrorCode]:
        if index == 0:
            offered.append(read_batch_header(records).base_sequence)
        return True, ErrorCode.NONE

    async with producer_of(cluster) as producer, trio.open_nursery() as sending:

        async def send(value: bytes) -> None:
            await producer.send(TOPIC, value, partition=0)

        await send(b"gone")
        cluster.fate = take
        cluster.make_topic_anew()
        await producer.send(TOPIC, b"learns of it", partition=1)
        cluster.brokers[1].freeze()
        sending.start_soon(send, b"first")
        await trio.sleep(0.1)
        cluster.leaders = [2, 3]
        await producer.send(TOPIC, b"learns who leads", partition=1)
        sending.start_soon(send, b"second")
        await trio.sleep(0.5)
        assert offered == [], "the first has no answer"
        cluster.hang_up(1)
    assert (offered, cluster.logs[0].values) == ([0, 1], [b"first", b"second"])
