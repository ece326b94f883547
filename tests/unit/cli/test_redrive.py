"""`penstock redrive` against a whole broker, in virtual time."""

import json
from collections.abc import Awaitable, Callable
from dataclasses import replace

import pytest
import trio
from tests.support.memory_server import MemoryServer, memory_server
from trio.testing import MockClock

from penstock.cli.failure import CommandFailed
from penstock.cli.redrive_work import RedriveRequest, run_redrive
from penstock.client.admin import Admin
from penstock.client.admin_values import ConfigChange, ConfigResource, NewTopic, ResourceKind
from penstock.client.errors import BrokerError, UnknownTopic
from penstock.consumer.consumer import Consumer
from penstock.consumer.dead_letters import RecordFailure, marked
from penstock.consumer.record import ConsumerRecord
from penstock.producer.producer import Producer

REQUEST = RedriveRequest("orders.dlq", None, "redrive-of-orders.dlq", None, False, False, True)
LETTER = RecordFailure(
    topic="orders",
    partition=2,
    offset=77,
    timestamp_ms=1_438_000_000_000,
    group="billing",
    attempts=4,
    first_failure_ms=1_438_000_001_000,
    exception_class="ValueError",
    exception_message="no such customer",
)
OWN = (("own", b"1"),)


def in_virtual_time(test: Callable[[MemoryServer], Awaitable[None]]) -> None:
    """Run it with a server that has orders and payments with three partitions, and orders.dlq with two."""

    async def run() -> None:
        with trio.fail_after(1000):
            async with memory_server(auto_create_topics_enable="false") as server:
                topics = [NewTopic(name=name, partition_count=3) for name in ("orders", "payments")]
                async with Admin(server.bootstrap, server.client("admin")) as admin:
                    await admin.create_topics([*topics, NewTopic(name="orders.dlq", partition_count=2)])
                await test(server)

    trio.run(run, clock=MockClock(autojump_threshold=0))


async def put(
    server: MemoryServer, count: int, letter: RecordFailure | None = LETTER, prefix: bytes = b""
) -> None:
    async with Producer(server.bootstrap, server.client("worker")) as producer:
        for number in range(count):
            headers = OWN if letter is None else marked(OWN, letter)
            await producer.enqueue(
                "orders.dlq", prefix + b"%d" % number, key=b"k", partition=number % 2, headers=headers
            )


async def all_of(server: MemoryServer, topic: str) -> list[ConsumerRecord]:
    async with Consumer(server.bootstrap, environment=server.client("looker")) as looker:
        return [record async for record in looker.read(topic)]


async def redrive(server: MemoryServer, request: RedriveRequest = REQUEST, name: str = "cli") -> int:
    return await run_redrive(server.bootstrap, server.client(name), request)


def test_a_dead_letter_comes_back_as_another_record_or_a_second_time(
    capsys: pytest.CaptureFixture[str],
) -> None:
    async def run(server: MemoryServer) -> None:
        await put(server, 5)
        assert await redrive(server) == 0
        back = await all_of(server, "orders")
        assert sorted(record.value or b"" for record in back) == [b"0", b"1", b"2", b"3", b"4"]
        assert {record[1:2] + record[3:4] + record[5:6] + record[7:8] for record in back} == {
            (2, LETTER.timestamp_ms, b"k", OWN)
        }
        await put(server, 1)
        assert await redrive(server) == 0
        assert await redrive(server) == 0
        assert len(await all_of(server, "orders")) == 6
        assert len(await all_of(server, "orders.dlq")) == 6

    in_virtual_time(run)
    told = [json.loads(line)["moved"] for line in capsys.readouterr().out.splitlines()]
    assert told == [{"orders": 5}, {"orders": 1}, {}]


def test_limits_and_dry_runs_move_more_than_they_tell(capsys: pytest.CaptureFixture[str]) -> None:
    async def run(server: MemoryServer) -> None:
        await put(server, 7)
        await put(server, 2, replace(LETTER, topic="payments", exception_class="KeyError", partition=9))
        await redrive(server, replace(REQUEST, dry_run=True, as_json=False))
        assert await all_of(server, "orders") == []
        await redrive(server, replace(REQUEST, count_max=3, as_json=False))
        assert len(await all_of(server, "orders")) == 3
        await redrive(server, replace(REQUEST, keep_headers=True, target="payments", as_json=False))
        back = await all_of(server, "payments")
        assert len(back) == 6
        assert {len(record.headers) for record in back} == {len(marked(OWN, LETTER))}
        assert len({record.partition for record in back}) == 1, "another topic: by key"

    in_virtual_time(run)
    printed = capsys.readouterr()
    rows = [line.split() for line in printed.out.splitlines()]
    assert rows == [
        ["TO", "BECAUSE", "OF", "COUNT"],
        ["orders", "ValueError", "7"],
        ["payments", "KeyError", "2"],
    ]
    assert printed.err.splitlines() == [
        "penstock: 9 dead letters of orders.dlq would be moved: 7 to orders, 2 to payments",
        "penstock: 3 dead letters of orders.dlq moved: 3 to orders; --max 3 is reached",
        "penstock: 6 dead letters of orders.dlq moved: 6 to payments",
    ]


def test_a_letter_without_an_address_stops_nothing_or_takes_others_with_it() -> None:
    async def run(server: MemoryServer) -> None:
        await put(server, 4)
        await put(server, 1, None)
        with pytest.raises(CommandFailed, match=r"orders\.dlq-0 at offset 2: .* --to"):
            await redrive(server)
        with pytest.raises(CommandFailed, match="offset 2"):
            await redrive(server)
        assert len(await all_of(server, "orders")) in (2, 4), "the others of its partition are moved once"
        await redrive(server, replace(REQUEST, target="orders"))
        assert len(await all_of(server, "orders")) == 5
        with pytest.raises(UnknownTopic):
            await redrive(server, replace(REQUEST, topic="nothing.dlq"))

    in_virtual_time(run)


def test_a_letter_to_a_topic_that_is_gone_makes_that_topic_again() -> None:
    async def run(server: MemoryServer) -> None:
        await put(server, 1, replace(LETTER, topic="gone"))
        with pytest.raises(UnknownTopic):
            await redrive(server)
        await redrive(server, replace(REQUEST, target="orders"))
        assert len(await all_of(server, "orders")) == 1

    in_virtual_time(run)


def test_a_letter_that_is_refused_is_taken_for_moved() -> None:
    async def run(server: MemoryServer) -> None:
        resource = ConfigResource(ResourceKind.TOPIC, "orders")
        async with Admin(server.bootstrap, server.client("admin")) as admin:
            await admin.alter_configs({resource: [ConfigChange("max.message.bytes", "1000")]})
            await put(server, 4)
            await put(server, 2, LETTER, b"x" * 5000)
            with pytest.raises(BrokerError, match="MESSAGE_TOO_LARGE"):
                await redrive(server)
            await admin.alter_configs({resource: [ConfigChange("max.message.bytes", "10000")]})
        await redrive(server)
        values = [record.value or b"" for record in await all_of(server, "orders")]
        assert set(values) == {b"0", b"1", b"2", b"3", b"x" * 5000 + b"0", b"x" * 5000 + b"1"}

    in_virtual_time(run)


def test_a_kill_between_ack_and_commit_loses_letters_or_repeats_more_than_a_batch() -> None:
    async def run(server: MemoryServer) -> None:
        await put(server, 1100)
        with trio.CancelScope() as scope:

            async def kill() -> None:
                while not await all_of(server, "orders"):
                    pass
                server.hosts["killed"].freeze()
                scope.cancel()

            async with trio.open_nursery() as nursery:
                nursery.start_soon(kill)
                nursery.start_soon(redrive, server, REQUEST, "killed")
        server.hosts["killed"].crash()
        await redrive(server)
        values = [record.value for record in await all_of(server, "orders")]
        assert set(values) == {b"%d" % number for number in range(1100)}
        assert len(values) <= 1100 + 500

    in_virtual_time(run)
