"""A classic group's answers to JoinGroup: each error, each state; the initial delay and the size."""

import pytest
from tests.support.classic_groups import SESSION_TIMEOUT_MS, GroupBench
from tests.support.classic_states import Put, completing, dead, empty, in_state, preparing, stable

from penstock.broker.groups.classic_events import ClassicLimits, ClassicState
from penstock.protocol.errors import ErrorCode

NONE = ErrorCode.NONE
RANGE = (("range", b""),)


# JoinGroup.


@pytest.mark.parametrize(
    ("put", "member_id", "instance", "protocol_type", "protocols", "session_ms", "code", "answered_id"),
    [
        (empty, "", None, "consumer", RANGE, 5_999, ErrorCode.INVALID_SESSION_TIMEOUT, ""),
        (empty, "", None, "consumer", RANGE, 1_800_001, ErrorCode.INVALID_SESSION_TIMEOUT, ""),
        (stable, "a", None, "consumer", RANGE, 5_999, ErrorCode.INVALID_SESSION_TIMEOUT, "a"),
        (empty, "", None, "", RANGE, 6_000, ErrorCode.INCONSISTENT_GROUP_PROTOCOL, ""),
        (empty, "", None, "consumer", (), 6_000, ErrorCode.INCONSISTENT_GROUP_PROTOCOL, ""),
        (stable, "", None, "connect", RANGE, 6_000, ErrorCode.INCONSISTENT_GROUP_PROTOCOL, ""),
        (stable, "", None, "consumer", (("other", b""),), 6_000, ErrorCode.INCONSISTENT_GROUP_PROTOCOL, ""),
        (stable, "b", None, "consumer", (("other", b""),), 6_000, ErrorCode.INCONSISTENT_GROUP_PROTOCOL, "b"),
        (stable, "b", None, "consumer", (), 6_000, ErrorCode.INCONSISTENT_GROUP_PROTOCOL, "b"),
        (empty, "a", None, "consumer", RANGE, 6_000, ErrorCode.UNKNOWN_MEMBER_ID, "a"),
        (preparing, "x", None, "consumer", RANGE, 6_000, ErrorCode.UNKNOWN_MEMBER_ID, "x"),
        (completing, "x", None, "consumer", RANGE, 6_000, ErrorCode.UNKNOWN_MEMBER_ID, "x"),
        (stable, "x", None, "consumer", RANGE, 6_000, ErrorCode.UNKNOWN_MEMBER_ID, "x"),
        (stable, "a", "i", "consumer", RANGE, 6_000, ErrorCode.UNKNOWN_MEMBER_ID, "a"),
        (dead, "", None, "consumer", RANGE, 6_000, ErrorCode.COORDINATOR_NOT_AVAILABLE, ""),
        (dead, "a", None, "consumer", RANGE, 6_000, ErrorCode.COORDINATOR_NOT_AVAILABLE, "a"),
    ],
)
def test_join_is_refused(
    put: Put,
    member_id: str,
    instance: str | None,
    protocol_type: str,
    protocols: tuple[tuple[str, bytes], ...],
    session_ms: int,
    code: ErrorCode,
    answered_id: str,
) -> None:
    bench = in_state(put)
    before = (bench.group.state, bench.group.members())
    token = bench.join(
        member_id,
        instance=instance,
        protocol_type=protocol_type,
        protocols=protocols,
        session_ms=session_ms,
        version=3,
    )
    reply = bench.joined(token)
    assert (reply.error_code, reply.member_id, reply.generation) == (code, answered_id, -1)
    assert (reply.protocol_type, reply.protocol_name, reply.members, reply.leader) == (None, None, (), "")
    assert (bench.group.state, bench.group.members()) == before


@pytest.mark.parametrize("session_ms", [6_000, 1_800_000])
def test_session_timeout_bounds_are_inclusive(session_ms: int) -> None:
    bench = GroupBench()
    bench.join(session_ms=session_ms, version=3)
    assert bench.is_in(ClassicState.PREPARING_REBALANCE)


def test_a_dynamic_member_without_an_id_is_sent_back_for_one() -> None:
    bench = GroupBench()
    reply = bench.joined(bench.join(fresh="m"))
    assert (reply.error_code, reply.member_id) == (ErrorCode.MEMBER_ID_REQUIRED, "m")
    assert bench.is_in(ClassicState.EMPTY)
    assert not bench.group.is_vacant
    bench.join("m")
    assert bench.is_in(ClassicState.PREPARING_REBALANCE)


@pytest.mark.parametrize("version", [0, 3])
def test_old_versions_join_without_an_id(version: int) -> None:
    bench = GroupBench()
    token = bench.join(fresh="m", version=version)
    bench.advance(100)
    assert bench.joined(token).member_id == "m"


def test_a_pending_id_expires_with_its_session_timeout() -> None:
    bench = GroupBench()
    bench.join(fresh="m", session_ms=6_000)
    bench.advance(5_999)
    assert not bench.group.is_vacant
    bench.advance(1)
    assert bench.group.is_vacant
    assert bench.group.deadline_ms is None
    assert bench.joined(bench.join("m")).error_code is ErrorCode.UNKNOWN_MEMBER_ID


def test_a_pending_id_expires_after_others_have() -> None:
    bench = in_state(stable)
    bench.join(fresh="c", session_ms=30_000)
    bench.advance(SESSION_TIMEOUT_MS)
    assert bench.is_in(ClassicState.EMPTY)
    assert bench.group.deadline_ms is not None
    bench.advance(20_000)
    assert bench.group.deadline_ms is None


def test_a_pending_id_is_not_for_a_static_member() -> None:
    bench = in_state(stable)
    bench.join(fresh="m")
    token = bench.join("m", instance="i")
    assert bench.joined(token).error_code is ErrorCode.UNKNOWN_MEMBER_ID


def test_pending_ids_are_bounded_and_the_oldest_is_forgotten() -> None:
    bench = GroupBench(ClassicLimits(pending_member_max_count=2))
    for name in ("m1", "m2", "m3"):
        bench.join(fresh=name)
    assert bench.joined(bench.join("m1")).error_code is ErrorCode.UNKNOWN_MEMBER_ID
    token = bench.join("m2")
    assert token in bench.waiting


def test_a_rebalance_waits_for_pending_ids_and_no_longer_than_they_live() -> None:
    bench = in_state(stable)
    bench.join(fresh="c", session_ms=6_000)
    a, b = bench.join("a"), bench.join("b")
    bench.advance(5_999)
    assert {a, b} <= bench.waiting
    bench.advance(1)
    assert bench.joined(a).generation == bench.joined(b).generation == 2


def test_a_rebalance_ends_when_the_pending_member_leaves() -> None:
    bench = in_state(stable)
    bench.join(fresh="c")
    a, _ = bench.join("a"), bench.join("b")
    assert bench.leave("c").members[0].error_code is NONE
    assert bench.joined(a).generation == 2


def test_only_the_leader_sees_the_members_and_all_see_the_generation() -> None:
    bench = GroupBench()
    a = bench.add_member("a", protocols=(("range", b"A"), ("sticky", b"a")))
    b = bench.add_member("b", protocols=(("range", b"B"),))
    bench.finish_joining()
    leader, follower = bench.joined(a), bench.joined(b)
    assert [(m.member_id, m.group_instance_id, m.metadata) for m in leader.members] == [
        ("a", None, b"A"),
        ("b", None, b"B"),
    ]
    assert follower.members == ()
    for reply, name in ((leader, "a"), (follower, "b")):
        assert (reply.error_code, reply.generation, reply.leader, reply.member_id) == (NONE, 1, "a", name)
        assert (reply.protocol_type, reply.protocol_name) == ("consumer", "range")
        assert not reply.skip_assignment


@pytest.mark.parametrize(
    ("preferences", "chosen"),
    [
        (("xy", "xy"), "x"),
        (("yx", "xy", "yx"), "y"),
        (("yx", "xy"), "y"),  # a tie goes to the first member's
        (("xy", "y"), "y"),
        (("xyz", "zyx", "yz"), "y"),  # x is out; the first member votes y, the second z, the third y
        (("xyz", "zy", "zy"), "z"),
        (("xx", "x"), "x"),  # a name twice counts once
    ],
)
def test_the_protocol_that_all_support_and_most_prefer_is_chosen(
    preferences: tuple[str, ...], chosen: str
) -> None:
    bench = GroupBench()
    tokens = [
        bench.add_member(f"m{i}", protocols=tuple((name, name.encode()) for name in names))
        for i, names in enumerate(preferences)
    ]
    bench.finish_joining()
    assert {bench.joined(token).protocol_name for token in tokens} == {chosen}
    assert all(m.metadata == chosen.encode() for m in bench.joined(tokens[0]).members)


def test_the_first_of_two_metadata_under_one_name_counts() -> None:
    bench = GroupBench()
    token = bench.add_member("a", protocols=(("range", b"1"), ("range", b"2")))
    bench.advance(100)
    assert bench.joined(token).members[0].metadata == b"1"


def test_the_protocol_changes_when_a_member_leaves_that_held_it() -> None:
    bench = GroupBench()
    both = (("sticky", b""), ("range", b""))
    bench.add_member("a", protocols=both)
    bench.add_member("b", protocols=RANGE)
    bench.finish_joining()
    assert bench.group.protocol_name == "range"
    bench.leave("b")
    assert bench.joined(bench.join("a", protocols=both)).protocol_name == "sticky"


def test_an_empty_group_takes_any_protocol_type_again() -> None:
    bench = in_state(empty)
    bench.join(protocol_type="connect", protocols=(("default", b""),), version=3)
    assert bench.group.protocol_type == "connect"


def test_a_followers_rejoin_in_a_stable_group_returns_the_generation() -> None:
    bench = in_state(stable)
    reply = bench.joined(bench.join("b"))
    assert (reply.error_code, reply.generation, reply.leader, reply.members) == (NONE, 1, "a", ())
    assert bench.is_in(ClassicState.STABLE)


def test_a_leaders_rejoin_in_a_stable_group_rebalances() -> None:
    bench = in_state(stable)
    token = bench.join("a")
    assert token in bench.waiting
    assert bench.is_in(ClassicState.PREPARING_REBALANCE)


def test_a_followers_rejoin_with_other_metadata_rebalances() -> None:
    bench = in_state(stable)
    token = bench.join("b", protocols=(("range", b"more topics"),))
    assert token in bench.waiting
    assert bench.is_in(ClassicState.PREPARING_REBALANCE)


def test_a_rejoin_with_the_same_protocols_in_another_order_rebalances() -> None:
    bench = GroupBench()
    protocols = (("range", b""), ("sticky", b""))
    for name in ("a", "b"):
        bench.add_member(name, protocols=protocols)
    bench.finish_joining()
    bench.sync_all("a", "b")
    bench.join("b", protocols=protocols[::-1])
    assert bench.is_in(ClassicState.PREPARING_REBALANCE)


@pytest.mark.parametrize(("name", "seen"), [("a", ["a", "b"]), ("b", [])])
def test_a_lost_join_reply_is_given_again(name: str, seen: list[str]) -> None:
    bench = in_state(completing)
    reply = bench.joined(bench.join(name))
    assert (reply.error_code, reply.generation, reply.leader) == (NONE, 1, "a")
    assert [member.member_id for member in reply.members] == seen
    assert bench.is_in(ClassicState.COMPLETING_REBALANCE)


def test_a_rejoin_with_other_metadata_while_completing_rebalances_and_ends_the_syncs() -> None:
    bench = in_state(completing)
    waiting = bench.sync("b")
    bench.join("b", protocols=(("range", b"other"),))
    assert bench.synced(waiting).error_code is ErrorCode.REBALANCE_IN_PROGRESS
    assert bench.is_in(ClassicState.PREPARING_REBALANCE)


def test_a_repeated_join_takes_the_place_of_the_one_that_waits() -> None:
    bench = in_state(stable)
    first = bench.join("a")
    second = bench.join("a")
    assert bench.joined(first).error_code is ErrorCode.NOT_COORDINATOR
    assert second in bench.waiting
    bench.join("b")
    assert bench.joined(second).generation == 2


# The initial delay.


def test_the_initial_delay_is_drawn_out_while_members_come() -> None:
    bench = GroupBench(ClassicLimits(group_initial_rebalance_delay_ms=3_000))
    first = bench.join(fresh="a", version=3)
    for name in ("b", "c"):
        bench.advance(2_999)
        bench.join(fresh=name, version=3)
        bench.advance(1)
        assert first in bench.waiting
    bench.advance(2_999)
    assert first in bench.waiting
    bench.advance(1)
    assert len(bench.joined(first).members) == 3


def test_the_initial_delay_ends_with_the_rebalance_timeout() -> None:
    bench = GroupBench(ClassicLimits(group_initial_rebalance_delay_ms=3_000))
    first = bench.join(fresh="a", version=3, rebalance_ms=10_000)
    for i in range(9):
        bench.advance(1_000)
        bench.join(fresh=f"b{i}", version=3, rebalance_ms=10_000)
    assert first in bench.waiting
    bench.advance(1_000)
    assert bench.joined(first).error_code is NONE


def test_no_initial_delay_means_none() -> None:
    bench = GroupBench(ClassicLimits(group_initial_rebalance_delay_ms=0))
    assert bench.joined(bench.add_member("a")).generation == 1


def test_a_group_that_became_empty_gets_the_initial_delay_again() -> None:
    bench = in_state(empty)
    token = bench.add_member("b")
    assert token in bench.waiting
    bench.advance(100)
    assert bench.joined(token).generation == 3


# group.max.size.


def test_a_full_group_takes_no_new_member() -> None:
    limits = ClassicLimits(group_max_size=2)
    for put in (stable, completing):
        bench = in_state(put, limits)
        reply = bench.joined(bench.join(version=3))
        assert (reply.error_code, reply.member_id) == (ErrorCode.GROUP_MAX_SIZE_REACHED, "")
        assert len(bench.group.members()) == 2


def test_a_full_group_forgets_the_pending_id_it_turns_away() -> None:
    bench = in_state(stable, ClassicLimits(group_max_size=3))
    for name in ("c", "d"):
        bench.join(fresh=name)
    bench.join("c")
    bench.join("a")
    bench.join("b")
    token = bench.join("d")
    assert bench.joined(token).error_code is ErrorCode.GROUP_MAX_SIZE_REACHED
    assert bench.is_in(ClassicState.COMPLETING_REBALANCE), "nobody is waited for"


def test_the_last_to_rejoin_a_group_that_is_over_its_size_is_out() -> None:
    bench = in_state(stable)
    bench.limits = ClassicLimits(group_max_size=1)
    bench.restart()
    assert bench.is_in(ClassicState.PREPARING_REBALANCE)
    b = bench.join("b")
    a = bench.join("a")
    assert bench.joined(a).error_code is ErrorCode.GROUP_MAX_SIZE_REACHED
    assert bench.joined(b).leader == "b"
    assert [member.member_id for member in bench.group.members()] == ["b"]


def test_a_member_that_waits_may_ask_again_in_a_full_group() -> None:
    bench = in_state(preparing)
    bench.group.limits = ClassicLimits(group_max_size=1)
    assert bench.join("a") in bench.waiting
