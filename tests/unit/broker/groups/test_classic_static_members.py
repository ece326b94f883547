"""Static members: who has a name keeps its place, and there is one of each name (KIP-345, KIP-814)."""

import pytest
from tests.support.classic_groups import SESSION_TIMEOUT_MS, GroupBench

from penstock.broker.groups.classic_events import ClassicState, LeavingMember
from penstock.protocol.errors import ErrorCode

NONE = ErrorCode.NONE
FENCED = ErrorCode.FENCED_INSTANCE_ID
RANGE_OF_OTHERS = (("range", b"other topics"),)


def two_static() -> GroupBench:
    """A stable group of instances A (id a1, leads) and B (id b1), each assigned its id."""
    bench = GroupBench()
    bench.join(fresh="a1", instance="A")
    bench.join(fresh="b1", instance="B")
    bench.finish_joining()
    bench.sync_all("a1", "b1")
    return bench


def ids(bench: GroupBench) -> list[str]:
    return [member.member_id for member in bench.group.members()]


def test_a_static_member_needs_no_second_join() -> None:
    bench = GroupBench()
    token = bench.join(fresh="a1", instance="A", version=9)
    bench.advance(100)
    reply = bench.joined(token)
    assert (reply.error_code, reply.member_id) == (NONE, "a1")
    assert reply.members[0].group_instance_id == "A"


def test_a_follower_that_comes_back_gets_its_place_and_assignment_without_a_rebalance() -> None:
    bench = two_static()
    token = bench.join(fresh="b2", instance="B")
    assert token in bench.waiting, "its new id is not in the log yet"
    stored = bench.stores[0].snapshot
    assert [(m.member_id, m.group_instance_id, m.assignment) for m in stored.members] == [
        ("a1", "A", b"a1"),
        ("b2", "B", b"b1"),
    ]
    bench.finish_store()
    reply = bench.joined(token)
    assert (reply.error_code, reply.generation, reply.member_id, reply.leader) == (NONE, 1, "b2", "a1")
    assert (reply.members, reply.skip_assignment) == ((), False)
    assert bench.synced(bench.sync("b2", instance="B")).assignment == b"b1"
    assert bench.is_in(ClassicState.STABLE)
    assert bench.group.generation == 1


def test_a_leader_that_comes_back_is_told_to_assign_nothing() -> None:
    bench = two_static()
    token = bench.join(fresh="a2", instance="A", version=9)
    bench.finish_store()
    reply = bench.joined(token)
    assert (reply.member_id, reply.leader, reply.skip_assignment) == ("a2", "a2", True)
    assert [member.member_id for member in reply.members] == ["a2", "b1"]
    assert bench.synced(bench.sync("a2", instance="A")).assignment == b"a1"


def test_an_old_leader_that_comes_back_takes_itself_for_a_follower() -> None:
    bench = two_static()
    token = bench.join(fresh="a2", instance="A", version=8)
    bench.finish_store()
    reply = bench.joined(token)
    assert (reply.member_id, reply.leader, reply.skip_assignment, reply.members) == ("a2", "a1", False, ())
    assert bench.group.leader == "a2"


@pytest.mark.parametrize("call", ["heartbeat", "sync", "join", "commit", "leave"])
def test_who_was_replaced_is_fenced(call: str) -> None:
    bench = two_static()
    bench.join(fresh="b2", instance="B")
    bench.finish_store()
    code = {
        "heartbeat": lambda: bench.heartbeat("b1", instance="B"),
        "sync": lambda: bench.synced(bench.sync("b1", instance="B")).error_code,
        "join": lambda: bench.joined(bench.join("b1", instance="B")).error_code,
        "commit": lambda: bench.group.check_commit("b1", 1, "B"),
        "leave": lambda: (
            bench.leave(LeavingMember(member_id="b1", group_instance_id="B")).members[0].error_code
        ),
    }[call]()
    assert code is FENCED
    assert ids(bench) == ["a1", "b2"]


def test_who_was_replaced_and_gives_no_name_is_unknown() -> None:
    bench = two_static()
    bench.join(fresh="b2", instance="B")
    bench.finish_store()
    assert bench.heartbeat("b1") is ErrorCode.UNKNOWN_MEMBER_ID


def test_a_member_with_its_id_is_not_replaced() -> None:
    bench = two_static()
    assert bench.joined(bench.join("b1", instance="B")).generation == 1
    assert not bench.stores


def test_the_waiting_join_of_who_is_replaced_is_fenced() -> None:
    bench = two_static()
    first = bench.join("b1", instance="B", protocols=RANGE_OF_OTHERS)
    second = bench.join(fresh="b2", instance="B")
    reply = bench.joined(first)
    assert (reply.error_code, reply.member_id) == (FENCED, "b1")
    bench.join("a1", instance="A")
    assert bench.joined(second).member_id == "b2"


def test_the_waiting_sync_of_who_is_replaced_is_fenced_and_there_is_another_rebalance() -> None:
    bench = GroupBench()
    bench.join(fresh="a1", instance="A")
    bench.join(fresh="b1", instance="B")
    bench.finish_joining()
    sync = bench.sync("b1", instance="B")
    bench.join(fresh="b2", instance="B")
    assert bench.synced(sync).error_code is FENCED
    assert bench.is_in(ClassicState.PREPARING_REBALANCE), "the leader may know the old id"


def test_coming_back_with_another_protocol_rebalances() -> None:
    bench = GroupBench()
    both = (("range", b""), ("sticky", b""))
    bench.join(fresh="a1", instance="A", protocols=both)
    bench.join(fresh="b1", instance="B", protocols=both)
    bench.finish_joining()
    bench.sync_all("a1", "b1")
    token = bench.join(fresh="b2", instance="B", protocols=(("sticky", b""),))
    assert token in bench.waiting
    assert not bench.stores
    assert bench.is_in(ClassicState.PREPARING_REBALANCE)
    bench.join("a1", instance="A", protocols=both)
    assert bench.joined(token).protocol_name == "sticky"


def test_coming_back_twice_before_the_first_is_stored_fences_the_first() -> None:
    bench = two_static()
    first = bench.join(fresh="b2", instance="B")
    second = bench.join(fresh="b3", instance="B")
    assert bench.joined(first).error_code is FENCED
    bench.finish_store()
    assert second in bench.waiting
    bench.finish_store()
    assert bench.joined(second).member_id == "b3"
    assert ids(bench) == ["a1", "b3"]


@pytest.mark.parametrize(("name", "instance"), [("a1", "A"), ("b1", "B")])
def test_a_failed_store_gives_the_place_back(name: str, instance: str) -> None:
    bench = two_static()
    before = bench.group.members()
    token = bench.join(fresh="new", instance=instance, session_ms=20_000, protocols=RANGE_OF_OTHERS)
    bench.finish_store(ErrorCode.COORDINATOR_NOT_AVAILABLE)
    reply = bench.joined(token)
    assert (reply.error_code, reply.member_id) == (ErrorCode.COORDINATOR_NOT_AVAILABLE, "")
    assert bench.group.members() == before
    assert bench.group.leader == "a1"
    assert bench.heartbeat(name, instance=instance) is NONE
    assert bench.is_in(ClassicState.STABLE)


def test_a_rebalance_that_begins_before_the_store_ends_answers_who_came_back() -> None:
    for code in (NONE, ErrorCode.NOT_COORDINATOR):
        bench = two_static()
        token = bench.join(fresh="b2", instance="B")
        bench.join("a1", instance="A")
        assert bench.joined(token).generation == 2
        bench.finish_store(code)
        assert ids(bench) == ["a1", "b2"]
        assert bench.heartbeat("b2", instance="B") is NONE


def test_a_store_that_fails_while_who_came_back_waits_in_a_rebalance_takes_nothing_back() -> None:
    bench = two_static()
    token = bench.join(fresh="b2", instance="B")
    bench.join(fresh="c", version=3)
    bench.finish_store(ErrorCode.NOT_COORDINATOR)
    assert token in bench.waiting
    bench.join("a1", instance="A")
    assert bench.joined(token).generation == 2


def test_a_store_that_ends_long_after_its_member_was_answered_changes_nothing() -> None:
    bench = two_static()
    bench.join(fresh="b2", instance="B")
    bench.join("a1", instance="A")
    bench.sync("a1", {"a1": b"1", "b2": b"2"}, instance="A")
    bench.stores.rotate()
    bench.finish_store()
    assert bench.is_in(ClassicState.STABLE)
    assert bench.finish_store(ErrorCode.NOT_COORDINATOR) == ()
    assert ids(bench) == ["a1", "b2"]


def test_who_came_back_has_its_whole_session_timeout_from_its_reply() -> None:
    bench = two_static()
    bench.join(fresh="b2", instance="B")
    for _ in range(5):
        bench.heartbeat("a1", instance="A")
        bench.advance(5_000)
    bench.heartbeat("a1", instance="A")
    bench.finish_store()
    bench.advance(SESSION_TIMEOUT_MS - 1)
    assert ids(bench) == ["a1", "b2"]
    bench.advance(1)
    assert bench.is_in(ClassicState.EMPTY)


def test_a_static_member_that_is_away_stays_in_a_rebalance_and_is_not_led_by_it() -> None:
    bench = two_static()
    token = bench.join("b1", instance="B", protocols=RANGE_OF_OTHERS)
    while token in bench.waiting:
        bench.heartbeat("a1", instance="A")
        bench.advance(1_000)
    reply = bench.joined(token)
    assert reply.leader == "b1"
    assert [member.member_id for member in reply.members] == ["a1", "b1"]


@pytest.mark.parametrize("rebalance_ms", [0, 60_000])
def test_a_rebalance_of_absent_static_members_ends_with_their_sessions(rebalance_ms: int) -> None:
    bench = GroupBench()
    bench.join(fresh="a1", instance="A", rebalance_ms=60_000)
    bench.add_member("b", rebalance_ms=60_000)
    bench.finish_joining()
    bench.sync_all("a1", "b")
    bench.group._members.by_id["a1"].rebalance_timeout_ms = rebalance_ms  # pyright: ignore[reportPrivateUsage]
    bench.leave("b")
    assert bench.is_in(ClassicState.PREPARING_REBALANCE)
    assert len(bench.advance(SESSION_TIMEOUT_MS)) < 20
    bench.advance(60_000)
    assert bench.is_in(ClassicState.EMPTY)


@pytest.mark.parametrize(
    ("member_id", "instance", "code"),
    [
        ("", "B", NONE),
        ("b1", "B", NONE),
        ("b1", None, NONE),
        ("x", "B", FENCED),
        ("", "C", ErrorCode.UNKNOWN_MEMBER_ID),
        ("b1", "C", ErrorCode.UNKNOWN_MEMBER_ID),
        ("b1", "A", FENCED),
    ],
)
def test_removing_by_name(member_id: str, instance: str | None, code: ErrorCode) -> None:
    bench = two_static()
    reply = bench.leave(LeavingMember(member_id=member_id, group_instance_id=instance))
    (left,) = reply.members
    assert (left.member_id, left.group_instance_id, left.error_code) == (member_id, instance, code)
    assert ids(bench) == (["a1"] if code is NONE else ["a1", "b1"])


def test_a_name_is_free_again_when_its_member_left() -> None:
    bench = two_static()
    bench.leave(LeavingMember(member_id="", group_instance_id="B"))
    bench.join(fresh="b2", instance="B")
    bench.join("a1", instance="A")
    assert ids(bench) == ["a1", "b2"]


def test_names_are_known_after_a_restart() -> None:
    bench = two_static()
    bench.restart()
    bench.join(fresh="b2", instance="B")
    bench.finish_store()
    assert bench.heartbeat("b1", instance="B") is FENCED
    assert bench.synced(bench.sync("b2", instance="B")).assignment == b"b1"
