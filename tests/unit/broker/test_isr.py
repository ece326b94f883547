"""Who stays eligible to lead when an ISR shrinks, and who may join one."""

import pytest
from tests.support.metadata_plane import ENDPOINTS

from penstock.broker import keys
from penstock.broker.image import ClusterImage
from penstock.broker.isr import effective_min_insync, may_join, with_isr
from penstock.broker.keys import BrokerRegistration, PartitionState
from penstock.runtime.metadata import Entry, Snapshot


@pytest.mark.parametrize(
    ("old_isr", "old_elr", "new_isr", "min_insync", "elr"),
    [
        ((1, 2, 3), (), (1, 2), 2, ()),
        ((1, 2, 3), (), (1,), 2, (2, 3)),
        ((1, 2), (), (1,), 2, (2,)),
        ((1,), (2,), (1, 3), 2, ()),
        ((1,), (2,), (1, 2), 3, ()),
        ((1, 2), (3,), (1,), 3, (2, 3)),
        ((3,), (2,), (2,), 2, (3,)),
        ((1, 2), (), (1,), 1, ()),
        ((1, 2, 3), (), (1, 2), 9, (3,)),
    ],
)
def test_who_leaves_an_isr_below_the_minimum_stays_eligible(
    old_isr: tuple[int, ...],
    old_elr: tuple[int, ...],
    new_isr: tuple[int, ...],
    min_insync: int,
    elr: tuple[int, ...],
) -> None:
    state = PartitionState((1, 2, 3), old_isr, -1, 4, eligible_leader_replicas=old_elr)
    changed = with_isr(state, new_isr, min_insync_replicas=min_insync)
    assert (changed.isr, changed.eligible_leader_replicas) == (new_isr, elr)
    assert (changed.leader_epoch, changed.leader) == (4, -1)


def test_replicas_that_are_being_added_do_not_raise_the_minimum() -> None:
    moving = PartitionState((2, 1), (1,), 1, 0, adding_replicas=(2,), removing_replicas=(1,))
    assert effective_min_insync(2, moving) == 1, "else a move of a lone replica would stop its producers"


def test_only_the_present_registration_of_a_broker_that_stays_may_join() -> None:
    def image(*, is_fenced: bool) -> ClusterImage:
        value = keys.encode_broker(BrokerRegistration("a", ENDPOINTS, is_fenced=is_fenced))
        return ClusterImage.from_snapshot(Snapshot([Entry(keys.broker_key(2), value, 7, 9)], 9))

    assert may_join(image(is_fenced=False), 2, 7)
    assert not may_join(image(is_fenced=False), 2, 9)
    assert not may_join(image(is_fenced=False), 3, 7)
    assert not may_join(image(is_fenced=True), 2, 7)
