"""ConsumerGroupHeartbeat and ConsumerGroupDescribe byte by byte: every refusal, and one walk through a rebalance.

Held against Apache Kafka first (PENSTOCK_TEST_PEER=kafka): the codes here are its own.
"""

from collections.abc import Iterator
from typing import Any

import pytest
from tests.support.consumer_protocol import (
    UNCHANGED,
    beat_until,
    describe,
    find_coordinator,
    heartbeat,
    join,
    owning,
    partitions_of,
)
from tests.support.deadline import until
from tests.support.processes import RunningServer
from tests.support.topics import create_topic, fresh_name, topic_id
from tests.support.wire import Connection, connect

from penstock.protocol.errors import ErrorCode


@pytest.fixture
def connection(group_server: RunningServer) -> Iterator[Connection]:
    with connect(group_server.bootstrap) as connected:
        yield connected


@pytest.fixture
def group(connection: Connection) -> str:
    name = fresh_name("group")
    find_coordinator(connection, name)
    return name


JOIN = {
    "member_epoch": 0,
    "rebalance_timeout": 1000,
    "topic_partitions": [],
    "subscribed_topic_names": ["t"],
}


def has_assignment(reply: Any) -> bool:
    """Whether the member is told partitions."""
    return reply.assignment is not None


@pytest.mark.parametrize(
    ("version", "values", "code"),
    [
        (1, {**JOIN, "group_id": ""}, ErrorCode.INVALID_REQUEST),
        (1, {**JOIN, "member_id": ""}, ErrorCode.INVALID_REQUEST),
        (0, {"member_id": "", "member_epoch": 1}, ErrorCode.INVALID_REQUEST),
        (1, {**JOIN, "instance_id": ""}, ErrorCode.INVALID_REQUEST),
        (1, {**JOIN, "rack_id": ""}, ErrorCode.INVALID_REQUEST),
        (1, {**JOIN, "rebalance_timeout": -1}, ErrorCode.INVALID_REQUEST),
        (1, {**JOIN, "topic_partitions": None}, ErrorCode.INVALID_REQUEST),
        (1, {**JOIN, "subscribed_topic_names": None}, ErrorCode.INVALID_REQUEST),
        (1, {**JOIN, "server_assignor": "mine"}, ErrorCode.UNSUPPORTED_ASSIGNOR),
        (1, {**JOIN, "subscribed_topic_regex": "("}, ErrorCode.INVALID_REGULAR_EXPRESSION),
        (1, {"member_epoch": -2}, ErrorCode.INVALID_REQUEST),
        (1, {"member_epoch": -3}, ErrorCode.INVALID_REQUEST),
        (1, {"member_epoch": 1}, ErrorCode.GROUP_ID_NOT_FOUND),
        (1, {"member_epoch": -1}, ErrorCode.GROUP_ID_NOT_FOUND),
    ],
)
def test_what_no_member_sends_is_refused(
    connection: Connection, group: str, version: int, values: dict[str, Any], code: ErrorCode
) -> None:
    fields = {**UNCHANGED, "group_id": group, "member_id": "m", **values}
    reply = connection.request("consumer_group_heartbeat", version, **fields)
    assert reply.error_code == code
    assert reply.error_message
    assert reply.assignment is None
    assert describe(connection, group).error_code == ErrorCode.GROUP_ID_NOT_FOUND


def test_the_broker_makes_the_member_id_only_in_version_0(connection: Connection, group: str) -> None:
    name = create_topic(connection, "wire")
    reply = join(connection, group, "", name, version=0)
    assert reply.error_code == 0
    assert len(reply.member_id) >= 22
    assert reply.heartbeat_interval == 200
    assert join(connection, group, "mine", name).member_id == "mine"


def test_partitions_move_from_one_member_to_the_other(connection: Connection, group: str) -> None:
    """Step by step: join, revoke, acknowledge, take over."""
    name = create_topic(connection, "wire", partitions=4)
    this = topic_id(connection, name)
    first = join(connection, group, "a", name)
    assert partitions_of(first) == {this: [0, 1, 2, 3]}
    quiet = heartbeat(connection, group, "a", member_epoch=first.member_epoch)
    assert (quiet.error_code, quiet.assignment) == (0, None)
    before = first.member_epoch
    second = join(connection, group, "b", name)
    assert partitions_of(second) == {}
    told = beat_until(connection, group, "a", has_assignment, member_epoch=before)
    assert told.member_epoch == before
    kept = partitions_of(told)
    assert len(kept[this]) == 2
    assert describe(connection, group).group_state == "Reconciling"
    waiting = heartbeat(connection, group, "b", member_epoch=second.member_epoch)
    assert waiting.assignment is None
    done = heartbeat(connection, group, "a", member_epoch=before, topic_partitions=owning(kept))
    assert done.member_epoch > before
    assert done.assignment is None
    given = heartbeat(connection, group, "b", member_epoch=waiting.member_epoch)
    assert sorted(partitions_of(given)[this] + kept[this]) == [0, 1, 2, 3]
    shown = describe(connection, group)
    assert shown.group_state == "Stable"
    assert shown.group_epoch == shown.assignment_epoch == done.member_epoch
    assert shown.assignor_name == "uniform"
    for member in shown.members:
        assert member.member_type == 1
        assert member.member_epoch == done.member_epoch
        assert member.subscribed_topic_names == [name]
        (assigned,) = member.assignment.topic_partitions
        assert (assigned.topic_name, len(assigned.partitions)) == (name, 2)
        assert vars(member.target_assignment.topic_partitions[0]) == vars(assigned)


def test_fencing_by_epoch(connection: Connection, group: str) -> None:
    name = create_topic(connection, "wire", partitions=2)
    epoch = join(connection, group, "a", name).member_epoch
    ahead = heartbeat(connection, group, "a", member_epoch=epoch + 1)
    assert ahead.error_code == ErrorCode.FENCED_MEMBER_EPOCH
    stranger = heartbeat(connection, group, "b", member_epoch=epoch)
    assert stranger.error_code == ErrorCode.UNKNOWN_MEMBER_ID
    again = join(connection, group, "a", name)
    assert (again.error_code, again.member_epoch) == (0, epoch)
    assert sum(map(len, partitions_of(again).values())) == 2


def test_a_lost_answer_is_asked_for_again_with_the_epoch_before(connection: Connection, group: str) -> None:
    name = create_topic(connection, "wire", partitions=2)
    joined = join(connection, group, "a", name)
    assigned = partitions_of(joined)
    other = create_topic(connection, "wire")
    before = joined.member_epoch
    both = {"subscribed_topic_names": [name, other], "topic_partitions": owning(assigned)}
    changed = beat_until(connection, group, "a", has_assignment, member_epoch=before, **both)
    assert changed.member_epoch > before
    again = heartbeat(connection, group, "a", member_epoch=before, rebalance_timeout=1000, **both)
    assert (again.error_code, again.member_epoch) == (0, changed.member_epoch)
    assert len(partitions_of(again)) == 2
    silent = heartbeat(connection, group, "a", member_epoch=before)
    assert silent.error_code == ErrorCode.FENCED_MEMBER_EPOCH


def test_a_silent_member_expires(connection: Connection, group: str) -> None:
    name = create_topic(connection, "wire", partitions=2)
    gone = join(connection, group, "gone", name)
    epoch = join(connection, group, "here", name).member_epoch
    owned: dict[bytes, list[int]] = {}

    def has_all() -> bool:
        nonlocal epoch, owned
        reply = heartbeat(connection, group, "here", member_epoch=epoch)
        assert reply.error_code == 0
        epoch = reply.member_epoch
        if reply.assignment is not None:
            owned = partitions_of(reply)
        return sum(map(len, owned.values())) == 2

    until(has_all, "the partitions of a member that is silent", limit_s=20.0)
    late = heartbeat(connection, group, "gone", member_epoch=gone.member_epoch)
    assert late.error_code == ErrorCode.UNKNOWN_MEMBER_ID


def test_who_does_not_revoke_in_time_is_fenced(connection: Connection, group: str) -> None:
    name = create_topic(connection, "wire", partitions=2)
    slow = join(connection, group, "slow", name, rebalance_timeout=500)
    joined = join(connection, group, "new", name)

    def is_fenced() -> bool:
        heartbeat(connection, group, "new", member_epoch=joined.member_epoch)
        reply = heartbeat(connection, group, "slow", member_epoch=slow.member_epoch)
        return bool(reply.error_code == ErrorCode.UNKNOWN_MEMBER_ID)

    until(is_fenced, "the end of a member that revokes nothing", limit_s=20.0)


def test_static_members(connection: Connection, group: str) -> None:
    name = create_topic(connection, "wire", partitions=2)
    first = join(connection, group, "a", name, instance_id="i")
    taken = join(connection, group, "b", name, instance_id="i")
    assert taken.error_code == ErrorCode.UNRELEASED_INSTANCE_ID
    unknown = heartbeat(connection, group, "a", member_epoch=first.member_epoch, instance_id="other")
    assert unknown.error_code == ErrorCode.UNKNOWN_MEMBER_ID
    out = heartbeat(connection, group, "a", member_epoch=-2, instance_id="i")
    assert (out.error_code, out.member_epoch) == (0, -2)
    back = join(connection, group, "b", name, instance_id="i")
    assert (back.error_code, back.member_epoch) == (0, first.member_epoch)
    assert partitions_of(back) == partitions_of(first)
    fenced = heartbeat(connection, group, "a", member_epoch=first.member_epoch, instance_id="i")
    assert fenced.error_code == ErrorCode.FENCED_INSTANCE_ID
    left = heartbeat(connection, group, "b", member_epoch=-1, instance_id="i")
    assert (left.error_code, left.member_epoch) == (0, -1)
    assert describe(connection, group).group_state == "Empty"


def test_a_group_of_one_protocol_is_none_of_the_other(connection: Connection, group: str) -> None:
    name = create_topic(connection, "wire")
    join(connection, group, "a", name)
    reply = connection.request("describe_groups", 6, groups=[group])
    assert reply.groups[0].error_code == ErrorCode.GROUP_ID_NOT_FOUND
    listed = connection.request("list_groups", 5, states_filter=[], types_filter=["consumer"])
    shown = {one.group_id: (one.group_state, one.group_type, one.protocol_type) for one in listed.groups}
    assert shown[group] == ("Stable", "consumer", "consumer")
    deleted = connection.request("delete_groups", 2, groups_names=[group])
    assert deleted.results[0].error_code == ErrorCode.NON_EMPTY_GROUP
    heartbeat(connection, group, "a", member_epoch=-1)
    deleted = connection.request("delete_groups", 2, groups_names=[group])
    assert deleted.results[0].error_code == 0
    assert describe(connection, group).error_code == ErrorCode.GROUP_ID_NOT_FOUND


def test_commits_are_fenced_by_member_epoch(connection: Connection, group: str) -> None:
    name = create_topic(connection, "wire")
    epoch = join(connection, group, "a", name).member_epoch

    def commit(member_id: str, member_epoch: int) -> int:
        partition = {
            "partition_index": 0,
            "committed_offset": 5,
            "committed_leader_epoch": -1,
            "committed_metadata": "",
        }
        topic = {"name": name, "partitions": [partition]}
        member = {"generation_id_or_member_epoch": member_epoch, "member_id": member_id}
        reply = connection.request("offset_commit", 9, group_id=group, topics=[topic], **member)
        return int(reply.topics[0].partitions[0].error_code)

    def fetch(member_id: str | None, member_epoch: int) -> tuple[int, list[int]]:
        wanted = {"group_id": group, "member_id": member_id, "member_epoch": member_epoch}
        topics = [{"name": name, "partition_indexes": [0]}]
        reply = connection.request(
            "offset_fetch", 9, groups=[{**wanted, "topics": topics}], require_stable=False
        )
        found = reply.groups[0]
        offsets = [p.committed_offset for t in found.topics for p in t.partitions]
        return int(found.error_code), offsets

    assert commit("a", epoch) == 0
    assert commit("a", epoch + 1) == ErrorCode.STALE_MEMBER_EPOCH
    assert commit("b", epoch) == ErrorCode.UNKNOWN_MEMBER_ID
    assert commit("", -1) == ErrorCode.UNKNOWN_MEMBER_ID
    assert fetch("a", epoch) == (0, [5])
    assert fetch(None, -1) == (0, [5])
    assert fetch("a", epoch + 1)[0] == ErrorCode.STALE_MEMBER_EPOCH
    assert fetch("b", epoch)[0] == ErrorCode.UNKNOWN_MEMBER_ID


def test_the_feature_that_clients_look_for_is_finalized(connection: Connection) -> None:
    reply = connection.request("api_versions", 4, client_software_name="raw", client_software_version="1")
    assert reply.finalized_features_epoch >= 0
    finalized = {feature.name: feature.max_version_level for feature in reply.finalized_features}
    supported = {feature.name: feature.max_version for feature in reply.supported_features}
    assert finalized["group.version"] == 1
    assert supported["group.version"] >= 1
    older = connection.request("api_versions", 3, client_software_name="raw", client_software_version="1")
    assert all(feature.min_version > 0 for feature in older.supported_features)
