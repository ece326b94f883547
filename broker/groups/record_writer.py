"""Writes a shard's records to its partition.

Owns the order: records are in the log in the order of the `append` calls. What is handed in before the event loop comes round goes into
one batch, so a flood of commits costs few appends; a call's records stay in one batch unless they are larger than max.message.bytes.
Knows neither groups nor what the records mean. Codes are turned into those that clients of a coordinator understand. Of one leader epoch: what
is still queued when leadership goes, or comes back in a new epoch, is refused and not appended behind what the next shard has read.
"""

import logging
from collections.abc import Callable, Sequence

import trio

from penstock.broker.partition import Partition
from penstock.protocol.compression import Codec
from penstock.protocol.errors import ErrorCode
from penstock.protocol.produce import ProducePartitionResult
from penstock.protocol.record_batch import HEADER_SIZE_BYTES
from penstock.protocol.records import Record, encode_batch
from penstock.runtime.clock import Clock

log = logging.getLogger(__name__)

RecordPair = tuple[bytes, bytes | None]
"""Key and value; None deletes."""
Done = Callable[[ErrorCode], None]

RECORD_OVERHEAD_BYTES = 24
"""What a record takes besides key and value, at most, in a batch of less than 2 MiB."""

_COORDINATOR_CODES = {
    ErrorCode.UNKNOWN_TOPIC_OR_PARTITION: ErrorCode.COORDINATOR_NOT_AVAILABLE,
    ErrorCode.NOT_ENOUGH_REPLICAS: ErrorCode.COORDINATOR_NOT_AVAILABLE,
    ErrorCode.NOT_ENOUGH_REPLICAS_AFTER_APPEND: ErrorCode.COORDINATOR_NOT_AVAILABLE,
    ErrorCode.REQUEST_TIMED_OUT: ErrorCode.COORDINATOR_NOT_AVAILABLE,
    ErrorCode.NOT_LEADER_OR_FOLLOWER: ErrorCode.NOT_COORDINATOR,
    ErrorCode.KAFKA_STORAGE_ERROR: ErrorCode.NOT_COORDINATOR,
    ErrorCode.MESSAGE_TOO_LARGE: ErrorCode.INVALID_COMMIT_OFFSET_SIZE,
    ErrorCode.RECORD_LIST_TOO_LARGE: ErrorCode.INVALID_COMMIT_OFFSET_SIZE,
}


class _Write:
    """One call of `append`."""

    __slots__ = ("code", "done", "records", "size_bytes", "unfinished")

    def __init__(self, records: Sequence[RecordPair], done: Done) -> None:
        self.records = records
        self.size_bytes = sum(map(record_size_bytes, records))
        self.done = done
        self.code = ErrorCode.NONE
        self.unfinished = 1
        """Batches that hold some of it and are not committed, and one more until all of them are sent."""

    def part_finished(self, code: ErrorCode) -> None:
        self.code = self.code or code
        self.unfinished -= 1
        if self.unfinished == 0:
            self._finish()

    def abort(self) -> None:
        """End it, unless it has ended."""
        if self.unfinished > 0:
            self.unfinished = -1
            self.code = ErrorCode.UNKNOWN_SERVER_ERROR
            self._finish()

    def _finish(self) -> None:
        try:
            self.done(self.code)
        except Exception:
            log.exception("what follows a write to __consumer_offsets was not done because of a bug")


def record_size_bytes(record: RecordPair) -> int:
    """What a record takes in a batch, at most."""
    return len(record[0]) + len(record[1] or b"") + RECORD_OVERHEAD_BYTES


class RecordWriter:
    """The one writer of a partition of `__consumer_offsets`."""

    def __init__(self, partition: Partition, leader_epoch: int, clock: Clock) -> None:
        self._partition = partition
        self._leader_epoch = leader_epoch
        self._wall_ms = clock.wall_ms
        self._queue: list[_Write] = []
        self._token: trio.lowlevel.TrioToken | None = None

    def append(self, records: Sequence[RecordPair], done: Done) -> None:
        """Append `records`; `done` is called, never before this returns, with NONE once they are committed, else with an error.

        After REQUEST_TIMED_OUT's stand-in COORDINATOR_NOT_AVAILABLE they may still be in the log.
        """
        self._queue.append(_Write(records, done))
        if len(self._queue) == 1:
            if self._token is None:
                self._token = trio.lowlevel.current_trio_token()
            self._token.run_sync_soon(self._flush)

    def _flush(self) -> None:
        writes, self._queue = self._queue, []
        try:
            self._send_all(writes)
        except Exception:  # what escapes here would end the whole event loop
            log.exception(
                "%s-%d: records were not written because of a bug",
                self._partition.topic,
                self._partition.index,
            )
            for write in writes:
                write.abort()

    def _send_all(self, writes: Sequence[_Write]) -> None:
        limit = self._partition.settings.max_message_bytes - HEADER_SIZE_BYTES
        batch: list[RecordPair] = []
        owners: list[_Write] = []
        size = 0
        for write in writes:
            if batch and size + write.size_bytes > limit:
                self._send(batch, owners)
                batch, owners, size = [], [], 0
            for record in write.records:
                added = record_size_bytes(record)
                if batch and size + added > limit:
                    self._send(batch, owners)
                    batch, owners, size = [], [], 0
                batch.append(record)
                size += added
                if not owners or owners[-1] is not write:
                    owners.append(write)
                    write.unfinished += 1
        if batch:
            self._send(batch, owners)
        for write in writes:
            write.part_finished(ErrorCode.NONE)

    def _send(self, records: list[RecordPair], owners: list[_Write]) -> None:
        now_ms = self._wall_ms()
        encoded = encode_batch([Record(0, now_ms, key, value) for key, value in records], codec=Codec.NONE)
        partition = self._partition
        result = ProducePartitionResult(partition.topic, partition.topic_id, partition.index, 0)

        def finished() -> None:
            code = ErrorCode(result.error_code)
            code = _COORDINATOR_CODES.get(code, code)
            for owner in owners:
                owner.part_finished(code)

        batch = memoryview(bytearray(encoded))
        if partition.produce_own(batch, result, finished, leader_epoch=self._leader_epoch):
            finished()


__all__ = ["Done", "RecordPair", "RecordWriter", "record_size_bytes"]
