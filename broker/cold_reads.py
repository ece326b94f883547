"""Pacing by class: reads far from a log's end make room for what is hot.

Owns when a cold read may begin and how long it may be (pure: the time is handed in). A read is cold when its offset is far from the log's end
(`Log.is_far`), be it in the page cache or not: sending a gigabyte from there takes the event loop as long as one from the disk. What a replica in
sync asks for never is. Two classes, followers that catch up and consumers, each have a share of the time; neither waits for the other.

While requests to produce come in, a cold read is cut to `CHUNK_BYTES` (at least one batch), and after one that took t seconds of the loop and a
worker the next of its class waits until `SHARE` of the time went to it. Readers of a class take turns, first come, first served. Without such
requests there is no bound at all. A reader is a follower, or a consumer's connection: with or without a fetch session, it outlasts the request.

Invariants:
    - Nobody starves: a class gets at least `FLOOR_BYTES_PER_S`, and at least twice of what is produced; followers, each that waits: who
      catches up gets ahead.
    - A turn that was promised stays promised until it is used, `TURN_KEPT_S` past, or its reader has gone: who is answered in between for other
      reasons, as a follower is by hot partitions of its session, or because the queue is longer than `max_wait_ms`, does not lose its place.
    - A reader has one turn at most, so there are no more than connections; the time of one that has gone is others'.
    - What is hot pays for an addition in each produce request, and a comparison in each fetched partition.
"""

import math
from collections.abc import Hashable
from typing import TYPE_CHECKING, Protocol

from penstock.protocol.fetch import FetchPartition

if TYPE_CHECKING:
    from penstock.storage.log import Log

SHARE = 0.05
"""Of the time, for each of both classes while there is hot traffic."""
CHUNK_BYTES = 256 * 1024
"""The loop sends as much at once in 0.1 ms."""
FETCH_S = 0.15e-3
"""What a fetch takes of the event loop besides its bytes."""
SEND_S_PER_BYTE = 0.3e-9
"""What these take, from the page cache by sendfile over loopback: 0.3 ms for 1 MB."""
FLOOR_BYTES_PER_S = 16 << 20
HOT_S = 0.25
"""For how long after the latest produce request room is made."""
WINDOW_S = 0.25
"""Over which the rate of what is produced is taken, at the least."""
TURN_KEPT_S = 1.0
GETS_AHEAD = 2


class Hot(Protocol):
    """Who counts what is produced (`broker.Broker`)."""

    hot_bytes: int
    """Of all produce requests so far."""


class ColdReads:
    """What is hot, and both classes."""

    __slots__ = (
        "_hot_until",
        "_seen_bytes",
        "_window_bytes",
        "_window_start",
        "consumers",
        "followers",
        "hot",
        "hot_bytes_per_s",
    )

    def __init__(self, hot: Hot) -> None:
        self.hot = hot
        self.hot_bytes_per_s = 0.0
        self.followers = ColdClass(self, each_gets_ahead=True)
        self.consumers = ColdClass(self, each_gets_ahead=False)
        self._seen_bytes = 0
        self._hot_until = 0.0
        self._window_bytes = 0
        self._window_start = 0.0

    def makes_room(self, now: float) -> bool:
        """Whether there is hot traffic at `now`, in monotonic seconds."""
        hot_bytes = self.hot.hot_bytes
        if hot_bytes != self._seen_bytes:
            self._seen_bytes = hot_bytes
            self._hot_until = now + HOT_S
        elapsed = now - self._window_start
        if elapsed >= WINDOW_S:
            self.hot_bytes_per_s = (hot_bytes - self._window_bytes) / elapsed
            self._window_bytes, self._window_start = hot_bytes, now
        return now < self._hot_until

    def fetch(self, cold_class: "ColdClass", reader: Hashable) -> "ColdFetch":
        """A fetch of a reader of that class begins."""
        return ColdFetch(self, cold_class, reader)


class ColdClass:
    """The turns of one class of readers. `reader` is anything that stays the same from one fetch of a reader to its next."""

    __slots__ = ("_cold_reads", "_each_gets_ahead", "_free_at", "_step_s", "_turns")

    def __init__(self, cold_reads: ColdReads, *, each_gets_ahead: bool) -> None:
        self._cold_reads = cold_reads
        self._each_gets_ahead = each_gets_ahead
        self._free_at = 0.0
        self._step_s = 0.0
        """What a turn that is promised is taken to need: as much as the one before."""
        self._turns: dict[Hashable, tuple[float, float]] = {}
        """By reader: when it begins, and what was set aside for it."""

    def turn_at(self, reader: Hashable, now: float) -> float:
        """When this reader's next cold read may begin: at once if that is not after `now`. Promised from now on."""
        turn = self._turns.get(reader)
        if turn is None:
            self._forget_lost_turns(now)
            turn = self._turns[reader] = (max(now, self._free_at), self._step_s)
            self._free_at = sum(turn)
        return turn[0]

    def record(self, reader: Hashable, size_bytes: int, read_s: float, now: float) -> None:
        """A cold read has been made: so many bytes are sent, and a worker was busy so long. Uses the reader's turn up, if it has one."""
        cold_reads = self._cold_reads
        count = len(self._turns) if self._each_gets_ahead else 1
        floor = max(FLOOR_BYTES_PER_S, GETS_AHEAD * cold_reads.hot_bytes_per_s * max(1, count))
        cost_s = read_s + FETCH_S + size_bytes * SEND_S_PER_BYTE
        self._step_s = min(cost_s / SHARE, size_bytes / floor)
        _, set_aside_s = self._turns.pop(reader, (0.0, 0.0))
        self._free_at = max(self._free_at - set_aside_s, now) + self._step_s

    def give_back(self, reader: Hashable, now: float) -> None:
        """The reader has gone. What was set aside for it is there for those who come next; who waits keeps the turn that was promised."""
        turn_at, set_aside_s = self._turns.pop(reader, (now, 0.0))
        if turn_at > now:
            self._free_at -= set_aside_s

    @property
    def waiting_count(self) -> int:
        """Turns that are promised."""
        return len(self._turns)

    def _forget_lost_turns(self, now: float) -> None:
        lost = [reader for reader, (at, _) in self._turns.items() if at < now - TURN_KEPT_S]
        for reader in lost:
            del self._turns[reader]


class ColdFetch:
    """What one fetch may read far from the ends of logs: one chunk, of one partition, when it is its reader's turn."""

    __slots__ = ("_class", "_cold_reads", "_is_recorded", "_reader", "chosen", "left_out", "turn_at")

    def __init__(self, cold_reads: ColdReads, cold_class: ColdClass, reader: Hashable) -> None:
        self._cold_reads = cold_reads
        self._class = cold_class
        self._reader = reader
        self._is_recorded = False
        self.chosen: FetchPartition | None = None
        """The partition whose turn it is."""
        self.left_out: set[Log] = set()
        """What is not to be read yet: news of these logs' ends is nothing to wake the fetch for."""
        self.turn_at = math.inf
        """When another fetch of the same reader may read what this one leaves out."""

    def admits(self, entry: FetchPartition, log: "Log", now: float) -> bool:
        """Whether the partition may be read now. May be asked again."""
        if self.chosen is entry:
            return True
        if not self._cold_reads.makes_room(now) or not log.is_far(entry.fetch_offset):
            return True
        if self.chosen is not None:
            return False  # and this one is answered at once
        turn_at = self._class.turn_at(self._reader, now)
        if turn_at > now:
            self.turn_at = turn_at
            self.left_out.add(log)
            return False
        self.chosen = entry
        return True

    def shorten(self, entry: FetchPartition, limit: int) -> int:
        """How many bytes to read where `limit` may be."""
        return min(limit, CHUNK_BYTES) if self.chosen is entry else limit

    def record(self, entry: FetchPartition, size_bytes: int, read_s: float, now: float) -> None:
        """So much was read of the partition; as `ColdClass.record`. Once: the fetch may have to read all again, for the sake of another one."""
        if self.chosen is entry and size_bytes and not self._is_recorded:
            self._is_recorded = True
            self._class.record(self._reader, size_bytes, read_s, now)


__all__ = ["CHUNK_BYTES", "ColdClass", "ColdFetch", "ColdReads"]
