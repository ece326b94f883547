"""The admin clients of aiokafka and kafka-python, every call that a single broker without groups can serve."""

import importlib
import uuid
from collections.abc import Iterator
from typing import Any

import pytest
from tests.support.clients import aiokafka_client, kafka_python
from tests.support.deadline import until
from tests.support.errors import ErrorCode
from tests.support.processes import RunningServer
from tests.support.topics import create_topic, fetch_values, fresh_name, list_offset, produce_values
from tests.support.wire import Connection

pytestmark = pytest.mark.filterwarnings(kafka_python.WARNINGS)

aio_admin: Any = importlib.import_module("aiokafka.admin")
aio_records: Any = importlib.import_module("aiokafka.admin.records_to_delete")
aio_config: Any = importlib.import_module("aiokafka.admin.config_resource")
TOPIC_RESOURCE = 2


def error_of(response: Any) -> tuple[str, ErrorCode]:
    """Name and code of the one topic that an aiokafka response is about."""
    ((name, code, *_),) = getattr(response, "topic_errors", None) or response.topic_error_codes
    return name, ErrorCode(code)


def test_aiokafka_administers_nothing(server: RunningServer, connection: Connection) -> None:
    """Its whole admin client in one go: each call needs a connection of its own loop."""
    name = fresh_name("aiokafka")

    async def work() -> None:
        admin = aio_admin.AIOKafkaAdminClient(bootstrap_servers=server.bootstrap)
        await admin.start()
        try:
            topic = aio_admin.NewTopic(name, 2, 1, topic_configs={"retention.ms": "1000000"})
            assert error_of(await admin.create_topics([topic])) == (name, ErrorCode.none)
            assert error_of(await admin.create_topics([topic])) == (name, ErrorCode.topic_already_exists)
            assert name in await admin.list_topics()
            await describe(admin)
            await configure(admin)
            await admin.create_partitions({name: aio_admin.NewPartitions(4)})
            await aiokafka_client.eventually(lambda: has_partitions(admin, 4))
            await delete_records(admin)
            assert error_of(await admin.delete_topics([name])) == (name, ErrorCode.none)
            await aiokafka_client.eventually(lambda: is_gone(admin))
        finally:
            await admin.close()

    async def has_partitions(admin: Any, count: int) -> bool:
        (told,) = await admin.describe_topics([name])
        return sorted(each["partition"] for each in told["partitions"]) == list(range(count))

    async def is_gone(admin: Any) -> bool:
        return name not in await admin.list_topics()

    async def is_altered(admin: Any, resource: Any) -> bool:
        (told,) = await admin.describe_configs([resource])
        ((code, _, kind, told_name, configs, *_),) = told.resources
        assert (code, kind, told_name) == (0, TOPIC_RESOURCE, name)
        return {config[0]: config[1] for config in configs} == {"retention.ms": "777"}

    async def describe(admin: Any) -> None:
        (told,) = await admin.describe_topics([name])
        assert (told["error_code"], told["topic"], len(told["partitions"])) == (0, name, 2)
        cluster = await admin.describe_cluster()
        assert [f"{each['host']}:{each['port']}" for each in cluster["brokers"]] == [server.bootstrap]

    async def configure(admin: Any) -> None:
        resource = aio_config.ConfigResource(
            aio_config.ConfigResourceType.TOPIC, name, {"retention.ms": "777"}
        )
        (altered,) = await admin.alter_configs([resource])
        assert altered.resources[0][0] == 0
        await aiokafka_client.eventually(lambda: is_altered(admin, resource))

    async def delete_records(admin: Any) -> None:
        for value in (b"0", b"1", b"2"):
            produce_values(connection, name, value, partition=0)
        place = aiokafka_client.aiokafka.TopicPartition(name, 0)
        told = await admin.delete_records({place: aio_records.RecordsToDelete(2)})
        assert told == {place: 2}
        assert list_offset(connection, name, -2)[0] == 2

    aiokafka_client.run(work)


def test_aiokafka_finds_wrong_offsets(server: RunningServer, connection: Connection) -> None:
    name = create_topic(connection, "aiokafka-offsets")
    for value in (b"0", b"1", b"2"):
        produce_values(connection, name, value)

    async def work() -> None:
        place = aiokafka_client.aiokafka.TopicPartition(name, 0)
        consumer = aiokafka_client.aiokafka.AIOKafkaConsumer(
            bootstrap_servers=server.bootstrap, group_id=None
        )
        async with consumer:
            assert await consumer.beginning_offsets([place]) == {place: 0}
            assert await consumer.end_offsets([place]) == {place: 3}
            first = (await consumer.offsets_for_times({place: 0}))[place]
            assert first.offset == 0
            assert (await consumer.offsets_for_times({place: first.timestamp + 10**9}))[place] is None

    aiokafka_client.run(work)


@pytest.fixture
def admin(server: RunningServer) -> Iterator[Any]:
    """kafka-python's admin client."""
    client = kafka_python.kafka.KafkaAdminClient(bootstrap_servers=server.bootstrap)
    yield client
    client.close()


def topic_resource(name: str, configs: Any = None) -> Any:
    kinds: Any = importlib.import_module("kafka.admin")
    return kinds.ConfigResource(kinds.ConfigResourceType.TOPIC, name, configs)


def test_kafka_python_creates_and_deletes_no_topic(admin: Any) -> None:
    name = fresh_name("kafka-python")
    options = {name: {"num_partitions": 2, "replication_factor": 1, "configs": {"retention.ms": "1000000"}}}
    made = admin.create_topics(options, wait_for_metadata=True)
    assert made["topics"][0]["error_code"] == 0
    again = admin.create_topics(options, raise_errors=False)
    assert again["topics"][0]["error_code"] == ErrorCode.topic_already_exists
    assert name in admin.list_topics()
    (told,) = admin.describe_topics([name])
    assert (told["name"], len(told["partitions"])) == (name, 2)
    (by_id,) = admin.describe_topics([uuid.UUID(str(told["topic_id"]))])
    assert by_id["name"] == name
    described = admin.describe_topic_partitions([name])
    assert name in str(described)
    admin.create_partitions({name: 4})
    until(lambda: len(admin.describe_topics([name])[0]["partitions"]) == 4, "four partitions")
    admin.delete_topics([name])
    until(lambda: name not in admin.list_topics(), "the topic gone")


def test_kafka_python_alters_no_configs(admin: Any, connection: Connection) -> None:
    name = create_topic(connection, "kafka-python-configs", configs={"segment.ms": "8888888"})

    def modified() -> dict[str, str]:
        told = admin.describe_configs([topic_resource(name)])
        found = told["topic"][name] if "topic" in told else told["TOPIC"][name]
        return {key: each["value"] for key, each in found.items()}

    assert modified() == {"segment.ms": "8888888"}
    admin.alter_configs([topic_resource(name, {"retention.ms": "777"})])
    until(lambda: modified() == {"segment.ms": "8888888", "retention.ms": "777"}, "both values")
    admin.reset_configs([topic_resource(name, ["segment.ms"])])
    until(lambda: modified() == {"retention.ms": "777"}, "one value")
    admin.alter_configs([topic_resource(name, {"segment.bytes": "2000000"})], incremental=False)
    until(lambda: modified() == {"retention.ms": "777", "segment.bytes": "2000000"}, "the filled-in values")


def test_kafka_python_describes_no_cluster(admin: Any, server: RunningServer, connection: Connection) -> None:
    bounds = {
        "backlog.groups": "*",
        "backlog.max.records": "10",
    }  # so that there is a field of our own to be skipped
    name = create_topic(connection, "kafka-python-dirs", configs=bounds)
    produce_values(connection, name, b"x" * 1000)
    cluster = admin.describe_cluster()
    assert [f"{each['host']}:{each['port']}" for each in cluster["brokers"]] == [server.bootstrap]
    (told,) = admin.describe_log_dirs([name])
    (folder,) = told["log_dirs"]
    assert folder["error_code"] == 0
    assert folder["log_dir"] == str(server.data_directory)
    (topic,) = folder["topics"]
    assert topic["name"] == name
    assert topic["partitions"][0]["partition_size"] > 1000
    assert topic["partitions"][0]["offset_lag"] == 0


def test_kafka_python_finds_and_deletes_no_records(admin: Any, connection: Connection) -> None:
    name = create_topic(connection, "kafka-python-records")
    for value in (b"0", b"1", b"2"):
        produce_values(connection, name, value)
    place = kafka_python.kafka.TopicPartition(name, 0)

    def offset(spec: int) -> int:
        return int(admin.list_partition_offsets({place: spec})[place].offset)

    assert [offset(spec) for spec in (-2, -1, 0)] == [0, 3, 0]
    assert offset(-3) in (0, 1, 2)
    deleted = admin.delete_records({place: 2})
    assert deleted[place]["low_watermark"] == 2
    assert [offset(spec) for spec in (-2, -1)] == [2, 3]


def test_kafka_python_finds_wrong_offsets(server: RunningServer, connection: Connection) -> None:
    name = create_topic(connection, "kafka-python-offsets")
    for value in (b"0", b"1", b"2"):
        produce_values(connection, name, value)
    place = kafka_python.kafka.TopicPartition(name, 0)
    consumer = kafka_python.kafka.KafkaConsumer(bootstrap_servers=server.bootstrap, group_id=None)
    try:
        assert consumer.beginning_offsets([place]) == {place: 0}
        assert consumer.end_offsets([place]) == {place: 3}
        assert consumer.offsets_for_times({place: 0})[place].offset == 0
    finally:
        consumer.close()
    assert len(fetch_values(connection, name)) == 3
