"""What one group has committed: offsets by topic and partition.

Owns the values that OffsetFetch answers with. Only committed records get in here (the shard puts them in once the high watermark has
passed them), so nothing in it can be lost again. Knows no members and no clock. Source: Kafka's `OffsetAndMetadata`.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from penstock.protocol.group_records import NEVER_EXPIRES, decode_offset_value, encode_offset_value
from penstock.protocol.message import Message

NO_TOPIC_ID = bytes(16)
OFFSET_BYTES = 400
"""What an offset takes besides its metadata, with its place in the table."""


@dataclass(frozen=True, slots=True)
class CommittedOffset:
    """One commit. Times are wall ms; `expire_timestamp_ms` is -1 unless an old client asked for a retention time of its own."""

    offset: int
    leader_epoch: int
    metadata: str
    commit_timestamp_ms: int
    expire_timestamp_ms: int = NEVER_EXPIRES
    topic_id: bytes = NO_TOPIC_ID
    """The topic that was meant; all zeros where a record of an older version did not say."""

    def encode(self) -> bytes:
        """The value of its record."""
        return encode_offset_value(
            self.offset,
            self.leader_epoch,
            self.metadata,
            self.commit_timestamp_ms,
            expire_timestamp=self.expire_timestamp_ms,
            topic_id=self.topic_id,
        )

    @classmethod
    def decode(cls, value: bytes) -> "CommittedOffset":
        """From the value of its record. Raises DecodeError."""
        stored: Message = decode_offset_value(value)
        return cls(
            stored.offset,
            stored.leader_epoch,
            stored.metadata,
            stored.commit_timestamp,
            stored.expire_timestamp,
            stored.topic_id,
        )


class OffsetTable:
    """Offsets by topic and partition. False when empty."""

    __slots__ = ("_topics", "held_bytes")

    def __init__(self) -> None:
        self.held_bytes = 0
        """What it takes in memory, about; kept as it changes, for a broker may hold a million offsets."""
        self._topics: dict[str, dict[int, CommittedOffset]] = {}

    def __bool__(self) -> bool:
        return bool(self._topics)

    def __len__(self) -> int:
        return sum(len(partitions) for partitions in self._topics.values())

    def __iter__(self) -> Iterator[tuple[str, int, CommittedOffset]]:
        """Topic, partition and commit; the table may be changed meanwhile."""
        for topic, partitions in tuple(self._topics.items()):
            for index, committed in tuple(partitions.items()):
                yield topic, index, committed

    @property
    def topics(self) -> tuple[str, ...]:
        """Topics with an offset."""
        return tuple(self._topics)

    def get(self, topic: str, partition: int) -> CommittedOffset | None:
        """What is committed for one partition."""
        partitions = self._topics.get(topic)
        return None if partitions is None else partitions.get(partition)

    def of_topic(self, topic: str) -> tuple[tuple[int, CommittedOffset], ...]:
        """Partition and commit of one topic."""
        return tuple(self._topics.get(topic, {}).items())

    def put(self, topic: str, partition: int, committed: CommittedOffset | None) -> None:
        """Take the newest commit; None removes it. The order of calls is that of the log."""
        partitions = self._topics.setdefault(topic, {})
        before = partitions.get(partition)
        if before is not None:
            self.held_bytes -= OFFSET_BYTES + len(before.metadata)
        if committed is not None:
            self.held_bytes += OFFSET_BYTES + len(committed.metadata)
            partitions[partition] = committed
            return
        partitions.pop(partition, None)
        if not partitions:
            del self._topics[topic]
