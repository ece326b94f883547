"""Apache Kafka's own admin tools: the strictest clients of all. JVMs start slowly, so each test runs several at once."""

import json
import re
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from bench.peers.kafka import PeerFailed, Tool
from tests.support.clients import java, kcat
from tests.support.deadline import until
from tests.support.processes import RunningServer
from tests.support.topics import create_topic, fresh_name, list_offset, produce_values
from tests.support.wire import Connection

Run = Callable[..., str]


@pytest.fixture
def run(server: RunningServer) -> Run:
    """Run a tool against the shared broker; returns its stdout."""

    def call(tool: Tool, *arguments: str) -> str:
        return java.run(tool, "--bootstrap-server", server.bootstrap, *arguments).decode()

    return call


def together(*calls: Callable[[], str]) -> list[str]:
    """The outputs of independent tools, two JVMs at a time."""
    with ThreadPoolExecutor(2) as pool:
        return [each.result() for each in [pool.submit(call) for call in calls]]


def test_kafka_topics_creates_describes_and_deletes_nothing(run: Run, server: RunningServer) -> None:
    name = fresh_name("java")
    topic = ("--topic", name)
    created = run(Tool.TOPICS, "--create", *topic, "--partitions", "2", "--config", "retention.ms=1000000")
    assert f"Created topic {name}" in created
    listed, described = together(
        lambda: run(Tool.TOPICS, "--list"), lambda: run(Tool.TOPICS, "--describe", *topic)
    )
    assert name in listed.split()
    assert re.search(r"PartitionCount: 2\s+ReplicationFactor: 1", described)
    assert "retention.ms=1000000" in described
    assert len(re.findall(r"Partition: \d+\s+Leader: \d+\s+Replicas: \d+\s+Isr: \d+", described)) == 2
    run(Tool.TOPICS, "--alter", *topic, "--partitions", "5")
    until(
        lambda: len(kcat.metadata(server.bootstrap, name)["topics"][0]["partitions"]) == 5, "five partitions"
    )
    run(Tool.TOPICS, "--delete", *topic)
    with pytest.raises(PeerFailed, match="does not exist as expected"):
        run(Tool.TOPICS, "--describe", *topic)


def test_kafka_configs_alters_nothing(run: Run, connection: Connection) -> None:
    name = create_topic(connection, "java-configs", configs={"segment.ms": "8888888", "flush.ms": "9"})
    topic = ("--entity-type", "topics", "--entity-name", name)
    told = connection.request("metadata", 12, topics=[])
    broker = ("--entity-type", "brokers", "--entity-name", str(told.brokers[0].node_id))
    added = ("--add-config", "retention.ms=777,cleanup.policy=[compact,delete]")
    run(Tool.CONFIGS, "--alter", *topic, *added, "--delete-config", "flush.ms")
    described, everything, of_broker = together(
        lambda: run(Tool.CONFIGS, "--describe", *topic),
        lambda: run(Tool.CONFIGS, "--describe", "--all", *topic),
        lambda: run(Tool.CONFIGS, "--describe", "--all", *broker),
    )
    assert set(re.findall(r"^\s+([\w.]+=\S+)", described, re.MULTILINE)) == {
        "segment.ms=8888888",
        "retention.ms=777",
        "cleanup.policy=compact,delete",
    }
    assert "DYNAMIC_TOPIC_CONFIG:retention.ms=777" in described
    assert "min.insync.replicas=1" in everything
    assert "socket.request.max.bytes=" in of_broker


def test_kafka_get_offsets_tells_wrong_ones(run: Run, connection: Connection) -> None:
    name = create_topic(connection, "java-offsets", partitions=2)
    for value in (b"0", b"1", b"2"):
        produce_values(connection, name, value, partition=1)

    def offsets(time: str) -> Callable[[], str]:
        return lambda: run(Tool.GET_OFFSETS, "--topic-partitions", f"{name}:0-2", "--time", time)

    earliest, latest, newest, by_time = together(
        *map(offsets, ("earliest", "latest", "max-timestamp", "1000"))
    )
    assert earliest.split() == [f"{name}:0:0", f"{name}:1:0"]
    assert latest.split() == [f"{name}:0:0", f"{name}:1:3"]
    assert re.search(rf"^{name}:1:[012]$", newest, re.MULTILINE)
    assert f"{name}:1:0" in by_time.split()


def test_kafka_delete_records_deletes_none(run: Run, connection: Connection, tmp_path: Path) -> None:
    name = create_topic(connection, "java-delete")
    for value in (b"0", b"1", b"2"):
        produce_values(connection, name, value)
    wanted = {"version": 1, "partitions": [{"topic": name, "partition": 0, "offset": 2}]}
    path = tmp_path / "offsets.json"
    path.write_text(json.dumps(wanted))
    assert re.search(r"low_watermark: 2", run(Tool.DELETE_RECORDS, "--offset-json-file", str(path)))
    assert list_offset(connection, name, -2)[0] == 2


def test_kafka_log_dirs_sees_nothing(run: Run, server: RunningServer, connection: Connection) -> None:
    bounds = {
        "backlog.groups": "*",
        "backlog.max.records": "10",
    }  # so that there is a field of our own to be skipped
    name = create_topic(connection, "java-dirs", configs=bounds)
    produce_values(connection, name, b"x" * 1000)
    out = run(Tool.LOG_DIRS, "--describe", "--topic-list", name)
    told: Any = json.loads(out.strip().splitlines()[-1])
    (folder,) = told["brokers"][0]["logDirs"]
    assert (folder["error"], folder["logDir"]) == (None, str(server.data_directory))
    (partition,) = folder["partitions"]
    assert (partition["partition"], partition["offsetLag"], partition["isFuture"]) == (f"{name}-0", 0, False)
    assert partition["size"] > 1000


def test_other_tools_fail_on_what_is_not_advertised(run: Run, server: RunningServer) -> None:
    versions, cluster = together(
        lambda: run(Tool.BROKER_API_VERSIONS),
        lambda: java.run(Tool.CLUSTER, "cluster-id", "--bootstrap-server", server.bootstrap).decode(),
    )
    assert server.bootstrap in versions
    assert "Produce(0): 0 to" in versions
    assert "Cluster ID: " in cluster
