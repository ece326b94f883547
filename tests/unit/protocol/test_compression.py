"""The codecs: what clients write, what is not what it claims to be, and bombs."""

import random
import struct
import subprocess
import sys
import tracemalloc
import zlib
from collections.abc import Callable
from pathlib import Path

import cramjam
import pytest
import zstandard

from penstock.protocol.compression import LEVELS, Codec, DecompressionTooLarge, compress, decompress
from penstock.protocol.errors import DecodeError

TEXT = (Path(__file__).parents[2] / "data" / "loghub" / "Zookeeper_2k.log").read_bytes()
NOISE = random.Random(4).randbytes(200_000)  # does not compress: stored blocks
COMPRESSING = [codec for codec in Codec if codec is not Codec.NONE]
MIB = 1 << 20

LZ4_HEADER = bytes.fromhex("04224d18604082")
LZ4_END = bytes(4)
SKIPPABLE_FRAME = bytes.fromhex("532a4d18 03000000 616263")


def lz4_frame(*blocks: bytes) -> bytes:
    return LZ4_HEADER + b"".join(struct.pack("<I", len(block)) + block for block in blocks) + LZ4_END


def lz4_frame_with_content_size(data: bytes, claimed_bytes: int) -> bytes:
    """Kafka's frame with a content size; the header checksum, an xxHash, is found by trying."""
    body = compress(Codec.LZ4, data)[len(LZ4_HEADER) :]
    descriptor = b"\x68\x40" + struct.pack("<Q", claimed_bytes)
    honest = b"\x68\x40" + struct.pack("<Q", 0)
    assert len(descriptor) == len(honest)
    for checksum in range(256):
        empty = b"\x04\x22\x4d\x18" + descriptor + bytes((checksum,)) + body
        try:
            cramjam.lz4.decompress(empty)
        except cramjam.DecompressionError as error:
            if "headerChecksum" not in str(error):
                return empty
        else:
            return empty
    raise AssertionError("no checksum fits")


def lz4_with_everything(data: bytes) -> bytes:
    compressor = cramjam.lz4.Compressor(content_checksum=True, block_linked=True)  # and checksums of blocks
    compressor.compress(data)
    return bytes(compressor.finish())


def xerial(*blocks: bytes, magic: bytes = b"\x82SNAPPY\0\0\0\0\x01\0\0\0\x01") -> bytes:
    return magic + b"".join(struct.pack(">i", len(block)) + block for block in blocks)


def snappy_raw(data: bytes) -> bytes:
    return bytes(cramjam.snappy.compress_raw(data))


def zstd_stream(data: bytes, *, checksum: bool = False) -> bytes:
    """As Java's and librdkafka's stream writers do: the frame does not know its size."""
    compressor = zstandard.ZstdCompressor(write_content_size=False, write_checksum=checksum).compressobj()
    return compressor.compress(data) + compressor.flush()


def zstd_run(byte: int, count: int, times: int, *, claimed_bytes: int | None = None) -> bytes:
    """A frame that repeats one byte: four bytes for each run of up to 128 KiB."""
    if claimed_bytes is None:
        header = b"\x28\xb5\x2f\xfd\x00\x58"  # window of 2 MiB
    else:
        header = b"\x28\xb5\x2f\xfd\xc0\x58" + struct.pack("<Q", claimed_bytes)
    runs = [struct.pack("<I", count << 3 | 1 << 1 | (place == times - 1))[:3] for place in range(times)]
    return header + b"".join(run + bytes((byte,)) for run in runs)


@pytest.mark.parametrize("codec", Codec)
@pytest.mark.parametrize(
    "data", [b"", b"x", b"abc" * 10, TEXT, NOISE, bytes(MIB), TEXT[:65_536], TEXT[:65_537]]
)
def test_what_goes_in_comes_out_within_exactly_its_size(codec: Codec, data: bytes) -> None:
    compressed = compress(codec, data)
    assert decompress(codec, compressed, output_max_bytes=len(data)) == data
    assert decompress(codec, memoryview(bytearray(compressed)), output_max_bytes=1 << 30) == data
    assert compress(codec, memoryview(bytearray(data))) == compressed
    if data:
        with pytest.raises(DecompressionTooLarge) as caught:
            decompress(codec, compressed, output_max_bytes=len(data) - 1)
        assert caught.value.output_max_bytes == len(data) - 1


@pytest.mark.parametrize("codec", LEVELS)
def test_every_level_of_kafkas_is_read_back_and_no_other_is_taken(codec: Codec) -> None:
    levels = LEVELS[codec]
    for level in {levels[0], levels[-1], *range(max(1, levels[0]), levels[-1], 3)}:
        assert (
            decompress(codec, compress(codec, TEXT[:20_000], level), output_max_bytes=20_000) == TEXT[:20_000]
        )
    for level in (levels[0] - 1, levels[-1] + 1):
        with pytest.raises(ValueError, match="level"):
            compress(codec, b"", level)


@pytest.mark.parametrize("codec", [Codec.GZIP, Codec.LZ4, Codec.ZSTD])
def test_level_has_an_effect(codec: Codec) -> None:
    assert len(compress(codec, TEXT, LEVELS[codec][-1])) < len(compress(codec, TEXT, 1))


@pytest.mark.parametrize("codec", [Codec.NONE, Codec.SNAPPY])
def test_codec_without_levels_takes_none(codec: Codec) -> None:
    with pytest.raises(ValueError, match="level"):
        compress(codec, b"", 1)


@pytest.mark.parametrize("level", [None, 1, 9, 12, 17])
def test_lz4_is_written_as_java_demands_it(level: int | None) -> None:
    frame = compress(Codec.LZ4, TEXT[:65_536] + NOISE[:65_536], level)
    assert frame.startswith(LZ4_HEADER), (
        "version 1, independent blocks of 64 KiB, and nothing that Java leaves out"
    )
    first_bytes = struct.unpack_from("<I", frame, 7)[0]
    second_bytes = struct.unpack_from("<I", frame, 11 + first_bytes)[0]
    assert first_bytes < 65_536
    assert second_bytes == 65_536 | 1 << 31, "what does not compress is stored"
    assert frame[11 + first_bytes + 4 :] == NOISE[:65_536] + LZ4_END


def test_snappy_is_written_in_xerials_blocks_of_32_kib() -> None:
    data = TEXT[:70_000]
    expected = xerial(*(snappy_raw(data[start : start + 32_768]) for start in range(0, len(data), 32_768)))
    assert compress(Codec.SNAPPY, data) == expected


FOREIGN: dict[str, tuple[Codec, bytes, bytes]] = {
    "gzip of level 9": (Codec.GZIP, zlib.compress(TEXT, 9, 31), TEXT),
    "gzip stored": (Codec.GZIP, zlib.compress(TEXT, 0, 31), TEXT),
    "gzip of two members": (
        Codec.GZIP,
        zlib.compress(b"ab", 1, 31) + zlib.compress(TEXT, 9, 31),
        b"ab" + TEXT,
    ),
    "gzip of many members": (Codec.GZIP, zlib.compress(b"ab", 1, 31) * 3_000, b"ab" * 3_000),
    "snappy without framing": (Codec.SNAPPY, snappy_raw(TEXT), TEXT),
    "snappy without framing, nothing in it": (Codec.SNAPPY, snappy_raw(b""), b""),
    "snappy in one large block": (Codec.SNAPPY, xerial(snappy_raw(TEXT)), TEXT),
    "snappy of another version": (
        Codec.SNAPPY,
        xerial(snappy_raw(b"ab"), magic=b"\x82SNAPPY\0\0\0\0\x02\0\0\0\x01"),
        b"ab",
    ),
    "snappy streams in a row": (
        Codec.SNAPPY,
        xerial(snappy_raw(b"ab")) + xerial(snappy_raw(TEXT)),
        b"ab" + TEXT,
    ),
    "lz4 with all checksums and linked blocks": (Codec.LZ4, lz4_with_everything(TEXT), TEXT),
    "lz4 with content size": (Codec.LZ4, lz4_frame_with_content_size(TEXT, len(TEXT)), TEXT),
    "lz4 frames in a row": (
        Codec.LZ4,
        lz4_with_everything(b"ab") + SKIPPABLE_FRAME + compress(Codec.LZ4, TEXT),
        b"ab" + TEXT,
    ),
    "zstd without content size": (Codec.ZSTD, zstd_stream(TEXT), TEXT),
    "zstd with checksum": (Codec.ZSTD, zstd_stream(TEXT, checksum=True), TEXT),
    "zstd of nothing, without content size": (Codec.ZSTD, zstd_stream(b""), b""),
    "zstd frames in a row": (
        Codec.ZSTD,
        compress(Codec.ZSTD, b"ab") + SKIPPABLE_FRAME + zstd_stream(TEXT) + compress(Codec.ZSTD, b""),
        b"ab" + TEXT,
    ),
    "zstd with a long window": (
        Codec.ZSTD,
        zstandard.ZstdCompressor(
            compression_params=zstandard.ZstdCompressionParameters(window_log=27, write_content_size=False)
        ).compress(TEXT),
        TEXT,
    ),
    "zstd run": (Codec.ZSTD, zstd_run(120, 100, 3), b"x" * 300),
    "zstd run with content size": (Codec.ZSTD, zstd_run(120, 100, 3, claimed_bytes=300), b"x" * 300),
}


@pytest.mark.parametrize(("codec", "compressed", "data"), FOREIGN.values(), ids=FOREIGN)
def test_what_other_writers_write_is_read(codec: Codec, compressed: bytes, data: bytes) -> None:
    assert decompress(codec, compressed, output_max_bytes=len(data)) == data
    if data:
        with pytest.raises(DecompressionTooLarge):
            decompress(codec, compressed, output_max_bytes=len(data) - 1)


@pytest.mark.parametrize("codec", COMPRESSING)
def test_truncated_at_any_byte_is_a_decode_error(codec: Codec) -> None:
    data = TEXT[:300]
    variants = [compress(codec, data), *(each for kind, each, _ in FOREIGN.values() if kind is codec)]
    for compressed in variants:
        whole = decompress(codec, compressed, output_max_bytes=MIB)
        for cut in {*range(min(len(compressed), 200)), len(compressed) - 5, len(compressed) - 1}:
            try:
                part = decompress(codec, compressed[:cut], output_max_bytes=MIB)
            except DecodeError:
                continue
            assert whole.startswith(part), "only whole frames in front of the cut may come out"
            assert compressed[cut:][:1] in (b"\x1f", b"\x82", b"\x04", b"\x28", b"\x53", b"\0"), (
                "a frame begins at the cut"
            )


@pytest.mark.parametrize("codec", COMPRESSING)
@pytest.mark.parametrize("wrong", [b"\0", b"\xff" * 40, b"hello, world" * 10, bytes(100), TEXT[:1000]])
def test_noise_is_a_decode_error(codec: Codec, wrong: bytes) -> None:
    if (codec, wrong) == (Codec.SNAPPY, b"\0"):
        assert decompress(codec, wrong, output_max_bytes=0) == b""  # raw snappy of nothing
        return
    with pytest.raises(DecodeError):
        decompress(codec, wrong, output_max_bytes=MIB)
    with pytest.raises(DecodeError):
        decompress(codec, compress(codec, b"ab") + wrong, output_max_bytes=MIB)


@pytest.mark.parametrize("codec", COMPRESSING)
def test_nothing_at_all_is_a_decode_error(codec: Codec) -> None:
    with pytest.raises(DecodeError):
        decompress(codec, b"", output_max_bytes=MIB)


LIES: dict[str, tuple[Codec, bytes]] = {
    "snappy that claims 4 GB": (Codec.SNAPPY, b"\xff\xff\xff\xff\x0f" + b"\x00a"),
    "snappy block that claims 1 GB": (Codec.SNAPPY, xerial(b"\x80\x80\x80\x80\x04" + b"\x00a")),
    "snappy block of negative length": (Codec.SNAPPY, xerial() + b"\xff\xff\xff\xff"),
    "snappy block of 2 GB": (Codec.SNAPPY, xerial() + b"\x7f\xff\xff\xffabc"),
    "snappy block of nothing": (Codec.SNAPPY, xerial(b"")),
    "snappy header cut": (Codec.SNAPPY, xerial()[:12]),
    "lz4 block past the end": (Codec.LZ4, LZ4_HEADER + b"\xff\xff\xff\x7f" + bytes(20)),
    "lz4 block larger than its frame allows": (
        Codec.LZ4,
        lz4_frame(bytes(cramjam.lz4.compress_block(bytes(100_000), store_size=False))),
    ),
    "lz4 content size of 2^63": (Codec.LZ4, lz4_frame_with_content_size(b"ab", 1 << 63)),
    "lz4 header checksum wrong": (Codec.LZ4, LZ4_HEADER[:-1] + b"\0" + LZ4_END),
    "lz4 of version 2": (Codec.LZ4, b"\x04\x22\x4d\x18\xa0\x40\x82" + LZ4_END),
    "lz4 with a dictionary": (Codec.LZ4, b"\x04\x22\x4d\x18\x61\x40\x01\0\0\0\x82" + LZ4_END),
    "lz4 with a block size of its own": (Codec.LZ4, b"\x04\x22\x4d\x18\x60\x30\x82" + LZ4_END),
    "lz4 skippable past the end": (Codec.LZ4, SKIPPABLE_FRAME[:-1]),
    "zstd that claims 2^62 bytes": (Codec.ZSTD, zstd_run(0, 10, 1, claimed_bytes=1 << 62)),
    "zstd that claims 1 GB": (Codec.ZSTD, zstd_run(0, 10, 1, claimed_bytes=1 << 30)),
    "zstd that claims more than it has": (Codec.ZSTD, zstd_run(0, 10, 2, claimed_bytes=19)),
    "zstd that claims less than it has": (Codec.ZSTD, zstd_run(0, 10, 2, claimed_bytes=21)),
    "zstd with a window of 2^41": (Codec.ZSTD, b"\x28\xb5\x2f\xfd\x00\xf8" + zstd_run(0, 10, 1)[6:]),
    "zstd with a dictionary": (Codec.ZSTD, b"\x28\xb5\x2f\xfd\x01\x58\x09" + zstd_run(0, 10, 1)[6:]),
    "zstd of reserved block type": (Codec.ZSTD, b"\x28\xb5\x2f\xfd\x00\x58\x57\0\0" + bytes(10)),
    "zstd skippable past the end": (Codec.ZSTD, SKIPPABLE_FRAME[:-1]),
    "zstd whose checksum is wrong": (Codec.ZSTD, zstd_stream(TEXT, checksum=True)[:-1] + b"\0"),
    "gzip whose checksum is wrong": (Codec.GZIP, zlib.compress(b"ab", 9, 31)[:-8] + bytes(8)),
    "gzip whose size is wrong": (Codec.GZIP, zlib.compress(b"ab", 9, 31)[:-4] + b"\xff\xff\xff\xff"),
    "zlib without gzip's header": (Codec.GZIP, zlib.compress(b"ab")),
}


@pytest.mark.parametrize(("codec", "compressed"), LIES.values(), ids=LIES)
def test_lie_in_a_header_is_a_decode_error_and_costs_no_memory(codec: Codec, compressed: bytes) -> None:
    with pytest.raises(DecodeError):
        decompress(codec, compressed, output_max_bytes=1 << 40)  # imports and caches are paid for here
    tracemalloc.start()
    try:
        with pytest.raises(DecodeError):
            decompress(codec, compressed, output_max_bytes=1 << 40)
        assert tracemalloc.get_traced_memory()[1] < 2 * MIB
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    "name", ["snappy that claims 4 GB", "snappy block that claims 1 GB", "zstd that claims 1 GB"]
)
def test_impossible_claim_is_refused_before_the_library_believes_it(name: str) -> None:
    codec, compressed = LIES[name]
    with pytest.raises(DecodeError, match="claim"):
        decompress(codec, compressed, output_max_bytes=1 << 40)


def zeros_in(codec: Codec, size_bytes: int) -> bytes:
    """A bomb: `size_bytes` of zeros, as tight as the codec has it."""
    if codec is Codec.GZIP:
        return zlib.compress(bytes(MIB), 9, 31) * (size_bytes // MIB)
    if codec is Codec.SNAPPY:
        return xerial(*[snappy_raw(bytes(MIB))] * (size_bytes // MIB))
    if codec is Codec.LZ4:
        block = bytes(cramjam.lz4.compress_block(bytes(65_536), store_size=False))
        return lz4_frame(*[block] * (size_bytes // 65_536))
    return zstd_run(0, 131_072, size_bytes // 131_072)


def claimless(codec: Codec) -> bytes:
    return zeros_in(codec, 256 * MIB)


def claiming(codec: Codec) -> bytes:
    if codec is Codec.ZSTD:
        return zstd_run(0, 131_072, 2_048, claimed_bytes=256 * MIB)
    if codec is Codec.LZ4:
        return lz4_frame_with_content_size(bytes(16 * MIB), 16 * MIB)
    return snappy_raw(bytes(16 * MIB)) if codec is Codec.SNAPPY else zlib.compress(bytes(16 * MIB), 9, 31)


@pytest.mark.parametrize("codec", COMPRESSING)
@pytest.mark.parametrize("bomb", [claimless, claiming])
def test_bomb_goes_off_within_the_bound(codec: Codec, bomb: Callable[[Codec], bytes]) -> None:
    compressed = bomb(codec)
    with pytest.raises(DecompressionTooLarge):
        decompress(codec, compressed, output_max_bytes=10)
    tracemalloc.start()
    try:
        with pytest.raises(DecompressionTooLarge):
            decompress(codec, compressed, output_max_bytes=MIB)
        assert tracemalloc.get_traced_memory()[1] < 3 * MIB
    finally:
        tracemalloc.stop()


MEASURE = """
import sys
from penstock.protocol.compression import Codec, DecompressionTooLarge, compress, decompress

codec = Codec(int(sys.argv[1]))
bomb = sys.stdin.buffer.read()
decompress(codec, compress(codec, b"x"), output_max_bytes=1)  # load the library


def peak_kib():
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("VmHWM"))


before = peak_kib()
try:
    decompress(codec, bomb, output_max_bytes=1 << 20)
except DecompressionTooLarge:
    print(peak_kib() - before)
"""


@pytest.mark.skipif(
    not Path("/proc/self/status").exists(), reason="peak memory of a process is read from Linux's /proc"
)
@pytest.mark.parametrize("codec", COMPRESSING)
def test_bomb_takes_no_memory_from_the_process_either(codec: Codec) -> None:
    # what the codecs allocate for themselves, tracemalloc does not see
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, str(int(codec))],
        input=claimless(codec),
        capture_output=True,
        check=True,
    )
    assert int(done.stdout) < 12 * 1024
