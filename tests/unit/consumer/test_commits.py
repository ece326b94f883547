"""What is committed and what is not, and who waits for whom: consumers against a whole broker, in virtual time."""

from contextlib import nullcontext

import pytest
import trio
from tests.support.lone_member import (
    GROUP,
    LIMIT_S,
    PROTOCOLS,
    TOPIC,
    TP,
    committed,
    in_virtual_time,
    member,
    take_two,
)
from tests.support.memory_server import MemoryServer
from tests.support.scripted_broker import (
    ScriptedBroker,
    ScriptedNetwork,
    metadata_answer,
    scripted_environment,
)
from trio.testing import MockClock

from penstock.client.errors import CommitFailed
from penstock.client.metadata import TopicPartition
from penstock.consumer.consumer import Consumer
from penstock.protocol.api import ApiKey
from penstock.protocol.errors import ErrorCode
from penstock.protocol.message import Message


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_asking_for_a_position_when_partitions_are_assigned_waits_for_ever(protocol: str) -> None:
    async def run(server: MemoryServer, protocol: str) -> None:
        positions: list[int] = []

        async def on_assigned(partitions: frozenset[TopicPartition]) -> None:
            positions.extend([await consumer.position(tp) for tp in partitions])

        consumer: Consumer
        async with member(server, protocol, on_assigned=on_assigned) as consumer:
            assert (await anext(consumer)).offset == 0
        assert positions == [0]

    in_virtual_time(run, protocol)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_unsubscribing_waits_for_the_very_user_who_asks_for_it(protocol: str) -> None:
    async def run(server: MemoryServer, protocol: str) -> None:
        async with member(server, protocol) as consumer:
            assert (await anext(consumer)).offset == 0
            assert (await anext(consumer)).offset == 1
            with trio.fail_after(5):
                await consumer.unsubscribe()
            assert consumer.assignment == frozenset()
        assert await committed(server) == 1, "the one in hand is not known to be done"

    in_virtual_time(run, protocol)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_unsubscribing_in_another_task_takes_the_record_out_of_the_users_hand(protocol: str) -> None:
    async def run(server: MemoryServer, protocol: str) -> None:
        async with member(server, protocol) as consumer, trio.open_nursery() as nursery:
            await anext(consumer)
            nursery.start_soon(consumer.unsubscribe)
            await trio.sleep(10)
            assert consumer.assignment == {TP}
            with trio.move_on_after(1):
                await anext(consumer)
            assert consumer.assignment == frozenset()
        assert await committed(server) == 1

    in_virtual_time(run, protocol)


def test_unsubscribing_beside_a_stuck_user_never_ends() -> None:
    async def run(server: MemoryServer) -> None:
        async with member(server, max_poll_interval_ms=10_000) as consumer, trio.open_nursery() as nursery:
            await anext(consumer)
            nursery.start_soon(consumer.unsubscribe)
            await trio.sleep(30)
            assert consumer.assignment == frozenset()
            assert not nursery.child_tasks

    in_virtual_time(run)


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("goes", ["by an error", "by another task", "by unsubscribing"])
def test_who_goes_while_a_revoke_waits_for_them_holds_up_the_group(protocol: str, goes: str) -> None:
    """Found by the churn of groups: the block was left ten seconds later, without a word of the partitions to anybody."""

    async def run(server: MemoryServer, protocol: str) -> None:
        revoked: list[TopicPartition] = []

        async def on_revoked(partitions: frozenset[TopicPartition]) -> None:
            revoked.extend(partitions)

        async def hold(consumer: Consumer, task_status: trio.TaskStatus[None]) -> None:
            await take_two(consumer)
            task_status.started()
            await trio.sleep_forever()

        async def go() -> None:
            async with (
                member(server, protocol, on_revoked=on_revoked) as consumer,
                trio.open_nursery() as nursery,
            ):
                if goes == "by another task":
                    await nursery.start(hold, consumer)
                else:
                    await take_two(consumer)
                consumer.subscribe("another")
                await trio.sleep(10)
                assert revoked == [], "it waits for the user"
                begun.append(trio.current_time())
                if goes == "by an error":
                    raise ZeroDivisionError
                if goes == "by unsubscribing":
                    await consumer.unsubscribe()
                nursery.cancel_scope.cancel()

        begun: list[float] = []
        with pytest.RaisesGroup(ZeroDivisionError) if goes == "by an error" else nullcontext():
            await go()
        assert trio.current_time() < begun[0] + 1
        assert revoked == [TP]
        assert await committed(server) == 1, "the one in hand is not known to be done"

    in_virtual_time(run, protocol)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_commit_of_what_was_lost_is_told_as_done(protocol: str) -> None:
    async def run(server: MemoryServer, protocol: str) -> None:
        async with member(server, protocol, auto_commit=False, max_poll_interval_ms=10_000) as consumer:
            await anext(consumer)
            await trio.sleep(20)
            assert consumer.assignment == frozenset()
            with pytest.raises(CommitFailed, match="t-0"):
                await consumer.commit()
            assert (await anext(consumer)).offset == 0
            await consumer.commit()
        assert await committed(server) == 1

    in_virtual_time(run, protocol)


def test_losing_what_was_committed_is_an_error() -> None:
    async def run(server: MemoryServer) -> None:
        async with member(server, auto_commit=False, max_poll_interval_ms=10_000) as consumer:
            await anext(consumer)
            await consumer.commit()
            await trio.sleep(20)
            assert consumer.assignment == frozenset()
            await consumer.commit()

    in_virtual_time(run)


def test_a_record_is_committed_whose_work_was_cut_off_by_a_deadline() -> None:
    async def run(server: MemoryServer) -> None:
        done: list[int] = []
        async with member(server) as consumer:
            with trio.move_on_after(5):
                async for record in consumer:
                    await trio.sleep(2)
                    done.append(record.offset)
        assert done == [0, 1]
        assert await committed(server) == 2

    in_virtual_time(run)


def test_a_record_is_committed_whose_worker_was_cancelled() -> None:
    async def run(server: MemoryServer) -> None:
        done: list[int] = []

        async def work(consumer: Consumer) -> None:
            async for record in consumer:
                await trio.sleep(2)
                done.append(record.offset)

        async with member(server) as consumer, trio.open_nursery() as nursery:
            nursery.start_soon(work, consumer)
            await trio.sleep(5)
            nursery.cancel_scope.cancel()
        assert await committed(server) == len(done) > 0

    in_virtual_time(run)


def test_breaking_off_a_loop_repeats_its_last_record() -> None:
    async def run(server: MemoryServer) -> None:
        async with member(server) as consumer:
            async for record in consumer:
                await trio.sleep(2)
                if record.offset == 2:
                    break
        assert await committed(server) == 3

    in_virtual_time(run)


def test_an_automatic_commit_takes_back_what_was_committed_by_hand() -> None:
    async def run(server: MemoryServer) -> None:
        async with member(server) as consumer:
            batch = await consumer.next_batch(max_records=10)
            await consumer.commit({TP: 7})
            await trio.sleep(20)
            assert await committed(server) == 7
            consumer.seek(TP, 3)
            await trio.sleep(20)
            assert await committed(server) == 3, "whoever seeks back asks for it"
            assert batch.next_offset == 10

    in_virtual_time(run)


def test_a_consumer_that_was_never_entered_waits_for_ever() -> None:
    async def run(server: MemoryServer) -> None:
        consumer = Consumer(server.bootstrap, TOPIC, environment=server.client("member"))
        with trio.fail_after(LIMIT_S):
            with pytest.raises(RuntimeError, match="async with"):
                await anext(consumer)
            with pytest.raises(RuntimeError, match="async with"):
                await consumer.next_batch()
            with pytest.raises(RuntimeError, match="async with"):
                consumer.read(TOPIC)
            async with consumer:
                pass
            with pytest.raises(RuntimeError, match="closed"):
                await anext(consumer)
            with pytest.raises(RuntimeError, match="one `async with`"):
                async with consumer:
                    pass

    in_virtual_time(run)


def test_who_waits_for_a_position_is_left_waiting_when_the_consumer_ends() -> None:
    async def run(server: MemoryServer) -> None:
        outcomes: list[str] = []

        async def wait(consumer: Consumer) -> None:
            try:
                await consumer.position(TP)
            except RuntimeError as error:
                outcomes.append(str(error))

        async with (
            trio.open_nursery() as nursery,
            Consumer(server.bootstrap, environment=server.client("away")) as consumer,
        ):
            server.hosts["away"].freeze()
            consumer.assign([TP])
            nursery.start_soon(wait, consumer)
            await trio.sleep(1)
        assert outcomes == ["the consumer is closed"]

    in_virtual_time(run)


@pytest.mark.parametrize("interval_ms", [0, -1])
def test_an_interval_of_nothing_keeps_a_core_busy(interval_ms: int) -> None:
    with pytest.raises(ValueError, match="auto_commit_interval_ms"):
        Consumer("localhost", auto_commit_interval_ms=interval_ms)


async def test_an_older_commit_that_is_tried_again_overtakes_a_newer_one(autojump_clock: MockClock) -> None:
    stored: list[int] = []
    refusals = [ErrorCode.COORDINATOR_LOAD_IN_PROGRESS] * 3

    def commit(version: int, request: Message) -> Message:
        code = refusals.pop() if refusals else ErrorCode.NONE
        topic = request.topics[0]
        if not code:
            stored.append(topic.partitions[0].committed_offset)
        part = Message(partition_index=0, error_code=code)
        return Message(topics=[Message(name=topic.name, topic_id=topic.topic_id, partitions=[part])])

    def find(version: int, request: Message) -> Message:
        found = Message(key=GROUP, node_id=1, host="node", port=9092, error_code=0, error_message=None)
        return Message(error_code=0, node_id=1, host="node", port=9092, coordinators=[found])

    broker = ScriptedBroker(
        {
            ApiKey.METADATA: lambda version, request: metadata_answer({1: ("node", 9092)}, {TOPIC: [1]}),
            ApiKey.FIND_COORDINATOR: find,
            ApiKey.OFFSET_COMMIT: commit,
        }
    )
    environment = scripted_environment(ScriptedNetwork({("node", 9092): broker}))
    consumer = Consumer("node", group=GROUP, environment=environment, auto_commit=False)
    async with consumer, trio.open_nursery() as nursery:
        nursery.start_soon(consumer.commit, {TP: 5})
        await trio.sleep(0.01)
        nursery.start_soon(consumer.commit, {TP: 9})
    assert stored == [5, 9]
