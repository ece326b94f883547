"""A classic group's answers to all but JoinGroup: each error, each state; what is described and restored."""

import pytest
from tests.support.classic_groups import REBALANCE_TIMEOUT_MS, SESSION_TIMEOUT_MS, GroupBench
from tests.support.classic_states import Put, completing, dead, empty, in_state, preparing, stable

from penstock.broker.groups.classic_events import ClassicLimits, ClassicState, LeavingMember, TokenAbandoned
from penstock.protocol.errors import ErrorCode

NONE = ErrorCode.NONE


# SyncGroup.


@pytest.mark.parametrize(
    ("put", "member_id", "instance", "generation", "protocol_type", "protocol_name", "code"),
    [
        (empty, "a", None, 2, None, None, ErrorCode.UNKNOWN_MEMBER_ID),
        (completing, "x", None, 1, None, None, ErrorCode.UNKNOWN_MEMBER_ID),
        (completing, "a", "i", 1, None, None, ErrorCode.UNKNOWN_MEMBER_ID),
        (completing, "a", None, 0, None, None, ErrorCode.ILLEGAL_GENERATION),
        (completing, "a", None, 2, None, None, ErrorCode.ILLEGAL_GENERATION),
        (stable, "b", None, 0, None, None, ErrorCode.ILLEGAL_GENERATION),
        (preparing, "b", None, 1, None, None, ErrorCode.REBALANCE_IN_PROGRESS),
        (preparing, "b", None, 0, None, None, ErrorCode.ILLEGAL_GENERATION),
        (completing, "a", None, 1, "connect", None, ErrorCode.INCONSISTENT_GROUP_PROTOCOL),
        (completing, "a", None, 1, "consumer", "sticky", ErrorCode.INCONSISTENT_GROUP_PROTOCOL),
        (stable, "a", None, 1, None, "sticky", ErrorCode.INCONSISTENT_GROUP_PROTOCOL),
        (dead, "a", None, 1, None, None, ErrorCode.COORDINATOR_NOT_AVAILABLE),
    ],
)
def test_sync_is_refused(
    put: Put,
    member_id: str,
    instance: str | None,
    generation: int,
    protocol_type: str | None,
    protocol_name: str | None,
    code: ErrorCode,
) -> None:
    bench = in_state(put)
    token = bench.sync(
        member_id,
        {"a": b"everything"},
        generation=generation,
        instance=instance,
        protocol_type=protocol_type,
        protocol_name=protocol_name,
    )
    reply = bench.synced(token)
    assert (reply.error_code, reply.assignment, reply.protocol_name) == (code, b"", None)
    assert not bench.stores


def test_the_assignment_is_handed_out_when_it_is_stored_and_not_before() -> None:
    bench = in_state(completing)
    b = bench.sync("b")
    a = bench.sync(
        "a", {"a": b"1", "b": b"2", "stranger": b"3"}, protocol_type="consumer", protocol_name="range"
    )
    assert {a, b} <= bench.waiting
    stored = bench.stores[0].snapshot
    assert (stored.generation, stored.leader, stored.protocol_type) == (1, "a", "consumer")
    assert [(m.member_id, m.assignment) for m in stored.members] == [("a", b"1"), ("b", b"2")]
    bench.finish_store()
    assert (bench.synced(a).assignment, bench.synced(b).assignment) == (b"1", b"2")
    assert (bench.synced(a).protocol_type, bench.synced(a).protocol_name) == ("consumer", "range")
    assert bench.is_in(ClassicState.STABLE)


def test_a_follower_alone_starts_nothing() -> None:
    bench = in_state(completing)
    token = bench.sync("b", {"b": b"all mine"})
    assert token in bench.waiting
    assert not bench.stores


def test_who_syncs_late_gets_what_was_assigned() -> None:
    bench = in_state(completing)
    bench.sync("a", {"a": b"1", "b": b"2"})
    bench.finish_store()
    assert bench.synced(bench.sync("b")).assignment == b"2"


def test_a_member_that_the_leader_forgot_gets_an_empty_assignment() -> None:
    bench = in_state(completing)
    b = bench.sync("b")
    bench.sync("a", {"a": b"1"})
    bench.finish_store()
    assert bench.synced(b).assignment == b""


def test_a_second_assignment_for_a_generation_is_dropped() -> None:
    bench = in_state(completing)
    first = bench.sync("a", {"a": b"1"})
    second = bench.sync("a", {"a": b"2"})
    assert bench.synced(first).error_code is ErrorCode.NOT_COORDINATOR
    assert len(bench.stores) == 1
    bench.finish_store()
    assert bench.synced(second).assignment == b"1"
    assert bench.synced(bench.sync("a", {"a": b"3"})).assignment == b"1"
    assert not bench.stores


@pytest.mark.parametrize("code", [ErrorCode.COORDINATOR_NOT_AVAILABLE, ErrorCode.NOT_COORDINATOR])
def test_a_failed_store_tells_who_waits_and_rebalances(code: ErrorCode) -> None:
    bench = in_state(completing)
    b = bench.sync("b")
    a = bench.sync("a", {"a": b"1", "b": b"2"})
    bench.finish_store(code)
    assert (bench.synced(a).error_code, bench.synced(b).error_code) == (code, code)
    assert bench.synced(a).assignment == b""
    assert bench.is_in(ClassicState.PREPARING_REBALANCE)
    bench.join("a")
    bench.join("b")
    assert bench.group.generation == 2


def test_a_store_that_ends_after_its_rebalance_changes_nothing() -> None:
    bench = in_state(completing)
    a = bench.sync("a", {"a": b"1", "b": b"2"})
    bench.leave("b")
    assert bench.synced(a).error_code is ErrorCode.REBALANCE_IN_PROGRESS
    bench.finish_store()
    assert bench.is_in(ClassicState.PREPARING_REBALANCE)
    bench.join("a")
    again = bench.sync("a", {"a": b"3"})
    bench.finish_store()
    assert bench.synced(again).assignment == b"3"


def test_a_late_failure_of_an_old_store_does_not_touch_the_next_generation() -> None:
    bench = in_state(completing)
    bench.sync("a", {"a": b"1"})
    bench.leave("b")
    bench.join("a")
    again = bench.sync("a", {"a": b"2"})
    bench.finish_store(ErrorCode.COORDINATOR_NOT_AVAILABLE)
    assert again in bench.waiting
    bench.finish_store()
    assert bench.synced(again).assignment == b"2"


def test_who_does_not_sync_in_time_is_out() -> None:
    bench = in_state(completing)
    a = bench.sync("a", {"a": b"1"})
    bench.finish_store()
    assert bench.synced(a).assignment == b"1"
    while bench.is_in(ClassicState.STABLE):
        assert bench.heartbeat("a") is NONE
        assert bench.heartbeat("b") is NONE
        bench.advance(5_000)
    assert bench.is_in(ClassicState.PREPARING_REBALANCE)
    assert bench.heartbeat("b") is ErrorCode.UNKNOWN_MEMBER_ID
    assert bench.heartbeat("a") is ErrorCode.REBALANCE_IN_PROGRESS


def test_a_leader_that_does_not_sync_in_time_is_out_and_the_others_hear_of_it() -> None:
    bench = in_state(completing)
    started_ms = bench.now_ms
    b = bench.sync("b")
    while b in bench.waiting:
        bench.heartbeat("a")
        bench.advance(1_000)
        assert bench.now_ms - started_ms <= REBALANCE_TIMEOUT_MS
    assert bench.synced(b).error_code is ErrorCode.REBALANCE_IN_PROGRESS
    assert bench.group.leader == "b"
    assert bench.joined(bench.join("b")).generation == 2


# Heartbeat.


@pytest.mark.parametrize(
    ("put", "member_id", "instance", "generation", "code"),
    [
        (empty, "a", None, 2, ErrorCode.UNKNOWN_MEMBER_ID),
        (preparing, "b", None, 1, ErrorCode.REBALANCE_IN_PROGRESS),
        (preparing, "b", None, 2, ErrorCode.ILLEGAL_GENERATION),
        (completing, "a", None, 1, NONE),
        (stable, "a", None, 1, NONE),
        (stable, "a", None, 0, ErrorCode.ILLEGAL_GENERATION),
        (stable, "a", None, 2, ErrorCode.ILLEGAL_GENERATION),
        (stable, "x", None, 1, ErrorCode.UNKNOWN_MEMBER_ID),
        (stable, "", None, 1, ErrorCode.UNKNOWN_MEMBER_ID),
        (stable, "a", "i", 1, ErrorCode.UNKNOWN_MEMBER_ID),
        (dead, "a", None, 1, ErrorCode.COORDINATOR_NOT_AVAILABLE),
    ],
)
def test_heartbeat(put: Put, member_id: str, instance: str | None, generation: int, code: ErrorCode) -> None:
    bench = in_state(put)
    assert bench.heartbeat(member_id, generation=generation, instance=instance) is code


@pytest.mark.parametrize("sign_of_life", ["heartbeat", "commit", "sync"])
def test_a_sign_of_life_is_good_for_another_session_timeout(sign_of_life: str) -> None:
    bench = in_state(stable)
    bench.advance(SESSION_TIMEOUT_MS - 1)
    for name in ("a", "b") if sign_of_life == "heartbeat" else ():
        assert bench.heartbeat(name) is NONE
    for name in ("a", "b") if sign_of_life == "commit" else ():
        assert bench.commit(name, 1) is NONE
    for name in ("a", "b") if sign_of_life == "sync" else ():
        assert bench.synced(bench.sync(name)).assignment == name.encode()
    bench.advance(SESSION_TIMEOUT_MS - 1)
    assert bench.is_in(ClassicState.STABLE)
    bench.advance(1)
    assert bench.is_in(ClassicState.EMPTY)


def test_a_heartbeat_that_is_read_late_still_counts() -> None:
    bench = in_state(stable)
    bench.now_ms += SESSION_TIMEOUT_MS  # the shell was busy
    assert bench.heartbeat("a") is NONE
    assert bench.heartbeat("b") is ErrorCode.UNKNOWN_MEMBER_ID, "b had its time; a's step looked at the clock"


@pytest.mark.parametrize("code", [ErrorCode.ILLEGAL_GENERATION, ErrorCode.FENCED_INSTANCE_ID])
def test_a_refused_heartbeat_keeps_nobody_alive(code: ErrorCode) -> None:
    bench = GroupBench()
    bench.join(fresh="s", instance="i")
    bench.advance(100)
    bench.sync_all("s")
    bench.advance(SESSION_TIMEOUT_MS - 1)
    if code is ErrorCode.ILLEGAL_GENERATION:
        assert bench.heartbeat("s", generation=7) is code
    else:
        assert bench.heartbeat("other", instance="i") is code
    bench.advance(1)
    assert bench.is_in(ClassicState.EMPTY)


def test_who_waits_is_not_expected_to_heartbeat() -> None:
    bench = in_state(stable)
    a = bench.join("a")
    for _ in range(11):
        bench.heartbeat("b")
        bench.advance(5_000)
    assert a in bench.waiting
    bench.advance(5_000)
    assert bench.joined(a).error_code is NONE
    bench.advance(SESSION_TIMEOUT_MS - 1)
    assert bench.is_in(ClassicState.COMPLETING_REBALANCE), "a has its whole session timeout again"


def test_a_slow_log_costs_nobody_its_session() -> None:
    bench = in_state(completing)
    a, b = bench.sync("a", {"a": b"1", "b": b"2"}), bench.sync("b")
    bench.advance(2 * SESSION_TIMEOUT_MS)
    assert {a, b} <= bench.waiting
    bench.finish_store()
    bench.advance(SESSION_TIMEOUT_MS - 1)
    assert len(bench.group.members()) == 2
    bench.advance(1)
    assert bench.is_in(ClassicState.EMPTY)


def test_a_new_member_whose_client_gave_up_waits_five_minutes_at_most() -> None:
    bench = GroupBench(ClassicLimits(group_initial_rebalance_delay_ms=3_600_000))
    token = bench.join(fresh="a", version=3, rebalance_ms=3_600_000)
    bench.advance(299_999)
    assert token in bench.waiting
    bench.advance(1)
    assert bench.joined(token).error_code is ErrorCode.UNKNOWN_MEMBER_ID
    assert bench.joined(token).member_id == ""


def test_a_crashed_leader_is_replaced() -> None:
    bench = in_state(stable)
    bench.advance(5_000)
    bench.heartbeat("b")
    bench.advance(5_000)
    assert bench.heartbeat("b") is ErrorCode.REBALANCE_IN_PROGRESS
    reply = bench.joined(bench.join("b"))
    assert (reply.leader, [m.member_id for m in reply.members]) == ("b", ["b"])


def test_members_that_do_not_rejoin_in_time_are_out() -> None:
    bench = in_state(preparing)
    while bench.is_in(ClassicState.PREPARING_REBALANCE):
        bench.heartbeat("b")
        bench.advance(5_000)
    assert [member.member_id for member in bench.group.members()] == ["a"]


# LeaveGroup.


@pytest.mark.parametrize(
    ("put", "leaving", "codes"),
    [
        (stable, [("a", None)], [NONE]),
        (stable, [("a", None), ("b", None)], [NONE, NONE]),
        (stable, [("a", None), ("a", None)], [NONE, ErrorCode.UNKNOWN_MEMBER_ID]),
        (stable, [("x", None), ("b", None)], [ErrorCode.UNKNOWN_MEMBER_ID, NONE]),
        (stable, [("", None)], [ErrorCode.UNKNOWN_MEMBER_ID]),
        (stable, [("", "i")], [ErrorCode.UNKNOWN_MEMBER_ID]),
        (stable, [("a", "i")], [ErrorCode.UNKNOWN_MEMBER_ID]),
        (stable, [], []),
        (preparing, [("b", None)], [NONE]),
        (completing, [("b", None)], [NONE]),
        (empty, [("a", None)], [ErrorCode.UNKNOWN_MEMBER_ID]),
    ],
)
def test_leave(put: Put, leaving: list[tuple[str, str | None]], codes: list[ErrorCode]) -> None:
    bench = in_state(put)
    reply = bench.leave(*(LeavingMember(member_id=m, group_instance_id=i) for m, i in leaving))
    assert reply.error_code is NONE
    assert [(m.member_id, m.group_instance_id) for m in reply.members] == leaving
    assert [m.error_code for m in reply.members] == codes
    present = {member.member_id for member in bench.group.members()}
    assert not present & {m for (m, _), code in zip(leaving, codes, strict=True) if code is NONE}


def test_leaving_a_dead_group_is_refused_as_a_whole() -> None:
    reply = in_state(dead).leave("a")
    assert (reply.error_code, reply.members) == (ErrorCode.COORDINATOR_NOT_AVAILABLE, ())


def test_a_refused_leave_disturbs_nobody() -> None:
    bench = in_state(stable)
    bench.leave("x")
    assert bench.is_in(ClassicState.STABLE)


def test_the_last_one_to_leave_makes_the_group_empty_and_that_is_stored() -> None:
    bench = in_state(stable)
    bench.leave("a", "b")
    assert bench.is_in(ClassicState.EMPTY)
    assert bench.group.empty_since_ms == bench.now_ms
    snapshot = bench.stores[0].snapshot
    assert (snapshot.generation, snapshot.protocol_type, snapshot.protocol_name) == (2, "consumer", None)
    assert (snapshot.leader, snapshot.members) == (None, ())
    assert bench.group.deadline_ms is None


@pytest.mark.parametrize("code", [NONE, ErrorCode.COORDINATOR_NOT_AVAILABLE])
def test_an_empty_group_stays_so_however_its_store_ends(code: ErrorCode) -> None:
    bench = in_state(stable)
    bench.leave("a", "b")
    assert bench.finish_store(code) == ()
    assert bench.is_in(ClassicState.EMPTY)


def test_who_leaves_while_its_requests_wait_is_answered() -> None:
    bench = in_state(preparing)
    join = bench.join("a")
    bench.leave("a")
    assert bench.joined(join).error_code is ErrorCode.UNKNOWN_MEMBER_ID
    bench = in_state(completing)
    sync = bench.sync("b")
    bench.leave("b")
    assert bench.synced(sync).error_code is ErrorCode.UNKNOWN_MEMBER_ID


def test_the_rebalance_goes_on_when_the_one_it_waits_for_leaves() -> None:
    bench = in_state(stable)
    a = bench.join("a")
    bench.leave("b")
    assert bench.joined(a).generation == 2


# Committing.


@pytest.mark.parametrize(
    ("put", "member_id", "generation", "instance", "code", "transactional_code"),
    [
        (empty, "", -1, None, NONE, NONE),
        (empty, "a", -1, None, NONE, NONE),
        (empty, "a", 2, None, ErrorCode.UNKNOWN_MEMBER_ID, ErrorCode.UNKNOWN_MEMBER_ID),
        (stable, "a", 1, None, NONE, NONE),
        (stable, "a", 0, None, ErrorCode.ILLEGAL_GENERATION, ErrorCode.ILLEGAL_GENERATION),
        (stable, "a", 2, None, ErrorCode.ILLEGAL_GENERATION, ErrorCode.ILLEGAL_GENERATION),
        (stable, "a", -1, None, ErrorCode.ILLEGAL_GENERATION, ErrorCode.ILLEGAL_GENERATION),
        (stable, "x", 1, None, ErrorCode.UNKNOWN_MEMBER_ID, ErrorCode.UNKNOWN_MEMBER_ID),
        (stable, "", 1, None, ErrorCode.UNKNOWN_MEMBER_ID, ErrorCode.UNKNOWN_MEMBER_ID),
        (stable, "a", 1, "i", ErrorCode.UNKNOWN_MEMBER_ID, ErrorCode.UNKNOWN_MEMBER_ID),
        (stable, "", -1, "i", ErrorCode.UNKNOWN_MEMBER_ID, ErrorCode.UNKNOWN_MEMBER_ID),
        (stable, "", -1, None, ErrorCode.UNKNOWN_MEMBER_ID, NONE),
        (preparing, "b", 1, None, NONE, NONE),
        (preparing, "", -1, None, ErrorCode.UNKNOWN_MEMBER_ID, NONE),
        (completing, "a", 1, None, ErrorCode.REBALANCE_IN_PROGRESS, NONE),
        (completing, "a", 0, None, ErrorCode.ILLEGAL_GENERATION, ErrorCode.ILLEGAL_GENERATION),
        (dead, "", -1, None, ErrorCode.COORDINATOR_NOT_AVAILABLE, ErrorCode.COORDINATOR_NOT_AVAILABLE),
    ],
)
def test_commit_fencing(
    put: Put,
    member_id: str,
    generation: int,
    instance: str | None,
    code: ErrorCode,
    transactional_code: ErrorCode,
) -> None:
    group = in_state(put).group
    assert group.check_commit(member_id, generation, instance) is code
    in_transaction = group.check_commit(member_id, generation, instance, is_transactional=True)
    assert in_transaction is transactional_code


# The end, and odd things.


def test_a_closed_group_answers_all_that_wait() -> None:
    bench = in_state(preparing)
    join = bench.join("b", protocols=(("range", b"x"),))
    assert bench.is_in(ClassicState.COMPLETING_REBALANCE)
    sync = bench.sync("b")
    bench.close(ErrorCode.NOT_COORDINATOR)
    assert bench.synced(sync).error_code is ErrorCode.NOT_COORDINATOR
    bench = in_state(preparing)
    join = bench.join("a")
    bench.close(ErrorCode.NOT_COORDINATOR)
    reply = bench.joined(join)
    assert (reply.error_code, reply.member_id) == (ErrorCode.NOT_COORDINATOR, "a")


def test_a_store_that_ends_after_the_group_was_closed_changes_nothing() -> None:
    bench = in_state(completing)
    bench.sync("a", {"a": b"1"})
    bench.close()
    assert bench.finish_store() == ()
    assert bench.is_in(ClassicState.DEAD)


def test_a_lost_connection_changes_nothing() -> None:
    bench = in_state(stable)
    token = bench.join("a")
    assert bench.step(TokenAbandoned(token=token)) == ()
    bench.join("b")
    assert bench.joined(token).generation == 2


def test_the_generation_after_the_largest_is_one() -> None:
    bench = in_state(stable)
    bench.group.generation = 2**31 - 1
    bench.join("a")
    token = bench.join("b")
    assert bench.joined(token).generation == 1


def test_a_group_at_rest_has_no_deadline() -> None:
    assert GroupBench().group.deadline_ms is None
    assert in_state(empty).group.deadline_ms is None


def test_heartbeats_do_not_wake_the_group_more_often_than_a_session_timeout() -> None:
    bench = in_state(stable)
    steps = 0
    for _ in range(100):
        for name in ("a", "b"):
            assert bench.heartbeat(name) is NONE
        steps += len(bench.advance(3_000))
    assert steps <= 300_000 // (SESSION_TIMEOUT_MS - 3_000) + 1


# Described.


def test_metadata_is_shown_while_the_group_is_stable() -> None:
    bench = GroupBench()
    bench.add_member("a", protocols=(("range", b"A"),))
    bench.advance(100)
    assert [(m.subscription, m.assignment) for m in bench.group.members()] == [(b"", b"")]
    bench.sync_all("a")
    (member,) = bench.group.members()
    assert (member.subscription, member.assignment) == (b"A", b"a")
    assert (member.client_id, member.client_host) == ("client", "/127.0.0.1")


# Restored.


def test_a_restored_group_is_as_it_was_stored_and_members_have_their_whole_session_timeout() -> None:
    bench = in_state(stable)
    before = bench.group.members()
    bench.advance(SESSION_TIMEOUT_MS - 1)
    bench.restart()
    group = bench.group
    assert (group.state, group.generation, group.leader) == (ClassicState.STABLE, 1, "a")
    assert (group.protocol_type, group.protocol_name) == ("consumer", "range")
    assert group.members() == before
    bench.advance(SESSION_TIMEOUT_MS - 1)
    assert bench.synced(bench.sync("b")).assignment == b"b"
    bench.advance(1)
    assert [member.member_id for member in group.members()] == ["b"], "nothing was heard of a"


@pytest.mark.parametrize(("age_ms", "since"), [(5_000, -5_000), (None, None)])
def test_a_restored_empty_group_knows_for_how_long(age_ms: int | None, since: int | None) -> None:
    bench = in_state(empty)
    bench.restart(state_age_ms=age_ms)
    assert bench.is_in(ClassicState.EMPTY)
    assert bench.group.empty_since_ms == (None if since is None else bench.now_ms + since)
    assert not bench.group.is_vacant
    assert bench.group.generation == 2
