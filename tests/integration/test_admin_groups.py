"""The group calls of the admin client, with a foreign client as the member, against Penstock and (PENSTOCK_TEST_PEER=kafka) Apache Kafka."""

import contextlib
import uuid
from collections.abc import Generator

import pytest
import trio
from confluent_kafka import Consumer
from tests.support.processes import RunningServer

from penstock.client.admin import Admin
from penstock.client.admin_values import NewTopic
from penstock.client.errors import BrokerError, GroupNotEmpty, UnknownGroup
from penstock.client.group_values import GroupDescription, GroupKind, GroupState, OffsetAndMetadata
from penstock.client.metadata import TopicPartition

LIMIT_S = 30


@contextlib.contextmanager
def member(bootstrap: str, group: str, topic: str, protocol: str) -> Generator[None]:
    """librdkafka as a member of a group that has joined and has its partitions."""
    consumer = Consumer(
        {
            "bootstrap.servers": bootstrap,
            "group.id": group,
            "group.protocol": protocol,
            "client.id": "foreign",
            "enable.auto.commit": False,
        }
    )
    consumer.subscribe([topic])
    for _ in range(LIMIT_S * 10):
        consumer.poll(0.1)
        if consumer.assignment():
            break
    try:
        yield
    finally:
        consumer.close()


@pytest.mark.parametrize(
    ("protocol", "kind"), [("classic", GroupKind.CLASSIC), ("consumer", GroupKind.CONSUMER)]
)
async def test_a_group_from_its_first_member_to_its_end(
    server: RunningServer, protocol: str, kind: GroupKind
) -> None:
    topic, group = (f"{name}-{uuid.uuid4().hex[:8]}" for name in ("admin", "group"))
    partitions = [TopicPartition(topic, index) for index in range(2)]
    with trio.fail_after(LIMIT_S * 2):
        async with Admin(server.bootstrap) as admin:
            await admin.create_topics([NewTopic(name=topic, partition_count=2)])
            with member(server.bootstrap, group, topic, protocol):
                described = (await admin.describe_groups([group]))[group]
                assert isinstance(described, GroupDescription)
                assert (described.kind, described.state) == (kind, GroupState.STABLE)
                assert [(each.client_id, each.client_host) for each in described.members] == [
                    ("foreign", "127.0.0.1")
                ]
                assert sorted(described.owners) == partitions
                assert described.coordinator == server.bootstrap
                assert described.protocol
                refused = await admin.alter_group_offsets(group, {partitions[0]: 1})
                assert isinstance(refused[partitions[0]], BrokerError)
                assert isinstance((await admin.delete_groups([group]))[group], GroupNotEmpty)
                listed = await admin.list_groups(states=[GroupState.STABLE], kinds=[kind])
                assert group in [each.group_id for each in listed]

            committed = OffsetAndMetadata(7, "note")
            wanted: dict[TopicPartition, int | OffsetAndMetadata] = {
                partitions[0]: committed,
                partitions[1]: 9,
            }
            assert await admin.alter_group_offsets(group, wanted) == dict.fromkeys(partitions)
            found = await admin.list_group_offsets(group, partitions)
            assert found == {partitions[0]: committed, partitions[1]: OffsetAndMetadata(9)}
            assert await admin.delete_group_offsets(group, partitions[:1]) == {partitions[0]: None}
            assert await admin.list_group_offsets(group) == {partitions[1]: OffsetAndMetadata(9)}
            assert await admin.delete_groups([group]) == {group: None}
            assert isinstance((await admin.describe_groups([group]))[group], UnknownGroup)
            assert isinstance((await admin.delete_groups([group]))[group], UnknownGroup)
            assert await admin.list_group_offsets(group, partitions) == dict.fromkeys(partitions)
