"""One follower and a leader made of functions: when what is asked for, and what a leader's misbehaviour does not do."""

from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio
import trio.testing
from tests.support.logs import batch, read_batches, stored
from tests.support.memory_broker import MemoryBroker, memory_broker
from tests.support.memory_metadata import MemoryMetadata
from tests.support.scripted_broker import SILENCE, Instead, ScriptedBroker, ScriptedNetwork
from tests.support.scripted_threads import ScriptedThreads
from tests.unit.broker.test_partitions import checkpoint

from penstock.broker import keys
from penstock.broker.keys import BrokerRegistration, Endpoint, PartitionState, TopicRecord
from penstock.protocol.api import ApiKey
from penstock.protocol.codec import encode_response
from penstock.protocol.errors import ErrorCode
from penstock.protocol.framing import response_prefix
from penstock.protocol.message import Message
from penstock.runtime.files import DiskError
from penstock.runtime.metadata import Put
from penstock.storage.layout import LOG_START_CHECKPOINT

TOPIC, TOPIC_ID = "orders", bytes(range(1, 17))
LEADER, HOST, PORT = 2, "10.0.0.2", 9092
SESSION = 77
LARGE = 100_000

Answer = Message | Instead
Scripted = Answer | Callable[[Message], Answer]


def part(index: int, records: bytes = b"", *, code: int = 0, high_watermark: int = 0) -> Message:
    """One partition of an answer."""
    return Message(
        partition_index=index,
        error_code=code,
        high_watermark=high_watermark,
        log_start_offset=0,
        aborted_transactions=None,
        records=records,
    )


def answer(*parts: Message, code: int = 0) -> Message:
    """A Fetch answer."""
    topics = [Message(topic_id=TOPIC_ID, partitions=list(parts))] if parts else []
    return Message(error_code=code, session_id=0 if code else SESSION, responses=topics)


class FollowingBroker:
    """Broker 1, which follows broker 2 in everything; what that one answers is in `answers`, and then it is silent."""

    def __init__(self) -> None:
        self.answers: list[Scripted] = []
        self.leader = ScriptedBroker({ApiKey.FETCH: self._fetch})
        self.store = MemoryMetadata()
        self.memory: MemoryBroker | None = None

    def _fetch(self, version: int, request: Message) -> Answer:
        if not self.answers:
            return SILENCE
        given = self.answers.pop(0)
        return given(request) if callable(given) else given

    @property
    def broker(self) -> MemoryBroker:
        assert self.memory is not None
        return self.memory

    @property
    def requests(self) -> list[Message]:
        """The fetches so far."""
        return self.leader.bodies(ApiKey.FETCH)

    def asked(self, number: int) -> dict[int, int]:
        """The offset for each partition that a request names."""
        topics = self.requests[number].topics
        return {each.partition: each.fetch_offset for topic in topics for each in topic.partitions}

    def answer_late(self, number: int, message: Message) -> None:
        """Answer a fetch that was met with silence; the connection's first request was another."""
        version = self.leader.requests[-1].version
        body = encode_response(ApiKey.FETCH, version, message)
        self.leader.streams[-1].feed(response_prefix(ApiKey.FETCH, version, number + 1, len(body)) + body)

    async def follow(self, index: int, *, epoch: int = 5) -> None:
        """Have the store say that broker 2 leads."""
        state = PartitionState((1, LEADER), (LEADER,), LEADER, epoch)
        await self.write(Put(keys.partition_key(TOPIC_ID, index), keys.encode_partition(state)))

    async def write(self, put: Put) -> None:
        await self.store.transact([], [put])
        await trio.testing.wait_all_tasks_blocked()


@asynccontextmanager
async def following_broker(
    *answers: Scripted, count: int = 1, threads: ScriptedThreads | None = None, **properties: Any
) -> AsyncGenerator[FollowingBroker]:
    """It follows so many partitions, and gets these answers first."""
    bench = FollowingBroker()
    bench.answers += answers
    given: dict[str, Any] = {"write_caching": "true", **properties}
    network = ScriptedNetwork({(HOST, PORT): bench.leader})
    registration = BrokerRegistration("incarnation", {"PLAINTEXT": Endpoint(HOST, PORT)}, None, "")
    async with memory_broker(
        store=bench.store,
        network=network,
        metadata_store="etcd://memory",
        threads=threads,
        **given,
    ) as bench.memory:
        await bench.write(Put(keys.broker_key(LEADER), keys.encode_broker(registration)))
        for index in range(count):
            await bench.follow(index)  # seen when the topic is, all at once
        await bench.write(Put(keys.topic_key(TOPIC), keys.encode_topic(TopicRecord(TOPIC_ID, max(count, 2)))))
        yield bench


def records(count: int, *, start: int = 0, size_bytes: int = 5) -> bytes:
    return b"".join(stored(batch([b"v" * size_bytes]), offset, 5) for offset in range(start, start + count))


async def test_what_comes_is_appended_and_the_next_request_asks_for_what_follows(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with following_broker(answer(), answer(part(0, records(3), high_watermark=2))) as bench:
        await trio.sleep(1)
        partition = bench.broker.partition()
        assert read_batches(partition.log) == [records(1, start=n) for n in range(3)]
        assert partition.high_watermark == 2
        assert bench.asked(-1) == {0: 3}
        entry = bench.requests[-1].topics[0].partitions[0]
        assert (entry.current_leader_epoch, entry.last_fetched_epoch) == (5, 5)
        state = bench.requests[-1].replica_state
        assert (state.replica_id, state.replica_epoch) == (
            1,
            bench.broker.broker.registration.create_revision,
        )


async def test_a_leader_that_refuses_everything_is_not_asked_all_the_time(
    autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    refusals = [answer(code=ErrorCode.STALE_BROKER_EPOCH)] * 1000
    async with following_broker(*refusals, replica_fetch_backoff_ms="1000") as bench:
        await trio.sleep(8)
        assert 5 < len(bench.requests) < 20
        assert caplog.text.count("STALE_BROKER_EPOCH") == 1


async def test_a_partition_that_comes_is_asked_for_while_a_long_poll_waits(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with following_broker(answer()) as bench:  # the session's first, then silence
        await trio.sleep(0.1)
        count = len(bench.requests)
        await bench.follow(1)
        await trio.sleep(0.01)
        assert len(bench.requests) == count + 1
        assert bench.asked(-1) == {1: 0}
        assert bench.requests[-1].session_epoch == bench.requests[-2].session_epoch + 1


async def test_only_what_has_changed_is_named(autojump_clock: trio.testing.MockClock) -> None:
    first = records(1)
    async with following_broker(answer(), answer(part(1, first)), answer(), count=3) as bench:
        await trio.sleep(0.5)
        assert bench.asked(0) == {0: 0, 1: 0, 2: 0}
        assert [bench.asked(number) for number in range(1, 4)] == [{}, {1: 1}, {}]


async def test_next_request_goes_out_in_the_turn_in_which_the_answer_comes(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with following_broker(answer(), answer(part(0, records(1)))) as bench:
        await trio.sleep(0.1)  # a worker opens the log's file for the first append
        for offset in range(1, 4):
            count = len(bench.requests)
            bench.answer_late(count - 1, answer(part(0, records(1, start=offset), high_watermark=offset)))
            for _ in range(2):  # whoever is to run has run then, and what it wakes has not
                await trio.lowlevel.checkpoint()
            assert bench.asked(count) == {0: offset + 1}
        assert bench.broker.partition().high_watermark == 3


async def test_answer_to_an_older_request_is_not_taken_for_one_to_what_was_asked_since(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with following_broker(answer(), count=2) as bench:  # then silence: the second request waits
        await trio.sleep(0.1)
        await bench.follow(0, epoch=6)
        await trio.sleep(0.01)
        assert bench.asked(-1) == {0: 0}, "it is asked for in the new epoch"
        count = len(bench.requests)
        logs = [bench.broker.partition(index=index).log for index in (0, 1)]
        bench.answer_late(count - 2, answer(part(0, records(1)), part(1, records(1))))
        await trio.sleep(0.01)
        assert [log.log_end_offset for log in logs] == [0, 1], "it was asked for in the epoch before"
        bench.answer_late(count - 1, answer(part(0, records(1))))
        await trio.sleep(0.01)
        assert [log.log_end_offset for log in logs] == [1, 1]


async def test_a_log_that_has_failed_is_vouched_for_no_more(autojump_clock: trio.testing.MockClock) -> None:
    async with following_broker(answer(), count=2) as bench:
        await trio.sleep(1.5)
        bench.broker.partition().fail()
        bench.answer_late(1, answer())
        await trio.sleep(0.1)
        (forgotten,) = bench.requests[-1].forgotten_topics_data
        assert (forgotten.topic_id, forgotten.partitions) == (TOPIC_ID, [0])


async def test_leader_is_told_at_once_that_the_log_begins_elsewhere(
    autojump_clock: trio.testing.MockClock,
) -> None:
    told = part(0, high_watermark=2)
    told.log_start_offset = 2
    async with following_broker(answer(), answer(part(0, records(2))), answer(told)) as bench:
        await trio.sleep(0.3)
        entry = bench.requests[-1].topics[0].partitions[0]
        assert (entry.fetch_offset, entry.log_start_offset) == (2, 2)


@pytest.mark.parametrize("is_written", [False, True])
async def test_leader_deletes_nothing_because_the_one_before_it_did(
    autojump_clock: trio.testing.MockClock, is_written: bool
) -> None:
    """Its disk is slow to take down where that one's log begins; until then it has become the leader."""
    threads = ScriptedThreads()
    told = part(0, high_watermark=2)
    told.log_start_offset = 2
    threads.hold("write_log_starts", after=is_written)
    async with following_broker(
        answer(), answer(part(0, records(3))), answer(told), threads=threads
    ) as bench:
        await trio.sleep(0.3)
        assert threads.waiting("write_log_starts") == 1
        state = PartitionState((1, LEADER), (1, LEADER), 1, 7)
        await bench.write(Put(keys.partition_key(TOPIC_ID, 0), keys.encode_partition(state)))
        threads.release("write_log_starts")
        await trio.sleep(10)
        partition = bench.broker.partition()
        assert partition.is_leader
        assert partition.log.log_start_offset == 0
        assert checkpoint(bench.broker.files, LOG_START_CHECKPOINT).get((TOPIC, 0), 0) == 0, (
            "nor after a restart"
        )


async def test_what_a_leader_told_of_its_logs_start_is_forgotten_with_its_epoch_where_the_disk_fails(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """The records there may be others by then. The next leader says where its log begins."""
    threads = ScriptedThreads()
    first, second = part(0, high_watermark=2), part(0, high_watermark=2)
    first.log_start_offset, second.log_start_offset = 1, 2
    threads.fail_once("write_log_starts", DiskError("injected"))
    async with following_broker(
        answer(), answer(part(0, records(3))), answer(first), threads=threads
    ) as bench:
        await trio.sleep(1)  # it has failed, and is tried again some seconds later
        bench.answer_late(len(bench.requests) - 1, answer(second))
        await trio.sleep(0.1)
        await bench.follow(0, epoch=6)
        await trio.sleep(10)
        assert bench.broker.partition().log.log_start_offset == 0


async def test_damage_on_the_wire_is_fetched_again_and_told_once(
    autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    damaged = bytearray(records(3))
    damaged[-1] ^= 1
    again = [answer(part(0, bytes(damaged[len(records(2)) :])))] * 3
    async with following_broker(
        answer(part(0, bytes(damaged))), *again, answer(part(0, records(1, start=2)))
    ) as bench:
        await trio.sleep(2)
        assert bench.broker.partition().log.log_end_offset == 3
        assert caplog.text.count("can't be appended") == 1


async def test_a_slow_log_holds_up_no_other(autojump_clock: trio.testing.MockClock) -> None:
    threads = ScriptedThreads()

    def hold(request: Message) -> Answer:
        threads.hold("append_on_worker")
        return answer(part(0, records(1, start=1, size_bytes=LARGE)))

    answers: list[Scripted] = [
        answer(),
        answer(part(0, records(1)), part(1, records(1))),
        hold,
        answer(part(1, records(1, start=1))),
        answer(part(1, records(1, start=2))),
    ]
    async with following_broker(*answers, count=2, threads=threads) as bench:
        await trio.sleep(0.2)
        assert bench.broker.partition(index=1).log.log_end_offset == 3
        assert bench.broker.partition(index=0).log.log_end_offset == 1
        assert 0 not in bench.asked(-1)
        threads.release("append_on_worker")
        await trio.sleep(0.02)
        assert bench.asked(-1) == {0: 2}


async def test_an_answer_that_comes_after_leadership_has_moved_is_not_appended(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with following_broker(answer()) as bench:
        await trio.sleep(0.1)
        state = PartitionState((1, LEADER), (1, LEADER), 1, 7)
        await bench.write(Put(keys.partition_key(TOPIC_ID, 0), keys.encode_partition(state)))
        assert bench.broker.partition().is_leader
        assert bench.leader.streams[-1].is_closed, "nothing is followed of it any more"
        assert bench.broker.partition().log.log_end_offset == 0


async def test_a_partition_that_is_refused_is_asked_again_soon_and_the_leaders_word_for_it_told_once(
    autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    refusals = [answer(part(0, code=ErrorCode.NOT_LEADER_OR_FOLLOWER))] * 3
    async with following_broker(*refusals, answer(part(0, records(2)))) as bench:
        started = trio.current_time()
        while bench.broker.partition().log.log_end_offset < 2:  # noqa: ASYNC110 - no event tells
            await trio.sleep(0.005)
        assert trio.current_time() - started < 0.3
        assert caplog.text.count("NOT_LEADER_OR_FOLLOWER") == 1


async def test_more_logs_than_may_be_open_are_all_appended_to(autojump_clock: trio.testing.MockClock) -> None:
    count = 40
    answers: list[Scripted] = [answer()]
    answers += [
        answer(*(part(index, records(1, start=start)) for index in range(count))) for start in range(3)
    ]
    async with following_broker(*answers, count=count, open_files_max=96, write_caching="false") as bench:
        await trio.sleep(2)
        logs = [bench.broker.partition(index=index).log for index in range(count)]
        assert {(log.log_end_offset, log.durable_end_offset) for log in logs} == {(3, 3)}
        assert sum(log.segments[-1].file is not None for log in logs) < count
