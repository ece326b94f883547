"""Fetch from the side of who asks, a consumer or a follower: requests to bytes, answers to values.

Owns which field of the message tables is which. Record bytes are views into the answer, never copied.
The side of who answers is in `fetch`, whose values of a request are used here.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from penstock.protocol.api import ApiKey
from penstock.protocol.codec import decode_response, encode_request
from penstock.protocol.fetch import FIRST_WITH_TOPIC_ID, FetchPartition, FetchRequest
from penstock.protocol.message import Message
from penstock.protocol.tagged import NodeEndpoint

FETCH_VERSION_MIN = 4
"""The first that speaks of transactions; every broker since 0.11 has it."""

REPLICA_FETCH_VERSION_MIN = 15
"""The first in which a follower says which incarnation it is (KIP-903)."""

_NO_TOPIC_ID = bytes(16)
_NO_RECORDS = memoryview(b"")


@dataclass(slots=True)
class FetchedPartition:
    """The answer for one partition. Up to version 12 `topic` is set, from 13 on `topic_id` and `topic` is "".

    `aborted_transactions` are (producer id, first offset), None unless read_committed was asked for. `records` is a view into the answer.
    `diverging_epoch` is (epoch, end offset): what follows there in the asker's log is not in the leader's. `current_leader` is (broker id,
    leader epoch), told by a broker that leads no more (KIP-951).
    """

    topic: str
    topic_id: bytes | None
    index: int
    error_code: int
    high_watermark: int
    last_stable_offset: int
    log_start_offset: int
    aborted_transactions: Sequence[tuple[int, int]] | None
    preferred_read_replica: int
    records: memoryview
    diverging_epoch: tuple[int, int] | None = None
    current_leader: tuple[int, int] | None = None


@dataclass(slots=True)
class FetchAnswer:
    """A fetch response. `session_id` is 0 where the broker keeps no session; `node_endpoints` are of the leaders that partitions name."""

    throttle_time_ms: int
    error_code: int
    session_id: int
    partitions: list[FetchedPartition]
    node_endpoints: Sequence[NodeEndpoint] = ()


def encode_fetch_request(version: int, request: FetchRequest) -> bytes:
    """The body of a request, in versions 4 and later. Consecutive partitions of one topic become one topic.

    A follower's needs `REPLICA_FETCH_VERSION_MIN`: before, its epoch would be lost.
    """
    by_id = version >= FIRST_WITH_TOPIC_ID
    forgotten: dict[tuple[str, bytes], list[int]] = {}
    for topic, topic_id, index in request.forgotten:
        forgotten.setdefault((topic, topic_id or _NO_TOPIC_ID), []).append(index)
    message = Message(
        max_wait_ms=request.max_wait_ms,
        min_bytes=request.min_bytes,
        max_bytes=request.max_bytes,
        isolation_level=request.isolation_level,
        session_id=request.session_id,
        session_epoch=request.session_epoch,
        topics=_topics(request.partitions, by_id=by_id),
        forgotten_topics_data=[
            Message(topic=topic, topic_id=topic_id, partitions=indexes)
            for (topic, topic_id), indexes in forgotten.items()
        ],
        rack_id=request.rack_id,
    )
    if version < REPLICA_FETCH_VERSION_MIN:
        message.replica_id = request.replica_id
    elif request.replica_id >= 0:
        message.replica_state = Message(replica_id=request.replica_id, replica_epoch=request.replica_epoch)
    return encode_request(ApiKey.FETCH, version, message)


def decode_fetch_response(version: int, body: memoryview) -> FetchAnswer:
    """The answer in `body`; DecodeError for bytes that are none."""
    answer = decode_response(ApiKey.FETCH, version, body)
    by_id = version >= FIRST_WITH_TOPIC_ID
    return FetchAnswer(
        answer.throttle_time_ms,
        answer.error_code,
        answer.session_id,
        [
            FetchedPartition(
                "" if by_id else topic.topic,
                topic.topic_id if by_id else None,
                part.partition_index,
                part.error_code,
                part.high_watermark,
                part.last_stable_offset,
                part.log_start_offset,
                None
                if part.aborted_transactions is None
                else [(aborted.producer_id, aborted.first_offset) for aborted in part.aborted_transactions],
                part.preferred_read_replica,
                _NO_RECORDS if part.records is None else part.records,
                _diverging_epoch(part),
                _current_leader(part),
            )
            for topic in answer.responses
            for part in topic.partitions
        ],
        [
            NodeEndpoint(node.node_id, node.host, node.port, node.rack)
            for node in getattr(answer, "node_endpoints", None) or ()
        ],
    )


def _current_leader(part: Message) -> tuple[int, int] | None:
    leader: Message | None = getattr(part, "current_leader", None)
    if leader is None or leader.leader_id < 0:
        return None
    return leader.leader_id, leader.leader_epoch


def _diverging_epoch(part: Message) -> tuple[int, int] | None:
    diverging: Message | None = getattr(part, "diverging_epoch", None)
    if diverging is None or (diverging.epoch < 0 and diverging.end_offset < 0):
        return None
    return diverging.epoch, diverging.end_offset


def _topics(partitions: Sequence[FetchPartition], *, by_id: bool) -> list[Message]:
    topics: list[Message] = []
    last: str | bytes | None = None
    for partition in partitions:
        topic_id = partition.topic_id or _NO_TOPIC_ID
        key = topic_id if by_id else partition.topic
        if key != last:
            topics.append(Message(topic=partition.topic, topic_id=topic_id, partitions=[]))
            last = key
        topics[-1].partitions.append(
            Message(
                partition=partition.index,
                current_leader_epoch=partition.current_leader_epoch,
                fetch_offset=partition.fetch_offset,
                last_fetched_epoch=partition.last_fetched_epoch,
                log_start_offset=partition.log_start_offset,
                partition_max_bytes=partition.max_bytes,
            )
        )
    return topics


__all__ = [
    "FETCH_VERSION_MIN",
    "REPLICA_FETCH_VERSION_MIN",
    "FetchAnswer",
    "FetchedPartition",
    "decode_fetch_response",
    "encode_fetch_request",
]
