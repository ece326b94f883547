"""`penstock topic describe` on a topic with a bounded backlog: who is behind, by how much, and what is kept for that."""

import pytest
import trio
from tests.support.memory_server import memory_server
from trio.testing import MockClock

from penstock.cli import topic_description
from penstock.client.admin import Admin
from penstock.client.admin_values import NewTopic
from penstock.client.group_values import OffsetAndMetadata
from penstock.client.metadata import TopicPartition
from penstock.producer.producer import Producer

CONFIGS = {
    "backlog.groups": "*",
    "backlog.max.records": "100",
    "retention.keep.unconsumed": "true",
    "retention.ms": "60000",
}


@pytest.mark.parametrize("groups", ["*", "fast, slow"])
async def test_the_slowest_group_and_what_is_kept_for_it_are_shown(
    groups: str, autojump_clock: MockClock, capsys: pytest.CaptureFixture[str]
) -> None:
    async with (
        memory_server() as server,
        Admin(server.bootstrap, server.client("admin")) as admin,
        Producer(server.bootstrap, environment=server.client("producer")) as producer,
    ):
        clock = server.client("admin").clock
        topic = NewTopic(name="orders", partition_count=2, configs={**CONFIGS, "backlog.groups": groups})
        await admin.create_topics([topic])
        place = TopicPartition("orders", 0)
        await producer.send_many("orders", [b"v"] * 10, partition=0)
        await admin.alter_group_offsets("slow", {place: OffsetAndMetadata(3)})
        await admin.alter_group_offsets("fast", {place: OffsetAndMetadata(8)})
        await trio.sleep(100)
        await producer.send_many("orders", [b"v"] * 5, partition=0)
        found = await topic_description.ask(admin, ["orders"], clock.wall_ms())
        assert not found.errors
        topic_description.show(found.topics, all_configs=False, as_json=False)
        shown = capsys.readouterr().out
        assert (
            "PARTITION  UNCONSUMED  OF AT MOST  BY GROUP  KEPT PAST RETENTION\n"
            "        0          12         100  slow                        7\n"
        ) in shown


async def test_nothing_is_shown_where_no_group_counts(
    autojump_clock: MockClock, capsys: pytest.CaptureFixture[str]
) -> None:
    async with memory_server() as server, Admin(server.bootstrap, server.client("admin")) as admin:
        await admin.create_topics([NewTopic(name="orders", partition_count=1, configs=CONFIGS)])
        found = await topic_description.ask(admin, ["orders"], 0)
        assert not found.errors
        topic_description.show(found.topics, all_configs=False, as_json=False)
        assert "UNCONSUMED" not in capsys.readouterr().out
