"""The partition's state machine, event by event."""

from penstock.broker.partition_machine import (
    AdvanceHighWatermark,
    Appended,
    BecomeFollower,
    BecomeLeader,
    Closed,
    FollowerFetched,
    GoOffline,
    LogFailed,
    PartitionMachine,
    Role,
    SettingsChanged,
    StateLearned,
    Synced,
)

ME, OTHER, THIRD = 1, 2, 3


def state(
    leader: int = ME,
    epoch: int = 1,
    isr: tuple[int, ...] = (ME,),
    replicas: tuple[int, ...] = (ME,),
    end: int = 0,
    durable: int = 0,
) -> StateLearned:
    return StateLearned(leader, epoch, isr, replicas, 0, end, durable)


def fetched(broker: int, end: int, now_ms: float = 0) -> FollowerFetched:
    return FollowerFetched(broker, 10 + broker, end, now_ms)


def leader(*, write_caching: bool = False, min_insync_replicas: int = 1, epoch: int = 1) -> PartitionMachine:
    machine = PartitionMachine(ME, write_caching=write_caching, min_insync_replicas=min_insync_replicas)
    machine.step(state(epoch=epoch))
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
    assert machine.step(state(end=7, durable=7)) == (BecomeLeader(1), AdvanceHighWatermark(7))


def test_high_watermark_never_falls_when_the_durable_end_is_behind() -> None:
    machine = leader(write_caching=True)
    machine.step(Appended(9))
    assert machine.step(SettingsChanged(write_caching=False, min_insync_replicas=1)) == ()
    assert machine.step(Synced(4)) == ()
    assert machine.high_watermark == 9


def test_slowest_member_of_the_isr_holds_the_high_watermark() -> None:
    machine = PartitionMachine(ME, write_caching=True, min_insync_replicas=1)
    machine.step(state(isr=(ME, OTHER, THIRD), replicas=(ME, OTHER, THIRD)))
    machine.step(Appended(10))
    machine.step(fetched(OTHER, 10))
    assert machine.high_watermark == 0, "the third has nothing yet"
    assert machine.step(fetched(THIRD, 4)) == (AdvanceHighWatermark(4),)
    assert machine.step(state(isr=(ME, OTHER), replicas=(ME, OTHER, THIRD), end=10)) == (
        AdvanceHighWatermark(10),
    )


def test_follower_out_of_the_isr_is_not_waited_for() -> None:
    machine = PartitionMachine(ME, write_caching=True, min_insync_replicas=1)
    machine.step(state(isr=(ME,), replicas=(ME, OTHER)))
    machine.step(fetched(OTHER, 1))
    assert machine.step(Appended(8)) == (AdvanceHighWatermark(8),)


def test_nothing_is_committed_while_the_isr_is_too_small() -> None:
    machine = PartitionMachine(ME, write_caching=True, min_insync_replicas=2)
    machine.step(state(isr=(ME,), replicas=(ME, OTHER, THIRD)))
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
    machine.step(state(isr=(ME, OTHER), replicas=(ME, OTHER)))
    machine.step(fetched(OTHER, 5))
    machine.step(state(epoch=2, isr=(ME, OTHER), replicas=(ME, OTHER), end=5))
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
