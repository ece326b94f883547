"""What a topic's settings allow of a produced batch, beyond that it is whole. Pure."""

from penstock.broker.partition_settings import PartitionSettings
from penstock.protocol.errors import ErrorCode, InvalidBatch
from penstock.protocol.record_batch import TRANSACTIONAL_FLAG, BatchHeader

NO_TIMESTAMP = -1


def check_limits(header: BatchHeader, now_ms: int, settings: PartitionSettings) -> None:
    """Raise InvalidBatch for a client's batch that may not be appended; `now_ms` is the wall clock's.

    A record without a timestamp (-1) is within the bounds, and says nothing of the batch's largest.
    """
    if header.attributes & TRANSACTIONAL_FLAG:
        raise InvalidBatch(ErrorCode.INVALID_TXN_STATE, "a transactional batch outside of a transaction")
    check_size(header, settings)
    if settings.log_config.log_append_time:
        return
    if header.max_timestamp - now_ms > settings.timestamp_after_max_ms or (
        header.base_timestamp != NO_TIMESTAMP
        and now_ms - header.base_timestamp > settings.timestamp_before_max_ms
    ):
        raise InvalidBatch(
            ErrorCode.INVALID_TIMESTAMP,
            f"timestamps {header.base_timestamp} to {header.max_timestamp} are out of the bounds of "
            f"message.timestamp.before.max.ms and message.timestamp.after.max.ms",
        )


def check_size(header: BatchHeader, settings: PartitionSettings) -> None:
    """Raise InvalidBatch for a batch that is larger than `max.message.bytes`."""
    if header.size_bytes > settings.max_message_bytes:
        raise InvalidBatch(
            ErrorCode.MESSAGE_TOO_LARGE,
            f"a batch of {header.size_bytes} bytes is over max.message.bytes={settings.max_message_bytes}",
        )


__all__ = ["check_limits", "check_size"]
