"""A lost reply: look, then try again, and never tell the wrong outcome."""

import pytest
from tests.support.memory_metadata import Fault, MemoryMetadata
from trio.testing import MockClock

from penstock.broker.transactions import (
    ATTEMPT_COUNT_MAX,
    BATCH_SIZE,
    Transaction,
    delete_unchanged,
    metadata_failure,
    transact,
)
from penstock.protocol.errors import ErrorCode
from penstock.runtime.metadata import Compare, Delete, MetadataUnavailable, OutcomeUnknown, Put

MAKE = Transaction([Compare("/a", mod_revision=0)], [Put("/a", b"mine")])


@pytest.mark.parametrize("fault", [Fault.LOST_REPLY, Fault.LOST_REQUEST])
async def test_a_lost_reply_ends_in_success(fault: Fault, autojump_clock: MockClock) -> None:
    store = MemoryMetadata()
    store.fail_next(fault)
    assert (await transact(store, MAKE)).succeeded
    assert store.entries["/a"].value == b"mine"
    assert store.revision == 1, "applied once"


async def test_a_lost_reply_of_a_delete_ends_in_success(autojump_clock: MockClock) -> None:
    store = MemoryMetadata()
    await store.transact([], [Put("/a", b"1")])
    store.fail_next(Fault.LOST_REPLY)
    assert (await transact(store, Transaction([Compare("/a", mod_revision=1)], [Delete("/a")]))).succeeded


async def test_who_lost_the_race_is_told_so_even_after_a_lost_reply(autojump_clock: MockClock) -> None:
    store = MemoryMetadata()
    await store.transact([], [Put("/a", b"theirs")])
    store.fail_next(Fault.LOST_REQUEST)
    assert not (await transact(store, MAKE)).succeeded
    assert store.entries["/a"].value == b"theirs"


async def test_failed_compares_are_no_error() -> None:
    store = MemoryMetadata()
    await store.transact([], [Put("/a", b"theirs")])
    assert not (await transact(store, MAKE)).succeeded


async def test_an_unreachable_store_is_told_at_once_while_nothing_is_in_doubt() -> None:
    store = MemoryMetadata()
    store.fail_next(Fault.UNAVAILABLE)
    with pytest.raises(MetadataUnavailable):
        await transact(store, MAKE)
    assert store.transaction_count == 1


async def test_a_store_that_can_not_be_asked_leaves_the_outcome_unknown(autojump_clock: MockClock) -> None:
    store = MemoryMetadata()
    store.fail_next(Fault.LOST_REPLY, *[Fault.UNAVAILABLE] * ATTEMPT_COUNT_MAX)
    with pytest.raises(OutcomeUnknown):
        await transact(store, MAKE)
    store = MemoryMetadata()
    store.fail_next(*[Fault.LOST_REQUEST] * ATTEMPT_COUNT_MAX)
    with pytest.raises(OutcomeUnknown):
        await transact(store, MAKE)


async def test_a_store_that_comes_back_settles_the_doubt(autojump_clock: MockClock) -> None:
    store = MemoryMetadata()
    store.fail_next(Fault.LOST_REPLY, Fault.UNAVAILABLE, Fault.LOST_REQUEST)
    assert (await transact(store, MAKE)).succeeded
    assert store.revision == 1


def test_clients_are_told_whether_it_may_have_been_done() -> None:
    unknown, unavailable = metadata_failure(OutcomeUnknown("x")), metadata_failure(MetadataUnavailable("x"))
    assert unknown.code == unavailable.code == ErrorCode.REQUEST_TIMED_OUT
    assert "may or may not" in str(unknown)
    assert "may or may not" not in str(unavailable)


async def test_one_key_that_changes_keeps_all_others_from_being_deleted() -> None:
    store = MemoryMetadata()
    names = [f"/a{number:03}" for number in range(BATCH_SIZE + 2)]
    for name in names:
        await store.transact([], [Put(name, b"1")])
    await store.transact([], [Put("/guard", b"1")])
    found = {name: store.entries[name].mod_revision for name in names}
    await store.transact([], [Put(names[0], b"2")])
    guard = Compare("/guard", create_revision=store.entries["/guard"].create_revision)
    assert await delete_unchanged(store, guard, found) == 2
    assert sorted(store.entries) == [*names[:BATCH_SIZE], "/guard"]
