"""The broker goes down in the middle of consumption and comes back: nothing is lost, and no more than the uncommitted is read again."""

import asyncio
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import Consumer, Producer
from tests.support.clients import aiokafka_client
from tests.support.deadline import until
from tests.support.errors import ErrorCode
from tests.support.processes import IS_KAFKA, RunningServer, running_server
from tests.support.topics import create_topic, fresh_name
from tests.support.wire import connect

PARTITIONS = 3
COUNT = 3_000
COMMIT_EVERY = 50
LIMIT_S = 60.0

Crash = Callable[[RunningServer], object]
CRASHES: dict[str, Crash] = {"kill": lambda server: server.kill(), "stop": lambda server: server.stop()}


@pytest.fixture
def own_server(tmp_path: Path) -> Iterator[RunningServer]:
    """A broker that may be killed."""
    with running_server(tmp_path, {"auto.create.topics.enable": "false"}) as running:
        yield running


def fill(server: RunningServer, topic: str) -> None:
    producer = Producer({"bootstrap.servers": server.bootstrap, "linger.ms": 20})
    for number in range(COUNT):
        producer.produce(topic, str(number).encode(), partition=number % PARTITIONS)
    assert producer.flush(LIMIT_S) == 0


def one_more(server: RunningServer, topic: str) -> None:
    producer = Producer({"bootstrap.servers": server.bootstrap})
    producer.produce(topic, str(COUNT).encode(), partition=0)
    assert producer.flush(LIMIT_S) == 0


def check(seen: Counter[int], uncommitted_max: int) -> None:
    assert set(seen) == set(range(COUNT)), "something was lost"
    repeated = sum(seen.values()) - COUNT
    assert repeated <= uncommitted_max, f"{repeated} were repeated, {uncommitted_max} were not committed"


@pytest.mark.parametrize("crash", CRASHES)
def test_librdkafka_loses_or_repeats_records(own_server: RunningServer, crash: str) -> None:
    with connect(own_server.bootstrap) as connection:
        topic = create_topic(connection, "restart", partitions=PARTITIONS)
    fill(own_server, topic)
    consumer = Consumer(
        {
            "bootstrap.servers": own_server.bootstrap,
            "group.id": fresh_name("group"),
            "auto.offset.reset": "earliest",
            "enable.auto.commit": False,
            "reconnect.backoff.max.ms": 500,
        }
    )
    consumer.subscribe([topic])
    seen: Counter[int] = Counter()
    since_commit = 0
    restarted = False
    comeback: threading.Thread | None = None

    def more() -> bool:
        nonlocal since_commit, restarted, comeback
        for message in consumer.consume(10, 0.1):
            assert message.error() is None, str(message.error())
            value = message.value()
            assert isinstance(value, bytes)
            seen[int(value)] += 1
            since_commit += 1
        if since_commit >= COMMIT_EVERY:
            consumer.commit(asynchronous=False)
            since_commit = 0
        if len(seen) >= COUNT // 3 and not restarted and since_commit:
            restarted = True
            CRASHES[crash](own_server)
            comeback = threading.Thread(target=own_server.start)
            comeback.start()
        return len(seen) == COUNT

    try:
        until(more, "all records", limit_s=LIMIT_S)
        if since_commit:
            consumer.commit(asynchronous=False)
    finally:
        if comeback is not None:
            comeback.join()
        consumer.close()
    check(seen, COMMIT_EVERY + 10)


@pytest.mark.parametrize("crash", CRASHES)
def test_aiokafka_loses_or_repeats_records(own_server: RunningServer, crash: str) -> None:
    with connect(own_server.bootstrap) as connection:
        topic = create_topic(connection, "restart", partitions=PARTITIONS)
    fill(own_server, topic)
    seen: Counter[int] = Counter()

    async def work() -> None:
        consumer = aiokafka_client.aiokafka.AIOKafkaConsumer(
            topic,
            bootstrap_servers=own_server.bootstrap,
            group_id=fresh_name("group"),
            enable_auto_commit=False,
            auto_offset_reset="earliest",
            max_poll_records=10,
        )
        restart: asyncio.Task[None] | None = None
        since_commit = 0
        async with consumer:
            while len(seen) < COUNT:
                for records in (await consumer.getmany(timeout_ms=500, max_records=10)).values():
                    seen.update(int(record.value) for record in records)
                    since_commit += len(records)
                if since_commit >= COMMIT_EVERY:
                    since_commit = 0
                    await consumer.commit()
                if len(seen) >= COUNT // 3 and restart is None and since_commit:
                    await asyncio.to_thread(CRASHES[crash], own_server)
                    restart = asyncio.create_task(asyncio.to_thread(own_server.start))
            assert restart is not None
            await restart
            await consumer.commit()
            # What it had fetched before may have been all; and its stop fails while a fetch waits to be tried again.
            await asyncio.to_thread(one_more, own_server, topic)
            while seen.pop(COUNT, 0) == 0:
                for records in (await consumer.getmany(timeout_ms=500)).values():
                    seen.update(int(record.value) for record in records)

    aiokafka_client.run(work)
    check(seen, COMMIT_EVERY + 10)


@pytest.mark.parametrize("crash", CRASHES)
def test_commits_are_forgotten(own_server: RunningServer, crash: str) -> None:
    with connect(own_server.bootstrap) as connection:
        topic = create_topic(connection, "kept", partitions=PARTITIONS)
        groups = [fresh_name("group") for _ in range(20)]

        def coordinated() -> bool:
            answer = connection.request("find_coordinator", 4, key_type=0, coordinator_keys=groups)
            return all(each.error_code == 0 for each in answer.coordinators)

        until(coordinated, "a coordinator")
        for number, group in enumerate(groups):
            for offset in range(3):
                place = {"partition_index": number % PARTITIONS, "committed_offset": number * 10 + offset}
                wanted = [{"name": topic, "partitions": [{**place, "committed_metadata": f"m{number}"}]}]

                def committed(group: str = group, wanted: Any = wanted) -> bool:
                    answer = connection.request("offset_commit", 8, group_id=group, topics=wanted)
                    code: int = answer.topics[0].partitions[0].error_code
                    return code == 0

                until(committed, "a commit")
    CRASHES[crash](own_server)
    own_server.start()
    with connect(own_server.bootstrap) as connection:

        def told() -> dict[str, tuple[int, str]] | None:
            wanted = [{"group_id": group, "topics": None} for group in groups]
            answer = connection.request("offset_fetch", 8, groups=wanted)
            if any(each.error_code for each in answer.groups):
                return None
            return {
                each.group_id: (
                    each.topics[0].partitions[0].committed_offset,
                    each.topics[0].partitions[0].metadata,
                )
                for each in answer.groups
            }

        found = until(told, "the loaded groups")
    assert found == {group: (number * 10 + 2, f"m{number}") for number, group in enumerate(groups)}


@pytest.mark.skipif(IS_KAFKA, reason="it closes the connection without an answer")
def test_a_join_that_waits_keeps_the_broker_from_stopping_or_others_from_being_answered(
    own_server: RunningServer,
) -> None:
    group = fresh_name("held")
    join = {
        "group_id": group,
        "member_id": "",
        "session_timeout": 60_000,
        "rebalance_timeout": 60_000,
        "protocol_type": "consumer",
        "protocols": [{"name": "range", "metadata": b""}],
    }
    with connect(own_server.bootstrap) as first, connect(own_server.bootstrap) as second:
        first.request("find_coordinator", 1, key=group, key_type=0)
        joined = first.request("join_group", 3, **join)
        assert joined.error_code == 0
        waiting = second.send("join_group", 3, join)
        behind = second.send("api_versions", 0, {})
        me = {"group_id": group, "generation_id": 1, "member_id": joined.member_id}

        def rebalances() -> bool:
            answer = first.request("heartbeat", 3, **me)
            return bool(answer.error_code == ErrorCode.rebalance_in_progress)

        until(rebalances, "the second member's join to be seen")
        begin = time.monotonic()
        assert own_server.stop() == 0
        assert time.monotonic() - begin < 4, "well below shutdown.timeout.ms"
        answer = second.receive("join_group", 3, waiting)
        assert answer.error_code == ErrorCode.coordinator_not_available
        assert second.receive("api_versions", 0, behind).error_code == 0, (
            "answers are in order, behind the join"
        )
