"""A whole broker in this process, on loopback and a real folder: start, stop, restart, limits, and what keeps it from starting."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio
from tests.support.batches import values_of
from tests.support.logs import batch

from penstock.broker.broker_config import BrokerConfig
from penstock.broker.server import RunningBroker, serve
from penstock.client.admin import Admin
from penstock.client.admin_values import NewTopic
from penstock.client.connection import Connection, ConnectionSettings, open_connection
from penstock.protocol.api import ApiKey
from penstock.protocol.errors import ErrorCode
from penstock.protocol.message import Message
from penstock.runtime.network import AddressError, ConnectionLost
from penstock.runtime.production import production_environment
from penstock.storage.errors import DataDirectoryInUse

HOST = "127.0.0.1"
SETTINGS = ConnectionSettings()


def config(folder: Path, port: int = 0, **properties: str) -> BrokerConfig:
    given = {key.replace("_", "."): value for key, value in properties.items()}
    return BrokerConfig.from_properties(
        {"log.dirs": str(folder / "data"), "listeners": f"PLAINTEXT://{HOST}:{port}", **given}
    )


class Running:
    """A broker that serves."""

    def __init__(self, running: RunningBroker, scope: trio.CancelScope, ended: trio.Event) -> None:
        self.broker = running.broker
        (self.address,) = running.addresses.values()
        self.bootstrap = f"{self.address[0]}:{self.address[1]}"
        self._scope = scope
        self._ended = ended

    async def stop(self) -> None:
        """As SIGTERM does."""
        self._scope.cancel()
        await self._ended.wait()

    async def connect(self, nursery: trio.Nursery) -> Connection:
        """A client's connection, versions learned."""
        network = production_environment().network
        return await open_connection(nursery, network, *self.address, SETTINGS)

    async def create(self, topic: str) -> None:
        async with Admin(self.bootstrap) as admin:
            await admin.create_topics([NewTopic(name=topic, partition_count=1)])


@asynccontextmanager
async def serving(folder: Path, port: int = 0, **properties: str) -> AsyncGenerator[Running]:
    """A broker, stopped cleanly at the end of the block unless it was before."""
    ended = trio.Event()
    scope = trio.CancelScope()

    async def run(*, task_status: trio.TaskStatus[RunningBroker]) -> None:
        try:
            with scope:
                await serve(
                    production_environment(), config(folder, port, **properties), started=task_status.started
                )
        finally:
            ended.set()

    with trio.fail_after(30):
        async with trio.open_nursery() as nursery:
            running = Running(await nursery.start(run), scope, ended)
            yield running
            await running.stop()


def fetch_request(topic_id: bytes, offset: int, max_wait_ms: int = 0) -> Message:
    wanted = Message(partition=0, fetch_offset=offset, partition_max_bytes=1 << 20)
    return Message(
        max_wait_ms=max_wait_ms,
        min_bytes=1,
        max_bytes=1 << 20,
        topics=[Message(topic_id=topic_id, partitions=[wanted])],
    )


async def fetch(connection: Connection, topic_id: bytes, offset: int, max_wait_ms: int = 0) -> Message:
    answer = await connection.request(ApiKey.FETCH, fetch_request(topic_id, offset, max_wait_ms))
    part = answer.responses[0].partitions[0]
    assert isinstance(part, Message)
    return part


def id_of(running: Running, topic: str) -> bytes:
    found = running.broker.image.topic(topic)
    assert found is not None
    return found.topic_id


async def fill(running: Running, topic: str, *values: bytes) -> None:
    async with trio.open_nursery() as nursery:
        connection = await running.connect(nursery)
        for value in values:
            request = Message(
                acks=-1,
                timeout_ms=10_000,
                topic_data=[
                    Message(
                        topic_id=id_of(running, topic),
                        partition_data=[Message(index=0, records=bytes(batch([value])))],
                    )
                ],
            )
            answer = await connection.request(ApiKey.PRODUCE, request)
            assert answer.responses[0].partition_responses[0].error_code == ErrorCode.NONE
        connection.close()


async def read(running: Running, topic: str) -> list[tuple[int, bytes]]:
    async with trio.open_nursery() as nursery:
        connection = await running.connect(nursery)
        part = await fetch(connection, id_of(running, topic), 0)
        connection.close()
    return values_of(bytes(part.records))


async def test_restart_keeps_what_was_acked_and_needs_no_recovery(tmp_path: Path) -> None:
    async with serving(tmp_path) as running:
        await running.create("orders")
        await fill(running, "orders", b"a", b"b")
        assert await read(running, "orders") == [(0, b"a"), (1, b"b")]
        port = running.address[1]
    async with serving(tmp_path, port) as running:
        assert running.address[1] == port, "the address is free again"
        (partition,) = running.broker.partitions
        assert not partition.log.report
        await fill(running, "orders", b"c")
        assert await read(running, "orders") == [(0, b"a"), (1, b"b"), (2, b"c")]


async def test_stop_answers_a_pending_long_poll_and_takes_no_new_connection(tmp_path: Path) -> None:
    async with serving(tmp_path) as running, trio.open_nursery() as nursery:
        await running.create("orders")
        connection = await running.connect(nursery)
        answers: list[Message] = []

        async def poll() -> None:
            answers.append(await fetch(connection, id_of(running, "orders"), 0, max_wait_ms=600_000))

        nursery.start_soon(poll)
        (partition,) = running.broker.partitions
        while not partition.fetch_waiters:
            await trio.lowlevel.checkpoint()
        await running.stop()
        with pytest.raises(AddressError):
            await running.connect(nursery)
    assert [(part.error_code, len(part.records)) for part in answers] == [(ErrorCode.NONE, 0)]


async def test_connection_over_the_limit_for_its_address_is_closed_and_the_others_live(
    tmp_path: Path,
) -> None:
    async with serving(tmp_path, max_connections_per_ip="2") as running, trio.open_nursery() as nursery:
        first, second = [await running.connect(nursery) for _ in range(2)]
        with pytest.raises(ConnectionLost):
            await running.connect(nursery)
        assert (await first.request(ApiKey.METADATA, Message(topics=[]))).brokers
        second.close()
        while True:  # the broker sees the end a moment later
            try:
                third = await running.connect(nursery)
                break
            except ConnectionLost:
                await trio.lowlevel.checkpoint()
        third.close()
        first.close()


async def test_connections_over_the_limit_of_the_broker_are_closed(tmp_path: Path) -> None:
    async with serving(tmp_path, max_connections="1") as running, trio.open_nursery() as nursery:
        first = await running.connect(nursery)
        with pytest.raises(ConnectionLost):
            await running.connect(nursery)
        first.close()


async def refusal(folder: Path, port: int = 0) -> BaseException:
    """What a broker that can't start raises."""
    with pytest.raises(BaseExceptionGroup) as caught:
        await serve(production_environment(), config(folder, port), started=_must_not_start)
    return leaf(caught.value)


def leaf(error: BaseException) -> BaseException:
    """The one error in groups within groups."""
    nested: tuple[BaseException, ...] = getattr(error, "exceptions", ())
    if not nested:
        return error
    (only,) = nested
    return leaf(only)


def _must_not_start(running: RunningBroker) -> None:
    raise AssertionError("it started")


async def test_port_in_use_refuses_the_start_before_the_data_is_touched(tmp_path: Path) -> None:
    async with serving(tmp_path / "one") as running:
        error = await refusal(tmp_path / "two", running.address[1])
        assert isinstance(error, AddressError)
        assert str(running.address[1]) in str(error)
        assert not (tmp_path / "two").exists()


async def test_locked_folder_refuses_the_start_and_leaves_the_owner_alone(tmp_path: Path) -> None:
    async with serving(tmp_path) as running:
        error = await refusal(tmp_path)
        assert isinstance(error, DataDirectoryInUse)
        await running.create("orders")
        await fill(running, "orders", b"a")


async def test_peer_that_breaks_the_rules_is_closed_and_others_are_served(tmp_path: Path) -> None:
    async with serving(tmp_path) as running, trio.open_nursery() as nursery:
        stream = await production_environment().network.connect(*running.address)
        await stream.send_all([b"\x7f\xff\xff\xff\0\0"])
        assert await stream.receive_into(bytearray(10)) == 0
        stream.close()
        connection = await running.connect(nursery)
        connection.close()


async def test_bug_in_a_handler_closes_its_connection_and_no_other(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with serving(tmp_path) as running, trio.open_nursery() as nursery:
        first, second = [await running.connect(nursery) for _ in range(2)]
        del running.broker.fetch_sessions  # what Fetch needs
        with pytest.raises(ConnectionLost):
            await first.request(ApiKey.FETCH, fetch_request(bytes(16), 0))
        assert "closed by a bug" in caplog.text
        assert (await second.request(ApiKey.METADATA, Message(topics=[]))).brokers
        second.close()
