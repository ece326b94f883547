"""Fetch sessions: what is remembered, what is left out, and when a session is refused or given up (KIP-227)."""

import random
from dataclasses import replace

import pytest

from penstock.broker.fetch_sessions import FetchSession, FetchSessions
from penstock.protocol.errors import ErrorCode
from penstock.protocol.fetch import EMPTY, FetchPartition, FetchPartitionResult, FetchRequest, NoRecords


def entry(topic: str = "t", index: int = 0, offset: int = 0) -> FetchPartition:
    return FetchPartition(topic, None, index, -1, offset, -1, -1, 1 << 20)


def request(
    session_id: int = 0,
    epoch: int = -1,
    partitions: list[FetchPartition] | None = None,
    forgotten: list[tuple[str, bytes | None, int]] | None = None,
) -> FetchRequest:
    return FetchRequest(
        -1, -1, 500, 1, 1 << 20, 0, session_id, epoch, partitions or [], forgotten or [], "", None
    )


def result(
    index: int = 0, *, high_watermark: int = 5, error: int = 0, count: int = 0
) -> FetchPartitionResult:
    return FetchPartitionResult(
        "t", None, index, error, high_watermark, records=NoRecords(count) if count else EMPTY
    )


def sessions(slots: int = 10) -> FetchSessions:
    return FetchSessions(slots, random.Random(1))


def opened(where: FetchSessions, *partitions: FetchPartition, now: float = 0.0) -> FetchSession:
    plan = where.plan(request(epoch=0, partitions=list(partitions)), now)
    assert plan.session is not None
    return plan.session


def test_fetch_without_session_keeps_nothing() -> None:
    where = sessions()
    plan = where.plan(request(partitions=[entry()]), 0.0)
    assert (plan.session_id, plan.is_full, len(where)) == (0, True, 0)


def test_incremental_fetch_remembers_what_was_not_named_again() -> None:
    where = sessions()
    session = opened(where, entry(index=0), entry(index=1))
    plan = where.plan(request(session.session_id, 1, [entry(index=1, offset=7)]), 1.0)
    assert [(p.index, p.fetch_offset) for p in plan.partitions] == [(0, 0), (1, 7)]
    assert not plan.is_full


def test_forgotten_partition_is_fetched_no_more() -> None:
    where = sessions()
    session = opened(where, entry(index=0), entry(index=1))
    plan = where.plan(request(session.session_id, 1, forgotten=[("t", None, 0)]), 1.0)
    assert [p.index for p in plan.partitions] == [1]


def test_epoch_out_of_turn_is_refused_and_changes_nothing() -> None:
    where = sessions()
    session = opened(where, entry())
    plan = where.plan(request(session.session_id, 2, [entry(index=9)]), 1.0)
    assert plan.error == ErrorCode.INVALID_FETCH_SESSION_EPOCH
    assert len(session.partitions) == 1
    assert where.plan(request(session.session_id, 1), 1.0).error == ErrorCode.NONE


def test_unknown_session_is_refused() -> None:
    assert sessions().plan(request(77, 1), 0.0).error == ErrorCode.FETCH_SESSION_ID_NOT_FOUND


def test_closing_a_session_frees_its_slot() -> None:
    where = sessions()
    session = opened(where, entry())
    plan = where.plan(request(session.session_id, -1, [entry()]), 1.0)
    assert (plan.session_id, len(where)) == (0, 0)


def test_epoch_zero_replaces_the_named_session() -> None:
    where = sessions()
    old = opened(where, entry())
    plan = where.plan(request(old.session_id, 0, [entry(index=3)]), 1.0)
    assert plan.session is not None
    assert len(where) == 1
    assert where.plan(request(old.session_id, 1), 1.0).error == ErrorCode.FETCH_SESSION_ID_NOT_FOUND


def test_full_cache_answers_without_a_session_until_one_is_idle() -> None:
    where = sessions(slots=1)
    opened(where, entry(), now=0.0)
    assert where.plan(request(epoch=0, partitions=[entry()]), 10.0).session_id == 0
    assert where.plan(request(epoch=0, partitions=[entry()]), 200.0).session_id != 0
    assert len(where) == 1


def test_no_slots_means_no_sessions() -> None:
    assert sessions(slots=0).plan(request(epoch=0, partitions=[entry()]), 0.0).session_id == 0


def test_unchanged_partition_is_left_out_of_the_answer() -> None:
    session = opened(sessions(), entry())
    assert len(session.changed([result()])) == 1
    assert session.changed([result()]) == []
    assert len(session.changed([result(high_watermark=6)])) == 1
    assert len(session.changed([result(high_watermark=6, count=10)])) == 1


def test_error_is_told_every_time_and_its_end_as_well() -> None:
    session = opened(sessions(), entry())
    failed = result(error=ErrorCode.NOT_LEADER_OR_FOLLOWER, high_watermark=-1)
    assert len(session.changed([failed])) == 1
    assert len(session.changed([failed])) == 1
    assert len(session.changed([result()])) == 1


def test_high_watermark_told_beside_a_divergence_is_told_again_after_the_cut() -> None:
    session = opened(sessions(), entry(offset=14))
    diverging = result()
    diverging.diverging_epoch = (0, 2)
    assert session.changed([diverging]) == [diverging]
    assert [r.high_watermark for r in session.changed([result()])] == [5]
    assert session.changed([result()]) == []


def test_high_watermark_is_told_again_in_a_new_leader_epoch() -> None:
    where = sessions()
    session = opened(where, entry())
    session.changed([result()])
    where.plan(request(session.session_id, 1, [replace(entry(), current_leader_epoch=7)]), 1.0)
    assert [r.high_watermark for r in session.changed([result()])] == [5]


def test_partition_that_got_data_goes_to_the_end_so_that_others_get_their_turn() -> None:
    where = sessions()
    session = opened(where, entry(index=0), entry(index=1), entry(index=2))
    session.changed([result(0, count=100), result(1), result(2)])
    plan = where.plan(request(session.session_id, 1), 1.0)
    assert [p.index for p in plan.partitions] == [1, 2, 0]


def test_session_epoch_wraps_to_one() -> None:
    where = sessions()
    session = opened(where, entry())
    session.epoch = 2**31 - 1
    assert where.plan(request(session.session_id, 2**31 - 1), 1.0).error == ErrorCode.NONE
    assert session.epoch == 1


def test_partitions_of_all_sessions_are_bounded() -> None:
    where = FetchSessions(10, random.Random(1), partitions_max=5)
    first = opened(where, entry(index=0), entry(index=1))
    second = opened(where, entry(index=0), entry(index=1))
    assert where.plan(request(epoch=0, partitions=[entry(), entry(index=1)]), 1.0).session_id == 0, "no room"
    grown = where.plan(request(first.session_id, 1, [entry(index=2)]), 1.0)
    assert grown.error == ErrorCode.NONE
    over = where.plan(request(second.session_id, 1, [entry(index=2)]), 1.0)
    assert over.error == ErrorCode.FETCH_SESSION_ID_NOT_FOUND
    assert where.plan(request(epoch=0, partitions=[entry(), entry(index=1)]), 2.0).session_id, (
        "its room is free again"
    )
    where.plan(request(first.session_id, -1), 2.0)
    assert where.plan(request(epoch=0, partitions=[entry(index=n) for n in range(3)]), 2.0).session_id


def test_idle_sessions_make_room_for_the_partitions_of_a_new_one() -> None:
    where = FetchSessions(10, random.Random(1), partitions_max=4)
    opened(where, entry(index=0), entry(index=1))
    opened(where, entry(index=0), entry(index=1))
    plan = where.plan(request(epoch=0, partitions=[entry(index=n) for n in range(3)]), 121.0)
    assert (plan.session is not None, len(where)) == (True, 1)


def test_forgotten_partitions_give_their_room_back() -> None:
    where = FetchSessions(10, random.Random(1), partitions_max=2)
    first = opened(where, entry(index=0), entry(index=1))
    plan = where.plan(request(first.session_id, 1, [entry(index=2)], [("t", None, 0)]), 1.0)
    assert (plan.error, len(plan.partitions)) == (ErrorCode.NONE, 2)


@pytest.mark.parametrize("name", ["x" * 250, "\N{GRINNING FACE}" * 249])
def test_names_that_no_topic_can_have_are_answered_and_not_kept(name: str) -> None:
    """The bound is on partitions, and a name that comes with one may have 32 KB."""
    where = sessions()
    full = where.plan(request(epoch=0, partitions=[entry("y" * 249), entry(name)]), 0.0)
    assert full.session is not None
    assert [p.topic for p in full.partitions] == ["y" * 249, name]
    grown = where.plan(request(full.session_id, 1, [entry(name, 1)]), 1.0)
    assert [p.topic for p in grown.partitions] == ["y" * 249, name]
    told = [FetchPartitionResult(name, None, 1, ErrorCode.UNKNOWN_TOPIC_OR_PARTITION, -1)]
    assert full.session.changed(told) == told
    assert list(full.session.partitions) == [("y" * 249, 0)]
    next_one = where.plan(request(full.session_id, 2, forgotten=[(name, None, 1)]), 2.0)
    assert [p.topic for p in next_one.partitions] == ["y" * 249]
