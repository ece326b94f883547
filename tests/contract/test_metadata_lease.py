"""What every metadata store must do with leases: a key under one goes with it, for whatever reason it ends."""

import pytest
from tests.support.metadata_stores import StorePlace
from trio.abc import Clock

from penstock.runtime.metadata import Entry, LeaseNotFound, MetadataError, Put

TTL_S = 2


async def test_a_lease_that_is_not_kept_alive_takes_its_keys_in_one_revision(
    place: StorePlace, clock: Clock
) -> None:
    async with place.open() as store:
        lease_id = await store.grant_lease(TTL_S)
        await store.transact([], [Put("/kept", b"")])
        result = await store.transact([], [Put("/a", b"1", lease_id), Put("/b", b"2", lease_id)])
        assert await store.get("/a") == Entry("/a", b"1", result.revision, result.revision, lease_id)
        async with store.watch("/", after_revision=result.revision) as watch:
            await place.pass_end(TTL_S + 1)
            batch = await anext(watch)
        assert sorted((event.key, event.entry) for event in batch.events) == [("/a", None), ("/b", None)]
        assert [entry.key for entry in (await store.range("/")).entries] == ["/kept"]


async def test_keeping_alive_puts_the_end_off(place: StorePlace, clock: Clock) -> None:
    async with place.open() as store:
        lease_id = await store.grant_lease(TTL_S)
        result = await store.transact([], [Put("/a", b"", lease_id)])
        for _ in range(3):
            await place.pass_time(TTL_S * 0.6)
            await store.keep_alive(lease_id)
        assert await store.get("/a") is not None
        async with store.watch("/a", after_revision=result.revision) as watch:
            await place.pass_end(TTL_S + 1)
            await anext(watch)


async def test_a_shorter_lease_ends_before_a_longer_one_granted_first(
    place: StorePlace, clock: Clock
) -> None:
    async with place.open() as store:
        long = await store.grant_lease(60)
        await store.transact([], [Put("/long", b"", long)])
        await place.pass_time(0)
        short = await store.grant_lease(TTL_S)
        result = await store.transact([], [Put("/short", b"", short)])
        async with store.watch("/", after_revision=result.revision) as watch:
            await place.pass_end(TTL_S + 1)
            assert [event.key for event in (await anext(watch)).events] == ["/short"]
        assert await store.get("/long") is not None


async def test_an_ended_lease_can_neither_be_kept_alive_nor_used(place: StorePlace, clock: Clock) -> None:
    async with place.open() as store:
        lease_id = await store.grant_lease(TTL_S)
        result = await store.transact([], [Put("/last", b"", lease_id)])
        async with store.watch("/last", after_revision=result.revision) as watch:
            await place.pass_end(TTL_S + 1)
            await anext(watch)
        with pytest.raises(LeaseNotFound):
            await store.keep_alive(lease_id)
        with pytest.raises(LeaseNotFound):
            await store.transact([], [Put("/b", b""), Put("/a", b"", lease_id)])
        assert list((await store.range("")).entries) == []


async def test_revoking_takes_the_keys_at_once_and_twice_is_no_error(place: StorePlace) -> None:
    async with place.open() as store:
        lease_id = await store.grant_lease(TTL_S)
        result = await store.transact([], [Put("/a", b"", lease_id), Put("/b", b"", lease_id)])
        await store.revoke_lease(lease_id)
        assert (await store.range("/")).entries == []
        assert (await store.range("/")).revision == result.revision + 1
        await store.revoke_lease(lease_id)
        with pytest.raises(LeaseNotFound):
            await store.keep_alive(lease_id)


async def test_a_lease_without_keys_ends_without_a_revision(place: StorePlace) -> None:
    async with place.open() as store:
        result = await store.transact([], [Put("/a", b"")])
        await store.revoke_lease(await store.grant_lease(TTL_S))
        assert (await store.range("/")).revision == result.revision


async def test_a_key_put_again_without_the_lease_outlives_it(place: StorePlace) -> None:
    async with place.open() as store:
        first, second = await store.grant_lease(TTL_S), await store.grant_lease(TTL_S)
        await store.transact([], [Put("/free", b"", first), Put("/moved", b"", first), Put("/a", b"", first)])
        await store.transact([], [Put("/free", b"2"), Put("/moved", b"2", second)])
        await store.revoke_lease(first)
        assert [entry.key for entry in (await store.range("/")).entries] == ["/free", "/moved"]
        await store.revoke_lease(second)
        assert [entry.key for entry in (await store.range("/")).entries] == ["/free"]


async def test_leases_have_ids_of_their_own_and_never_zero(place: StorePlace) -> None:
    async with place.open() as store:
        ids = {await store.grant_lease(TTL_S) for _ in range(10)}
        assert len(ids) == 10
        assert 0 not in ids


async def test_a_lease_below_the_shortest_is_refused(place: StorePlace) -> None:
    async with place.open() as store:
        with pytest.raises(MetadataError):
            await store.grant_lease(1)


async def test_an_unknown_lease_is_not_found(place: StorePlace) -> None:
    async with place.open() as store:
        with pytest.raises(LeaseNotFound):
            await store.keep_alive(12345)
        with pytest.raises(LeaseNotFound):
            await store.transact([], [Put("/a", b"", 12345)])
        await store.revoke_lease(12345)
