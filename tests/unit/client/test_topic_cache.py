"""What is known of topics is asked for once, shared, and asked for again when it is old or was found wrong."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import pytest
import trio
from tests.support.producing_brokers import TOPIC, ProducingCluster
from trio.testing import MockClock

from penstock.client.cluster import Cluster
from penstock.client.connection import ConnectionSettings
from penstock.client.errors import BootstrapFailed, UnknownTopic
from penstock.client.metadata import parse_bootstrap
from penstock.client.topic_cache import TOPIC_AGE_MAX_MS, TopicCache
from penstock.protocol.api import ApiKey


class Setting:
    def __init__(self, brokers: ProducingCluster, nursery: trio.Nursery) -> None:
        self.brokers = brokers
        cluster = Cluster(brokers.environment, parse_bootstrap("b1"), nursery, ConnectionSettings())
        self.cache = TopicCache(cluster, brokers.environment, creates_topics=True)

    def asked(self) -> list[list[str]]:
        broker = self.brokers.brokers[1]
        return [[topic.name for topic in body.topics] for body in broker.bodies(ApiKey.METADATA)]


@asynccontextmanager
async def setting() -> AsyncGenerator[Setting]:
    async with trio.open_nursery() as nursery:
        yield Setting(ProducingCluster(nursery), nursery)
        nursery.cancel_scope.cancel()


async def test_misses_at_the_same_time_ask_twice(autojump_clock: MockClock) -> None:
    async with setting() as one:
        async with trio.open_nursery() as nursery:
            for _ in range(5):
                nursery.start_soon(one.cache.get, TOPIC)
        assert len(one.asked()) == 1
        assert one.cache.peek(TOPIC) is await one.cache.get(TOPIC)
        assert len(one.asked()) == 1


async def test_a_cancelled_asker_takes_the_others_with_it(autojump_clock: MockClock) -> None:
    async with setting() as one, trio.open_nursery() as nursery:
        first = trio.CancelScope()

        async def give_up() -> None:
            with first:
                await one.cache.get(TOPIC)

        nursery.start_soon(give_up)
        await trio.testing.wait_all_tasks_blocked()
        nursery.start_soon(one.cache.get, TOPIC)
        first.cancel()
        with trio.fail_after(5):
            assert (await one.cache.get(TOPIC)).name == TOPIC


async def test_what_is_old_or_wrong_is_believed(autojump_clock: MockClock) -> None:
    async with setting() as one:
        await one.cache.get(TOPIC)
        await trio.sleep(TOPIC_AGE_MAX_MS / 1000 + 1)
        assert one.cache.peek(TOPIC) is None
        await one.cache.get(TOPIC)
        one.cache.invalidate(TOPIC)
        assert one.cache.peek(TOPIC) is None
        await one.cache.get(TOPIC)
        assert len(one.asked()) == 3


async def test_old_knowledge_is_thrown_away_while_nobody_answers(autojump_clock: MockClock) -> None:
    async with setting() as one:
        known = await one.cache.get(TOPIC)
        await trio.sleep(TOPIC_AGE_MAX_MS / 1000 + 1)
        one.brokers.network.brokers.clear()
        one.brokers.hang_up(1)
        assert await one.cache.get(TOPIC) is known
        one.cache.invalidate(TOPIC)
        with pytest.raises(BootstrapFailed):
            await one.cache.get(TOPIC)


async def test_a_missing_topic_is_asked_for_for_ever(autojump_clock: MockClock) -> None:
    async with setting() as one:
        with trio.fail_after(10), pytest.raises(UnknownTopic):
            await one.cache.get("missing")
        assert (await one.cache.get(TOPIC)).name == TOPIC


async def test_what_a_broker_says_that_lags_behind_undoes_what_is_known(autojump_clock: MockClock) -> None:
    async with setting() as one:
        one.brokers.epochs = {0: 5}
        await one.cache.get(TOPIC)
        one.brokers.epochs, one.brokers.leaders = {0: 4}, [9]
        one.cache.invalidate(TOPIC)
        partition = (await one.cache.get(TOPIC)).partitions[0]
        assert (partition.leader, partition.leader_epoch) == (1, 5)
        one.brokers.epochs = {0: 6}
        one.cache.invalidate(TOPIC)
        partition = (await one.cache.get(TOPIC)).partitions[0]
        assert (partition.leader, partition.leader_epoch) == (9, 6)


async def test_a_leader_that_was_told_of_elsewhere_is_asked_for_again_or_undone(
    autojump_clock: MockClock,
) -> None:
    async with setting() as one:
        one.brokers.epochs = {0: 5}
        assert one.cache.learn_leader(TOPIC, 0, 2, 6) is None, "nothing is known of the topic"
        await one.cache.get(TOPIC)
        assert one.cache.learn_leader(TOPIC, 0, 2, 5) is None
        assert one.cache.learn_leader(TOPIC, 7, 2, 9) is None
        assert one.cache.learn_leader(TOPIC, 0, 2, 6) is not None
        known = one.cache.peek(TOPIC)
        assert known is not None
        assert known.partitions[0].leader == 2
        assert len(one.asked()) == 1
        one.cache.invalidate(TOPIC)
        assert (await one.cache.get(TOPIC)).partitions[0].leader == 2, "Metadata lags behind"
