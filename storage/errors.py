"""What can go wrong with the log of a partition.

`StorageError` and its kin (`DiskFull`, `DiskError`) come from the file-system port; here stands what the log itself finds.
"""

from collections.abc import Generator
from contextlib import contextmanager

from penstock.errors import PenstockError
from penstock.protocol.errors import ErrorCode
from penstock.runtime.files import DiskError, StorageError


class CorruptBatch(StorageError):
    """A record batch on disk is not what was written, at a place where nothing may be cut."""

    def __init__(self, path: str, position: int, reason: str) -> None:
        super().__init__(f"corrupt record batch at position {position}: {reason}", path=path)
        self.position = position
        self.reason = reason


class UnreadableRecords(StorageError):
    """A record batch has the right checksum and holds what is no record: so it was written, and the disk is whole."""

    def __init__(self, path: str, position: int, reason: str) -> None:
        super().__init__(
            f"the records of the batch at position {position} can't be read: {reason}", path=path
        )


class CorruptFile(StorageError):
    """A checkpoint, snapshot or metadata file does not parse, or its checksum is wrong."""

    def __init__(self, reason: str, *, path: str = "") -> None:
        super().__init__(reason, path=path)
        self.reason = reason


class LogFailed(StorageError):
    """The log is offline since an earlier failure, which is the `__cause__`; only opening it anew brings it back."""


class LogClosed(StorageError):
    """The log was closed or is marked for deletion."""


class LogChanged(StorageError):
    """The segments that a compaction was made of are no longer the log's: it was truncated, deleted from, or closed meanwhile."""


class SegmentFull(StorageError):
    """The batch's offsets do not fit the active segment: roll first."""


class TopicIdMismatch(StorageError):
    """The directory holds a partition of another topic of the same name."""


class DataDirectoryInUse(StorageError):
    """Another process holds the lock of the data directory."""


class UnsupportedFormat(StorageError):
    """The data directory was written by a newer Penstock, or for another node or cluster."""


class OffsetOutOfRange(PenstockError):
    """The offset is below the log start offset or above the log end offset."""

    def __init__(self, offset: int, log_start_offset: int, log_end_offset: int) -> None:
        super().__init__(f"offset {offset} is not within [{log_start_offset}, {log_end_offset}]")
        self.offset = offset
        self.log_start_offset = log_start_offset
        self.log_end_offset = log_end_offset


@contextmanager
def missing_is_disk_error() -> Generator[None, None, None]:
    """Where a file or directory can't be missing unless somebody removed it, that is an error of the disk like any other."""
    try:
        yield
    except FileNotFoundError as error:
        raise DiskError(f"missing: {error}") from error


class NotResident(PenstockError):
    """Only a read from the disk can tell: ask again on a worker with `resident_only=False`."""


class NotRecalled(PenstockError):
    """Only the log on disk tells whether the batch repeats an earlier one: `recall_producer` on a worker must come first."""


class StaleLeaderEpoch(PenstockError):
    """An append for a leader epoch below the log's latest: epochs never fall along a log."""


class ProducerStateError(PenstockError):
    """A batch of an idempotent producer that must not be appended; `code` is the answer."""

    code: ErrorCode = ErrorCode.UNKNOWN_SERVER_ERROR


class OutOfOrderSequence(ProducerStateError):
    """A gap in the producer's sequence, or a repetition too old to be recognised."""

    code = ErrorCode.OUT_OF_ORDER_SEQUENCE_NUMBER


class InvalidProducerEpoch(ProducerStateError):
    """The producer has been replaced by one with a higher epoch."""

    code = ErrorCode.INVALID_PRODUCER_EPOCH


__all__ = [
    "CorruptBatch",
    "CorruptFile",
    "DataDirectoryInUse",
    "InvalidProducerEpoch",
    "LogChanged",
    "LogClosed",
    "LogFailed",
    "NotRecalled",
    "NotResident",
    "OffsetOutOfRange",
    "OutOfOrderSequence",
    "ProducerStateError",
    "SegmentFull",
    "StaleLeaderEpoch",
    "StorageError",
    "TopicIdMismatch",
    "UnreadableRecords",
    "UnsupportedFormat",
    "missing_is_disk_error",
]
