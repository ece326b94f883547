"""Topics, records and offsets by raw requests: what most tests prepare and look at."""

import itertools
import os
from collections.abc import Mapping, Sequence
from typing import Any

from tests.support import batches
from tests.support.deadline import until
from tests.support.errors import ErrorCode
from tests.support.processes import IS_KAFKA
from tests.support.wire import Connection

TIMEOUT_MS = 10_000
CREATE_TOPICS_VERSION = 7
PRODUCE_VERSION = 9
FETCH_VERSION = 12
LIST_OFFSETS_VERSION = 7
EARLIEST = -2
LATEST = -1
MAX_TIMESTAMP = -3
ALL_BYTES = 64 << 20

_numbers = itertools.count(1)


def fresh_name(stem: str) -> str:
    """A topic name that nobody used before."""
    return f"{stem}-{os.getpid()}-{next(_numbers)}"


def create_topic(
    connection: Connection, stem: str, *, partitions: int = 1, configs: Mapping[str, str] | None = None
) -> str:
    """Create a topic with a fresh name, which is returned."""
    name = fresh_name(stem)
    told = [{"name": key, "value": value} for key, value in (configs or {}).items()]
    topic = {"name": name, "num_partitions": partitions, "replication_factor": 1, "configs": told}
    reply = connection.request("create_topics", CREATE_TOPICS_VERSION, topics=[topic], timeout=TIMEOUT_MS)
    assert reply.topics[0].error_code == 0, reply
    if IS_KAFKA:  # it answers before its partitions do; Penstock may not
        await_partitions(connection, name, partitions)
    return name


def await_partitions(connection: Connection, topic: str, partitions: int) -> None:
    """Wait until each partition is served."""
    wanted = [{"partition_index": index, "timestamp": LATEST} for index in range(partitions)]

    def served() -> bool:
        topics = [{"name": topic, "partitions": wanted}]
        reply = connection.request("list_offsets", LIST_OFFSETS_VERSION, replica_id=-1, topics=topics)
        return all(each.error_code == 0 for each in reply.topics[0].partitions)

    until(served, f"the {partitions} partitions of {topic}")


def topic_id(connection: Connection, topic: str) -> bytes:
    """The id that Metadata tells."""
    reply = connection.request("metadata", 12, topics=[{"name": topic, "topic_id": None}])
    found = reply.topics[0].topic_id
    assert isinstance(found, bytes)
    return found


def produce_request(
    topic: str, records: bytes | None, *, partition: int = 0, acks: int = -1, timeout_ms: int = TIMEOUT_MS
) -> dict[str, Any]:
    """The values of a Produce request of one partition (versions 3 to 12)."""
    data = {"index": partition, "records": records}
    return {
        "transactional_id": None,
        "acks": acks,
        "timeout": timeout_ms,
        "topic_data": [{"name": topic, "partition_data": [data]}],
    }


def produce(
    connection: Connection, topic: str, records: bytes | None, *, version: int = PRODUCE_VERSION, **more: Any
) -> Any:
    """Produce a records field as it is; returns the partition's part of the response."""
    reply = connection.request("produce", version, **produce_request(topic, records, **more))
    return reply.responses[0].partition_responses[0]


def produce_values(connection: Connection, topic: str, *values: bytes, partition: int = 0) -> int:
    """Produce one batch; returns its base offset."""
    answer = produce(connection, topic, batches.encode_batch(values), partition=partition)
    assert answer.error_code == 0, answer
    return int(answer.base_offset)


def fetch_request(
    partitions: Mapping[tuple[str, int], int],
    *,
    max_wait_ms: int = 0,
    min_bytes: int = 1,
    max_bytes: int = ALL_BYTES,
    partition_max_bytes: int = ALL_BYTES,
    session: tuple[int, int] = (0, -1),
    forgotten: Sequence[tuple[str, int]] = (),
) -> dict[str, Any]:
    """The values of a Fetch request (versions 7 to 12): (topic, partition) to fetch offset."""
    wanted = [
        {
            "topic": topic,
            "partitions": [
                {"partition": index, "fetch_offset": offset, "partition_max_bytes": partition_max_bytes}
            ],
        }
        for (topic, index), offset in partitions.items()
    ]
    return {
        "max_wait": max_wait_ms,
        "min_bytes": min_bytes,
        "max_bytes": max_bytes,
        "session_id": session[0],
        "session_epoch": session[1],
        "topics": wanted,
        "forgotten_topics_data": [{"topic": topic, "partitions": [index]} for topic, index in forgotten],
    }


def fetch(connection: Connection, topic: str, offset: int, *, partition: int = 0, **more: Any) -> Any:
    """Fetch one partition; returns its part of the response."""
    values = fetch_request({(topic, partition): offset}, **more)
    reply = connection.request("fetch", FETCH_VERSION, **values)
    assert reply.error_code == 0, reply
    return reply.responses[0].partitions[0]


def fetch_values(connection: Connection, topic: str, *, partition: int = 0) -> list[tuple[int, bytes]]:
    """(offset, value) of all records from offset 0 to the high watermark."""
    found: list[tuple[int, bytes]] = []
    while True:
        offset = found[-1][0] + 1 if found else 0
        answer = fetch(connection, topic, offset, partition=partition)
        assert answer.error_code == 0, answer
        found += [each for each in batches.values_of(answer.records) if each[0] >= offset]
        if offset >= answer.high_watermark:
            return found


def list_offset(connection: Connection, topic: str, timestamp: int, *, partition: int = 0) -> tuple[int, int]:
    """(offset, timestamp) for a time, or for EARLIEST, LATEST, MAX_TIMESTAMP."""
    wanted = {"partition_index": partition, "timestamp": timestamp}
    reply = connection.request(
        "list_offsets",
        LIST_OFFSETS_VERSION,
        replica_id=-1,
        isolation_level=0,
        topics=[{"name": topic, "partitions": [wanted]}],
    )
    answer = reply.topics[0].partitions[0]
    assert answer.error_code == 0, answer
    return answer.offset, answer.timestamp


def init_producer_id(connection: Connection, **values: Any) -> tuple[int, int]:
    """A new (producer id, epoch)."""
    values = {"transactional_id": None, "transaction_timeout": 0, **values}

    def ask() -> Any:
        reply = connection.request("init_producer_id", 4, **values)
        is_loading = IS_KAFKA and reply.error_code == ErrorCode.coordinator_load_in_progress
        return None if is_loading else reply

    reply = until(ask, "a producer id")
    assert reply.error_code == 0, reply
    return reply.producer_id, reply.producer_epoch
