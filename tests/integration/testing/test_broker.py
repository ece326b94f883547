"""`penstock.Broker` inside a running trio program: what it leaves behind, and what comes out of its block."""

import gc
import logging
import signal
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import cast

import pytest
import trio
from tests.support.clients import librdkafka

import penstock
from penstock.broker.errors import ConfigError
from penstock.runtime.environment import Environment
from penstock.runtime.network import Listener, Network, Stream
from penstock.runtime.production import production_environment

VALUES = [f"order {number}".encode() for number in range(100)]


class Breakdown(Exception):
    """What ends a broker here."""


class BreakingNetwork:
    """A network whose listeners fail when told to; for the rest, the real one."""

    def __init__(self, network: Network) -> None:
        self._network = network
        self.break_down = trio.Event()

    async def listen(self, host: str, port: int, *, is_open: bool = True) -> Listener:
        return BreakingListener(await self._network.listen(host, port, is_open=is_open), self.break_down)

    async def connect(self, host: str, port: int) -> Stream:
        return await self._network.connect(host, port)


class BreakingListener:
    def __init__(self, listener: Listener, break_down: trio.Event) -> None:
        self._listener = listener
        self._break_down = break_down

    @property
    def address(self) -> tuple[str, int]:
        return self._listener.address

    def open(self) -> None:
        self._listener.open()

    async def accept(self) -> Stream:
        await self._break_down.wait()
        raise Breakdown

    def close(self) -> None:
        self._listener.close()


def breaking() -> tuple[Environment, trio.Event]:
    environment = production_environment()
    network = BreakingNetwork(environment.network)
    return replace(environment, network=cast(Network, network)), network.break_down


async def refuses(bootstrap: str) -> bool:
    """Whether nobody listens there."""
    host, _, port = bootstrap.rpartition(":")
    try:
        stream = await trio.open_tcp_stream(host, int(port))
    except OSError:
        return True
    await stream.aclose()
    return False


async def test_clients_use_it_like_any_other_broker() -> None:
    async with penstock.Broker() as broker:
        await broker.create_topic("orders", partitions=2, configs={"retention.ms": "1000"})
        with pytest.raises(penstock.TopicExists):
            await broker.create_topic("orders")
        run = trio.to_thread.run_sync
        await run(librdkafka.produce, broker.bootstrap, "orders", VALUES, "zstd")
        assert await run(librdkafka.consume, broker.bootstrap, "orders", len(VALUES)) == VALUES
        assert (broker.data_directory / "orders-1").is_dir()


async def test_the_libraries_and_the_broker_share_one_event_loop() -> None:
    async with (
        penstock.Broker(num_partitions=3) as broker,
        penstock.Producer(broker.bootstrap) as producer,
        penstock.Consumer(
            broker.bootstrap, "orders", group="billing", auto_offset_reset="earliest"
        ) as consumer,
    ):
        await broker.create_topic("orders", partitions=3)
        await producer.send_many("orders", VALUES)
        seen = [(await anext(consumer)).value for _ in VALUES]
    assert sorted(value or b"" for value in seen) == sorted(VALUES)


async def test_it_ends_while_clients_wait_for_records_that_never_come() -> None:
    async with trio.open_nursery() as nursery:
        async with penstock.Broker() as broker:
            await broker.create_topic("orders")
            waiting = trio.Event()

            async def wait() -> None:
                async with penstock.Consumer(
                    broker.bootstrap, "orders", fetch_max_wait_ms=600_000
                ) as consumer:
                    waiting.set()
                    await anext(consumer)

            nursery.start_soon(wait)
            await waiting.wait()
        assert await refuses(broker.bootstrap)
        nursery.cancel_scope.cancel()


async def test_a_temporary_folder_and_the_port_are_gone_at_the_end() -> None:
    async with penstock.Broker() as broker:
        folder, bootstrap = broker.data_directory, broker.bootstrap
        assert bootstrap.startswith("127.0.0.1:"), "loopback only"
        assert not await refuses(bootstrap)
        assert folder.is_dir()
    assert not folder.exists()
    assert await refuses(bootstrap)


async def test_a_folder_of_ones_own_is_kept_clean_for_the_next_broker(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run = trio.to_thread.run_sync
    async with penstock.Broker(data_directory=tmp_path / "data") as broker:
        assert broker.data_directory == tmp_path / "data"
        await broker.create_topic("orders")
        await run(librdkafka.produce, broker.bootstrap, "orders", VALUES, "none")
    assert (tmp_path / "data" / ".kafka_cleanshutdown").exists(), "it was no clean stop"
    async with penstock.Broker(data_directory=str(tmp_path / "data")) as broker:
        assert await run(librdkafka.consume, broker.bootstrap, "orders", len(VALUES)) == VALUES
    assert "recover" not in caplog.text


async def test_acks_wait_for_the_disk_only_where_the_folder_is_kept(tmp_path: Path) -> None:
    resource = penstock.ConfigResource(penstock.ResourceKind.TOPIC, "orders")

    async def write_caching(broker: penstock.Broker) -> str | None:
        await broker.create_topic("orders")
        async with penstock.Admin(broker.bootstrap) as admin:
            configs = (await admin.describe_configs([resource]))[resource]
        assert not isinstance(configs, penstock.BrokerError)
        return configs["write.caching"].value

    async with penstock.Broker() as thrown_away, penstock.Broker(data_directory=tmp_path) as kept:
        assert await write_caching(thrown_away) == "true"
        assert await write_caching(kept) == "false"
    async with penstock.Broker(write_caching=False) as careful:
        assert await write_caching(careful) == "false"


async def test_brokers_in_one_program_know_nothing_of_each_other() -> None:
    async with penstock.Broker() as first, penstock.Broker(num_partitions=3) as second:
        await first.create_topic("only-here")
        async with penstock.Admin(first.bootstrap) as admin, penstock.Admin(second.bootstrap) as other:
            assert [topic.name for topic in await admin.list_topics()] == ["only-here"]
            assert await other.list_topics() == []


async def test_an_error_of_the_block_comes_out_as_it_is() -> None:
    error = ValueError("mine")
    broker = penstock.Broker()
    with pytest.raises(ValueError, match="mine") as caught:
        async with broker:
            raise error
    assert caught.value is error
    assert error.__cause__ is None
    assert error.__context__ is None
    assert not broker.data_directory.exists()
    assert await refuses(broker.bootstrap)


async def test_a_group_raised_in_the_block_is_not_taken_apart() -> None:
    group = ExceptionGroup("mine", [ValueError("one")])
    with pytest.raises(ExceptionGroup) as caught:
        async with penstock.Broker():
            raise group
    assert caught.value is group


async def test_a_cancelled_block_ends_in_a_clean_stop(tmp_path: Path) -> None:
    broker = penstock.Broker(data_directory=tmp_path)
    with trio.CancelScope() as scope:
        async with broker:
            await broker.create_topic("orders")
            scope.cancel()
            await trio.sleep_forever()
    assert scope.cancelled_caught
    assert (tmp_path / ".kafka_cleanshutdown").exists()
    assert await refuses(broker.bootstrap)


async def test_a_cancelled_block_leaves_no_temporary_folder() -> None:
    broker = penstock.Broker()
    with trio.CancelScope() as scope:
        async with broker:
            scope.cancel()
            await trio.sleep_forever()
    assert scope.cancelled_caught
    assert broker.data_directory.name.startswith("penstock-")
    assert not broker.data_directory.exists()


async def test_a_start_that_is_cancelled_leaves_nothing(tmp_path: Path) -> None:
    broker = penstock.Broker()
    with trio.CancelScope() as scope:
        scope.cancel()
        async with broker:
            raise AssertionError("the block was entered")
    assert scope.cancelled_caught
    assert not (broker.data_directory.name.startswith("penstock-") and broker.data_directory.exists())


async def test_an_error_of_the_broker_cancels_the_block_and_comes_out() -> None:
    environment, break_down = breaking()
    broker = penstock.Broker(environment=environment)

    async def use() -> None:
        async with broker:
            break_down.set()
            await trio.sleep_forever()

    with pytest.raises(Breakdown):
        await use()
    assert not broker.data_directory.exists()


async def test_an_error_of_the_broker_does_not_hide_one_of_the_block() -> None:
    environment, break_down = breaking()

    async def use() -> None:
        async with penstock.Broker(environment=environment):
            break_down.set()
            try:
                await trio.sleep_forever()
            finally:
                raise ValueError("mine")

    with pytest.raises(ExceptionGroup) as caught:
        await use()
    assert {type(error) for error in caught.value.exceptions} == {Breakdown, ValueError}


async def test_a_taken_port_is_told_plainly_and_leaves_nothing() -> None:
    async with penstock.Broker() as first:
        second = penstock.Broker(listeners=f"PLAINTEXT://{first.bootstrap}")
        with pytest.raises(penstock.AddressError):
            await second.__aenter__()
        assert second.data_directory != first.data_directory
        assert not second.data_directory.exists()


async def test_a_folder_in_use_is_told_plainly(tmp_path: Path) -> None:
    async with penstock.Broker(data_directory=tmp_path):
        with pytest.raises(penstock.PenstockError, match="another process works in this data directory"):
            await penstock.Broker(data_directory=tmp_path).__aenter__()


@pytest.mark.parametrize(
    ("broker", "message"),
    [
        (penstock.Broker(no_such_config=1), "no.such.config"),
        (penstock.Broker(num_partitions="many"), "num.partitions"),
    ],
)
async def test_a_wrong_config_is_told_by_its_name(broker: penstock.Broker, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        await broker.__aenter__()
    assert not broker.data_directory.exists()


async def test_values_are_written_as_kafka_would_read_them() -> None:
    listeners = ["INSIDE://127.0.0.1:0", "OUTSIDE://127.0.0.1:0"]
    async with penstock.Broker(
        listeners=listeners,
        listener_security_protocol_map="INSIDE:PLAINTEXT,OUTSIDE:PLAINTEXT",
        auto_create_topics_enable=False,
    ) as broker:
        async with penstock.Admin(broker.bootstrap) as admin:
            node = (await admin.describe_cluster()).nodes[1]
            described = await admin.describe_configs(
                [broker_1 := penstock.ConfigResource(penstock.ResourceKind.BROKER, "1")]
            )
        assert str(node.address) == broker.bootstrap, "the first listener is the one that is told"
        configs = described[broker_1]
        assert not isinstance(configs, penstock.BrokerError)
        assert configs["auto.create.topics.enable"].value == "false"


async def test_a_broker_object_is_for_one_block_at_a_time() -> None:
    async with penstock.Broker() as broker:
        with pytest.raises(RuntimeError, match="runs already"):
            await broker.__aenter__()
        assert not await refuses(broker.bootstrap)
    first = broker.data_directory
    async with broker:
        assert broker.data_directory != first
        assert not await refuses(broker.bootstrap)


@contextmanager
def program_left_alone() -> Generator[None]:
    """Check that signals, logging and the collector are as they were, when the block ends."""

    def settings() -> list[object]:
        signals = [(number, signal.getsignal(number)) for number in (signal.SIGTERM, signal.SIGINT)]
        loggers = [logging.getLogger(name) for name in (None, "penstock")]
        levels = [(logger.level, list(logger.handlers), logger.disabled) for logger in loggers]
        return [signals, levels, gc.get_threshold(), gc.get_freeze_count()]

    before = settings()
    yield
    assert settings() == before


async def test_signals_and_logging_are_the_programs_own() -> None:
    with program_left_alone():
        async with penstock.Broker():
            with program_left_alone():
                pass
            await trio.lowlevel.checkpoint()
