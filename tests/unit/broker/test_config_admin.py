"""Altering configs: compare-and-swap, so that of two alterations at once none is lost."""

from collections.abc import AsyncGenerator

import pytest
import trio
from tests.support.memory_metadata import Fault, MemoryMetadata
from tests.support.metadata_plane import NODE_ID, Plane, metadata_plane

from penstock.broker import keys
from penstock.broker.config_admin import AlterOperation, ConfigChange
from penstock.broker.errors import ApiError
from penstock.protocol.errors import ErrorCode
from penstock.runtime.metadata import Delete

SET, DELETE, APPEND, SUBTRACT = AlterOperation


@pytest.fixture
def store() -> MemoryMetadata:
    return MemoryMetadata()


@pytest.fixture
async def plane(store: MemoryMetadata) -> AsyncGenerator[Plane, None]:
    async with metadata_plane(store=store) as made:
        await made.create("t", retention_ms="1", segment_bytes="1000")
        yield made


def overrides(store: MemoryMetadata, key: str = keys.topic_configs_key("t")) -> dict[str, str]:
    entry = store.entries.get(key)
    return keys.decode_configs(key, entry.value) if entry else {}


async def change(plane: Plane, *changes: ConfigChange) -> None:
    await plane.watch.wait_for(await plane.topics.configs.change_topic_configs("t", changes))


async def test_replacing_drops_what_is_not_named(plane: Plane, store: MemoryMetadata) -> None:
    revision = await plane.topics.configs.replace_topic_configs("t", {"retention.ms": "2"})
    await plane.watch.wait_for(revision)
    assert overrides(store) == dict(plane.image.topic_configs("t")) == {"retention.ms": "2"}
    await plane.topics.configs.replace_topic_configs("t", {})
    assert keys.topic_configs_key("t") not in store.entries


async def test_single_changes_leave_the_others_alone(plane: Plane, store: MemoryMetadata) -> None:
    await change(plane, ConfigChange("retention.ms", SET, "3"), ConfigChange("flush.ms", SET, "4"))
    assert overrides(store) == {"retention.ms": "3", "segment.bytes": "1000", "flush.ms": "4"}
    await change(plane, ConfigChange("retention.ms", DELETE, None), ConfigChange("preallocate", DELETE, None))
    assert overrides(store) == {"segment.bytes": "1000", "flush.ms": "4"}


async def test_lists_are_appended_to_from_the_value_in_effect(plane: Plane, store: MemoryMetadata) -> None:
    await change(plane, ConfigChange("cleanup.policy", APPEND, "compact, delete"))
    assert overrides(store)["cleanup.policy"] == "delete,compact"
    await change(plane, ConfigChange("cleanup.policy", SUBTRACT, "delete"))
    assert overrides(store)["cleanup.policy"] == "compact"


@pytest.mark.parametrize(
    ("single", "code"),
    [
        (ConfigChange("nope", SET, "1"), ErrorCode.INVALID_CONFIG),
        (ConfigChange("nope", DELETE, None), ErrorCode.INVALID_CONFIG),
        (ConfigChange("retention.ms", SET, "x"), ErrorCode.INVALID_CONFIG),
        (ConfigChange("retention.ms", SET, None), ErrorCode.INVALID_REQUEST),
        (ConfigChange("retention.ms", APPEND, "1"), ErrorCode.INVALID_CONFIG),
        (ConfigChange("cleanup.policy", SUBTRACT, "delete"), ErrorCode.INVALID_CONFIG),
    ],
)
async def test_a_change_that_means_nothing_changes_nothing(
    plane: Plane, store: MemoryMetadata, single: ConfigChange, code: ErrorCode
) -> None:
    revision = store.revision
    with pytest.raises(ApiError) as caught:
        await change(plane, ConfigChange("flush.ms", SET, "4"), single)
    assert caught.value.code == code
    assert store.revision == revision


async def test_two_changes_at_once_are_both_kept(plane: Plane, store: MemoryMetadata) -> None:
    async with trio.open_nursery() as nursery:
        for number in range(8):
            name = ("flush.ms", "flush.messages", "segment.ms", "max.message.bytes")[number % 4]
            nursery.start_soon(change, plane, ConfigChange(name, SET, str(number + 1)))
    assert set(overrides(store)) == {
        "retention.ms",
        "segment.bytes",
        "flush.ms",
        "flush.messages",
        "segment.ms",
        "max.message.bytes",
    }


async def test_values_that_contradict_each_other_never_meet(plane: Plane, store: MemoryMetadata) -> None:
    codes: list[ErrorCode] = []

    async def one(name: str, value: str) -> None:
        try:
            await change(plane, ConfigChange(name, SET, value))
        except ApiError as error:
            codes.append(error.code)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(one, "min.compaction.lag.ms", "9")
        nursery.start_soon(one, "max.compaction.lag.ms", "8")
    assert codes == [ErrorCode.INVALID_CONFIG]


async def test_the_same_again_writes_nothing(plane: Plane, store: MemoryMetadata) -> None:
    revision = store.revision
    same = ConfigChange("retention.ms", SET, "1")
    assert await plane.topics.configs.change_topic_configs("t", [same]) == 0
    assert store.revision == revision


async def test_checking_only_writes_nothing(plane: Plane, store: MemoryMetadata) -> None:
    revision = store.revision
    configs = plane.topics.configs
    assert await configs.replace_topic_configs("t", {"flush.ms": "1"}, validate_only=True) == 0
    with pytest.raises(ApiError):
        await configs.replace_topic_configs("t", {"flush.ms": "x"}, validate_only=True)
    assert store.revision == revision


async def test_configs_of_a_deleted_topic_do_not_come_back(plane: Plane, store: MemoryMetadata) -> None:
    with pytest.raises(ApiError) as caught:
        await plane.topics.configs.replace_topic_configs("nope", {})
    assert caught.value.code == ErrorCode.UNKNOWN_TOPIC_OR_PARTITION
    stale = plane.image.topic("t")
    assert stale is not None
    await plane.watch.wait_for(await plane.topics.delete(stale))
    plane.image._topics["t"] = stale  # pyright: ignore[reportPrivateUsage]
    with pytest.raises(ApiError) as caught:
        await plane.topics.configs.replace_topic_configs("t", {"flush.ms": "1"})
    assert caught.value.code == ErrorCode.UNKNOWN_TOPIC_OR_PARTITION
    assert keys.topic_configs_key("t") not in store.entries


async def test_dynamic_configs_of_one_broker_and_of_all(plane: Plane, store: MemoryMetadata) -> None:
    configs = plane.topics.configs
    await configs.change_broker_configs(None, [ConfigChange("log.retention.ms", SET, "7")])
    await configs.replace_broker_configs(NODE_ID, {"log.cleanup.policy": "compact"})
    last = await configs.change_broker_configs(
        NODE_ID, [ConfigChange("log.cleanup.policy", APPEND, "delete")]
    )
    await plane.watch.wait_for(last)
    assert plane.image.broker_configs(None) == {"log.retention.ms": "7"}
    assert plane.image.broker_configs(NODE_ID) == {"log.cleanup.policy": "compact,delete"}
    assert configs.topic_layers("t").all_brokers == {"log.retention.ms": "7"}
    assert configs.broker_layers().broker == {"log.cleanup.policy": "compact,delete"}


async def test_broker_configs_that_are_fixed_or_of_nobody_are_refused(plane: Plane) -> None:
    configs = plane.topics.configs
    with pytest.raises(ApiError) as caught:
        await configs.replace_broker_configs(None, {"num.partitions": "2"})
    assert caught.value.code == ErrorCode.INVALID_CONFIG
    with pytest.raises(ApiError) as caught:
        await configs.replace_broker_configs(99, {"log.retention.ms": "2"})
    assert caught.value.code == ErrorCode.INVALID_REQUEST


async def test_a_store_that_is_gone_is_told(plane: Plane, store: MemoryMetadata) -> None:
    store.fail_next(Fault.UNAVAILABLE)
    with pytest.raises(ApiError) as caught:
        await plane.topics.configs.replace_topic_configs("t", {"flush.ms": "1"})
    assert caught.value.code == ErrorCode.REQUEST_TIMED_OUT
    await store.transact([], [Delete("/none")])
