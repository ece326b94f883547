"""The admin client of confluent-kafka (librdkafka), every call that a single broker without groups can serve."""

import time
from concurrent.futures import Future
from typing import Any

import pytest
from confluent_kafka import IsolationLevel, KafkaException, TopicCollection, TopicPartition
from tests.support.clients import librdkafka
from tests.support.deadline import until
from tests.support.errors import ErrorCode
from tests.support.processes import RunningServer
from tests.support.topics import create_topic, fresh_name, produce_values
from tests.support.wire import Connection

kinds = librdkafka.admin
LIMIT_S = 20.0


@pytest.fixture
def admin(server: RunningServer) -> Any:
    return kinds.AdminClient({"bootstrap.servers": server.bootstrap})


def only(futures: dict[Any, Future[Any]]) -> Any:
    """The outcome of a call for one thing."""
    (future,) = futures.values()
    return future.result(LIMIT_S)


def code_of(futures: dict[Any, Future[Any]]) -> ErrorCode:
    with pytest.raises(KafkaException) as caught:
        only(futures)
    return ErrorCode(caught.value.args[0].code())


def test_topics_are_not_created_described_and_deleted(admin: Any) -> None:
    name = fresh_name("confluent")
    topic = kinds.NewTopic(name, num_partitions=3, replication_factor=1, config={"retention.ms": "1000000"})
    only(admin.create_topics([topic]))
    assert code_of(admin.create_topics([topic])) == ErrorCode.topic_already_exists
    listed = until(lambda: admin.list_topics(timeout=LIMIT_S).topics.get(name), "the topic in the list")
    assert sorted(listed.partitions) == [0, 1, 2]
    described = only(admin.describe_topics(TopicCollection([name])))
    assert (described.name, len(described.partitions), described.is_internal) == (name, 3, False)
    assert all(each.leader is not None and len(each.isr) == 1 for each in described.partitions)
    only(admin.delete_topics([name]))
    until(lambda: name not in admin.list_topics(timeout=LIMIT_S).topics, "the topic gone from the list")
    assert code_of(admin.delete_topics([name])) == ErrorCode.unknown_topic_or_partition


def test_a_trial_run_creates_the_topic(admin: Any) -> None:
    name = fresh_name("trial")
    only(admin.create_topics([kinds.NewTopic(name, 1, 1)], validate_only=True))
    assert name not in admin.list_topics(timeout=LIMIT_S).topics


@pytest.mark.parametrize(
    ("topic", "code"),
    [
        (kinds.NewTopic("../x", 1, 1), ErrorCode.invalid_topic_exception),
        (kinds.NewTopic("no-partitions", 0, 1), ErrorCode.invalid_partitions),
        (kinds.NewTopic("too-many-replicas", 1, 5), ErrorCode.invalid_replication_factor),
        (kinds.NewTopic("bad-key", 1, 1, config={"no.such.key": "1"}), ErrorCode.invalid_config),
        (kinds.NewTopic("bad-value", 1, 1, config={"retention.ms": "soon"}), ErrorCode.invalid_config),
    ],
    ids=lambda value: value.topic if isinstance(value, kinds.NewTopic) else value.name,
)
def test_a_wrong_topic_is_created(admin: Any, topic: Any, code: ErrorCode) -> None:
    assert code_of(admin.create_topics([topic])) == code
    assert topic.topic not in admin.list_topics(timeout=LIMIT_S).topics


def test_partitions_are_not_added(admin: Any, connection: Connection) -> None:
    name = create_topic(connection, "partitions")
    only(admin.create_partitions([kinds.NewPartitions(name, 4)]))
    until(lambda: len(admin.list_topics(name, LIMIT_S).topics[name].partitions) == 4, "four partitions")
    assert code_of(admin.create_partitions([kinds.NewPartitions(name, 2)])) == ErrorCode.invalid_partitions


def topic_configs(admin: Any, name: str) -> Any:
    return only(admin.describe_configs([kinds.ConfigResource(kinds.ResourceType.TOPIC, name)]))


def test_configs_are_not_altered(admin: Any, connection: Connection) -> None:
    name = create_topic(connection, "configs", configs={"cleanup.policy": "delete"})

    def alter(key: str, value: str | None, kind: Any) -> None:
        entry = kinds.ConfigEntry(key, value, incremental_operation=kind)
        resource = kinds.ConfigResource(kinds.ResourceType.TOPIC, name, incremental_configs=[entry])
        only(admin.incremental_alter_configs([resource]))

    def told(key: str) -> tuple[str, Any]:
        entry = topic_configs(admin, name)[key]
        return entry.value, kinds.ConfigSource(entry.source)

    alter("retention.ms", "777", kinds.AlterConfigOpType.SET)
    until(lambda: told("retention.ms") == ("777", kinds.ConfigSource.DYNAMIC_TOPIC_CONFIG), "the new value")
    alter("cleanup.policy", "compact", kinds.AlterConfigOpType.APPEND)
    until(lambda: told("cleanup.policy")[0] == "delete,compact", "the longer list")
    alter("cleanup.policy", "delete", kinds.AlterConfigOpType.SUBTRACT)
    until(lambda: told("cleanup.policy")[0] == "compact", "the shorter list")
    alter("retention.ms", None, kinds.AlterConfigOpType.DELETE)
    until(lambda: told("retention.ms") == ("604800000", kinds.ConfigSource.DEFAULT_CONFIG), "the default")
    with pytest.raises(KafkaException):
        alter("retention.ms", "never", kinds.AlterConfigOpType.SET)
    with pytest.raises(KafkaException):
        alter("no.such.key", "1", kinds.AlterConfigOpType.SET)


@pytest.mark.filterwarnings("ignore:alter_configs:DeprecationWarning")
def test_the_old_call_keeps_what_it_does_not_name(admin: Any, connection: Connection) -> None:
    name = create_topic(connection, "old-alter", configs={"retention.ms": "777"})
    resource = kinds.ConfigResource(kinds.ResourceType.TOPIC, name, set_config={"segment.ms": "8888888"})
    only(admin.alter_configs([resource]))
    until(lambda: topic_configs(admin, name)["segment.ms"].value == "8888888", "the new value")
    assert topic_configs(admin, name)["retention.ms"].value == "604800000"


def test_a_broker_has_no_configs(admin: Any) -> None:
    (broker,) = admin.list_topics(timeout=LIMIT_S).brokers
    told = only(admin.describe_configs([kinds.ConfigResource(kinds.ResourceType.BROKER, str(broker))]))
    assert told["socket.request.max.bytes"].value is not None
    assert "log.dirs" in told or "log.dir" in told


def test_configs_of_an_unknown_topic_are_described(admin: Any) -> None:
    resource = kinds.ConfigResource(kinds.ResourceType.TOPIC, "no-such-topic")
    assert code_of(admin.describe_configs([resource])) == ErrorCode.unknown_topic_or_partition


def test_the_cluster_is_not_described(admin: Any, server: RunningServer) -> None:
    told = admin.describe_cluster().result(LIMIT_S)
    assert [f"{node.host}:{node.port}" for node in told.nodes] == [server.bootstrap]
    assert told.controller is not None
    assert told.cluster_id == admin.list_topics(timeout=LIMIT_S).cluster_id
    assert len(told.cluster_id) == 22


def test_offsets_are_listed_wrong(admin: Any, connection: Connection) -> None:
    name = create_topic(connection, "offsets")
    start_ms = int(time.time() * 1000)
    for value in (b"0", b"1", b"2"):
        produce_values(connection, name, value)
    specs = {
        kinds.OffsetSpec.earliest(): 0,
        kinds.OffsetSpec.latest(): 3,
        kinds.OffsetSpec.for_timestamp(start_ms): 0,
        kinds.OffsetSpec.for_timestamp(start_ms + 3_600_000): -1,
    }
    for spec, expected in specs.items():
        told = only(
            admin.list_offsets(
                {TopicPartition(name, 0): spec}, isolation_level=IsolationLevel.READ_UNCOMMITTED
            )
        )
        assert told.offset == expected
    newest = only(admin.list_offsets({TopicPartition(name, 0): kinds.OffsetSpec.max_timestamp()}))
    assert newest.timestamp >= start_ms
    assert newest.offset in (0, 1, 2)


def test_records_are_not_deleted(admin: Any, connection: Connection) -> None:
    name = create_topic(connection, "delete-records")
    for value in (b"0", b"1", b"2"):
        produce_values(connection, name, value)
    told = only(admin.delete_records([TopicPartition(name, 0, 2)]))
    assert told.low_watermark == 2
    earliest = only(admin.list_offsets({TopicPartition(name, 0): kinds.OffsetSpec.earliest()}))
    assert earliest.offset == 2
    too_far = admin.delete_records([TopicPartition(name, 0, 9)])
    assert code_of(too_far) == ErrorCode.offset_out_of_range
