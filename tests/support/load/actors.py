"""The actors of a load: each in a thread of its own, connected anew whenever the broker is gone, until it is told to stop.

An actor keeps the ledger: it notes what it asks for before it asks, and what it was promised when the answer is there. Whatever the broker
may not do raises AssertionError, which ends the actor and is told by `failure`.
"""

import random
import threading
from collections.abc import Sequence
from typing import Any

from tests.support import batches
from tests.support.errors import ErrorCode
from tests.support.load.ledger import PartitionLedger
from tests.support.topics import fetch_request, fresh_name, list_offset
from tests.support.wire import Connection, ConnectionEnded, connect

PAUSE_S = 0.005
AGAIN = frozenset(
    {
        ErrorCode.kafka_storage_error,
        ErrorCode.not_leader_or_follower,
        ErrorCode.unknown_topic_or_partition,
        ErrorCode.request_timed_out,
        ErrorCode.coordinator_load_in_progress,
        ErrorCode.coordinator_not_available,
        ErrorCode.not_coordinator,
        ErrorCode.unknown_server_error,
    }
)
"""Refusals after which a client asks again: the broker promised nothing."""
FETCH_WAIT_MS = 50


class Actor:
    """A thread with a connection. `work` returns, or raises OSError or ConnectionEnded, and is called again until `stop`."""

    def __init__(self, bootstrap: str, name: str) -> None:
        self.bootstrap = bootstrap
        self.name = name
        self.failure: Exception | None = None
        self.done_count = 0
        """What the broker has confirmed so far."""
        self.refused_count = 0
        self.stopping = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Begin, or go on after `stop`."""
        assert self._thread is None
        self.stopping.clear()
        self._thread = threading.Thread(target=self._run, name=self.name, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Do what is under way, and no more; returns when the thread has ended."""
        self.stopping.set()
        if self._thread is not None:
            self._thread.join()
            self._thread = None

    def _run(self) -> None:
        try:
            while not self.stopping.is_set():
                try:
                    self.run_once()
                except (OSError, ConnectionEnded):
                    self.stopping.wait(PAUSE_S)
        except Exception as failure:  # noqa: BLE001 - told by `failure`, in whatever thread it is looked for
            self.failure = failure

    def run_once(self) -> None:
        """Connect and work."""
        with connect(self.bootstrap) as connection:
            self.work(connection)

    def work(self, connection: Connection) -> None:
        """What it does for as long as it is connected."""
        raise NotImplementedError

    def again(self, code: int) -> bool:
        """Whether the answer was a refusal that asks for patience; then waits a little. Other errors fail."""
        if not code:
            return False
        assert ErrorCode(code) in AGAIN, f"{self.name}: {ErrorCode(code)!r}"
        self.refused_count += 1
        self.stopping.wait(PAUSE_S)
        return True


class Observer(Actor):
    """A consumer of all partitions: what it was given must stay as it was, and nothing it has passed may go (PROPERTIES D2, C1)."""

    def __init__(self, bootstrap: str, ledgers: Sequence[PartitionLedger]) -> None:
        super().__init__(bootstrap, "observer")
        self._ledgers = {(each.topic, each.index): each for each in ledgers}
        self.positions = dict.fromkeys(self._ledgers, 0)

    def work(self, connection: Connection) -> None:
        while not self.stopping.is_set():
            wanted = fetch_request(self.positions, max_wait_ms=FETCH_WAIT_MS, partition_max_bytes=256 << 10)
            reply = connection.request("fetch", 12, **wanted)
            assert reply.error_code == 0, reply
            for topic in reply.responses:
                for answer in topic.partitions:
                    self._take(connection, (topic.topic, answer.partition_index), answer)

    def _take(self, connection: Connection, place: tuple[str, int], answer: Any) -> None:
        ledger, position = self._ledgers[place], self.positions[place]
        if answer.error_code == ErrorCode.offset_out_of_range:
            start, _ = list_offset(connection, place[0], -2, partition=place[1])
            assert start > position, f"{ledger}: {position} was visible and is out of range"
            self.positions[place] = start
            return
        if self.again(answer.error_code):
            return
        assert answer.high_watermark >= position, f"{ledger}: the high watermark fell below what was visible"
        for offset, value in batches.values_of(answer.records):
            if offset >= position:
                assert ledger.may_compact or offset == position, (
                    f"{ledger}: {offset} comes after {position - 1}"
                )
                ledger.see(offset, value)
                position = offset + 1
                self.done_count += 1
        if ledger.may_compact and answer.records:
            position = max(position, batches.end_offset_of(answer.records))
        self.positions[place] = position


class Committer(Actor):
    """Commits rising offsets of one group, one partition after the other (PROPERTIES G2)."""

    def __init__(self, bootstrap: str, group: str, topic: str, partition_count: int) -> None:
        super().__init__(bootstrap, f"committer of {group}")
        self.group, self.topic, self.partition_count = group, topic, partition_count
        self.sent = dict.fromkeys(range(partition_count), -1)
        self.acked = dict.fromkeys(range(partition_count), -1)

    def work(self, connection: Connection) -> None:
        found = connection.request("find_coordinator", 4, key_type=0, coordinator_keys=[self.group])
        if self.again(found.coordinators[0].error_code):
            return
        while not self.stopping.is_set():
            for index in range(self.partition_count):
                self._commit(connection, index)
            self.stopping.wait(PAUSE_S)

    def _commit(self, connection: Connection, index: int) -> None:
        offset = self.sent[index] = self.sent[index] + 1
        place = {"partition_index": index, "committed_offset": offset, "committed_metadata": ""}
        wanted = [{"name": self.topic, "partitions": [place]}]
        answer = connection.request("offset_commit", 8, group_id=self.group, topics=wanted)
        if not self.again(answer.topics[0].partitions[0].error_code):
            self.acked[index] = offset
            self.done_count += 1

    def check(self, connection: Connection) -> bool:
        """What is committed now is the last acked or one sent after it; False while the group is being loaded."""
        indexes = list(range(self.partition_count))
        acked = dict(self.acked)
        topics = [{"name": self.topic, "partition_indexes": indexes}]
        answer = connection.request(
            "offset_fetch", 8, groups=[{"group_id": self.group, "topics": topics}]
        ).groups[0]
        if answer.error_code:
            assert ErrorCode(answer.error_code) in AGAIN, answer
            return False
        parts: list[Any] = answer.topics[0].partitions if answer.topics else []
        found: dict[int, int] = {each.partition_index: each.committed_offset for each in parts}
        for index, offset in acked.items():
            committed = found.get(index, -1)
            assert offset <= committed <= self.sent[index], (
                f"{self.group}: {index} is committed at {committed}, acked was {offset}"
            )
        return True


class Trimmer(Actor):
    """Deletes records of one partition up to a random offset, again and again."""

    def __init__(self, bootstrap: str, ledger: PartitionLedger, seed: int) -> None:
        super().__init__(bootstrap, f"trimmer of {ledger}")
        self._ledger = ledger
        self._random = random.Random(seed)

    def work(self, connection: Connection) -> None:
        ledger = self._ledger
        while not self.stopping.is_set():
            end = max(tuple(ledger.acked), default=0)
            if end > ledger.start_asked:
                wanted = self._random.randrange(ledger.start_asked, end)
                ledger.start_asked = wanted
                parts = [{"partition_index": ledger.index, "offset": wanted}]
                topics = [{"name": ledger.topic, "partitions": parts}]
                reply = connection.request("delete_records", 2, topics=topics, timeout=5000)
                if not self.again(reply.topics[0].partitions[0].error_code):
                    ledger.start_acked = wanted
                    self.done_count += 1
            self.stopping.wait(10 * PAUSE_S)


class TopicMaker(Actor):
    """Makes topics and deletes every other one: the metadata store under faults."""

    def __init__(self, bootstrap: str) -> None:
        super().__init__(bootstrap, "topic maker")
        self.made: dict[str, int] = {}
        """Partition counts of topics that must be there, by name."""
        self.deleted: set[str] = set()
        self.unclear: set[str] = set()

    def work(self, connection: Connection) -> None:
        while not self.stopping.is_set():
            self._make(connection)
            if len(self.made) > 3:
                self._delete(connection, next(iter(self.made)))
            self.stopping.wait(20 * PAUSE_S)

    def _make(self, connection: Connection) -> None:
        name, count = fresh_name("made"), 1 + self.done_count % 3
        self.unclear.add(name)
        topic = {"name": name, "num_partitions": count, "replication_factor": 1}
        reply = connection.request("create_topics", 7, topics=[topic], timeout=5000)
        if not self.again(reply.topics[0].error_code):
            self.made[name] = count
            self.done_count += 1

    def _delete(self, connection: Connection, name: str) -> None:
        self.unclear.add(name)
        count = self.made.pop(name)
        wanted = [{"name": name, "topic_id": None}]
        reply = connection.request("delete_topics", 6, topics=wanted, timeout=5000)
        if self.again(reply.responses[0].error_code):
            self.made[name] = count
            return
        self.deleted.add(name)

    def check(self, connection: Connection) -> bool:
        """What was made is there, what was deleted is gone; False while a partition is offline: one that found no room is opened again."""
        told = {each.name: each for each in connection.request("metadata", 12, topics=None).topics}
        assert not self.deleted & set(told), "a deleted topic is back"
        for name, count in dict(self.made).items():
            assert name in told, f"topic {name} was made and is gone"
            assert len(told[name].partitions) == count
        return all(part.error_code == 0 for name in self.made for part in told[name].partitions)
