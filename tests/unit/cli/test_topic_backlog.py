"""What `penstock topic describe` and `penstock offsets` tell of a bounded backlog: who is behind, by how much, what was refused and what is kept."""

import pytest
import trio
from tests.support.memory_server import memory_server
from trio.testing import MockClock

from penstock.broker.partition_settings import HELD_OVERHEAD_BYTES
from penstock.cli import offsets_view, topic_backlog, topic_description
from penstock.cli.lag import Looker
from penstock.cli.output import print_table
from penstock.client.admin import Admin
from penstock.client.admin_values import NewTopic
from penstock.client.errors import BacklogFull
from penstock.client.group_values import OffsetAndMetadata
from penstock.client.metadata import TopicPartition
from penstock.producer.producer import Producer

PLACE = TopicPartition("orders", 0)
BOUNDS = {
    "backlog.groups": "fast, slow",
    "backlog.max.records": "12",
    "backlog.max.bytes": "100000",
    "backlog.max.age.ms": "3600000",
    "retention.keep.unconsumed": "true",
    "retention.ms": "60000",
    "segment.ms": "1000",
}


async def test_describe_and_offsets_tell_the_same_of_bound_refusals_and_what_is_kept(
    autojump_clock: MockClock, capsys: pytest.CaptureFixture[str]
) -> None:
    async with (
        memory_server() as server,
        Admin(server.bootstrap, server.client("admin")) as admin,
        Producer(server.bootstrap, environment=server.client("producer")) as producer,
    ):
        await admin.create_topics([NewTopic(name="orders", partition_count=2, configs=BOUNDS)])
        await producer.send_many("orders", [b"v"] * 10, partition=0)
        await admin.alter_group_offsets("slow", {PLACE: OffsetAndMetadata(3)})
        await admin.alter_group_offsets("fast", {PLACE: OffsetAndMetadata(8)})
        await trio.sleep(100)
        await producer.send_many("orders", [b"v"] * 5, partition=0)
        with pytest.raises(BacklogFull):
            await producer.send_many("orders", [b"v"] * 3, partition=0)
        assert server.broker is not None
        await server.broker.retention.check()
        await trio.sleep(20)

        found = await topic_description.ask(admin, ["orders"])
        topic_description.show(found.topics, all_configs=False, as_json=False)
        assert (
            "PARTITION  UNCONSUMED  OF AT MOST  BYTES  MAX BYTES     AGE  MAX AGE  BY GROUP  REFUSED  KEPT FOR IT  KEPT SINCE\n"
            "        0          12          12  242 B   100.0 kB  2m 00s   1h 00m  slow            3        141 B  2023-11-14T22:15:00Z\n"
            "        1           -          12      -   100.0 kB       -   1h 00m  -               0            -  -\n"
        ) in capsys.readouterr().out
        standing = await Looker(admin, server.clock, ("orders",)).look()
        print_table(*offsets_view.backlog_table(standing))
        assert (
            "orders          0          12          12  242 B   100.0 kB  2m 00s" in capsys.readouterr().out
        )
        first, second = (topic_backlog.as_json(each) or {} for each in standing.backlogs.values())
        assert (first["group"], first["unconsumed"], first["refused_batches"], first["refused_records"]) == (
            "slow",
            12,
            1,
            3,
        )
        assert (first["kept_segments"], first["kept_bytes"]) == (1, 141)
        assert first["age_ms"] in range(120_000, 120_100)
        assert (second["group"], second["unconsumed"], second["kept_since"]) == (None, None, None)


async def test_nothing_is_shown_of_a_topic_without_bounds(
    autojump_clock: MockClock, capsys: pytest.CaptureFixture[str]
) -> None:
    async with memory_server() as server, Admin(server.bootstrap, server.client("admin")) as admin:
        await admin.create_topics([NewTopic(name="orders", partition_count=1)])
        found = await topic_description.ask(admin, ["orders"])
        assert not found.errors
        topic_description.show(found.topics, all_configs=False, as_json=False)
        assert "UNCONSUMED" not in capsys.readouterr().out


async def test_what_waits_and_what_has_waited_too_long_is_counted(autojump_clock: MockClock) -> None:
    configs = {
        "backlog.groups": "*",
        "backlog.max.records": "4",
        "backlog.policy": "throttle",
    }
    async with (
        memory_server() as server,
        Admin(server.bootstrap, server.client("admin")) as admin,
        Producer(
            server.bootstrap, environment=server.client("producer"), request_timeout_ms=10_000
        ) as producer,
    ):
        await admin.create_topics([NewTopic(name="orders", partition_count=1, configs=configs)])
        await admin.alter_group_offsets("g", {PLACE: OffsetAndMetadata(0)})

        async def told() -> tuple[int, int, int, bool]:
            (topic,) = (await topic_description.ask(admin, ["orders"])).topics
            backlog = topic.backlogs[PLACE]
            return (
                backlog.held_batches,
                backlog.timed_out_batches,
                backlog.refused_records,
                backlog.throttled_ms > 0,
            )

        for _ in range(3):
            await producer.send("orders", b"v")
        assert await told() == (0, 0, 0, True)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(producer.send_many, "orders", [b"v"] * 2)
            await trio.sleep(3)
            assert await told() == (1, 0, 0, True)
            (topic,) = (await topic_description.ask(admin, ["orders"])).topics
            assert topic.backlogs[PLACE].held_bytes > HELD_OVERHEAD_BYTES
            await trio.sleep(20)
            assert (await told())[1] >= 1
            await admin.alter_group_offsets("g", {PLACE: OffsetAndMetadata(3)})
