"""Reading logs behind everybody's back: for checkers, past the faults of the disk."""

import struct
import zlib
from collections.abc import Iterator

from tests.simulation.checkers.logs import BatchSeen, LogSeen
from tests.support.simulated_disk import SimulatedDisk

from penstock.protocol.compression import Codec
from penstock.storage.log import Log

_HEADER = struct.Struct(">qiibIhiqqqhii")
CONTROL_FLAG = 0x20


def batches_in(data: bytes | memoryview) -> Iterator[tuple[BatchSeen, bytes]]:
    """Whole batches and their bytes."""
    view = memoryview(data)
    position = 0
    while position + _HEADER.size <= len(view):
        base_offset, length, epoch, *_ = header = _HEADER.unpack_from(view, position)
        end = position + 12 + length
        if length <= 0 or end > len(view):
            return
        raw = bytes(view[position:end])
        yield BatchSeen(base_offset, base_offset + header[6] + 1, epoch, zlib.crc32(raw)), raw
        position = end


def whole_log(disk: SimulatedDisk, log: Log) -> tuple[LogSeen, list[bytes]]:
    """All of a log as it is written on the disk, and the bytes of its batches."""
    seen: list[BatchSeen] = []
    raws: list[bytes] = []
    for segment in log.segments:
        for batch, raw in batches_in(disk.content(segment.path)[: segment.size_bytes]):
            if batch.end_offset > log.log_start_offset:
                seen.append(batch)
                raws.append(raw)
    return LogSeen(log.log_start_offset, log.log_end_offset, seen), raws


def producer_of(raw: bytes) -> tuple[int, int, int, int, int]:
    """(base offset, producer id, producer epoch, first sequence, record count) of a batch."""
    header = _HEADER.unpack_from(raw)
    return header[0], header[9], header[10], header[11], header[12]


def records_of(raw: bytes) -> list[tuple[int, bytes | None, bytes | None]]:
    """(offset, key, value) of the records of a batch that is not compressed; none of a control batch."""
    header = _HEADER.unpack_from(raw)
    if header[5] & CONTROL_FLAG:
        return []
    assert header[5] & 7 == Codec.NONE.value, "the simulation reads no compressed batches"
    found: list[tuple[int, bytes | None, bytes | None]] = []
    position = _HEADER.size
    while position < len(raw):
        length, position = _varint(raw, position)
        end = position + length
        _, at = _varint(raw, position + 1)
        delta, at = _varint(raw, at)
        key, at = _bytes(raw, at)
        value, _ = _bytes(raw, at)
        found.append((header[0] + delta, key, value))
        position = end
    return found


def _bytes(raw: bytes, position: int) -> tuple[bytes | None, int]:
    size, position = _varint(raw, position)
    return (None, position) if size < 0 else (raw[position : position + size], position + size)


def _varint(raw: bytes, position: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = raw[position]
        position += 1
        value |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            return (value >> 1) ^ -(value & 1), position


__all__ = ["batches_in", "producer_of", "records_of", "whole_log"]
