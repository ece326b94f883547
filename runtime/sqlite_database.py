"""The tables behind the embedded metadata store: entries, revisions and the history that watches are fed from.

Synchronous: blocks on the disk, and is called from one thread at a time. Knows no leases' deadlines, no watchers and no trio: it gets
lease ids as numbers.

Invariants: revisions have no gaps, and each one above `compacted_revision` has at least one row in `history`. One connection holds the
file's exclusive lock from opening to closing, so what it read is true until it writes itself. What `transact` and `end_leases` return
is on the disk (write-ahead log with `synchronous=FULL`: one sync for each commit, against two or more with a rollback journal;
recovery reads at most the log, 4 MB).
"""

import contextlib
import sqlite3
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from typing import NoReturn

from penstock.runtime.metadata import (
    Compacted,
    Compare,
    Delete,
    Entry,
    MetadataError,
    MetadataUnavailable,
    OutcomeUnknown,
    Put,
    Snapshot,
    WatchBatch,
    WatchEvent,
)

FORMAT_VERSION = 1
APPLICATION_ID = 0x50454E53
"""`PENS`: what `file` and SQLite's own tools see in the header."""

HISTORY_REVISION_COUNT_MAX = 10_000
HISTORY_SIZE_BYTES_MAX = 32_000_000
HISTORY_PAGE_REVISION_COUNT = 256
_SHRINK_TO = 0.9
_ROW_OVERHEAD_BYTES = 32

_CREATE_STATE = """
CREATE TABLE state (
    revision INTEGER NOT NULL,
    compacted_revision INTEGER NOT NULL,
    history_size_bytes INTEGER NOT NULL
)"""
_CREATE_ENTRIES = """
CREATE TABLE entries (
    key TEXT PRIMARY KEY NOT NULL,
    value BLOB NOT NULL,
    create_revision INTEGER NOT NULL,
    mod_revision INTEGER NOT NULL,
    lease_id INTEGER NOT NULL
) WITHOUT ROWID"""
# A row without a value is a deletion. The mod revision of an entry is the row's revision.
_CREATE_HISTORY = """
CREATE TABLE history (
    revision INTEGER NOT NULL,
    place INTEGER NOT NULL,
    key TEXT NOT NULL,
    value BLOB,
    create_revision INTEGER NOT NULL,
    lease_id INTEGER NOT NULL,
    PRIMARY KEY (revision, place)
) WITHOUT ROWID"""
_SCHEMA = (
    _CREATE_STATE,
    "INSERT INTO state VALUES (0, 0, 0)",
    _CREATE_ENTRIES,
    "CREATE INDEX leased ON entries (lease_id) WHERE lease_id <> 0",
    _CREATE_HISTORY,
    f"PRAGMA application_id = {APPLICATION_ID}",
    f"PRAGMA user_version = {FORMAT_VERSION}",
)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a transaction did: `changes` is None when the compares did not hold or nothing came of the operations."""

    succeeded: bool
    revision: int
    changes: WatchBatch | None = None


def _connect(path: str) -> sqlite3.Connection:
    # Not waiting for a lock: whoever has it keeps it. Transactions are begun and ended here, not by Python.
    return sqlite3.connect(path, timeout=0, isolation_level=None, check_same_thread=False)


class Database:
    """One open store. Failing to sync ends its use (PROPERTIES D11): from then on every call raises MetadataUnavailable."""

    def __init__(
        self,
        path: str,
        *,
        connect: Callable[[str], sqlite3.Connection] = _connect,
        history_revision_count_max: int = HISTORY_REVISION_COUNT_MAX,
        history_size_bytes_max: int = HISTORY_SIZE_BYTES_MAX,
    ) -> None:
        """Open or make the store.

        Raises:
            MetadataError: another process (or this one) has it open, it is no store of ours, or the file can't be opened.
        """
        self._path = path
        self._history_revision_count_max = history_revision_count_max
        self._history_size_bytes_max = history_size_bytes_max
        self._failure: str | None = None
        try:
            self._connection = connect(path)
        except sqlite3.Error as error:
            raise MetadataError(f"{path}: {error}") from error
        try:
            self._open()
        except sqlite3.Error as error:
            self._connection.close()
            raise MetadataError(f"{path}: {_opening_failed(error)}") from error
        except BaseException:
            self._connection.close()
            raise

    def _open(self) -> None:
        run = self._connection.execute
        run("PRAGMA locking_mode = EXCLUSIVE")
        run("PRAGMA journal_mode = WAL")
        run("PRAGMA synchronous = FULL")
        application_id: int = run("PRAGMA application_id").fetchone()[0]
        version: int = run("PRAGMA user_version").fetchone()[0]
        if (application_id, version) == (0, 0) and not run("SELECT count(*) FROM sqlite_master").fetchone()[
            0
        ]:
            with self._transaction():
                for statement in _SCHEMA:
                    run(statement)
        elif application_id != APPLICATION_ID:
            raise MetadataError(f"{self._path}: an SQLite file, but not a metadata store of Penstock")
        elif version != FORMAT_VERSION:
            raise MetadataError(
                f"{self._path}: a metadata store in format {version}, this Penstock reads {FORMAT_VERSION}"
            )
        row: tuple[int, int, int] = run(
            "SELECT revision, compacted_revision, history_size_bytes FROM state"
        ).fetchone()
        self.revision, self.compacted_revision, self._history_size_bytes = row

    def close(self) -> None:
        """Move the log into the file and close. Whatever was committed is kept if that fails."""
        with contextlib.suppress(sqlite3.Error):
            self._connection.close()

    def get(self, key: str) -> Entry | None:
        """One entry."""
        with self._reading():
            row = self._connection.execute(
                "SELECT key, value, create_revision, mod_revision, lease_id FROM entries WHERE key = ?",
                (key,),
            ).fetchone()
        return None if row is None else Entry(*row)

    def range(self, prefix: str) -> Snapshot:
        """All entries whose key starts with `prefix`, in the order of their code points."""
        entries: list[Entry] = []
        with self._reading():
            rows = self._connection.execute(
                "SELECT key, value, create_revision, mod_revision, lease_id FROM entries WHERE key >= ? ORDER BY key",
                (prefix,),
            )
            for row in rows:
                if not row[0].startswith(prefix):
                    break
                entries.append(Entry(*row))
            rows.close()
        return Snapshot(entries, self.revision)

    def transact(self, compares: Sequence[Compare], operations: Sequence[Put | Delete]) -> Outcome:
        """Do all operations if all compares hold. See `MetadataStore.transact`; bounds and leases are checked by the caller."""
        with self._reading():
            if not all(map(self._holds, compares)):
                return Outcome(False, self.revision)
        return self._commit(operations)

    def end_leases(self, lease_id: int | None) -> Outcome:
        """Delete the keys under one lease, or under any (None), in one revision."""
        condition = "lease_id <> 0" if lease_id is None else "lease_id <> 0 AND lease_id = ?"
        with self._reading():
            rows = self._connection.execute(
                f"SELECT key FROM entries WHERE {condition} ORDER BY key",
                () if lease_id is None else (lease_id,),
            ).fetchall()
        return self._commit([Delete(key) for (key,) in rows])

    def history(self, after_revision: int) -> list[WatchBatch]:
        """The next revisions above `after_revision`, oldest first, at most HISTORY_PAGE_REVISION_COUNT. Raises Compacted."""
        if after_revision < self.compacted_revision:
            raise Compacted(
                f"revision {after_revision + 1} is gone, the first one kept is {self.compacted_revision + 1}"
            )
        with self._reading():
            rows = self._connection.execute(
                "SELECT revision, key, value, create_revision, lease_id FROM history"
                " WHERE revision > ? AND revision <= ? ORDER BY revision, place",
                (after_revision, after_revision + HISTORY_PAGE_REVISION_COUNT),
            ).fetchall()
        by_revision: dict[int, list[WatchEvent]] = {}
        for revision, key, value, create_revision, lease_id in rows:
            entry = None if value is None else Entry(key, value, create_revision, revision, lease_id)
            by_revision.setdefault(revision, []).append(WatchEvent(key, entry))
        return [WatchBatch(revision, events) for revision, events in by_revision.items()]

    def _holds(self, compare: Compare) -> bool:
        row: tuple[int, int] | None = self._connection.execute(
            "SELECT mod_revision, create_revision FROM entries WHERE key = ?", (compare.key,)
        ).fetchone()
        mod_revision, create_revision = row or (0, 0)
        return compare.mod_revision in (None, mod_revision) and compare.create_revision in (
            None,
            create_revision,
        )

    def _commit(self, operations: Sequence[Put | Delete]) -> Outcome:
        revision = self.revision + 1
        kept = (self.compacted_revision, self._history_size_bytes)
        events: list[WatchEvent] = []
        with self._transaction():
            for operation in operations:
                event = self._apply(operation, revision)
                if event is not None:
                    events.append(event)
            if events:
                size_bytes = self._history_size_bytes + self._remember(events, revision)
                kept = self._shrink_history(revision, size_bytes)
                self._connection.execute(
                    "UPDATE state SET revision = ?, compacted_revision = ?, history_size_bytes = ?",
                    (revision, *kept),
                )
        if not events:
            return Outcome(True, self.revision)
        self.revision = revision
        self.compacted_revision, self._history_size_bytes = kept
        return Outcome(True, revision, WatchBatch(revision, events))

    def _apply(self, operation: Put | Delete, revision: int) -> WatchEvent | None:
        run = self._connection.execute
        if isinstance(operation, Delete):
            deleted = run("DELETE FROM entries WHERE key = ?", (operation.key,)).rowcount
            return WatchEvent(operation.key, None) if deleted else None
        row: tuple[int] | None = run(
            "SELECT create_revision FROM entries WHERE key = ?", (operation.key,)
        ).fetchone()
        entry = Entry(
            operation.key, bytes(operation.value), row[0] if row else revision, revision, operation.lease_id
        )
        run(
            "INSERT OR REPLACE INTO entries VALUES (?, ?, ?, ?, ?)",
            (entry.key, entry.value, entry.create_revision, revision, entry.lease_id),
        )
        return WatchEvent(operation.key, entry)

    def _remember(self, events: Sequence[WatchEvent], revision: int) -> int:
        """Write the history of one revision; returns its size in bytes, roughly."""
        size_bytes = 0
        for place, event in enumerate(events):
            entry = event.entry
            row = (None, 0, 0) if entry is None else (entry.value, entry.create_revision, entry.lease_id)
            self._connection.execute(
                "INSERT INTO history VALUES (?, ?, ?, ?, ?, ?)", (revision, place, event.key, *row)
            )
            size_bytes += _ROW_OVERHEAD_BYTES + len(event.key) + (len(entry.value) if entry else 0)
        return size_bytes

    def _shrink_history(self, revision: int, size_bytes: int) -> tuple[int, int]:
        """Forget the oldest revisions past the bounds, never the newest. Returns the compacted revision and the size left.

        Goes some way below the bounds, so that not every transaction has to.
        """
        count = revision - self.compacted_revision
        if count <= self._history_revision_count_max and size_bytes <= self._history_size_bytes_max:
            return self.compacted_revision, size_bytes
        count_wanted = max(1, int(self._history_revision_count_max * _SHRINK_TO))
        size_bytes_wanted = int(self._history_size_bytes_max * _SHRINK_TO)
        compacted = self.compacted_revision
        rows = self._connection.execute(
            "SELECT revision, sum(? + length(key) + ifnull(length(value), 0)) FROM history"
            " WHERE revision < ? GROUP BY revision ORDER BY revision",
            (_ROW_OVERHEAD_BYTES, revision),
        )
        for oldest, oldest_size_bytes in rows:
            if revision - compacted <= count_wanted and size_bytes <= size_bytes_wanted:
                break
            compacted = oldest
            size_bytes -= oldest_size_bytes
        rows.close()
        self._connection.execute("DELETE FROM history WHERE revision <= ?", (compacted,))
        return compacted, size_bytes

    @contextlib.contextmanager
    def _reading(self) -> Generator[None, None, None]:
        self._check_usable()
        try:
            yield
        except sqlite3.Error as error:
            raise MetadataUnavailable(f"{self._path}: {error}") from error

    @contextlib.contextmanager
    def _transaction(self) -> Generator[None, None, None]:
        """All or nothing, and on the disk at the end."""
        self._check_usable()
        try:
            self._connection.execute("BEGIN IMMEDIATE")
            yield
        except sqlite3.Error as error:
            self._roll_back()
            raise MetadataUnavailable(f"{self._path}: {error}") from error
        except BaseException:
            self._roll_back()
            raise
        try:
            self._connection.execute("COMMIT")
        except sqlite3.Error as error:
            self._roll_back()
            self._commit_failed(error)

    def _commit_failed(self, error: sqlite3.Error) -> NoReturn:
        """A full disk stops the log's write before its commit mark; after any other failure the mark may be on the disk or not."""
        if _primary_code(error) == sqlite3.SQLITE_FULL:
            raise MetadataUnavailable(f"{self._path}: {error}") from error
        self._failure = str(error)
        raise OutcomeUnknown(f"{self._path}: {error}; the store is not used any more") from error

    def _roll_back(self) -> None:
        if self._connection.in_transaction:
            try:
                self._connection.execute("ROLLBACK")
            except sqlite3.Error as error:
                self._failure = f"could not roll back: {error}"

    def _check_usable(self) -> None:
        if self._failure is not None:
            raise MetadataUnavailable(
                f"{self._path}: failed before and is not used any more: {self._failure}"
            )


def _primary_code(error: sqlite3.Error) -> int:
    return int(getattr(error, "sqlite_errorcode", 0)) & 0xFF


def _opening_failed(error: sqlite3.Error) -> str:
    if _primary_code(error) in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
        return "the metadata store is open already (a store serves one process at a time)"
    return str(error)


__all__ = [
    "APPLICATION_ID",
    "FORMAT_VERSION",
    "HISTORY_REVISION_COUNT_MAX",
    "HISTORY_SIZE_BYTES_MAX",
    "Database",
    "Outcome",
]
