"""DescribeLogDirs, versions 1 to 4: the data folder, its size and free space, and the size of each partition (KIP-113, KIP-827).

The lag of a replica is what it lacks below the high watermark that its leader has told it last.
"""

from collections.abc import Iterable
from typing import TYPE_CHECKING

from penstock.broker.context import RequestContext
from penstock.protocol.errors import ErrorCode
from penstock.protocol.message import Message
from penstock.runtime.files import StorageError

if TYPE_CHECKING:
    from penstock.broker.broker import Broker
    from penstock.broker.partition import Partition


async def handle(broker: "Broker", context: RequestContext, request: Message) -> Message:
    """Describe the one folder; null topics mean all."""
    if request.topics is None:
        chosen: Iterable[Partition] = broker.partitions
    else:
        wanted = {(topic.topic, index) for topic in request.topics for index in topic.partitions}
        found = (broker.partitions.by_name(topic, index) for topic, index in sorted(wanted))
        chosen = [partition for partition in found if partition is not None]
    topics: dict[str, list[Message]] = {}
    for partition in chosen:
        topics.setdefault(partition.topic, []).append(
            Message(
                partition_index=partition.index,
                partition_size=partition.log.size_bytes,
                offset_lag=_lag(partition),
                is_future_key=False,
            )
        )
    folder = broker.config.data_directory
    try:
        total_bytes = await broker.threads.run(broker.environment.files.total_bytes, folder)
        free_bytes = await broker.threads.run(broker.environment.files.free_bytes, folder)
        code = ErrorCode.NONE
    except StorageError:
        total_bytes, free_bytes, code = -1, -1, ErrorCode.KAFKA_STORAGE_ERROR
    described = Message(
        error_code=code,
        log_dir=folder,
        topics=[Message(name=name, partitions=entries) for name, entries in topics.items()],
        total_bytes=total_bytes,
        usable_bytes=free_bytes,
    )
    return Message(error_code=ErrorCode.NONE, results=[described])


def _lag(partition: "Partition") -> int:
    if not partition.is_follower:
        return 0
    return max(partition.machine.told_high_watermark - partition.log.log_end_offset, 0)
