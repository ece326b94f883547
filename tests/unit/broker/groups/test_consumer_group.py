"""Each answer that a group of the consumer protocol gives, one failure at a time. Sequences of any kind are in the property model."""

import pytest
from tests.support.consumer_group_members import Client, FakeTopics, GroupBench, flat

from penstock.broker.groups.classic_events import GroupClosed, TimePassed
from penstock.broker.groups.consumer_group_events import (
    LEAVE_EPOCH,
    NOTHING,
    STATIC_LEAVE_EPOCH,
    ConsumerGroupLimits,
    ConsumerGroupState,
    ConsumerHeartbeat,
    ConsumerHeartbeatReply,
    CurrentAssignment,
    CurrentRecord,
    DescribeReply,
    DescribeRequested,
    GroupEpochRecord,
    MemberState,
    RegexRecord,
    TargetEpochRecord,
    TargetRecord,
)
from penstock.protocol.errors import ErrorCode

TOPIC = FakeTopics(t=1).put("t", 1)


@pytest.fixture
def bench() -> GroupBench:
    """A group whose stores land at once, and a topic `t` of 4 partitions."""
    return GroupBench(FakeTopics(t=4))


def member(name: str = "a", *names: str, **settings: str) -> Client:
    """A client, subscribed to `t` unless told otherwise."""
    client = Client(name, names=names or ("t",), regex=settings.get("regex", ""))
    client.instance_id = settings.get("instance_id")
    return client


def send(bench: GroupBench, member_id: str = "a", epoch: int = 0, **fields: object) -> ConsumerHeartbeatReply:
    """A heartbeat as it is given."""
    token = bench.token()
    values: dict[str, object] = {"token": token, "member_id": member_id, "member_epoch": epoch, **fields}
    if epoch == 0:
        values = {"topic_names": ("t",), "rebalance_timeout_ms": 60_000, "owned": NOTHING, **values}
    bench.step(ConsumerHeartbeat(**values))  # type: ignore[arg-type]
    reply = bench.replies.pop(token)
    assert isinstance(reply, ConsumerHeartbeatReply)
    return reply


def describe(bench: GroupBench) -> DescribeReply:
    """The group as it is shown."""
    token = bench.token()
    bench.step(DescribeRequested(token=token))
    reply = bench.replies.pop(token)
    assert isinstance(reply, DescribeReply)
    return reply


# Joining and living.


def test_the_first_member_gets_everything_at_once(bench: GroupBench) -> None:
    reply = send(bench)
    assert (reply.error_code, reply.member_id, reply.member_epoch) == (ErrorCode.NONE, "a", 1)
    assert len(flat(reply.assignment)) == 4
    assert bench.group.state is ConsumerGroupState.STABLE


def test_a_heartbeat_that_changes_nothing_stores_nothing_and_tells_nothing(bench: GroupBench) -> None:
    send(bench)
    count = len(bench.log)
    reply = send(bench, epoch=1)
    assert (reply.member_epoch, reply.assignment) == (1, None)
    assert len(bench.log) == count


def test_a_full_heartbeat_is_told_its_assignment_again(bench: GroupBench) -> None:
    first = send(bench)
    again = send(bench, epoch=1, topic_names=("t",), rebalance_timeout_ms=60_000, owned=first.assignment)
    assert again.assignment == first.assignment


def test_what_is_revoked_is_given_only_when_it_was_let_go(bench: GroupBench) -> None:
    a, b = member("a"), member("b")
    bench.beat(a)
    a.reconcile()
    joined = bench.beat(b)
    assert (joined.member_epoch, flat(joined.assignment)) == (2, set())
    told = bench.beat(a)
    assert (told.member_epoch, len(flat(told.assignment))) == (1, 2)
    assert describe(bench).state is ConsumerGroupState.RECONCILING
    assert bench.beat(b).assignment is None, "nothing is free yet"
    a.reconcile()
    acknowledged = bench.beat(a)
    assert (acknowledged.member_epoch, acknowledged.assignment) == (2, None)
    given = bench.beat(b)
    assert flat(given.assignment).isdisjoint(a.owned)
    assert len(flat(given.assignment)) == 2
    assert bench.group.state is ConsumerGroupState.STABLE


def test_a_member_that_says_nothing_of_what_it_owns_has_let_nothing_go(bench: GroupBench) -> None:
    a, b = member("a"), member("b")
    bench.beat(a)
    bench.beat(b)
    assert send(bench, epoch=1).member_epoch == 1
    assert send(bench, epoch=1).member_epoch == 1
    assert bench.group.stored.current("a").state is MemberState.UNREVOKED_PARTITIONS


def test_fields_that_are_left_out_mean_unchanged(bench: GroupBench) -> None:
    send(bench, rack_id="r", server_assignor="range", client_id="c")
    send(bench, epoch=1, client_id="c")
    shown = describe(bench).members[0].metadata
    assert (shown.rack_id, shown.server_assignor, shown.topic_names) == ("r", "range", ("t",))
    assert shown.rebalance_timeout_ms == 60_000


def test_the_empty_expression_takes_the_one_before_back() -> None:
    bench = GroupBench(FakeTopics(t1=1, t2=1))
    client = member("a", "t1", regex="t.*")
    bench.settle(client)
    assert len(client.owned) == 2
    client.regex = ""
    bench.settle(client)
    assert len(client.owned) == 1
    assert not bench.group.stored.regexes


def test_a_member_may_join_again_without_having_left(bench: GroupBench) -> None:
    first = send(bench)
    again = send(bench)
    assert (again.member_epoch, again.assignment) == (1, first.assignment)


# Fencing.


@pytest.mark.parametrize(
    ("epoch", "owned", "code"),
    [
        (2, None, ErrorCode.NONE),
        (3, None, ErrorCode.FENCED_MEMBER_EPOCH),
        (1, None, ErrorCode.FENCED_MEMBER_EPOCH),
        (1, "subset", ErrorCode.NONE),
        (1, "other", ErrorCode.FENCED_MEMBER_EPOCH),
    ],
)
def test_only_the_epoch_or_a_lost_answer_passes(
    bench: GroupBench, epoch: int, owned: str | None, code: ErrorCode
) -> None:
    """The member went from epoch 1 to 2; whoever comes with 1 must own no more than was assigned."""
    a, b = member("a"), member("b")
    bench.settle(a)
    bench.beat(b)
    bench.settle(a, rounds=3)
    assert a.epoch == 2
    mine = bench.group.stored.current("a").assigned
    claims = {None: None, "subset": mine, "other": {TOPIC: frozenset({9})}}
    reply = send(bench, epoch=epoch, owned=claims[owned])
    assert reply.error_code is code
    assert (reply.error_message is None) == (code is ErrorCode.NONE)


def test_a_stranger_with_an_epoch_is_no_member(bench: GroupBench) -> None:
    assert send(bench, epoch=1).error_code is ErrorCode.UNKNOWN_MEMBER_ID
    assert send(bench, epoch=LEAVE_EPOCH).error_code is ErrorCode.UNKNOWN_MEMBER_ID
    assert not bench.log


def test_the_size_of_the_group_is_bounded_for_newcomers_only() -> None:
    bench = GroupBench(FakeTopics(t=1), ConsumerGroupLimits(max_size=1))
    assert send(bench).error_code is ErrorCode.NONE
    assert send(bench, "b").error_code is ErrorCode.GROUP_MAX_SIZE_REACHED
    assert send(bench, epoch=1).error_code is ErrorCode.NONE
    assert send(bench).error_code is ErrorCode.NONE


def test_what_is_refused_leaves_nothing_behind(bench: GroupBench) -> None:
    assert send(bench, topic_regex="(").error_code is ErrorCode.INVALID_REGULAR_EXPRESSION
    assert send(bench, server_assignor="mine").error_code is ErrorCode.UNSUPPORTED_ASSIGNOR
    assert not bench.log
    assert bench.group.is_unused
    assert bench.group.deadline_ms is None


# Time.


def test_a_silent_member_expires_and_its_partitions_go_on(bench: GroupBench) -> None:
    a, b = member("a"), member("b")
    bench.settle(a, b)
    for _ in range(3):
        bench.pass_time(20_000)
        bench.settle(b, rounds=2)
    assert set(bench.group.stored.members) == {"b"}
    assert len(b.owned) == 4
    assert bench.beat(a).error_code is ErrorCode.UNKNOWN_MEMBER_ID


def test_every_heartbeat_puts_the_session_off(bench: GroupBench) -> None:
    send(bench)
    for _ in range(10):
        bench.pass_time(44_999)
        assert send(bench, epoch=1).error_code is ErrorCode.NONE
    bench.pass_time(45_000)
    assert send(bench, epoch=1).error_code is ErrorCode.UNKNOWN_MEMBER_ID
    assert bench.group.state is ConsumerGroupState.EMPTY


def test_who_does_not_revoke_in_time_is_fenced_though_it_writes(bench: GroupBench) -> None:
    a, b = member("a"), member("b")
    bench.settle(a)
    bench.beat(b)
    bench.beat(a)
    for _ in range(7):
        bench.pass_time(10_000)
        bench.settle(b, rounds=1)
        send(bench, epoch=1)
    assert send(bench, epoch=1).error_code is ErrorCode.UNKNOWN_MEMBER_ID
    bench.settle(b)
    assert len(b.owned) == 4


def test_who_revokes_in_time_is_left_in_peace(bench: GroupBench) -> None:
    a, b = member("a"), member("b")
    bench.settle(a)
    bench.beat(b)
    bench.beat(a)
    bench.settle(a, b)
    for _ in range(8):
        bench.pass_time(10_000)
        bench.settle(a, b, rounds=1)
    assert set(bench.group.stored.members) == {"a", "b"}


def test_a_group_at_rest_wants_no_timer(bench: GroupBench) -> None:
    assert bench.group.deadline_ms is None
    send(bench)
    assert bench.group.deadline_ms == bench.now_ms + 45_000
    send(bench, epoch=LEAVE_EPOCH)
    assert bench.group.deadline_ms is None
    assert bench.group.empty_since_ms == bench.now_ms


# Leaving.


def test_who_leaves_frees_its_partitions_at_once(bench: GroupBench) -> None:
    a, b = member("a"), member("b")
    bench.settle(a, b)
    reply = send(bench, "a", LEAVE_EPOCH)
    assert (reply.error_code, reply.member_epoch) == (ErrorCode.NONE, LEAVE_EPOCH)
    assert bench.group.state is ConsumerGroupState.ASSIGNING
    bench.beat(b)
    assert len(b.given) == 4


# Static members.


def test_a_static_member_is_back_without_a_rebalance(bench: GroupBench) -> None:
    a, b = member("a", instance_id="i"), member("b")
    bench.settle(a, b)
    owned, epoch = a.owned, bench.group.stored.epoch
    assert send(bench, "a", STATIC_LEAVE_EPOCH, instance_id="i").member_epoch == STATIC_LEAVE_EPOCH
    bench.settle(b)
    assert len(b.owned) == 2, "its partitions wait for it"
    successor = member("a2", instance_id="i")
    bench.beat(successor)
    assert (successor.given, successor.epoch) == (owned, epoch)
    assert bench.group.stored.epoch == epoch
    assert send(bench, "a", epoch, instance_id="i").error_code is ErrorCode.FENCED_INSTANCE_ID
    assert send(bench, "a", LEAVE_EPOCH, instance_id="i").error_code is ErrorCode.FENCED_INSTANCE_ID


def test_an_instance_id_in_use_is_not_given_away(bench: GroupBench) -> None:
    bench.settle(member("a", instance_id="i"))
    assert send(bench, "b", instance_id="i").error_code is ErrorCode.UNRELEASED_INSTANCE_ID
    assert send(bench, "b", 1, instance_id="j").error_code is ErrorCode.UNKNOWN_MEMBER_ID


def test_a_static_member_that_stays_away_expires(bench: GroupBench) -> None:
    a, b = member("a", instance_id="i"), member("b")
    bench.settle(a, b)
    send(bench, "a", STATIC_LEAVE_EPOCH, instance_id="i")
    for _ in range(4):
        bench.pass_time(15_000)
        bench.settle(b, rounds=2)
    assert len(b.owned) == 4


def test_a_static_member_that_steps_out_while_revoking_lets_go(bench: GroupBench) -> None:
    a, b = member("a", instance_id="i"), member("b")
    bench.settle(a)
    bench.beat(b)
    bench.beat(a)
    send(bench, "a", STATIC_LEAVE_EPOCH, instance_id="i")
    bench.beat(b)
    assert len(b.given) == 2


# Topics and regular expressions.


def test_topics_that_come_grow_and_go_change_the_target() -> None:
    bench = GroupBench(FakeTopics(t=1))
    client = member("a", "t", "u")
    bench.settle(client)
    assert len(client.owned) == 1
    for name, partition_count, count in (("u", 2, 3), ("t", 4, 6)):
        bench.topics.put(name, partition_count)
        bench.change_topics()
        bench.settle(client)
        assert len(client.owned) == count
    bench.topics.delete("u")
    bench.change_topics()
    bench.settle(client)
    assert len(client.owned) == 4


def test_a_topic_made_anew_is_another_topic() -> None:
    bench = GroupBench(FakeTopics(t=1))
    client = member("a")
    bench.settle(client)
    before = set(client.owned)
    bench.topics.delete("t")
    bench.topics.put("t", 1)
    bench.change_topics()
    bench.settle(client)
    assert len(client.owned) == 1
    assert client.owned.isdisjoint(before)


def test_topics_of_others_bump_no_epoch(bench: GroupBench) -> None:
    client = member("a")
    bench.settle(client)
    bench.topics.put("other", 3)
    bench.change_topics()
    count = len(bench.log)
    bench.settle(client)
    assert len(bench.log) == count


def test_a_new_topic_that_an_expression_means_is_taken_in() -> None:
    bench = GroupBench(FakeTopics(t1=1, x=1))
    client = Client("a", regex="t.*")
    bench.settle(client)
    assert len(client.owned) == 1
    bench.topics.put("t2", 1)
    bench.topics.put("not", 1)
    bench.change_topics()
    bench.settle(client)
    assert len(client.owned) == 2
    assert bench.group.is_subscribed_to("t2")
    assert not bench.group.is_subscribed_to("not")


def test_an_expression_is_for_the_whole_name() -> None:
    bench = GroupBench(FakeTopics(t1=1, xt1=1))
    client = Client("a", regex="t1")
    bench.settle(client)
    assert len(client.owned) == 1


def test_an_expression_nobody_wants_is_forgotten() -> None:
    bench = GroupBench(FakeTopics(t1=1))
    client = Client("a", regex="t.*")
    bench.settle(client)
    send(bench, epoch=LEAVE_EPOCH)
    assert bench.log[-1] == RegexRecord("t.*", None)


def test_the_assignor_that_most_members_ask_for_is_taken() -> None:
    bench = GroupBench(FakeTopics(t=3, u=3))
    clients = [member(name, "t", "u") for name in "abc"]
    assert describe(bench).assignor == "uniform"
    clients[0].assignor = clients[1].assignor = "range"
    clients[2].assignor = "uniform"
    bench.settle(*clients)
    assert describe(bench).assignor == "range"
    for client in clients:
        assert len({index for _, index in client.owned}) == 1, "the same partition of both topics"


# Stores.


def test_no_answer_before_its_store_has_landed(bench: GroupBench) -> None:
    bench.lands_at_once = False
    bench.step(member("a").heartbeat(1))
    bench.step(member("b").heartbeat(2))
    bench.step(DescribeRequested(token=3))
    assert not bench.replies
    assert bench.group.deadline_ms is None, "nothing expires while a store is under way"
    bench.land()
    assert set(bench.replies) == {1}
    bench.land()
    assert set(bench.replies) == {1, 2, 3}


def test_what_waited_is_stored_at_one_go(bench: GroupBench) -> None:
    bench.lands_at_once = False
    for token in range(50):
        bench.step(member(f"m{token}").heartbeat(token))
    bench.land()
    bench.land()
    assert set(bench.replies) == set(range(50))
    assert bench.store is None


def test_a_store_that_fails_leaves_the_group_as_it_was(bench: GroupBench) -> None:
    a = member("a")
    bench.settle(a)
    before = vars(bench.group.stored).copy()
    bench.lands_at_once = False
    bench.step(member("b").heartbeat(1000))
    bench.step(ConsumerHeartbeat(token=1001, member_id="a", member_epoch=LEAVE_EPOCH))
    bench.land(ErrorCode.NOT_COORDINATOR)
    assert bench.replies.pop(1000).error_code is ErrorCode.NOT_COORDINATOR
    bench.land(ErrorCode.COORDINATOR_NOT_AVAILABLE)
    assert bench.replies.pop(1001).error_code is ErrorCode.COORDINATOR_NOT_AVAILABLE
    assert vars(bench.group.stored) == before
    assert bench.group.deadline_ms is not None
    bench.lands_at_once = True
    bench.settle(a)
    assert len(a.owned) == 4


def test_a_failed_store_that_is_in_the_log_all_the_same_is_taken_back(bench: GroupBench) -> None:
    a = member("a")
    bench.settle(a)
    bench.lands_at_once = False
    bench.step(ConsumerHeartbeat(token=1000, member_id="a", member_epoch=LEAVE_EPOCH))
    assert bench.store is not None
    bench.land(ErrorCode.COORDINATOR_NOT_AVAILABLE, landed_count=len(bench.store.records))
    bench.lands_at_once = True
    bench.beat(a)
    bench.restart()
    assert bench.beat(a).error_code is ErrorCode.NONE


def test_an_expiry_whose_store_fails_comes_again(bench: GroupBench) -> None:
    send(bench)
    bench.lands_at_once = False
    bench.pass_time(45_000)
    bench.land(ErrorCode.COORDINATOR_NOT_AVAILABLE)
    assert "a" in bench.group.stored.members
    assert bench.group.deadline_ms == bench.now_ms + 45_000
    bench.lands_at_once = True
    bench.pass_time(45_000)
    assert not bench.group.stored.members


def test_a_late_word_of_an_old_store_is_ignored(bench: GroupBench) -> None:
    bench.lands_at_once = False
    bench.step(member("a").heartbeat(1))
    first = bench.store
    bench.land()
    bench.step(member("b").heartbeat(2))
    bench.store, second = first, bench.store
    bench.land(ErrorCode.NOT_COORDINATOR)
    assert 2 not in bench.replies
    bench.store = second
    bench.land()
    assert bench.replies[2].error_code is ErrorCode.NONE


# Restart and end.


def test_after_a_restart_members_go_on_with_fresh_sessions(bench: GroupBench) -> None:
    a, b = member("a"), member("b")
    bench.settle(a, b)
    bench.pass_time(44_000)
    bench.restart()
    bench.pass_time(44_000)
    assert bench.beat(a).error_code is ErrorCode.NONE
    assert bench.group.state is ConsumerGroupState.STABLE
    bench.pass_time(2_000)
    assert set(bench.group.stored.members) == {"a"}


def test_after_a_restart_topics_that_changed_meanwhile_are_noticed(bench: GroupBench) -> None:
    a = member("a")
    bench.settle(a)
    bench.topics.put("t", 6)
    bench.restart()
    bench.settle(a)
    assert len(a.owned) == 6


def test_what_is_left_in_the_log_of_nobody_holds_no_partition(bench: GroupBench) -> None:
    """A store that landed in part may have given partitions to somebody whose member record never came."""
    topic = bench.topics.topic("t")
    assert topic is not None
    everything = {topic.topic_id: frozenset(range(4))}
    bench.log += [
        GroupEpochRecord(1),
        TargetRecord("ghost", everything),
        TargetEpochRecord(1),
        CurrentRecord("ghost", CurrentAssignment(member_epoch=1, assigned=everything)),
    ]
    bench.restart()
    a = member("a")
    bench.settle(a, rounds=2)
    assert len(a.owned) == 4
    bench.restart()
    assert set(bench.group.stored.currents) == set(bench.group.stored.targets) == {"a"}


def test_a_closed_group_answers_everybody_and_stays_silent(bench: GroupBench) -> None:
    bench.lands_at_once = False
    bench.step(member("a").heartbeat(1))
    bench.step(member("b").heartbeat(2))
    bench.step(GroupClosed(error_code=ErrorCode.NOT_COORDINATOR))
    assert {token: reply.error_code for token, reply in bench.replies.items()} == {
        1: ErrorCode.NOT_COORDINATOR,
        2: ErrorCode.NOT_COORDINATOR,
    }
    assert bench.group.state is ConsumerGroupState.DEAD
    assert bench.group.deadline_ms is None
    bench.step(member("c").heartbeat(3))
    assert bench.replies[3].error_code is ErrorCode.NOT_COORDINATOR
    bench.step(TimePassed())


def test_tombstones_leave_nothing(bench: GroupBench) -> None:
    clients = [member("a"), Client("b", regex="t")]
    bench.settle(*clients)
    bench.log += bench.group.tombstones()
    bench.restart()
    assert not bench.group.exists
    assert not bench.group.tombstones()


def test_tombstones_cover_a_store_that_failed(bench: GroupBench) -> None:
    bench.lands_at_once = False
    bench.step(member("a").heartbeat(1))
    assert bench.store is not None
    records = bench.store.records
    bench.land(ErrorCode.COORDINATOR_NOT_AVAILABLE, landed_count=len(records))
    assert bench.group.stored.is_blank
    bench.log += bench.group.tombstones()
    bench.restart()
    assert not bench.group.exists
    assert not bench.group.stored.tombstones()


# Commits and fetches.


def test_commits_of_members_are_fenced_by_epoch(bench: GroupBench) -> None:
    assert bench.group.check_commit("", -1, None) is ErrorCode.NONE
    assert bench.group.check_commit("a", 1, None) is ErrorCode.UNKNOWN_MEMBER_ID
    send(bench)
    assert bench.group.check_commit("a", 1, None) is ErrorCode.NONE
    assert bench.group.check_commit("a", 0, None) is ErrorCode.STALE_MEMBER_EPOCH
    assert bench.group.check_commit("a", 2, None) is ErrorCode.STALE_MEMBER_EPOCH
    assert bench.group.check_commit("b", 1, None) is ErrorCode.UNKNOWN_MEMBER_ID
    assert bench.group.check_commit("", -1, None) is ErrorCode.UNKNOWN_MEMBER_ID
    assert bench.group.check_commit("", -1, None, is_transactional=True) is ErrorCode.NONE


def test_fetches_of_members_are_fenced_by_epoch(bench: GroupBench) -> None:
    send(bench)
    assert bench.group.check_fetch(None, -1) is ErrorCode.NONE
    assert bench.group.check_fetch("a", 1) is ErrorCode.NONE
    assert bench.group.check_fetch("a", 2) is ErrorCode.STALE_MEMBER_EPOCH
    assert bench.group.check_fetch("b", 1) is ErrorCode.UNKNOWN_MEMBER_ID


def test_a_description_has_epochs_members_and_targets(bench: GroupBench) -> None:
    a, b = member("a"), member("b")
    bench.settle(a)
    bench.beat(b)
    shown = describe(bench)
    assert (shown.state, shown.group_epoch, shown.target_epoch) == (ConsumerGroupState.RECONCILING, 2, 2)
    assert [entry.member_id for entry in shown.members] == ["a", "b"]
    assert [entry.member_epoch for entry in shown.members] == [1, 2]
    assert [len(flat(entry.assigned)) for entry in shown.members] == [4, 0]
    assert [len(flat(entry.target)) for entry in shown.members] == [2, 2]
