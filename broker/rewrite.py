"""What some topics do to batches on the way in: LogAppendTime, a compression.type of their own, a key for every record.

Off the hot path: runs on a worker, since it touches every byte. Source: Kafka's LogValidator.
"""

from penstock.protocol.compression import Codec, DecompressionTooLarge
from penstock.protocol.errors import DecodeError, ErrorCode, InvalidBatch
from penstock.protocol.record_batch import BatchHeader, read_batch_header, set_log_append_time
from penstock.protocol.records import DEFAULT_OUTPUT_MAX_BYTES, iterate_records, recompress
from penstock.storage.batch_walk import unpack_in_turn

RECORDS_SIZE_BYTES_MAX = 256 << 20
"""A batch that unpacks to more is refused where it has to be unpacked."""


class Rewriter:
    """What one topic does to each batch. Called with a writable batch; returns the batch to append and its header."""

    __slots__ = ("_codec", "_level", "_log_append_time", "_require_keys")

    def __init__(
        self, *, log_append_time: bool, codec: Codec | None, level: int | None, require_keys: bool
    ) -> None:
        self._level = level
        self._log_append_time = log_append_time
        self._codec = codec
        self._require_keys = require_keys

    def __call__(self, batch: memoryview, now_ms: int) -> tuple[memoryview, BatchHeader]:
        """Check and rewrite `batch`; `now_ms` is the wall time that LogAppendTime gives it.

        Raises InvalidBatch when its records can't be read, or a key is missing on a compacted topic.
        """
        header = read_batch_header(batch)
        try:
            if self._require_keys:
                unpack_in_turn(lambda bytes_max: _check_keys(batch, bytes_max), RECORDS_SIZE_BYTES_MAX)
            codec = self._codec
            if codec is not None and header.codec != codec:
                batch = unpack_in_turn(
                    lambda bytes_max: _recompressed(batch, codec, self._level, bytes_max),
                    DEFAULT_OUTPUT_MAX_BYTES,
                )
        except DecodeError as error:
            raise InvalidBatch(ErrorCode.CORRUPT_MESSAGE, str(error)) from error
        if self._log_append_time:
            set_log_append_time(batch, now_ms)
        return batch, read_batch_header(batch)


class InternalTopicGuard:
    """Stands where a rewriter does on topics that only the broker itself writes to: refuses whatever a client produces.

    So the way of all other batches pays nothing for the check.
    """

    __slots__ = ()

    def __call__(self, batch: memoryview, now_ms: int) -> tuple[memoryview, BatchHeader]:
        """Raises InvalidBatch with Kafka's code for it, always."""
        raise InvalidBatch(
            ErrorCode.INVALID_TOPIC_EXCEPTION, "an internal topic, which only the broker writes to"
        )


def _check_keys(batch: memoryview, bytes_max: int) -> None:
    for record in iterate_records(batch, output_max_bytes=bytes_max):
        if record.key is None:
            raise InvalidBatch(ErrorCode.INVALID_RECORD, "a record without a key on a compacted topic")


def _recompressed(batch: memoryview, codec: Codec, level: int | None, bytes_max: int) -> memoryview:
    try:
        return memoryview(recompress(batch, codec, level, output_max_bytes=bytes_max))
    except InvalidBatch as error:
        if isinstance(error.__cause__, DecompressionTooLarge) and bytes_max < DEFAULT_OUTPUT_MAX_BYTES:
            raise error.__cause__ from None  # it may have more in its turn
        raise
