"""What every metadata store must do for a watcher: all changes, in order, none twice, none split, none left out."""

from collections.abc import AsyncIterator

import trio
from tests.support.metadata_stores import StorePlace

from penstock.runtime.metadata import Compare, Delete, Entry, MetadataStore, Put, WatchBatch, WatchEvent


async def take(watch: AsyncIterator[WatchBatch], count: int) -> list[WatchBatch]:
    return [await anext(watch) for _ in range(count)]


async def put_many(store: MetadataStore, count: int) -> int:
    """As many revisions; returns the last."""
    results = [await store.transact([], [Put(f"/n/{number}", b"")]) for number in range(count)]
    return results[-1].revision


async def test_a_watch_brings_the_past_after_its_revision_and_then_the_present(place: StorePlace) -> None:
    async with place.open() as store:
        first = await put_many(store, 1)
        await put_many(store, 2)
        async with store.watch("/n/", after_revision=first) as watch:
            past = await take(watch, 2)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(put_many, store, 1)
                (present,) = await take(watch, 1)
        assert [batch.revision for batch in [*past, present]] == [first + 1, first + 2, first + 3]


async def test_a_watch_that_waits_is_woken_by_the_change(place: StorePlace) -> None:
    async with place.open() as store:
        got: list[WatchBatch] = []

        async def watch_one(task_status: trio.TaskStatus[None]) -> None:
            async with store.watch("/", after_revision=0) as watch:
                task_status.started()
                got.extend(await take(watch, 1))

        async with trio.open_nursery() as nursery:
            await nursery.start(watch_one)
            await trio.testing.wait_all_tasks_blocked()
            result = await store.transact([], [Put("/a", b"1")])
        entry = Entry("/a", b"1", result.revision, result.revision)
        assert got == [WatchBatch(result.revision, [WatchEvent("/a", entry)])]


async def test_a_transaction_comes_as_one_batch_in_its_own_order(place: StorePlace) -> None:
    async with place.open() as store:
        before = await put_many(store, 1)
        await store.transact([], [Put("/z", b"1"), Delete("/n/0"), Put("/a", b"2"), Delete("/none")])
        async with store.watch("", after_revision=before) as watch:
            (batch,) = await take(watch, 1)
        assert batch.revision == before + 1
        assert list(batch.events) == [
            WatchEvent("/z", Entry("/z", b"1", before + 1, before + 1)),
            WatchEvent("/n/0", None),
            WatchEvent("/a", Entry("/a", b"2", before + 1, before + 1)),
        ]


async def test_a_watch_sees_its_prefix_only(place: StorePlace) -> None:
    async with place.open() as store:
        await store.transact([], [Put("/other", b"")])
        await store.transact([], [Put("/a", b""), Put("/a/1", b""), Put("/a0", b"")])
        await store.transact([], [Put("/b", b"")])
        last = await store.transact([], [Delete("/a/1")])
        async with store.watch("/a/", after_revision=0) as watch:
            made, deleted = await take(watch, 2)
        assert [event.key for event in made.events] == ["/a/1"]
        assert (deleted.revision, list(deleted.events)) == (last.revision, [WatchEvent("/a/1", None)])


async def test_what_changed_nothing_is_not_told(place: StorePlace) -> None:
    async with place.open() as store:
        await store.transact([], [Delete("/none")])
        await store.transact([Compare("/a", mod_revision=5)], [Put("/a", b"")])
        result = await store.transact([], [Put("/b", b"")])
        async with store.watch("/", after_revision=0) as watch:
            (batch,) = await take(watch, 1)
        assert batch.revision == result.revision


async def test_a_new_value_has_the_create_revision_of_the_first(place: StorePlace) -> None:
    async with place.open() as store:
        created = (await store.transact([], [Put("/a", b"1")])).revision
        modified = (await store.transact([], [Put("/a", b"2")])).revision
        async with store.watch("/a", after_revision=created) as watch:
            (batch,) = await take(watch, 1)
        assert list(batch.events) == [WatchEvent("/a", Entry("/a", b"2", created, modified))]


async def test_a_watch_goes_on_over_a_restart_where_it_stopped(place: StorePlace) -> None:
    async with place.open() as store, store.watch("/n/", after_revision=0) as watch:
        last = await put_many(store, 3)
        seen = await take(watch, 1)
    async with place.open() as store:
        await put_many(store, 1)
        async with store.watch("/n/", after_revision=seen[-1].revision) as watch:
            seen += await take(watch, 3)
    assert [batch.revision for batch in seen] == [last - 2, last - 1, last, last + 1]


async def test_several_watchers_each_get_everything_at_their_own_pace(place: StorePlace) -> None:
    async with place.open() as store:
        async with (
            store.watch("/", after_revision=0) as fast,
            store.watch("/", after_revision=0) as slow,
        ):
            await put_many(store, 2)
            fast_seen = await take(fast, 2)
            await put_many(store, 2)
            fast_seen += await take(fast, 2)
            slow_seen = await take(slow, 4)
        assert fast_seen == slow_seen


async def test_a_watch_with_much_to_tell_lets_others_run(place: StorePlace) -> None:
    async with place.open() as store, store.watch("/", after_revision=0) as watch:
        await put_many(store, 3)
        for _ in range(3):
            with trio.testing.assert_checkpoints():
                await anext(watch)


async def test_a_cancelled_wait_loses_no_batch(place: StorePlace) -> None:
    async with place.open() as store, store.watch("/", after_revision=0) as watch:
        for _ in range(2):
            with trio.CancelScope() as scope:
                scope.cancel()
                await anext(watch)
        last = await put_many(store, 2)
        for _ in range(2):
            with trio.CancelScope() as scope:
                scope.cancel()
                await anext(watch)
        assert [batch.revision for batch in await take(watch, 2)] == [last - 1, last]
