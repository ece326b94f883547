"""What a replica still counts for after a restart."""

import pytest

from penstock.broker import keys
from penstock.broker.broker_config import BrokerConfig
from penstock.broker.image import ClusterImage
from penstock.broker.keys import PartitionState
from penstock.broker.rejoining import Remains, rejoined, without
from penstock.runtime.metadata import Entry, Snapshot

S = PartitionState


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (S((1, 2), (1, 2), 1, 4), S((1, 2), (1, 2), -1, 5)),
        (S((1, 2), (1,), 1, 4), S((1, 2), (1,), -1, 5)),
        (S((1, 2), (2,), 2, 4), None),
        (S((1, 2), (1, 2), 2, 4), None),
        (S((1, 2), (1, 2), -1, 4), None),
    ],
)
def test_a_start_gives_up_every_leadership_and_keeps_its_place_in_sync(before: S, after: S | None) -> None:
    assert rejoined(before, 1, has_lost=False) == after


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (S((1, 2, 3), (1, 2), 2, 4), S((1, 2, 3), (2,), 2, 4)),
        (S((1, 2, 3), (1, 2), 1, 4), S((1, 2, 3), (2,), -1, 5)),
        (S((1, 2, 3), (2,), 2, 4, (), (), (1, 3)), S((1, 2, 3), (2,), 2, 4, (), (), (3,))),
        (S((1, 2, 3), (1,), -1, 4, (), (), (2,)), S((1, 2, 3), (2,), -1, 4)),
        (S((1, 2, 3), (1,), -1, 4), None),
        (S((1, 2, 3), (2,), 2, 4), None),
    ],
)
def test_a_log_that_may_have_lost_bytes_counts_no_more_unless_it_is_the_last(
    before: S, after: S | None
) -> None:
    assert rejoined(before, 1, has_lost=True) == after


def test_a_failed_log_never_leads_on_while_it_is_the_last_in_sync() -> None:
    assert without(S((1, 2), (1,), 1, 4), 1) == S((1, 2), (1,), -1, 5)


@pytest.mark.parametrize(
    ("is_there", "was_clean", "caching", "lost"),
    [
        (True, True, "true", False),
        (True, False, "true", True),
        (True, False, "false", False),
        (False, True, "false", True),
    ],
)
def test_what_may_have_been_lost(is_there: bool, was_clean: bool, caching: str, lost: bool) -> None:
    configs = keys.encode_configs({"write.caching": caching})
    image = ClusterImage.from_snapshot(Snapshot([Entry(keys.topic_configs_key("t"), configs, 1, 1)], 1))
    remains = Remains(frozenset({("t", 0)} if is_there else ()), was_clean)
    assert remains.may_have_lost(BrokerConfig.from_properties({}), image, "t", 0) is lost
