"""A producer against brokers that fail at random, held against the promises: each acked record once, in order, at its offset."""

import random

import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.support.examples import examples
from tests.support.producing_brokers import GOOD, HANG_UP, SILENCE, TOPIC, Fate, ProducingCluster
from trio.testing import MockClock

from penstock.client.errors import DeliveryFailed
from penstock.errors import PenstockError
from penstock.producer.batch import Delivery
from penstock.producer.producer import Producer
from penstock.protocol.errors import ErrorCode

BEFORE_APPEND = (
    ErrorCode.NOT_LEADER_OR_FOLLOWER,
    ErrorCode.NOT_ENOUGH_REPLICAS,
    ErrorCode.KAFKA_STORAGE_ERROR,
    ErrorCode.MESSAGE_TOO_LARGE,
    ErrorCode.INVALID_RECORD,
    ErrorCode.POLICY_VIOLATION,
)
AFTER_APPEND = (
    ErrorCode.REQUEST_TIMED_OUT,
    ErrorCode.NOT_ENOUGH_REPLICAS_AFTER_APPEND,
    ErrorCode.NOT_LEADER_OR_FOLLOWER,  # deposed while the batch waited for its followers
    ErrorCode.KAFKA_STORAGE_ERROR,  # appended, perhaps fetched by a follower, and then the sync failed
)
LIMIT_S = 100_000


class Fates:
    """Chance, and how much of it is bad."""

    def __init__(self, seed: int, trouble: float) -> None:
        self.random = random.Random(seed)
        self.trouble = trouble

    def __call__(self, index: int, records: memoryview) -> Fate:
        chance = self.random
        if chance.random() >= self.trouble:
            return GOOD
        kind = chance.randrange(5)
        if kind == 0:
            return (False, chance.choice(BEFORE_APPEND))
        if kind == 1:
            return (True, chance.choice(AFTER_APPEND))
        if kind == 2:
            return (True, HANG_UP)
        if kind == 3:
            return (False, HANG_UP)
        return (chance.random() < 0.5, SILENCE)

    def delay_s(self) -> float:
        return self.random.choice((0.0, 0.001, 0.02, 0.2))


async def disturb(cluster: ProducingCluster, chance: random.Random) -> None:
    """Move leaders, end connections and freeze brokers, for ever."""
    while True:
        await trio.sleep(chance.random() * 2)
        kind = chance.randrange(4)
        node = chance.choice(list(cluster.brokers))
        if kind == 0:
            cluster.leaders[chance.randrange(len(cluster.leaders))] = node
        elif kind == 1:
            cluster.hang_up(node)
        elif kind == 2:
            broker = cluster.brokers[node]
            broker.thaw() if broker.is_frozen else broker.freeze()


async def delivered(
    seed: int, trouble: float, *, is_idempotent: bool, delivery_timeout_ms: float, is_disturbed: bool
) -> tuple[ProducingCluster, list[list[tuple[bytes, Delivery]]]]:
    """Send numbered records for a while; what the brokers have then, and all deliveries, by partition."""
    fates = Fates(seed, trouble)
    sent: list[list[tuple[bytes, Delivery]]] = [[], []]
    chance = random.Random(seed + 1)
    async with trio.open_nursery() as nursery:
        cluster = ProducingCluster(
            nursery, partition_count=2, broker_count=2, fate=fates, delay_s=fates.delay_s, seed=seed
        )
        if is_disturbed:
            nursery.start_soon(disturb, cluster, chance)
        try:
            async with Producer(
                "b1,b2",
                cluster.environment,
                idempotence=is_idempotent,
                delivery_timeout_ms=delivery_timeout_ms,
                request_timeout_ms=3_000,
                batch_size_bytes=chance.choice((100, 200, 2000)),
                linger_ms=chance.choice((0, 5)),
                compression=chance.choice(("none", "lz4")),
            ) as producer:
                for number in range(120):
                    value = b"%d" % number
                    partition = chance.randrange(2)
                    sent[partition].append((value, await producer.enqueue(TOPIC, value, partition=partition)))
                    if chance.random() < 0.2:
                        await trio.sleep(chance.choice((0.0, 0.003, 0.3)))
        except PenstockError:
            pass  # of the flush: each delivery is looked at
        nursery.cancel_scope.cancel()
    return cluster, sent


def run(
    seed: int,
    trouble: float,
    *,
    is_idempotent: bool = True,
    delivery_timeout_ms: float = 10**9,
    is_disturbed: bool = True,
) -> tuple[ProducingCluster, list[list[tuple[bytes, Delivery]]]]:
    async def main() -> tuple[ProducingCluster, list[list[tuple[bytes, Delivery]]]]:
        with trio.fail_after(LIMIT_S):
            return await delivered(
                seed,
                trouble,
                is_idempotent=is_idempotent,
                delivery_timeout_ms=delivery_timeout_ms,
                is_disturbed=is_disturbed,
            )

    return trio.run(main, clock=MockClock(autojump_threshold=0))


async def outcome(delivery: Delivery) -> int | PenstockError:
    try:
        return (await delivery.wait()).offset
    except PenstockError as error:
        return error


def outcomes(sent: list[tuple[bytes, Delivery]]) -> list[tuple[bytes, int | PenstockError]]:
    async def main() -> list[tuple[bytes, int | PenstockError]]:
        assert all(delivery.is_done for _, delivery in sent), "leaving the block leaves nothing open"
        return [(value, await outcome(delivery)) for value, delivery in sent]

    return trio.run(main)


def check_partition(log: list[bytes | None], sent: list[tuple[bytes, Delivery]], *, is_exact: bool) -> None:
    order = {value: place for place, (value, _) in enumerate(sent)}
    for value, result in outcomes(sent):
        count = log.count(value)
        if isinstance(result, int):
            assert count == 1 or (count and not is_exact), f"{value!r}, acked, is there {count} times"
            assert log[result] == value, f"{value!r} is not at its offset {result}"
        elif isinstance(result, DeliveryFailed) and result.may_be_delivered:
            assert count <= 1 or not is_exact, f"{value!r}, unclear, is there {count} times"
        else:
            assert count == 0, f"{value!r} was refused and is there {count} times: {result!r}"
    if is_exact:
        places = [order[value] for value in log if value is not None]
        assert places == sorted(places), "records of one partition changed their order"


@pytest.mark.parametrize("trouble", [0.0, 0.1, 0.5])
@settings(max_examples=examples(25), deadline=None)
@given(seed=st.integers(0, 2**32))
def test_idempotent_each_record_is_there_once_and_in_order_whatever_fails(trouble: float, seed: int) -> None:
    cluster, sent = run(seed, trouble)
    for log, records in zip(cluster.logs, sent, strict=True):
        check_partition(log.values, records, is_exact=True)


@settings(max_examples=examples(50), deadline=None)
@given(seed=st.integers(0, 2**32))
def test_idempotent_a_given_up_batch_does_not_bar_the_way_nor_come_twice(seed: int) -> None:
    cluster, sent = run(seed, 0.4, delivery_timeout_ms=1_500)
    for log, records in zip(cluster.logs, sent, strict=True):
        check_partition(log.values, records, is_exact=True)


@settings(max_examples=examples(25), deadline=None)
@given(seed=st.integers(0, 2**32))
def test_without_idempotence_nothing_acked_is_lost(seed: int) -> None:
    cluster, sent = run(seed, 0.3, is_idempotent=False)
    for log, records in zip(cluster.logs, sent, strict=True):
        check_partition(log.values, records, is_exact=False)
