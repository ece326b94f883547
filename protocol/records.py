"""The records inside a batch: values in, bytes out, and back.

Owns the layout of a single record and the writing of whole batches. Does not know topics, logs or connections, and
checks no checksum: `record_batch` does.

Invariants:
    - Decoding never believes a count or a length: records and headers must tile the decompressed bytes exactly, and
      what is decompressed is bounded by the caller.
    - Offsets in a batch rise strictly and end at or before its last offset; timestamps fit 64 bits.
    - `recompress` leaves the records and all header fields but length, codec and checksum as they were.

Source: KIP-98 (layout), KIP-82 (headers); Kafka's `DefaultRecord` and `MemoryRecordsBuilder`.
"""

import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NoReturn

from penstock.protocol.checksum import crc32c
from penstock.protocol.compression import Codec, DecompressionTooLarge, compress, decompress
from penstock.protocol.errors import DecodeError, ErrorCode, InvalidBatch
from penstock.protocol.record_batch import (
    ATTRIBUTES_POSITION,
    CODEC_MASK,
    CONTROL_FLAG,
    CRC_POSITION,
    DELETE_HORIZON_FLAG,
    HEADER,
    HEADER_SIZE_BYTES,
    LENGTH_PREFIX_SIZE_BYTES,
    LOG_APPEND_TIME_FLAG,
    MAGIC,
    NO_PRODUCER_ID,
    NO_SEQUENCE,
    NO_TIMESTAMP,
    TRANSACTIONAL_FLAG,
    BatchHeader,
    read_batch_header,
)

DEFAULT_OUTPUT_MAX_BYTES = 100 * 1024 * 1024
"""What a batch may decompress to where the caller has no bound of its own; socket.request.max.bytes has the same."""

NO_PRODUCER_EPOCH = -1
NO_LEADER_EPOCH = -1

Headers = tuple[tuple[str, bytes | None], ...]
Entry = tuple[int, int, bytes | None, bool, int, int, int]
"""A record as compaction sees it: offset, timestamp, key, whether it has a value, and where in the unpacked batch it starts, where the bytes
behind its timestamp begin, and where it ends."""

_RECORD_MIN_BYTES = 7  # length, attributes, timestamp, offset, key length, value length, header count
_HEADER_MIN_BYTES = 2  # key length, value length
_INT32_BITS, _INT64_BITS = 32, 64
_INT32_MAX = 2**31 - 1
_INT64_MIN, _INT64_MAX = -(2**63), 2**63 - 1

# Header keys are UTF-8, but no broker ever checked: an alien one must still come out as it went in.
_KEY_ERRORS = "surrogateescape"

_ONE_BYTE = tuple(bytes((value,)) for value in range(128))
_pack_crc = struct.Struct(">I").pack_into


@dataclass(slots=True)
class Record:
    """One record. `timestamp` is in ms since 1970; -1 stands for none. `headers` may repeat a key."""

    offset: int
    timestamp: int
    key: bytes | None
    value: bytes | None
    headers: Headers = ()


def decode_records(batch: memoryview, *, output_max_bytes: int) -> list[Record]:
    """Read all records of exactly one whole batch. Its checksum is not verified.

    See `iterate_records` for the rest; a list of many small records takes some twenty times their bytes.
    """
    return list(iterate_records(batch, output_max_bytes=output_max_bytes))


def iterate_records(batch: memoryview, *, output_max_bytes: int) -> Iterator[Record]:
    """Read the records of exactly one whole batch, one by one. Its checksum is not verified.

    Control records come out like all others. With LogAppendTime every record has the batch's time.

    Raises DecompressionTooLarge before the first record where they would take more than `output_max_bytes`, and
    DecodeError where the bytes are not `record_count` records, possibly after some of them were yielded.
    """
    return _iterate_records(*unpack_batch(batch, output_max_bytes))


def iterate_timestamps(batch: memoryview, *, output_max_bytes: int) -> Iterator[tuple[int, int]]:
    """Read (offset, timestamp) of each record of exactly one whole batch; keys, values and headers are skipped.

    Errors are those of `iterate_records`. Takes no memory but that of the decompressed bytes.
    """
    return _iterate_timestamps(*unpack_batch(batch, output_max_bytes))


def unpack_batch(batch: memoryview, output_max_bytes: int) -> tuple[bytes, BatchHeader]:
    """The decompressed records of exactly one whole batch, and its header, whose counts they can hold. Errors as `iterate_records`."""
    header, data = _decompress_batch(batch, output_max_bytes)
    if not 0 <= header.record_count <= len(data) // _RECORD_MIN_BYTES:
        raise DecodeError(f"{header.record_count} records claimed in {len(data)} bytes")
    if not 0 <= header.base_offset <= _INT64_MAX - _INT32_MAX - 1 or header.last_offset_delta < 0:
        raise DecodeError(f"offsets from {header.base_offset} to {header.last_offset}")
    return data, header


def _decompress_batch(batch: memoryview, output_max_bytes: int) -> tuple[BatchHeader, bytes]:
    header = read_batch_header(batch)
    if header.size_bytes != len(batch):
        raise DecodeError(f"a record batch of {header.size_bytes} bytes in {len(batch)}")
    return header, decompress(header.codec, batch[HEADER_SIZE_BYTES:], output_max_bytes=output_max_bytes)


def _iterate_records(data: bytes, header: BatchHeader) -> Iterator[Record]:
    # One- and two-byte varints, which nearly all are, are read in line: a call for each takes twice the time. The low
    # bit is a zigzag varint's sign, and the only negative length is that of null.
    base_offset, last_delta = header.base_offset, header.last_offset_delta
    base_timestamp = header.base_timestamp
    append_time = header.max_timestamp if header.attributes & LOG_APPEND_TIME_FLAG else None
    position = 0
    previous_delta = -1
    headers: Headers
    try:
        for _ in range(header.record_count):
            length, position = data[position], position + 1
            if length > 127:
                if (byte := data[position]) < 128:
                    length, position = length + ((byte - 1) << 7), position + 1
                else:
                    length, position = _read_long_varint(data, position - 1, _INT32_BITS)
            end = position + (length >> 1)
            position += 1  # past the record's attributes, none of which is in use
            number, position = data[position], position + 1
            if number > 127:
                if (byte := data[position]) < 128:
                    number, position = number + ((byte - 1) << 7), position + 1
                else:
                    number, position = _read_long_varint(data, position - 1, _INT64_BITS)
            timestamp = base_timestamp + (number >> 1 ^ -(number & 1))
            number, position = data[position], position + 1
            if number > 127:
                if (byte := data[position]) < 128:
                    number, position = number + ((byte - 1) << 7), position + 1
                else:
                    number, position = _read_long_varint(data, position - 1, _INT32_BITS)
            delta = number >> 1 ^ -(number & 1)
            key = value = None
            number, position = data[position], position + 1
            if number > 127:
                number, position = _read_long_varint(data, position - 1, _INT32_BITS)
            if not number & 1:
                start = position
                position += number >> 1
                key = data[start:position]
            number, position = data[position], position + 1
            if number > 127:
                if (byte := data[position]) < 128:
                    number, position = number + ((byte - 1) << 7), position + 1
                else:
                    number, position = _read_long_varint(data, position - 1, _INT32_BITS)
            if not number & 1:
                start = position
                position += number >> 1
                value = data[start:position]
            headers = ()
            position += 1
            if data[position - 1]:
                headers, position = _read_headers(data, position - 1)
            if (
                position != end
                or length & 1  # negative
                or not previous_delta < delta <= last_delta
                or not _INT64_MIN <= timestamp <= _INT64_MAX
            ):
                _raise_bad_record(position, end, base_offset + delta, timestamp)
            previous_delta = delta
            yield Record(
                base_offset + delta, timestamp if append_time is None else append_time, key, value, headers
            )
    except IndexError:
        raise DecodeError("the records end inside a record") from None
    if position != len(data):
        raise DecodeError(f"{len(data) - position} bytes behind the last record")


def _iterate_timestamps(data: bytes, header: BatchHeader) -> Iterator[tuple[int, int]]:
    base_offset, last_delta, base_timestamp = (
        header.base_offset,
        header.last_offset_delta,
        header.base_timestamp,
    )
    append_time = header.max_timestamp if header.attributes & LOG_APPEND_TIME_FLAG else None
    position = 0
    previous_delta = -1
    try:
        for _ in range(header.record_count):
            length, position = _read_varint(data, position)
            end = position + length
            number, position = _read_long_varint(data, position + 1, _INT64_BITS)
            timestamp = base_timestamp + (number >> 1 ^ -(number & 1))
            delta, position = _read_varint(data, position)
            if (
                not position < end <= len(data)
                or not previous_delta < delta <= last_delta
                or not _INT64_MIN <= timestamp <= _INT64_MAX
            ):
                _raise_bad_record(position, end, base_offset + delta, timestamp)
            previous_delta = delta
            position = end
            yield base_offset + delta, timestamp if append_time is None else append_time
    except IndexError:
        raise DecodeError("the records end inside a record") from None
    if position != len(data):
        raise DecodeError(f"{len(data) - position} bytes behind the last record")


def iterate_entries(data: bytes, header: BatchHeader) -> Iterator[Entry]:
    """Read what compaction asks of each record of an unpacked batch; values and headers are skipped, and their bytes stay where they are.

    Raises DecodeError like `iterate_records`. Takes no memory but that of one key.
    """
    base_offset, base_timestamp = header.base_offset, header.base_timestamp
    append_time = header.max_timestamp if header.attributes & LOG_APPEND_TIME_FLAG else None
    position = 0
    previous_delta = -1
    size = len(data)
    try:
        for _ in range(header.record_count):
            start = position
            length, position = _read_varint(data, position)
            end = position + length
            number, rest = _read_long_varint(data, position + 1, _INT64_BITS)
            timestamp = base_timestamp + (number >> 1 ^ -(number & 1))
            delta, position = _read_varint(data, rest)
            key_size, position = _read_varint(data, position)
            key = None
            if key_size >= 0:
                key = data[position : position + key_size]
                position += key_size
            value_size, position = _read_varint(data, position)
            if (
                not position + max(value_size, 0) < end <= size
                or not previous_delta < delta <= header.last_offset_delta
                or not _INT64_MIN <= timestamp <= _INT64_MAX
            ):
                _raise_bad_record(position, end, base_offset + delta, timestamp)
            previous_delta = delta
            position = end
            yield (
                base_offset + delta,
                timestamp if append_time is None else append_time,
                key,
                value_size >= 0,
                start,
                rest,
                end,
            )
    except IndexError:
        raise DecodeError("the records end inside a record") from None
    if position != size:
        raise DecodeError(f"{size - position} bytes behind the last record")


def _read_headers(data: bytes, position: int) -> tuple[Headers, int]:
    """The headers at `position`, their count first, and the position behind them. IndexError where `data` ends."""
    count, position = _read_varint(data, position)
    if not 0 <= count <= (len(data) - position) // _HEADER_MIN_BYTES:
        raise DecodeError(f"a record claims {count} headers in {len(data) - position} bytes")
    headers: list[tuple[str, bytes | None]] = []
    for _ in range(count):
        size, start = _read_varint(data, position)
        if size < 0:
            raise DecodeError("a record header without a key")
        position = start + size
        key = data[start:position].decode("utf-8", _KEY_ERRORS)
        size, start = _read_varint(data, position)
        position = start + max(size, 0)
        headers.append((key, data[start:position] if size >= 0 else None))
    return tuple(headers), position


def _read_varint(data: bytes, position: int) -> tuple[int, int]:
    number, position = _read_long_varint(data, position, _INT32_BITS)
    return number >> 1 ^ -(number & 1), position


def _read_long_varint(data: bytes, position: int, bits: int) -> tuple[int, int]:
    """A varint of any length at `position`, its sign still in the low bit, and the position behind it."""
    number = shift = 0
    while True:
        byte = data[position]
        position += 1
        number |= (byte & 127) << shift
        if byte < 128:
            break
        shift += 7
        if shift > bits:
            break
    if number >> bits:
        raise DecodeError(f"a varint of more than {bits} bits")
    return number, position


def _raise_bad_record(position: int, end: int, offset: int, timestamp: int) -> NoReturn:
    raise DecodeError(
        f"a record that by its length ends at byte {end} was read to {position}, with offset {offset} and timestamp "
        f"{timestamp}: it is broken or does not fit its batch"
    )


def encode_batch(
    records: Sequence[Record],
    *,
    codec: Codec,
    level: int | None = None,
    base_offset: int = 0,
    keep_offsets: bool = False,
    last_offset_delta: int | None = None,
    partition_leader_epoch: int = NO_LEADER_EPOCH,
    producer_id: int = NO_PRODUCER_ID,
    producer_epoch: int = NO_PRODUCER_EPOCH,
    base_sequence: int = NO_SEQUENCE,
    is_transactional: bool = False,
    is_control: bool = False,
    log_append_time_ms: int | None = None,
    delete_horizon_ms: int | None = None,
) -> bytes:
    """Write one batch.

    Offsets count up from `base_offset`, whatever the records say; with `keep_offsets` (compaction) they are the
    records' own, and `last_offset_delta` holds the place of a last record that is gone, or of all of them.
    `log_append_time_ms` makes the batch LogAppendTime; `delete_horizon_ms` sets that bit and takes the base timestamp's
    place. The rest is as in `BatchHeader`.

    Raises ValueError for what the format can't hold: no records and no `last_offset_delta`, offsets that do not rise,
    numbers or sizes past their bits, a level that the codec does not have.
    """
    deltas = [record.offset - base_offset for record in records] if keep_offsets else range(len(records))
    last_delta = last_offset_delta if last_offset_delta is not None else (deltas[-1] if records else -1)
    if last_delta < 0 or (records and last_delta < deltas[-1]):
        raise ValueError(f"a last offset delta of {last_delta} for {len(records)} records")
    base_timestamp = records[0].timestamp if records else NO_TIMESTAMP
    max_timestamp = max((record.timestamp for record in records), default=NO_TIMESTAMP)
    attributes = int(codec) | is_transactional * TRANSACTIONAL_FLAG | is_control * CONTROL_FLAG
    if log_append_time_ms is not None:
        attributes |= LOG_APPEND_TIME_FLAG
        max_timestamp = log_append_time_ms
    if delete_horizon_ms is not None:
        attributes |= DELETE_HORIZON_FLAG
        base_timestamp = delete_horizon_ms
    header = BatchHeader(
        base_offset=base_offset,
        batch_length=0,  # known when the records are written, and so is the checksum
        partition_leader_epoch=partition_leader_epoch,
        magic=MAGIC,
        crc=0,
        attributes=attributes,
        last_offset_delta=last_delta,
        base_timestamp=base_timestamp,
        max_timestamp=max_timestamp,
        producer_id=producer_id,
        producer_epoch=producer_epoch,
        base_sequence=base_sequence,
        record_count=len(records),
    )
    return bytes(seal_batch(header, compress(codec, _encode_records(records, deltas, base_timestamp), level)))


def recompress(
    batch: memoryview,
    codec: Codec,
    level: int | None = None,
    *,
    output_max_bytes: int = DEFAULT_OUTPUT_MAX_BYTES,
) -> bytearray:
    """The same batch in another codec or level, with a checksum of its own. It is new memory and writable.

    Does not look inside the records. Runs as long as the codec takes: call it on a worker.

    Raises InvalidBatch: MESSAGE_TOO_LARGE (which makes a producer split the batch) where the records would take more
    than `output_max_bytes`, CORRUPT_MESSAGE where they can't be decompressed; ValueError for a level that the codec
    does not have.
    """
    try:
        header, data = _decompress_batch(batch, output_max_bytes)
    except DecompressionTooLarge as error:
        raise InvalidBatch(ErrorCode.MESSAGE_TOO_LARGE, str(error)) from error
    except DecodeError as error:
        raise InvalidBatch(ErrorCode.CORRUPT_MESSAGE, str(error)) from error
    header.attributes = header.attributes & ~CODEC_MASK | codec
    return seal_batch(header, compress(codec, data, level))


def seal_batch(header: BatchHeader, payload: bytes) -> bytearray:
    """Put a header and compressed records together, with the length and the checksum that they have."""
    batch = bytearray(HEADER_SIZE_BYTES + len(payload))
    try:
        HEADER.pack_into(
            batch,
            0,
            header.base_offset,
            len(batch) - LENGTH_PREFIX_SIZE_BYTES,
            header.partition_leader_epoch,
            header.magic,
            0,
            header.attributes,
            header.last_offset_delta,
            header.base_timestamp,
            header.max_timestamp,
            header.producer_id,
            header.producer_epoch,
            header.base_sequence,
            header.record_count,
        )
    except struct.error as error:
        raise ValueError(f"a record batch can't hold this: {error}") from None
    batch[HEADER_SIZE_BYTES:] = payload
    _pack_crc(batch, CRC_POSITION, crc32c(memoryview(batch)[ATTRIBUTES_POSITION:]))
    return batch


def _encode_records(records: Sequence[Record], deltas: Sequence[int], base_timestamp: int) -> bytearray:
    out = bytearray()
    previous_delta = -1
    for record, delta in zip(records, deltas, strict=True):
        if not previous_delta < delta <= _INT32_MAX:
            raise ValueError(f"offset delta {delta} after {previous_delta}")
        previous_delta = delta
        key, value = record.key, record.value
        timestamp_delta = record.timestamp - base_timestamp
        if not (_INT64_MIN <= record.timestamp <= _INT64_MAX and _INT64_MIN <= timestamp_delta <= _INT64_MAX):
            raise ValueError(f"timestamp {record.timestamp} in a batch that begins at {base_timestamp}")
        body = b"".join(
            (
                b"\x00",  # the record's attributes, none of which is in use
                _varint(timestamp_delta),
                _varint(delta),
                b"\x01" if key is None else _varint(len(key)),
                key or b"",
                b"\x01" if value is None else _varint(len(value)),
                value or b"",
                _encode_headers(record.headers) if record.headers else b"\x00",
            )
        )
        out += _varint(len(body))
        out += body
    return out


def _encode_headers(headers: Headers) -> bytes:
    parts = [_varint(len(headers))]
    for key, value in headers:
        encoded_key = key.encode("utf-8", _KEY_ERRORS)
        parts += (
            _varint(len(encoded_key)),
            encoded_key,
            _varint(-1 if value is None else len(value)),
            value or b"",
        )
    return b"".join(parts)


def _varint(value: int) -> bytes:
    """`value`, which has at most 64 bits, as a zigzag varint."""
    number = value << 1 ^ value >> 63
    if number < 128:
        return _ONE_BYTE[number]
    encoded = bytearray()
    while number > 127:
        encoded.append(number & 127 | 128)
        number >>= 7
    encoded.append(number)
    return bytes(encoded)
