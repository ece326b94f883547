"""DeleteRecords, versions 0 to 2: moves the log start offset forward (KIP-107).

Offset -1 means the high watermark; beyond it is OFFSET_OUT_OF_RANGE, below the log start changes nothing. When the answer goes out the
new log start is durable (its checkpoint is written), so deleted records do not come back after a crash; the files of whole segments
below it are deleted as retention deletes them. All replicas that are alive have followed by then, so they do not come back after a failover either;
where that takes longer than the request's timeout the answer is REQUEST_TIMED_OUT, and the records are gone here.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING

import trio

from penstock.broker.context import RequestContext
from penstock.broker.names import INTERNAL_TOPICS
from penstock.broker.readiness import PATIENCE_MIN_S
from penstock.protocol.errors import ErrorCode
from penstock.protocol.message import Message
from penstock.runtime.files import StorageError

if TYPE_CHECKING:
    from penstock.broker.broker import Broker
    from penstock.broker.partition import Partition

TO_HIGH_WATERMARK = -1
NO_LOW_WATERMARK = -1


async def handle(broker: "Broker", context: RequestContext, request: Message) -> Message:
    """Move every partition's log start, with one checkpoint for all, then tell where they are."""
    starts: dict[Partition, int] = {}
    answers: list[tuple[Message, Partition]] = []
    topics: list[Message] = []
    for topic in request.topics:
        partitions: list[Message] = []
        for entry in topic.partitions:
            partition = broker.partitions.by_name(topic.name, entry.partition_index)
            if topic.name in INTERNAL_TOPICS:
                code, offset = ErrorCode.INVALID_TOPIC_EXCEPTION, 0
            elif partition is None:
                code, offset = broker.partitions.why_absent(topic.name, None, entry.partition_index), 0
            else:
                code, offset = _target(partition, entry.offset)
            partitions.append(
                Message(
                    partition_index=entry.partition_index, error_code=code, low_watermark=NO_LOW_WATERMARK
                )
            )
            if partition is not None and not code:
                starts[partition] = max(offset, starts.get(partition, 0))
                answers.append((partitions[-1], partition))
        topics.append(Message(name=topic.name, partitions=partitions))
    code = await _move(broker, starts)
    followed = dict.fromkeys(starts, code)
    if not code and any(len(partition.machine.replicas) > 1 for partition in starts):
        await _await_followers(broker, starts, followed, max(request.timeout_ms / 1000, PATIENCE_MIN_S))
    for answer, partition in answers:
        answer.error_code = followed[partition]
        answer.low_watermark = NO_LOW_WATERMARK if answer.error_code else partition.log.log_start_offset
    return Message(topics=topics)


async def _await_followers(
    broker: "Broker",
    starts: "Mapping[Partition, int]",
    codes: "dict[Partition, ErrorCode]",
    patience_s: float,
) -> None:
    """Wait until the replicas that are alive begin there as well; the codes of those where that is not so, or not known, are set."""
    from penstock.broker.replication.low_watermark import (
        wait_low_watermark,
    )  # a single broker does not load it

    codes.update(dict.fromkeys(starts, ErrorCode.REQUEST_TIMED_OUT))

    async def wait(partition: "Partition", offset: int) -> None:
        reached = await wait_low_watermark(partition, broker.image.brokers, offset)
        codes[partition] = ErrorCode.NONE if reached else partition.refusal

    with trio.move_on_after(patience_s):
        async with trio.open_nursery() as nursery:
            for partition, offset in starts.items():
                nursery.start_soon(wait, partition, offset)


def _target(partition: "Partition", offset: int) -> tuple[ErrorCode, int]:
    """Where the log is to begin, or why it can't."""
    if not partition.is_leader or partition.is_fenced:
        return partition.refusal, 0
    if offset == TO_HIGH_WATERMARK:
        return ErrorCode.NONE, partition.high_watermark
    if offset < 0 or offset > partition.high_watermark:
        return ErrorCode.OFFSET_OUT_OF_RANGE, 0
    return ErrorCode.NONE, offset


async def _move(broker: "Broker", starts: "dict[Partition, int]") -> ErrorCode:
    try:
        if starts:
            await broker.retention.cut(starts, "by DeleteRecords")
    except StorageError:
        return ErrorCode.KAFKA_STORAGE_ERROR
    return ErrorCode.NONE
