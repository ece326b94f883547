"""The admin client, the connection under it and the topic commands, against Penstock and against Apache Kafka."""

from collections.abc import AsyncGenerator, Iterator, Mapping
from contextlib import asynccontextmanager

import pytest
import trio
from bench.peers import PeerMissing
from bench.peers.kafka import kafka_broker
from tests.support.batches import encode_batch
from tests.support.deadline import until
from tests.support.processes import running_server
from tests.support.requirements import need

from penstock.cli.main import run
from penstock.client.admin import Admin
from penstock.client.admin_values import (
    EARLIEST,
    HIGH_WATERMARK,
    LATEST,
    MAX_TIMESTAMP,
    ConfigChange,
    ConfigEntry,
    ConfigOperation,
    ConfigResource,
    ConfigSource,
    CreatedTopic,
    FoundOffset,
    NewTopic,
)
from penstock.client.connection import Connection, ConnectionSettings, open_connection
from penstock.client.errors import BrokerError, OffsetOutOfRange, TopicExists, UnknownTopic
from penstock.client.metadata import TopicMetadata, TopicPartition, parse_address
from penstock.protocol.api import ApiKey
from penstock.protocol.codec import decode_response, encode_request
from penstock.protocol.errors import ErrorCode
from penstock.protocol.message import Message
from penstock.runtime.production import production_environment

LIMIT_S = 15
PAUSE_S = 0.01


@pytest.fixture(scope="module", params=["penstock", "kafka"])
def bootstrap(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A broker of each kind."""
    if request.param == "penstock":
        with running_server(tmp_path_factory.mktemp("client")) as server:
            yield server.bootstrap
        return
    try:
        broker = kafka_broker(is_measured=False)
        with broker as kafka:
            yield kafka.bootstrap
    except PeerMissing as missing:
        need(False, str(missing))


async def produce(bootstrap: str, partition: TopicPartition, times_ms: list[int]) -> None:
    """One batch with a record for each timestamp, acked by all."""
    batch = encode_batch([b"value"] * len(times_ms), timestamps_ms=times_ms)
    request = Message(
        acks=-1,
        timeout_ms=5000,
        topic_data=[
            Message(name=partition.topic, partition_data=[Message(index=partition.partition, records=batch)])
        ],
    )
    async with connection_to(bootstrap) as connection:
        version = connection.version(ApiKey.PRODUCE, at_most=12)  # from 13 on topics go by their ids
        body = encode_request(ApiKey.PRODUCE, version, request)
        answer = await connection.exchange(ApiKey.PRODUCE, version, [body])
        result = decode_response(ApiKey.PRODUCE, version, answer).responses[0].partition_responses[0]
        assert result.error_code == 0


@asynccontextmanager
async def connection_to(bootstrap: str) -> AsyncGenerator[Connection, None]:
    """A connection for the length of a block."""
    address = parse_address(bootstrap)
    network = production_environment().network
    async with trio.open_nursery() as nursery:
        yield await open_connection(nursery, network, address.host, address.port, ConnectionSettings())
        nursery.cancel_scope.cancel()


async def described_with(admin: Admin, name: str, *, partition_count: int) -> TopicMetadata:
    """The topic once it has so many partitions: Kafka's brokers learn of a change a little after it was made."""
    with trio.fail_after(LIMIT_S):
        while True:
            described = (await admin.describe_topics([name]))[name]
            if isinstance(described, TopicMetadata) and len(described.partitions) == partition_count:
                return described
            await trio.sleep(PAUSE_S)


async def configs_with(
    admin: Admin, resource: ConfigResource, name: str, value: str
) -> Mapping[str, ConfigEntry]:
    """The configs once one of them has a value."""
    with trio.fail_after(LIMIT_S):
        while True:
            configs = (await admin.describe_configs([resource], with_documentation=True))[resource]
            if not isinstance(configs, BrokerError) and configs[name].value == value:
                return configs
            await trio.sleep(PAUSE_S)


async def test_a_topic_lives_from_creation_to_deletion(bootstrap: str) -> None:
    resource = ConfigResource.topic("life")
    async with Admin(bootstrap) as admin:
        created = await admin.create_topics(
            [NewTopic(name="life", partition_count=2, configs={"retention.ms": "3600000"})]
        )
        made = created["life"]
        assert isinstance(made, CreatedTopic)
        assert (made.partition_count, made.replication_factor) == (2, 1)
        await described_with(admin, "life", partition_count=2)
        assert "life" in [topic.name for topic in await admin.list_topics()]

        assert await admin.create_partitions({"life": 4}) == {"life": None}
        described = await described_with(admin, "life", partition_count=4)
        assert described.topic_id == made.topic_id
        assert sorted(described.partitions) == [0, 1, 2, 3]
        assert all(partition.leader >= 0 for partition in described.partitions.values())

        change = [
            ConfigChange("retention.ms", None, ConfigOperation.DELETE),
            ConfigChange("segment.bytes", "1048576"),
        ]
        assert await admin.alter_configs({resource: change}) == {resource: None}
        configs = await configs_with(admin, resource, "segment.bytes", "1048576")
        assert configs["segment.bytes"].source == ConfigSource.DYNAMIC_TOPIC_CONFIG
        assert configs["retention.ms"].is_default
        assert configs["retention.ms"].documentation

        assert await admin.delete_topics(["life"]) == {"life": None}
        assert isinstance((await admin.delete_topics(["life"]))["life"], UnknownTopic)


async def test_offsets_are_found_by_time_and_records_deleted(bootstrap: str) -> None:
    partition = TopicPartition("offsets", 0)
    async with Admin(bootstrap) as admin:
        await admin.create_topics([NewTopic(name="offsets", configs={"retention.ms": "-1"})])
        await described_with(admin, "offsets", partition_count=1)
        assert await admin.list_offsets({partition: MAX_TIMESTAMP}) == {partition: FoundOffset(-1, -1, -1)}
        await produce(bootstrap, partition, [1_000, 2_000])
        await produce(bootstrap, partition, [9_000, 3_000])

        async def offset_of(timestamp_ms: int) -> tuple[int, int]:
            found = (await admin.list_offsets({partition: timestamp_ms}))[partition]
            assert isinstance(found, FoundOffset), found
            return found.offset, found.timestamp_ms

        assert await offset_of(EARLIEST) == (0, -1)
        assert await offset_of(LATEST) == (4, -1)
        assert await offset_of(1_500) == (1, 2_000)
        assert await offset_of(MAX_TIMESTAMP) == (2, 9_000)
        assert await offset_of(9_001) == (-1, -1)

        assert await admin.delete_records({partition: 3}) == {partition: 3}
        assert await offset_of(EARLIEST) == (3, -1)
        beyond = (await admin.delete_records({partition: 99}))[partition]
        assert isinstance(beyond, OffsetOutOfRange)
        assert await admin.delete_records({partition: HIGH_WATERMARK}) == {partition: 4}


def code_of(outcome: object) -> ErrorCode:
    assert isinstance(outcome, BrokerError), outcome
    return outcome.code


async def test_what_a_broker_refuses_is_an_error_of_its_class(bootstrap: str) -> None:
    topic = NewTopic(name="refused")
    resource = ConfigResource.topic("refused")
    async with Admin(bootstrap) as admin:
        assert isinstance((await admin.create_topics([topic], validate_only=True))["refused"], CreatedTopic)
        assert isinstance((await admin.create_topics([topic]))["refused"], CreatedTopic)
        assert isinstance((await admin.create_topics([topic]))["refused"], TopicExists)
        await described_with(admin, "refused", partition_count=1)

        bad_name = (await admin.create_topics([NewTopic(name="a/b")]))["a/b"]
        assert code_of(bad_name) == ErrorCode.INVALID_TOPIC_EXCEPTION
        fewer = (await admin.create_partitions({"refused": 1}))["refused"]
        assert code_of(fewer) == ErrorCode.INVALID_PARTITIONS
        unknown = (await admin.alter_configs({resource: [ConfigChange("no.such", "1")]}))[resource]
        assert code_of(unknown) == ErrorCode.INVALID_CONFIG
        assert isinstance((await admin.describe_topics(["nowhere"]))["nowhere"], UnknownTopic)


async def test_a_cluster_tells_its_brokers_and_their_configs(bootstrap: str) -> None:
    async with Admin(bootstrap) as admin:
        cluster = await admin.describe_cluster()
        assert [str(node.address) for node in cluster.nodes.values()] == [bootstrap]
        assert cluster.controller_id in cluster.nodes
        assert cluster.cluster_id
        resource = ConfigResource.broker(cluster.controller_id)
        configs = (await admin.describe_configs([resource]))[resource]
        assert not isinstance(configs, BrokerError)
        assert configs["num.partitions"].value == "1"


async def test_many_requests_of_many_tasks_share_one_connection(bootstrap: str) -> None:
    async with connection_to(bootstrap) as connection:
        sizes: list[int] = []

        async def ask(count: int) -> None:
            names = [Message(name=f"none-{count}-{index}") for index in range(count)]
            request = Message(topics=names, allow_auto_topic_creation=False)
            answer = await connection.request(ApiKey.METADATA, request)
            sizes.append(len(answer.topics))
            assert {topic.name for topic in answer.topics} == {topic.name for topic in names}

        async with trio.open_nursery() as nursery:
            for count in range(1, 60):
                nursery.start_soon(ask, count)
        assert sorted(sizes) == list(range(1, 60))


async def test_the_connection_lives_on_after_cancelled_requests(bootstrap: str) -> None:
    async with connection_to(bootstrap) as connection:
        for _ in range(20):
            with trio.CancelScope() as scope:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(connection.request, ApiKey.METADATA, Message(topics=[]))
                    await trio.lowlevel.checkpoint()
                    scope.cancel()
        answer = await connection.request(ApiKey.METADATA, Message(topics=[]))
        assert answer.brokers
        assert connection.is_open


def test_the_topic_commands_work_on_both_kinds_of_broker(
    bootstrap: str, capsys: pytest.CaptureFixture[str]
) -> None:
    def topic(*arguments: str) -> tuple[int, list[str]]:
        code = run(["topic", *arguments, "--bootstrap", bootstrap])
        return code, capsys.readouterr().out.splitlines()

    def described() -> list[str] | None:
        code, lines = topic("describe", "commands")
        cells = [line.split() for line in lines]
        has_config = ["max.message.bytes", "2000000", "topic"] in cells
        has_partition = ["3", "1", "0"] in [row[:3] for row in cells]
        return lines if code == 0 and has_config and has_partition else None

    assert topic("create", "commands", "--partitions", "2") == (0, ["created commands: 2 partitions"])
    altered = topic("alter", "commands", "--partitions", "4", "--config", "max.message.bytes=2000000")
    assert altered == (0, ["commands: max.message.bytes=2000000", "commands: 4 partitions now"])
    lines = until(described, "the changes to be seen")
    assert lines[0].startswith("topic commands, id ")
    assert [line.split()[:3] for line in lines[2:6]] == [[str(index), "1", "0"] for index in range(4)]
    code, listed = topic("list")
    assert code == 0
    assert "commands" in [line.split()[0] for line in listed]
    assert topic("delete", "commands", "--yes") == (0, ["deleted commands"])
    assert topic("delete", "commands", "--yes") == (1, [])
