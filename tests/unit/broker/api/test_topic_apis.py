"""CreateTopics, DeleteTopics, CreatePartitions, DescribeTopicPartitions: entries stand or fall by themselves."""

from collections.abc import AsyncGenerator
from typing import Any

import pytest
import trio
from tests.support.memory_metadata import MemoryMetadata
from tests.support.metadata_plane import NODE_ID, Plane, metadata_plane
from trio.testing import MockClock

from penstock.broker.api import (
    create_partitions,
    create_topics,
    delete_topics,
    describe_topic_partitions,
)
from penstock.broker.config_table import ConfigSource
from penstock.protocol.api import SERVED, ApiKey
from penstock.protocol.errors import ErrorCode
from penstock.protocol.message import Message

CREATE_VERSIONS = SERVED[ApiKey.CREATE_TOPICS].versions
DELETE_VERSIONS = SERVED[ApiKey.DELETE_TOPICS].versions
PARTITIONS_VERSIONS = SERVED[ApiKey.CREATE_PARTITIONS].versions


@pytest.fixture
def store() -> MemoryMetadata:
    return MemoryMetadata()


@pytest.fixture
async def plane(store: MemoryMetadata) -> AsyncGenerator[Plane, None]:
    async with metadata_plane(store=store) as made:
        yield made


def new_topic(name: str, count: int = 1, factor: int = 1, **fields: Any) -> Message:
    return Message(**({"name": name, "num_partitions": count, "replication_factor": factor} | fields))


async def create(plane: Plane, version: int, *topics: Message, **fields: Any) -> list[Message]:
    response = await plane.call(
        create_topics.handle, ApiKey.CREATE_TOPICS, version, topics=list(topics), **fields
    )
    found: list[Message] = response.topics
    return found


async def delete(plane: Plane, version: int, **fields: Any) -> list[Message]:
    response = await plane.call(delete_topics.handle, ApiKey.DELETE_TOPICS, version, **fields)
    found: list[Message] = response.responses
    return found


async def enlarge(plane: Plane, version: int, *topics: Message, **fields: Any) -> list[Message]:
    response = await plane.call(
        create_partitions.handle, ApiKey.CREATE_PARTITIONS, version, topics=list(topics), **fields
    )
    found: list[Message] = response.results
    return found


async def describe(plane: Plane, *names: str, **fields: Any) -> Message:
    topics = [Message(name=name) for name in names]
    return await plane.call(
        describe_topic_partitions.handle, ApiKey.DESCRIBE_TOPIC_PARTITIONS, 0, topics=topics, **fields
    )


# CreateTopics.


@pytest.mark.parametrize("version", CREATE_VERSIONS)
async def test_each_topic_stands_or_falls_by_itself(plane: Plane, version: int) -> None:
    good, bad = await create(
        plane,
        version,
        new_topic("good", 2, configs=[Message(name="retention.ms", value="5")]),
        new_topic("../x"),
    )
    assert (good.name, good.error_code, good.error_message) == ("good", ErrorCode.NONE, None)
    assert (bad.name, bad.error_code) == ("../x", ErrorCode.INVALID_TOPIC_EXCEPTION)
    assert bad.error_message
    topic = plane.image.topic("good")
    assert topic is not None, "seen by this broker before the answer"
    assert plane.partitions.waited_for == [topic.topic_id]
    if version >= 5:
        assert (good.num_partitions, good.replication_factor) == (2, 1)
        configs = {c.name: (c.value, c.config_source) for c in good.configs}
        assert configs["retention.ms"] == ("5", ConfigSource.DYNAMIC_TOPIC)
        assert configs["segment.bytes"] == ("1073741824", ConfigSource.DEFAULT)
        assert (bad.num_partitions, bad.replication_factor) == (-1, -1)
        assert list(bad.configs) == [], "a null is a NullPointerException in Java's client"
    if version >= 7:
        assert (good.topic_id, bad.topic_id) == (topic.topic_id, bytes(16))


async def test_a_topic_named_twice_is_refused_and_answered_once(plane: Plane) -> None:
    twice, other = await create(plane, 5, new_topic("t"), new_topic("u"), new_topic("t"))
    assert (twice.name, twice.error_code) == ("t", ErrorCode.INVALID_REQUEST)
    assert (other.name, other.error_code) == ("u", ErrorCode.NONE)
    assert list(plane.image.topics) == ["u"]


async def test_defaults_are_asked_for_with_minus_one(plane: Plane) -> None:
    (made,) = await create(plane, 5, new_topic("t", -1, -1))
    assert (made.error_code, made.num_partitions, made.replication_factor) == (ErrorCode.NONE, 1, 1)


async def test_checking_only_makes_nothing(plane: Plane) -> None:
    good, bad = await create(plane, 7, new_topic("t", 3), new_topic("u", 0), validate_only=True)
    assert (good.error_code, good.num_partitions, good.topic_id) == (ErrorCode.NONE, 3, bytes(16))
    assert bad.error_code == ErrorCode.INVALID_PARTITIONS
    assert list(plane.image.topics) == []


@pytest.mark.parametrize(
    "configs",
    [
        [Message(name="retention.ms", value=None)],
        [Message(name="retention.ms", value="1"), Message(name="retention.ms", value="2")],
        [Message(name="nope", value="1")],
    ],
)
async def test_configs_that_mean_nothing(plane: Plane, configs: list[Message]) -> None:
    (result,) = await create(plane, 5, new_topic("t", configs=configs))
    assert result.error_code == ErrorCode.INVALID_CONFIG
    assert result.error_message


async def test_replicas_by_hand(plane: Plane) -> None:
    by_hand = [Message(partition_index=index, broker_ids=[NODE_ID]) for index in (1, 0)]
    (made,) = await create(plane, 5, new_topic("t", -1, -1, assignments=by_hand))
    assert (made.error_code, made.num_partitions) == (ErrorCode.NONE, 2)


async def test_a_timeout_of_nothing_still_waits_a_little_and_is_no_failure(autojump_clock: MockClock) -> None:
    async with metadata_plane() as plane:
        plane.partitions.stuck = True
        (made,) = await create(plane, 5, new_topic("t"), timeout_ms=0)
        assert made.error_code == ErrorCode.NONE
        assert 0 < trio.current_time() <= 5


# DeleteTopics.


@pytest.mark.parametrize("version", DELETE_VERSIONS)
async def test_deleting_by_name(plane: Plane, version: int) -> None:
    topic_id = await plane.create("t")
    if version >= 6:
        wanted: dict[str, Any] = {"topics": [Message(name="t"), Message(name="nope")]}
    else:
        wanted = {"topic_names": ["t", "nope"]}
    gone, unknown = await delete(plane, version, **wanted)
    assert (gone.name, gone.error_code) == ("t", ErrorCode.NONE)
    assert (unknown.name, unknown.error_code) == ("nope", ErrorCode.UNKNOWN_TOPIC_OR_PARTITION)
    assert plane.image.topic("t") is None, "seen by this broker before the answer"
    if version >= 5:
        assert (gone.error_message is None, bool(unknown.error_message)) == (True, True)
    if version >= 6:
        assert gone.topic_id == topic_id


async def test_deleting_by_id(plane: Plane) -> None:
    topic_id = await plane.create("t")
    unknown = bytes([5] * 16)
    gone, missing = await delete(
        plane, 6, topics=[Message(name=None, topic_id=topic_id), Message(name=None, topic_id=unknown)]
    )
    assert (gone.name, gone.topic_id, gone.error_code) == ("t", topic_id, ErrorCode.NONE)
    assert (missing.name, missing.topic_id) == (None, unknown)
    assert missing.error_code == ErrorCode.UNKNOWN_TOPIC_ID


async def test_ambiguous_deletions_delete_nothing(plane: Plane) -> None:
    topic_id = await plane.create("t")
    both, neither = await delete(plane, 6, topics=[Message(name="t", topic_id=topic_id), Message(name=None)])
    assert both.error_code == neither.error_code == ErrorCode.INVALID_REQUEST
    (twice,) = await delete(plane, 6, topics=[Message(name="t"), Message(name="t")])
    assert twice.error_code == ErrorCode.INVALID_REQUEST
    assert plane.image.topic("t") is not None


@pytest.mark.parametrize(
    ("version", "code"), [(2, ErrorCode.INVALID_REQUEST), (3, ErrorCode.TOPIC_DELETION_DISABLED)]
)
async def test_deletion_switched_off(version: int, code: ErrorCode) -> None:
    async with metadata_plane({"delete.topic.enable": "false"}) as plane:
        await plane.create("t")
        (refused,) = await delete(plane, version, topic_names=["t"])
        assert refused.error_code == code


# CreatePartitions.


@pytest.mark.parametrize("version", PARTITIONS_VERSIONS)
async def test_partitions_are_added(plane: Plane, version: int) -> None:
    topic_id = await plane.create("t", 1)
    good, bad = await enlarge(
        plane,
        version,
        Message(name="t", count=3, assignments=None),
        Message(name="nope", count=3, assignments=None),
    )
    assert (good.name, good.error_code, good.error_message) == ("t", ErrorCode.NONE, None)
    assert (bad.name, bad.error_code) == ("nope", ErrorCode.UNKNOWN_TOPIC_OR_PARTITION)
    assert bad.error_message
    assert len(plane.image.partitions(topic_id)) == 3
    assert plane.partitions.waited_for[-1] == topic_id


async def test_replicas_of_new_partitions_by_hand(plane: Plane) -> None:
    topic_id = await plane.create("t", 1)
    by_hand = [Message(broker_ids=[NODE_ID]), Message(broker_ids=[NODE_ID])]
    (made,) = await enlarge(plane, 3, Message(name="t", count=3, assignments=by_hand))
    assert made.error_code == ErrorCode.NONE
    assert len(plane.image.partitions(topic_id)) == 3
    (refused,) = await enlarge(plane, 3, Message(name="t", count=5, assignments=by_hand[:1]))
    assert refused.error_code == ErrorCode.INVALID_REPLICA_ASSIGNMENT


async def test_enlarging_twice_in_one_request_or_checking_only_adds_nothing(plane: Plane) -> None:
    topic_id = await plane.create("t", 1)
    entry = Message(name="t", count=3, assignments=None)
    (twice,) = await enlarge(plane, 3, entry, entry)
    assert twice.error_code == ErrorCode.INVALID_REQUEST
    (checked,) = await enlarge(plane, 3, entry, validate_only=True)
    assert checked.error_code == ErrorCode.NONE
    assert len(plane.image.partitions(topic_id)) == 1


# DescribeTopicPartitions.


async def test_pages_follow_each_other_without_gap_or_overlap(plane: Plane) -> None:
    for name, count in (("b", 5), ("a", 2), ("c", 1)):
        await plane.create(name, count)
    seen: list[tuple[str, int]] = []
    cursor: Message | None = None
    page_count = 0
    while page_count < 5:
        page = await describe(plane, response_partition_limit=2, cursor=cursor)
        page_count += 1
        on_page = [(topic.name, p.partition_index) for topic in page.topics for p in topic.partitions]
        assert len(on_page) <= 2
        seen += on_page
        cursor = page.next_cursor
        if cursor is None:
            break
    assert seen == [("a", 0), ("a", 1), *[("b", index) for index in range(5)], ("c", 0)]
    assert page_count == 4


async def test_lists_are_empty_and_never_null(plane: Plane) -> None:
    topic_id = await plane.create("a")
    (topic,) = (await describe(plane, "a")).topics
    assert (topic.topic_id, topic.error_code, topic.is_internal) == (topic_id, ErrorCode.NONE, False)
    (partition,) = topic.partitions
    assert (partition.leader_id, partition.leader_epoch) == (NODE_ID, 0)
    assert list(partition.eligible_leader_replicas) == list(partition.last_known_elr) == []
    assert partition.eligible_leader_replicas is not None
    assert partition.last_known_elr is not None


async def test_unknown_and_bad_names_are_answered_each(plane: Plane) -> None:
    await plane.create("a")
    page = await describe(plane, "nope", "a", "../x")
    assert [(topic.name, topic.error_code) for topic in page.topics] == [
        ("../x", ErrorCode.INVALID_TOPIC_EXCEPTION),
        ("a", ErrorCode.NONE),
        ("nope", ErrorCode.UNKNOWN_TOPIC_OR_PARTITION),
    ]


async def test_a_cursor_at_a_topic_that_is_gone_goes_on_with_the_next(plane: Plane) -> None:
    await plane.create("a")
    await plane.create("c", 2)
    page = await describe(plane, cursor=Message(topic_name="b", partition_index=1))
    assert [(topic.name, len(topic.partitions)) for topic in page.topics] == [("c", 2)]


@pytest.mark.parametrize(
    ("names", "cursor"),
    [(("a",), Message(topic_name="b", partition_index=0)), ((), Message(topic_name="a", partition_index=-1))],
)
async def test_a_cursor_that_means_nothing(plane: Plane, names: tuple[str, ...], cursor: Message) -> None:
    await plane.create("a")
    page = await describe(plane, *names, cursor=cursor)
    assert [topic.error_code for topic in page.topics] == [ErrorCode.INVALID_REQUEST]


async def test_the_brokers_own_limit_holds_and_a_limit_below_one_is_one() -> None:
    async with metadata_plane({"max.request.partition.size.limit": "2"}) as plane:
        await plane.create("a", 5)
        for asked, given in ((100, 2), (0, 1), (-5, 1)):
            page = await describe(plane, "a", response_partition_limit=asked)
            assert len(page.topics[0].partitions) == given
            assert page.next_cursor.partition_index == given
