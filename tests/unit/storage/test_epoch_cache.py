"""The table of leader epochs (KIP-101, KIP-279)."""

import pytest

from penstock.storage.epoch_cache import EpochCache

ENTRIES = ((2, 10), (4, 20), (7, 30))


@pytest.mark.parametrize(
    ("epoch", "answer"),
    [
        (-1, (-1, -1)),
        (0, (0, 10)),  # older than all we know: where the oldest begins
        (1, (1, 10)),
        (2, (2, 20)),
        (3, (2, 20)),  # between two: the lower one and where the upper one begins
        (4, (4, 30)),
        (6, (4, 30)),
        (7, (7, 99)),  # the latest ends where the log does
        (8, (-1, -1)),
    ],
)
def test_the_end_of_an_epoch(epoch: int, answer: tuple[int, int]) -> None:
    assert EpochCache(ENTRIES).end_offset_for(epoch, 99) == answer


def test_an_empty_cache_knows_no_epoch() -> None:
    cache = EpochCache()
    assert cache.latest == -1
    assert cache.end_offset_for(0, 5) == (-1, -1)
    assert cache.epoch_at(3) == -1
    assert not cache.truncate_from_start(3)


@pytest.mark.parametrize(("offset", "epoch"), [(9, -1), (10, 2), (19, 2), (20, 4), (30, 7), (10**12, 7)])
def test_the_epoch_at_an_offset(offset: int, epoch: int) -> None:
    assert EpochCache(ENTRIES).epoch_at(offset) == epoch


def test_an_epoch_without_a_batch_is_replaced() -> None:
    cache = EpochCache(ENTRIES)
    assert cache.assign(8, 40)
    assert cache.assign(9, 40)
    assert cache.entries == (*ENTRIES, (9, 40))


def test_assigning_an_old_epoch_changes_nothing() -> None:
    cache = EpochCache(ENTRIES)
    assert not cache.assign(7, 50)
    assert not cache.assign(3, 50)
    assert cache.entries == ENTRIES


@pytest.mark.parametrize(("end", "count"), [(31, 3), (30, 2), (11, 1), (10, 0)])
def test_truncating_the_end_drops_epochs_that_have_nothing_left(end: int, count: int) -> None:
    cache = EpochCache(ENTRIES)
    assert cache.truncate_from_end(end) == (count < 3)
    assert cache.entries == ENTRIES[:count]


@pytest.mark.parametrize(
    ("start", "entries"),
    [
        (5, ENTRIES),
        (10, ENTRIES),
        (15, ((2, 15), (4, 20), (7, 30))),
        (20, ((4, 20), (7, 30))),
        (25, ((4, 25), (7, 30))),
        (99, ((7, 99),)),
    ],
)
def test_truncating_the_start_moves_the_epoch_it_falls_into(
    start: int, entries: tuple[tuple[int, int], ...]
) -> None:
    cache = EpochCache(ENTRIES)
    assert cache.truncate_from_start(start) == (entries != ENTRIES)
    assert cache.entries == entries


@pytest.mark.parametrize("entries", [((1, 5), (1, 6)), ((2, 5), (1, 6)), ((1, 5), (2, 5)), ((1, 6), (2, 5))])
def test_entries_that_do_not_rise_are_inconsistent(entries: tuple[tuple[int, int], ...]) -> None:
    assert not EpochCache(entries).is_consistent()
    assert EpochCache(ENTRIES).is_consistent()
