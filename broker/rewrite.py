"""Changing batches on the way in, where the topic asks for it: LogAppendTime, and a compression.type of its own.

Off the hot path: runs on a worker, since it touches every byte. Source: Kafka's LogValidator.
"""

from penstock.protocol.compression import Codec
from penstock.protocol.record_batch import BatchHeader, read_batch_header, set_log_append_time


class Rewriter:
    """What one topic does to each batch. Called with a writable batch; returns the batch to append and its header."""

    __slots__ = ("_codec", "_log_append_time")

    def __init__(self, *, log_append_time: bool, codec: Codec | None) -> None:
        self._log_append_time = log_append_time
        self._codec = codec

    def __call__(self, batch: memoryview, now_ms: int) -> tuple[memoryview, BatchHeader]:
        """Rewrite `batch`; `now_ms` is the wall time that LogAppendTime gives it.

        Raises InvalidBatch when its records can't be read.
        """
        header = read_batch_header(batch)
        if self._codec is not None and header.codec != self._codec:
            from penstock.protocol.records import recompress  # loaded by the few topics that need it

            batch = memoryview(bytearray(recompress(batch, self._codec)))
        if self._log_append_time:
            set_log_append_time(batch, now_ms)
        return batch, read_batch_header(batch)
