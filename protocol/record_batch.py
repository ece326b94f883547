"""The record batch ("magic 2"): its header, its checks, and the few fields that a broker writes over.

Owns the 61 header bytes. Looks at the records only as a run of bytes under a checksum: `records` decodes them and
`compression` unpacks them. This is the hottest code of the broker, so every function here reads its fields with one
`struct` call and runs the checksum over a view, never over a copy.

Invariants:
    - The CRC-32C covers everything from the attributes to the end of the batch, so `base_offset`, `batch_length`,
      `partition_leader_epoch` and `magic` may change without it; `stamp` relies on this.
    - A batch that passed `check_produced_batch` tiles its field exactly, and its offsets are dense:
      `record_count == last_offset_delta + 1`. Batches on disk may have gaps (compaction), so `read_batch_header` asks less.

Source: KIP-98 (format), KIP-32 (timestamp types), KIP-534 (delete horizon); Kafka's `DefaultRecordBatch`, and for the
checks and their error codes `ProduceRequest.validateRecords` and `LogValidator`.
"""

import enum
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NoReturn

from penstock.protocol.checksum import crc32c
from penstock.protocol.compression import Codec
from penstock.protocol.errors import DecodeError, ErrorCode, InvalidBatch

Buffer = bytes | bytearray | memoryview

HEADER_SIZE_BYTES = 61
LENGTH_PREFIX_SIZE_BYTES = 12
"""Base offset and batch length: what `batch_length` does not count."""
MAGIC = 2
MAX_SEQUENCE = 2**31 - 1
NO_PRODUCER_ID = -1
NO_SEQUENCE = -1
NO_TIMESTAMP = -1

CODEC_MASK = 0x07
LOG_APPEND_TIME_FLAG = 0x08
TRANSACTIONAL_FLAG = 0x10
CONTROL_FLAG = 0x20
DELETE_HORIZON_FLAG = 0x40

HEADER = struct.Struct(">qiibIhiqqqhii")
MAGIC_POSITION = 16
CRC_POSITION = 17
ATTRIBUTES_POSITION = 21
MAX_TIMESTAMP_POSITION = 35

_MIN_BATCH_LENGTH = HEADER_SIZE_BYTES - LENGTH_PREFIX_SIZE_BYTES
_REFUSED_FLAGS = LOG_APPEND_TIME_FLAG | CONTROL_FLAG | DELETE_HORIZON_FLAG
_CODECS = tuple(Codec)
_MAX_CODEC = int(max(Codec))

_unpack_header = HEADER.unpack_from
_unpack_prefix = struct.Struct(">qi").unpack_from
_unpack_crc = struct.Struct(">I").unpack_from
_pack_crc = struct.Struct(">I").pack_into
_pack_base_offset = struct.Struct(">q").pack_into
_pack_leader_epoch = struct.Struct(">i").pack_into
_unpack_attributes = struct.Struct(">h").unpack_from
_pack_attributes = struct.Struct(">h").pack_into
_pack_timestamp = struct.Struct(">q").pack_into


class TimestampType(enum.IntEnum):
    """Whose clock a batch's timestamps come from."""

    CREATE_TIME = 0
    LOG_APPEND_TIME = 1


@dataclass(slots=True)
class BatchHeader:
    """The header of one record batch, field by field as on the wire."""

    base_offset: int
    batch_length: int
    partition_leader_epoch: int
    magic: int
    crc: int
    attributes: int
    last_offset_delta: int
    base_timestamp: int
    max_timestamp: int
    producer_id: int
    producer_epoch: int
    base_sequence: int
    record_count: int

    @property
    def size_bytes(self) -> int:
        """The whole batch, header included."""
        return self.batch_length + LENGTH_PREFIX_SIZE_BYTES

    @property
    def last_offset(self) -> int:
        """The offset of the last record (inclusive); compaction keeps it even where that record is gone."""
        return self.base_offset + self.last_offset_delta

    @property
    def next_offset(self) -> int:
        """The offset after the last one: where the next batch may begin."""
        return self.base_offset + self.last_offset_delta + 1

    @property
    def codec(self) -> Codec:
        """How the records are compressed; DecodeError for a number that no codec has."""
        number = self.attributes & CODEC_MASK
        if number > _MAX_CODEC:
            raise DecodeError(f"record batch names the unknown compression codec {number}")
        return _CODECS[number]

    @property
    def is_transactional(self) -> bool:
        """Part of a transaction."""
        return self.attributes & TRANSACTIONAL_FLAG != 0

    @property
    def is_control(self) -> bool:
        """Holds a control record (a transaction's commit or abort marker), which consumers never see."""
        return self.attributes & CONTROL_FLAG != 0

    @property
    def timestamp_type(self) -> TimestampType:
        """With LOG_APPEND_TIME every record's timestamp is `max_timestamp`."""
        if self.attributes & LOG_APPEND_TIME_FLAG:
            return TimestampType.LOG_APPEND_TIME
        return TimestampType.CREATE_TIME

    @property
    def delete_horizon_ms(self) -> int | None:
        """When compaction may drop this batch's tombstones; `base_timestamp` holds it once the bit is set."""
        return self.base_timestamp if self.attributes & DELETE_HORIZON_FLAG else None

    @property
    def has_producer_id(self) -> bool:
        """Written by an idempotent or transactional producer, so that the sequence fields mean something."""
        return self.producer_id > NO_PRODUCER_ID

    @property
    def last_sequence(self) -> int:
        """The sequence of the last record (inclusive), which wraps from 2^31-1 to 0; -1 without sequences."""
        if self.base_sequence == NO_SEQUENCE:
            return NO_SEQUENCE
        return (self.base_sequence + self.last_offset_delta) & MAX_SEQUENCE


def read_batch_header(buffer: Buffer, position: int = 0) -> BatchHeader:
    """Read the header at `position`. Neither the checksum nor the presence of the records is checked.

    Raises DecodeError where fewer than 61 bytes are left, the magic is not 2, or the length is below a header's.
    """
    try:
        header = BatchHeader(*_unpack_header(buffer, position))
    except struct.error:
        raise DecodeError(
            f"record batch header needs {HEADER_SIZE_BYTES} bytes at position {position}"
        ) from None
    if header.magic != MAGIC or header.batch_length < _MIN_BATCH_LENGTH:
        _raise_unreadable(position, header.batch_length, header.magic)
    return header


def check_produced_batch(records: memoryview) -> BatchHeader:
    """Check what a producer sent for one partition (Produce v3 and up), without looking inside the records.

    Exactly one whole batch of magic 2 with the right checksum, a known codec, dense offsets from 0, no control batch,
    and producer fields that fit together. Left to the caller: `max.message.bytes`, timestamp bounds, zstd before
    Produce v7, and the producer's sequence.

    Raises InvalidBatch with the error code that Kafka answers.
    """
    size_bytes = len(records)
    if size_bytes < HEADER_SIZE_BYTES:
        _refuse_short(size_bytes)
    header = BatchHeader(*_unpack_header(records))
    if header.batch_length != size_bytes - LENGTH_PREFIX_SIZE_BYTES or header.magic != MAGIC:
        _refuse_shape(header, size_bytes)
    if crc32c(records[ATTRIBUTES_POSITION:]) != header.crc:
        raise InvalidBatch(ErrorCode.CORRUPT_MESSAGE, "record batch fails its CRC-32C check")
    attributes = header.attributes
    count = header.record_count
    if (
        count <= 0
        or count != header.last_offset_delta + 1
        or header.base_offset != 0
        or attributes & _REFUSED_FLAGS
        or attributes & CODEC_MASK > _MAX_CODEC
        or (
            (header.producer_epoch < 0 or header.base_sequence < 0)
            if header.producer_id >= 0
            else (header.producer_id != NO_PRODUCER_ID or attributes & TRANSACTIONAL_FLAG)
        )
    ):
        _refuse_fields(header)
    return header


def stamp(batch: memoryview, base_offset: int, leader_epoch: int) -> None:
    """Write the offset and the epoch that the leader assigned, in place; the checksum does not cover them."""
    _pack_base_offset(batch, 0, base_offset)
    _pack_leader_epoch(batch, LENGTH_PREFIX_SIZE_BYTES, leader_epoch)


def iterate_batches(buffer: Buffer) -> Iterator[tuple[BatchHeader, memoryview]]:
    """Yield each whole batch with its header; a torn last batch ends the iteration. Checksums are not verified.

    Raises DecodeError, with the position, at a header that cannot be one.
    """
    view = memoryview(buffer)
    size_bytes = len(view)
    position = 0
    while size_bytes - position > MAGIC_POSITION:
        _, batch_length = _unpack_prefix(view, position)
        magic = view[position + MAGIC_POSITION]
        if magic != MAGIC or batch_length < _MIN_BATCH_LENGTH:
            _raise_unreadable(position, batch_length, magic)
        end = position + LENGTH_PREFIX_SIZE_BYTES + batch_length
        if end > size_bytes:
            return
        yield BatchHeader(*_unpack_header(view, position)), view[position:end]
        position = end


def verify_crc(batch: memoryview) -> bool:
    """Whether the checksum of exactly one whole batch is right. The crc32c package lets go of the GIL from 32 KiB on."""
    if len(batch) < HEADER_SIZE_BYTES:
        return False
    crc: int = _unpack_crc(batch, CRC_POSITION)[0]
    return crc32c(batch[ATTRIBUTES_POSITION:]) == crc


def set_log_append_time(batch: memoryview, timestamp_ms: int) -> None:
    """Give every record of a checked batch the broker's time, in place: attribute bit, max timestamp, new checksum."""
    (attributes,) = _unpack_attributes(batch, ATTRIBUTES_POSITION)
    _pack_attributes(batch, ATTRIBUTES_POSITION, attributes | LOG_APPEND_TIME_FLAG)
    _pack_timestamp(batch, MAX_TIMESTAMP_POSITION, timestamp_ms)
    _pack_crc(batch, CRC_POSITION, crc32c(batch[ATTRIBUTES_POSITION:]))


def _raise_unreadable(position: int, batch_length: int, magic: int) -> NoReturn:
    if magic != MAGIC:
        raise DecodeError(f"record batch at position {position} has magic {magic}, not {MAGIC}")
    raise DecodeError(f"record batch at position {position} claims a length of {batch_length} bytes")


def _refuse_short(size_bytes: int) -> NoReturn:
    if size_bytes == 0:
        raise InvalidBatch(
            ErrorCode.INVALID_RECORD, "a partition of a produce request needs exactly one record batch"
        )
    raise InvalidBatch(
        ErrorCode.CORRUPT_MESSAGE, f"{size_bytes} bytes of records are less than a record batch header"
    )


def _refuse_shape(header: BatchHeader, size_bytes: int) -> NoReturn:
    if header.magic in (0, 1):
        raise InvalidBatch(
            ErrorCode.INVALID_RECORD,
            f"only record batches of magic {MAGIC} are served, not magic {header.magic}",
        )
    if header.magic != MAGIC:
        raise InvalidBatch(ErrorCode.CORRUPT_MESSAGE, f"record batch has the unknown magic {header.magic}")
    if header.batch_length < _MIN_BATCH_LENGTH:
        raise InvalidBatch(
            ErrorCode.CORRUPT_MESSAGE, f"record batch claims a length of {header.batch_length} bytes"
        )
    raise InvalidBatch(
        ErrorCode.INVALID_RECORD,
        f"a partition needs exactly one whole record batch: {size_bytes} bytes came, the batch claims "
        f"{header.size_bytes}",
    )


def _refuse_fields(header: BatchHeader) -> NoReturn:
    code = ErrorCode.INVALID_RECORD
    if header.attributes & CODEC_MASK > _MAX_CODEC:
        code = ErrorCode.UNSUPPORTED_COMPRESSION_TYPE
        reason = f"unknown compression codec {header.attributes & CODEC_MASK}"
    elif header.record_count <= 0 or header.record_count != header.last_offset_delta + 1:
        reason = f"{header.record_count} records, but a last offset delta of {header.last_offset_delta}"
    elif header.base_offset != 0:
        reason = f"base offset {header.base_offset}; a producer sends 0"
    elif header.is_control:
        reason = "clients may not write control records"
    elif header.attributes & LOG_APPEND_TIME_FLAG:
        code = ErrorCode.INVALID_TIMESTAMP
        reason = "a producer may not set the timestamp type to LogAppendTime"
    elif header.attributes & DELETE_HORIZON_FLAG:
        reason = "a producer may not set the delete horizon"
    else:
        reason = (
            f"producer id {header.producer_id}, epoch {header.producer_epoch}, sequence {header.base_sequence}"
            f"{', transactional' if header.is_transactional else ''} do not fit together"
        )
    raise InvalidBatch(code, f"record batch refused: {reason}")
