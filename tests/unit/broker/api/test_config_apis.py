"""DescribeConfigs, AlterConfigs, IncrementalAlterConfigs."""

from collections.abc import AsyncGenerator
from typing import Any

import pytest
from tests.support.memory_metadata import MemoryMetadata
from tests.support.metadata_plane import NODE_ID, Plane, metadata_plane

from penstock.broker.api import alter_configs, describe_configs, incremental_alter_configs
from penstock.broker.config_resources import ResourceType
from penstock.broker.config_table import ConfigSource, ConfigType
from penstock.broker.topic_config import topic_config_definitions
from penstock.protocol.api import SERVED, ApiKey
from penstock.protocol.errors import ErrorCode
from penstock.protocol.message import Message

TOPIC, BROKER = ResourceType.TOPIC, ResourceType.BROKER


@pytest.fixture
def store() -> MemoryMetadata:
    return MemoryMetadata()


@pytest.fixture
async def plane(store: MemoryMetadata) -> AsyncGenerator[Plane, None]:
    static = {"log.retention.hours": "1", "write.caching": "true"}
    async with metadata_plane(static, store=store) as made:
        await made.create("t", segment_bytes="1000")
        yield made


async def describe(
    plane: Plane, kind: int, name: str, keys: list[str] | None = None, version: int = 4, **fields: Any
) -> Message:
    resource = Message(resource_type=kind, resource_name=name, configuration_keys=keys)
    response = await plane.call(
        describe_configs.handle, ApiKey.DESCRIBE_CONFIGS, version, resources=[resource], **fields
    )
    (result,) = response.results
    assert (result.resource_type, result.resource_name) == (kind, name)
    found: Message = result
    return found


def by_name(result: Message) -> dict[str, Message]:
    assert (result.error_code, result.error_message) == (ErrorCode.NONE, None)
    return {config.name: config for config in result.configs}


async def alter(plane: Plane, *resources: Message, version: int = 2, **fields: Any) -> list[tuple[int, bool]]:
    response = await plane.call(
        alter_configs.handle, ApiKey.ALTER_CONFIGS, version, resources=list(resources), **fields
    )
    return [(r.error_code, r.error_message is not None) for r in response.responses]


async def change(
    plane: Plane, *resources: Message, version: int = 1, **fields: Any
) -> list[tuple[int, bool]]:
    response = await plane.call(
        incremental_alter_configs.handle,
        ApiKey.INCREMENTAL_ALTER_CONFIGS,
        version,
        resources=list(resources),
        **fields,
    )
    return [(r.error_code, r.error_message is not None) for r in response.responses]


def resource(kind: int, name: str, *configs: Message) -> Message:
    return Message(resource_type=kind, resource_name=name, configs=list(configs))


def value(name: str, text: str | None) -> Message:
    return Message(name=name, value=text)


def operation(name: str, number: int, text: str | None) -> Message:
    return Message(name=name, config_operation=number, value=text)


@pytest.mark.parametrize("version", SERVED[ApiKey.DESCRIBE_CONFIGS].versions)
async def test_every_topic_config_is_told_with_its_source(plane: Plane, version: int) -> None:
    configs = by_name(await describe(plane, TOPIC, "t", version=version))
    assert set(configs) == set(topic_config_definitions())
    told = {name: (c.value, c.config_source) for name, c in configs.items()}
    assert told["segment.bytes"] == ("1000", ConfigSource.DYNAMIC_TOPIC)
    assert told["retention.ms"] == ("3600000", ConfigSource.STATIC_BROKER)
    assert told["write.caching"] == ("true", ConfigSource.STATIC_BROKER)
    assert told["segment.ms"] == ("604800000", ConfigSource.DEFAULT)
    assert not any(c.read_only or c.is_sensitive or c.synonyms for c in configs.values())
    if version >= 3:
        assert configs["segment.bytes"].config_type == ConfigType.INT
        assert configs["cleanup.policy"].config_type == ConfigType.LIST
        assert configs["segment.bytes"].documentation is None


async def test_synonyms_and_documentation_on_request(plane: Plane) -> None:
    configs = by_name(await describe(plane, TOPIC, "t", include_synonyms=True, include_documentation=True))
    assert [(s.name, s.value, s.source) for s in configs["retention.ms"].synonyms] == [
        ("log.retention.hours", "1", ConfigSource.STATIC_BROKER),
        ("log.retention.ms", "604800000", ConfigSource.DEFAULT),
    ]
    assert [(s.name, s.source) for s in configs["segment.bytes"].synonyms] == [
        ("segment.bytes", ConfigSource.DYNAMIC_TOPIC),
        ("log.segment.bytes", ConfigSource.DEFAULT),
    ]
    assert "does not act on it" in configs["preallocate"].documentation
    assert "does not act on it" not in configs["segment.bytes"].documentation


@pytest.mark.parametrize("wanted", [None, []])
async def test_no_keys_means_all(plane: Plane, wanted: list[str] | None) -> None:
    assert len(by_name(await describe(plane, TOPIC, "t", wanted))) == len(topic_config_definitions())


async def test_only_what_is_asked_for(plane: Plane) -> None:
    assert set(by_name(await describe(plane, TOPIC, "t", ["retention.ms", "nope"]))) == {"retention.ms"}


async def test_this_broker_and_what_is_fixed(plane: Plane) -> None:
    configs = by_name(await describe(plane, BROKER, str(NODE_ID), include_synonyms=True))
    assert (configs["node.id"].value, configs["node.id"].read_only) == (str(NODE_ID), True)
    assert configs["log.retention.ms"].read_only is False
    assert configs["log.retention.ms"].value == "3600000"
    assert configs["broker.rack"].value is None
    assert configs["message.max.bytes"].config_source == ConfigSource.DEFAULT


async def test_all_brokers_together_have_only_what_was_set_for_them(plane: Plane) -> None:
    assert by_name(await describe(plane, BROKER, "")) == {}
    await change(plane, resource(BROKER, "", operation("log.retention.ms", 0, "7")))
    configs = by_name(await describe(plane, BROKER, ""))
    assert {name: (c.value, c.config_source) for name, c in configs.items()} == {
        "log.retention.ms": ("7", ConfigSource.DYNAMIC_DEFAULT_BROKER)
    }
    assert by_name(await describe(plane, TOPIC, "t"))["retention.ms"].value == "7"


@pytest.mark.parametrize(
    ("kind", "name", "code"),
    [
        (TOPIC, "nope", ErrorCode.UNKNOWN_TOPIC_OR_PARTITION),
        (TOPIC, "../x", ErrorCode.INVALID_TOPIC_EXCEPTION),
        (TOPIC, "", ErrorCode.INVALID_TOPIC_EXCEPTION),
        (BROKER, "9", ErrorCode.INVALID_REQUEST),
        (BROKER, "x", ErrorCode.INVALID_REQUEST),
        (BROKER, "-1", ErrorCode.INVALID_REQUEST),
        (BROKER, "9" * 5000, ErrorCode.INVALID_REQUEST),
        (ResourceType.BROKER_LOGGER, str(NODE_ID), ErrorCode.INVALID_REQUEST),
        (ResourceType.CLIENT_METRICS, "x", ErrorCode.INVALID_REQUEST),
        (ResourceType.GROUP, "x", ErrorCode.INVALID_REQUEST),
        (0, "x", ErrorCode.INVALID_REQUEST),
        (99, "x", ErrorCode.INVALID_REQUEST),
        (-1, "x", ErrorCode.INVALID_REQUEST),
    ],
)
async def test_resources_without_configs_are_refused_with_a_message(
    plane: Plane, store: MemoryMetadata, kind: int, name: str, code: ErrorCode
) -> None:
    result = await describe(plane, kind, name)
    assert result.error_code == code
    assert result.error_message
    assert list(result.configs) == []
    revision = store.revision
    alterable = "log.retention.ms" if kind == BROKER else "retention.ms"
    (altered,) = await alter(plane, resource(kind, name, value(alterable, "1")))
    (changed,) = await change(plane, resource(kind, name, operation(alterable, 0, "1")))
    assert altered[1]
    assert changed[1]
    assert ErrorCode.NONE not in (altered[0], changed[0])
    assert store.revision == revision


@pytest.mark.parametrize("version", SERVED[ApiKey.ALTER_CONFIGS].versions)
async def test_replacing_takes_effect_before_the_answer(plane: Plane, version: int) -> None:
    answers = await alter(
        plane,
        resource(TOPIC, "t", value("flush.ms", "9")),
        resource(TOPIC, "nope", value("flush.ms", "9")),
        version=version,
    )
    assert answers == [(ErrorCode.NONE, False), (ErrorCode.UNKNOWN_TOPIC_OR_PARTITION, True)]
    assert plane.image.topic_configs("t") == {"flush.ms": "9"}


@pytest.mark.parametrize("version", SERVED[ApiKey.INCREMENTAL_ALTER_CONFIGS].versions)
async def test_changing_takes_effect_before_the_answer(plane: Plane, version: int) -> None:
    entry = resource(
        TOPIC,
        "t",
        operation("flush.ms", 0, "9"),
        operation("segment.bytes", 1, None),
        operation("cleanup.policy", 2, "compact"),
    )
    assert await change(plane, entry, version=version) == [(ErrorCode.NONE, False)]
    assert plane.image.topic_configs("t") == {"flush.ms": "9", "cleanup.policy": "delete,compact"}


async def test_brokers_by_id_and_all(plane: Plane) -> None:
    answers = await alter(
        plane,
        resource(BROKER, str(NODE_ID), value("log.retention.ms", "5")),
        resource(BROKER, "", value("log.retention.ms", "6")),
        resource(BROKER, str(NODE_ID + 1), value("log.retention.ms", "5")),
    )
    assert [code for code, _ in answers] == [ErrorCode.NONE, ErrorCode.NONE, ErrorCode.INVALID_REQUEST]
    assert plane.image.broker_configs(NODE_ID) == {"log.retention.ms": "5"}
    assert plane.image.broker_configs(None) == {"log.retention.ms": "6"}


async def test_checking_only_stores_nothing(plane: Plane, store: MemoryMetadata) -> None:
    revision = store.revision
    good = resource(TOPIC, "t", value("flush.ms", "9"))
    bad = resource(BROKER, "", value("node.id", "9"))
    assert [code for code, _ in await alter(plane, good, bad, validate_only=True)] == [
        ErrorCode.NONE,
        ErrorCode.INVALID_CONFIG,
    ]
    single = resource(TOPIC, "t", operation("flush.ms", 0, "9"))
    assert await change(plane, single, validate_only=True) == [(ErrorCode.NONE, False)]
    assert store.revision == revision


async def test_what_is_named_twice_or_has_no_meaning_changes_nothing(
    plane: Plane, store: MemoryMetadata
) -> None:
    revision = store.revision
    twice = resource(TOPIC, "t", value("flush.ms", "9"))
    assert await alter(plane, twice, twice) == [(ErrorCode.INVALID_REQUEST, True)] * 2
    refused = (
        resource(TOPIC, "t", value("flush.ms", "9"), value("flush.ms", "8")),
        resource(TOPIC, "t", value("flush.ms", None)),
    )
    for entry in refused:
        assert await alter(plane, entry) == [(ErrorCode.INVALID_REQUEST, True)]
    changes = (
        resource(TOPIC, "t", operation("flush.ms", 0, "9"), operation("flush.ms", 1, None)),
        resource(TOPIC, "t", operation("flush.ms", 4, "9")),
        resource(TOPIC, "t", operation("flush.ms", -1, "9")),
        resource(TOPIC, "t", operation("flush.ms", 0, None)),
    )
    for entry in changes:
        assert await change(plane, entry) == [(ErrorCode.INVALID_REQUEST, True)]
    assert store.revision == revision
