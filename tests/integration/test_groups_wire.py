"""Group calls one by one: the codes and the shapes are those of Apache Kafka, which ran these tests first."""

from typing import Any

import pytest
from tests.support import schema_codec
from tests.support.deadline import until
from tests.support.errors import ErrorCode
from tests.support.topics import create_topic, fresh_name, topic_id
from tests.support.wire import Connection

JOIN: dict[str, Any] = {
    "session_timeout": 10_000,
    "rebalance_timeout": 10_000,
    "protocol_type": "consumer",
    "protocols": [{"name": "range", "metadata": b""}],
}


@pytest.fixture
def group(connection: Connection) -> str:
    """A group id nobody has used, whose coordinator is ready."""
    name = fresh_name("group")

    def found() -> bool:
        answer = connection.request("find_coordinator", 4, key_type=0, coordinator_keys=[name])
        return bool(answer.coordinators[0].error_code == 0)

    def answers() -> bool:
        answer = connection.request("offset_fetch", 8, groups=[{"group_id": name, "topics": None}])
        return bool(answer.groups[0].error_code == 0)

    until(found, "a coordinator")
    until(answers, "a loaded coordinator")
    return name


@pytest.fixture
def topic(connection: Connection) -> str:
    return create_topic(connection, "grouped", partitions=2)


def commit(connection: Connection, group: str, topic: str, version: int = 8, **more: Any) -> int:
    partitions = [{"partition_index": 0, "committed_offset": 5}]
    answer = connection.request(
        "offset_commit", version, group_id=group, topics=[{"name": topic, "partitions": partitions}], **more
    )
    return int(answer.topics[0].partitions[0].error_code)


def join(connection: Connection, group: str, **more: Any) -> Any:
    """Become the only member: twice, the first time for the id."""
    first = connection.request("join_group", 9, group_id=group, **{**JOIN, **more})
    assert first.error_code == ErrorCode.member_id_required
    return connection.request("join_group", 9, group_id=group, member_id=first.member_id, **{**JOIN, **more})


@pytest.mark.parametrize("version", range(2, 11))
def test_a_version_of_offset_commit_does_not_commit(
    connection: Connection, group: str, topic: str, version: int
) -> None:
    wanted: dict[str, Any] = {"partitions": [{"partition_index": 1, "committed_offset": version}]}
    wanted |= {"topic_id": topic_id(connection, topic)} if version >= 10 else {"name": topic}
    answer = connection.request("offset_commit", version, group_id=group, topics=[wanted])
    assert answer.topics[0].partitions[0].error_code == 0
    told = connection.request("offset_fetch", 7, group_id=group, topics=None)
    assert [
        (t.name, [(p.partition_index, p.committed_offset) for p in t.partitions]) for t in told.topics
    ] == [(topic, [(1, version)])]


@pytest.mark.parametrize("version", range(1, 11))
def test_a_version_of_offset_fetch_sees_another_offset(
    connection: Connection, group: str, topic: str, version: int
) -> None:
    assert commit(connection, group, topic) == 0
    wanted: dict[str, Any] = {"partition_indexes": [0, 1]}
    wanted |= {"topic_id": topic_id(connection, topic)} if version >= 10 else {"name": topic}
    if version >= 8:
        answer = connection.request("offset_fetch", version, groups=[{"group_id": group, "topics": [wanted]}])
        answer = answer.groups[0]
    else:
        answer = connection.request("offset_fetch", version, group_id=group, topics=[wanted])
    assert [(p.committed_offset, p.error_code) for p in answer.topics[0].partitions] == [(5, 0), (-1, 0)]


@pytest.mark.parametrize("version", schema_codec.versions("join_group"))
def test_a_version_of_join_and_its_companions_gets_no_assignment(
    connection: Connection, group: str, version: int
) -> None:
    known = schema_codec.without_unknown("join_group", version, {"group_id": group, **JOIN})
    joined = connection.request("join_group", version, **known)
    if version >= 4:
        assert joined.error_code == ErrorCode.member_id_required
        joined = connection.request("join_group", version, **{**known, "member_id": joined.member_id})
    assert (joined.error_code, joined.generation_id, joined.leader) == (0, 1, joined.member_id)
    assert [member.member_id for member in joined.members] == [joined.member_id]
    me = {"group_id": group, "generation_id": 1, "member_id": joined.member_id}
    assignments = [{"member_id": joined.member_id, "assignment": b"abc"}]
    sync = min(version, 5)
    more = {"protocol_type": "consumer", "protocol_name": "range"} if sync >= 5 else {}
    synced = connection.request("sync_group", sync, **me, assignments=assignments, **more)
    assert (synced.error_code, synced.assignment) == (0, b"abc")
    assert connection.request("heartbeat", min(version, 4), **me).error_code == 0
    leave = min(version, 5)
    who = {"members": [{"member_id": joined.member_id}]} if leave >= 3 else {"member_id": joined.member_id}
    left = connection.request("leave_group", leave, group_id=group, **who)
    assert left.error_code == 0
    assert leave < 3 or left.members[0].error_code == 0


@pytest.mark.parametrize("version", schema_codec.versions("describe_groups"))
def test_describe_groups_takes_an_unknown_group_for_an_error_too_early(
    connection: Connection, group: str, topic: str, version: int
) -> None:
    assert commit(connection, group, topic) == 0
    answer = connection.request("describe_groups", version, groups=[group, "nobody"])
    known, unknown = answer.groups
    assert (known.error_code, known.group_state, known.protocol_type) == (0, "Empty", "")
    expected = ErrorCode.group_id_not_found if version >= 6 else ErrorCode.none
    assert (unknown.error_code, unknown.group_state) == (expected, "Dead")


@pytest.mark.parametrize("version", schema_codec.versions("list_groups"))
def test_list_groups_leaves_one_out(connection: Connection, group: str, topic: str, version: int) -> None:
    assert commit(connection, group, topic) == 0
    answer = connection.request("list_groups", version)
    (told,) = [each for each in answer.groups if each.group_id == group]
    assert told.protocol_type == ""
    assert version < 4 or told.group_state == "Empty"
    assert version < 5 or told.group_type == "classic"


def test_filters_of_list_groups_heed_case_or_take_bogus_ones(
    connection: Connection, group: str, topic: str
) -> None:
    assert commit(connection, group, topic) == 0

    def listed(**filters: list[str]) -> bool:
        answer = connection.request("list_groups", 5, **filters)
        return group in [each.group_id for each in answer.groups]

    assert listed(types_filter=["CLASSIC"], states_filter=["eMPTY"])
    assert not listed(states_filter=["Stable"])
    assert not listed(states_filter=["Bogus"])
    assert not listed(types_filter=["consumer"])


@pytest.mark.parametrize("version", schema_codec.versions("delete_groups"))
def test_delete_groups_keeps_offsets(connection: Connection, group: str, topic: str, version: int) -> None:
    assert commit(connection, group, topic) == 0
    answer = connection.request("delete_groups", version, groups_names=[group, "nobody"])
    codes = {result.group_id: result.error_code for result in answer.results}
    assert codes == {group: ErrorCode.none, "nobody": ErrorCode.group_id_not_found}
    told = connection.request("offset_fetch", 7, group_id=group, topics=None)
    assert told.topics == []


def test_a_group_with_members_is_deleted_or_committed_to_by_strangers(
    connection: Connection, group: str, topic: str
) -> None:
    member = join(connection, group)
    deleted = connection.request("delete_groups", 2, groups_names=[group])
    assert deleted.results[0].error_code == ErrorCode.non_empty_group
    assert commit(connection, group, topic) == ErrorCode.unknown_member_id
    me = {"member_id": member.member_id, "generation_id_or_member_epoch": 1}
    assert commit(connection, group, topic, **me) == ErrorCode.rebalance_in_progress
    assert commit(connection, group, topic, **{**me, "generation_id_or_member_epoch": 9}) in (
        ErrorCode.illegal_generation,
    )


def test_offset_delete_takes_what_is_not_there_for_an_error(
    connection: Connection, group: str, topic: str
) -> None:
    assert commit(connection, group, topic) == 0
    wanted = [{"partition_index": index} for index in (0, 1, 9)]
    answer = connection.request(
        "offset_delete", 0, group_id=group, topics=[{"name": topic, "partitions": wanted}]
    )
    codes = {p.partition_index: p.error_code for p in answer.topics[0].partitions}
    assert codes == {0: 0, 1: 0, 9: ErrorCode.unknown_topic_or_partition}
    gone = connection.request("offset_fetch", 7, group_id=group, topics=None)
    assert gone.topics == []
    unknown = connection.request("offset_delete", 0, group_id="nobody", topics=[])
    assert unknown.error_code == ErrorCode.group_id_not_found


@pytest.mark.parametrize(
    ("version", "code"), [(8, ErrorCode.illegal_generation), (9, ErrorCode.group_id_not_found)]
)
def test_a_commit_with_a_generation_makes_a_group(
    connection: Connection, group: str, topic: str, version: int, code: ErrorCode
) -> None:
    me = {"member_id": "me", "generation_id_or_member_epoch": 1}
    assert commit(connection, group, topic, version, **me) == code


def test_the_empty_group_id_is_treated_otherwise_than_by_kafka(
    connection: Connection, group: str, topic: str
) -> None:
    assert commit(connection, "", topic) == 0, "simple consumers may do without a group id"
    bad = ErrorCode.invalid_group_id
    assert connection.request("heartbeat", 4, group_id="", generation_id=1, member_id="x").error_code == bad
    assert connection.request("join_group", 9, group_id="", **JOIN).error_code == bad
    assert connection.request("sync_group", 3, group_id="", generation_id=1, member_id="x").error_code == bad
    assert connection.request("leave_group", 2, group_id="", member_id="x").error_code == bad
    assert connection.request("offset_delete", 0, group_id="", topics=[]).error_code == bad
    deleted = connection.request("delete_groups", 2, groups_names=[""])
    assert deleted.results[0].error_code == 0


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"session_timeout": 1}, ErrorCode.invalid_session_timeout),
        ({"session_timeout": 3_600_000}, ErrorCode.invalid_session_timeout),
        ({"protocols": []}, ErrorCode.inconsistent_group_protocol),
        ({"protocol_type": ""}, ErrorCode.inconsistent_group_protocol),
        ({"member_id": "me"}, ErrorCode.unknown_member_id),
    ],
)
def test_a_join_that_makes_no_sense_is_let_in(
    connection: Connection, group: str, change: dict[str, Any], code: ErrorCode
) -> None:
    answer = connection.request("join_group", 9, group_id=group, **{**JOIN, **change})
    assert (answer.error_code, answer.generation_id) == (code, -1)


def test_clients_write_to_the_offsets_topic(connection: Connection, group: str) -> None:
    from tests.support.batches import encode_batch

    data = [{"index": 0, "records": encode_batch([b"v"], key=b"k")}]
    answer = connection.request(
        "produce",
        9,
        acks=-1,
        timeout=1000,
        topic_data=[{"name": "__consumer_offsets", "partition_data": data}],
    )
    assert answer.responses[0].partition_responses[0].error_code == ErrorCode.invalid_topic_exception
    told = connection.request("metadata", 12, topics=[{"name": "__consumer_offsets"}])
    assert told.topics[0].is_internal
    cut = [{"name": "__consumer_offsets", "partitions": [{"partition_index": 0, "offset": -1}]}]
    gone = connection.request("delete_records", 2, timeout=1000, topics=cut)
    assert gone.topics[0].partitions[0].error_code == ErrorCode.invalid_topic_exception
