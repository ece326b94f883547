"""Consumer groups with Apache Kafka's own tools: its console consumer, kafka-consumer-groups, and kafka-dump-log on the offsets topic."""

import json
import re
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from bench.peers.kafka import Tool
from confluent_kafka import Consumer, TopicPartition
from tests.support.clients import java
from tests.support.deadline import until
from tests.support.processes import RunningServer
from tests.support.topics import create_topic, fresh_name, produce_values
from tests.support.wire import Connection

PARTITIONS = 2
COUNT = 10


class Tools:
    """kafka-consumer-groups against one broker."""

    def __init__(self, server: RunningServer) -> None:
        self.bootstrap = server.bootstrap

    def groups(self, *arguments: str) -> str:
        """Its stdout."""
        return java.run(Tool.CONSUMER_GROUPS, "--bootstrap-server", self.bootstrap, *arguments).decode()

    def together(self, *calls: tuple[str, ...]) -> list[str]:
        """Several at once: JVMs start slowly."""
        with ThreadPoolExecutor(2) as pool:
            return [each.result() for each in [pool.submit(self.groups, *call) for call in calls]]


@pytest.fixture
def tools(server: RunningServer) -> Tools:
    return Tools(server)


@pytest.fixture
def topic(connection: Connection) -> str:
    name = create_topic(connection, "java-groups", partitions=PARTITIONS)
    for index in range(PARTITIONS):
        produce_values(connection, name, *(b"%d" % number for number in range(COUNT)), partition=index)
    return name


@pytest.fixture
def committed_group(server: RunningServer, topic: str) -> str:
    """A group without members that has committed 4 and 7."""
    group = fresh_name("java")
    consumer = Consumer({"bootstrap.servers": server.bootstrap, "group.id": group})
    consumer.commit(offsets=[TopicPartition(topic, 0, 4), TopicPartition(topic, 1, 7)], asynchronous=False)
    consumer.close()
    return group


def rows(output: str, topic: str) -> dict[int, tuple[str, str, str]]:
    """Current offset, end and lag by partition, as --describe prints them."""
    found = re.findall(rf"{re.escape(topic)}\s+(\d+)\s+(\S+)\s+(\S+)\s+(\S+)", output)
    return {int(index): (current, end, lag) for index, current, end, lag in found}


def test_console_consumer_reads_a_group_to_its_end_twice(
    server: RunningServer, topic: str, tools: Tools
) -> None:
    group = fresh_name("console")
    read = ("--bootstrap-server", server.bootstrap, "--topic", topic, "--group", group)
    all_of_it = ("--from-beginning", "--max-messages", str(PARTITIONS * COUNT), "--timeout-ms", "20000")
    first = java.run(Tool.CONSOLE_CONSUMER, *read, *all_of_it)
    assert sorted(first.split()) == sorted(b"%d" % n for n in range(COUNT) for _ in range(PARTITIONS))
    described = tools.groups("--describe", "--group", group)
    assert rows(described, topic) == {index: ("10", "10", "0") for index in range(PARTITIONS)}


def test_a_group_is_listed_and_described_wrongly(tools: Tools, topic: str, committed_group: str) -> None:
    one = ("--group", committed_group)
    listed, states, described, state = tools.together(
        ("--list",), ("--list", "--state", "Empty"), ("--describe", *one), ("--describe", "--state", *one)
    )
    assert committed_group in listed.split()
    assert re.search(rf"^{committed_group}\s+Empty", states, re.MULTILINE)
    assert rows(described, topic) == {0: ("4", "10", "6"), 1: ("7", "10", "3")}
    assert re.search(rf"{committed_group}\s+\S+:\d+\s+\(1\)\s+.*Empty\s+.*0", state)


def test_members_are_described_without_their_partitions(
    server: RunningServer, tools: Tools, topic: str
) -> None:
    group = fresh_name("members")
    consumer = Consumer({"bootstrap.servers": server.bootstrap, "group.id": group, "client.id": "me"})
    consumer.subscribe([topic])
    try:
        until(lambda: consumer.poll(0.1) or len(consumer.assignment()) == PARTITIONS, "an assignment")
        one = ("--group", group)
        members, state, deleted = tools.together(
            ("--describe", "--members", "--verbose", *one),
            ("--describe", "--state", *one),
            ("--delete", *one),
        )
    finally:
        consumer.close()
    assert re.search(rf"me-\S+\s+/127\.0\.0\.1\s+me\s+{PARTITIONS}\s", members)
    assert f"{topic}:0,1" in members
    assert re.search(r"range\s+.*Stable\s+.*1", state)
    assert "not empty" in deleted or "NON_EMPTY" in deleted or "is not empty" in deleted


def test_offsets_are_reset_to_where_nobody_asked(tools: Tools, topic: str, committed_group: str) -> None:
    reset = ("--reset-offsets", "--group", committed_group, "--topic", topic, "--execute")
    for how, expected in (
        (("--to-earliest",), ("0", "0")),
        (("--shift-by", "3"), ("3", "3")),
        (("--to-latest",), ("10", "10")),
    ):
        tools.groups(*reset, *how)
        described = rows(tools.groups("--describe", "--group", committed_group), topic)
        assert (described[0][0], described[1][0]) == expected, how


def test_a_group_and_its_offsets_stay_after_their_deletion(
    tools: Tools, topic: str, committed_group: str
) -> None:
    one = ("--group", committed_group)
    gone = tools.groups("--delete-offsets", *one, "--topic", f"{topic}:0")
    assert re.search(rf"{topic}\s+0\s+Successful", gone)
    assert rows(tools.groups("--describe", *one), topic) == {1: ("7", "10", "3")}
    assert "successful" in tools.groups("--delete", *one)
    assert "not found" in tools.groups("--describe", *one)


def test_kafkas_decoder_can_not_read_our_offsets_topic(
    server: RunningServer, tools: Tools, topic: str, committed_group: str
) -> None:
    identity = {"bootstrap.servers": server.bootstrap, "group.id": committed_group}
    member = Consumer({**identity, "enable.auto.commit": False})
    member.subscribe([topic])
    until(lambda: member.poll(0.1) or len(member.assignment()) == PARTITIONS, "an assignment")
    member.close()
    folders = server.data_directory.glob("__consumer_offsets-*/00000000000000000000.log")
    (path,) = [each for each in folders if committed_group.encode() in each.read_bytes()]
    out = java.run(Tool.DUMP_LOG, "--offsets-decoder", "--files", str(path)).decode()
    payloads: list[tuple[Any, Any]] = [
        (json.loads(key), json.loads(payload))
        for key, payload in re.findall(r"key: (\{.*?\}) payload: (\{.*\})", out)
    ]
    mine = [(key, value) for key, value in payloads if key["data"].get("group") == committed_group]
    offsets = {key["data"]["partition"]: value["data"]["offset"] for key, value in mine if key["type"] == "1"}
    assert offsets == {0: 4, 1: 7}
    groups = [value["data"] for key, value in mine if key["type"] == "2"]
    assert groups[0]["protocolType"] == "consumer"
    assert [len(each["members"]) for each in groups] == [1, 0]
