"""The adapter for etcd in virtual time: members that fail, replies that are lost, users, pages. Watches have a module of their own."""

import logging
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio
from tests.support.etcd_gateway import CallFault, EtcdGateway
from tests.support.metadata_plane import TrioClock, new_random
from trio.testing import MockClock

from penstock.runtime import etcd_client
from penstock.runtime.etcd_metadata import PAGE_KEY_COUNT, EtcdMetadata, open_etcd_metadata
from penstock.runtime.metadata import (
    OPERATIONS_PER_TRANSACTION_MAX,
    Compare,
    MetadataError,
    MetadataUnavailable,
    OutcomeUnknown,
    Put,
)
from penstock.runtime.worker_threads import WorkerThreads

LOCATION = "etcd://one,two,three"
ALL = ("one:2379", "two:2379", "three:2379")


@asynccontextmanager
async def opened(
    gateway: EtcdGateway, location: str = LOCATION, seed: int = 1
) -> AsyncGenerator[EtcdMetadata]:
    async with open_etcd_metadata(
        location, clock=TrioClock(), random=new_random(seed), threads=WorkerThreads(), transport=gateway
    ) as store:
        yield store


async def test_a_member_that_refuses_connections_fails_no_call(autojump_clock: MockClock) -> None:
    gateway = EtcdGateway()
    async with opened(gateway) as store:
        for down in ALL:
            gateway.take_down(down)
            assert (await store.transact([], [Put("/a", b"")])).succeeded
            assert await store.get("/a") is not None
            gateway.bring_up(down)
    assert gateway.store.revision == len(ALL)


async def test_the_brokers_of_a_cluster_do_not_all_begin_with_the_first_member(
    autojump_clock: MockClock,
) -> None:
    gateway = EtcdGateway()
    for seed in range(12):
        async with opened(gateway, seed=seed) as store:
            await store.get("/a")
    assert set(gateway.asked) == set(ALL)


async def test_with_no_member_there_nothing_is_changed_and_the_call_ends_soon(
    autojump_clock: MockClock,
) -> None:
    gateway = EtcdGateway()
    gateway.take_down(*ALL)
    begin = trio.current_time()
    async with opened(gateway) as store:
        with pytest.raises(MetadataUnavailable, match="one:2379: Connection refused"):
            await store.transact([], [Put("/a", b"")])
        gateway.bring_up(*ALL)
        assert await store.get("/a") is None
    assert trio.current_time() - begin <= etcd_client.PATIENCE_S


async def test_a_call_outlives_a_moment_without_a_leader(autojump_clock: MockClock) -> None:
    gateway = EtcdGateway()
    gateway.fail_next(*[CallFault.NO_LEADER] * 3, *[CallFault.NO_CONNECTION] * 3)
    async with opened(gateway) as store:
        assert (await store.transact([Compare("/a", mod_revision=0)], [Put("/a", b"")])).succeeded
    assert gateway.store.revision == 1


LOST = [
    CallFault.LOST_REQUEST,
    CallFault.LOST_REPLY,
    CallFault.TIMED_OUT,
    CallFault.SILENT,
    CallFault.GARBAGE,
]


@pytest.mark.parametrize("fault", LOST)
async def test_a_transaction_without_a_reply_is_not_sent_again(
    autojump_clock: MockClock, fault: CallFault
) -> None:
    gateway = EtcdGateway()
    gateway.fail_next(fault)
    async with opened(gateway) as store:
        with pytest.raises(OutcomeUnknown):
            await store.transact([], [Put("/a", b"")])
        assert gateway.calls["/v3/kv/txn"] == 1
        was_done = fault in (CallFault.LOST_REPLY, CallFault.TIMED_OUT, CallFault.SILENT)
        assert (await store.get("/a") is not None) == was_done


@pytest.mark.parametrize("fault", LOST)
async def test_what_may_be_done_twice_is_sent_again(autojump_clock: MockClock, fault: CallFault) -> None:
    gateway = EtcdGateway()
    async with opened(gateway) as store:
        await store.transact([], [Put("/a", b"1")])
        gateway.fail_next(fault)
        entry = await store.get("/a")
        assert entry is not None
        gateway.fail_next(fault)
        assert (await store.transact([Compare("/a", mod_revision=entry.mod_revision)], [])).succeeded
        gateway.fail_next(fault)
        lease_id = await store.grant_lease(5)
        gateway.fail_next(fault)
        await store.keep_alive(lease_id)
        gateway.fail_next(fault)
        await store.revoke_lease(lease_id)
    assert gateway.store.revision == 1


async def test_a_silent_member_costs_one_wait_and_is_asked_last_from_then_on(
    autojump_clock: MockClock,
) -> None:
    gateway = EtcdGateway()
    async with opened(gateway) as store:
        await store.get("/a")
        silent = gateway.asked[-1]
        gateway.silence(silent)
        begin = trio.current_time()
        for _ in range(10):
            await store.get("/a")
        assert trio.current_time() - begin == pytest.approx(etcd_client.ATTEMPT_LIMIT_S)
        assert gateway.asked.count(silent) == 2


async def test_a_cancelled_transaction_may_have_been_done_and_the_store_goes_on(
    autojump_clock: MockClock,
) -> None:
    gateway = EtcdGateway(latency_s=0.5)
    async with opened(gateway) as store:
        with trio.move_on_after(0.75) as scope:
            await store.transact([], [Put("/a", b"")])
        assert scope.cancelled_caught
        assert await store.get("/a") is not None


class ChangingGateway(EtcdGateway):
    """Changes a key after each page, and forgets history, if told to."""

    compacts = 0

    async def _range(self, message: Mapping[str, Any], address: str) -> dict[str, Any]:
        answer = await super()._range(message, address)
        if answer["more"]:
            await self.store.transact([], [Put("/n/0001", b"changed"), Put("/n/9999", b"")])
            if self.compacts:
                self.compacts -= 1
                self.compact()
        return answer


async def many_keys(store: EtcdMetadata, count: int) -> None:
    puts = [Put(f"/n/{number:04}", b"") for number in range(count)]
    for start in range(0, count, OPERATIONS_PER_TRANSACTION_MAX):
        await store.transact([], puts[start : start + OPERATIONS_PER_TRANSACTION_MAX])


async def test_a_snapshot_in_pages_is_of_one_revision(autojump_clock: MockClock) -> None:
    gateway = ChangingGateway()
    async with opened(gateway) as store:
        count = 2 * PAGE_KEY_COUNT + 1
        await many_keys(store, count)
        before = gateway.store.revision
        snapshot = await store.range("/n/")
    assert snapshot.revision == before
    assert [entry.key for entry in snapshot.entries] == [f"/n/{number:04}" for number in range(count)]
    assert gateway.calls["/v3/kv/range"] == 3


async def test_a_snapshot_whose_history_is_compacted_between_two_pages_is_begun_anew(
    autojump_clock: MockClock,
) -> None:
    gateway = ChangingGateway()
    gateway.compacts = 1
    async with opened(gateway) as store:
        await many_keys(store, PAGE_KEY_COUNT + 1)
        snapshot = await store.range("/n/")
        assert [entry.key for entry in snapshot.entries if entry.value] == ["/n/0001"]
        gateway.compacts = 10
        with pytest.raises(MetadataUnavailable, match="faster"):
            await store.range("/n/")


async def test_a_prefix_keeps_clusters_apart(autojump_clock: MockClock) -> None:
    gateway = EtcdGateway()
    async with opened(gateway, f"{LOCATION}/a") as one, opened(gateway, f"{LOCATION}/a/b/") as two:
        await one.transact([], [Put("/x", b"1")])
        await two.transact([], [Put("/x", b"2")])
        assert [entry.value for entry in (await one.range("/x")).entries] == [b"1"]
        assert [entry.value for entry in (await two.range("")).entries] == [b"2"]
        async with two.watch("", after_revision=0) as watch:
            assert [event.key for event in (await anext(watch)).events] == ["/x"]
    assert sorted(gateway.store.entries) == ["/a/b/x", "/a/x"]


async def test_a_member_of_another_cluster_is_found_out(autojump_clock: MockClock) -> None:
    gateway = EtcdGateway()
    gateway.cluster_ids["two:2379"] = "78"
    async with opened(gateway, "etcd://one,two") as store:
        gateway.take_down("two:2379")
        await store.get("/a")
        gateway.bring_up("two:2379")
        gateway.take_down("one:2379")
        with pytest.raises(MetadataError, match="two:2379 is a member of another etcd cluster"):
            await store.get("/a")


async def test_a_store_that_went_back_in_time_is_not_believed(autojump_clock: MockClock) -> None:
    gateway = EtcdGateway()
    async with opened(gateway) as store:
        await many_keys(store, 1000)
        gateway.restore_backup(1)
        with pytest.raises(MetadataError, match="backup"):
            await store.get("/n/0001")
        with pytest.raises(MetadataError, match="backup"):
            await store.transact([Compare("/n/0001", mod_revision=5)], [])


async def test_closing_the_store_closes_its_connections(autojump_clock: MockClock) -> None:
    gateway = EtcdGateway()
    async with opened(gateway):
        pass
    assert gateway.is_closed


# Users.


def with_user(gateway: EtcdGateway, password: str = "s3cret") -> EtcdGateway:
    gateway.users["me"] = password
    return gateway


async def test_a_token_is_fetched_once_and_again_when_it_has_expired(autojump_clock: MockClock) -> None:
    gateway = with_user(EtcdGateway())
    async with opened(gateway, "etcd://me:s3cret@one") as store:
        async with trio.open_nursery() as nursery:
            for _ in range(5):
                nursery.start_soon(store.get, "/a")
        assert gateway.calls["/v3/auth/authenticate"] == 1
        gateway.expire_tokens()
        assert (await store.transact([], [Put("/a", b"")])).succeeded
        assert gateway.calls["/v3/auth/authenticate"] == 2


async def test_a_transaction_whose_token_could_not_be_fetched_was_not_done(autojump_clock: MockClock) -> None:
    gateway = with_user(EtcdGateway())
    gateway.fail_next(CallFault.SILENT)
    async with opened(gateway, "etcd://me:s3cret@one,two") as store:
        assert (await store.transact([], [Put("/a", b"")])).succeeded


async def test_a_wrong_password_is_an_error_that_does_not_show_it(autojump_clock: MockClock) -> None:
    gateway = with_user(EtcdGateway())
    async with opened(gateway, "etcd://me:wrong@one") as store:
        with pytest.raises(MetadataError, match=r"user 'me'.*invalid user ID or password") as caught:
            await store.get("/a")
    assert not isinstance(caught.value, MetadataUnavailable)
    assert "wrong" not in str(caught.value)


async def test_a_password_that_changes_under_way_is_an_outage_and_no_end(autojump_clock: MockClock) -> None:
    gateway = with_user(EtcdGateway())
    async with opened(gateway, "etcd://me:s3cret@one") as store:
        await store.get("/a")
        with_user(gateway, "new").expire_tokens()
        with pytest.raises(MetadataUnavailable, match="invalid user ID or password"):
            await store.get("/a")
        with_user(gateway)
        await store.get("/a")


async def test_an_etcd_that_wants_a_user_says_so(autojump_clock: MockClock) -> None:
    async with opened(with_user(EtcdGateway()), "etcd://one") as store:
        with pytest.raises(MetadataError, match="wants a user and a password"):
            await store.get("/a")


async def test_a_user_for_an_etcd_without_users_does_no_harm(autojump_clock: MockClock) -> None:
    gateway = EtcdGateway()
    async with opened(gateway, "etcd://me:s3cret@one") as store:
        assert await store.get("/a") is None
        assert await store.get("/a") is None
        assert gateway.calls["/v3/auth/authenticate"] == 1
        with_user(gateway)  # somebody turns authentication on
        assert await store.get("/a") is None


async def test_no_log_line_and_no_error_shows_the_password_or_a_token(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    gateway = with_user(EtcdGateway())
    errors: list[str] = []
    async with opened(gateway, "etcd://me:s3cret@one,two") as store:
        for fault in CallFault:
            gateway.fail_next(fault)
            try:
                await store.transact([], [Put("/a", b"")])
            except MetadataError as error:
                errors.append(f"{error!r} {error.__cause__!r}")
            gateway.expire_tokens()
        async with store.watch("/", after_revision=0) as watch:
            await anext(watch)
            gateway.cut_watches()
            gateway.take_down("one:2379", "two:2379")
            with trio.move_on_after(30):
                while True:
                    await anext(watch)
    assert errors
    assert "cut" in caplog.text
    for text in (caplog.text, *errors):
        assert "s3cret" not in text
        assert "token." not in text


async def test_the_password_may_stand_in_a_file(autojump_clock: MockClock, tmp_path: Path) -> None:
    path = tmp_path / "password"
    path.write_text("s3cret\n")
    gateway = with_user(EtcdGateway())
    async with opened(gateway, f"etcd://me@one?password_file={path}") as store:
        assert await store.get("/a") is None
    path.unlink()
    with pytest.raises(MetadataError, match="password"):
        async with opened(gateway, f"etcd://me@one?password_file={path}"):
            pass
