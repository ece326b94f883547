"""DeleteRecords, versions 0 to 2: moves the log start offset forward (KIP-107).

Offset -1 means the high watermark; beyond it is OFFSET_OUT_OF_RANGE, below the log start changes nothing. When the answer goes out the
new log start is durable (its checkpoint is written), so deleted records do not come back after a crash; the files of whole segments
below it are removed in the partition's lane.
"""

from typing import TYPE_CHECKING

from penstock.broker.context import RequestContext
from penstock.broker.names import INTERNAL_TOPICS
from penstock.protocol.errors import ErrorCode
from penstock.protocol.message import Message
from penstock.runtime.files import StorageError

if TYPE_CHECKING:
    from penstock.broker.broker import Broker
    from penstock.broker.partition import Partition

TO_HIGH_WATERMARK = -1
NO_LOW_WATERMARK = -1


async def handle(broker: "Broker", context: RequestContext, request: Message) -> Message:
    """Move every partition's log start, then write the checkpoint once."""
    moved: list[Partition] = []
    topics: list[Message] = []
    for topic in request.topics:
        partitions: list[Message] = []
        for entry in topic.partitions:
            if topic.name in INTERNAL_TOPICS:
                partitions.append(_answer(entry.partition_index, ErrorCode.INVALID_TOPIC_EXCEPTION))
                continue
            partition = broker.partitions.by_name(topic.name, entry.partition_index)
            if partition is None:
                code = broker.partitions.why_absent(topic.name, None, entry.partition_index)
                partitions.append(_answer(entry.partition_index, code))
                continue
            code = _advance(partition, entry.offset)
            if not code:
                moved.append(partition)
            partitions.append(_answer(entry.partition_index, code, partition.log.log_start_offset))
        topics.append(Message(name=topic.name, partitions=partitions))
    if moved:
        await _make_durable(broker, moved, topics)
    return Message(topics=topics)


def _advance(partition: "Partition", offset: int) -> ErrorCode:
    if not partition.is_leader:
        return partition.refusal
    if offset == TO_HIGH_WATERMARK:
        offset = partition.high_watermark
    if offset < 0 or offset > partition.high_watermark:
        return ErrorCode.OFFSET_OUT_OF_RANGE
    partition.log.advance_log_start_offset(offset)
    return ErrorCode.NONE


async def _make_durable(broker: "Broker", moved: "list[Partition]", topics: list[Message]) -> None:
    try:
        await broker.partitions.write_log_start_checkpoint()
        for partition in moved:
            await partition.run_in_lane(partition.log.delete_old_segments)
    except StorageError:
        for topic in topics:
            for entry in topic.partitions:
                entry.error_code = entry.error_code or ErrorCode.KAFKA_STORAGE_ERROR


def _answer(index: int, code: ErrorCode, low_watermark: int = NO_LOW_WATERMARK) -> Message:
    return Message(
        partition_index=index, error_code=code, low_watermark=NO_LOW_WATERMARK if code else low_watermark
    )
