"""The partition's state machine, event by event."""

from penstock.broker.partition_machine import (
    Action,
    AdvanceHighWatermark,
    Appended,
    BecomeFollower,
    BecomeLeader,
    ChangeIsr,
    Closed,
    EpochStarted,
    FollowerFetched,
    GoOffline,
    IsrChangeFailed,
    LeaderTold,
    LogFailed,
    LogTruncated,
    PartitionMachine,
    RefuseWaiting,
    Role,
    SettingsChanged,
    StateLearned,
    Synced,
    TimePassed,
)

ME, OTHER, THIRD = 1, 2, 3


def state(
    leader: int = ME,
    epoch: int = 1,
    isr: tuple[int, ...] = (ME,),
    replicas: tuple[int, ...] = (ME,),
    end: int = 0,
    durable: int = 0,
    *,
    version: int = 0,
    now_ms: float = 0,
    elr: tuple[int, ...] = (),
    adding: tuple[int, ...] = (),
) -> StateLearned:
    return StateLearned(leader, epoch, isr, replicas, version, end, durable, now_ms, adding, elr)


def fetched(broker: int, end: int, now_ms: float = 0) -> FollowerFetched:
    return FollowerFetched(broker, 10 + broker, end, now_ms)


def lead(machine: PartitionMachine, news: StateLearned) -> tuple[Action, ...]:
    """Have it lead in a new epoch, which begins where its log ends; returns what follows from that."""
    assert machine.step(news)[0] == BecomeLeader(news.leader_epoch)
    return machine.step(EpochStarted(news.log_end_offset))


def leader(*, write_caching: bool = False, min_insync_replicas: int = 1, epoch: int = 1) -> PartitionMachine:
    machine = PartitionMachine(ME, write_caching=write_caching, min_insync_replicas=min_insync_replicas)
    lead(machine, state(epoch=epoch))
    return machine


def test_append_alone_does_not_commit_without_write_caching() -> None:
    machine = leader()
    assert machine.step(Appended(5)) == ()
    assert machine.high_watermark == 0
    assert machine.step(Synced(3)) == (AdvanceHighWatermark(3),)
    assert machine.step(Synced(5)) == (AdvanceHighWatermark(5),)


def test_append_commits_at_once_with_write_caching() -> None:
    machine = leader(write_caching=True)
    assert machine.step(Appended(5)) == (AdvanceHighWatermark(5),)
    assert machine.step(Synced(5)) == ()


def test_recovered_log_is_committed_when_leading_alone() -> None:
    machine = PartitionMachine(ME, write_caching=False, min_insync_replicas=1)
    assert machine.step(state(end=7, durable=7)) == (BecomeLeader(1),)
    assert machine.step(EpochStarted(7)) == (AdvanceHighWatermark(7),)


def test_nothing_is_committed_before_it_is_known_where_the_epoch_begins() -> None:
    """A worker is cutting the log for the leader before: what the log is said to have is not what it will have."""
    machine = PartitionMachine(ME, write_caching=False, min_insync_replicas=1)
    assert machine.step(state(end=7, durable=7)) == (BecomeLeader(1),)
    assert machine.step(state(end=7, durable=7, version=1)) == ()
    assert machine.step(Synced(7)) == ()
    assert machine.step(EpochStarted(4)) == (AdvanceHighWatermark(4),)
    assert machine.counted_end_offset == 4


def test_high_watermark_never_falls_when_the_durable_end_is_behind() -> None:
    machine = leader(write_caching=True)
    machine.step(Appended(9))
    assert machine.step(SettingsChanged(write_caching=False, min_insync_replicas=1)) == ()
    assert machine.step(Synced(4)) == ()
    assert machine.high_watermark == 9


def test_slowest_member_of_the_isr_holds_the_high_watermark() -> None:
    machine = PartitionMachine(ME, write_caching=True, min_insync_replicas=1)
    lead(machine, state(isr=(ME, OTHER, THIRD), replicas=(ME, OTHER, THIRD)))
    machine.step(Appended(10))
    machine.step(fetched(OTHER, 10))
    assert machine.high_watermark == 0, "the third has nothing yet"
    assert machine.step(fetched(THIRD, 4)) == (AdvanceHighWatermark(4),)
    assert machine.step(state(isr=(ME, OTHER), replicas=(ME, OTHER, THIRD), end=10)) == (
        AdvanceHighWatermark(10),
    )


def test_follower_out_of_the_isr_is_not_waited_for() -> None:
    machine = PartitionMachine(ME, write_caching=True, min_insync_replicas=1)
    lead(machine, state(isr=(ME,), replicas=(ME, OTHER), end=5))
    machine.step(fetched(OTHER, 1))
    assert machine.step(Appended(8)) == (AdvanceHighWatermark(8),)


def test_nothing_is_committed_while_the_isr_is_too_small() -> None:
    machine = PartitionMachine(ME, write_caching=True, min_insync_replicas=2)
    lead(machine, state(isr=(ME,), replicas=(ME, OTHER, THIRD)))
    assert not machine.has_enough_replicas
    assert machine.step(Appended(5)) == ()
    machine.step(fetched(OTHER, 5))
    assert machine.step(state(isr=(ME, OTHER), replicas=(ME, OTHER, THIRD), end=5)) == (
        AdvanceHighWatermark(5),
    )


def test_min_insync_replicas_never_asks_for_more_than_there_are() -> None:
    machine = leader(write_caching=True, min_insync_replicas=2)
    assert machine.has_enough_replicas
    assert machine.step(Appended(5)) == (AdvanceHighWatermark(5),)


def test_new_epoch_forgets_what_followers_had() -> None:
    machine = PartitionMachine(ME, write_caching=True, min_insync_replicas=1)
    lead(machine, state(isr=(ME, OTHER), replicas=(ME, OTHER)))
    machine.step(fetched(OTHER, 5))
    lead(machine, state(epoch=2, isr=(ME, OTHER), replicas=(ME, OTHER), end=5))
    assert machine.step(Appended(6)) == (), "the follower has said nothing in this epoch"


def test_stale_state_changes_nothing() -> None:
    machine = leader(epoch=5)
    assert machine.step(state(leader=OTHER, epoch=4, isr=(OTHER,))) == ()
    assert machine.role is Role.LEADER


def test_deposed_leader_stops_committing() -> None:
    machine = leader(write_caching=True)
    assert machine.step(state(leader=OTHER, epoch=2, isr=(OTHER,))) == (BecomeFollower(OTHER, 2),)
    assert machine.step(Appended(5)) == ()


def test_no_leader_takes_the_partition_offline() -> None:
    machine = leader()
    assert machine.step(state(leader=-1, epoch=2, isr=(ME,))) == (GoOffline(),)


def test_failed_or_closed_log_never_leads_again() -> None:
    for ending in (LogFailed(), Closed()):
        machine = leader()
        assert machine.step(ending) == (GoOffline(),)
        assert machine.step(state(epoch=9)) == ()
        assert machine.role is Role.OFFLINE


def test_same_epoch_again_is_no_new_leadership() -> None:
    machine = leader()
    assert machine.step(state()) == ()


# Followers, seen by the leader

ALL = (ME, OTHER, THIRD)
LAG_MS = 1000


def leading(
    isr: tuple[int, ...] = ALL, *, min_insync_replicas: int = 1, end: int = 10, elr: tuple[int, ...] = ()
) -> PartitionMachine:
    """A leader with write caching, whose epoch begins at `end`."""
    machine = PartitionMachine(
        ME, write_caching=True, min_insync_replicas=min_insync_replicas, replica_lag_time_max_ms=LAG_MS
    )
    lead(machine, state(isr=isr, replicas=ALL, end=end, elr=elr, version=1))
    return machine


def test_follower_joins_only_with_all_that_is_committed_and_all_from_before_the_epoch() -> None:
    machine = leading((ME, OTHER))
    machine.step(fetched(OTHER, 5))
    assert machine.high_watermark == 5
    assert machine.step(fetched(THIRD, 5)) == (), "the epoch begins at 10"
    machine.step(Appended(12))
    machine.step(fetched(OTHER, 12))
    assert machine.step(fetched(THIRD, 11)) == (), "12 is committed"
    assert machine.step(fetched(THIRD, 12)) == (ChangeIsr((ME, OTHER, THIRD), 1, 1, ((THIRD, 13),)),)


def test_nobody_joins_before_it_is_known_where_the_epoch_begins() -> None:
    machine = PartitionMachine(ME, write_caching=True, min_insync_replicas=1)
    machine.step(state(isr=(ME,), replicas=(ME, OTHER)))
    assert machine.step(fetched(OTHER, 0)) == ()
    machine.step(EpochStarted(0))
    assert machine.step(fetched(OTHER, 0)) != ()


def test_word_from_before_the_epoch_of_what_was_cut_then_counts_no_more() -> None:
    """The log is cut to 5 for the leader before, when this replica leads and others tell what they have of the uncut one."""
    machine = PartitionMachine(ME, write_caching=True, min_insync_replicas=1)
    machine.step(state(epoch=2, isr=(ME, OTHER), replicas=ALL, end=8, durable=8))
    assert machine.step(fetched(OTHER, 8)) == ()
    assert machine.step(fetched(THIRD, 7)) == ()
    assert machine.step(EpochStarted(5)) == ()
    assert machine.step(Appended(7)) == ()
    assert machine.step(TimePassed(1)) == (), "nobody comes in by such a word"
    assert machine.step(fetched(OTHER, 6)) == (AdvanceHighWatermark(6),)


def test_word_from_before_the_epoch_of_what_was_not_cut_holds() -> None:
    machine = PartitionMachine(ME, write_caching=True, min_insync_replicas=1)
    machine.step(state(epoch=2, isr=(ME, OTHER), replicas=ALL, end=8, durable=8))
    machine.step(fetched(OTHER, 5))
    assert machine.step(EpochStarted(5)) == (AdvanceHighWatermark(5),)


def test_broker_that_is_about_to_stop_is_not_asked_in() -> None:
    machine = leading((ME, OTHER))
    assert machine.step(FollowerFetched(THIRD, 13, 10, 0, may_join=False)) == ()
    assert machine.step(TimePassed(1)) == ()


def test_joining_member_is_waited_for_from_the_moment_it_is_asked_in() -> None:
    machine = leading((ME,))
    machine.step(fetched(THIRD, 10))
    assert machine.step(Appended(11)) == ()
    assert machine.step(state(isr=(ME, THIRD), replicas=ALL, end=11, version=2)) == ()
    assert machine.step(fetched(THIRD, 11)) == (AdvanceHighWatermark(11),)


def test_leaving_member_is_waited_for_until_its_leaving_is_stored() -> None:
    machine = leading((ME, OTHER))
    assert machine.step(TimePassed(LAG_MS + 1)) == (ChangeIsr((ME,), 1, 1, ()),)
    assert machine.step(Appended(11)) == ()
    assert machine.step(state(isr=(ME,), replicas=ALL, end=11, version=2)) == (AdvanceHighWatermark(11),)


def test_member_that_has_left_by_itself_comes_back_by_what_it_told_before() -> None:
    """Its log may have failed, and then it has no more what it told of."""
    machine = leading((ME, OTHER))
    machine.step(fetched(OTHER, 10))
    machine.step(state(isr=(ME,), replicas=ALL, end=10, version=2))
    assert machine.step(TimePassed(1)) == ()
    assert machine.step(fetched(OTHER, 10, 2)) == (ChangeIsr((ME, OTHER), 2, 1, ((OTHER, 12),)),)


def test_refused_change_leaves_what_is_stored_and_may_be_asked_again() -> None:
    machine = leading((ME,))
    machine.step(fetched(THIRD, 10))
    machine.step(Appended(11))
    assert machine.step(IsrChangeFailed(0)) == (), "an older one"
    assert machine.maximal_isr == (ME, THIRD)
    assert machine.step(IsrChangeFailed(1)) == (AdvanceHighWatermark(11),)
    assert machine.step(fetched(THIRD, 11)) != ()


def test_one_change_at_a_time_and_the_next_after_the_news() -> None:
    machine = leading((ME,))
    machine.step(fetched(OTHER, 10))
    assert machine.step(fetched(THIRD, 10)) == ()
    machine.step(state(isr=(ME, OTHER), replicas=ALL, end=10, version=2))
    assert machine.step(fetched(THIRD, 10)) == (ChangeIsr(ALL, 2, 1, ((THIRD, 13),)),)


def test_news_that_is_known_already_does_not_settle_a_change() -> None:
    machine = leading((ME,))
    machine.step(fetched(OTHER, 10))
    machine.step(state(isr=(ME,), replicas=ALL, end=10, version=1))
    assert machine.maximal_isr == (ME, OTHER)


def test_whoever_was_caught_up_at_its_last_fetch_is_no_laggard() -> None:
    machine = leading((ME, OTHER))
    for now_ms in range(
        0, 5 * LAG_MS, LAG_MS // 2
    ):  # always one step behind: it has what there was at its last fetch
        machine.step(fetched(OTHER, 10 + now_ms, now_ms))
        machine.step(Appended(10 + now_ms + LAG_MS // 2))
        assert machine.step(TimePassed(now_ms)) == ()


def test_follower_that_fetches_all_the_time_and_never_catches_up_is_a_laggard() -> None:
    machine = leading((ME, OTHER))
    asked: list[int] = []
    for now_ms in range(0, 3 * LAG_MS, LAG_MS // 2):
        machine.step(Appended(10 + 100 * now_ms))
        machine.step(fetched(OTHER, 9 + now_ms, now_ms))
        asked += [now_ms for action in machine.step(TimePassed(now_ms)) if isinstance(action, ChangeIsr)]
    assert asked == [LAG_MS + LAG_MS // 2]


def test_silent_follower_that_has_everything_stays() -> None:
    machine = leading((ME, OTHER))
    machine.step(fetched(OTHER, 10))
    assert machine.step(TimePassed(100 * LAG_MS)) == ()


def test_member_that_has_not_been_heard_of_in_this_epoch_has_the_lag_time_to_come() -> None:
    machine = PartitionMachine(ME, write_caching=True, min_insync_replicas=1, replica_lag_time_max_ms=LAG_MS)
    machine.step(state(isr=(ME, OTHER), replicas=ALL, now_ms=5000))
    assert machine.step(TimePassed(5000 + LAG_MS)) == ()
    assert machine.step(TimePassed(5001 + LAG_MS)) == (ChangeIsr((ME,), 0, 1, ()),)


def test_too_small_isr_asked_for_holds_the_high_watermark_as_one_that_is_stored() -> None:
    machine = leading((ME, OTHER), min_insync_replicas=2)
    machine.step(TimePassed(LAG_MS + 1))
    assert machine.step(fetched(OTHER, 10)) == (), "the ISR may be down to one by now"
    machine.step(IsrChangeFailed(1))
    assert machine.high_watermark == 10


def test_waiting_acks_are_refused_when_the_isr_gets_too_small() -> None:
    machine = leading((ME, OTHER), min_insync_replicas=2)
    assert machine.step(state(isr=(ME,), replicas=ALL, end=10, version=2)) == (RefuseWaiting(),)
    assert machine.step(state(isr=(ME,), replicas=ALL, end=10, version=3)) == (), "once"


def test_nothing_is_committed_beside_an_eligible_leader_replica() -> None:
    machine = leading((ME,), min_insync_replicas=2, elr=(OTHER,))
    machine.step(Appended(11))
    settled = machine.step(SettingsChanged(write_caching=True, min_insync_replicas=1))
    assert settled == (ChangeIsr((ME,), 1, 1, ()),), "it is not to be eligible any more, first of all"
    assert machine.high_watermark == 0
    assert machine.step(state(isr=(ME,), replicas=ALL, end=11, version=2)) == (AdvanceHighWatermark(11),)


def test_replicas_that_are_being_added_raise_no_demand() -> None:
    machine = PartitionMachine(ME, write_caching=True, min_insync_replicas=2)
    machine.step(state(isr=(ME,), replicas=(ME, OTHER), adding=(OTHER,)))
    assert machine.has_enough_replicas


def test_replica_that_is_moved_away_is_forgotten() -> None:
    machine = leading(ALL)
    machine.step(state(isr=(ME, OTHER), replicas=(ME, OTHER), end=10, version=2))
    assert machine.follower(THIRD) is None
    assert machine.step(fetched(THIRD, 10)) == ()


def test_fenced_leader_decides_nothing_and_makes_up_for_it() -> None:
    machine = leading((ME, OTHER))
    machine.is_fenced = True
    assert machine.step(fetched(OTHER, 10)) == ()
    assert machine.step(fetched(THIRD, 10)) == ()
    assert machine.step(TimePassed(LAG_MS + 1)) == ()
    machine.is_fenced = False
    assert machine.step(TimePassed(1)) == (
        AdvanceHighWatermark(10),
        ChangeIsr(ALL, 1, 1, ((THIRD, 13),)),
    )


def test_leader_in_a_new_epoch_believes_nothing_of_the_one_before() -> None:
    machine = leading()
    machine.step(Appended(12))
    machine.step(fetched(OTHER, 12))
    machine.step(fetched(THIRD, 5))
    assert machine.high_watermark == 5
    news = state(epoch=2, isr=(ME, OTHER), replicas=ALL, end=12, version=2)
    assert machine.step(news) == (BecomeLeader(2),)
    assert machine.step(EpochStarted(12)) == (), "the other may have lost its own since"
    assert machine.step(fetched(OTHER, 12)) == (AdvanceHighWatermark(12),)


def test_older_news_changes_nothing() -> None:
    machine = leading((ME, OTHER))
    machine.step(state(isr=(ME,), replicas=ALL, end=10, version=2))
    assert machine.step(state(isr=ALL, replicas=ALL, end=10, version=1)) == ()
    assert machine.isr == (ME,)


# Following


def following(high_watermark: int = 0) -> PartitionMachine:
    machine = PartitionMachine(ME, write_caching=False, min_insync_replicas=1, high_watermark=high_watermark)
    machine.step(state(OTHER, isr=(ME, OTHER), replicas=ALL, end=5, durable=5))
    return machine


def test_followers_high_watermark_is_what_it_was_told_as_far_as_it_counts_here() -> None:
    machine = following()
    assert machine.step(LeaderTold(3)) == (AdvanceHighWatermark(3),)
    assert machine.step(LeaderTold(8)) == (AdvanceHighWatermark(5),)
    assert machine.step(Appended(8)) == ()
    assert machine.step(Synced(7)) == (AdvanceHighWatermark(7),)
    assert machine.step(LeaderTold(2)) == (), "it never falls"


def test_follower_knows_no_high_watermark_of_a_new_leader_by_what_the_old_one_said() -> None:
    machine = following()
    machine.step(LeaderTold(8))
    assert machine.step(state(THIRD, epoch=2, isr=ALL, replicas=ALL, end=5, durable=5)) == (
        BecomeFollower(THIRD, 2),
    )
    machine.step(Appended(9))
    assert machine.step(Synced(9)) == ()


def test_other_news_of_the_same_leader_is_no_new_following() -> None:
    machine = following()
    assert machine.step(state(OTHER, isr=(OTHER,), replicas=ALL, version=1)) == ()
    assert machine.isr == (OTHER,)


def test_cut_log_counts_no_further_than_it_reaches() -> None:
    machine = following(high_watermark=3)
    assert machine.step(LogTruncated(4, 4, 0)) == ()
    assert machine.counted_end_offset == 4
    assert machine.step(LeaderTold(5)) == (AdvanceHighWatermark(4),)


def test_emptied_log_that_starts_above_has_all_below_committed() -> None:
    machine = following(high_watermark=3)
    assert machine.step(LogTruncated(20, 20, 20)) == (AdvanceHighWatermark(20),)


def test_new_leader_commits_no_more_than_the_followers_have_shown_it() -> None:
    machine = following()
    machine.step(LeaderTold(5))
    assert machine.step(state(ME, epoch=2, isr=(ME, OTHER), replicas=ALL, end=5, durable=5)) == (
        BecomeLeader(2),
    )
    machine.step(EpochStarted(5))
    machine.step(Appended(6))
    assert machine.step(Synced(6)) == ()
    assert machine.step(FollowerFetched(OTHER, 12, 6, 0)) == (AdvanceHighWatermark(6),)
