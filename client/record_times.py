"""When the record at an offset was made: a Fetch that wants nothing but a timestamp.

Pure: requests from offsets, timestamps from answers. ListOffsets goes from a time to an offset only; so the way back reads one batch.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from penstock.client.errors import BrokerError, broker_error
from penstock.client.metadata import TopicPartition
from penstock.protocol.errors import DecodeError
from penstock.protocol.message import Message
from penstock.protocol.record_batch import iterate_batches
from penstock.protocol.records import iterate_timestamps

FETCH_VERSION_MAX = 12
"""From 13 on topics go by their ids."""
_PARTITION_MAX_BYTES = (
    64 * 1024
)  # a larger batch comes whole all the same, where it is the first of an answer
_ANSWER_MAX_BYTES = 8 * 1024 * 1024
_OUTPUT_MAX_BYTES = 100 * 1024 * 1024
_NO_SESSION = (0, -1)


@dataclass(frozen=True, slots=True)
class NoneYet:
    """No timestamp was found below `next_offset`."""

    next_offset: int
    is_at_end: bool
    """Whether there is nothing more to read there now."""


def fetch_request(offsets: Mapping[TopicPartition, int]) -> Message:
    """Fetch of what is there at each offset, without waiting."""
    topics: dict[str, list[Message]] = {}
    for (topic, index), offset in offsets.items():
        topics.setdefault(topic, []).append(
            Message(partition=index, fetch_offset=offset, partition_max_bytes=_PARTITION_MAX_BYTES)
        )
    return Message(
        replica_id=-1,
        max_wait_ms=0,
        min_bytes=0,
        max_bytes=_ANSWER_MAX_BYTES,
        session_id=_NO_SESSION[0],
        session_epoch=_NO_SESSION[1],
        topics=[Message(topic=topic, partitions=partitions) for topic, partitions in topics.items()],
    )


def read_first_timestamps(
    answer: Message, offsets: Mapping[TopicPartition, int]
) -> dict[TopicPartition, int | NoneYet | BrokerError]:
    """For each partition the timestamp in ms of the first record at or behind its offset."""
    found: dict[TopicPartition, int | NoneYet | BrokerError] = {}
    for topic in answer.responses:
        for entry in topic.partitions:
            key = TopicPartition(topic.topic, entry.partition_index)
            if key not in offsets:
                continue
            if entry.error_code:
                found[key] = broker_error(entry.error_code, subject=str(key))
                continue
            records = memoryview(entry.records or b"")
            found[key] = _first_timestamp(records, offsets[key], entry.high_watermark)
    return found


def _first_timestamp(records: memoryview, offset: int, high_watermark: int) -> int | NoneYet:
    position = offset
    try:
        for header, batch in iterate_batches(records):
            position = max(position, header.next_offset)
            if header.is_control or header.next_offset <= offset:
                continue
            for found, timestamp_ms in iterate_timestamps(batch, output_max_bytes=_OUTPUT_MAX_BYTES):
                if found >= offset:
                    return timestamp_ms
    except DecodeError:
        return NoneYet(high_watermark, is_at_end=True)  # of a format that is older than batches
    return NoneYet(position, is_at_end=position >= high_watermark)


__all__ = ["FETCH_VERSION_MAX", "NoneYet", "fetch_request", "read_first_timestamps"]
