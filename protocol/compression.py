"""The five codecs of Kafka's record batches: bytes in, bytes out, bounded.

Owns the numbers by which a batch names its codec, the framings that Kafka's clients write and read, and the bound on
what decompressing may allocate. Does not know record batches.

Invariants:
    - `decompress` never allocates output by what a header claims: the claim is first held against what the compressed
      bytes can hold at all, and then against the caller's cap. A lie is a DecodeError, a bomb DecompressionTooLarge.
    - Whole input or nothing: a truncated frame and bytes behind the last frame are DecodeErrors.
    - Each call has state of its own, so any thread may call. All four codecs let go of the GIL while they work.

Written: gzip with one member; snappy in xerial's framing, 32 KiB blocks; lz4 as one frame of independent 64 KiB blocks
without checksums (Java refuses dependent blocks); zstd as one frame with its content size. Read: what any client writes,
see `decompress`.

Source: KIP-110 (zstd), KIP-390 (levels), KIP-57 (lz4 framing), Kafka's `Lz4BlockOutputStream`, the LZ4 frame format,
RFC 8878 (zstd), snappy-java's `SnappyOutputStream`.
"""

import enum
import struct
import zlib
from collections.abc import Iterator
from typing import TYPE_CHECKING

from penstock.protocol.errors import DecodeError

if TYPE_CHECKING:
    import zstandard

Buffer = bytes | bytearray | memoryview


class Codec(enum.IntEnum):
    """How a batch's records are compressed: the low three bits of its attributes."""

    NONE = 0
    GZIP = 1
    SNAPPY = 2
    LZ4 = 3
    ZSTD = 4


class DecompressionTooLarge(DecodeError):
    """More would come out than the caller allows; `output_max_bytes` is what it allows."""

    def __init__(self, output_max_bytes: int) -> None:
        super().__init__(f"more than {output_max_bytes} bytes come out of decompression")
        self.output_max_bytes = output_max_bytes


LEVELS: dict[Codec, range] = {
    Codec.GZIP: range(1, 10),
    Codec.LZ4: range(1, 18),
    Codec.ZSTD: range(-131072, 23),
}
"""The levels that Kafka's compression.<codec>.level accepts; a codec that is not here has none."""

_LZ4_FAST_LEVEL = 9  # Kafka's default level, which stands for the fast compressor and not for lz4hc
_ZSTD_DEFAULT_LEVEL = 3

_GZIP_WINDOW_BITS = 16 + zlib.MAX_WBITS
_GZIP_INPUT_CHUNK_BYTES = 16 * 1024  # bounds what zlib copies of the rest at each member's end

_SNAPPY_EXPANSION = 64 / 3  # the densest element copies 64 bytes and takes 3
_XERIAL_MAGIC = b"\x82SNAPPY\x00"
_XERIAL_HEADER = _XERIAL_MAGIC + struct.pack(">ii", 1, 1)  # version, and the oldest one that can read it
_XERIAL_BLOCK_BYTES = 32 * 1024

_LZ4_MAGIC = 0x184D2204
_LZ4_FRAME_HEADER = bytes.fromhex(
    "04224d18 60 40 82"
)  # independent blocks of 64 KiB, no checksums, header checksum
_LZ4_FLAGS_POSITION = 4
_LZ4_BLOCK_CHECKSUMS = 0x10
_LZ4_BLOCK_BYTES = 64 * 1024
_LZ4_STORED = 0x80000000  # set in the length of a block that did not get smaller
_LZ4_EXPANSION = 255
_SKIPPABLE_MAGIC = 0x184D2A50  # and the fifteen after it; lz4 and zstd share them
_SKIPPABLE_MASK = 0xFFFFFFF0

_ZSTD_MAGIC = 0xFD2FB528
_ZSTD_BLOCK_MAX_BYTES = 128 * 1024
_ZSTD_HEADER_MAX_BYTES = 18
_ZSTD_RLE_BLOCK = 1
_ZSTD_COMPRESSED_BLOCK = 2
_ZSTD_CHECKSUM_FLAG = 0x04

_unpack_int32 = struct.Struct(">i").unpack_from
_pack_int32 = struct.Struct(">i").pack
_unpack_uint32_le = struct.Struct("<I").unpack_from
_pack_uint32_le = struct.Struct("<I").pack


def compress(codec: Codec, data: Buffer, level: int | None = None) -> bytes:
    """Compress `data` so that every Kafka client can read it.

    `level` is Kafka's (`LEVELS`), its default where None. Raises ValueError for a level that the codec does not have.
    """
    if level is not None and level not in LEVELS.get(codec, ()):
        raise ValueError(f"{codec.name.lower()} has no compression level {level}")
    if codec is Codec.GZIP:
        return zlib.compress(data, -1 if level is None else level, _GZIP_WINDOW_BITS)
    if codec is Codec.SNAPPY:
        return _compress_snappy(memoryview(data))
    if codec is Codec.LZ4:
        return _compress_lz4(memoryview(data), level)
    if codec is Codec.ZSTD:
        import zstandard  # here, so that a broker which never unpacks a batch does not load it

        return zstandard.ZstdCompressor(_ZSTD_DEFAULT_LEVEL if level is None else level).compress(data)
    return bytes(data)


def decompress(codec: Codec, data: Buffer, *, output_max_bytes: int) -> bytes:
    """Decompress all of `data`, to at most `output_max_bytes`.

    Read are: gzip of any level and number of members; snappy in xerial's framing and raw; lz4 frames, one or more, with
    linked or independent blocks, with or without sizes and checksums (which are verified); zstd frames, one or more, with
    or without content sizes. zstd may reserve up to its window (128 MiB at most) besides, which it touches only as far
    as it writes output.

    Raises DecompressionTooLarge past the bound, and DecodeError where `data` is not what `codec` says.
    """
    view = memoryview(data)
    if codec is Codec.GZIP:
        return _decompress_gzip(view, output_max_bytes)
    if codec is Codec.SNAPPY:
        return _decompress_snappy(view, output_max_bytes)
    if codec is Codec.LZ4:
        return _decompress_lz4(view, output_max_bytes)
    if codec is Codec.ZSTD:
        return _decompress_zstd(view, output_max_bytes)
    if len(view) > output_max_bytes:
        raise DecompressionTooLarge(output_max_bytes)
    return bytes(view)


def _decompress_gzip(data: memoryview, output_max_bytes: int) -> bytes:
    chunks: list[bytes] = []
    remaining_bytes = output_max_bytes
    position = 0
    member = zlib.decompressobj(_GZIP_WINDOW_BITS)
    while True:
        chunk = data[position : position + _GZIP_INPUT_CHUNK_BYTES]
        if not chunk:
            raise DecodeError("the gzip data is truncated")
        try:
            # one byte more than allowed is asked for, so that exactly the bound still passes
            output = member.decompress(chunk, remaining_bytes + 1)
        except zlib.error as error:
            raise DecodeError(f"not gzip data: {error}") from None
        if len(output) > remaining_bytes:
            raise DecompressionTooLarge(output_max_bytes)
        chunks.append(output)
        remaining_bytes -= len(output)
        position += len(chunk) - len(member.unused_data)
        if member.eof:
            if position == len(data):
                return b"".join(chunks)
            member = zlib.decompressobj(_GZIP_WINDOW_BITS)


def _compress_snappy(data: memoryview) -> bytes:
    import cramjam

    parts: list[bytes] = [_XERIAL_HEADER]
    for start in range(0, len(data), _XERIAL_BLOCK_BYTES):
        block = bytes(cramjam.snappy.compress_raw(data[start : start + _XERIAL_BLOCK_BYTES]))
        parts.append(_pack_int32(len(block)))
        parts.append(block)
    return b"".join(parts)


def _decompress_snappy(data: memoryview, output_max_bytes: int) -> bytes:
    import cramjam

    blocks = _xerial_blocks(data) if _has_xerial_header(data, 0) else iter((data,))
    outputs: list[bytes] = []
    remaining_bytes = output_max_bytes
    try:
        for block in blocks:
            size_bytes = cramjam.snappy.decompress_raw_len(block)
            if size_bytes > len(block) * _SNAPPY_EXPANSION:
                raise DecodeError(f"{len(block)} bytes of snappy claim to hold {size_bytes}")
            if size_bytes > remaining_bytes:
                raise DecompressionTooLarge(output_max_bytes)
            outputs.append(bytes(cramjam.snappy.decompress_raw(block)))
            remaining_bytes -= size_bytes
    except cramjam.DecompressionError as error:
        raise DecodeError(f"not snappy data: {error}") from None
    return outputs[0] if len(outputs) == 1 else b"".join(outputs)


def _has_xerial_header(data: memoryview, position: int) -> bool:
    return bytes(data[position : position + len(_XERIAL_MAGIC)]) == _XERIAL_MAGIC


def _xerial_blocks(data: memoryview) -> Iterator[memoryview]:
    end = len(data)
    position = 0
    while position < end:
        # a writer that was flushed or appended to begins again with a header
        if _has_xerial_header(data, position):
            position += len(_XERIAL_HEADER)
            if position > end:
                raise DecodeError("the snappy data is truncated in its header")
            continue
        if end - position < 4:
            raise DecodeError("the snappy data is truncated in a block's length")
        size_bytes: int = _unpack_int32(data, position)[0]
        position += 4
        if not 0 <= size_bytes <= end - position:
            raise DecodeError(f"a snappy block claims {size_bytes} bytes of {end - position}")
        yield data[position : position + size_bytes]
        position += size_bytes


def _compress_lz4(data: memoryview, level: int | None) -> bytes:
    parts: list[bytes] = [_LZ4_FRAME_HEADER]
    if level is None or level == _LZ4_FAST_LEVEL:
        parts += _lz4_blocks(data)
    else:
        parts += _lz4_blocks_of_level(data, level)
    parts.append(bytes(4))  # a block of no bytes ends the frame
    return b"".join(parts)


def _lz4_blocks(data: memoryview) -> Iterator[bytes]:
    import cramjam

    for start in range(0, len(data), _LZ4_BLOCK_BYTES):
        raw = data[start : start + _LZ4_BLOCK_BYTES]
        block = bytes(cramjam.lz4.compress_block(raw, store_size=False))
        is_stored = len(block) >= len(raw)
        yield _pack_uint32_le(len(raw) | _LZ4_STORED if is_stored else len(block))
        yield bytes(raw) if is_stored else block


def _lz4_blocks_of_level(data: memoryview, level: int) -> Iterator[bytes]:
    # cramjam minds the level in frames only, and those have block checksums: the blocks are taken out of them
    import cramjam

    compressor = cramjam.lz4.Compressor(level=level, content_checksum=False, block_linked=False)
    compressor.compress(bytes(data))
    frame = bytes(compressor.finish())
    checksum_bytes = 4 if frame[_LZ4_FLAGS_POSITION] & _LZ4_BLOCK_CHECKSUMS else 0
    position = len(_LZ4_FRAME_HEADER)
    while block := int(_unpack_uint32_le(frame, position)[0]):
        end = position + 4 + (block & ~_LZ4_STORED)
        yield frame[position:end]
        position = end + checksum_bytes


def _decompress_lz4(data: memoryview, output_max_bytes: int) -> bytes:
    import cramjam

    bound_bytes = _lz4_output_bound(data)
    output = bytearray(min(bound_bytes, output_max_bytes))
    try:
        count = cramjam.lz4.decompress_into(data, output)
    except cramjam.DecompressionError as error:
        # cramjam has one exception for all; only the text tells a full output from bad input
        if bound_bytes > output_max_bytes and "whole buffer" in str(error):
            raise DecompressionTooLarge(output_max_bytes) from None
        raise DecodeError(f"not lz4 data: {error}") from None
    return bytes(memoryview(output)[:count])


def _lz4_output_bound(data: memoryview) -> int:
    """The most that the frames in `data` can hold; DecodeError unless they tile it."""
    position = bound_bytes = 0
    try:
        while position < len(data):
            magic: int = _unpack_uint32_le(data, position)[0]
            if magic & _SKIPPABLE_MASK == _SKIPPABLE_MAGIC:
                position += 8 + int(_unpack_uint32_le(data, position + 4)[0])
            elif magic == _LZ4_MAGIC:
                position, frame_bytes = _walk_lz4_frame(data, position)
                bound_bytes += frame_bytes
            else:
                raise DecodeError("not lz4 data: no frame begins here")
    except (struct.error, IndexError):
        raise DecodeError("the lz4 data is truncated") from None
    if position != len(data) or not data:
        raise DecodeError("the lz4 data is truncated")
    return bound_bytes


def _walk_lz4_frame(data: memoryview, position: int) -> tuple[int, int]:
    """The end of the frame at `position`, and the most that its blocks can hold."""
    flags = data[position + _LZ4_FLAGS_POSITION]
    block_size_code = data[position + 5] >> 4 & 7
    if flags >> 6 != 1 or block_size_code < 4:
        raise DecodeError(f"an lz4 frame with unknown flags {flags:#04x} or block size {block_size_code}")
    block_max_bytes = 1 << (8 + 2 * block_size_code)
    has_block_checksums, has_content_size = flags & _LZ4_BLOCK_CHECKSUMS, flags & 0x08
    has_content_checksum, has_dictionary = flags & 0x04, flags & 0x01
    if has_dictionary:
        raise DecodeError("an lz4 frame that needs a dictionary")
    position += 15 if has_content_size else 7
    bound_bytes = 0
    while True:
        block: int = _unpack_uint32_le(data, position)[0]
        position += 4
        if block == 0:
            break
        size_bytes = block & ~_LZ4_STORED
        bound_bytes += min(
            block_max_bytes, size_bytes if block & _LZ4_STORED else size_bytes * _LZ4_EXPANSION
        )
        position += size_bytes + 4 if has_block_checksums else size_bytes
    return position + 4 if has_content_checksum else position, bound_bytes


def _decompress_zstd(data: memoryview, output_max_bytes: int) -> bytes:
    import zstandard

    decompressor = zstandard.ZstdDecompressor()
    outputs: list[bytes] = []
    remaining_bytes = output_max_bytes
    try:
        for frame, bound_bytes in _zstd_frames(data):
            output = _decompress_zstd_frame(decompressor, frame, bound_bytes, remaining_bytes)
            if output is None:
                raise DecompressionTooLarge(output_max_bytes)
            outputs.append(output)
            remaining_bytes -= len(output)
    except (struct.error, IndexError):
        raise DecodeError("the zstd data is truncated") from None
    except zstandard.ZstdError as error:
        raise DecodeError(f"not zstd data: {error}") from None
    return outputs[0] if len(outputs) == 1 else b"".join(outputs)


def _zstd_frames(data: memoryview) -> Iterator[tuple[memoryview, int]]:
    """Each frame with the most that its blocks can hold; they tile `data`. struct.error or IndexError where it ends."""
    import zstandard

    if not data:
        raise DecodeError("no zstd data")
    position = 0
    while position < len(data):
        magic: int = _unpack_uint32_le(data, position)[0]
        if magic & _SKIPPABLE_MASK == _SKIPPABLE_MAGIC:
            position += 8 + int(_unpack_uint32_le(data, position + 4)[0])
            continue
        if magic != _ZSTD_MAGIC:
            raise DecodeError("not zstd data: no frame begins here")
        has_checksum = data[position + 4] & _ZSTD_CHECKSUM_FLAG
        header_bytes = zstandard.frame_header_size(data[position : position + _ZSTD_HEADER_MAX_BYTES])
        end, bound_bytes = _walk_zstd_blocks(data, position + header_bytes)
        if has_checksum:
            end += 4
        if end > len(data):
            break
        yield data[position:end], bound_bytes
        position = end
    if position != len(data):
        raise DecodeError("the zstd data is truncated")


def _decompress_zstd_frame(
    decompressor: "zstandard.ZstdDecompressor", frame: memoryview, bound_bytes: int, remaining_bytes: int
) -> bytes | None:
    """The content of exactly one frame; None where it is over `remaining_bytes`."""
    import zstandard

    claimed_bytes = zstandard.frame_content_size(frame)
    if claimed_bytes > bound_bytes:
        raise DecodeError(f"a zstd frame claims {claimed_bytes} bytes; its blocks hold at most {bound_bytes}")
    if claimed_bytes > remaining_bytes:
        return None
    # One byte more than allowed is asked for, so that exactly the bound still passes. The library takes the claimed
    # size, where there is one, for the size of its buffer.
    capacity_bytes = min(bound_bytes, remaining_bytes) + 1
    try:
        output = decompressor.decompress(frame, max_output_size=capacity_bytes)
    except zstandard.ZstdError as error:
        if capacity_bytes <= bound_bytes and "full frame" in str(error):
            return None
        raise
    return output if len(output) <= remaining_bytes else None


def _walk_zstd_blocks(data: memoryview, position: int) -> tuple[int, int]:
    """The end of the frame's last block, and the most that the blocks from `position` on can hold."""
    bound_bytes = 0
    is_last = 0
    while not is_last:
        header = data[position] | data[position + 1] << 8 | data[position + 2] << 16
        is_last = header & 1
        block_type = header >> 1 & 3
        size_bytes = header >> 3
        bound_bytes += _ZSTD_BLOCK_MAX_BYTES if block_type == _ZSTD_COMPRESSED_BLOCK else size_bytes
        position += 3 + (1 if block_type == _ZSTD_RLE_BLOCK else size_bytes)
    return position, bound_bytes
