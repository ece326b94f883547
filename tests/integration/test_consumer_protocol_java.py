"""Apache Kafka's own consumer and tools on groups of the consumer protocol; and its reading of the records that Penstock stores of them."""

import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from bench.peers.kafka import Tool
from tests.support.clients import java
from tests.support.clients.librdkafka_groups import GroupMember
from tests.support.consumer_protocol import describe
from tests.support.deadline import until
from tests.support.processes import RunningServer
from tests.support.topics import create_topic, fresh_name, produce_values
from tests.support.wire import Connection, connect

LIMIT_S = 60.0
PROTOCOL = ("--command-property", "group.protocol=consumer")


@pytest.fixture
def connection(group_server: RunningServer) -> Iterator[Connection]:
    with connect(group_server.bootstrap) as connected:
        yield connected


def console(server: RunningServer, group: str, *arguments: str) -> list[bytes]:
    """What the console consumer prints."""
    place = ("--bootstrap-server", server.bootstrap, "--group", group, *PROTOCOL, "--from-beginning")
    return java.run(Tool.CONSOLE_CONSUMER, *place, "--timeout-ms", "30000", *arguments).split(b"\n")[:-1]


def groups(server: RunningServer, *arguments: str, check: bool = True) -> str:
    """What kafka-consumer-groups prints."""
    place = ("--bootstrap-server", server.bootstrap)
    return java.run(Tool.CONSUMER_GROUPS, *place, *arguments, check=check).decode()


def test_the_console_consumer_reads_and_commits(group_server: RunningServer, connection: Connection) -> None:
    topic, group = create_topic(connection, "java", partitions=2), fresh_name("java")
    for number in range(4):
        produce_values(connection, topic, b"%d" % number, partition=number % 2)
    first = console(group_server, group, "--topic", topic, "--max-messages", "4")
    assert sorted(first) == [b"0", b"1", b"2", b"3"]
    produce_values(connection, topic, b"4")
    assert console(group_server, group, "--topic", topic, "--max-messages", "1") == [b"4"]


def test_two_of_them_share(group_server: RunningServer, connection: Connection) -> None:
    """A Java member beside one of librdkafka: both speak to the same group."""
    topic, group = create_topic(connection, "java-two", partitions=4), fresh_name("java")
    beside = GroupMember(group_server.bootstrap, group, topic)
    try:
        until(lambda: len(beside.owned) == 4, "all for one", limit_s=LIMIT_S)
        with ThreadPoolExecutor(1) as pool:
            reading = pool.submit(console, group_server, group, "--topic", topic, "--max-messages", "2")
            until(lambda: len(beside.owned) == 2, "a half for each", limit_s=LIMIT_S)
            mine = {partition for _, partition in beside.owned}
            for partition in range(4):
                produce_values(connection, topic, b"%d" % partition, partition=partition)
            read = reading.result()
        until(lambda: len(beside.values) >= 2, "its own half", limit_s=LIMIT_S)
        assert sorted(read) == [b"%d" % partition for partition in sorted({0, 1, 2, 3} - mine)]
        until(lambda: len(beside.owned) == 4, "what the other one left", limit_s=LIMIT_S)
    finally:
        beside.close()


def test_a_subscription_by_pattern(group_server: RunningServer, connection: Connection) -> None:
    stem, group = fresh_name("pattern"), fresh_name("java")
    for end in ("a", "b"):
        produce_values(connection, create_topic(connection, f"{stem}-{end}"), end.encode())
    read = console(group_server, group, "--include", f"{stem}-.*", "--max-messages", "2")
    assert sorted(read) == [b"a", b"b"]


def test_the_tool_lists_describes_resets_and_deletes(
    group_server: RunningServer, connection: Connection
) -> None:
    topic, group = create_topic(connection, "tool", partitions=2), fresh_name("tool")
    for partition in (0, 0, 1):
        produce_values(connection, topic, b"x", partition=partition)
    member = GroupMember(group_server.bootstrap, group, topic, client_id="the-member")
    until(lambda: len(member.values) == 3, "three records", limit_s=LIMIT_S)
    member.commit()
    of_group = ("--describe", "--group", group)
    with ThreadPoolExecutor(2) as pool:
        jobs = [
            pool.submit(groups, group_server, *arguments)
            for arguments in (
                of_group,
                (*of_group, "--state", "--verbose"),
                (*of_group, "--members", "--verbose"),
                ("--list", "--type", "consumer", "--state"),
            )
        ]
        offsets, state, shown_members, listed = [job.result() for job in jobs]
    assert re.search(
        rf"^{group}\s+{topic}\s+0\s+2\s+2\s+0\s+\S+\s+/127\.0\.0\.1\s+the-member", offsets, re.MULTILINE
    )
    assert re.search(rf"^{group}\s+\S+\s+\(\d+\)\s+uniform\s+Stable\s+\d+\s+\d+\s+1$", state, re.MULTILINE), (
        state
    )
    assert re.search(rf"the-member\s+2\s+\d+\s+{topic}:0,1\s+\d+\s+{topic}:0,1", shown_members), shown_members
    assert re.search(rf"^{group}\s+\S*consumer\s+stable", listed, re.MULTILINE | re.IGNORECASE), listed
    refused = groups(group_server, "--delete", "--group", group, check=False)
    assert "NON_EMPTY" in refused.upper() or "not empty" in refused
    member.close()
    until(lambda: describe(connection, group).group_state == "Empty", "an empty group")
    reset = ("--reset-offsets", "--group", group, "--topic", topic, "--to-earliest", "--execute")
    assert re.search(rf"{topic}\s+0\s+0", groups(group_server, *reset))
    assert "successful" in groups(group_server, "--delete", "--group", group)
    assert group not in groups(group_server, "--list")


def test_kafka_reads_the_records_of_a_group(group_server: RunningServer, connection: Connection) -> None:
    """kafka-dump-log decodes every key and value of `__consumer_offsets` by Kafka's own schemas."""
    stem, group = fresh_name("dump"), fresh_name("dump")
    topic = create_topic(connection, stem, partitions=2)
    member = GroupMember(group_server.bootstrap, group, f"^{stem}.*", group_instance_id="here")
    until(lambda: len(member.owned) == 2, "its partitions", limit_s=LIMIT_S)
    member.close()
    files = [
        str(path)
        for folder in group_server.data_directory.glob("__consumer_offsets-*")
        for path in folder.glob("*.log")
        if group.encode() in path.read_bytes()
    ]
    assert len(files) == 1
    out = java.run(Tool.DUMP_LOG, "--offsets-decoder", "--files", files[0]).decode()
    mine = [line for line in out.splitlines() if f'"groupId":"{group}"' in line]
    kinds = {int(found) for line in mine for found in re.findall(r'key: \{"type":"(\d+)"', line)}
    assert kinds == {3, 5, 6, 7, 8, 16}
    for said in (
        rf'"regularExpression":"\(?\^{stem}\.\*\)?".*"topics":\["{topic}"\]',
        r'"instanceId":"here".*"rebalanceTimeoutMs":\d+',
        r'"memberEpoch":-2.*"assignedPartitions":\[\{"topicId":"[^"]+","partitions":\[0,1\]',
        r'"epoch":\d+,"metadataHash":-?\d+',
        r'"assignmentEpoch":\d+',
    ):
        assert any(re.search(said, line) for line in mine), f"{said}\n" + "\n".join(mine)
