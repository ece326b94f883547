"""A shop's database, for demonstrations: orders in a SQLite file, each under the offset at which it stood in the log.

Synchronous: blocks on the disk, and is called from one thread at a time (any one). What `add` returned from is on the disk.
"""

import sqlite3
from collections.abc import Iterable

_CREATE = "CREATE TABLE orders (place INTEGER PRIMARY KEY, number INTEGER NOT NULL, body BLOB NOT NULL)"


class SqliteOrders:
    """An empty database in a new file. Raises sqlite3.Error throughout: a demonstration has nobody who could do something about it."""

    def __init__(self, path: str) -> None:
        self._connection = sqlite3.connect(path, check_same_thread=False)
        self._connection.execute("PRAGMA journal_mode=WAL")
        self._connection.execute(_CREATE)

    def add(self, orders: Iterable[tuple[int, int, bytes]]) -> None:
        """Insert offset, number and body of each, in one transaction. An offset that is there already is an error: nothing comes twice."""
        with self._connection:
            self._connection.executemany("INSERT INTO orders VALUES (?, ?, ?)", orders)

    def places(self) -> dict[int, int]:
        """Number by offset, of all orders."""
        return dict(self._connection.execute("SELECT place, number FROM orders"))

    def close(self) -> None:
        """Let go of the file."""
        self._connection.close()


__all__ = ["SqliteOrders"]
