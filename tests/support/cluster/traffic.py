"""All kinds of clients at work on one topic of a cluster, and the cluster held to what it has promised them.

with traffic(cluster, topic, PARTITIONS, folder, clients=("librdkafka", "java")) as load:
    load.await_acks()
    ...  # hurt the cluster, heal it
    load.finish()
    load.check(cluster)
"""

from collections.abc import Callable, Collection, Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from confluent_kafka import Message, TopicPartition
from tests.support.churn import history
from tests.support.clients import librdkafka
from tests.support.cluster import replica_logs
from tests.support.cluster.cluster import Cluster
from tests.support.cluster.ledger import Stored, check_once_and_in_order, check_seen
from tests.support.cluster.readers import Group, Observer
from tests.support.cluster.writers import (
    AiokafkaWriter,
    JavaWriter,
    KcatWriter,
    LibrdkafkaWriter,
    PenstockWriter,
    Writer,
)
from tests.support.deadline import DeadlineExceeded, until

from penstock.protocol.group_records import RecordKind, decode_offset_key, decode_offset_value

LIMIT_S = 120.0
WRITERS = ("librdkafka", "aiokafka", "penstock", "kcat", "java")
MEMBERS = ("librdkafka", "aiokafka", "penstock", "java")


@dataclass
class Traffic:
    """Writers and readers of one topic; made by `traffic`."""

    bootstrap: str
    topic: str
    partition_count: int
    writers: Sequence[Writer]
    observer: Observer
    group: Group | None

    @property
    def acked_count(self) -> int:
        """Records acked so far, where clients tell at once."""
        return sum(writer.acked_count for writer in self.writers)

    def check_alive(self) -> None:
        """Raise what ended a client."""
        for actor in (*self.writers, self.observer):
            if actor.failure is not None:
                raise AssertionError(f"{actor.name} failed") from actor.failure
        if self.group is not None:
            self.group.check_alive()

    def await_acks(self, count: int = 5, limit_s: float = LIMIT_S) -> None:
        """Wait until each writer that tells has `count` more acks, and the observer saw some."""
        told = [writer for writer in self.writers if not isinstance(writer, KcatWriter)]
        wanted = {writer.name: writer.acked_count + count for writer in told}
        wanted_seen = self.observer.done_count + count

        def happened() -> bool:
            self.check_alive()
            return self.observer.done_count >= wanted_seen and all(
                writer.acked_count >= wanted[writer.name] for writer in told
            )

        try:
            until(happened, f"{count} more acks for each", limit_s=limit_s)
        except DeadlineExceeded as late:
            have = {writer.name: f"{writer.acked_count} of {wanted[writer.name]}" for writer in told}
            seen = f"{self.observer.done_count} of {wanted_seen}"
            raise AssertionError(f"{late}; acked: {have}; the observer saw {seen}") from None

    def await_known(self, brokers: Collection[int]) -> None:
        """Wait until aiokafka knows these brokers. One that knows only the first that was up again waits for that one for ever, should it die."""
        told = [writer for writer in self.writers if isinstance(writer, AiokafkaWriter)]
        until(
            lambda: all(writer.known_brokers >= set(brokers) for writer in told),
            "all brokers known to aiokafka",
        )

    def finish(self) -> None:
        """Stop writing and wait until all that was sent is acked, and seen by all readers."""
        for writer in self.writers:
            writer.stopping.set()
        for writer in self.writers:
            writer.stop()
            writer.finish()
        self.check_alive()
        ends = self.end_offsets()
        self._await_readers(ends)
        self.observer.stop()
        if self.group is not None:
            self.await_group(self.group, ends)
            self.group.stop()

    def end_offsets(self) -> list[int]:
        """The high watermark of each partition."""
        consumer = librdkafka.make_consumer(self.bootstrap)
        try:
            return [
                consumer.get_watermark_offsets(TopicPartition(self.topic, index), timeout=30)[1]
                for index in range(self.partition_count)
            ]
        finally:
            consumer.close()

    def _await_readers(self, ends: Sequence[int]) -> None:
        def caught_up() -> bool:
            self.check_alive()
            return [len(self.observer.seen[index]) for index in range(self.partition_count)] == list(ends)

        until(caught_up, f"the observer at {ends}", limit_s=LIMIT_S)

    def await_group(self, group: Group, ends: Sequence[int]) -> None:
        """Wait until commits at these ends were acked to the group's members."""
        behind = dict(enumerate(ends))

        def caught_up() -> bool:
            group.check_alive()
            commits = group.acked_commits()
            for index, end in enumerate(ends):
                if end in commits[index] or not end:
                    behind.pop(index, None)
            return not behind

        try:
            until(caught_up, f"commits of {group.group} at the ends", limit_s=LIMIT_S)
        except DeadlineExceeded as late:
            have = {index: max(found, default=-1) for index, found in group.acked_commits().items()}
            raise AssertionError(f"{late}: lacking {behind}, acked are {have}: {group.errors()}") from None

    def check(self, cluster: Cluster) -> str:
        """Hold the cluster to all of it, after `finish` and healing; returns what was compared, in a line.

        PROPERTIES D1, D2, D7, T1, G2: from the consumers' view and by the logs of all replicas.
        """
        found = self.stored()
        acked = check_once_and_in_order([writer.ledger for writer in self.writers], found)
        seen = sum(check_seen(index, self.observer.seen[index], found[index]) for index in found)
        commits = 0
        if self.group is not None:
            commits = self.check_group(self.group, found)
        size_bytes = replica_logs.check_replicas(cluster, self.topic, self.partition_count)
        return f"{acked} acks, {seen} records seen, {commits} commits compared; logs of {size_bytes} bytes are equal"

    def stored(self) -> dict[int, list[Stored]]:
        """What the topic holds."""
        return {index: self._read(index, end) for index, end in enumerate(self.end_offsets())}

    def _read(self, index: int, end: int) -> list[Stored]:
        consumer = librdkafka.make_consumer(self.bootstrap)
        try:
            consumer.assign([TopicPartition(self.topic, index, 0)])
            messages = librdkafka.read(consumer, end) if end else []
        finally:
            consumer.close()
        records = [_stored(message) for message in messages]
        assert [record.offset for record in records] == list(range(end)), f"partition {index} has gaps"
        return records

    def check_group(self, group: Group, found: Mapping[int, Sequence[Stored]]) -> int:
        """Hold a group to what it must have processed and committed; returns how many commits were compared."""
        history.check_everything_processed(group.processed(), [len(found[index]) for index in found])
        commits = [
            commit
            for commit in commits_of(history.read_offsets_topic(self.bootstrap))
            if commit.group == group.group
        ]
        history.check_commits_never_go_back(commits)
        stored = {(commit.partition, commit.offset) for commit in commits}
        acked = {(index, end) for index, ends in group.acked_commits().items() for end in ends}
        assert acked <= stored, f"commits were acked and are not in the log: {sorted(acked - stored)[:10]}"
        return len(acked)

    def close(self) -> None:
        """End everything at once."""
        for writer in self.writers:
            writer.stopping.set()
            writer.close()
        self.observer.stopping.set()
        if self.group is not None:
            self.group.close()


def _stored(message: Message) -> Stored:
    key, offset = message.key(), message.offset()
    assert isinstance(key, bytes)
    assert offset is not None
    return Stored(offset, key, librdkafka.value_of(message))


def commits_of(stored: Sequence[history.StoredRecord]) -> Generator[history.Commit]:
    """The offset commits among the records of `__consumer_offsets`."""
    for record in stored:
        if int.from_bytes(record.key[:2], "big") == RecordKind.OFFSET_COMMIT and record.value is not None:
            key = decode_offset_key(record.key)
            value = decode_offset_value(record.value)
            yield history.Commit(key.group, key.topic, key.partition, value.offset, value.metadata)


@contextmanager
def traffic(
    bootstrap: str,
    topic: str,
    partition_count: int,
    folder: Path,
    *,
    writers: Sequence[str] = WRITERS,
    members: Sequence[str] = MEMBERS,
) -> Generator[Traffic]:
    """Writers and readers at work on an empty topic, until the block ends. `members` is empty for no group."""
    folder.mkdir(parents=True, exist_ok=True)
    makers: dict[str, Callable[[], Writer]] = {
        "librdkafka": lambda: LibrdkafkaWriter(bootstrap, topic, folder),
        "aiokafka": lambda: AiokafkaWriter(bootstrap, topic, folder),
        "penstock": lambda: PenstockWriter(bootstrap, topic),
        "kcat": lambda: KcatWriter(bootstrap, topic, folder),
        "java": lambda: JavaWriter(bootstrap, topic, folder),
    }
    group = Group(bootstrap, topic, members, folder / "group") if members else None
    load = Traffic(
        bootstrap,
        topic,
        partition_count,
        [makers[name]() for name in writers],
        Observer(bootstrap, topic, partition_count),
        group,
    )
    try:
        for actor in (*load.writers, load.observer):
            actor.start()
        yield load
    finally:
        load.close()
