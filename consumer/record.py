"""What a consumer hands out: a record, and a run of records of one partition.

Owns the public values. Does not know where the bytes came from; how they are decoded is in `decoding`.

Invariants: a batch's offsets rise strictly; `next_offset` lies behind its last record and behind all that was filtered out after it.
"""

from typing import NamedTuple

from penstock.protocol.record_batch import TimestampType

Headers = tuple[tuple[str, bytes | None], ...]


class ConsumerRecord(NamedTuple):
    """One record.

    `timestamp_ms` is in ms since 1970 UTC, -1 where the record has none. `headers` may repeat a key. `leader_epoch` is that of the batch it
    came in, -1 where the broker gave none.
    """

    topic: str
    partition: int
    offset: int
    timestamp_ms: int
    timestamp_type: TimestampType
    key: bytes | None
    value: bytes | None
    headers: Headers
    leader_epoch: int


__all__ = ["ConsumerRecord", "Headers"]
