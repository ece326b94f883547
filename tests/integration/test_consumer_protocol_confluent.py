"""confluent-kafka (librdkafka) with group.protocol=consumer: what its users do with it works."""

import contextlib
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.support.clients import librdkafka
from tests.support.clients.librdkafka_groups import GroupMember
from tests.support.consumer_protocol import FAST_GROUPS, describe
from tests.support.consumer_protocol import join as consumer_join
from tests.support.deadline import until
from tests.support.processes import RunningServer, running_server
from tests.support.topics import create_topic, fresh_name, produce_values
from tests.support.wire import Connection, connect

from penstock.protocol.errors import ErrorCode

Join = Callable[..., GroupMember]
LIMIT_S = 45.0


@pytest.fixture
def connection(group_server: RunningServer) -> Iterator[Connection]:
    with connect(group_server.bootstrap) as connected:
        yield connected


@pytest.fixture
def group() -> str:
    return fresh_name("confluent")


@contextlib.contextmanager
def members(bootstrap: str) -> Generator[Join]:
    """Makes members, which are closed in the end."""
    made: list[GroupMember] = []

    def make(group: str, *topics: str, **settings: Any) -> GroupMember:
        made.append(GroupMember(bootstrap, group, *topics, **settings))
        return made[-1]

    try:
        yield make
    finally:
        for member in made:
            member.close()


@pytest.fixture
def join(group_server: RunningServer) -> Iterator[Join]:
    with members(group_server.bootstrap) as make:
        yield make


def owns(count: int, *of: GroupMember) -> None:
    """Wait until the members own `count` partitions together, each of them one owner's."""

    def seen() -> bool:
        owned = [place for member in of for place in member.owned]
        return len(owned) == count == len(set(owned))

    until(seen, f"{count} partitions with one owner each", limit_s=LIMIT_S)


def balanced(count: int, *of: GroupMember) -> None:
    """Wait until the members own `count` partitions, all as many as each other but for one."""

    def seen() -> bool:
        sizes = sorted(len(member.owned) for member in of)
        return sum(sizes) == count and sizes[-1] - sizes[0] <= 1

    until(seen, f"{count} partitions shared by {len(of)}", limit_s=LIMIT_S)


def test_three_members_share_and_take_over(connection: Connection, group: str, join: Join) -> None:
    topic = create_topic(connection, "shared", partitions=6)
    a = join(group, topic)
    owns(6, a)
    b, c = join(group, topic), join(group, topic)
    balanced(6, a, b, c)
    assert all(what != "lost" for member in (a, b, c) for what, _ in member.events)
    b.close()
    balanced(6, a, c)
    assert not a.errors


def test_a_member_that_comes_moves_no_more_than_its_share(
    connection: Connection, group: str, join: Join
) -> None:
    """The callbacks are incremental: what stays is never revoked."""
    topic = create_topic(connection, "cooperative", partitions=4)
    a = join(group, topic)
    owns(4, a)
    b = join(group, topic)
    balanced(4, a, b)
    revoked = [places for what, places in a.events if what == "revoked"]
    assert [len(places) for places in revoked if places] == [2]
    assert b.owned == revoked[0]


def test_every_record_comes_once_through_a_rebalance(
    group_server: RunningServer, connection: Connection, group: str, join: Join
) -> None:
    topic = create_topic(connection, "records", partitions=4)
    producer = librdkafka.make_producer(group_server.bootstrap)
    values = [b"%d" % number for number in range(400)]
    for number, value in enumerate(values[:200]):
        producer.produce(topic, value, partition=number % 4)
    assert producer.flush(LIMIT_S) == 0
    a = join(group, topic, enable_auto_commit=True)
    until(lambda: len(a.values) == 200, "the first half", limit_s=LIMIT_S)
    b = join(group, topic, enable_auto_commit=True)
    balanced(4, a, b)
    for number, value in enumerate(values[200:]):
        producer.produce(topic, value, partition=number % 4)
    assert producer.flush(LIMIT_S) == 0
    until(lambda: len(a.values) + len(b.values) >= 400, "the second half", limit_s=LIMIT_S)
    assert sorted(a.values + b.values) == sorted(values)


def test_commits_are_where_the_next_member_begins(connection: Connection, group: str, join: Join) -> None:
    topic = create_topic(connection, "commits")
    produce_values(connection, topic, b"0")
    produce_values(connection, topic, b"1")
    a = join(group, topic)
    until(lambda: len(a.values) == 2, "two records", limit_s=LIMIT_S)
    a.commit()
    a.close()
    produce_values(connection, topic, b"2")
    b = join(group, topic)
    until(lambda: b.values, "the record after the commit", limit_s=LIMIT_S)
    assert b.values == [b"2"]


def test_a_regular_expression_finds_topics_that_come_later(
    connection: Connection, group: str, join: Join
) -> None:
    stem = fresh_name("regex")
    first = create_topic(connection, f"{stem}-a", partitions=2)
    create_topic(connection, f"other-{stem}-a")
    a = join(group, f"^{stem}-a.*")
    owns(2, a)
    assert {topic for topic, _ in a.owned} == {first}
    later = create_topic(connection, f"{stem}-ab", partitions=3)
    owns(5, a)
    assert {topic for topic, _ in a.owned} == {first, later}
    (shown,) = describe(connection, group).members
    assert f"^{stem}-a.*" in shown.subscribed_topic_regex


def test_a_static_member_is_back_with_what_it_had(connection: Connection, group: str, join: Join) -> None:
    topic = create_topic(connection, "static", partitions=4)
    static = join(group, topic, group_instance_id="one")
    other = join(group, topic)
    balanced(4, static, other)
    owned, epoch = set(static.owned), describe(connection, group).group_epoch
    events = len(other.events)
    static.close()
    again = join(group, topic, group_instance_id="one")
    until(lambda: again.owned == owned, "the partitions that it had", limit_s=LIMIT_S)
    assert describe(connection, group).group_epoch == epoch
    assert len(other.events) == events, "the other one noticed"


def test_a_member_changes_what_it_reads(connection: Connection, group: str, join: Join) -> None:
    one, two = create_topic(connection, "one", partitions=2), create_topic(connection, "two", partitions=3)
    a = join(group, one)
    owns(2, a)
    a.subscribe(two)
    until(lambda: {topic for topic, _ in a.owned} == {two}, "the other topic", limit_s=LIMIT_S)
    owns(3, a)


def test_an_empty_group_changes_its_protocol_and_keeps_its_offsets(
    connection: Connection, group: str, join: Join
) -> None:
    """With members it keeps its protocol: those of the other one are refused."""
    topic = create_topic(connection, "protocols")
    values = [b"%d" % number for number in range(4)]
    read: list[bytes] = []
    refusals = {"classic": ErrorCode.GROUP_ID_NOT_FOUND, "consumer": ErrorCode.INCONSISTENT_GROUP_PROTOCOL}
    for value, protocol in zip(values, ("classic", "consumer", "classic", "consumer"), strict=True):
        member = join(group, topic, protocol=protocol)
        produce_values(connection, topic, value)
        await_values(member, 1)
        read += member.values
        assert refusal(connection, group, topic, protocol) == refusals[protocol]
        member.commit()
        member.close()
        listed = connection.request("list_groups", 5, states_filter=[], types_filter=[protocol])
        assert [one.group_state for one in listed.groups if one.group_id == group] == ["Empty"]
    assert read == values


def await_values(member: GroupMember, count: int) -> None:
    """Wait until the member has read so many."""
    until(lambda: len(member.values) >= count, f"{count} records", limit_s=LIMIT_S)


def refusal(connection: Connection, group: str, topic: str, protocol: str) -> int:
    """What a member of the other protocol hears."""
    if protocol == "classic":
        return int(consumer_join(connection, group, "stranger", topic).error_code)
    values = {
        "session_timeout": 6000,
        "rebalance_timeout": 6000,
        "member_id": "",
        "protocol_type": "consumer",
    }
    protocols = [{"name": "range", "metadata": b"\0\0\0\0\0\0\0\0\0\0"}]
    reply = connection.request(
        "join_group", 5, group_id=group, group_instance_id=None, protocols=protocols, **values
    )
    return int(reply.error_code)


@pytest.mark.parametrize("how", ["kill", "stop"])
def test_members_go_on_after_the_broker_has_restarted(tmp_path: Path, how: str) -> None:
    with running_server(tmp_path, FAST_GROUPS) as server, members(server.bootstrap) as join:
        with connect(server.bootstrap) as connection:
            topic = create_topic(connection, "restart", partitions=4)
            a, b = join("g", topic), join("g", topic)
            balanced(4, a, b)
            a.commits_each = b.commits_each = True
            for number in range(8):
                produce_values(connection, topic, b"%d" % number, partition=number % 4)
        until(lambda: len(a.values) + len(b.values) == 8, "what was there before", limit_s=LIMIT_S)
        server.kill() if how == "kill" else server.stop()
        server.start()
        with connect(server.bootstrap) as connection:
            for number in range(8, 16):
                produce_values(connection, topic, b"%d" % number, partition=number % 4)
            until(lambda: len(a.values) + len(b.values) >= 16, "what came after", limit_s=LIMIT_S)
            balanced(4, a, b)
            shown = describe(connection, "g")
            assert (shown.group_state, len(shown.members)) == ("Stable", 2)
        assert sorted(map(int, a.values + b.values)) == list(range(16)), "committed ones are not repeated"
