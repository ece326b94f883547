"""DescribeLogDirs, versions 1 to 4: the data folder, its size and free space, and the size of each partition (KIP-113, KIP-827).

The lag of a replica is what it lacks below the high watermark that its leader has told it last.

From version 2 on a tagged field of our own tells what bounds the backlog of a partition that is led here, and what that has done
(`backlog/figures.py`). Kafka's clients skip it.
"""

from collections.abc import Iterable, Mapping
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
    chosen = list(chosen)
    backlogs = await _backlogs(broker, chosen)
    topics: dict[str, list[Message]] = {}
    for partition in chosen:
        topics.setdefault(partition.topic, []).append(
            Message(
                partition_index=partition.index,
                partition_size=partition.log.size_bytes,
                offset_lag=_lag(partition),
                is_future_key=False,
                backlog=backlogs.get(partition),
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


async def _backlogs(broker: "Broker", partitions: Iterable["Partition"]) -> Mapping["Partition", Message]:
    if all(partition.gate is None for partition in partitions):
        return {}
    from penstock.broker.backlog.figures import gather  # loaded where there is a bound

    found = await gather(partitions, broker.clock, broker.threads)
    return {
        partition: Message(
            group=each.group,
            policy=str(each.bounds.policy),
            max_records=each.bounds.max_records,
            max_bytes=each.bounds.max_bytes,
            max_age_ms=each.bounds.max_age_ms,
            keeps_unconsumed=each.bounds.keep_unconsumed,
            records=each.records,
            size_bytes=each.size_bytes,
            age_ms=each.age_ms,
            refused_batches=each.refused_batches,
            refused_records=each.refused_records,
            held_batches=each.held_batches,
            held_bytes=each.held_bytes,
            timed_out_batches=each.timed_out_batches,
            throttled_ms=each.throttled_ms,
            kept_segments=each.kept_segments,
            kept_bytes=each.kept_bytes,
            kept_since_ms=each.kept_since_ms,
        )
        for partition, each in found.items()
    }


def _lag(partition: "Partition") -> int:
    if not partition.is_follower:
        return 0
    return max(partition.machine.told_high_watermark - partition.log.log_end_offset, 0)
