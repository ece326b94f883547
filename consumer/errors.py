"""What can go wrong between a position and a record.

Owns the exceptions that only a consumer raises. All of them name the partition, and after each the consumer stays usable: seek, or come back
and get the same error again.
"""

from penstock.client.metadata import TopicPartition
from penstock.errors import PenstockError


class PartitionError(PenstockError):
    """One partition can't go on. The others do."""

    def __init__(self, partition: TopicPartition, message: str) -> None:
        super().__init__(f"{partition}: {message}")
        self.partition = partition


class NoInitialOffset(PartitionError):
    """There is no committed offset, and auto_offset_reset is "none"."""


class PositionOutOfRange(PartitionError):
    """The position is not in the log (any more), and auto_offset_reset is "none". `offset` is the position."""

    def __init__(self, partition: TopicPartition, offset: int) -> None:
        super().__init__(partition, f"offset {offset} is not in the log")
        self.offset = offset


class LogTruncated(PartitionError):
    """Records that were read are no longer in the log: it was cut (an unclean election), and auto_offset_reset is "none" (KIP-320).

    `offset` was the position, `diverging_offset` is where the log that is there now begins to differ; -1 where the broker can't tell.
    """

    def __init__(self, partition: TopicPartition, offset: int, diverging_offset: int) -> None:
        super().__init__(
            partition,
            f"the log was cut: it differs from offset {diverging_offset} on, the position was {offset}",
        )
        self.offset = offset
        self.diverging_offset = diverging_offset


class CorruptRecords(PartitionError):
    """A record batch fails its checksum or can't be decoded. `offset` is where; seek to `next_offset` to go on without the batch (-1: nobody knows where it ends)."""

    def __init__(self, partition: TopicPartition, offset: int, message: str, next_offset: int = -1) -> None:
        super().__init__(partition, f"at offset {offset}: {message}")
        self.offset = offset
        self.next_offset = next_offset


__all__ = [
    "CorruptRecords",
    "LogTruncated",
    "NoInitialOffset",
    "PartitionError",
    "PositionOutOfRange",
]
