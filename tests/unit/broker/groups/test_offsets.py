"""Committed offsets through the handlers of a whole broker in memory."""

from typing import Any

import pytest
import trio
import trio.testing
from tests.support.batches import encode_batch
from tests.support.group_calls import GroupCalls
from tests.support.memory_broker import memory_broker

from penstock.broker.errors import ApiError
from penstock.broker.groups.offsets_topic import OFFSETS_TOPIC, java_hash, partition_for
from penstock.protocol.api import ApiKey
from penstock.protocol.errors import ErrorCode
from penstock.protocol.message import Message
from penstock.protocol.record_batch import iterate_batches

UNKNOWN_GROUP = "nobody"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", 0),
        ("a", 97),
        ("hello", 99162322),
        ("polygenelubricants", -(2**31)),
        ("é\U0001f600", 233 * 31**2 + 0xD83D * 31 + 0xDE00),
    ],
)
def test_groups_are_hashed_as_java_does_or_tools_look_at_the_wrong_partition(
    text: str, expected: int
) -> None:
    assert java_hash(text) == expected
    assert 0 <= partition_for(text, 50) < 50


async def test_a_commit_is_what_every_later_fetch_returns_until_it_is_replaced() -> None:
    async with memory_broker() as memory:
        groups = GroupCalls(memory)
        await memory.create("orders", 2)
        await groups.find()
        assert await groups.commit("g", {0: 7, 1: 9}, metadata="note") == [0, 0]
        assert await groups.commit("g", {0: 8}) == [0]
        assert [await groups.committed(partition=index) for index in (0, 1)] == [8, 9]
        everything = await groups.call(ApiKey.OFFSET_FETCH, groups=[Message(group_id="g", topics=None)])
        partitions = everything.groups[0].topics[0].partitions
        assert [(p.partition_index, p.committed_offset, p.metadata) for p in partitions] == [
            (0, 8, ""),
            (1, 9, "note"),
        ]


async def test_nothing_committed_is_minus_one_without_an_error() -> None:
    async with memory_broker() as memory:
        groups = GroupCalls(memory)
        await memory.create("orders")
        await groups.find()
        assert await groups.committed(UNKNOWN_GROUP) == -1
        assert await groups.committed(UNKNOWN_GROUP, "no-such-topic") == -1
        assert await groups.states() == {}, "asking makes no group"


@pytest.mark.parametrize("version", range(1, 11))
async def test_every_version_of_fetch_has_the_offset(version: int) -> None:
    async with memory_broker() as memory:
        groups = GroupCalls(memory)
        topic_id = await memory.create("orders")
        await groups.find()
        await groups.commit()
        topic = Message(name="orders", partition_indexes=[0])
        if version >= 10:
            topic = Message(topic_id=topic_id, partition_indexes=[0])
        if version >= 8:
            answer = await groups.call(
                ApiKey.OFFSET_FETCH, version, groups=[Message(group_id="g", topics=[topic])]
            )
            answer = answer.groups[0]
        else:
            answer = await groups.call(ApiKey.OFFSET_FETCH, version, group_id="g", topics=[topic])
        assert answer.error_code == 0
        assert [p.committed_offset for p in answer.topics[0].partitions] == [7]


async def test_commits_by_topic_id_are_found_by_name_and_unknown_ids_are_told() -> None:
    async with memory_broker() as memory:
        groups = GroupCalls(memory)
        topic_id = await memory.create("orders")
        await groups.find()
        partition = Message(partition_index=0, committed_offset=5)
        answer = await groups.call(
            ApiKey.OFFSET_COMMIT,
            10,
            group_id="g",
            topics=[
                Message(topic_id=topic_id, partitions=[partition]),
                Message(topic_id=b"?" * 16, partitions=[partition]),
            ],
        )
        codes = [topic.partitions[0].error_code for topic in answer.topics]
        assert codes == [0, ErrorCode.UNKNOWN_TOPIC_ID]
        assert await groups.committed() == 5


async def test_refusals_are_by_partition_and_the_rest_is_committed() -> None:
    async with memory_broker(offset_metadata_max_bytes="4") as memory:
        groups = GroupCalls(memory)
        await memory.create("orders")
        await groups.find()
        assert await groups.commit("g", {0: 1, 9: 1}) == [0, ErrorCode.UNKNOWN_TOPIC_OR_PARTITION]
        assert await groups.commit("g", topic="none") == [ErrorCode.UNKNOWN_TOPIC_OR_PARTITION]
        assert await groups.commit("g", {0: 2}, metadata="12345") == [ErrorCode.OFFSET_METADATA_TOO_LARGE]
        assert await groups.committed() == 1


@pytest.mark.parametrize(("version", "code"), [(8, 22), (9, 69)])
async def test_a_generation_of_a_group_that_is_not_there_is_refused(version: int, code: int) -> None:
    async with memory_broker() as memory:
        groups = GroupCalls(memory)
        await memory.create("orders")
        await groups.find()
        more: dict[str, Any] = {"generation_id_or_member_epoch": 3, "member_id": "m"}
        assert await groups.commit(UNKNOWN_GROUP, version=version, **more) == [code]
        assert await groups.states() == {}


async def test_without_the_offsets_topic_clients_are_sent_to_look_for_the_coordinator() -> None:
    async with memory_broker() as memory:
        groups = GroupCalls(memory)
        await memory.create("orders")
        assert await groups.commit() == [ErrorCode.NOT_COORDINATOR]


async def test_an_offset_is_not_seen_before_it_is_on_disk() -> None:
    async with memory_broker() as memory:
        groups = GroupCalls(memory)
        await memory.create("orders")
        await groups.find()
        await groups.commit("g", {0: 1})
        memory.threads.hold("sync")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(groups.commit, "g", {0: 2})
            await trio.testing.wait_all_tasks_blocked()
            assert await groups.committed() == 1
            memory.threads.release_all()
        assert await groups.committed() == 2


async def test_commits_that_come_together_share_one_batch() -> None:
    async with memory_broker() as memory:
        groups = GroupCalls(memory)
        await memory.create("orders")
        await groups.find()
        await groups.commit()
        partition = groups.shard("g").partition
        async with trio.open_nursery() as nursery:
            for offset in range(20):
                nursery.start_soon(groups.commit, "g", {0: offset})
            await trio.lowlevel.checkpoint()
        end = partition.log.log_end_offset
        with partition.log.read(0, 1 << 20, end, resident_only=False) as found:
            appended = [header.record_count for header, _ in iterate_batches(found.read())]
        assert sum(appended) == 21
        assert len(appended) <= 4, appended


async def test_a_commit_too_large_for_a_batch_fails_alone() -> None:
    async with memory_broker(offset_metadata_max_bytes="5000", message_max_bytes="1500") as memory:
        groups = GroupCalls(memory)
        await memory.create("orders")
        await groups.find()
        codes: dict[str, list[int]] = {}

        async def commit(name: str, metadata: str) -> None:
            codes[name] = await groups.commit("g", {0: len(metadata)}, metadata=metadata)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(commit, "small", "s")
            nursery.start_soon(commit, "large", "l" * 3000)
            nursery.start_soon(commit, "medium", "m" * 900)
        assert codes == {"small": [0], "medium": [0], "large": [ErrorCode.INVALID_COMMIT_OFFSET_SIZE]}


async def test_a_deleted_topic_takes_its_offsets_with_it() -> None:
    async with memory_broker() as memory:
        groups = GroupCalls(memory)
        await memory.create("orders")
        await memory.create("other")
        await groups.find()
        await groups.commit()
        await groups.commit(topic="other")
        await memory.delete("orders")
        await trio.testing.wait_all_tasks_blocked()
        await memory.create("orders")
        assert await groups.committed() == -1, "the offset was of another topic of that name"
        assert await groups.committed(topic="other") == 7


async def test_offset_delete_spares_what_members_are_subscribed_to() -> None:
    async with memory_broker() as memory:
        groups = GroupCalls(memory)
        await memory.create("orders", 2)
        await memory.create("other")
        await groups.find()
        await groups.commit("g", {0: 1, 1: 1})
        await groups.commit(topic="other")
        await groups.become_member()

        async def delete(group: str, topic: str, *indexes: int) -> Message:
            partitions = [Message(partition_index=index) for index in indexes]
            return await groups.call(
                ApiKey.OFFSET_DELETE, group_id=group, topics=[Message(name=topic, partitions=partitions)]
            )

        subscribed = await delete("g", "orders", 0)
        assert subscribed.topics[0].partitions[0].error_code == ErrorCode.GROUP_SUBSCRIBED_TO_TOPIC
        free = await delete("g", "other", 0, 5)
        assert [p.error_code for p in free.topics[0].partitions] == [0, ErrorCode.UNKNOWN_TOPIC_OR_PARTITION]
        assert await groups.committed(topic="other") == -1
        assert await groups.committed() == 1
        assert (await delete(UNKNOWN_GROUP, "other", 0)).error_code == ErrorCode.GROUP_ID_NOT_FOUND


async def test_clients_neither_write_to_the_offsets_topic_nor_change_it() -> None:
    async with memory_broker() as memory:
        groups = GroupCalls(memory)
        await groups.find()
        produced = await memory.produced(
            OFFSETS_TOPIC, encode_batch([b"v"], key=b"k", timestamps_ms=[1_700_000_000_000])
        )
        assert produced[0].error_code == ErrorCode.INVALID_TOPIC_EXCEPTION
        topic = memory.broker.image.topic(OFFSETS_TOPIC)
        assert topic is not None
        with pytest.raises(ApiError, match="the broker's own"):
            await memory.broker.topics.delete(topic)
        with pytest.raises(ApiError, match="the broker's own"):
            await memory.broker.topics.create_partitions(OFFSETS_TOPIC, 60, None)
        assert await groups.states() == {}


async def test_a_commit_that_a_topic_made_anew_overtook_is_not_taken_for_the_new_topics() -> None:
    async with memory_broker() as memory:
        groups = GroupCalls(memory)
        await memory.create("orders")
        await groups.find()
        memory.threads.hold("sync")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(groups.commit)
            await trio.testing.wait_all_tasks_blocked()
            nursery.start_soon(memory.delete, "orders")
            await trio.testing.wait_all_tasks_blocked()
            memory.threads.release_all()
        await memory.create("orders")
        assert await groups.committed() == -1, "it was for a topic that is gone"
        everything = await groups.call(ApiKey.OFFSET_FETCH, groups=[Message(group_id="g", topics=None)])
        assert [p.committed_offset for topic in everything.groups[0].topics for p in topic.partitions] in (
            [],
            [-1],
        )
        assert await groups.commit("g", {0: 3}) == [0]
        assert await groups.committed() == 3
