"""Metadata, over all versions: what is asked for, what is made on the way, and through whose eyes."""

from collections.abc import AsyncGenerator
from typing import Any

import pytest
import trio
from tests.support.memory_metadata import Fault, MemoryMetadata
from tests.support.metadata_plane import LISTENER, NODE_ID, Plane, metadata_plane, register_broker
from trio.testing import MockClock

from penstock.broker import keys
from penstock.broker.api import metadata
from penstock.broker.keys import BrokerRegistration, Endpoint, PartitionState
from penstock.protocol.api import SERVED, ApiKey
from penstock.protocol.errors import ErrorCode
from penstock.protocol.message import Message
from penstock.runtime.metadata import Put

VERSIONS = SERVED[ApiKey.METADATA].versions
NO_ID = bytes(16)


@pytest.fixture
def store() -> MemoryMetadata:
    return MemoryMetadata()


@pytest.fixture
async def plane(store: MemoryMetadata) -> AsyncGenerator[Plane, None]:
    async with metadata_plane(store=store) as made:
        yield made


async def ask(plane: Plane, version: int, **fields: Any) -> Message:
    return await plane.call(metadata.handle, ApiKey.METADATA, version, **fields)


def named(*names: str | None) -> list[Message]:
    return [Message(name=name) for name in names]


def codes(response: Message) -> dict[str, int]:
    return {topic.name: topic.error_code for topic in response.topics}


@pytest.mark.parametrize("version", VERSIONS)
async def test_every_version_tells_brokers_topics_and_leaders(plane: Plane, version: int) -> None:
    topic_id = await plane.create("t", 2)
    response = await ask(plane, version, topics=named("t"))
    (broker,) = response.brokers
    assert (broker.node_id, broker.host, broker.port) == (NODE_ID, "broker.example", 9092)
    (topic,) = response.topics
    assert (topic.error_code, topic.name) == (ErrorCode.NONE, "t")
    assert [(p.partition_index, p.leader_id, p.error_code) for p in topic.partitions] == [
        (0, NODE_ID, 0),
        (1, NODE_ID, 0),
    ]
    assert list(topic.partitions[0].replica_nodes) == list(topic.partitions[0].isr_nodes) == [NODE_ID]
    if version >= 1:
        assert response.controller_id == NODE_ID
        assert topic.is_internal is False
    if version >= 2:
        assert response.cluster_id == plane.cluster_id
    if version >= 7:
        assert topic.partitions[0].leader_epoch == 0
    if version >= 10:
        assert topic.topic_id == topic_id


@pytest.mark.parametrize("version", VERSIONS)
async def test_an_empty_list_means_all_in_version_0_and_none_later(plane: Plane, version: int) -> None:
    await plane.create("t")
    response = await ask(plane, version, topics=[])
    assert len(response.topics) == (1 if version == 0 else 0)
    if version >= 1:
        assert len((await ask(plane, version, topics=None)).topics) == 1


async def test_all_topics_makes_none(plane: Plane, store: MemoryMetadata) -> None:
    revision = store.revision
    await ask(plane, 9, topics=None)
    await ask(plane, 0, topics=[])
    assert store.revision == revision


@pytest.mark.parametrize("version", VERSIONS)
async def test_an_unknown_topic_is_made_and_can_be_used_at_once(plane: Plane, version: int) -> None:
    response = await ask(plane, version, topics=named("new"))
    assert codes(response) == {"new": ErrorCode.NONE}
    topic = plane.image.topic("new")
    assert topic is not None
    assert plane.partitions.waited_for == [topic.topic_id]


@pytest.mark.parametrize("version", [v for v in VERSIONS if v >= 4])
async def test_nothing_is_made_for_a_client_that_forbids_it(plane: Plane, version: int) -> None:
    response = await ask(plane, version, topics=named("new"), allow_auto_topic_creation=False)
    assert codes(response) == {"new": ErrorCode.UNKNOWN_TOPIC_OR_PARTITION}
    assert list(plane.image.topics) == []


async def test_nothing_is_made_where_the_setting_forbids_it() -> None:
    async with metadata_plane({"auto.create.topics.enable": "false"}) as plane:
        response = await ask(plane, 9, topics=named("new"))
        assert codes(response) == {"new": ErrorCode.UNKNOWN_TOPIC_OR_PARTITION}
        assert list(plane.image.topics) == []


async def test_bad_and_internal_names_are_not_made(plane: Plane) -> None:
    response = await ask(plane, 9, topics=named("../x", "__consumer_offsets", "x" * 250))
    assert codes(response) == {
        "../x": ErrorCode.INVALID_TOPIC_EXCEPTION,
        "__consumer_offsets": ErrorCode.UNKNOWN_TOPIC_OR_PARTITION,
        "x" * 250: ErrorCode.INVALID_TOPIC_EXCEPTION,
    }
    assert list(plane.image.topics) == []


async def test_a_topic_that_is_not_ready_in_time_is_asked_for_again(autojump_clock: MockClock) -> None:
    async with metadata_plane() as plane:
        plane.partitions.stuck = True
        response = await ask(plane, 9, topics=named("new"))
        assert codes(response) == {"new": ErrorCode.NONE}, "it is in the image by then, and led"
        assert trio.current_time() > 0


async def test_a_failing_store_makes_the_client_ask_again(plane: Plane, store: MemoryMetadata) -> None:
    store.fail_next(Fault.UNAVAILABLE)
    response = await ask(plane, 9, topics=named("new"))
    assert codes(response) == {"new": ErrorCode.LEADER_NOT_AVAILABLE}


async def test_too_few_brokers_for_the_default_factor_is_told() -> None:
    async with metadata_plane({"default.replication.factor": "3"}) as plane:
        response = await ask(plane, 9, topics=named("new"))
        assert codes(response) == {"new": ErrorCode.INVALID_REPLICATION_FACTOR}


async def test_two_clients_that_want_the_same_new_topic_get_one(plane: Plane) -> None:
    answers: list[int] = []

    async def want() -> None:
        answers.append(codes(await ask(plane, 9, topics=named("new")))["new"])

    async with trio.open_nursery() as nursery:
        for _ in range(3):
            nursery.start_soon(want)
    assert set(answers) <= {ErrorCode.NONE, ErrorCode.LEADER_NOT_AVAILABLE}
    assert ErrorCode.NONE in answers
    assert codes(await ask(plane, 9, topics=named("new"))) == {"new": ErrorCode.NONE}


async def test_a_topic_named_twice_is_answered_once(plane: Plane) -> None:
    await plane.create("t")
    assert len((await ask(plane, 9, topics=named("t", "t"))).topics) == 1


# By id.


@pytest.mark.parametrize("version", [12, 13])
async def test_topics_are_found_by_id(plane: Plane, version: int) -> None:
    topic_id = await plane.create("t")
    unknown = bytes([7] * 16)
    wanted = [Message(name=None, topic_id=topic_id), Message(name=None, topic_id=unknown)]
    found, missing = (await ask(plane, version, topics=wanted)).topics
    assert (found.name, found.topic_id, found.error_code) == ("t", topic_id, ErrorCode.NONE)
    assert (missing.name, missing.topic_id) == (None, unknown)
    assert missing.error_code == ErrorCode.UNKNOWN_TOPIC_ID
    assert list(plane.image.topics) == ["t"], "an id makes no topic"


@pytest.mark.parametrize("version", [10, 11])
async def test_ids_mean_nothing_before_version_12(plane: Plane, version: int) -> None:
    topic_id = await plane.create("t")
    by_name, by_id = (
        await ask(
            plane,
            version,
            topics=[Message(name="t", topic_id=bytes([7] * 16)), Message(name=None, topic_id=topic_id)],
        )
    ).topics
    assert (by_name.name, by_name.error_code) == ("t", ErrorCode.NONE)
    assert by_id.error_code == ErrorCode.INVALID_REQUEST


@pytest.mark.parametrize("version", [10, 12])
async def test_neither_name_nor_id_is_an_error(plane: Plane, version: int) -> None:
    (topic,) = (await ask(plane, version, topics=named(None))).topics
    assert topic.error_code in (ErrorCode.INVALID_REQUEST, ErrorCode.UNKNOWN_TOPIC_ID)


# Who sees what.


@pytest.mark.parametrize("version", [v for v in VERSIONS if v >= 8])
async def test_authorized_operations_only_on_request(plane: Plane, version: int) -> None:
    await plane.create("t")
    silent = await ask(plane, version, topics=named("t"))
    assert silent.topics[0].topic_authorized_operations == -(2**31)
    fields = {"include_cluster_authorized_operations": True} if version <= 10 else {}
    asked = await ask(plane, version, topics=named("t"), include_topic_authorized_operations=True, **fields)
    assert asked.topics[0].topic_authorized_operations == 0b110111111000 & ~(1 << 9)
    if version <= 10:
        assert silent.cluster_authorized_operations == -(2**31)
        assert asked.cluster_authorized_operations > 0


async def test_brokers_are_told_by_the_listener_that_was_asked(plane: Plane, store: MemoryMetadata) -> None:
    inside_only = BrokerRegistration("x", {"INSIDE": Endpoint("10.0.0.2", 1)}, "r2", "d")
    await store.transact([], [Put(keys.broker_key(2), keys.encode_broker(inside_only))])
    await register_broker(store, 3, rack="r3")
    await plane.watch.wait_for(store.revision)
    response = await ask(plane, 9, topics=[])
    assert [(b.node_id, b.host, b.rack) for b in response.brokers] == [
        (NODE_ID, "broker.example", None),
        (3, "broker3.example", "r3"),
    ]
    assert LISTENER == "PLAINTEXT"


@pytest.mark.parametrize(
    ("version", "code"), [(5, ErrorCode.LEADER_NOT_AVAILABLE), (6, ErrorCode.LISTENER_NOT_FOUND)]
)
async def test_a_leader_without_the_listener(
    plane: Plane, store: MemoryMetadata, version: int, code: ErrorCode
) -> None:
    topic_id = await plane.create("t")
    inside_only = BrokerRegistration("x", {"INSIDE": Endpoint("10.0.0.2", 1)}, None, "d")
    state = PartitionState((2, NODE_ID), (2, NODE_ID), 2, 1)
    await store.transact(
        [],
        [
            Put(keys.broker_key(2), keys.encode_broker(inside_only)),
            Put(keys.partition_key(topic_id, 0), keys.encode_partition(state)),
        ],
    )
    await plane.watch.wait_for(store.revision)
    (partition,) = (await ask(plane, version, topics=named("t"))).topics[0].partitions
    assert (partition.error_code, partition.leader_id) == (code, -1)
    assert list(partition.offline_replicas) == [2]


@pytest.mark.parametrize("leader", [-1, 9])
async def test_a_partition_whose_leader_is_dead(plane: Plane, store: MemoryMetadata, leader: int) -> None:
    topic_id = await plane.create("t")
    state = PartitionState((9, NODE_ID), (9,), leader, 3)
    await store.transact([], [Put(keys.partition_key(topic_id, 0), keys.encode_partition(state))])
    await plane.watch.wait_for(store.revision)
    (partition,) = (await ask(plane, 9, topics=named("t"))).topics[0].partitions
    assert (partition.error_code, partition.leader_id) == (ErrorCode.LEADER_NOT_AVAILABLE, -1)
    assert (partition.leader_epoch, list(partition.offline_replicas)) == (3, [9])
