"""The metrics over HTTP: what a monitor is told of a bounded backlog, and what those are told who ask wrongly, or not at all."""

import pytest
import trio
from tests.support.memory_server import HOST, MemoryServer, memory_server
from trio.testing import MockClock

from penstock.broker.broker_config import BrokerConfig
from penstock.broker.errors import ConfigError
from penstock.broker.metrics.endpoint import CONNECTIONS_MAX, DEADLINE_S, HEAD_SIZE_BYTES_MAX
from penstock.client.admin import Admin
from penstock.client.admin_values import NewTopic
from penstock.client.errors import BacklogFull
from penstock.client.group_values import OffsetAndMetadata
from penstock.client.metadata import TopicPartition
from penstock.producer.producer import Producer
from penstock.runtime.network import ConnectionLost, Stream

PORT = 9644
LISTENER = f"{HOST}:{PORT}"
GROUP, ESCAPED_GROUP = 'a "g" \\', r"a \"g\" \\"


async def received(stream: Stream) -> str:
    """All that comes until the end."""
    told, buffer = bytearray(), bytearray(4096)
    try:
        while count := await stream.receive_into(buffer):
            told += buffer[:count]
    except ConnectionLost:
        pass
    return told.decode()


async def asked(server: MemoryServer, request: bytes) -> tuple[str, str]:
    """The status line and the body of the answer."""
    stream = await server.client(f"monitor-{len(server.hosts)}").network.connect(HOST, PORT)
    await stream.send_all([request])
    head, _, body = (await received(stream)).partition("\r\n\r\n")
    stream.close()
    return head.partition("\r\n")[0], body


async def test_a_monitor_is_told_backlog_refusals_and_what_is_kept_for_whom(
    autojump_clock: MockClock,
) -> None:
    configs = {
        "backlog.groups": GROUP,
        "backlog.max.records": "10",
        "retention.keep.unconsumed": "true",
        "retention.ms": "1000",
        "segment.ms": "1000",
    }
    async with (
        memory_server(metrics_listener=LISTENER) as server,
        Admin(server.bootstrap, server.client("admin")) as admin,
        Producer(server.bootstrap, environment=server.client("producer")) as producer,
    ):
        await admin.create_topics(
            [
                NewTopic(name="orders", partition_count=1, configs=configs),
                NewTopic(name="free", partition_count=1),
            ]
        )
        await producer.send_many("orders", [b"v"] * 6, partition=0)
        await admin.alter_group_offsets(GROUP, {TopicPartition("orders", 0): OffsetAndMetadata(2)})
        with pytest.raises(BacklogFull):
            await producer.send_many("orders", [b"v"] * 7, partition=0)
        await trio.sleep(60)  # retention looks after 30 s
        status, body = await asked(server, b"GET /metrics HTTP/1.1\r\nHost: h\r\n\r\n")
        assert status == "HTTP/1.1 200 OK"
        samples = dict(line.rsplit(" ", 1) for line in body.splitlines() if line[0] != "#")
        place = 'topic="orders",partition="0"'
        assert samples.pop(next(name for name in samples if name.startswith("penstock_broker_info{"))) == "1"
        assert samples == {
            f"penstock_backlog_records{{{place}}}": "4",
            f"penstock_backlog_max_records{{{place}}}": "10",
            f"penstock_backlog_refused_records_total{{{place}}}": "7",
            f"penstock_backlog_refused_batches_total{{{place}}}": "1",
            f"penstock_backlog_held_batches{{{place}}}": "0",
            f"penstock_backlog_held_bytes{{{place}}}": "0",
            f"penstock_backlog_timed_out_batches_total{{{place}}}": "0",
            f"penstock_backlog_throttled_seconds_total{{{place}}}": "0.0",
            f'penstock_retention_kept_bytes{{{place},group="{ESCAPED_GROUP}"}}': "109",
            f'penstock_retention_kept_segments{{{place},group="{ESCAPED_GROUP}"}}': "1",
            f'penstock_retention_kept_since_timestamp_seconds{{{place},group="{ESCAPED_GROUP}"}}': "1700000030.0",
        }
        for name in {name.partition("{")[0] for name in samples}:
            kind = "counter" if name.endswith("_total") else "gauge"
            assert body.count(f"# TYPE {name} {kind}\n") == body.count(f"# HELP {name} ") == 1


@pytest.mark.parametrize(
    ("request_bytes", "status"),
    [
        (b"GET / HTTP/1.1\r\n\r\n", "404 Not Found"),
        (b"POST /metrics HTTP/1.1\r\n\r\n", "405 Method Not Allowed"),
        (b"\0\0\0\x12\r\n\r\n", "400 Bad Request"),
        (b"GET /metrics HTTP/1.1\r\n" + bytes(HEAD_SIZE_BYTES_MAX), "431 Request Header Fields Too Large"),
    ],
)
async def test_a_wrong_question_is_answered_and_the_connection_ends(
    autojump_clock: MockClock, request_bytes: bytes, status: str
) -> None:
    async with memory_server(metrics_listener=LISTENER) as server:
        assert (await asked(server, request_bytes))[0] == f"HTTP/1.1 {status}"


async def test_those_who_ask_nothing_are_few_and_not_for_long(autojump_clock: MockClock) -> None:
    async with memory_server(metrics_listener=LISTENER) as server:
        network = server.client("idle").network
        idle = [await network.connect(HOST, PORT) for _ in range(CONNECTIONS_MAX)]
        await trio.sleep(1)
        assert await received(await network.connect(HOST, PORT)) == ""
        assert trio.current_time() < DEADLINE_S
        assert [await received(stream) for stream in idle] == [""] * CONNECTIONS_MAX
        assert (await asked(server, b"HEAD /metrics HTTP/1.1\r\n\r\n")) == ("HTTP/1.1 200 OK", "")


def test_an_address_that_is_none_is_refused_before_the_start() -> None:
    with pytest.raises(ConfigError, match=r"metrics.listener: '9644' is not of the form host:port"):
        BrokerConfig.from_properties({"metrics.listener": "9644"})
