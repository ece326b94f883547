"""A follower's session of many partitions: only those with news are looked at, none is forgotten, and nothing listens after its end."""

import random
from typing import Any

import trio
import trio.testing
from tests.support.followed_broker import TOPIC_ID, VERSION, FollowedBroker, followed_broker
from tests.support.logs import batch

from penstock.broker import keys
from penstock.broker.fetch_sessions import FetchSessions
from penstock.broker.keys import PartitionState, TopicRecord
from penstock.broker.partition import Partition
from penstock.broker.replies import Reply
from penstock.protocol.errors import ErrorCode
from penstock.protocol.fetch import FetchPartition, FetchRequest
from penstock.protocol.message import Message
from penstock.runtime.metadata import Put

settle = trio.testing.wait_all_tasks_blocked
COUNT = 20
FOREVER_MS = 100_000


class Follower:
    """Broker 2, with `COUNT` partitions in its session."""

    def __init__(self, bench: FollowedBroker) -> None:
        self.bench = bench
        self.offsets = dict.fromkeys(range(COUNT), 0)
        self.session = (0, 0)

    async def fetch(self, *named: int, max_wait_ms: int = 0) -> dict[int, Message]:
        """Fetch, naming some partitions; the answered ones by index."""
        return await self.read(self.begin(*named, max_wait_ms=max_wait_ms))

    def begin(self, *named: int, max_wait_ms: int = FOREVER_MS) -> Any:
        """The same, not waiting for the answer."""
        broker = self.bench.broker
        outcome = broker.fetch(
            *((TOPIC_ID, index, self.offsets[index]) for index in named),
            version=VERSION,
            session=self.session,
            max_wait_ms=max_wait_ms,
            current_leader_epoch=self.bench.leader_epoch,
            replica_state=Message(replica_id=2, replica_epoch=self.bench.epochs[2]),
        )
        if self.session[0]:
            self.session = (self.session[0], self.session[1] + 1)
        return outcome

    async def read(self, outcome: Any) -> dict[int, Message]:
        """Wait for the answer."""
        answer = await self.bench.broker.answer(outcome)
        assert answer.error_code == 0
        self.session = (answer.session_id, max(self.session[1], 1))
        return {part.partition_index: part for topic in answer.responses for part in topic.partitions}

    async def begin_session(self) -> None:
        """Ask for all partitions, and be told of them; nothing is looked at as a whole for a second."""
        await self.fetch(*range(COUNT))
        await self.fetch()
        await self.fetch()


async def many(bench: FollowedBroker) -> Follower:
    """Give the topic its partitions."""
    state = keys.encode_partition(PartitionState((1, 2, 3), (1, 2), 1, bench.leader_epoch))
    for index in range(1, COUNT):
        await bench.store.transact([], [Put(keys.partition_key(TOPIC_ID, index), state)])
    await bench.write(Put(keys.topic_key("orders"), keys.encode_topic(TopicRecord(TOPIC_ID, COUNT))))
    await bench.broker.broker.partitions.wait_ready(TOPIC_ID)
    return Follower(bench)


async def append(bench: FollowedBroker, index: int) -> Partition:
    """A record on one partition."""
    partition = bench.broker.partition(index=index)
    raw: list[bytes | None] = [None] * index
    outcome = bench.broker.produce("orders", *raw, bytes(batch()), acks=1)
    if isinstance(outcome, Reply):
        await bench.broker.answer(outcome)
    await settle()
    return partition


async def test_only_partitions_with_news_are_looked_at() -> None:
    async with followed_broker(isr=(1, 2)) as bench:
        follower = await many(bench)
        await follower.begin_session()
        session = next(iter(bench.broker.broker.fetch_sessions.sessions))
        assert session.news is not None
        assert len(session.news) == 0
        outcome = follower.begin()
        await append(bench, 7)
        assert len(session.news) == 1
        assert set(await follower.read(outcome)) == {7}
        assert len(session.news) == 1, "it has been sent, and is not known to have come"
        follower.offsets[7] = 1
        (told,) = (await follower.fetch(7)).values()
        assert (told.partition_index, told.high_watermark, len(told.records)) == (7, 1, 0)
        assert len(session.news) == 0


async def test_partition_that_got_news_while_another_was_answered_is_not_forgotten() -> None:
    async with followed_broker(isr=(1, 2)) as bench:
        follower = await many(bench)
        await follower.begin_session()
        outcome = follower.begin()
        await append(bench, 3)
        await append(bench, 5)
        assert set(await follower.read(outcome)) == {3, 5}, "both are in the answer that the first has woken"
        await append(bench, 9)
        assert set(await follower.fetch()) == {3, 5, 9}, "what was not fetched again is sent again"


async def test_high_watermark_of_a_quiet_partition_reaches_a_follower_that_consumers_are_sent_to() -> None:
    selector = "org.apache.kafka.common.replica.RackAwareReplicaSelector"
    async with followed_broker(isr=(1, 2, 3), replica_selector_class=selector) as bench:
        await bench.register(2, rack="b")
        await append(bench, 0)
        await bench.fetch_as(3, 0)
        begun = await bench.fetch_as(2, 1, session=(0, 0))
        for number in (1, 2):
            await bench.fetch_as(2, 1, session=(begun.session_id, number))
        outcome = bench.broker.fetch(
            version=VERSION,
            session=(begun.session_id, 3),
            max_wait_ms=FOREVER_MS,
            replica_state=Message(replica_id=2, replica_epoch=bench.epochs[2]),
        )
        assert isinstance(outcome, Reply)
        await bench.fetch_as(3, 1)
        assert outcome.ready
        (part,) = (await bench.broker.answer(outcome)).responses[0].partitions
        assert part.high_watermark == 1


async def test_all_are_looked_at_every_second_for_what_nobody_tells(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with followed_broker(isr=(1, 2)) as bench:
        follower = await many(bench)
        partition = await append(bench, 4)
        await follower.begin_session()
        follower.offsets[4] = 1
        await follower.fetch(4)
        await follower.fetch()
        partition.log.advance_log_start_offset(1)
        assert await follower.fetch() == {}
        await trio.sleep(1)
        (told,) = (await follower.fetch()).values()
        assert (told.partition_index, told.log_start_offset) == (4, 1)


async def test_nothing_listens_when_a_partition_or_the_session_is_gone() -> None:
    async with followed_broker(isr=(1, 2)) as bench:
        follower = await many(bench)
        await follower.begin_session()
        partitions = [bench.broker.partition(index=index) for index in range(COUNT)]
        assert all(len(partition.replica_waiters or ()) == 1 for partition in partitions)
        again = Follower(bench)
        await again.begin_session()
        assert all(len(partition.replica_waiters or ()) == 1 for partition in partitions), "one, and not two"
        await bench.fetch_as(2, 0, session=(again.session[0], -1))
        assert not any(partition.replica_waiters for partition in partitions)


async def test_leader_that_is_deposed_tells_at_once() -> None:
    async with followed_broker(isr=(1, 2)) as bench:
        follower = await many(bench)
        await follower.begin_session()
        outcome = follower.begin()
        await bench.store_state(leader=2)
        (told,) = (await follower.read(outcome)).values()
        assert told.error_code == ErrorCode.NOT_LEADER_OR_FOLLOWER


def request(replica_id: int, session: tuple[int, int] = (0, 0)) -> FetchRequest:
    """A fetch of one partition."""
    partition = FetchPartition("", TOPIC_ID, 0, 1, 0, -1, 0, 1)
    return FetchRequest(replica_id, 5, 0, 1, 1, 0, *session, [partition], [], "", None)


def test_followers_have_a_session_each_whatever_consumers_have_taken() -> None:
    sessions = FetchSessions(2, random.Random(1))
    consumers = [sessions.plan(request(-1), 0).session_id for _ in range(3)]
    assert [bool(session_id) for session_id in consumers] == [True, True, False]
    first, second = (sessions.plan(request(node_id), 0).session_id for node_id in (2, 3))
    assert first
    assert second
    assert sessions.plan(request(4), 0).session_id == 0, "other followers' are not taken"
    assert sessions.plan(request(2), 0).session_id not in (0, first), "a follower has one"
    assert len(sessions) == 2
