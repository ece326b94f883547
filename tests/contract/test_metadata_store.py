"""What every metadata store must do: keys, revisions, transactions. Watches and leases have modules of their own."""

from random import Random

import pytest
import trio
from tests.support.metadata_stores import StorePlace

from penstock.runtime.metadata import (
    OPERATIONS_PER_TRANSACTION_MAX,
    TRANSACTION_SIZE_BYTES_MAX,
    VALUE_SIZE_BYTES_MAX,
    Compare,
    Delete,
    Entry,
    MetadataError,
    MetadataStore,
    Put,
    TransactionTooLarge,
)


async def put(store: MetadataStore, key: str, value: bytes) -> int:
    result = await store.transact([], [Put(key, value)])
    assert result.succeeded
    return result.revision


async def test_a_key_that_was_never_put_is_none(place: StorePlace) -> None:
    async with place.open() as store:
        assert await store.get("/a") is None
        assert list((await store.range("")).entries) == []


async def test_a_second_put_keeps_the_create_revision_and_moves_the_mod_revision(place: StorePlace) -> None:
    async with place.open() as store:
        first = await put(store, "/a", b"1")
        assert await store.get("/a") == Entry("/a", b"1", first, first)
        second = await put(store, "/a", b"2")
        assert second == first + 1
        assert await store.get("/a") == Entry("/a", b"2", first, second)


async def test_a_key_made_again_has_a_new_create_revision(place: StorePlace) -> None:
    async with place.open() as store:
        await put(store, "/a", b"1")
        await store.transact([], [Delete("/a")])
        assert await store.get("/a") is None
        made_again = await put(store, "/a", b"1")
        assert await store.get("/a") == Entry("/a", b"1", made_again, made_again)


async def test_an_empty_value_is_not_an_absent_key(place: StorePlace) -> None:
    async with place.open() as store:
        revision = await put(store, "/a", b"")
        assert await store.get("/a") == Entry("/a", b"", revision, revision)


async def test_the_revision_rises_only_when_something_changed(place: StorePlace) -> None:
    async with place.open() as store:
        revision = await put(store, "/a", b"1")
        assert (await store.transact([], [])).revision == revision
        assert (await store.transact([], [Delete("/none")])).revision == revision
        assert (await store.transact([Compare("/a", mod_revision=0)], [Put("/b", b"")])).revision == revision
        assert (await store.range("/")).revision == revision
        assert await put(store, "/a", b"1") == revision + 1, "the same value is a change"


async def test_a_compare_that_fails_leaves_every_key_alone(place: StorePlace) -> None:
    async with place.open() as store:
        revision = await put(store, "/a", b"1")
        compares = [Compare("/a", mod_revision=revision), Compare("/b", mod_revision=7)]
        result = await store.transact(compares, [Put("/a", b"2"), Put("/b", b"2"), Delete("/a2")])
        assert not result.succeeded
        assert list((await store.range("")).entries) == [Entry("/a", b"1", revision, revision)]


async def test_compares_by_mod_revision_create_revision_and_absence(place: StorePlace) -> None:
    async with place.open() as store:
        created = await put(store, "/a", b"1")
        modified = await put(store, "/a", b"2")

        async def holds(compare: Compare) -> bool:
            return (await store.transact([compare], [])).succeeded

        assert await holds(Compare("/a", mod_revision=modified))
        assert not await holds(Compare("/a", mod_revision=created))
        assert await holds(Compare("/a", create_revision=created))
        assert not await holds(Compare("/a", create_revision=modified))
        assert await holds(Compare("/a", mod_revision=modified, create_revision=created))
        assert not await holds(Compare("/a", mod_revision=modified, create_revision=modified))
        assert await holds(Compare("/none", mod_revision=0))
        assert await holds(Compare("/none", create_revision=0))
        assert not await holds(Compare("/a", mod_revision=0))
        assert not await holds(Compare("/a", create_revision=0))


async def test_all_operations_of_a_transaction_have_one_revision(place: StorePlace) -> None:
    async with place.open() as store:
        await put(store, "/old", b"")
        result = await store.transact([], [Put("/a", b"1"), Delete("/old"), Put("/b", b"2")])
        snapshot = await store.range("")
        assert [(entry.key, entry.mod_revision) for entry in snapshot.entries] == [
            ("/a", result.revision),
            ("/b", result.revision),
        ]
        assert snapshot.revision == result.revision


async def test_one_key_named_twice_is_refused(place: StorePlace) -> None:
    async with place.open() as store:
        with pytest.raises(MetadataError):
            await store.transact([], [Put("/a", b"1"), Delete("/a")])
        assert await store.get("/a") is None


async def test_a_key_that_begins_with_no_slash_is_refused(place: StorePlace) -> None:
    async with place.open() as store:
        for key in ("", "a"):
            with pytest.raises(MetadataError):
                await store.transact([], [Put(key, b"1")])
        assert list((await store.range("")).entries) == []


async def test_the_bound_of_operations_is_exact(place: StorePlace) -> None:
    async with place.open() as store:
        most = OPERATIONS_PER_TRANSACTION_MAX
        compares = [Compare(f"/{i}", mod_revision=0) for i in range(most)]
        assert (await store.transact(compares, [Put(f"/{i}", b"") for i in range(most)])).succeeded
        with pytest.raises(TransactionTooLarge):
            await store.transact([], [Put(f"/n/{i}", b"") for i in range(most + 1)])
        with pytest.raises(TransactionTooLarge):
            await store.transact([*compares, Compare("/one/more", mod_revision=0)], [Put("/n", b"")])
        assert len((await store.range("/n")).entries) == 0


async def test_the_bound_of_a_value_is_exact(place: StorePlace) -> None:
    async with place.open() as store:
        await put(store, "/a", bytes(VALUE_SIZE_BYTES_MAX))
        with pytest.raises(TransactionTooLarge):
            await store.transact([], [Put("/b", b""), Put("/a", bytes(VALUE_SIZE_BYTES_MAX + 1))])
        assert await store.get("/b") is None


async def test_a_compare_of_both_revisions_counts_twice(place: StorePlace) -> None:
    async with place.open() as store:
        half = OPERATIONS_PER_TRANSACTION_MAX // 2
        compares = [Compare(f"/{i}", mod_revision=0, create_revision=0) for i in range(half)]
        assert (await store.transact(compares, [Put("/a", b"")])).succeeded
        with pytest.raises(TransactionTooLarge):
            await store.transact([*compares, Compare("/one/more", mod_revision=0)], [Put("/a", b"")])


async def test_the_bound_of_a_whole_transaction_is_exact(place: StorePlace) -> None:
    async with place.open() as store:
        rest = TRANSACTION_SIZE_BYTES_MAX - VALUE_SIZE_BYTES_MAX - len("/a") - len("/b") - len("/c")
        compares = [Compare("/c", mod_revision=0)]
        most = [Put("/a", bytes(VALUE_SIZE_BYTES_MAX)), Put("/b", bytes(rest))]
        assert (await store.transact(compares, most)).succeeded
        with pytest.raises(TransactionTooLarge):
            await store.transact(compares, [most[0], Put("/b", bytes(rest + 1))])


async def test_a_range_is_what_starts_with_the_prefix_in_order(place: StorePlace) -> None:
    async with place.open() as store:
        keys = ["/a", "/a/", "/a/1", "/a/10", "/a/2", "/a/ä", "/a/\N{SNOWMAN}", "/a0", "/b", "/\N{SNOWMAN}"]
        await store.transact([], [Put(key, key.encode()) for key in reversed(keys)])

        async def names(prefix: str) -> list[str]:
            return [entry.key for entry in (await store.range(prefix)).entries]

        assert await names("") == keys
        assert await names("/a/") == ["/a/", "/a/1", "/a/10", "/a/2", "/a/ä", "/a/\N{SNOWMAN}"]
        assert await names("/a/1") == ["/a/1", "/a/10"]
        assert await names("/c") == []


async def test_racing_compare_and_swap_loses_no_update(place: StorePlace) -> None:
    async with place.open() as store:

        async def add_one() -> None:
            while True:
                entry = await store.get("/count")
                compare = Compare("/count", mod_revision=entry.mod_revision if entry else 0)
                count = int(entry.value) if entry else 0
                if (await store.transact([compare], [Put("/count", b"%d" % (count + 1))])).succeeded:
                    return

        async with trio.open_nursery() as nursery:
            for _ in range(10):
                nursery.start_soon(add_one)
        entry = await store.get("/count")
        assert entry is not None
        assert entry.value == b"10"


async def test_what_was_stored_is_there_when_the_store_is_opened_again(place: StorePlace) -> None:
    async with place.open() as store:
        await put(store, "/a", b"1")
        revision = await put(store, "/b", b"2")
        before = await store.range("")
    async with place.open() as store:
        assert await store.range("") == before
        assert await put(store, "/c", b"3") == revision + 1


@pytest.mark.parametrize("seed", [1, 2])
async def test_it_agrees_with_a_dictionary(place: StorePlace, seed: int) -> None:
    random = Random(seed)
    keys = [f"/{name}" for name in "abcdefg"]
    model: dict[str, Entry] = {}
    async with place.open() as store:
        revision = (await store.range("")).revision
        for step in range(150):
            asked = random.sample(keys, random.randrange(3))
            compares = [Compare(key, mod_revision=random.choice([0, model_mod(model, key)])) for key in asked]
            operations = [
                Put(key, b"%d" % step) if random.random() < 0.6 else Delete(key)
                for key in random.sample(keys, random.randrange(4))
            ]
            holds = all(model_mod(model, compare.key) == compare.mod_revision for compare in compares)
            changes = [op for op in operations if isinstance(op, Put) or op.key in model] if holds else []
            revision += bool(changes)
            for change in changes:
                created = model[change.key].create_revision if change.key in model else revision
                if isinstance(change, Put):
                    model[change.key] = Entry(change.key, change.value, created, revision)
                else:
                    del model[change.key]
            result = await store.transact(compares, operations)
            assert (result.succeeded, result.revision) == (holds, revision)
        assert list((await store.range("")).entries) == sorted(model.values(), key=lambda entry: entry.key)


def model_mod(model: dict[str, Entry], key: str) -> int:
    return model[key].mod_revision if key in model else 0
