"""What a churn must have kept: read from the members' notes and from the log of `__consumer_offsets`.

G1 by the group metadata records: within a generation no partition has two owners, and only members own. Commits never go back: by
the offset records in the order of the log. Every record processed: by the notes.
"""

import json
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from confluent_kafka import TopicPartition
from tests.support.clients import librdkafka

OFFSETS_TOPIC = "__consumer_offsets"


@dataclass(frozen=True, slots=True)
class StoredRecord:
    """A record of the offsets topic."""

    key: bytes
    value: bytes | None


@dataclass(slots=True)
class Processed:
    """What the members did."""

    times_by_record: dict[tuple[int, int], int] = field(default_factory=dict[tuple[int, int], int])
    refused_count: int = 0

    @property
    def repeated_count(self) -> int:
        """Records that were processed more than once."""
        return sum(1 for times in self.times_by_record.values() if times > 1)


def read_notes(paths: Iterable[Path]) -> Processed:
    """All members' notes together."""
    processed = Processed()
    for path in paths:
        for line in path.read_text().splitlines():
            event = json.loads(line)
            if event["event"] == "refused":
                processed.refused_count += 1
            elif event["event"] == "did":
                for partition, offset in event["records"]:
                    place = (partition, offset)
                    processed.times_by_record[place] = processed.times_by_record.get(place, 0) + 1
    return processed


def check_everything_processed(processed: Processed, produced: Sequence[int]) -> None:
    """Every record that was acked to the producer was processed by somebody."""
    missing = [
        (partition, offset)
        for partition, count in enumerate(produced)
        for offset in range(count)
        if (partition, offset) not in processed.times_by_record
    ]
    assert not missing, f"{len(missing)} of {sum(produced)} records were never processed: {missing[:10]}"


def read_offsets_topic(bootstrap: str) -> list[StoredRecord]:
    """All records of `__consumer_offsets`, each partition in the order of its log."""
    consumer = librdkafka.make_consumer(bootstrap, auto_offset_reset="earliest")
    try:
        topics = consumer.list_topics(OFFSETS_TOPIC, timeout=30).topics
        stored: list[StoredRecord] = []
        for index in topics[OFFSETS_TOPIC].partitions:
            place = TopicPartition(OFFSETS_TOPIC, index, 0)
            low, high = consumer.get_watermark_offsets(place, timeout=30)
            if high == low:
                continue
            consumer.assign([TopicPartition(OFFSETS_TOPIC, index, low)])
            for message in librdkafka.read(consumer, high - low):
                key, value = message.key(), message.value()
                assert isinstance(key, bytes)
                assert value is None or isinstance(value, bytes)
                stored.append(StoredRecord(key, value))
        return stored
    finally:
        consumer.close()


@dataclass(frozen=True, slots=True)
class Commit:
    """An offset record; `by` is who committed, as its metadata says."""

    group: str
    topic: str
    partition: int
    offset: int
    by: str


def check_commits_never_go_back(commits: Iterable[Commit]) -> int:
    """In log order; returns how many there were."""
    last: dict[tuple[str, str, int], Commit] = {}
    count = 0
    for commit in commits:
        place = (commit.group, commit.topic, commit.partition)
        before = last.get(place)
        assert before is None or commit.offset >= before.offset, f"{before} was taken back by {commit}"
        last[place] = commit
        count += 1
    return count


def check_one_owner(generations: Iterable[tuple[int, Sequence[tuple[str, Sequence[int]]]]]) -> int:
    """Given (generation, [(member, partitions)]) in log order; returns how many generations had owners.

    A static member must go by its instance id: its member id changes within a generation when it comes back.
    """
    seen: dict[int, dict[int, str]] = defaultdict(dict)
    latest = -1
    for generation, members in generations:
        assert generation >= latest, f"generation {generation} after {latest}"
        latest = generation
        owners: dict[int, str] = {}
        for member, partitions in members:
            for partition in partitions:
                assert partition not in owners, (
                    f"generation {generation}: partition {partition} belongs to {owners[partition]} and {member}"
                )
                owners[partition] = member
        if owners:
            before = seen[generation]
            assert not before or before == owners, f"generation {generation} was assigned twice, differently"
            seen[generation] = owners
    return len(seen)


def check_no_shared_partition(holdings: Iterable[tuple[str, Sequence[int] | None]]) -> int:
    """KIP-848: (member, partitions it has or still has to give up; None: gone) in log order. Returns how many records there were.

    A partition is in the hands of its old member until that has said that it gave it up; only then a record may give it to another.
    """
    held: dict[str, Sequence[int]] = {}
    owner: dict[int, str] = {}
    count = 0
    for member, partitions in holdings:
        count += 1
        for partition in held.pop(member, ()):
            del owner[partition]
        for partition in partitions or ():
            assert partition not in owner, (
                f"partition {partition} is given to {member}, {owner[partition]} has it"
            )
            owner[partition] = member
        held[member] = partitions or ()
    return count
