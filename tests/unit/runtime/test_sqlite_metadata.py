"""What the embedded store owes besides the contract: one process, restarts, kills, full disks, a bounded history."""

import math
import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Generator
from contextlib import AbstractAsyncContextManager, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio
from tests.support.limits import no_larger_files
from trio.testing import MockClock, wait_all_tasks_blocked

from penstock.runtime.metadata import (
    Compacted,
    Delete,
    Entry,
    LeaseNotFound,
    MetadataError,
    MetadataStore,
    MetadataUnavailable,
    OutcomeUnknown,
    Put,
    WatchBatch,
    WatchEvent,
)
from penstock.runtime.production import production_environment
from penstock.runtime.sqlite_database import HISTORY_PAGE_REVISION_COUNT, Database
from penstock.runtime.sqlite_metadata import (
    RECENT_REVISION_COUNT_MAX,
    RECENT_SIZE_BYTES_MAX,
    RecentChanges,
    open_sqlite_metadata,
)

ENVIRONMENT = production_environment()


@pytest.fixture
def path(tmp_path: Path) -> str:
    return str(tmp_path / "metadata.db")


def open_store(
    path: str, open_database: Callable[[str], Database] = Database
) -> AbstractAsyncContextManager[MetadataStore]:
    return open_sqlite_metadata(
        path,
        clock=ENVIRONMENT.clock,
        random=ENVIRONMENT.random,
        threads=ENVIRONMENT.threads,
        open_database=open_database,
    )


async def put(store: MetadataStore, key: str, value: bytes = b"") -> int:
    return (await store.transact([], [Put(key, value)])).revision


async def put_many(store: MetadataStore, count: int, value: bytes = b"") -> int:
    """As many revisions of as many keys; returns the last."""
    return [await put(store, f"/{number}", value) for number in range(count)][-1]


async def revisions_after(store: MetadataStore, after_revision: int, last: int) -> list[int]:
    seen: list[int] = []
    async with store.watch("", after_revision=after_revision) as watch:
        while not seen or seen[-1] < last:
            seen.append((await anext(watch)).revision)
    return seen


async def test_a_second_opener_is_told_that_the_store_is_in_use(path: str) -> None:
    async with open_store(path) as store:
        with pytest.raises(MetadataError, match=r"metadata\.db: .*open already"):
            async with open_store(path):
                pass
        await put(store, "/a")
    async with open_store(path) as store:
        assert await store.get("/a") is not None


OPEN_AND_HOLD = """
import sys, trio
from penstock.runtime.metadata import Put
from penstock.runtime.production import production_environment

async def main():
    async with production_environment().open_metadata(sys.argv[1]) as store:
        lease_id = await store.grant_lease(60)
        await store.transact([], [Put("/leased", b"", lease_id), Put("/kept", b"")])
        for number in range(20):
            result = await store.transact([], [Put(f"/n/{number}", b"")])
        print(result.revision, flush=True)
        await trio.sleep_forever()

trio.run(main)
"""


@contextmanager
def held_by_another_process(path: str) -> Generator[int, None, None]:
    """A process that has stored things and then waits; gives the last revision. It is killed at the end."""
    with subprocess.Popen([sys.executable, "-c", OPEN_AND_HOLD, path], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        yield int(process.stdout.readline())
        process.send_signal(signal.SIGKILL)


async def test_a_killed_process_leaves_every_commit_and_no_lock_and_no_lease(path: str) -> None:
    with held_by_another_process(path) as last, pytest.raises(MetadataError, match="open already"):
        async with open_store(path):
            pass
    async with open_store(path) as store:
        async with store.watch("/leased", after_revision=last) as watch:
            batch = await anext(watch)
        assert [(event.key, event.entry) for event in batch.events] == [("/leased", None)]
        assert await revisions_after(store, 0, last) == list(range(1, last + 1))
        names = {entry.key for entry in (await store.range("")).entries}
        assert names == {"/kept"} | {f"/n/{number}" for number in range(20)}


async def test_the_leases_of_the_last_opening_are_gone(path: str) -> None:
    async with open_store(path) as store:
        lease_id = await store.grant_lease(60)
        await store.transact([], [Put("/a", b"", lease_id)])
    async with open_store(path) as store:
        assert await store.get("/a") is None
        with pytest.raises(LeaseNotFound):
            await store.keep_alive(lease_id)


@pytest.mark.parametrize("content", [b"not a database" * 100, b"SQLite format 3\0" + bytes(100)])
def test_a_file_that_is_no_store_is_refused_and_left_alone(path: str, content: bytes) -> None:
    Path(path).write_bytes(content)
    with pytest.raises(MetadataError, match=r"metadata\.db"):
        Database(path)
    assert Path(path).read_bytes() == content


@pytest.mark.parametrize(
    ("statement", "reason"),
    [
        ("CREATE TABLE other (a)", "not a metadata store"),
        ("PRAGMA application_id = 7", "not a metadata store"),
    ],
)
async def test_somebody_elses_database_is_refused(path: str, statement: str, reason: str) -> None:
    with sqlite3.connect(path) as connection:
        connection.execute(statement)
    connection.close()
    with pytest.raises(MetadataError, match=reason):
        async with open_store(path):
            pass


async def test_a_store_of_a_later_format_is_refused(path: str) -> None:
    async with open_store(path):
        pass
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA user_version = 2")
    connection.close()
    with pytest.raises(MetadataError, match="format 2"):
        async with open_store(path):
            pass


async def test_a_store_in_a_missing_folder_is_an_error_with_its_path(tmp_path: Path) -> None:
    with pytest.raises(MetadataError, match=r"none/metadata\.db"):
        async with open_store(str(tmp_path / "none" / "metadata.db")):
            pass


async def test_history_is_kept_up_to_a_count_and_a_watch_of_older_revisions_is_compacted(path: str) -> None:
    opener = partial(Database, history_revision_count_max=20)
    async with open_store(path, opener) as store:
        last = await put_many(store, 40)
    async with open_store(path, opener) as store:
        with pytest.raises(Compacted):
            await revisions_after(store, 0, last)
        with pytest.raises(Compacted):
            await revisions_after(store, last - 21, last)
        assert await revisions_after(store, last - 17, last) == list(range(last - 16, last + 1))
        assert len((await store.range("")).entries) == 40, "only the past is forgotten"


async def test_history_is_kept_up_to_a_size_but_always_the_newest_revision(path: str) -> None:
    opener = partial(Database, history_size_bytes_max=100_000)
    async with open_store(path, opener) as store:
        last = await put_many(store, 20, bytes(10_000))
    assert os.stat(path).st_size < 500_000, "entries and half of the history"
    async with open_store(path, opener) as store:
        assert await revisions_after(store, last - 8, last) == list(range(last - 7, last + 1))
        with pytest.raises(Compacted):
            await revisions_after(store, last - 11, last)
        last = await put(store, "/a", bytes(500_000))
    async with open_store(path, opener) as store:
        assert await revisions_after(store, last - 1, last) == [last]
        with pytest.raises(Compacted):
            await revisions_after(store, last - 2, last)


async def test_a_long_history_is_read_in_pieces_without_gaps(path: str) -> None:
    async with open_store(path) as store:
        last = await put_many(store, HISTORY_PAGE_REVISION_COUNT + 10)
    async with open_store(path) as store:
        assert await revisions_after(store, 0, last) == list(range(1, last + 1))


async def test_a_store_at_rest_has_no_timer(path: str, mock_clock: MockClock) -> None:
    async with open_store(path) as store:

        async def seconds_to_next_timer() -> float:
            await wait_all_tasks_blocked()
            return trio.lowlevel.current_statistics().seconds_to_next_deadline

        async with store.watch("", after_revision=0), trio.open_nursery() as nursery:
            assert await seconds_to_next_timer() == math.inf
            lease_id = await store.grant_lease(10)
            assert await seconds_to_next_timer() == 10
            await store.revoke_lease(lease_id)
            mock_clock.jump(11)
            assert await seconds_to_next_timer() == math.inf
            nursery.cancel_scope.cancel()


async def test_the_users_error_comes_out_as_it_is(path: str) -> None:
    with pytest.raises(ZeroDivisionError):
        async with open_store(path):
            raise ZeroDivisionError
    with trio.move_on_after(60) as scope:
        async with open_store(path) as store:
            await put(store, "/a")
            scope.cancel()
            await trio.sleep_forever()
    assert scope.cancelled_caught

    async def fail_while_cancelled() -> None:
        with trio.CancelScope() as scope:
            async with open_store(path):
                scope.cancel()
                raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await fail_while_cancelled()
    async with open_store(path) as store:
        assert await store.get("/a") is not None


async def test_a_cancelled_transaction_either_happened_and_is_told_or_did_not(path: str) -> None:
    async with open_store(path) as store:
        with trio.CancelScope() as scope:
            scope.cancel()
            await put(store, "/a")
        assert scope.cancelled_caught
        assert await store.get("/a") is None
        with trio.CancelScope() as scope:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(put, store, "/b")
                nursery.start_soon(put, store, "/c")
                await wait_all_tasks_blocked()
                scope.cancel()
        snapshot = await store.range("")
        if snapshot.entries:
            assert await revisions_after(store, 0, snapshot.revision) == list(range(1, snapshot.revision + 1))


async def test_a_closed_store_refuses_and_ends_its_watches(path: str) -> None:
    async with open_store(path) as store:
        pass
    with pytest.raises(MetadataUnavailable, match="closed"):
        await store.get("/a")
    with pytest.raises(MetadataUnavailable, match="closed"):
        await store.grant_lease(2)
    with pytest.raises(MetadataUnavailable, match="closed"):
        await revisions_after(store, 0, 1)


async def test_a_watch_that_waits_is_ended_by_closing(path: str) -> None:
    async with trio.open_nursery() as nursery, open_store(path) as store:

        async def wait() -> None:
            with pytest.raises(MetadataUnavailable, match="closed"):
                await revisions_after(store, 0, 1)

        nursery.start_soon(wait)
        await wait_all_tasks_blocked()


async def test_a_write_that_the_disk_refuses_is_not_called_done_and_ends_the_use_of_the_store(
    path: str,
) -> None:
    async with open_store(path) as store:
        await put(store, "/a", b"1")
        with no_larger_files(200_000), pytest.raises(OutcomeUnknown):
            await store.transact([], [Put("/a", b"2"), Put("/b", bytes(900_000))])
        for use in (put(store, "/c"), store.get("/a"), store.range("")):
            with pytest.raises(MetadataUnavailable, match="failed before"):
                await use
    async with open_store(path) as store:
        entry = await store.get("/a")
        assert entry is not None
        assert (await store.get("/b") is None) == (entry.value == b"1"), "all or nothing"
        assert await put(store, "/c") > entry.mod_revision


class FullDisk(sqlite3.Connection):
    """A connection whose commits fail as SQLite's do when no space is left."""

    is_full: Callable[[], bool]

    def execute(self, sql: str, parameters: Any = (), /) -> sqlite3.Cursor:
        if sql == "COMMIT" and self.is_full():
            error = sqlite3.OperationalError("database or disk is full")
            error.sqlite_errorcode = sqlite3.SQLITE_FULL
            raise error
        return super().execute(sql, parameters)


@dataclass
class FullableStore:
    """Opens stores whose disk can be made full."""

    full: bool = False

    def open(self, path: str) -> AbstractAsyncContextManager[MetadataStore]:
        return open_store(path, lambda path: Database(path, connect=self._connect))

    def _connect(self, path: str) -> sqlite3.Connection:
        connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False, factory=FullDisk)
        connection.is_full = lambda: self.full
        return connection


async def test_after_a_full_disk_nothing_has_changed_and_writing_works_again_with_space(path: str) -> None:
    disk = FullableStore()
    async with disk.open(path) as store:
        first = await put(store, "/a", b"1")
        disk.full = True
        with pytest.raises(MetadataUnavailable, match="full"):
            await store.transact([], [Put("/a", b"2"), Put("/b", b"2")])
        with pytest.raises(MetadataUnavailable, match="full"):
            await store.transact([], [Delete("/a")])
        assert list((await store.range("")).entries) == [Entry("/a", b"1", first, first)]
        disk.full = False
        assert await put(store, "/a", b"3") == first + 1
        assert await revisions_after(store, 0, first + 1) == [first, first + 1]


async def test_a_lease_that_ends_on_a_full_disk_takes_its_keys_when_there_is_space(
    path: str, mock_clock: MockClock
) -> None:
    disk = FullableStore()
    async with disk.open(path) as store:
        lease_id = await store.grant_lease(1000)
        result = await store.transact([], [Put("/a", b"", lease_id)])
        disk.full = True
        revoked_at = trio.current_time()
        with pytest.raises(MetadataUnavailable):
            await store.revoke_lease(lease_id)
        with pytest.raises(LeaseNotFound):
            await store.keep_alive(lease_id)
        disk.full = False
        async with store.watch("/a", after_revision=result.revision) as watch, trio.open_nursery() as nursery:

            async def pass_time() -> None:
                while True:
                    await wait_all_tasks_blocked(0.001)
                    mock_clock.jump(1)

            nursery.start_soon(pass_time)
            assert [event.entry for event in (await anext(watch)).events] == [None]
            assert trio.current_time() < revoked_at + 900, "only when the lease would have ended by itself"
            nursery.cancel_scope.cancel()


def revision_of(number: int, size_bytes: int) -> WatchBatch:
    return WatchBatch(number, [WatchEvent("", Entry("", bytes(size_bytes), 1, number))])


def test_changes_kept_in_memory_are_bounded_by_count() -> None:
    recent = RecentChanges()
    for number in range(1, RECENT_REVISION_COUNT_MAX + 10):
        recent.add(revision_of(number, 0))
    kept = recent.after(9)
    assert kept is not None
    assert [batch.revision for batch in kept] == list(range(10, RECENT_REVISION_COUNT_MAX + 10))
    assert recent.after(8) is None


def test_changes_kept_in_memory_are_bounded_by_size_but_the_newest_is_kept() -> None:
    recent = RecentChanges()
    for number in range(1, 6):
        recent.add(revision_of(number, RECENT_SIZE_BYTES_MAX // 3))
    assert recent.after(1) is None
    assert [batch.revision for batch in recent.after(2) or []] == [3, 4, 5]
    recent.add(revision_of(6, RECENT_SIZE_BYTES_MAX * 2))
    assert [batch.revision for batch in recent.after(5) or []] == [6]
    assert recent.after(4) is None


async def test_a_watcher_that_fell_behind_what_memory_keeps_is_fed_from_the_file(path: str) -> None:
    async with open_store(path) as store, store.watch("/", after_revision=0) as watch:
        last = await put_many(store, 8, bytes(RECENT_SIZE_BYTES_MAX // 5))
        assert [(await anext(watch)).revision for _ in range(8)] == list(range(1, last + 1))
