"""What stands in a log where a batch was lost: the batch itself if only its header was hurt, else empty batches that keep the place.

Owns the bytes. Touches no file. An empty batch (no records, a last offset delta) is what Kafka's log cleaner leaves where all records of a batch
went but its offsets count, so every client and tool skips it.

The checksum of a batch does not cover base offset, length, leader epoch and magic. Where all else of a batch is whole, these four follow from what
stands around it: the offset that comes next, where the next batch begins, the checkpoint's epoch, and 2. With them set, the checksum says
whether the records are the ones that were written, and the next batch's offset whether the place is right.

Source: Kafka's `DefaultRecordBatch.writeEmptyHeader`.
"""

import itertools
import struct

from penstock.protocol.checksum import crc32c
from penstock.protocol.record_batch import (
    ATTRIBUTES_POSITION,
    CRC_POSITION,
    HEADER,
    HEADER_SIZE_BYTES,
    LENGTH_PREFIX_SIZE_BYTES,
    MAGIC,
    read_batch_header,
    verify_crc,
)
from penstock.storage.epoch_cache import EpochCache
from penstock.storage.layout import RELATIVE_OFFSET_MAX
from penstock.storage.survey import NOTHING_FOLLOWS

_UNPROTECTED = struct.Struct(">qiib")
_CRC = struct.Struct(">I")


def restored(raw: bytes, offset: int, next_offset: int, epoch: int) -> bytes | None:
    """The batch that `raw` was, if nothing but the header fields outside of its checksum was hurt; None if it was more.

    It has `offset` and `epoch`; behind it comes `next_offset` (NOTHING_FOLLOWS: unknown).
    """
    if len(raw) < HEADER_SIZE_BYTES:
        return None
    batch = bytearray(raw)
    _UNPROTECTED.pack_into(batch, 0, offset, len(raw) - LENGTH_PREFIX_SIZE_BYTES, epoch, MAGIC)
    header = read_batch_header(batch)
    if not verify_crc(memoryview(batch)) or header.last_offset_delta < 0:
        return None
    return bytes(batch) if next_offset in (header.next_offset, NOTHING_FOLLOWS) else None


def placeholders(start_offset: int, end_offset: int, epochs: EpochCache | None, epoch: int) -> bytes:
    """Empty batches for the offsets from `start_offset` up to `end_offset` (exclusive): one for each leader epoch in between.

    `epoch` is for where `epochs` is None.
    """
    bounds = {start_offset, end_offset}
    if epochs is not None:
        bounds.update(start for _, start in epochs.entries if start_offset < start < end_offset)
    found = bytearray()
    edges = sorted(bounds)
    for begin, end in itertools.pairwise(edges):
        at = begin
        while at < end:
            count = min(end - at, RELATIVE_OFFSET_MAX)
            found += _empty_batch(at, count, epoch if epochs is None else epochs.epoch_at(at))
            at += count
    return bytes(found)


def _empty_batch(base_offset: int, offset_count: int, epoch: int) -> bytes:
    length = HEADER_SIZE_BYTES - LENGTH_PREFIX_SIZE_BYTES
    # no attributes, no timestamps, no producer, no records
    batch = bytearray(
        HEADER.pack(base_offset, length, epoch, MAGIC, 0, 0, offset_count - 1, -1, -1, -1, -1, -1, 0)
    )
    _CRC.pack_into(batch, CRC_POSITION, crc32c(batch[ATTRIBUTES_POSITION:]))
    return bytes(batch)


__all__ = ["placeholders", "restored"]
