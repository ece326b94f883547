"""Which partitions of a follower's fetch session there may be something to say about, so that the others need not be looked at.

A follower fetches a thousand times a second, and of a thousand partitions few have news. Each partition of the session tells when something
is appended, the high watermark moves, or this broker leads it no more; those, and those that the follower names, are looked at with its next
fetch. A partition has no news once the follower was at its end and was told its high watermark.

What nobody tells (log starts, partitions that were opened again, how long a follower that asks for nothing new has been caught up) is seen by
looking at all of them every `LOOK_AT_ALL_S`.

Owns the listening, which ends with the session. Knows nothing of requests and answers.
"""

from collections.abc import Callable, Iterable
from functools import partial
from typing import TYPE_CHECKING

from penstock.broker.fetch_sessions import FetchSession, Key, partition_key
from penstock.protocol.fetch import FetchPartition

if TYPE_CHECKING:
    from penstock.broker.partition import Partition

LOOK_AT_ALL_S = 1.0


class SessionNews:
    """The news of one session. Its waiting fetch hears of each (`WaitingFetch.hear`)."""

    __slots__ = ("_looked_at_all", "_news", "_session", "_sources")

    def __init__(self, session: FetchSession) -> None:
        self._session = session
        self._news: dict[Key, None] = {}
        self._sources: dict[Key, tuple[Partition, Callable[[int], None]]] = {}
        self._looked_at_all = float("-inf")

    def __len__(self) -> int:
        return len(self._news)

    def to_look_at(self, named: Iterable[FetchPartition], now: float) -> list[FetchPartition]:
        """What is asked for of the partitions that are to be looked at; `now` is monotonic seconds."""
        partitions = self._session.partitions
        if now >= self._looked_at_all + LOOK_AT_ALL_S:
            self._looked_at_all = now
            return [known.request for known in partitions.values()]
        for entry in named:
            key = partition_key(entry.topic, entry.topic_id, entry.index)
            if key in partitions:
                self._news[key] = None
        return self.all_news()

    def all_news(self) -> list[FetchPartition]:
        """What is asked for of those that have news."""
        partitions = self._session.partitions
        return [partitions[key].request for key in self._news if key in partitions]

    def listen(self, entry: FetchPartition, partition: "Partition | None") -> None:
        """Hear of this partition from now on, and of no earlier one in its place."""
        key = partition_key(entry.topic, entry.topic_id, entry.index)
        source = self._sources.get(key)
        if source is not None:
            if source[0] is partition:
                return
            self._leave(key)
        if partition is not None and key in self._session.partitions:
            notify = partial(self._take, key, partition)
            self._sources[key] = (partition, notify)
            partition.wait_as_replica(notify)

    def told(self, entry: FetchPartition) -> None:
        """The follower has everything of this partition, and was told how far it is committed; unless it has asked anew since."""
        key = partition_key(entry.topic, entry.topic_id, entry.index)
        known = self._session.partitions.get(key)
        if known is None or known.request is entry:
            self._news.pop(key, None)

    def forget(self, key: Key) -> None:
        """The partition has left the session."""
        self._news.pop(key, None)
        self._leave(key)

    def close(self) -> None:
        """The session has ended."""
        for key in tuple(self._sources):
            self._leave(key)
        self._news.clear()

    def _take(self, key: Key, partition: "Partition", news: int) -> None:
        self._news[key] = None
        waiting = self._session.waiting
        if waiting is not None:
            waiting.hear(partition, news)

    def _leave(self, key: Key) -> None:
        source = self._sources.pop(key, None)
        if source is not None:
            partition, notify = source
            if partition.replica_waiters is not None:
                partition.replica_waiters.discard(notify)


__all__ = ["SessionNews"]
