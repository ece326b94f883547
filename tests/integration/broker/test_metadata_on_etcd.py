"""The store on real etcd servers that are killed, frozen, compacted and full, with users, and with TLS."""

from collections.abc import AsyncIterator, Generator
from contextlib import AbstractAsyncContextManager
from pathlib import Path

import pytest
import trio
from tests.support.certificates import Authority, Certificate
from tests.support.etcd import EtcdServer, etcd_cluster, running_etcd, shared_etcd

from penstock.runtime.metadata import (
    Compacted,
    Compare,
    Delete,
    MetadataError,
    MetadataStore,
    MetadataUnavailable,
    OutcomeUnknown,
    Put,
    WatchBatch,
)
from penstock.runtime.production import production_environment

LIMIT_S = 30.0
"""Reached only when something is broken."""


def opened(location: str) -> AbstractAsyncContextManager[MetadataStore]:
    return production_environment().open_metadata(location)


async def put_patiently(store: MetadataStore, key: str, value: bytes) -> None:
    """Through an outage: as a broker does, with a look at what became of a transaction whose reply was lost."""
    with trio.fail_after(LIMIT_S):
        while True:
            try:
                await store.transact([Compare(key, mod_revision=0)], [Put(key, value)])
                return
            except (MetadataUnavailable, OutcomeUnknown):
                await trio.sleep(0.05)


async def keys_told(watch: AsyncIterator[WatchBatch], count: int) -> list[str]:
    with trio.fail_after(LIMIT_S):
        return [event.key for _ in range(count) for event in (await anext(watch)).events]


@pytest.fixture(scope="module")
def own_etcd(tmp_path_factory: pytest.TempPathFactory) -> Generator[EtcdServer]:
    """One that tests may kill and compact; each leaves it running."""
    with running_etcd(tmp_path_factory.mktemp("etcd")) as server:
        yield server


async def test_a_watch_goes_on_over_a_kill_of_etcd(own_etcd: EtcdServer) -> None:
    async with opened(f"{own_etcd.location}/kill") as store, store.watch("/", after_revision=0) as watch:
        await store.transact([], [Put("/a", b"")])
        assert await keys_told(watch, 1) == ["/a"]
        async with trio.open_nursery() as nursery:
            told: list[str] = []

            async def follow() -> None:
                told.extend(await keys_told(watch, 2))

            nursery.start_soon(follow)
            own_etcd.kill()
            with pytest.raises(MetadataUnavailable, match="Connection refused"):
                await store.get("/a")
            await trio.to_thread.run_sync(own_etcd.start)
            await put_patiently(store, "/b", b"")
            await store.transact([], [Delete("/b")])
        assert told == ["/b", "/b"]
        assert await store.get("/a") is not None


async def test_compaction_ends_a_watch_that_lags_and_none_that_does_not(own_etcd: EtcdServer) -> None:
    async with opened(f"{own_etcd.location}/compact") as store:
        first = (await store.transact([], [Put("/a", b"")])).revision
        async with (
            store.watch("/", after_revision=first - 1) as current,
            store.watch("/", after_revision=first) as lagging,
        ):
            assert await keys_told(current, 1) == ["/a"]
            await store.transact([], [Put("/b", b"")])
            assert await keys_told(current, 1) == ["/b"]
            own_etcd.compact()
            await store.transact([], [Put("/c", b"")])
            assert await keys_told(current, 1) == ["/c"]
            with pytest.raises(Compacted):
                await keys_told(lagging, 1)


async def test_a_snapshot_of_many_large_keys_comes_whole(own_etcd: EtcdServer) -> None:
    async with opened(f"{own_etcd.location}/large") as store:
        for start in range(0, 2500, 100):
            puts = [Put(f"/n/{number:05}", b"x" * 2000) for number in range(start, start + 100)]
            await store.transact([], puts)
        snapshot = await store.range("/n/")
        assert [entry.key for entry in snapshot.entries] == [f"/n/{number:05}" for number in range(2500)]
        batches = []
        async with store.watch("/", after_revision=snapshot.revision - 25) as watch:
            with trio.fail_after(LIMIT_S):
                batches = [await anext(watch) for _ in range(25)]
        assert [len(batch.events) for batch in batches] == [100] * 25, "etcd sends this in fragments"


async def test_a_full_etcd_refuses_changes_and_nothing_else(tmp_path: Path) -> None:
    with running_etcd(tmp_path, ["--quota-backend-bytes", "1000000"]) as server:
        async with opened(server.location) as store:
            await store.transact([], [Put("/0", b"")])

            async def fill() -> None:
                for number in range(1, 100):
                    await store.transact([], [Put(f"/{number}", b"x" * 500_000)])

            with pytest.raises(MetadataUnavailable, match="space"):
                await fill()
            assert await store.get("/0") is not None
            await store.transact([], [Delete("/0")])
            assert await store.get("/0") is None


async def test_three_members_outlive_a_kill_and_a_pause_of_each(tmp_path: Path) -> None:
    with etcd_cluster(tmp_path, 3) as servers:
        location = "etcd://" + ",".join(server.address for server in servers)
        async with opened(location) as store, store.watch("/", after_revision=0) as watch:
            await put_patiently(store, "/0", b"")
            assert await keys_told(watch, 1) == ["/0"]
            told: list[str] = []

            async def follow() -> None:
                told.extend(await keys_told(watch, 6))

            async with trio.open_nursery() as nursery:
                nursery.start_soon(follow)
                for number, server in enumerate(servers, 1):
                    server.freeze()
                    await put_patiently(store, f"/{number}", b"frozen")
                    server.thaw()
                    server.kill()
                    await put_patiently(store, f"/{number}/killed", b"")
                    await trio.to_thread.run_sync(server.start)
            assert told == ["/1", "/1/killed", "/2", "/2/killed", "/3", "/3/killed"]


# Users.


@pytest.fixture(scope="module")
def etcd_with_users(tmp_path_factory: pytest.TempPathFactory) -> Generator[EtcdServer]:
    """The user `pen`, password `y:/@`, may do everything under /pen/ and nothing else."""
    with running_etcd(tmp_path_factory.mktemp("etcd-users")) as server:
        for path, body in (
            ("user/add", {"name": "root", "password": "x"}),
            ("role/add", {"name": "root"}),
            ("user/grant", {"user": "root", "role": "root"}),
            ("user/add", {"name": "pen", "password": "y:/@"}),
            ("role/add", {"name": "pen"}),
            (
                "role/grant",
                {
                    "name": "pen",
                    "perm": {"permType": "READWRITE", "key": "L3Blbi8=", "range_end": "L3BlbjA="},
                },
            ),
            ("user/grant", {"user": "pen", "role": "pen"}),
            ("enable", {}),
        ):
            assert "error" not in server.ask("POST", f"/v3/auth/{path}", body)
        yield server


def as_pen(server: EtcdServer, prefix: str = "/pen", password: str = "y%3A%2F%40") -> str:
    return f"etcd://pen:{password}@{server.address}{prefix}"


async def test_a_user_may_do_all_that_the_store_does_under_its_prefix(etcd_with_users: EtcdServer) -> None:
    async with opened(as_pen(etcd_with_users)) as store, store.watch("/", after_revision=0) as watch:
        lease_id = await store.grant_lease(5)
        assert (await store.transact([Compare("/a", mod_revision=0)], [Put("/a", b"1", lease_id)])).succeeded
        assert await keys_told(watch, 1) == ["/a"]
        assert (await store.transact([Compare("/b", mod_revision=0)], [])).succeeded
        await store.keep_alive(lease_id)
        await store.revoke_lease(lease_id)
        assert (await store.range("/")).entries == []


async def test_a_token_that_a_restart_has_made_void_is_renewed(etcd_with_users: EtcdServer) -> None:
    async with (
        opened(as_pen(etcd_with_users, "/pen/void")) as store,
        store.watch("/", after_revision=0) as watch,
    ):
        await store.transact([], [Put("/a", b"")])
        assert await keys_told(watch, 1) == ["/a"]
        etcd_with_users.kill()
        etcd_with_users.start()
        await put_patiently(store, "/b", b"")
        assert await keys_told(watch, 1) == ["/b"]


async def test_what_a_user_may_not_do_is_an_error_that_says_so(etcd_with_users: EtcdServer) -> None:
    async with opened(as_pen(etcd_with_users, "/elsewhere")) as store:
        with pytest.raises(MetadataError, match="permission denied"):
            await store.get("/a")
        with pytest.raises(MetadataError, match="permission denied"):
            await store.transact([], [Put("/a", b"")])
        async with store.watch("/", after_revision=0) as watch:
            with pytest.raises(MetadataError, match="watching /elsewhere/: permission denied"):
                await keys_told(watch, 1)
    async with opened(as_pen(etcd_with_users, password="wrong")) as store:
        with pytest.raises(MetadataError, match="user 'pen': authentication failed"):
            await store.get("/a")
    async with opened(f"etcd://{etcd_with_users.address}/pen") as store:
        with pytest.raises(MetadataError, match="wants a user"):
            await store.get("/a")


# TLS.


async def test_with_tls_both_sides_show_certificates(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    server_files, client_files = authority.sign("server"), authority.sign("client")
    options = [
        *("--cert-file", str(server_files.certificate), "--key-file", str(server_files.key)),
        *("--client-cert-auth", "--trusted-ca-file", str(authority.own.certificate)),
    ]
    with running_etcd(tmp_path / "etcd", options, tls=True) as server:

        def location(ca: Path, files: Certificate | None) -> str:
            client = f"&certificate={files.certificate}&key={files.key}" if files else ""
            return f"{server.location}?ca={ca}{client}"

        async with (
            opened(location(authority.own.certificate, client_files)) as store,
            store.watch("/", after_revision=0) as watch,
        ):
            await put_patiently(store, "/a", b"")
            assert await keys_told(watch, 1) == ["/a"]
        async with opened(location(authority.own.certificate, None)) as store:
            with pytest.raises(MetadataUnavailable, match="without a client certificate"):
                await store.get("/a")
        other = Authority(tmp_path, "other")
        async with opened(location(other.own.certificate, client_files)) as store:
            with pytest.raises(MetadataUnavailable, match="CERTIFICATE_VERIFY_FAILED"):
                await store.get("/a")
        with pytest.raises(MetadataError, match="certificates"):
            async with opened(location(tmp_path / "none.pem", None)):
                pass


async def test_a_store_that_is_opened_twice_is_one_store() -> None:
    location = f"{shared_etcd().location}/twice"
    async with opened(location) as one, opened(location) as two:
        await one.transact([], [Put("/a", b"1")])
        entry = await two.get("/a")
        assert entry is not None
        assert (
            await two.transact([Compare("/a", mod_revision=entry.mod_revision)], [Delete("/a")])
        ).succeeded
        assert await one.get("/a") is None
