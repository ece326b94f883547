"""Record batches by hand (magic 2, no compression), right ones and wrong ones, without `penstock.protocol`."""

import struct
import time
from collections.abc import Sequence

import crc32c

HEADER = struct.Struct(">qiibIhiqqqhii")
HEADER_SIZE_BYTES = 61
CRC_POSITION = 17
CRC_START = 21
MAGIC_POSITION = 16
ATTRIBUTES_POSITION = 21
LAST_OFFSET_DELTA_POSITION = 23
COUNT_POSITION = 57
CONTROL = 0x20
TRANSACTIONAL = 0x10


def varint(value: int) -> bytes:
    """A zigzag varint."""
    rest = (value << 1) ^ (value >> 63)
    out = bytearray()
    while rest > 0x7F:
        out.append(rest & 0x7F | 0x80)
        rest >>= 7
    out.append(rest)
    return bytes(out)


def _record(offset_delta: int, timestamp_delta: int, key: bytes | None, value: bytes) -> bytes:
    body = b"\0" + varint(timestamp_delta) + varint(offset_delta)
    body += varint(-1) if key is None else varint(len(key)) + key
    body += varint(len(value)) + value + varint(0)
    return varint(len(body)) + body


def encode_batch(
    values: Sequence[bytes],
    *,
    key: bytes | None = None,
    timestamps_ms: Sequence[int] | None = None,
    base_offset: int = 0,
    leader_epoch: int = -1,
    attributes: int = 0,
    producer_id: int = -1,
    producer_epoch: int = -1,
    base_sequence: int = -1,
) -> bytes:
    """One batch with a right CRC; timestamps default to now."""
    times = list(timestamps_ms) if timestamps_ms is not None else [int(time.time() * 1000)] * len(values)
    records = b"".join(
        _record(delta, times[delta] - times[0], key, value) for delta, value in enumerate(values)
    )
    batch = bytearray(HEADER_SIZE_BYTES) + records
    HEADER.pack_into(
        batch,
        0,
        base_offset,
        len(batch) - 12,
        leader_epoch,
        2,
        0,
        attributes,
        len(values) - 1,
        times[0],
        max(times),
        producer_id,
        producer_epoch,
        base_sequence,
        len(values),
    )
    return bytes(with_right_crc(batch))


def with_right_crc(batch: bytearray) -> bytearray:
    """Put the CRC that the bytes have now."""
    struct.pack_into(">I", batch, CRC_POSITION, crc32c.crc32c(bytes(batch[CRC_START:])))
    return batch


def patched(batch: bytes, form: str, position: int, value: int) -> bytes:
    """A copy with one number changed, and the CRC made right again."""
    changed = bytearray(batch)
    struct.pack_into(form, changed, position, value)
    return bytes(with_right_crc(changed))


def split_batches(data: bytes) -> list[bytes]:
    """The whole batches of a fetched field; a torn last one is left out."""
    found: list[bytes] = []
    position = 0
    while position + 12 <= len(data):
        size = 12 + int(struct.unpack_from(">i", data, position + 8)[0])
        if position + size > len(data):
            break
        found.append(data[position : position + size])
        position += size
    return found


def base_offset_of(batch: bytes) -> int:
    """The offset of the first record."""
    return int(struct.unpack_from(">q", batch)[0])


def end_offset_of(data: bytes) -> int:
    """The offset behind the last whole batch of a fetched field, whose last records compaction may have taken."""
    last = split_batches(data)[-1]
    return base_offset_of(last) + int(struct.unpack_from(">i", last, LAST_OFFSET_DELTA_POSITION)[0]) + 1


def leader_epoch_of(batch: bytes) -> int:
    """The epoch that the broker stamped."""
    return int(struct.unpack_from(">i", batch, 12)[0])


def codec_number_of(batch: bytes) -> int:
    """0 none, 1 gzip, 2 snappy, 3 lz4, 4 zstd."""
    return batch[ATTRIBUTES_POSITION + 1] & 7


def crc_is_right(batch: bytes) -> bool:
    """Whether the CRC covers the bytes as they are."""
    return bool(struct.unpack_from(">I", batch, CRC_POSITION)[0] == crc32c.crc32c(batch[CRC_START:]))


def _read_varint(data: bytes, position: int) -> tuple[int, int]:
    shift = rest = 0
    while True:
        byte = data[position]
        position += 1
        rest |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            return (rest >> 1) ^ -(rest & 1), position


def values_of(data: bytes) -> list[tuple[int, bytes]]:
    """(offset, value) of every record in the whole, uncompressed batches of a fetched field; CRCs are checked."""
    found: list[tuple[int, bytes]] = []
    for batch in split_batches(data):
        assert crc_is_right(batch), "a fetched batch has a wrong CRC"
        (count,) = struct.unpack_from(">i", batch, COUNT_POSITION)
        position = HEADER_SIZE_BYTES
        for _ in range(count):
            length, position = _read_varint(batch, position)
            end = position + length
            _, inner = _read_varint(batch, position + 1)
            delta, inner = _read_varint(batch, inner)
            key_size, inner = _read_varint(batch, inner)
            value_size, inner = _read_varint(batch, inner + max(key_size, 0))
            found.append((base_offset_of(batch) + delta, batch[inner : inner + value_size]))
            position = end
    return found
