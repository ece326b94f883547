"""ListOffsets, versions 1 to 10: earliest, latest, the record with the largest timestamp (KIP-734), and by time (KIP-79).

Latest is the high watermark: what can be fetched. There is no tiered storage, so the earliest local offset (-4, KIP-405) is the earliest,
and the latest tiered (-5, KIP-1005) and earliest pending upload (-6, KIP-1023) are unknown (-1). Lookups by time read index and batch on a
worker. Until a new leader's high watermark has reached the start of its epoch, the end is not known: latest, and a time at which nothing is found
below the high watermark, are OFFSET_NOT_AVAILABLE (KIP-207; LEADER_NOT_AVAILABLE before version 5, which clients try again as well).
"""

from typing import TYPE_CHECKING

from penstock.broker.api.fetch import CONSUMER_REPLICA_ID, DEBUG_REPLICA_ID, check_leadership
from penstock.broker.context import RequestContext
from penstock.protocol.errors import ErrorCode
from penstock.protocol.message import Message
from penstock.runtime.files import StorageError

if TYPE_CHECKING:
    from penstock.broker.broker import Broker
    from penstock.broker.partition import Partition

LATEST = -1
EARLIEST = -2
MAX_TIMESTAMP = -3
EARLIEST_LOCAL = -4
LATEST_TIERED = -5
EARLIEST_PENDING_UPLOAD = -6
UNKNOWN = -1
FIRST_VERSION_WITH_OFFSET_NOT_AVAILABLE = 5


async def handle(broker: "Broker", context: RequestContext, request: Message) -> Message:
    """Look every partition's offset up."""
    refusal = ErrorCode.NONE
    if request.replica_id not in (CONSUMER_REPLICA_ID, DEBUG_REPLICA_ID):
        refusal = ErrorCode.CLUSTER_AUTHORIZATION_FAILED
    seen: set[tuple[str, int]] = set()
    topics: list[Message] = []
    for topic in request.topics:
        partitions: list[Message] = []
        for entry in topic.partitions:
            key = (topic.name, entry.partition_index)
            code = refusal or (ErrorCode.INVALID_REQUEST if key in seen else ErrorCode.NONE)
            seen.add(key)
            partitions.append(await _look_up(broker, topic.name, entry, code))
            if (
                partitions[-1].error_code == ErrorCode.OFFSET_NOT_AVAILABLE
                and context.api_version < FIRST_VERSION_WITH_OFFSET_NOT_AVAILABLE
            ):
                partitions[-1].error_code = ErrorCode.LEADER_NOT_AVAILABLE
        topics.append(Message(name=topic.name, partitions=partitions))
    return Message(topics=topics)


async def _look_up(broker: "Broker", topic: str, entry: Message, code: ErrorCode) -> Message:
    index = entry.partition_index
    if code:
        return _answer(index, code)
    partition = broker.partitions.by_name(topic, index)
    if partition is None:
        return _answer(index, broker.partitions.why_absent(topic, None, index))
    code = check_leadership(partition, entry.current_leader_epoch)
    if code:
        return _answer(index, code)
    try:
        return await _find(broker, partition, index, entry.timestamp)
    except StorageError as error:
        partition.note_storage_error(error)
        return _answer(index, ErrorCode.KAFKA_STORAGE_ERROR)


async def _find(broker: "Broker", partition: "Partition", index: int, timestamp_ms: int) -> Message:
    log = partition.log
    high_watermark = partition.high_watermark
    epoch = partition.leader_epoch
    epoch_start_offset = partition.machine.epoch_start_offset
    is_end_known = epoch_start_offset is not None and high_watermark >= epoch_start_offset
    if timestamp_ms == LATEST:
        if not is_end_known:
            return _answer(index, ErrorCode.OFFSET_NOT_AVAILABLE)
        return _answer(index, ErrorCode.NONE, high_watermark, UNKNOWN, epoch)
    if timestamp_ms in (EARLIEST, EARLIEST_LOCAL):
        return _answer(
            index, ErrorCode.NONE, log.log_start_offset, UNKNOWN, log.epoch_at(log.log_start_offset)
        )
    if timestamp_ms == MAX_TIMESTAMP:
        found = await broker.threads.run(log.max_timestamp, high_watermark)
    elif timestamp_ms >= 0:
        found = await broker.threads.run(log.find_by_timestamp, timestamp_ms, high_watermark)
    elif timestamp_ms in (LATEST_TIERED, EARLIEST_PENDING_UPLOAD):
        found = None
    else:
        return _answer(index, ErrorCode.INVALID_REQUEST)
    if found is None:
        is_unknown = not is_end_known and timestamp_ms >= MAX_TIMESTAMP
        return _answer(index, ErrorCode.OFFSET_NOT_AVAILABLE if is_unknown else ErrorCode.NONE)
    return _answer(index, ErrorCode.NONE, found.offset, found.timestamp_ms, log.epoch_at(found.offset))


def _answer(
    index: int,
    code: ErrorCode,
    offset: int = UNKNOWN,
    timestamp_ms: int = UNKNOWN,
    leader_epoch: int = UNKNOWN,
) -> Message:
    return Message(
        partition_index=index,
        error_code=code,
        offset=offset,
        timestamp=timestamp_ms,
        leader_epoch=leader_epoch,
    )
